//! What librdkafka says about a connection that TLS or SASL prevents. Its calls only tell that no broker answered.

use crate::Error;
use rdkafka::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use std::sync::{Arc, Mutex, PoisonError};

/// Remembers the last reason of that kind.
#[derive(Clone, Default)]
pub(crate) struct Trouble {
    last: Arc<Mutex<Option<String>>>,
}

impl Trouble {
    /// Keeps the reason if it is one that a person must mend. True: a new one.
    pub(crate) fn note(&self, error: &KafkaError, reason: &str) -> bool {
        let hint = match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::SSL) => "check ssl.ca.location and security.protocol in kafka.properties",
            Some(RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SaslAuthenticationFailed) => {
                "check sasl.mechanism, sasl.username and sasl.password in kafka.properties"
            }
            _ => return false,
        };
        // The rest of the line tells how long it took.
        let reason = reason.split(" (after ").next().unwrap_or(reason);
        let said = format!("{reason}: {hint}");
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = last.as_ref() != Some(&said);
        *last = Some(said);
        is_new
    }

    pub(crate) fn forget(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The reason in place of "no broker answered".
    pub(crate) fn explain(&self, doing: &'static str, source: KafkaError) -> Error {
        match self.last.lock().unwrap_or_else(PoisonError::into_inner).clone() {
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
