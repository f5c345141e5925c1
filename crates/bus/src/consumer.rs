//! The intake consumer: records one by one, an offset stored only when its record is settled.

use crate::{Connection, DecodeError, Error, Event, stats};
use domain::metric;
use parking_lot::Mutex;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance, StreamConsumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::statistics::Statistics;
use rdkafka::{ClientContext, Offset, TopicPartitionList};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::Notify;

/// Longest wait for what the group has committed: the coordinator has just answered, and who polls is waiting.
const COMMITTED: Duration = Duration::from_secs(1);

/// How the group behaves.
#[derive(Debug, Clone)]
pub struct IntakeSettings {
    pub group: String,
    pub topics: Vec<String>,
    /// Values of `ce_dataschema` that are read.
    pub schemas: Vec<&'static str>,
}

/// One record, or what can be said about it when it is none of ours.
#[derive(Debug)]
pub struct Delivery {
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    pub event: Result<Event, DecodeError>,
    /// Length of the value in bytes, and the value itself only for hashing.
    pub raw: Vec<u8>,
    /// Records that should have come before this one on its partition and did not.
    pub gap: bool,
}

/// This process as a member of its group.
#[derive(Clone, Default)]
struct Membership {
    /// Where each partition goes on, to notice gaps: the embedded broker evicts silently, and retention may overtake a
    /// consumer that was away for long, whether this process was there before or not.
    next: Arc<Mutex<HashMap<(String, i32), i64>>>,
    /// Where partitions begin now whose records expired before they were read, with no later one to show it.
    expired: Arc<Mutex<HashMap<(String, i32), i64>>>,
    noticed: Arc<Notify>,
    /// The partitions are paused, and those that come now shall be as well.
    paused: Arc<AtomicBool>,
    topics: Vec<String>,
    health: IntakeHealth,
}

/// Whether this process is, or can become, a member of its group. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct IntakeHealth {
    /// Why librdkafka gave the consumer up for good.
    fatal: Arc<Mutex<Option<String>>>,
    died: Arc<Notify>,
    /// Why the group does not take this member, until it does.
    refused: Arc<Mutex<Option<String>>>,
}

impl IntakeHealth {
    /// Resolves when librdkafka gives the consumer up for good: it would go on saying that nothing comes.
    pub async fn fatal(&self) -> String {
        loop {
            let died = self.died.notified();
            if let Some(reason) = self.fatal.lock().clone() {
                return reason;
            }
            died.await;
        }
    }

    /// Why this process can't take part in the group. None: it does, or nothing is known against it.
    pub fn refused(&self) -> Option<String> {
        self.refused.lock().clone()
    }

    fn die(&self, reason: String) {
        *self.fatal.lock() = Some(reason);
        self.died.notify_waiters();
    }

    fn note(&self, error: &KafkaError, reason: &str) {
        use RDKafkaErrorCode as Code;
        let remedy = match error.rdkafka_error_code() {
            Some(Code::GroupAuthorizationFailed) => "let this user READ the group kafka.group",
            Some(Code::TopicAuthorizationFailed) => "let this user READ and DESCRIBE the topics",
            Some(Code::InconsistentGroupProtocol) => {
                "members of the group assign partitions in another way: give kafka.group a name of Rekey's own"
            }
            Some(Code::InvalidSessionTimeout) => "the brokers do not take session.timeout.ms of kafka.properties",
            Some(Code::InvalidGroupId) => "the brokers take no such kafka.group",
            Some(Code::GroupMaxSizeReached) => "the group has as many members as the brokers allow",
            _ => return,
        };
        let said = format!("{reason}: {remedy}");
        let mut refused = self.refused.lock();
        if refused.as_ref() != Some(&said) {
            tracing::error!(reason = said, "this process can't read the events");
        }
        *refused = Some(said);
    }

    fn joined(&self) {
        *self.refused.lock() = None;
    }
}

impl Membership {
    fn step(&self, topic: &str, partition: i32, offset: i64) -> bool {
        let mut next = self.next.lock();
        let expected = next.insert((topic.to_owned(), partition), offset + 1);
        expected.is_some_and(|e| offset > e)
    }
    /// The group's own memory: what was lost while nobody read is missing behind it. A group that never committed has none.
    fn remember(&self, consumer: &BaseConsumer<Self>, assigned: &TopicPartitionList) {
        let committed = match consumer.committed_offsets(assigned.clone(), COMMITTED) {
            Ok(committed) => committed,
            Err(error) => {
                tracing::debug!(%error, "what was committed is unknown: a gap before it would not be noticed");
                return;
            }
        };
        let mut next = self.next.lock();
        for element in committed.elements() {
            if let Offset::Offset(offset) = element.offset() {
                next.entry((element.topic().to_owned(), element.partition())).or_insert(offset);
            }
        }
    }
    /// The first offset that a partition still has is later than the one that should come next. Noticed here, because to some
    /// partitions nothing more comes for long.
    fn compare(&self, statistics: &Statistics) {
        let mut next = self.next.lock();
        for (place, expected) in next.iter_mut() {
            let known = statistics.topics.get(&place.0).and_then(|t| t.partitions.get(&place.1));
            if let Some(first) = known.map(|p| p.lo_offset).filter(|first| first > expected) {
                *expected = first;
                self.expired.lock().insert(place.clone(), first);
                // Kept for the next one that waits, if none does now.
                self.noticed.notify_one();
            }
        }
    }
    fn forget(&self, gone: &TopicPartitionList) {
        let mut next = self.next.lock();
        for element in gone.elements() {
            next.remove(&(element.topic().to_owned(), element.partition()));
        }
    }
}

