//! The embedded broker fails: behind the feature `faults`, for tests of what happens then.

use crate::{EmbeddedBroker, Error};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

impl EmbeddedBroker {
    /// Takes the broker away.
    pub fn down(&self) -> Result<(), Error> {
        self.with(|cluster| cluster.broker_down(1))
    }

    /// Ends [`EmbeddedBroker::down`].
    pub fn up(&self) -> Result<(), Error> {
        self.with(|cluster| cluster.broker_up(1))
    }

    /// Lets the broker drop the next batch and say that it holds one of that sequence number already.
    pub fn claim_duplicate(&self) -> Result<(), Error> {
        let claim = RDKafkaRespErr::RD_KAFKA_RESP_ERR_DUPLICATE_SEQUENCE_NUMBER;
        self.with(|cluster| {
            cluster.request_errors(RDKafkaApiKey::Produce, &[claim]);
            Ok(())
        })
    }
}
