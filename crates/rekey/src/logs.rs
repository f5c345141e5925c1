//! Logs: pretty on a terminal, JSON otherwise, every line with the ids it is about.

use domain::words;
use schemars::JsonSchema;
use serde::Deserialize;
use std::fmt;
use std::io::IsTerminal;
use traces::{Admit, Exporter, STEP};
use tracing::span::Record;
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::format::{JsonFields, Writer};
use tracing_subscriber::fmt::{FormatFields, FormattedFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

/// The settings of the section `log`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct Settings {
    /// A level, or a filter such as `info,sqlx=warn`.
    #[schemars(regex(
        pattern = r"^([A-Za-z0-9_:]+=)?(off|error|warn|info|debug|trace)(,([A-Za-z0-9_:]+=)?(off|error|warn|info|debug|trace))*$"
    ))]
    pub level: String,
    pub format: Format,
}

words!(
    /// How lines are written.
    Format {
        /// Pretty on a terminal, JSON otherwise.
        Auto => "auto",
        Pretty => "pretty",
        Json => "json",
    }
);

/// What a pretty line begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    Wall,
    /// The time since the start: for the demonstration.
    Uptime,
}

const LEVELS: &str = "log.level must be error, warn, info, debug, or a filter such as \"info,sqlx=warn\"";

/// What is logged, by `log.level`.
pub(crate) fn filter(log: &Settings) -> Result<EnvFilter, String> {
    let level = log.level.trim();
    let is_filter = level.contains(['=', ',']);
    if !is_filter && !["off", "error", "warn", "info", "debug", "trace"].contains(&level) {
        return Err(LEVELS.to_owned());
    }
    // librdkafka and the pool of database connections report each try at error level; what matters of it, we log ourselves.
    EnvFilter::try_new(format!("librdkafka=off,rdkafka=off,sqlx=error,sqlx_core::pool=off,{STEP}=off,{}", log.level))
        .map_err(|_| LEVELS.to_owned())
}

/// The fields of a span as JSON. Those that are recorded later are written behind the others: the library's own way reads and writes
/// all of them anew each time, and the span of a webhook gets four of its fields later.
struct Appended(JsonFields);

impl<'writer> FormatFields<'writer> for Appended {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        self.0.format_fields(writer, fields)
    }

    fn add_fields(&self, current: &'writer mut FormattedFields<Self>, fields: &Record<'_>) -> fmt::Result {
        let mut more = String::new();
        self.0.format_fields(Writer::new(&mut more), fields)?;
        let all = &mut current.fields;
        match (all.strip_suffix('}'), more.strip_prefix('{')) {
            (Some("{") | None, _) => *all = more,
            (_, None | Some("}")) => {}
            (Some(_), Some(more)) => {
                all.pop();
                all.push(',');
                all.push_str(more);
            }
        }
        Ok(())
    }
}

/// Whether a terminal may be coloured: <https://no-color.org>.
pub(crate) fn may_colour() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty())
}

/// Starts logging to standard error, and exporting traces if there is an exporter. The second call in a process changes
/// nothing.
pub fn start(log: &Settings, clock: Clock, traces: Option<&Exporter>) -> Result<(), String> {
    let filter = filter(log)?;
    let terminal = std::io::stderr().is_terminal();
    let colours = terminal && may_colour();
    let base = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let is_pretty = log.format == Format::Pretty || log.format == Format::Auto && terminal;
    let lines = match clock {
        Clock::Uptime if log.format != Format::Json => {
            let uptime = tracing_subscriber::fmt::time::uptime();
            base.with_target(false).with_ansi(colours).with_timer(uptime).compact().boxed()
        }
        Clock::Wall if is_pretty => base.with_target(false).with_ansi(colours).boxed(),
        Clock::Uptime | Clock::Wall => {
            let json = base.json().flatten_event(true).with_current_span(true).with_span_list(false);
            json.fmt_fields(Appended(JsonFields::new())).boxed()
        }
    };
    let spans = traces.map(Exporter::layer);
    let admit = Admit::new(filter, traces.is_some());
    drop(tracing_subscriber::registry().with(spans).with(lines).with(admit).try_init());
    Ok(())
}
