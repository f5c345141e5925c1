//! The producer: acknowledged by all in-sync replicas, or an error within a bound.

use crate::trouble::Trouble;
use crate::{Connection, Error, Event, METADATA_TIMEOUT, Settings, TopicFault, Topics, stats};
use domain::metric;
use domain::webhook::NotTaken;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer as _};
use rdkafka::statistics::Statistics;
use rdkafka::{ClientConfig, ClientContext};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How much may wait to be sent, and for how long.
#[derive(Debug, Clone)]
pub(crate) struct Bounds {
    pub(crate) queue_records: u32,
    pub(crate) queue_kbytes: u32,
    pub(crate) timeout: Duration,
    pub(crate) linger: Duration,
}

/// Why a record is not known to be in Kafka. It may be there all the same, so sending it again may make a duplicate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    #[error("no broker can be reached")]
    Away,
    #[error("the queue of the producer is full")]
    QueueFull,
    #[error("Kafka did not acknowledge in time")]
    TimedOut,
    #[error("Kafka acknowledged without saying where the record is")]
    Nowhere,
    #[error("the record is larger than Kafka takes")]
    TooLarge,
    /// The topic does not take this record, and never will.
    #[error("Kafka does not take the record: {0}")]
    Unfit(String),
    /// This user may not write to the topic.
    #[error("this user may not write there: {0}")]
    Forbidden(String),
    #[error("Kafka refused the record: {0}")]
    Refused(String),
}

impl PublishError {
    /// The reason that a webhook has for it.
    pub fn reason(&self) -> NotTaken {
        match self {
            Self::Away => NotTaken::BrokerAway,
            Self::QueueFull => NotTaken::QueueFull,
            Self::TimedOut => NotTaken::TimedOut,
            Self::Nowhere => NotTaken::Nowhere,
            Self::TooLarge => NotTaken::TooLarge,
            Self::Unfit(_) => NotTaken::Unfit,
            Self::Forbidden(_) => NotTaken::NotAuthorized,
            Self::Refused(_) => NotTaken::Refused,
        }
    }

    /// Trying again can't help: the same record would be refused in the same way.
    pub fn is_lasting(&self) -> bool {
        matches!(self, Self::TooLarge | Self::Unfit(_))
    }
}

#[derive(Clone, Default)]
struct Health {
    away: Arc<AtomicBool>,
    /// A delivery timed out: whether the brokers are away, or only that topic, a probe must tell.
    doubt: Arc<AtomicBool>,
    trouble: Trouble,
}

impl ClientContext for Health {
    fn stats(&self, statistics: Statistics) {
        stats::of_producer(&statistics);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        stats::count_error(&error);
        if self.trouble.note(&error, reason) {
            tracing::warn!(reason, "a Kafka broker and we do not get on");
        }
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown)
            && !self.away.swap(true, Ordering::Relaxed)
        {
            let last = self.trouble.last().unwrap_or_else(|| reason.to_owned());
            tracing::warn!(reason = last, "no Kafka broker can be reached");
        }
    }
}

pub(crate) fn config(connection: &Connection, bounds: &Bounds) -> ClientConfig {
    let mut config = connection.config();
    config
        .set(stats::INTERVAL.0, stats::INTERVAL.1)
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("queue.buffering.max.messages", bounds.queue_records.to_string())
        .set("queue.buffering.max.kbytes", bounds.queue_kbytes.to_string())
        .set("message.timeout.ms", bounds.timeout.as_millis().max(10).to_string())
        .set("request.timeout.ms", bounds.timeout.as_millis().max(10).to_string())
        .set("linger.ms", bounds.linger.as_millis().to_string());
    config
}

/// Publishes events. Clones share one connection.
#[derive(Clone)]
pub struct Producer {
    inner: FutureProducer<Health>,
    health: Health,
    timeout: Duration,
    probe_interval: Duration,
}

impl std::fmt::Debug for Producer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Producer({} in flight)", self.inner.in_flight_count())
    }
}

impl Producer {
    /// Connects in the background. Err: a property that librdkafka does not take.
    pub fn new(connection: &Connection, settings: &Settings) -> Result<Self, Error> {
        let health = Health::default();
        let bounds = Bounds {
            queue_records: settings.queue_records,
            queue_kbytes: settings.queue_kbytes,
            timeout: settings.publish_timeout,
            linger: settings.linger,
        };
        let inner = config(connection, &bounds).create_with_context(health.clone()).map_err(Error::config)?;
        let probe_interval = settings.probe_interval.max(Duration::from_millis(10));
        Ok(Self { inner, health, timeout: bounds.timeout, probe_interval })
    }

