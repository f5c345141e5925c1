//! Webhook in, Kafka out. Stateless: no database on the hot path.
//!
//! A webhook is verified, redacted, published and only then answered 200 (I1, I2). Whatever keeps it from being
//! acknowledged by Kafka is answered 503, because Plaid sends it again; what is not Plaid's is answered 401.

mod publish;
mod settings;

pub use publish::WebhookPublisher;
pub use settings::Settings;

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use bytes::Bytes;
use domain::metric;
use domain::outage::Outage;
use domain::trace::TraceParent;
use domain::webhook::NotTaken;
use http_body_util::BodyExt;
use metrics::{Counter, Histogram};
use parking_lot::RwLock;
use plaid::{Rejection, Verified, Verifier};
use publish::NotPublished;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tracing::field::Empty;
use tracing::{Instrument, Span};

struct Receiver {
    verifier: Verifier,
    publisher: WebhookPublisher,
    settings: Settings,
    slots: Semaphore,
    /// Bytes that bodies may take beyond [`FREE`] each.
    memory: Arc<Semaphore>,
    /// Kafka does not take what we verified, for the log.
    outage: Outage,
    phases: Phases,
    counted: Counted,
}

/// Webhooks by outcome and reason. The handles are kept, because looking a metric up costs more than counting.
#[derive(Default)]
struct Counted(RwLock<HashMap<(&'static str, &'static str), Counter>>);

impl Counted {
    fn of(&self, outcome: &'static str, reason: &'static str) -> Counter {
        if let Some(known) = self.0.read().get(&(outcome, reason)) {
            return known.clone();
        }
        let counter = metrics::counter!(metric::WEBHOOKS, "outcome" => outcome, "reason" => reason);
        self.0.write().insert((outcome, reason), counter.clone());
        counter
    }
}

/// How long each phase takes; these handles are kept, too.
struct Phases {
    verify: Histogram,
    publish: Histogram,
    total: Histogram,
}

impl Phases {
    fn new() -> Self {
        let of = |phase: &'static str| metrics::histogram!(metric::WEBHOOK_SECONDS, "phase" => phase);
        Self { verify: of("verify"), publish: of("publish"), total: of("total") }
    }
}

/// What each body may take without asking the budget: more than any of Plaid's that we know, so that whoever holds the whole
/// budget stops none of these.
const FREE: usize = 16 * 1024;
/// How much later a wrong signature is answered. To see that it is wrong costs as much as to see that it is right: asked again at
/// once, over a few dozen connections, it would take most of a core from good webhooks.
const AFTER_A_FORGERY: Duration = Duration::from_millis(20);
/// What all larger bodies of a process may take together.
const MEMORY: usize = 16 * 1024 * 1024;

/// The public routes.
pub fn routes(verifier: Verifier, publisher: WebhookPublisher, settings: Settings) -> Router {
    let slots = Semaphore::new(settings.max_concurrent.get());
    let memory = Arc::new(Semaphore::new(MEMORY.max(settings.max_body)));
    let outage = Outage::default();
    let receiver = Arc::new(Receiver {
        verifier,
        publisher,
        settings,
        slots,
        memory,
        outage,
        phases: Phases::new(),
        counted: Counted::default(),
    });
    // With a slash behind it as well: people type such URLs into forms.
    Router::new().route("/webhooks/plaid", post(receive)).route("/webhooks/plaid/", post(receive)).with_state(receiver)
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
    Unavailable(NotTaken),
}

async fn receive(State(receiver): State<Arc<Receiver>>, request: Request) -> Response {
    let began = Instant::now();
    // One that is refused has nothing that a span could tell, and anybody can send as many as they like: unless its steps are
    // exported, the span begins with what is proved.
    let mut span = if traces::are_exported() { span() } else { Span::none() };
    let handling = async {
        let proved = match receiver.proved(request).instrument(span.clone()).await {
            Ok(proved) => proved,
            Err(outcome) => return outcome,
        };
        if span.is_none() {
            span = self::span();
        }
        let trace = traces::begin(&span);
        receiver.publish(&proved.verified, &trace).instrument(span.clone()).await
    };
    let outcome = match tokio::time::timeout(receiver.settings.total_timeout, handling).await {
        Ok(outcome) => outcome,
        Err(_) => Outcome::Unavailable(NotTaken::TotalTimeout),
    };
    let answer = span.in_scope(|| receiver.answer(&outcome, began.elapsed()));
    if matches!(outcome, Outcome::Rejected(Rejection::Signature)) {
        tokio::time::sleep(AFTER_A_FORGERY).await;
    }
    answer
}

