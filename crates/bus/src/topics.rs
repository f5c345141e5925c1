//! The topics of Rekey. Their names stand in `rekey.example.toml`; who reads which, and under which schemas, in `settings.rs`.

use crate::trouble::Trouble;
use crate::{Connection, Error, METADATA_TIMEOUT};
use domain::fault::chain;
use domain::metric;
use domain::setting::Span;
use rdkafka::admin::{
    AdminClient, AdminOptions, NewTopic, OwnedResourceSpecifier, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{FutureProducer, Producer as _};
use schemars::JsonSchema;
use serde::Deserialize;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The topics: their names, and how those that are missing are created.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
pub struct Topics {
    /// Verified webhooks about an Item, keyed by `item_id`.
    pub item_events: String,
    /// Every other verified webhook, for anyone.
    pub other_events: String,
    /// "Look at Item X", from the platform.
    pub notices: String,
    /// What changed, keyed by business.
    pub outcomes: String,
    pub dead_letters: String,
    #[schemars(range(min = 1))]
    pub partitions: i32,
    #[schemars(range(min = 1))]
    pub replication: i32,
    /// `min.insync.replicas`; with `acks=all` this is what an acknowledged webhook rests on.
    #[schemars(range(min = 1))]
    pub min_insync: i32,
    #[serde(with = "Span")]
    pub retention: Duration,
}

impl Topics {
    /// All five.
    pub fn names(&self) -> [&str; 5] {
        [&self.item_events, &self.other_events, &self.notices, &self.outcomes, &self.dead_letters]
    }
}

/// What headers and key add to a body, generously.
const AROUND_BODY: usize = 64 * 1024;
/// Kafka's own default of `max.message.bytes`.
const USUAL_RECORD: usize = 1_048_588;

/// Bytes of the largest record, where the receiver takes bodies of that size.
fn record_of(max_body: usize) -> usize {
    max_body.saturating_add(AROUND_BODY)
}

/// What is wrong with a topic.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopicFault {
    #[error("the topic {0} does not exist: run `rekey topics apply`")]
    Missing(String),
    /// This user may not know whether it exists.
    #[error("this user may not DESCRIBE the topic {0}: whether it exists is not known")]
    Hidden(String),
    /// The brokers refused to create it.
    #[error("the topic {0} was not created ({1}): {remedy}", remedy = remedy(*.1))]
    Refused(String, RDKafkaErrorCode),
    /// It has less of something than the settings say.
    #[error("the topic {name} has {what}: change it, or the setting if you mean it")]
    Less { name: String, what: String },
}

fn remedy(refused: RDKafkaErrorCode) -> &'static str {
    match refused {
        RDKafkaErrorCode::InvalidReplicationFactor => "kafka.topics.replication must not exceed the number of brokers",
        RDKafkaErrorCode::InvalidPartitions => "kafka.topics.partitions must be positive",
        RDKafkaErrorCode::InvalidConfig => "check kafka.topics.retention and kafka.topics.min_insync",
        RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::ClusterAuthorizationFailed => {
            "this user may not create topics: let one who may create it"
        }
        RDKafkaErrorCode::InvalidTopic => "the brokers take no such name",
        _ => "see the brokers' log",
    }
}