impl ClientContext for Membership {
    // Each error is also what the next read returns; said here as well it would be twice, and many times a second.
    fn error(&self, error: KafkaError, reason: &str) {
        stats::count_error(&error);
        self.health.note(&error, reason);
    }

    fn stats(&self, statistics: Statistics) {
        stats::of_intake(&statistics, &self.topics);
        self.compare(&statistics);
    }
}

impl ConsumerContext for Membership {
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Revoke(partitions) => self.forget(partitions),
            // A partition that was given up while it was paused comes back paused, and would be read by nobody until this
            // process ends: https://github.com/confluentinc/confluent-kafka-go/issues/193. Before it is fetched, for a
            // resumption that meets the first fetch is dropped; of a copy, because errors are written into the list.
            Rebalance::Assign(partitions) => log_refusal(consumer.resume(&TopicPartitionList::clone(partitions))),
            Rebalance::Error(_) => {}
        }
    }
    fn post_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Assign(partitions) => {
                tracing::info!(partitions = partitions.count(), "partitions assigned");
                self.health.joined();
                self.remember(consumer, partitions);
                if self.paused.load(Ordering::SeqCst) {
                    log_refusal(consumer.pause(partitions));
                }
            }
            Rebalance::Revoke(partitions) => tracing::info!(partitions = partitions.count(), "partitions given up"),
            Rebalance::Error(error) => tracing::warn!(%error, "the consumer group could not be balanced"),
        }
    }
    fn commit_callback(&self, result: KafkaResult<()>, _: &TopicPartitionList) {
        // Usual while the group is being balanced; the records come again and change nothing.
        if let Err(error) = result
            && error.rdkafka_error_code() != Some(RDKafkaErrorCode::NoOffset)
        {
            tracing::debug!(%error, "offsets could not be committed and will be with the next ones");
        }
    }
}

fn log_refusal(done: KafkaResult<()>) {
    if let Err(error) = done {
        tracing::debug!(%error, "partitions could not be paused or resumed");
    }
}

/// Reads the topics as a member of the group.
pub struct Intake {
    consumer: StreamConsumer<Membership>,
    membership: Membership,
    schemas: Vec<&'static str>,
    /// Records that arrived while nobody could take them, see [`Intake::hold`].
    held: Mutex<VecDeque<Delivery>>,
}

impl std::fmt::Debug for Intake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Intake")
    }
}

impl Intake {
    /// Joins the group. Without a broker it only waits. Err: a property that librdkafka does not take.
    pub fn new(connection: &Connection, settings: &IntakeSettings) -> Result<Self, Error> {
        let membership = Membership { topics: settings.topics.clone(), ..Membership::default() };
        let mut config = connection.config();
        let defaults = [
            stats::INTERVAL,
            ("group.id", settings.group.as_str()),
            ("auto.commit.interval.ms", "1000"),
            // A new group reads what is there already: events before the first start are events too.
            ("auto.offset.reset", "earliest"),
            ("partition.assignment.strategy", "cooperative-sticky"),
            // A consumer that was killed holds its partitions this long; librdkafka's 45 s is a long time for a rotation.
            ("session.timeout.ms", "10000"),
            // Read ahead: by default 64 MiB, which is most of this process's memory while it catches up, and no faster.
            ("queued.max.messages.kbytes", "4096"),
        ];
        for (name, value) in defaults {
            if config.get(name).is_none() {
                config.set(name, value);
            }
        }
        // Not for configuration to change: offsets are committed in the background, but only those stored by `settled`.
        config.set("enable.auto.commit", "true").set("enable.auto.offset.store", "false");
        let consumer: StreamConsumer<Membership> =
            config.create_with_context(membership.clone()).map_err(Error::config)?;
        let topics: Vec<&str> = settings.topics.iter().map(String::as_str).collect();
        consumer.subscribe(&topics).map_err(|source| Error::Kafka { doing: "subscribe", source })?;
        Ok(Self { consumer, membership, schemas: settings.schemas.clone(), held: Mutex::default() })
    }

    /// The next record.
    pub async fn next(&self) -> Result<Delivery, Error> {
        let held = self.held.lock().pop_front();
        match held {
            Some(delivery) => Ok(delivery),
            None => self.receive().await,
        }
    }

