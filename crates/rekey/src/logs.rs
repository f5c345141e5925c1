//! Logs: pretty on a terminal, JSON otherwise, every line with the ids it is about.

use crate::config::{Log, LogFormat};
use std::io::IsTerminal;
use traces::{Admit, Exporter, STEP};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

const LEVELS: &str = "log.level must be error, warn, info, debug, or a filter such as \"info,sqlx=warn\"";

/// What is logged, by `log.level`.
pub(crate) fn filter(log: &Log) -> Result<EnvFilter, String> {
    let level = log.level.trim();
    let is_filter = level.contains(['=', ',']);
    if !is_filter && !["off", "error", "warn", "info", "debug", "trace"].contains(&level) {
        return Err(LEVELS.to_owned());
    }
    // librdkafka and the pool of database connections report each try at error level; what matters of it, we log ourselves.
    EnvFilter::try_new(format!("librdkafka=off,rdkafka=off,sqlx=error,sqlx_core::pool=off,{STEP}=off,{}", log.level))
        .map_err(|_| LEVELS.to_owned())
}

/// Starts logging to standard error, and exporting traces if there is an exporter. The second call in a process changes
/// nothing.
pub fn start(log: &Log, traces: Option<&Exporter>) -> Result<(), String> {
    let filter = filter(log)?;
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
    let spans = traces.map(Exporter::layer);
    let admit = Admit::new(filter, traces.is_some());
    drop(tracing_subscriber::registry().with(spans).with(lines).with(admit).try_init());
    Ok(())
}
