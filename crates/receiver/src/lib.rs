//! Webhook in, Kafka out. Stateless: no database on the hot path.
//!
//! A webhook is verified, redacted, published and only then answered 200 (I1, I2). Whatever keeps it from being
//! acknowledged by Kafka is answered 503, because Plaid sends it again; what is not Plaid's is answered 401.

mod publish;

pub use publish::WebhookPublisher;

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use bytes::Bytes;
use domain::metric;
use domain::trace::TraceParent;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use plaid::{Rejection, Verifier};
use publish::NotPublished;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tracing::field::Empty;
use tracing::{Instrument, Span};

/// Bounds on callers, and what they are told when the fault is ours.
#[derive(Debug, Clone)]
pub struct Settings {
    pub max_body: usize,
    /// From the end of the headers to the end of the body.
    pub body_timeout: Duration,
    /// From the end of the headers to the answer: well inside the 10 s that Plaid waits.
    pub total_timeout: Duration,
    pub max_concurrent: usize,
    /// 503, or 429, whose `Retry-After` Plaid honours by newer documentation.
    pub unavailable_status: u16,
    pub retry_after: Duration,
}

#[derive(Clone)]
struct Receiver {
    verifier: Verifier,
    publisher: WebhookPublisher,
    settings: Arc<Settings>,
    slots: Arc<Semaphore>,
}

/// The public routes.
pub fn routes(verifier: Verifier, publisher: WebhookPublisher, settings: Settings) -> Router {
    let slots = Arc::new(Semaphore::new(settings.max_concurrent.max(1)));
    let receiver = Receiver { verifier, publisher, settings: Arc::new(settings), slots };
    Router::new().route("/webhooks/plaid", post(receive)).with_state(receiver)
}

/// How a webhook ended, one word each for metrics.
enum Outcome {
    Published,
    DeadLetter,
    Rejected(Rejection),
    TooLarge,
    TooSlow,
    BrokenOff,
    WrongType,
    Unavailable(&'static str),
}

async fn receive(State(receiver): State<Receiver>, request: Request) -> Response {
    let began = Instant::now();
    let span = tracing::info_span!("webhook", trace = Empty, webhook = Empty, item = Empty, outcome = Empty);
    let trace = traces::begin(&span);
    let total = receiver.settings.total_timeout;
    let outcome = match tokio::time::timeout(total, receiver.handle(request, &trace).instrument(span.clone())).await {
        Ok(outcome) => outcome,
        Err(_) => Outcome::Unavailable("total_timeout"),
    };
    let _entered = span.enter();
    receiver.answer(&outcome, began.elapsed())
}

impl Receiver {
    async fn handle(&self, request: Request, trace: &TraceParent) -> Outcome {
        let (head, body) = request.into_parts();
        if is_a_form(&head.headers) {
            return Outcome::WrongType;
        }
        let body = match self.read(body).await {
            Ok(body) => body,
            Err(outcome) => return outcome,
        };
        // Only now: whoever sends slowly holds a connection, and no slot that a good webhook needs.
        let Ok(_slot) = self.slots.try_acquire() else { return Outcome::Unavailable("too_many_requests") };
        let signatures: Vec<&[u8]> = head.headers.get_all("plaid-verification").iter().map(|v| v.as_bytes()).collect();
        let now = jiff::Timestamp::now().as_second();
        let began = Instant::now();
        let span = tracing::info_span!(target: traces::STEP, "verify", outcome = Empty);
        let verifying = self.verifier.verify(&signatures, body, now);
        let verified = traces::step(span.clone(), |rejection| rejection.word(), verifying).await;
        timed("verify", began.elapsed());
        if verified.is_err() {
            traces::discard(&span);
        }
        let verified = match verified {
            Ok(verified) => verified,
            Err(Rejection::KeyUnavailable) => return Outcome::Unavailable(Rejection::KeyUnavailable.word()),
            Err(rejection) => return Outcome::Rejected(rejection),
        };
        let began = Instant::now();
        let published = self.publisher.publish(&verified, trace).await;
        timed("publish", began.elapsed());
        match published {
            Ok(()) => Outcome::Published,
            Err(NotPublished::NoWebhook(reason)) => match self.publisher.dead_letter(&verified, &reason, trace).await {
                Ok(()) => Outcome::DeadLetter,
                Err(error) => Outcome::Unavailable(error.word()),
            },
            Err(NotPublished::Kafka(error)) => Outcome::Unavailable(error.word()),
        }
    }

