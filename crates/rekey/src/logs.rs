//! Logs: pretty on a terminal, JSON otherwise, every line with the ids it is about.

use crate::config::{Log, LogFormat};
use std::io::IsTerminal;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry};

const LEVELS: &str = "log.level must be error, warn, info, debug, or a filter such as \"info,sqlx=warn\"";

/// Takes spans to a collector, if one is configured.
pub(crate) type Traces = Option<Box<dyn Layer<Registry> + Send + Sync>>;

/// Starts logging to standard error. The second call in a process changes nothing.
pub fn start(log: &Log, traces: Traces) -> Result<(), String> {
    let level = log.level.trim();
    let is_filter = level.contains(['=', ',']);
    if !is_filter && !["off", "error", "warn", "info", "debug", "trace"].contains(&level) {
        return Err(LEVELS.to_owned());
    }
    // librdkafka reports each reconnection at its own error level; what matters of it, we log ourselves.
    // A line names the piece of work it is about, and not the step of it.
    let step = traces::STEP;
    let filter = EnvFilter::try_new(format!("librdkafka=off,rdkafka=off,sqlx=error,{step}=off,{}", log.level))
        .map_err(|_| LEVELS.to_owned())?;
    let terminal = std::io::stderr().is_terminal();
    let base = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match log.format {
        LogFormat::Demo => {
            let uptime = tracing_subscriber::fmt::time::uptime();
            base.with_target(false).with_ansi(terminal).with_timer(uptime).compact().boxed()
        }
        LogFormat::Auto | LogFormat::Pretty if terminal || log.format == LogFormat::Pretty => {
            base.with_target(false).with_ansi(terminal).boxed()
        }
        LogFormat::Auto | LogFormat::Pretty | LogFormat::Json => {
            base.json().flatten_event(true).with_current_span(true).with_span_list(false).boxed()
        }
    };
    drop(tracing_subscriber::registry().with(traces).with(lines.with_filter(filter)).try_init());
    Ok(())
}
