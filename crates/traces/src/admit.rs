//! Which spans and log lines there are.

use crate::is_ours;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Metadata, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::Context;
use tracing_subscriber::{EnvFilter, Layer};

/// The log's filter, except that spans which are exported exist whatever it says: who wants few lines may want traces.
#[derive(Debug)]
pub struct Admit {
    lines: EnvFilter,
    traces: bool,
}

impl Admit {
    /// `lines`: what is logged. `traces`: spans are exported as well.
    pub fn new(lines: EnvFilter, traces: bool) -> Self {
        Self { lines, traces }
    }

    fn is_exported(&self, metadata: &Metadata<'_>) -> bool {
        self.traces && is_ours(metadata)
    }
}

/// The filter follows spans as well: its directives may name them.
impl<S: Subscriber> Layer<S> for Admit {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        let interest = Layer::<S>::register_callsite(&self.lines, metadata);
        if self.is_exported(metadata) { Interest::always() } else { interest }
    }
    fn enabled(&self, metadata: &Metadata<'_>, context: Context<'_, S>) -> bool {
        self.is_exported(metadata) || self.lines.enabled(metadata, context)
    }
    fn max_level_hint(&self) -> Option<LevelFilter> {
        let lines = Layer::<S>::max_level_hint(&self.lines)?;
        Some(if self.traces { lines.max(LevelFilter::INFO) } else { lines })
    }
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        self.lines.on_new_span(attributes, id, context);
    }
    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        Layer::on_record(&self.lines, id, values, context);
    }
    fn on_enter(&self, id: &Id, context: Context<'_, S>) {
        self.lines.on_enter(id, context);
    }
    fn on_exit(&self, id: &Id, context: Context<'_, S>) {
        self.lines.on_exit(id, context);
    }
    fn on_close(&self, id: Id, context: Context<'_, S>) {
        self.lines.on_close(id, context);
    }
}