fn span() -> Span {
    tracing::info_span!("webhook", trace = Empty, webhook = Empty, item = Empty, outcome = Empty)
}

/// A webhook of Plaid's, and what it occupies until it is answered.
struct Proved<'a> {
    verified: Verified,
    _slot: SemaphorePermit<'a>,
    _memory: Option<OwnedSemaphorePermit>,
}

impl Receiver {
    async fn proved(&self, request: Request) -> Result<Proved<'_>, Outcome> {
        let (head, body) = request.into_parts();
        if is_a_form(&head.headers) {
            return Err(Outcome::WrongType);
        }
        let (body, memory) = self.read(body).await?;
        // Only now: a slow sender holds a connection, but not a slot that a good webhook needs.
        let slot = self.slots.try_acquire().map_err(|_| Outcome::Unavailable(NotTaken::TooManyRequests))?;
        let signatures: Vec<&[u8]> = head.headers.get_all("plaid-verification").iter().map(|v| v.as_bytes()).collect();
        let now = jiff::Timestamp::now().as_second();
        let began = Instant::now();
        let span = tracing::info_span!(target: traces::STEP, "verify", outcome = Empty);
        let verifying = self.verifier.verify(&signatures, body, now);
        let verified = traces::step(span.clone(), |rejection| rejection.reason().as_str(), verifying).await;
        self.phases.verify.record(began.elapsed());
        if verified.is_err() {
            traces::discard(&span);
        }
        match verified {
            Ok(verified) => Ok(Proved { verified, _slot: slot, _memory: memory }),
            Err(Rejection::KeyUnavailable) => Err(Outcome::Unavailable(NotTaken::KeyUnavailable)),
            Err(rejection) => Err(Outcome::Rejected(rejection)),
        }
    }

    async fn publish(&self, verified: &Verified, trace: &TraceParent) -> Outcome {
        let began = Instant::now();
        let published = self.publisher.publish(verified, trace).await;
        self.phases.publish.record(began.elapsed());
        match published {
            Ok(()) => Outcome::Published,
            Err(NotPublished::NoWebhook(reason)) => match self.publisher.dead_letter(verified, &reason, trace).await {
                Ok(()) => Outcome::DeadLetter,
                Err(error) => Outcome::Unavailable(error.reason()),
            },
            Err(NotPublished::Kafka(error)) => Outcome::Unavailable(error.reason()),
        }
    }

    async fn read(&self, body: Body) -> Result<(Bytes, Option<OwnedSemaphorePermit>), Outcome> {
        if body.size_hint().lower() > self.settings.max_body as u64 {
            return Err(Outcome::TooLarge);
        }
        match tokio::time::timeout(self.settings.body_timeout, self.copy(body)).await {
            Ok(read) => read,
            Err(_) => Err(Outcome::TooSlow),
        }
    }

    /// Copies what arrives into one buffer that grows with it. To keep the pieces as they come would keep the whole read buffer
    /// behind each of them: bodies sent a byte at a time would take 8 KiB a byte. What is beyond the first part of a body
    /// comes from one budget for the process.
    async fn copy(&self, mut body: Body) -> Result<(Bytes, Option<OwnedSemaphorePermit>), Outcome> {
        let max = self.settings.max_body;
        // Of the announced size, if that is one that needs no permit: then it is neither grown nor cut to size.
        let announced = body.size_hint().exact().and_then(|n| usize::try_from(n).ok()).filter(|n| *n <= FREE.min(max));
        let mut whole: Vec<u8> = Vec::with_capacity(announced.unwrap_or_default());
        let mut held: Option<OwnedSemaphorePermit> = None;
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|_| Outcome::BrokenOff)?.into_data() else { continue };
            let needed = whole.len() + data.len();
            if needed > max {
                return Err(Outcome::TooLarge);
            }
            if needed > whole.capacity() {
                let capacity = needed.next_power_of_two().clamp(4096, max.max(4096));
                let more = capacity.saturating_sub(FREE).saturating_sub(held.as_ref().map_or(0, |h| h.num_permits()));
                if more > 0 {
                    let more = u32::try_from(more).unwrap_or(u32::MAX);
                    let permit = Arc::clone(&self.memory).try_acquire_many_owned(more);
                    let permit = permit.map_err(|_| Outcome::Unavailable(NotTaken::Memory))?;
                    match &mut held {
                        Some(held) => held.merge(permit),
                        None => held = Some(permit),
                    }
                }
                whole.reserve_exact(capacity - whole.len());
            }
            whole.extend_from_slice(&data);
        }
        Ok((Bytes::from(whole), held))
    }

    fn answer(&self, outcome: &Outcome, took: Duration) -> Response {
        let (word, reason) = match outcome {
            Outcome::Published => ("published", None),
            Outcome::DeadLetter => ("dead_letter", None),
            Outcome::Rejected(rejection) => ("rejected", Some(rejection.reason())),
            Outcome::TooLarge => ("rejected", Some(NotTaken::TooLarge)),
            Outcome::TooSlow => ("rejected", Some(NotTaken::TooSlow)),
            Outcome::BrokenOff => ("rejected", Some(NotTaken::BrokenOff)),
            Outcome::WrongType => ("rejected", Some(NotTaken::WrongType)),
            Outcome::Unavailable(reason) => ("unavailable", Some(*reason)),
        };
        let reason = reason.map_or("", NotTaken::as_str);
        self.counted.of(word, reason).increment(1);
        self.phases.total.record(took);
        match reason {
            "" => drop(Span::current().record("outcome", word)),
            reason => traces::failed(&Span::current(), reason),
        }
        match outcome {
            Outcome::Published => {
                tracing::debug!(took_ms = domain::time::millis(took), "webhook published");
                if let Some(over) = self.outage.went_well(Instant::now()) {
                    let (refused, lasted_s) = (over.times, over.lasted.as_secs());
                    tracing::info!(
                        refused,
                        lasted_s,
                        "webhooks are taken again; Plaid sends those that were refused once more"
                    );
                }
            }
            Outcome::DeadLetter => {
                metrics::counter!(metric::DEAD_LETTERS, "from" => "receiver").increment(1);
                tracing::warn!("a verified webhook became a dead letter: the record says why");
            }
            // A flood causes these two; the others are our own faults.
            Outcome::Unavailable(NotTaken::KeyUnavailable | NotTaken::TooManyRequests | NotTaken::Memory) => {
                traces::discard(&Span::current());
                tracing::debug!(reason, "webhook not taken");
            }
            Outcome::Unavailable(_) => {
                tracing::debug!(reason, "webhook not taken");
                if let Some(times) = self.outage.failed(Instant::now()) {
                    tracing::warn!(reason, times, "webhooks are not taken, Plaid shall send them again");
                }
            }
            // At debug, and not traced: a flood of forgeries must not fill a disk. Metrics count them.
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

/// Plaid sends JSON, but no page promises the header, so only what is certainly something else is refused.
fn is_a_form(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).map(|v| v.as_bytes()).unwrap_or_default();
    let is = |form: &[u8]| kind.get(..form.len()).is_some_and(|kind| kind.eq_ignore_ascii_case(form));
    is(b"application/x-www-form-urlencoded") || is(b"multipart/")
}

fn said(status: StatusCode, reason: &str) -> Response {
    (status, format!("{reason}\n")).into_response()
}

/// The rest of the body is still on its way, so the connection can't be used again.
fn closing(status: StatusCode, reason: &str) -> Response {
    (status, [(header::CONNECTION, "close")], format!("{reason}\n")).into_response()
}
