//! One trace from the webhook to the PUT, across processes. The other crates make ordinary `tracing` spans; what they need
//! besides is here: a span that follows the work of another process, what to hand on to the next one, and how a step
//! ended. Nothing else in Rekey knows OpenTelemetry.
//!
//! Where nothing is exported, ids still travel through Kafka's headers and the store, and join log lines up.

mod admit;
mod export;

pub use admit::Admit;
pub use export::{Exporter, NotStarted, NotTaken, Settings, Target, probe};

use domain::trace::TraceParent;
use opentelemetry::Context;
use opentelemetry::trace::{SpanContext, SpanId, Status, TraceContextExt, TraceFlags, TraceId, TraceState};
use std::sync::atomic::{AtomicBool, Ordering};
use tracing::{Level, Metadata, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// The target of spans within a piece of work. They are for traces only, and nobody pays for them while nothing is exported.
pub const STEP: &str = "step";

static EXPORTED: AtomicBool = AtomicBool::new(false);

/// Whether this process exports spans. Where it does not, a span is of use to the lines of the log alone.
pub fn are_exported() -> bool {
    EXPORTED.load(Ordering::Relaxed)
}

/// Begins a trace with `span`. Its id goes into the span's field `trace`; what is returned is for whoever goes on.
pub fn begin(span: &Span) -> TraceParent {
    let own = of(span).unwrap_or_else(|| TraceParent::new(&mut rand::rng()));
    span.record("trace", own.trace_id());
    own
}

/// Lets `span` go on with what `from` names. Its trace id goes into the span's field `trace`; what is returned is for
/// whoever goes on from here: the span itself, or `from` where nothing is exported.
pub fn follow(span: &Span, from: Option<TraceParent>) -> Option<TraceParent> {
    if let Some((trace, id, sampled)) = from.as_ref().map(TraceParent::parts) {
        let flags = TraceFlags::default().with_sampled(sampled);
        let remote = SpanContext::new(TraceId::from(trace), SpanId::from(id), flags, true, TraceState::NONE);
        // Fails where nothing is exported, and then there is nothing to tell.
        let _ = span.set_parent(Context::new().with_remote_span_context(remote));
    }
    let handed_on = of(span).or(from);
    if let Some(trace) = &handed_on {
        span.record("trace", trace.trace_id());
    }
    handed_on
}

/// Carries out the step that `span` is about, whose field `outcome` then says how it ended. The span is not entered: a log
/// line names the whole piece of work, and not the step it comes from.
pub async fn step<T, E>(span: Span, word: fn(&E) -> &str, work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    let outcome = work.await;
    match &outcome {
        Ok(_) => drop(span.record("outcome", "ok")),
        Err(error) => failed(&span, word(error)),
    }
    outcome
}

/// The step that `span` is about failed.
pub fn failed(span: &Span, word: &str) {
    span.record("outcome", word);
    span.set_status(Status::error(word.to_owned()));
}

/// Leaves `span` out of what is exported: it is about something that anybody can cause as often as they like.
pub fn discard(span: &Span) {
    span.set_attribute(DISCARDED, true);
}

/// The attribute of spans that are not exported after all.
const DISCARDED: &str = "discarded";

/// The crates whose spans are exported, by the first part of their targets. Not those of HTTP clients: the exporter must
/// not trace itself, and what others put into their spans nobody here has read for secrets.
const OURS: [&str; 4] = ["receiver", "consumer", "console", STEP];

fn is_ours(metadata: &Metadata<'_>) -> bool {
    let from = metadata.target().split("::").next().unwrap_or_default();
    metadata.is_span() && *metadata.level() <= Level::INFO && OURS.contains(&from)
}

fn of(span: &Span) -> Option<TraceParent> {
    let context = span.context();
    let own = context.span().span_context().clone();
    let (trace, id) = (own.trace_id().to_bytes(), own.span_id().to_bytes());
    TraceParent::from_parts(u128::from_be_bytes(trace), u64::from_be_bytes(id), own.is_sampled())
}
