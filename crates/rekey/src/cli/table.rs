//! What lists look like in a terminal: columns that stand under each other, and ages instead of points in time.
//!
//! In a pipe or a file lines are as long as they are. A terminal breaks lines that are too long for it, and then nothing stands
//! under anything, so there:
//!
//! 1. Sentences that don't fit go under their row, indented and wrapped, never cut: they say what is wrong, and what to do.
//! 2. If the other columns are still too wide, the widest ids are shortened with `…`, and a last line says so.
//! 3. If they still are, the row goes on on a second line.

use super::say;
use jiff::Timestamp;
use serde_json::Value;
use std::io::IsTerminal;
use unicode_width::UnicodeWidthChar;

/// Between two columns.
const GAP: usize = 2;
/// How far what goes on under a row stands in.
const INDENT: usize = 4;
/// An id is shortened to no less: two that begin alike must stay two.
const LEAST: usize = 12;
/// Nothing is made to fit less: nobody reads a terminal that says it is narrower.
const NARROWEST: usize = 20;

/// What may be done to a column that does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    /// Nothing: a word, a number, an age.
    Whole,
    /// It may be shortened: an id.
    Short,
    /// It may go under its row: a sentence.
    Text,
}

#[derive(Debug, Clone)]
pub(super) struct Column {
    title: String,
    fit: Fit,
}

impl Column {
    pub(super) fn new(title: impl Into<String>, fit: Fit) -> Self {
        Self { title: title.into(), fit }
    }
}

/// Prints a table, within the width of the terminal if there is one.
pub(super) fn print(columns: &[Column], rows: &[Vec<String>], indent: &str) {
    let width = terminal_width().map(|width| width.saturating_sub(indent.len()));
    let (lines, is_cut) = aligned(columns, rows, width);
    lines.iter().for_each(|line| say(&format!("{indent}{line}")));
    if is_cut {
        say(&format!("{indent}# ids are cut to fit (…): a pipe or --json has them whole"));
    }
}

/// None: no terminal, or one that does not say.
fn terminal_width() -> Option<usize> {
    let out = std::io::stdout();
    let size = if out.is_terminal() { rustix::termios::tcgetwinsize(&out).ok() } else { None };
    size.map(|size| usize::from(size.ws_col)).filter(|width| *width > 0)
}

/// The lines of a table, and whether an id was shortened.
fn aligned(columns: &[Column], rows: &[Vec<String>], width: Option<usize>) -> (Vec<String>, bool) {
    let titles = columns.iter().map(|column| column.title.clone()).collect();
    let rows = std::iter::once(&titles).chain(rows);
    let rows: Vec<Vec<String>> = rows.map(|row| row.iter().map(|cell| in_one_line(cell)).collect()).collect();
    let mut layout = Layout::natural(columns, &rows);
    let is_cut = width.is_some_and(|width| layout.fit(width.max(NARROWEST)));
    let lines = rows.iter().enumerate().flat_map(|(n, row)| layout.lines(row, n == 0)).collect();
    (lines, is_cut)
}

/// Where each column of a table goes.
struct Layout<'a> {
    columns: &'a [Column],
    /// Of each column, as it is shown.
    widths: Vec<usize>,
    /// The columns on each line of a row.
    bands: Vec<Vec<usize>>,
    /// Columns that go under them, if they have something to say.
    under: Vec<usize>,
    /// Columns that say nothing in any row.
    silent: Vec<bool>,
    limit: usize,
}

impl<'a> Layout<'a> {
    /// One line a row, each column as wide as its widest cell.
    fn natural(columns: &'a [Column], rows: &[Vec<String>]) -> Self {
        let widest = |n: usize| rows.iter().filter_map(|row: &Vec<String>| row.get(n)).map(|cell| width_of(cell)).max();
        let widths = (0..columns.len()).map(|n| widest(n).unwrap_or_default()).collect();
        let is_silent = |n: usize| rows.iter().skip(1).filter_map(|row| row.get(n)).all(|cell| says_nothing(cell));
        let silent = (0..columns.len()).map(is_silent).collect();
        Self {
            columns,
            widths,
            bands: vec![(0..columns.len()).collect()],
            under: Vec::new(),
            silent,
            limit: usize::MAX,
        }
    }

