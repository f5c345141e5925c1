//! Whether this user may do at the brokers what the roles do, proved without leaving anything there.
//!
//! The brokers tell a user's rights only on request, and librdkafka's call for that has no binding. So each right is tried
//! with a request that the brokers refuse in any case, and that they look at only after they have looked at the rights:
//!
//! - WRITE: a record that is larger than the topic takes.
//! - READ, of the group and of a topic: a commit for a partition that does not exist.

use crate::producer::{self, Bounds};
use crate::topics::made;
use crate::trouble::Trouble;
use crate::{Connection, Error, Topics};
use rand::RngExt;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer as _};
use rdkafka::{ClientConfig, ClientContext, Offset, TopicPartitionList};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::TryRecvError;
use std::time::{Duration, Instant};

/// What a user needs.
#[derive(Debug, Clone, Default)]
pub struct Needs {
    /// Topics that are written to.
    pub writes: Vec<String>,
    /// Topics that are read, as a member of `group`.
    pub reads: Vec<String>,
    pub group: String,
}

/// What the brokers said of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rights {
    /// One sentence for each right that is missing.
    pub missing: Vec<String>,
    /// One sentence for each that could not be tried.
    pub unknown: Vec<String>,
}

/// A topic that takes more is not tried: the record would have to be larger still.
const LARGEST_TRIED: usize = 16 * 1024 * 1024;
/// Longest wait for an answer about a record: it may be of some megabytes.
const WRITE_ANSWERS: Duration = Duration::from_secs(8);
/// Longest wait for an answer about a group: its coordinator is looked for first.
const GROUP_ANSWERS: Duration = Duration::from_secs(8);
const POLL: Duration = Duration::from_millis(50);
const TRY_WRITE: &str = "try a record that is too large";
const TRY_READ: &str = "try a commit for a partition that does not exist";
/// Of the record, should it ever be taken.
const KEY: &str = "rekey check";
/// No topic has so many partitions.
const NO_PARTITION: i32 = i32::MAX;

/// Tries what `needs` names. Topics that do not exist are left to [`crate::check`].
pub async fn rights(connection: &Connection, topics: &Topics, needs: &Needs) -> Result<Rights, Error> {
    let mut found = Rights::default();
    let known = made(connection, topics).await?;
    for topic in known.iter().filter(|t| needs.writes.contains(&t.name)) {
        let name = &topic.name;
        match topic.max_message {
            Some(most) if most <= LARGEST_TRIED => {
                match cannot_write(connection, name, most).await? {
                    Tried::May => {}
                    Tried::MayNot(why) => {
                        found.missing.push(format!("this user may not WRITE to the topic {name} ({why})"));
                    }
                    Tried::TooSlow => found.unknown.push(format!(
                        "whether this user may WRITE to the topic {name} is not known: a record of {most} bytes takes too long"
                    )),
                }
            }
            Some(_) => found.unknown.push(format!("the topic {name} takes records too large to try a WRITE")),
            None => found.unknown.push(format!(
                "whether this user may WRITE to the topic {name} is not known: let it DESCRIBE_CONFIGS of the topic"
            )),
        }
    }
    let reads: Vec<String> = known.into_iter().map(|t| t.name).filter(|n| needs.reads.contains(n)).collect();
    if !reads.is_empty() {
        let (config, group) = (connection.config(), needs.group.clone());
        let tried = tokio::task::spawn_blocking(move || cannot_read(config, &group, &reads));
        match tried.await {
            Ok(missing) => found.missing.extend(missing?),
            Err(_) => found.unknown.push("whether this user may READ is not known: the try broke off".into()),
        }
    }
    Ok(found)
}

enum Tried {
    May,
    MayNot(String),
    TooSlow,
}

