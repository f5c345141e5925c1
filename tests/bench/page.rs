//! The report as one page that needs nothing beside itself.

use crate::plot::escaped;
use crate::report::{Report, short};
use std::fmt::Write as _;

const STYLE: &str = "body{font:14px/1.4 sans-serif;max-width:1100px;margin:2em auto;padding:0 1em;color:#222;background:#fff}\
    table{border-collapse:collapse}td,th{padding:2px 10px;text-align:left;border-bottom:1px solid #ddd}\
    td.n{text-align:right;font-variant-numeric:tabular-nums}svg{max-width:100%;height:auto}";

pub(crate) fn html(report: &Report) -> String {
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Rekey's bench</title><style>{STYLE}</style><h1>Rekey's bench</h1>"
    );
    for (name, value) in &report.machine {
        let _ = write!(page, "{}: {}<br>", escaped(name), escaped(value));
    }
    let mut part = "";
    for figure in &report.figures {
        if figure.part != part {
            let end = if part.is_empty() { "" } else { "</table>" };
            part = figure.part;
            let _ = write!(
                page,
                "{end}<h2>{part}</h2><table><tr><th>what<th>median<th>lowest to highest<th>times<th>beside<th>ratio<th>must be"
            );
        }
        let spread = figure.measured;
        let (beside, ratio) = figure.anchor.as_ref().map_or_else(Default::default, |a| {
            (format!("{}: {}", escaped(&a.what), short(a.value)), format!("{}x", short(a.ratio)))
        });
        let _ = write!(
            page,
            "<tr><td>{}<td class=n>{} {}<td class=n>{} to {}<td class=n>{}<td>{beside}<td class=n>{ratio}<td>{}",
            escaped(&figure.what),
            short(spread.median),
            figure.unit,
            short(spread.min),
            short(spread.max),
            spread.times,
            escaped(figure.goal.unwrap_or_default()),
        );
    }
    page.push_str("</table>");
    for plot in &report.plots {
        page.push_str(&plot.svg());
    }
    page.push_str("<h2>Notes</h2><ul>");
    for note in &report.notes {
        let _ = write!(page, "<li>{}", escaped(note));
    }
    page + "</ul></html>\n"
}