    /// Resolves when records have expired that nobody has read.
    pub async fn expired(&self) {
        self.membership.noticed.notified().await;
    }

    /// What expired needs no more to be noticed: the partitions go on where they begin now, after a restart as well.
    pub fn settle_expired(&self) {
        let expired = std::mem::take(&mut *self.membership.expired.lock());
        for (place, first) in expired {
            let next = self.membership.next.lock().get(&place).copied();
            // A record that came later says more.
            if next == Some(first) {
                self.store(&place.0, place.1, first - 1);
            }
        }
    }

    /// Waits, with the partitions paused, and goes on polling: a member that does not poll is thrown out of its group.
    /// What was fetched before the pause is kept for [`Intake::next`].
    pub async fn hold(&self, wait: Duration) {
        self.pause();
        let until = tokio::time::Instant::now() + wait;
        while let Ok(received) = tokio::time::timeout_at(until, self.receive()).await {
            match received {
                Ok(delivery) => self.held.lock().push_back(delivery),
                Err(error) => tracing::debug!(%error, "polling while paused"),
            }
        }
        self.resume();
    }

    /// What can be known of this process as a member of its group.
    pub fn health(&self) -> IntakeHealth {
        self.membership.health.clone()
    }

    async fn receive(&self) -> Result<Delivery, Error> {
        let message = match self.consumer.recv().await {
            Ok(message) => message,
            Err(source) => {
                // Delivered once, and everything after it is silence: a static member that was fenced reads nothing any more.
                if let Some((code, reason)) = self.consumer.client().fatal_error() {
                    metrics::counter!(metric::KAFKA_ERRORS, "kind" => "fatal").increment(1);
                    self.membership.health.die(format!("{code:?}: {reason}"));
                }
                return Err(Error::Kafka { doing: "read the next record", source });
            }
        };
        // It reads, so whatever refused it before is over; not every such end comes with a rebalance.
        self.membership.health.joined();
        let (topic, partition, offset) = (message.topic().to_owned(), message.partition(), message.offset());
        Ok(Delivery {
            gap: self.membership.step(&topic, partition, offset),
            event: Event::decode(&message, &self.schemas),
            raw: message.payload().unwrap_or_default().to_vec(),
            topic,
            partition,
            offset,
        })
    }

    /// The record's effect is durable: it need not come again.
    pub fn settled(&self, delivery: &Delivery) {
        self.store(&delivery.topic, delivery.partition, delivery.offset);
    }

    fn store(&self, topic: &str, partition: i32, offset: i64) {
        if let Err(error) = self.consumer.store_offset(topic, partition, offset) {
            // The partition was taken away meanwhile; its new owner reads the record again, which changes nothing.
            tracing::debug!(%error, topic, partition, "offset not stored");
        }
    }

    fn pause(&self) {
        self.membership.paused.store(true, Ordering::SeqCst);
        log_refusal(self.consumer.assignment().and_then(|partitions| self.consumer.pause(&partitions)));
    }
    fn resume(&self) {
        self.membership.paused.store(false, Ordering::SeqCst);
        log_refusal(self.consumer.assignment().and_then(|partitions| self.consumer.resume(&partitions)));
    }

    /// Commits what is settled and leaves the group.
    pub async fn close(self) {
        let committed = tokio::task::spawn_blocking(move || {
            let committed = self.consumer.commit_consumer_state(CommitMode::Sync);
            drop(self);
            committed
        });
        match committed.await {
            Ok(Ok(()) | Err(KafkaError::ConsumerCommit(RDKafkaErrorCode::NoOffset))) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the last offsets were not committed; their records come again"),
            Err(_) => tracing::warn!("the consumer did not close cleanly"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use rdkafka::statistics::{Partition, Topic};

    fn told(lo_offset: i64) -> Statistics {
        let partitions = HashMap::from([(0, Partition { lo_offset, ..Partition::default() })]);
        let topics = HashMap::from([("t".to_owned(), Topic { partitions, ..Topic::default() })]);
        Statistics { topics, ..Statistics::default() }
    }

    #[test]
    fn i10_a_gap_is_noticed_once_by_the_next_record_or_by_what_the_partition_still_has() {
        let member = Membership::default();
        let expired = || member.noticed.notified().now_or_never().is_some();
        member.compare(&told(9));
        assert!(!expired(), "nothing is known of where it goes on");
        assert!(!member.step("t", 0, 4), "the first record that is seen");
        assert!(!member.step("t", 0, 5), "the next one");
        assert!(member.step("t", 0, 8), "two are missing");
        for first in [-1001, 0, 9] {
            member.compare(&told(first));
            assert!(!expired(), "{first} is not behind the next one");
        }
        member.compare(&told(12));
        assert!(expired(), "9 to 11 are gone");
        member.compare(&told(12));
        assert!(!expired() && !member.step("t", 0, 12), "said once");
    }
}
