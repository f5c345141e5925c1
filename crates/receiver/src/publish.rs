//! The only way to the webhook topics: it takes nothing but a [`Verified`] webhook (I2) and redacts it (I3).

use bus::{Event, Producer, PublishError, Topics, schema};
use domain::Fingerprinter;
use domain::redact::redact;
use domain::trace::TraceParent;
use domain::webhook::{NotAWebhook, Webhook};
use plaid::Verified;
use serde_json::json;
use tracing::field::Empty;

/// Publishes verified webhooks.
#[derive(Debug, Clone)]
pub struct WebhookPublisher {
    producer: Producer,
    topics: Topics,
    fingerprints: Fingerprinter,
    /// `/plaid/sandbox` or `/plaid/production`.
    source: String,
}

/// Why a verified webhook is not on its topic.
#[derive(Debug)]
pub(crate) enum NotPublished {
    /// Sending it again would not help, and why.
    NoWebhook(String),
    Kafka(PublishError),
}

impl WebhookPublisher {
    /// Publishes to these topics; `environment` stands in each record.
    pub fn new(producer: Producer, topics: Topics, fingerprints: Fingerprinter, environment: &str) -> Self {
        Self { producer, topics, fingerprints, source: format!("/plaid/{environment}") }
    }

    pub(crate) async fn publish(&self, verified: &Verified, trace: &TraceParent) -> Result<(), NotPublished> {
        let no_object = || NotPublished::NoWebhook(NotAWebhook::NotAnObject.to_string());
        let body = std::str::from_utf8(verified.body()).map_err(|_| no_object())?;
        serde_json::from_str::<&serde_json::value::RawValue>(body).map_err(|_| no_object())?;
        // Redacted before anything is read from it: whatever becomes a key, a header or a log field is clean.
        let redacted = redact(body, &self.fingerprints);
        let webhook = Webhook::read(redacted.as_bytes()).map_err(|why| NotPublished::NoWebhook(why.to_string()))?;
        let span = tracing::Span::current();
        span.record("webhook", format!("{}/{}", webhook.webhook_type, webhook.webhook_code));
        if let Some(item) = &webhook.item {
            span.record("item", item.as_str());
        }
        let topic = if webhook.item.is_some() { &self.topics.item_events } else { &self.topics.other_events };
        // A compacted topic takes no record without a key.
        let key = webhook.key.clone();
        let event = Event {
            id: self.event_id(verified),
            kind: format!("com.plaid.{}.{}", webhook.webhook_type, webhook.webhook_code),
            source: self.source.clone(),
            subject: webhook.item.as_ref().map(ToString::to_string),
            time: jiff::Timestamp::now(),
            schema: schema::WEBHOOK.to_owned(),
            traceparent: Some(trace.to_string()),
            data: redacted.into_bytes(),
        };
        let span = tracing::info_span!(target: traces::STEP, "publish", topic, outcome = Empty);
        let published = self.producer.publish(topic, key.as_deref(), &event);
        match traces::step(span, |error: &PublishError| error.reason().as_str(), published).await {
            Ok(()) => Ok(()),
            // Refused as a part of a batch, perhaps: a second time it says whether it is this record.
            Err(error) if error.is_lasting() => match self.producer.publish(topic, key.as_deref(), &event).await {
                Ok(()) => Ok(()),
                Err(error) if error.is_lasting() => {
                    Err(NotPublished::NoWebhook(format!("the topic {topic} does not take the record: {error}")))
                }
                Err(error) => Err(NotPublished::Kafka(error)),
            },
            Err(error) => Err(NotPublished::Kafka(error)),
        }
    }

    /// What nobody can read is recorded as size and hash, never as bytes.
    pub(crate) async fn dead_letter(
        &self,
        verified: &Verified,
        reason: &str,
        trace: &TraceParent,
    ) -> Result<(), PublishError> {
        let body = verified.body();
        let data = json!({
            "from": "receiver", "reason": reason, "bytes": body.len(),
            "sha256": verified.sha256(),
        });
        let event = Event {
            id: self.event_id(verified),
            kind: "rekey.dead_letter".into(),
            source: self.source.clone(),
            subject: None,
            time: jiff::Timestamp::now(),
            schema: schema::DEAD_LETTER.to_owned(),
            traceparent: Some(trace.to_string()),
            data: data.to_string().into_bytes(),
        };
        // With a key, for a cluster that compacts every topic by default takes none without.
        self.producer.publish(&self.topics.dead_letters, Some(&event.id), &event).await
    }

    /// The same delivery, published twice by a retry of ours, keeps its id; Plaid's own retry is signed anew and gets
    /// another.
    fn event_id(&self, verified: &Verified) -> String {
        format!("{:.32}-{}", verified.sha256(), verified.issued_at())
    }
}
