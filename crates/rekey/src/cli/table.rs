//! What lists look like in a terminal: columns that stand under each other, and ages instead of points in time.

use jiff::Timestamp;
use serde_json::Value;
use std::fmt::Write as _;

/// Two spaces apart, each column as wide as its widest cell. The last one is never cut or padded: it holds what is wrong.
pub(super) fn aligned(titles: &[&str], rows: &[Vec<String>]) -> Vec<String> {
    let mut widths: Vec<usize> = titles.iter().map(|title| title.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut line = String::new();
        for (cell, width) in cells.zip(&widths) {
            let _ = write!(line, "{cell:width$}  ");
        }
        line.trim_end().to_owned()
    };
    let titles = std::iter::once(line(&mut titles.iter().copied()));
    titles.chain(rows.iter().map(|row| line(&mut row.iter().map(String::as_str)))).collect()
}

/// A value of an answer as one line: what a bank or a caller wrote can't move the cursor or begin a line.
pub(super) fn plain(value: &Value) -> String {
    let text = match value {
        Value::Null => return "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
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

    #[test]
    fn columns_stand_under_each_other_and_the_last_is_never_cut() {
        let rows = [vec!["a".to_owned(), "long".to_owned()], vec!["longer".to_owned(), "x".repeat(300)]];
        let lines = aligned(&["ID", "WHY"], &rows);
        assert_eq!(lines[0], "ID      WHY");
        assert_eq!(lines[1], "a       long");
        assert_eq!(lines[2], format!("longer  {}", "x".repeat(300)));
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
