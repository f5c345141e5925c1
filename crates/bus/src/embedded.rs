//! The broker inside the process, for a laptop: librdkafka's own test cluster, on 127.0.0.1 and a port it picks.
//!
//! It keeps records in memory only, so what it acknowledged is lost with the process; the sweep at start repairs what
//! was missed. It has no admin API, so topics are made here.

use crate::{Connection, Error, Topics};
use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, DefaultProducerContext, Producer as _};
use std::collections::BTreeMap;

/// Lives as long as this value.
pub struct EmbeddedBroker {
    owner: BaseProducer,
}

impl std::fmt::Debug for EmbeddedBroker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EmbeddedBroker")
    }
}

impl EmbeddedBroker {
    /// A broker with these topics, each of so many partitions.
    pub fn start(topics: &Topics, partitions: i32) -> Result<Self, Error> {
        let owner: BaseProducer =
            ClientConfig::new().set("test.mock.num.brokers", "1").create().map_err(Error::config)?;
        let broker = Self { owner };
        for name in topics.names() {
            broker.with(|cluster| cluster.create_topic(name, partitions, 1))?;
        }
        Ok(broker)
    }

    pub(crate) fn with<T>(
        &self,
        act: impl FnOnce(&MockCluster<'_, DefaultProducerContext>) -> Result<T, KafkaError>,
    ) -> Result<T, Error> {
        let cluster = self.owner.client().mock_cluster().ok_or(KafkaError::Canceled);
        cluster
            .and_then(|cluster| act(&cluster))
            .map_err(|source| Error::Kafka { doing: "drive the embedded broker", source })
    }

    /// How the other parts reach it. Its group coordinator needs short sessions to hand out partitions soon, and it
    /// holds an idle fetch for its whole wait.
    pub fn connection(&self) -> Result<Connection, Error> {
        let bootstrap = self.with(|cluster| Ok(cluster.bootstrap_servers()))?;
        let properties = BTreeMap::from(
            [("session.timeout.ms", "6000"), ("heartbeat.interval.ms", "1500"), ("fetch.wait.max.ms", "20")]
                .map(|(k, v)| (k.to_owned(), v.to_owned())),
        );
        Ok(Connection { bootstrap, properties })
    }
}