    /// Publishes and waits for the acknowledgement (I1). While the brokers are known to be away it answers at once.
    pub async fn publish(&self, topic: &str, key: Option<&str>, event: &Event) -> Result<(), PublishError> {
        if self.health.away.load(Ordering::Relaxed) {
            return Err(PublishError::Away);
        }
        let mut record = FutureRecord::<str, [u8]>::to(topic).payload(&event.data).headers(event.headers());
        if let Some(key) = key {
            record = record.key(key);
        }
        let delivery = self.inner.send_result(record).map_err(|(error, _)| reading(&error))?;
        // librdkafka bounds this by message.timeout.ms; the second bound is for a callback that never comes.
        match tokio::time::timeout(self.timeout + Duration::from_millis(500), delivery).await {
            // A sequence number that is taken, says the broker, and librdkafka takes that for a retry of its own that
            // arrived before. After time-outs it may be another record that stands there, and this one nowhere
            // (a remark in rd_kafka_handle_Produce_error admits it). A duplicate is cheaper than a loss.
            Ok(Ok(Ok(delivery))) if delivery.offset < 0 => Err(PublishError::Nowhere),
            Ok(Ok(Ok(_))) => Ok(()),
            Ok(Ok(Err((error, _)))) => {
                let reading = reading(&error);
                if reading == PublishError::TimedOut {
                    self.health.doubt.store(true, Ordering::Relaxed);
                }
                Err(reading)
            }
            Ok(Err(_)) | Err(_) => Err(PublishError::TimedOut),
        }
    }

    /// No broker could be reached the last time.
    pub fn is_away(&self) -> bool {
        self.health.away.load(Ordering::Relaxed)
    }

    /// Asks the brokers once whether they answer and know every topic.
    pub async fn reachable(&self, topics: &Topics) -> Result<(), Error> {
        let inner = self.inner.clone();
        let names = topics.names().map(str::to_owned);
        let looked = tokio::task::spawn_blocking(move || {
            let metadata = inner.client().fetch_metadata(None, METADATA_TIMEOUT)?;
            let exists = |name: &String| metadata.topics().iter().any(|t| t.name() == name);
            Ok(names.into_iter().find(|n| !exists(n)))
        });
        let doing = "read the topics' metadata";
        match looked.await.unwrap_or(Err(KafkaError::Canceled)) {
            Ok(missing) => {
                self.health.trouble.forget();
                missing.map_or(Ok(()), |name| Err(Error::Topic(TopicFault::Missing(name))))
            }
            Err(source) => Err(self.health.trouble.explain(doing, source)),
        }
    }

    /// Looks for the return of the brokers while they are away, until `stop`. Without it [`Producer::publish`] would
    /// never try again.
    pub async fn watch(&self, topics: &Topics, stop: CancellationToken) {
        let mut tick = tokio::time::interval(self.probe_interval);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = tick.tick() => {}
            }
            metrics::gauge!(metric::PRODUCER_IN_FLIGHT).set(f64::from(self.inner.in_flight_count()));
            let was_away = self.is_away();
            if !was_away && !self.health.doubt.swap(false, Ordering::Relaxed) {
                continue;
            }
            // A missing topic is not an outage: records for other topics are still taken.
            let away = matches!(self.reachable(topics).await, Err(Error::Kafka { .. } | Error::Unwelcome { .. }));
            self.health.away.store(away, Ordering::Relaxed);
            if was_away && !away {
                tracing::info!("Kafka is back");
            }
        }
    }

    /// Resolves when librdkafka gives this producer up for good. Asked for, because librdkafka tells its callback the code that
    /// led to it and not that it was fatal.
    pub async fn fatal(&self) -> String {
        let mut tick = tokio::time::interval(Duration::from_millis(500));
        loop {
            tick.tick().await;
            if let Some((code, reason)) = self.inner.client().fatal_error() {
                metrics::counter!(metric::KAFKA_ERRORS, "kind" => "fatal").increment(1);
                return format!("{code:?}: {reason}");
            }
        }
    }

    /// Sends what is queued; call it when nothing new will be published.
    pub async fn flush(&self, within: Duration) -> Result<(), Error> {
        let inner = self.inner.clone();
        let flushed = tokio::task::spawn_blocking(move || inner.flush(within)).await;
        flushed
            .unwrap_or(Err(KafkaError::Canceled))
            .map_err(|source| Error::Kafka { doing: "flush the producer", source })
    }
}

fn reading(error: &KafkaError) -> PublishError {
    match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::QueueFull) => PublishError::QueueFull,
        Some(
            RDKafkaErrorCode::MessageTimedOut | RDKafkaErrorCode::RequestTimedOut | RDKafkaErrorCode::OperationTimedOut,
        ) => PublishError::TimedOut,
        Some(RDKafkaErrorCode::AllBrokersDown | RDKafkaErrorCode::BrokerTransportFailure) => PublishError::Away,
        Some(RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::MessageBatchTooLarge) => PublishError::TooLarge,
        Some(
            code @ (RDKafkaErrorCode::InvalidRecord
            | RDKafkaErrorCode::InvalidTimestamp
            | RDKafkaErrorCode::InvalidMessageSize),
        ) => PublishError::Unfit(format!("{code:?}")),
        Some(code @ (RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::ClusterAuthorizationFailed)) => {
            PublishError::Forbidden(format!("{code:?}"))
        }
        Some(code) => PublishError::Refused(format!("{code:?}")),
        None => PublishError::Refused("no code".into()),
    }
}
