//! What librdkafka says about a connection that does not come about. Its calls only tell that no broker answered.

use crate::Error;
use parking_lot::Mutex;
use rdkafka::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use std::sync::Arc;

/// Remembers the last reason of that kind.
#[derive(Clone, Default)]
pub(crate) struct Trouble {
    last: Arc<Mutex<Option<Reason>>>,
}

struct Reason {
    said: String,
    /// Nothing but a change of the settings helps.
    is_for_a_person: bool,
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
            // What a listener without TLS makes of a greeting is its own affair: some answer, some hang up.
            Some(RDKafkaErrorCode::BrokerTransportFailure) if reason.contains("SSL connection closed by peer") => {
                "is it a PLAINTEXT listener? Check security.protocol in kafka.properties"
            }
            // It counts the brokers that are down, and the reason of each was told before.
            Some(RDKafkaErrorCode::AllBrokersDown) | None => return false,
            Some(_) => "",
        };
        // The rest of the line tells how long it took.
        let reason = reason.split(" (after ").next().unwrap_or(reason);
        let is_for_a_person = !hint.is_empty();
        let said = if is_for_a_person { format!("{reason}: {hint}") } else { reason.to_owned() };
        let mut last = self.last.lock();
        // A broker that refused us also hangs up, and may be slow: that is not why.
        if !is_for_a_person && last.as_ref().is_some_and(|last| last.is_for_a_person) {
            return false;
        }
        let is_new = last.as_ref().is_none_or(|last| last.said != said);
        *last = Some(Reason { said, is_for_a_person });
        is_new && is_for_a_person
    }

    pub(crate) fn last(&self) -> Option<String> {
        self.last.lock().as_ref().map(|last| last.said.clone())
    }

    pub(crate) fn forget(&self) {
        *self.last.lock() = None;
    }

    /// The reason in place of "no broker answered".
    pub(crate) fn explain(&self, doing: &'static str, source: KafkaError) -> Error {
        match self.last() {
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
