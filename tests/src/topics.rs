//! What stands on the brokers, read without any of Rekey's own code.

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaResult;
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::{Offset, TopicPartitionList};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const ANSWER: Duration = Duration::from_secs(3);

/// One record with the attributes of its CloudEvent.
#[derive(Debug, Clone)]
pub struct Record {
    /// The same for the same record published twice.
    pub id: String,
    pub key: String,
    pub kind: String,
    /// Partition and offset.
    pub place: (i32, i64),
    pub value: Value,
    /// Every byte of it: key, headers, value.
    pub raw: Vec<u8>,
}

/// Makes a topic as somebody else would.
pub async fn make(bootstrap: &str, name: &str, settings: &[(&str, &str)]) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", bootstrap).create().unwrap();
    let topic = NewTopic::new(name, 4, TopicReplication::Fixed(1));
    let topic = settings.iter().fold(topic, |topic, (key, value)| topic.set(key, value));
    admin.create_topics([&topic], &AdminOptions::new()).await.unwrap().remove(0).unwrap();
    // The brokers tell its settings a moment later.
    let told = || async {
        let asked = [ResourceSpecifier::Topic(name)];
        admin
            .describe_configs(&asked, &AdminOptions::new())
            .await
            .unwrap()
            .remove(0)
            .is_ok_and(|r| !r.entries.is_empty())
    };
    assert!(crate::holds(told).await, "the brokers do not tell the settings of {name}");
}

/// Deletes what the topic holds, as its retention would.
pub async fn delete_records(bootstrap: &str, name: &str) {
    let config = {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", bootstrap);
        config
    };
    let mut all = TopicPartitionList::new();
    (0..4).for_each(|partition| {
        all.add_partition_offset(name, partition, Offset::End).unwrap();
    });
    let admin: AdminClient<DefaultClientContext> = config.create().unwrap();
    admin.delete_records(&all, &AdminOptions::new()).await.unwrap();
}

fn consumer(bootstrap: &str, group: &str) -> BaseConsumer {
    ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("allow.auto.create.topics", "false")
        .set("reconnect.backoff.max.ms", "500")
        .create()
        .unwrap()
}

/// Asks until there is an answer, within [`crate::PATIENCE`].
fn patiently<T>(what: &str, mut ask: impl FnMut() -> KafkaResult<T>) -> T {
    let deadline = Instant::now() + crate::PATIENCE;
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(error) => assert!(Instant::now() < deadline, "{what}: {error}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Partitions of a topic with their leader, and whether all replicas are in sync.
fn partitions(consumer: &BaseConsumer, topic: &str) -> KafkaResult<Vec<(i32, i32, bool)>> {
    let metadata = consumer.fetch_metadata(Some(topic), ANSWER)?;
    let of = metadata.topics().iter().flat_map(rdkafka::metadata::MetadataTopic::partitions);
    Ok(of.map(|p| (p.id(), p.leader(), p.isr().len() == p.replicas().len())).collect())
}

/// The broker that leads a topic's first partition, as far as anybody knows. Blocks.
pub fn leader(bootstrap: &str, topic: &str) -> Option<usize> {
    let found = partitions(&consumer(bootstrap, "storm-looks"), topic).ok()?;
    found.first().and_then(|(_, leader, _)| usize::try_from(*leader).ok())
}

/// Every partition of these topics has all its replicas again. Blocks.
pub fn in_sync(bootstrap: &str, topics: &[String]) -> bool {
    let consumer = consumer(bootstrap, "storm-looks");
    topics.iter().all(|t| {
        partitions(&consumer, t).is_ok_and(|p| !p.is_empty() && p.iter().all(|(_, leader, all)| *leader >= 0 && *all))
    })
}

/// How far a topic reaches: the first offset that is not written yet, by partition.
fn ends(consumer: &BaseConsumer, topic: &str) -> BTreeMap<i32, i64> {
    let found = patiently("the partitions of a topic", || partitions(consumer, topic));
    let end = |p: i32| patiently("the end of a partition", || consumer.fetch_watermarks(topic, p, ANSWER)).1;
    found.into_iter().map(|(p, _, _)| (p, end(p))).collect()
}

/// Records of these topics that the group has not settled yet. Blocks.
pub fn lag(bootstrap: &str, group: &str, topics: &[String]) -> i64 {
    let consumer = consumer(bootstrap, group);
    let mut behind = 0;
    for topic in topics {
        let ends = ends(&consumer, topic);
        let mut asked = TopicPartitionList::new();
        for partition in ends.keys() {
            asked.add_partition(topic, *partition);
        }
        let committed = patiently("the group's offsets", || consumer.committed_offsets(asked.clone(), ANSWER));
        for element in committed.elements() {
            let end = ends[&element.partition()];
            behind += match element.offset() {
                Offset::Offset(at) => (end - at).max(0),
                // Nothing settled on this partition yet.
                _ => end,
            };
        }
    }
    behind
}

/// Everything on a topic, from its beginning to where it ends now. Blocks.
pub fn read_all(bootstrap: &str, topic: &str) -> Vec<Record> {
    let consumer = consumer(bootstrap, "storm-reads");
    let mut left = ends(&consumer, topic);
    // What was deleted can't be read.
    left.retain(|p, end| {
        patiently("the start of a partition", || consumer.fetch_watermarks(topic, *p, ANSWER)).0 < *end
    });
    let mut assigned = TopicPartitionList::new();
    for partition in left.keys() {
        assigned.add_partition_offset(topic, *partition, Offset::Beginning).unwrap();
    }
    consumer.assign(&assigned).unwrap();
    let mut records = Vec::new();
    let mut heard = Instant::now();
    while !left.is_empty() {
        assert!(heard.elapsed() < crate::PATIENCE, "the topic {topic} can't be read to its end: {left:?}");
        if let Some(Ok(message)) = consumer.poll(Duration::from_millis(200)) {
            heard = Instant::now();
            if left.get(&message.partition()).is_some_and(|end| message.offset() + 1 >= *end) {
                left.remove(&message.partition());
            }
            records.push(record(&message));
        }
    }
    records
}

fn record(message: &BorrowedMessage<'_>) -> Record {
    let headers = message.headers();
    let header =
        |name: &str| headers.and_then(|h| h.iter().find(|h| h.key == name)).and_then(|h| h.value).unwrap_or_default();
    let of_headers = headers
        .into_iter()
        .flat_map(|h| h.iter())
        .flat_map(|h| [h.key.as_bytes(), h.value.unwrap_or_default()].concat());
    let raw = message.key().unwrap_or_default().iter().copied().chain(of_headers);
    let raw = raw.chain(message.payload().unwrap_or_default().iter().copied()).collect();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Record {
        raw,
        key: text(message.key().unwrap_or_default()),
        id: text(header("ce_id")),
        kind: text(header("ce_type")),
        place: (message.partition(), message.offset()),
        value: serde_json::from_slice(message.payload().unwrap_or_default()).unwrap_or_default(),
    }
}