    /// Within `limit`. Returns whether an id is shortened for it.
    fn fit(&mut self, limit: usize) -> bool {
        self.limit = limit;
        let all: Vec<usize> = (0..self.columns.len()).collect();
        if self.width(&all) <= limit {
            return false;
        }
        let is_text = |n: &usize| self.columns[*n].fit == Fit::Text;
        let (texts, mut line): (Vec<usize>, Vec<usize>) = all.iter().partition(|n| is_text(n));
        let is_cut = self.shorten(&line);
        // All but the last stay beside if they fit in every row. The last one is looked at row by row.
        let (last, others) = texts.split_last().map_or((None, &[][..]), |(last, others)| (Some(*last), others));
        for text in others {
            let with: Vec<usize> = line.iter().copied().chain([*text]).collect();
            if self.width(&with) <= limit {
                line = with;
            } else {
                self.under.push(*text);
            }
        }
        self.under.extend(last);
        self.bands = self.in_bands(&line);
        is_cut
    }

    fn width(&self, line: &[usize]) -> usize {
        line.iter().map(|n| self.widths[*n]).sum::<usize>() + GAP * line.len().saturating_sub(1)
    }

    /// Takes from the widest id until all of the line fits, or nothing more can be taken.
    fn shorten(&mut self, line: &[usize]) -> bool {
        let mut is_cut = false;
        while self.width(line) > self.limit {
            let least = |n: usize| LEAST.max(width_of(&self.columns[n].title));
            let may =
                line.iter().copied().filter(|n| self.columns[*n].fit == Fit::Short && self.widths[*n] > least(*n));
            let Some(widest) = may.max_by_key(|n| self.widths[*n]) else { break };
            self.widths[widest] -= 1;
            is_cut = true;
        }
        is_cut
    }

    /// As many columns on a line as fit.
    fn in_bands(&self, line: &[usize]) -> Vec<Vec<usize>> {
        let mut bands: Vec<Vec<usize>> = vec![Vec::new()];
        for n in line {
            let indent = if bands.len() > 1 { INDENT } else { 0 };
            let Some(band) = bands.last_mut() else { continue };
            band.push(*n);
            if indent + self.width(band) > self.limit && band.len() > 1 {
                band.pop();
                bands.push(vec![*n]);
            }
        }
        bands
    }

    fn lines(&self, row: &[String], is_title: bool) -> Vec<String> {
        let cell = |n: &usize| row.get(*n).map_or("", String::as_str);
        let mut lines: Vec<String> = Vec::new();
        for (which, band) in self.bands.iter().enumerate() {
            let mut line = " ".repeat(if which > 0 { INDENT } else { 0 });
            for n in band {
                line.push_str(&padded(cell(n), self.widths[*n]));
                line.push_str(&" ".repeat(GAP));
            }
            lines.push(line);
        }
        for (at, n) in self.under.iter().enumerate() {
            let (text, is_last) = (cell(n), at + 1 == self.under.len());
            let beside = self.bands.first().map_or(0, |band| self.width(band)) + GAP + width_of(text);
            if is_last && self.bands.len() == 1 && beside <= self.limit {
                // Behind the other columns, above what has gone under.
                lines[0].push_str(text);
                continue;
            }
            let several = self.under.len() > 1;
            if says_nothing(text) || is_title && (several || self.silent[*n]) {
                continue;
            }
            let named = if several { format!("{}: {text}", self.columns[*n].title) } else { text.to_owned() };
            let wrapped = wrapped(&named, self.limit - INDENT);
            lines.extend(wrapped.iter().map(|line| format!("{}{line}", " ".repeat(INDENT))));
        }
        lines.iter().map(|line| line.trim_end().to_owned()).collect()
    }
}

fn says_nothing(text: &str) -> bool {
    matches!(text, "" | "-")
}

/// The columns that a terminal gives a text: by character, as it counts them, not by what a reader sees as one.
fn width_of(text: &str) -> usize {
    text.chars().map(width_of_char).sum()
}

fn width_of_char(c: char) -> usize {
    c.width().unwrap_or_default()
}

