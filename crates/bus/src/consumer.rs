//! The intake consumer: records one by one, an offset stored only when its record is settled.

use crate::{Connection, DecodeError, Error, Event, figures};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance, StreamConsumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::statistics::Statistics;
use rdkafka::{ClientContext, TopicPartitionList};
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

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
    /// consumer that was away for long.
    next: Arc<Mutex<HashMap<(String, i32), i64>>>,
    /// The partitions are paused, and those that come now shall be as well.
    paused: Arc<AtomicBool>,
    topics: Vec<String>,
}

impl Membership {
    fn step(&self, topic: &str, partition: i32, offset: i64) -> bool {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let expected = next.insert((topic.to_owned(), partition), offset + 1);
        expected.is_some_and(|e| offset > e)
    }
    fn forget(&self, gone: &TopicPartitionList) {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        for element in gone.elements() {
            next.remove(&(element.topic().to_owned(), element.partition()));
        }
    }
}

impl ClientContext for Membership {
    // Each error is also what the next read returns; said here as well it would be twice, and many times a second.
    fn error(&self, error: KafkaError, _: &str) {
        figures::count_error(&error);
    }

    fn stats(&self, statistics: Statistics) {
        figures::of_intake(&statistics, &self.topics);
    }
}

impl ConsumerContext for Membership {
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Revoke(partitions) => self.forget(partitions),
            // A partition that was given up while it was paused comes back paused, and would be read by nobody until this
            // process ends: https://github.com/confluentinc/confluent-kafka-go/issues/193. Before it is fetched, for a
            // resumption that meets the first fetch is dropped; of a copy, because errors are written into the list.
            Rebalance::Assign(partitions) => told(consumer.resume(&TopicPartitionList::clone(partitions))),
            Rebalance::Error(_) => {}
        }
    }
    fn post_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Assign(partitions) => {
                tracing::info!(partitions = partitions.count(), "partitions assigned");
                if self.paused.load(Ordering::SeqCst) {
                    told(consumer.pause(partitions));
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

fn told(done: KafkaResult<()>) {
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
    pub fn new(connection: &Connection, settings: &IntakeSettings) -> Result<Self, Error> {
        let membership = Membership { topics: settings.topics.clone(), ..Membership::default() };
        let mut config = connection.config();
        let defaults = [
            figures::INTERVAL,
            ("group.id", settings.group.as_str()),
            ("auto.commit.interval.ms", "1000"),
            // A new group reads what is there already: events before the first start are events too.
            ("auto.offset.reset", "earliest"),
            ("partition.assignment.strategy", "cooperative-sticky"),
            // A consumer that was killed holds its partitions this long; librdkafka's 45 s is a long time for a rotation.
            ("session.timeout.ms", "10000"),
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
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        match held {
            Some(delivery) => Ok(delivery),
            None => self.receive().await,
        }
    }

    /// Waits, with the partitions paused, and goes on polling: a member that does not poll is thrown out of its group.
    /// What was fetched before the pause is kept for [`Intake::next`].
    pub async fn hold(&self, wait: Duration) {
        self.pause();
        let until = tokio::time::Instant::now() + wait;
        while let Ok(received) = tokio::time::timeout_at(until, self.receive()).await {
            match received {
                Ok(delivery) => self.held.lock().unwrap_or_else(PoisonError::into_inner).push_back(delivery),
                Err(error) => tracing::debug!(%error, "polling while paused"),
            }
        }
        self.resume();
    }

    async fn receive(&self) -> Result<Delivery, Error> {
        let message =
            self.consumer.recv().await.map_err(|source| Error::Kafka { doing: "read the next record", source })?;
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
        let stored = self.consumer.store_offset(&delivery.topic, delivery.partition, delivery.offset);
        if let Err(error) = stored {
            // The partition was taken away meanwhile; its new owner reads the record again, which changes nothing.
            tracing::debug!(%error, topic = delivery.topic, partition = delivery.partition, "offset not stored");
        }
    }

    fn pause(&self) {
        self.membership.paused.store(true, Ordering::SeqCst);
        told(self.consumer.assignment().and_then(|partitions| self.consumer.pause(&partitions)));
    }
    fn resume(&self) {
        self.membership.paused.store(false, Ordering::SeqCst);
        told(self.consumer.assignment().and_then(|partitions| self.consumer.resume(&partitions)));
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
