//! Kafka: the producer, the intake consumer, the form of records, the topics.

mod consumer;
mod embedded;
mod event;
mod figures;
mod producer;
mod topics;
mod trouble;

pub use consumer::{Delivery, Intake, IntakeSettings};
pub use embedded::EmbeddedBroker;
pub use event::{DecodeError, Event, schema};
pub use producer::{Producer, ProducerSettings, PublishError};
pub use topics::{TopicFault, TopicPlan, Topics, apply, check, compare, watch_topics};

use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use std::collections::BTreeMap;
use std::time::Duration;

/// How to reach the brokers.
#[derive(Clone)]
pub struct Connection {
    /// `host:port,…`
    pub bootstrap: String,
    /// Any other librdkafka property: TLS, SASL, timeouts. Values may be secret.
    pub properties: BTreeMap<String, String>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<&String> = self.properties.keys().collect();
        write!(f, "Connection({}, {names:?})", self.bootstrap)
    }
}

impl Connection {
    pub(crate) fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.bootstrap)
            .set("client.id", "rekey")
            // The default cap of 10 s is how long answers would stay 503 after a short outage is over.
            .set("reconnect.backoff.ms", "50")
            .set("reconnect.backoff.max.ms", "1000")
            .set("socket.keepalive.enable", "true")
            .set("log.connection.close", "false");
        for (name, value) in &self.properties {
            config.set(name, value);
        }
        config
    }
}

/// A failure of Kafka or of its configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("Kafka can't be used as configured")]
    Config(#[source] KafkaError),
    #[error("{0}")]
    Topic(TopicFault),
    /// TLS or SASL: a person must mend it, here or there.
    #[error("Kafka did not do what was asked: {doing}: {why}")]
    Unwelcome { doing: &'static str, why: String },
    #[error("Kafka did not do what was asked: {doing}")]
    Kafka {
        doing: &'static str,
        #[source]
        source: KafkaError,
    },
}

impl Error {
    /// librdkafka's refusal of a property quotes its value, which may be a password.
    pub(crate) fn config(error: KafkaError) -> Self {
        Self::Config(match error {
            KafkaError::ClientConfig(code, why, property, value) if !value.is_empty() => {
                KafkaError::ClientConfig(code, why.replace(&value, "…"), property, "(its value is not shown)".into())
            }
            other => other,
        })
    }
}

/// Bounds every blocking call into librdkafka.
pub(crate) const METADATA_TIMEOUT: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i3_a_refused_property_is_named_and_its_value_is_not() {
        let mut config = ClientConfig::new();
        config.set("ssl.key.password.of.nobody", "marked");
        let error = config.create::<rdkafka::producer::FutureProducer>().map(drop).map_err(Error::config).unwrap_err();
        let told = domain::fault::chain(&error);
        assert!(told.contains("ssl.key.password.of.nobody") && !told.contains("marked"), "{told}");
    }
}