/// Looks for the topics. Fails when no broker answers.
pub async fn check(connection: &Connection, topics: &Topics) -> Result<Vec<TopicFault>, Error> {
    let names: Vec<String> = topics.names().iter().map(ToString::to_string).collect();
    let config = connection.config();
    let looked = tokio::task::spawn_blocking(move || -> Result<Vec<TopicFault>, Error> {
        let trouble = Trouble::default();
        // Of all clients only this one hears of errors while a call waits.
        let client: FutureProducer<Trouble> = config.create_with_context(trouble.clone()).map_err(Error::config)?;
        let metadata = client
            .client()
            .fetch_metadata(None, METADATA_TIMEOUT)
            .map_err(|source| trouble.explain("read the list of topics", source))?;
        let exists = |name: &String| metadata.topics().iter().any(|t| t.name() == name);
        let unseen: Vec<String> = names.into_iter().filter(|n| !exists(n)).collect();
        if unseen.is_empty() {
            return Ok(Vec::new());
        }
        // The list leaves out what this user may not see. A consumer asks, for a producer's question could make the topic.
        let client: BaseConsumer = config.create().map_err(Error::config)?;
        let is_hidden = |name: &str| {
            let told = client.fetch_metadata(Some(name), METADATA_TIMEOUT).ok()?;
            let code = told.topics().iter().find(|t| t.name() == name)?.error()?;
            (RDKafkaErrorCode::from(code) == RDKafkaErrorCode::TopicAuthorizationFailed).then_some(())
        };
        let fault = |name: String| match is_hidden(&name) {
            Some(()) => TopicFault::Hidden(name),
            None => TopicFault::Missing(name),
        };
        Ok(unseen.into_iter().map(fault).collect())
    });
    looked.await.unwrap_or_else(|_| Ok(Vec::new()))
}

/// Compares the topics that exist with what the settings say: fewer replicas than planned are how acknowledged webhooks get
/// lost. More of anything is fine.
pub async fn compare(connection: &Connection, topics: &Topics, max_body: usize) -> Result<Vec<TopicFault>, Error> {
    let mut faults = Vec::new();
    for topic in made(connection, topics).await? {
        let mut less = Vec::new();
        let settings = [
            ("partitions", "partitions", Some(topic.partitions), topics.partitions),
            ("replicas", "replication", Some(topic.replicas), topics.replication),
            ("min.insync.replicas", "min_insync", topic.min_insync, topics.min_insync),
        ];
        for (of, setting, has, says) in settings {
            let says = usize::try_from(says).unwrap_or_default();
            // Unknown where this user may not describe topics.
            if let Some(has) = has.filter(|has| *has < says) {
                less.push(format!("{has} {of} (kafka.topics.{setting} says {says})"));
            }
        }
        if let Some(has) = topic.max_message.filter(|has| *has < record_of(max_body)) {
            let needs = record_of(max_body);
            less.push(format!("max.message.bytes {has} (a webhook of receiver.max_body needs {needs})"));
        }
        if topic.is_compacted {
            less.push("cleanup.policy compact, which throws away what nobody has read yet".to_owned());
        }
        if !less.is_empty() {
            faults.push(TopicFault::Less { name: topic.name, what: less.join(", ") });
        }
    }
    Ok(faults)
}

/// How a topic is made.
pub(crate) struct Made {
    pub(crate) name: String,
    partitions: usize,
    /// Of the partition that has fewest.
    replicas: usize,
    min_insync: Option<usize>,
    /// `max.message.bytes`; none where this user may not ask.
    pub(crate) max_message: Option<usize>,
    is_compacted: bool,
}

/// Creates the topics that are missing and leaves the others as they are. Returns the names it created.
pub async fn apply(connection: &Connection, topics: &Topics, max_body: usize) -> Result<Vec<String>, Error> {
    // Tells why no broker answers, which the call below would not.
    check(connection, topics).await?;
    let client: AdminClient<DefaultClientContext> = connection.config().create().map_err(Error::config)?;
    let retention = topics.retention.as_millis().to_string();
    let min_insync = topics.min_insync.to_string();
    let max_message = record_of(max_body).max(USUAL_RECORD).to_string();
    let wanted: Vec<NewTopic<'_>> = topics
        .names()
        .into_iter()
        .map(|name| {
            NewTopic::new(name, topics.partitions, TopicReplication::Fixed(topics.replication))
                .set("retention.ms", &retention)
                .set("min.insync.replicas", &min_insync)
                // Named, because a cluster may compact by default.
                .set("cleanup.policy", "delete")
                .set("max.message.bytes", &max_message)
        })
        .collect();
    let options = AdminOptions::new()
        .operation_timeout(Some(Duration::from_secs(10)))
        .request_timeout(Some(Duration::from_secs(15)));
    let doing = "create topics";
    let results = client.create_topics(&wanted, &options).await.map_err(|source| Error::Kafka { doing, source })?;
    let mut created = Vec::new();
    for result in results {
        match result {
            Ok(name) => created.push(name),
            Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((name, code)) => return Err(Error::Topic(TopicFault::Refused(name, code))),
        }
    }
    settle(connection, topics).await?;
    Ok(created)
}