async fn cannot_write(connection: &Connection, topic: &str, most: usize) -> Result<Tried, Error> {
    let size = most.saturating_add(1);
    let bounds = Bounds {
        queue_records: 10,
        queue_kbytes: u32::try_from(size / 512).unwrap_or(u32::MAX).max(4096),
        timeout: WRITE_ANSWERS,
        linger: Duration::ZERO,
    };
    let mut config = producer::config(connection, &bounds);
    config.set("compression.type", "none").set("message.max.bytes", size.saturating_mul(2).max(1_000_000).to_string());
    let producer: FutureProducer = config.create().map_err(Error::config)?;
    // Of chance, so that nothing on the way can make it fit.
    let mut larger = vec![0_u8; size];
    rand::rng().fill(&mut larger[..]);
    // With a key: a compacted topic takes no other, and says so first.
    let sent = producer.send(FutureRecord::to(topic).key(KEY).payload(&larger), WRITE_ANSWERS).await;
    let fatal = producer.client().fatal_error();
    // It waits for its thread.
    tokio::task::spawn_blocking(move || drop(producer));
    let error = match sent {
        Ok(delivery) => {
            let (partition, offset) = (delivery.partition, delivery.offset);
            let why = format!(
                "it takes records larger than its max.message.bytes, and has one of this check now: key {KEY}, partition {partition}, offset {offset}"
            );
            return Err(Error::Unwelcome { doing: TRY_WRITE, why });
        }
        Err((error, _)) => error,
    };
    match (error.rdkafka_error_code(), fatal) {
        (Some(RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::InvalidRecord), _) => Ok(Tried::May),
        (Some(code), _) if is_refusal(code) => Ok(Tried::MayNot(format!("{code:?}"))),
        // Refused before the record was looked at: an idempotent producer needs WRITE on some topic, or IDEMPOTENT_WRITE.
        (_, Some((code, _))) if is_refusal(code) => Ok(Tried::MayNot(format!("{code:?}"))),
        (_, Some((_, why))) => Err(Error::Unwelcome { doing: TRY_WRITE, why }),
        (Some(RDKafkaErrorCode::MessageTimedOut), None) => Ok(Tried::TooSlow),
        (_, None) => Err(Error::Kafka { doing: TRY_WRITE, source: error }),
    }
}

/// Hears, while a commit waits, that the group is not for this user.
#[derive(Clone, Default)]
struct Commit {
    forbidden: Arc<AtomicBool>,
    trouble: Trouble,
}

impl Commit {
    fn is_forbidden(&self) -> bool {
        self.forbidden.load(Ordering::Relaxed)
    }
}

impl ClientContext for Commit {
    fn error(&self, error: KafkaError, reason: &str) {
        self.trouble.note(&error, reason);
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::GroupAuthorizationFailed) {
            self.forbidden.store(true, Ordering::Relaxed);
        }
    }
}

impl ConsumerContext for Commit {}

/// Blocks.
fn cannot_read(mut config: ClientConfig, group: &str, topics: &[String]) -> Result<Vec<String>, Error> {
    config.set("group.id", group).set("enable.auto.commit", "false");
    let commit = Commit::default();
    let consumer = Arc::new(config.create_with_context(commit.clone()).map_err(Error::config)?);
    let mut missing = Vec::new();
    for topic in topics {
        let Err(source) = commit_nowhere(&consumer, topic) else { continue };
        match source.rdkafka_error_code() {
            code if code == Some(RDKafkaErrorCode::GroupAuthorizationFailed) || commit.is_forbidden() => {
                return Ok(vec![format!("this user may not READ the group {group} (GroupAuthorizationFailed)")]);
            }
            Some(code) if is_refusal(code) => {
                missing.push(format!("this user may not READ the topic {topic} ({code:?})"));
            }
            // A group that has members refuses a commit from a process that is not one of them. Only those who may READ it are
            // told so.
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownMemberId) => {}
            Some(RDKafkaErrorCode::OperationTimedOut | RDKafkaErrorCode::WaitingForCoordinator)
                if commit.trouble.last().is_none() =>
            {
                let why = format!(
                    "the brokers name no coordinator for the group {group}: is there the topic __consumer_offsets, and are there as \
                     many brokers as offsets.topic.replication.factor says?"
                );
                return Err(Error::Unwelcome { doing: TRY_READ, why });
            }
            _ => return Err(commit.trouble.explain(TRY_READ, source)),
        }
    }
    Ok(missing)
}

/// Without a coordinator a commit waits longer than a person would: then it is left to wait on its own thread.
fn commit_nowhere(consumer: &Arc<BaseConsumer<Commit>>, topic: &str) -> KafkaResult<()> {
    let mut nowhere = TopicPartitionList::new();
    nowhere.add_partition_offset(topic, NO_PARTITION, Offset::Offset(0))?;
    let (answer, answered) = std::sync::mpsc::sync_channel(1);
    let committing = Arc::clone(consumer);
    std::thread::spawn(move || answer.send(committing.commit(&nowhere, CommitMode::Sync)));
    let until = Instant::now() + GROUP_ANSWERS;
    loop {
        // Nothing is read. Polled, it tells its context what is wrong.
        let _ = consumer.poll(POLL);
        match answered.try_recv() {
            Ok(said) => return said,
            Err(TryRecvError::Empty) if !consumer.context().is_forbidden() && Instant::now() < until => {}
            Err(_) => return Err(KafkaError::ConsumerCommit(RDKafkaErrorCode::OperationTimedOut)),
        }
    }
}

fn is_refusal(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::TopicAuthorizationFailed
            | RDKafkaErrorCode::GroupAuthorizationFailed
            | RDKafkaErrorCode::ClusterAuthorizationFailed
    )
}