/// Of this width, whether it must be filled up or shortened for it.
fn padded(text: &str, width: usize) -> String {
    let mut shown = text.to_owned();
    if width_of(text) > width {
        let mut left = width.saturating_sub(1);
        shown = text
            .chars()
            .take_while(|c| left.checked_sub(width_of_char(*c)).map(|less| left = less).is_some())
            .collect();
        shown.push('…');
    }
    shown.push_str(&" ".repeat(width.saturating_sub(width_of(&shown))));
    shown
}

/// Lines that are no wider, broken at spaces; a word that is wider alone is broken where it must be.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let (mut lines, mut line) = (Vec::new(), String::new());
    for word in text.split(' ') {
        if !line.is_empty() && width_of(&line) + 1 + width_of(word) > width {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        for c in word.chars() {
            if width_of(&line) + width_of_char(c) > width {
                lines.push(std::mem::take(&mut line));
            }
            line.push(c);
        }
    }
    lines.push(line);
    lines
}

/// A value of an answer as one line: what a bank or a caller wrote can't move the cursor or begin a line.
pub(super) fn plain(value: &Value) -> String {
    let text = match value {
        Value::Null => return "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    in_one_line(&text)
}

fn in_one_line(text: &str) -> String {
    // Nor turn a line round, or hide in it.
    let is_hidden =
        |c| matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
    text.chars().map(|c| if c.is_control() || is_hidden(c) { '\u{fffd}' } else { c }).collect()
}

/// How long ago, or until when. What is no point in time stays as it is.
pub(super) fn age(at: &Value, now: Timestamp) -> String {
    at.as_str().and_then(|text| domain::time::age(text, now)).unwrap_or_else(|| plain(at))
}

/// `2h` or `3d` before now, or a point in time: as the API takes it.
pub(super) fn since(text: &str) -> Result<String, String> {
    let told = "a time such as `90min`, `2h` or `3d`, or a point in time such as 2026-01-31T09:00:00Z";
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(at.to_string());
    }
    let span: jiff::SignedDuration = text
        .parse::<jiff::Span>()
        .ok()
        .and_then(|span| span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).ok())
        .ok_or_else(|| told.to_owned())?;
    Timestamp::now().checked_sub(span).map(|at| at.to_string()).map_err(|_| told.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns() -> Vec<Column> {
        [("ITEM", Fit::Short), ("STATE", Fit::Whole), ("BUSINESS", Fit::Short), ("WHY", Fit::Text)]
            .map(|(title, fit)| Column::new(title, fit))
            .to_vec()
    }

    fn row(cells: [&str; 4]) -> Vec<String> {
        cells.map(str::to_owned).to_vec()
    }

    const WHY: &str = "Plaid refuses this account: enable the processor in its dashboard, then `rekey item sync ITEM`";

    #[test]
    fn columns_stand_under_each_other_and_nothing_is_cut_where_nobody_looks() {
        let rows = [row(["a", "ok", "b", "long"]), row(["longer", "ok", &"y".repeat(256), &"x".repeat(300)])];
        let (lines, is_cut) = aligned(&columns(), &rows, None);
        let gap = |less: usize| " ".repeat(258 - less);
        assert_eq!(lines[0], format!("ITEM    STATE  BUSINESS{}WHY", gap(8)));
        assert_eq!(lines[1], format!("a       ok     b{}long", gap(1)));
        assert_eq!(lines[2], format!("longer  ok     {}  {}", "y".repeat(256), "x".repeat(300)));
        assert!(!is_cut);
    }

    #[test]
    fn a_sentence_goes_under_its_row_before_an_id_is_cut() {
        let rows = [row(["item-1", "partly", "acme", WHY]), row(["item-2", "converged", "acme", "right"])];
        let (lines, is_cut) = aligned(&columns(), &rows, Some(200));
        assert_eq!(
            lines,
            [
                "ITEM    STATE      BUSINESS  WHY",
                &format!("item-1  partly     acme      {WHY}"),
                "item-2  converged  acme      right",
            ]
        );
        assert!(!is_cut);
        assert_eq!(
            aligned(&columns(), &rows, Some(80)),
            (
                [
                    "ITEM    STATE      BUSINESS  WHY",
                    "item-1  partly     acme",
                    "    Plaid refuses this account: enable the processor in its dashboard, then",
                    "    `rekey item sync ITEM`",
                    "item-2  converged  acme      right",
                ]
                .map(str::to_owned)
                .to_vec(),
                false
            )
        );
    }

    #[test]
    fn the_widest_id_is_cut_first_and_none_below_what_tells_it_from_others() {
        let (long, longer) = ("i".repeat(37), "b".repeat(64));
        let rows = [row([&long, "awaiting_token", &longer, "-"])];
        let shown = |width| {
            let (lines, is_cut) = aligned(&columns(), &rows, Some(width));
            assert!(is_cut);
            let lines: Vec<&str> = lines.iter().map(String::as_str).filter(|line| line.contains('…')).collect();
            lines.join("\n")
        };
        let (i, b) = (|n| "i".repeat(n), |n| "b".repeat(n));
        assert_eq!(shown(80), format!("{}…  awaiting_token  {}…", i(30), b(30)));
        assert_eq!(shown(40), format!("{}…  awaiting_token\n    {}…", i(11), b(11)));
    }

    #[test]
    fn no_line_is_wider_than_the_terminal_and_no_word_of_a_sentence_is_lost() {
        let hostile = ["\u{202e}evil\u{1b}[2J\n".repeat(40), "宽".repeat(150), "e\u{301}".repeat(120), "x".repeat(256)];
        for width in [1, 20, 40, 80, 120, 200] {
            for name in &hostile {
                for texts in [1, 2] {
                    let mut columns = columns();
                    let mut cells = row([name, "waiting_for_user", name, &format!("{WHY} {name} end")]);
                    if texts == 2 {
                        columns.insert(3, Column::new("AT LAYER", Fit::Text));
                        cells.insert(3, WHY.to_owned());
                    }
                    let (lines, _) = aligned(&columns, &[cells.clone(), row(["a", "b", "c", "d"])], Some(width));
                    for line in &lines {
                        assert!(width_of(line) <= width.max(NARROWEST), "{width}: {line}");
                        assert!(!line.contains(['\u{1b}', '\n', '\u{202e}']), "{line:?}");
                    }
                    let dense = |text: &str| text.replace(' ', "");
                    let shown = dense(&lines.concat());
                    for text in &cells[3..] {
                        assert!(shown.contains(&dense(&in_one_line(text))), "{width}: {text}: {lines:#?}");
                    }
                }
            }
        }
    }

    #[test]
    fn several_sentences_under_a_row_are_named() {
        let columns = [("AT", Fit::Whole), ("WAS", Fit::Text), ("BECAME", Fit::Text)].map(|(t, f)| Column::new(t, f));
        let rows = [["1h", WHY, WHY], ["2h", "-", "x"]].map(|cells| cells.map(str::to_owned).to_vec());
        let (lines, _) = aligned(&columns, &rows, Some(60));
        assert_eq!(
            lines,
            [
                "AT  BECAME",
                "1h",
                "    WAS: Plaid refuses this account: enable the processor in",
                "    its dashboard, then `rekey item sync ITEM`",
                "    BECAME: Plaid refuses this account: enable the processor",
                "    in its dashboard, then `rekey item sync ITEM`",
                "2h  x",
            ]
        );
    }

    #[test]
    fn a_time_ago_is_a_point_in_time() {
        let ago = |text: &str| Timestamp::now().duration_since(since(text).unwrap().parse().unwrap()).as_mins();
        assert_eq!((ago("91min"), ago("2h"), ago("3d")), (90, 119, 3 * 24 * 60 - 1), "a moment less");
        assert_eq!(since("2026-01-31T09:00:00Z").unwrap(), "2026-01-31T09:00:00Z");
        assert!(since("yesterday").is_err());
    }

    #[test]
    fn nothing_from_outside_moves_the_cursor() {
        assert_eq!(plain(&Value::from("a\u{1b}[2J\nb")), "a\u{fffd}[2J\u{fffd}b");
        assert_eq!(
            (age(&Value::Null, Timestamp::UNIX_EPOCH), age(&Value::from("soon"), Timestamp::UNIX_EPOCH)),
            ("-".into(), "soon".into())
        );
    }
}
