//! Reads a topic from its beginning, as a member of no group: for what each process may read, and as often as it likes. A member of
//! the intake's group it must not be: with one topic more, closing two members at once took as long as a session lasts.

use crate::{Connection, Delivery, Error, Event};
use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};
use std::time::Duration;

/// Longest wait for the list of partitions.
const METADATA: Duration = Duration::from_secs(5);

/// Reads all partitions that a topic has when it begins.
pub struct Reader {
    consumer: StreamConsumer,
    schemas: Vec<&'static str>,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Reader({:?})", self.schemas)
    }
}

impl Reader {
    /// Err: no broker said which partitions there are, or this user may not read them.
    pub async fn new(
        connection: &Connection,
        topic: &str,
        group: &str,
        schemas: &[&'static str],
    ) -> Result<Self, Error> {
        let mut config = connection.config();
        // The name is asked for, and nothing is ever committed under it.
        config.set("group.id", group).set("enable.auto.commit", "false").set("queued.max.messages.kbytes", "256");
        let consumer: StreamConsumer = config.create().map_err(Error::config)?;
        let (topic, schemas) = (topic.to_owned(), schemas.to_vec());
        let assigned = tokio::task::spawn_blocking(move || {
            let doing = |source| Error::Kafka { doing: "find the partitions of a topic", source };
            let metadata = consumer.fetch_metadata(Some(&topic), METADATA).map_err(doing)?;
            let mut partitions = TopicPartitionList::new();
            for partition in metadata.topics().iter().flat_map(|t| t.partitions()) {
                partitions.add_partition_offset(&topic, partition.id(), Offset::Beginning).map_err(doing)?;
            }
            if partitions.count() == 0 {
                return Err(doing(KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopicOrPartition)));
            }
            consumer.assign(&partitions).map_err(doing)?;
            Ok(consumer)
        });
        let consumer = assigned
            .await
            .unwrap_or(Err(Error::Kafka { doing: "find the partitions of a topic", source: KafkaError::Canceled }))?;
        Ok(Self { consumer, schemas })
    }

    /// The next record.
    pub async fn next(&self) -> Result<Delivery, Error> {
        let message =
            self.consumer.recv().await.map_err(|source| Error::Kafka { doing: "read the next record", source })?;
        Ok(Delivery {
            topic: message.topic().to_owned(),
            partition: message.partition(),
            offset: message.offset(),
            event: Event::decode(&message, &self.schemas),
            raw: message.payload().unwrap_or_default().to_vec(),
            gap: false,
        })
    }
}
