//! What librdkafka says about a connection that does not come about. Its calls only tell that no broker answered.

use crate::Error;
use parking_lot::Mutex;
use rdkafka::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use std::sync::Arc;

/// Remembers the last reason of that kind.
#[derive(Clone, Default)]
pub(crate) struct Trouble {
    last: Arc<Mutex<Option<String>>>,
}

impl Trouble {
    /// Keeps the reason, with the address that it names. True: a new one that a person must mend.
    pub(crate) fn note(&self, error: &KafkaError, reason: &str) -> bool {
        let hint = match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::SSL) => "check ssl.ca.location and security.protocol in kafka.properties",
            Some(RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SaslAuthenticationFailed) => {
                "check sasl.mechanism, sasl.username and sasl.password in kafka.properties"
            }
            Some(RDKafkaErrorCode::Resolve) => {
                "check the names in kafka.bootstrap and advertised.listeners of the brokers"
            }
            // It counts the brokers that are down, and the reason of each was told before.
            Some(RDKafkaErrorCode::AllBrokersDown) | None => return false,
            Some(_) => "",
        };
        // The rest of the line tells how long it took.
        let reason = reason.split(" (after ").next().unwrap_or(reason);
        let said = if hint.is_empty() { reason.to_owned() } else { format!("{reason}: {hint}") };
        let mut last = self.last.lock();
        let is_new = last.as_ref() != Some(&said);
        *last = Some(said);
        is_new && !hint.is_empty()
    }

    pub(crate) fn last(&self) -> Option<String> {
        self.last.lock().clone()
    }

    pub(crate) fn forget(&self) {
        *self.last.lock() = None;
    }

    /// The reason in place of "no broker answered".
    pub(crate) fn explain(&self, doing: &'static str, source: KafkaError) -> Error {
        match self.last.lock().clone() {
            Some(why) => Error::Unwelcome { doing, why },
            None => Error::Kafka { doing, source },
        }
    }
}

impl ClientContext for Trouble {
    fn error(&self, error: KafkaError, reason: &str) {
        self.note(&error, reason);
    }
}
