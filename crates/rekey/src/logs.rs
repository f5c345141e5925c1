//! Logs: pretty on a terminal, JSON otherwise, every line with the ids it is about.

use domain::words;
use schemars::JsonSchema;
use serde::Deserialize;
use std::fmt;
use std::io::IsTerminal;
use traces::{Admit, Exporter, STEP};
use tracing::span::Record;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt as fmt_layer;
use tracing_subscriber::fmt::format::{DefaultFields, Format as Lines, Json, JsonFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
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

/// A line of JSON that says its level once more under the name and in the words that Google Cloud looks for; a collector there
/// takes every line for an error otherwise that comes from standard error.
struct WithSeverity(Lines<Json>);

impl<S, N> FormatEvent<S, N> for WithSeverity
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut to: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut opening = Opening { severity: Some(severity(*event.metadata().level())), to: to.by_ref() };
        self.0.format_event(context, Writer::new(&mut opening), event)
    }
}

/// <https://cloud.google.com/logging/docs/reference/v2/rest/v2/LogEntry#logseverity>
fn severity(level: Level) -> &'static str {
    match level {
        Level::ERROR => "ERROR",
        Level::WARN => "WARNING",
        Level::INFO => "INFO",
        _ => "DEBUG",
    }
}

/// Puts a first field into the object that passes, without keeping it in memory once more.
struct Opening<'a> {
    /// None: it was put.
    severity: Option<&'static str>,
    to: Writer<'a>,
}

impl fmt::Write for Opening<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        match (self.severity, text.strip_prefix('{')) {
            (Some(severity), Some(fields)) => {
                self.severity = None;
                write!(self.to, r#"{{"severity":"{severity}",{fields}"#)
            }
            _ => self.to.write_str(text),
        }
    }
}

/// Each line an object: numbers and truths as themselves, everything else as text.
fn in_json<S, W>(base: fmt_layer::Layer<S, DefaultFields, Lines, W>) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let json = base.json().flatten_event(true).with_current_span(true).with_span_list(false);
    json.fmt_fields(Appended(JsonFields::new())).map_event_format(WithSeverity).boxed()
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
        Clock::Uptime | Clock::Wall => in_json(base),
    };
    let spans = traces.map(Exporter::layer);
    let admit = Admit::new(filter, traces.is_some());
    drop(tracing_subscriber::registry().with(spans).with(lines).with(admit).try_init());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn written(work: impl FnOnce()) -> Vec<Value> {
        let kept = Kept::default();
        let to = kept.clone();
        let lines = in_json(fmt_layer::layer().with_writer(move || to.clone()));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), work);
        let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn a_line_has_its_level_in_the_words_of_both() {
        let lines = written(|| {
            tracing::error!("{{ \"severity\": \"none\" }}");
            tracing::warn!("b");
            tracing::info!("c");
            tracing::debug!("d");
            tracing::trace!("e");
        });
        let told: Vec<_> = lines.iter().map(|l| [&l["level"], &l["severity"]].map(|v| v.as_str().unwrap())).collect();
        let all = [["ERROR", "ERROR"], ["WARN", "WARNING"], ["INFO", "INFO"], ["DEBUG", "DEBUG"], ["TRACE", "DEBUG"]];
        assert_eq!(told, all);
        assert_eq!(lines[0]["message"], r#"{ "severity": "none" }"#);
    }

    #[test]
    fn numbers_stay_numbers() {
        let lines = written(|| {
            let span = tracing::info_span!("look", attempt = 3, lag_s = tracing::field::Empty, item = %"7");
            span.record("lag_s", 0.5);
            let _entered = span.enter();
            tracing::info!(took_ms = 12_u64, offset = -1_i64, share = 0.25, is_first = true, code = "429", "done");
        });
        let line = &lines[0];
        assert_eq!(
            json!([line["took_ms"], line["offset"], line["share"], line["is_first"], line["code"]]),
            json!([12, -1, 0.25, true, "429"])
        );
        assert_eq!(line["span"], json!({"attempt": 3, "item": "7", "lag_s": 0.5, "name": "look"}));
    }
}