/// How often the topics are described: somebody may change them at any time, and nobody does so often.
const DESCRIBE_EVERY: Duration = Duration::from_mins(5);

/// Shows how the topics are made, until `stop`.
pub async fn watch_topics(connection: &Connection, topics: &Topics, stop: CancellationToken) {
    let mut tick = tokio::time::interval(DESCRIBE_EVERY);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        if let Err(error) = describe(connection, topics).await {
            tracing::debug!(error = chain(&error), "the topics can't be described; their metrics stay as they are");
        }
    }
}

async fn describe(connection: &Connection, topics: &Topics) -> Result<(), Error> {
    for topic in made(connection, topics).await? {
        metrics::gauge!(metric::TOPIC_PARTITIONS, "topic" => topic.name.clone()).set(topic.partitions as f64);
        if let Some(replicas) = topic.min_insync {
            metrics::gauge!(metric::TOPIC_MIN_INSYNC, "topic" => topic.name).set(replicas as f64);
        }
    }
    Ok(())
}

/// The topics that exist, as the brokers describe them.
pub(crate) async fn made(connection: &Connection, topics: &Topics) -> Result<Vec<Made>, Error> {
    let client: AdminClient<DefaultClientContext> = connection.config().create().map_err(Error::config)?;
    let wanted = topics.names().map(str::to_owned);
    let looked = tokio::task::spawn_blocking(move || {
        let metadata = client.inner().fetch_metadata(None, METADATA_TIMEOUT)?;
        let known = metadata.topics().iter().filter(|t| wanted.iter().any(|w| w == t.name()));
        let known = known.map(|t| Made {
            name: t.name().to_owned(),
            partitions: t.partitions().len(),
            replicas: t.partitions().iter().map(|p| p.replicas().len()).min().unwrap_or_default(),
            min_insync: None,
            max_message: None,
            is_compacted: false,
        });
        Ok((known.collect(), client))
    });
    let doing = "describe the topics";
    let looked = looked.await.unwrap_or(Err(KafkaError::Canceled));
    let (mut made, client): (Vec<Made>, _) = looked.map_err(|source| Error::Kafka { doing, source })?;
    let names: Vec<_> = made.iter().map(|t| ResourceSpecifier::Topic(&t.name)).collect();
    let options = AdminOptions::new().request_timeout(Some(METADATA_TIMEOUT));
    let described = client.describe_configs(&names, &options).await;
    // It waits for its thread.
    tokio::task::spawn_blocking(move || drop(client));
    // Partitions and replicas are known without it.
    let described = described.inspect_err(|error| tracing::debug!(%error, "the topics' settings can't be read"));
    for resource in described.unwrap_or_default().into_iter().flatten() {
        let number = |name| resource.get(name).and_then(|e| e.value.as_deref()?.parse().ok());
        let (min_insync, max_message) = (number("min.insync.replicas"), number("max.message.bytes"));
        let is_compacted =
            resource.get("cleanup.policy").is_some_and(|e| e.value.as_deref().is_some_and(|v| v.contains("compact")));
        if let OwnedResourceSpecifier::Topic(name) = resource.specifier
            && let Some(topic) = made.iter_mut().find(|t| t.name == name)
        {
            topic.min_insync = min_insync;
            topic.max_message = max_message;
            topic.is_compacted = is_compacted;
        }
    }
    Ok(made)
}

/// A created topic reaches the brokers' metadata a moment later; who asks in between would be told that it is missing.
async fn settle(connection: &Connection, topics: &Topics) -> Result<(), Error> {
    for _ in 0..100 {
        if check(connection, topics).await?.is_empty() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}