    async fn read(&self, body: Body) -> Result<Bytes, Outcome> {
        if body.size_hint().lower() > self.settings.max_body as u64 {
            return Err(Outcome::TooLarge);
        }
        let limited = Limited::new(body, self.settings.max_body);
        match tokio::time::timeout(self.settings.body_timeout, limited.collect()).await {
            Ok(Ok(collected)) => Ok(collected.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Outcome::TooLarge),
            Ok(Err(_)) => Err(Outcome::BrokenOff),
            Err(_) => Err(Outcome::TooSlow),
        }
    }

    fn answer(&self, outcome: &Outcome, took: Duration) -> Response {
        let (word, reason) = match outcome {
            Outcome::Published => ("published", ""),
            Outcome::DeadLetter => ("dead_letter", ""),
            Outcome::Rejected(rejection) => ("rejected", rejection.word()),
            Outcome::TooLarge => ("rejected", "too_large"),
            Outcome::TooSlow => ("rejected", "too_slow"),
            Outcome::BrokenOff => ("rejected", "broken_off"),
            Outcome::WrongType => ("rejected", "wrong_type"),
            Outcome::Unavailable(reason) => ("unavailable", *reason),
        };
        metrics::counter!(metric::WEBHOOKS, "outcome" => word, "reason" => reason).increment(1);
        timed("total", took);
        match reason {
            "" => drop(Span::current().record("outcome", word)),
            reason => traces::failed(&Span::current(), reason),
        }
        match outcome {
            Outcome::Published => tracing::debug!(took_ms = took.as_millis(), "webhook published"),
            Outcome::DeadLetter => {
                metrics::counter!(metric::DEAD_LETTERS, "from" => "receiver").increment(1);
                tracing::warn!("a verified webhook is no JSON object of Plaid's form: dead letter");
            }
            // These two come from whoever floods us; the others are our own faults.
            Outcome::Unavailable(reason @ ("key_unavailable" | "too_many_requests")) => {
                traces::discard(&Span::current());
                tracing::debug!(reason, "webhook not taken");
            }
            Outcome::Unavailable(reason) => tracing::warn!(reason, "webhook not taken, Plaid shall send it again"),
            // At debug, and in no trace: whoever floods us with forgeries must not fill a disk. Metrics count them.
            _ => {
                traces::discard(&Span::current());
                tracing::debug!(reason, "webhook refused");
            }
        }
        match outcome {
            Outcome::Published | Outcome::DeadLetter => StatusCode::OK.into_response(),
            Outcome::Rejected(rejection) => said(StatusCode::UNAUTHORIZED, &rejection.to_string()),
            Outcome::TooLarge => closing(StatusCode::PAYLOAD_TOO_LARGE, "the body is larger than this server takes"),
            Outcome::TooSlow => closing(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time"),
            Outcome::BrokenOff => closing(StatusCode::BAD_REQUEST, "the body broke off"),
            Outcome::WrongType => said(StatusCode::UNSUPPORTED_MEDIA_TYPE, "send Plaid's JSON, not a form"),
            Outcome::Unavailable(_) => self.try_again(),
        }
    }

    fn try_again(&self) -> Response {
        let status = StatusCode::from_u16(self.settings.unavailable_status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        let seconds = self.settings.retry_after.as_secs().max(1).to_string();
        (status, [(header::RETRY_AFTER, seconds)], "not taken: send it again\n").into_response()
    }
}

fn timed(phase: &'static str, took: Duration) {
    metrics::histogram!(metric::WEBHOOK_SECONDS, "phase" => phase).record(took.as_secs_f64());
}

/// Plaid sends JSON, but no page promises the header, so only what is certainly something else is refused.
fn is_a_form(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default().to_ascii_lowercase();
    kind.starts_with("application/x-www-form-urlencoded") || kind.starts_with("multipart/")
}

fn said(status: StatusCode, reason: &str) -> Response {
    (status, format!("{reason}\n")).into_response()
}

/// The rest of the body is still on its way, so the connection can't be used again.
fn closing(status: StatusCode, reason: &str) -> Response {
    (status, [(header::CONNECTION, "close")], format!("{reason}\n")).into_response()
}
