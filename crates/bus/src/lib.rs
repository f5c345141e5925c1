//! Kafka: the producer, the intake consumer, the form of records, the topics.

mod consumer;
mod embedded;
mod event;
#[cfg(feature = "faults")]
mod faults;
mod producer;
mod reader;
mod rights;
mod settings;
mod stats;
mod topics;
mod trouble;

pub use consumer::{Delivery, Intake, IntakeHealth, IntakeSettings};
pub use embedded::EmbeddedBroker;
pub use event::{DecodeError, Event, schema};
pub use producer::{Producer, PublishError};
pub use reader::Reader;
pub use rights::{Needs, Rights, rights};
pub use settings::Settings;
pub use topics::{TopicFault, Topics, apply, check, compare, watch_topics};

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
            config.set(known_as(name), value);
        }
        config
    }
}

/// librdkafka has two names for some properties. Under the one that Rekey does not use, a property would stand beside Rekey's
/// own value, and which of the two holds would be chance: `request.required.acks = 1` could take the place of `acks = all`.
/// <https://docs.confluent.io/platform/current/clients/librdkafka/html/md_CONFIGURATION.html>
const OTHER_NAMES: [(&str, &str); 8] = [
    ("auto.commit.enable", "enable.auto.commit"),
    ("compression.codec", "compression.type"),
    ("delivery.timeout.ms", "message.timeout.ms"),
    ("max.in.flight", "max.in.flight.requests.per.connection"),
    ("metadata.broker.list", "bootstrap.servers"),
    ("queue.buffering.max.ms", "linger.ms"),
    ("request.required.acks", "acks"),
    ("retries", "message.send.max.retries"),
];

fn known_as(name: &str) -> &str {
    OTHER_NAMES.iter().find(|(other, _)| *other == name).map_or(name, |(_, known)| known)
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
    fn i1_a_property_under_its_other_name_takes_the_place_of_none_of_ours() {
        let properties = OTHER_NAMES.map(|(other, _)| (other.to_owned(), "1".to_owned())).into();
        let (timeout, linger) = (Duration::from_secs(5), Duration::ZERO);
        let bounds = producer::Bounds { queue_records: 10, queue_kbytes: 1024, timeout, linger };
        let config = producer::config(&Connection { bootstrap: "kafka:9092".into(), properties }, &bounds);
        assert_eq!((config.get("acks"), config.get("linger.ms")), (Some("all"), Some("0")));
        for (other, _) in OTHER_NAMES {
            assert_eq!(config.get(other), None, "{other} stands beside Rekey's own");
        }
    }

    #[test]
    fn i3_a_refused_property_is_named_and_its_value_is_not() {
        let mut config = ClientConfig::new();
        config.set("ssl.key.password.of.nobody", "marked");
        let error = config.create::<rdkafka::producer::FutureProducer>().map(drop).map_err(Error::config).unwrap_err();
        let told = domain::fault::chain(&error);
        assert!(told.contains("ssl.key.password.of.nobody") && !told.contains("marked"), "{told}");
    }
}
