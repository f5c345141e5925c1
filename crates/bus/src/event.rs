//! The form of a record: CloudEvents 1.0 in Kafka's binary mode, attributes in `ce_*` headers, JSON as the value.
//! <https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md>
//!
//! By hand: the SDK crate for rdkafka lags behind the version of rdkafka used here, and this is one page.

use rdkafka::message::{Header, Headers, Message, OwnedHeaders};

/// Names of what a value holds, with a version: a reader that meets a newer one must not guess.
pub mod schema {
    /// Plaid's webhook, redacted.
    pub const WEBHOOK: &str = "urn:rekey:plaid-webhook:1";
    /// "Look at Item X", from the platform.
    pub const NOTICE: &str = "urn:rekey:notice:1";
    /// What changed.
    pub const OUTCOME: &str = "urn:rekey:outcome:1";
    /// What could not be decoded, as where it came from and why.
    pub const DEAD_LETTER: &str = "urn:rekey:dead-letter:1";
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub id: String,
    /// `ce_type`, such as `com.plaid.ITEM.ERROR`.
    pub kind: String,
    pub source: String,
    /// `ce_subject`: the Item or business it is about.
    pub subject: Option<String>,
    pub time: jiff::Timestamp,
    /// One of [`schema`].
    pub schema: String,
    pub traceparent: Option<String>,
    pub data: Vec<u8>,
}

/// Why a record is none of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("it is no CloudEvent: the header ce_specversion is missing")]
    NoCloudEvent,
    #[error("the header {0} is missing, not text, or too long")]
    Header(&'static str),
    #[error("it is of a newer version than this release reads ({0})")]
    Newer(&'static str),
    #[error("it has no value")]
    NoValue,
}

/// Attributes longer than this are not ours.
const MAX_ATTRIBUTE: usize = 1024;

impl Event {
    pub(crate) fn headers(&self) -> OwnedHeaders {
        let time = self.time.to_string();
        let mut headers = OwnedHeaders::new_with_capacity(9);
        let fixed = [
            ("ce_specversion", "1.0"),
            ("ce_id", &self.id),
            ("ce_type", &self.kind),
            ("ce_source", &self.source),
            ("ce_time", &time),
            ("ce_dataschema", &self.schema),
            ("content-type", "application/json"),
        ];
        for (key, value) in fixed {
            headers = headers.insert(Header { key, value: Some(value) });
        }
        let optional = [("ce_subject", &self.subject), ("traceparent", &self.traceparent)];
        for (key, value) in optional {
            if let Some(value) = value {
                headers = headers.insert(Header { key, value: Some(value) });
            }
        }
        headers
    }

    /// Reads a record whose value holds `expected`. A later version of it is refused, not guessed at.
    pub fn decode(message: &impl Message, expected: &[&str]) -> Result<Self, DecodeError> {
        let find = |name: &'static str| -> Result<Option<String>, DecodeError> {
            let Some(headers) = message.headers() else { return Ok(None) };
            let Some(header) = headers.iter().find(|h| h.key == name) else { return Ok(None) };
            let text = header.value.and_then(|v| std::str::from_utf8(v).ok()).filter(|t| t.len() <= MAX_ATTRIBUTE);
            text.map(|t| Some(t.to_owned())).ok_or(DecodeError::Header(name))
        };
        let need = |name| find(name)?.ok_or(DecodeError::Header(name));
        if find("ce_specversion")?.ok_or(DecodeError::NoCloudEvent)? != "1.0" {
            return Err(DecodeError::Newer("ce_specversion"));
        }
        let schema = need("ce_dataschema")?;
        if !expected.contains(&schema.as_str()) {
            let family = |s: &str| s.rsplit_once(':').map(|(f, _)| f.to_owned());
            let same_family = expected.iter().any(|e| family(e) == family(&schema));
            return Err(if same_family {
                DecodeError::Newer("ce_dataschema")
            } else {
                DecodeError::Header("ce_dataschema")
            });
        }
        Ok(Self {
            id: need("ce_id")?,
            kind: need("ce_type")?,
            source: need("ce_source")?,
            subject: find("ce_subject")?,
            time: need("ce_time")?.parse().map_err(|_| DecodeError::Header("ce_time"))?,
            schema,
            // It only labels the work: a header that is none is dropped, not a reason to refuse the record.
            traceparent: find("traceparent")?.filter(|t| domain::trace::TraceParent::parse(t).is_some()),
            data: message.payload().ok_or(DecodeError::NoValue)?.to_vec(),
        })
    }
}
