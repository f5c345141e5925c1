//! What was measured: a table on the terminal while it runs, and a JSON file and a page with plots at the end.

use crate::plot::Plot;
use serde::Serialize;
use std::path::Path;
use std::time::Duration;

/// The lowest, the middle and the highest of some measurements.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) min: f64,
    pub(crate) median: f64,
    pub(crate) max: f64,
    pub(crate) times: usize,
}

impl Spread {
    pub(crate) fn of(measured: &[f64]) -> Self {
        let mut sorted = measured.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (sorted.first().copied().unwrap_or(f64::NAN), sorted.last().copied().unwrap_or(f64::NAN));
        Self { min, median: sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN), max, times: sorted.len() }
    }

    /// In milliseconds.
    pub(crate) fn of_times(measured: &[Duration]) -> Self {
        Self::of(&measured.iter().map(|d| d.as_secs_f64() * 1e3).collect::<Vec<_>>())
    }
}

/// What a figure is held against, from the same run.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Anchor {
    pub(crate) what: String,
    pub(crate) value: f64,
    pub(crate) ratio: f64,
}

/// One row.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Figure {
    pub(crate) part: &'static str,
    pub(crate) what: String,
    pub(crate) unit: &'static str,
    pub(crate) measured: Spread,
    pub(crate) anchor: Option<Anchor>,
    /// What it must be.
    pub(crate) goal: Option<&'static str>,
}

impl Figure {
    pub(crate) fn new(part: &'static str, what: impl Into<String>, unit: &'static str, measured: &[f64]) -> Self {
        Self { part, what: what.into(), unit, measured: Spread::of(measured), anchor: None, goal: None }
    }

    pub(crate) fn one(part: &'static str, what: impl Into<String>, unit: &'static str, measured: f64) -> Self {
        Self::new(part, what, unit, &[measured])
    }

    pub(crate) fn times(part: &'static str, what: impl Into<String>, measured: &[Duration]) -> Self {
        Self { measured: Spread::of_times(measured), ..Self::new(part, what, "ms", &[]) }
    }

    /// Beside another measurement of this run: how many times that it is.
    pub(crate) fn beside(self, what: impl Into<String>, value: f64) -> Self {
        let ratio = self.measured.median / value;
        Self { anchor: Some(Anchor { what: what.into(), value, ratio }), ..self }
    }

    pub(crate) fn goal(self, goal: &'static str) -> Self {
        Self { goal: Some(goal), ..self }
    }
}

/// A run.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) machine: Vec<(&'static str, String)>,
    pub(crate) figures: Vec<Figure>,
    pub(crate) plots: Vec<Plot>,
    /// What was seen beside the figures.
    pub(crate) notes: Vec<String>,
}

impl Report {
    pub(crate) fn new() -> Self {
        let report = Self { machine: crate::machine::described(), ..Self::default() };
        report.machine.iter().for_each(|(name, value)| println!("{name}: {value}"));
        report
    }

    /// Says which part begins.
    pub(crate) fn begin(&self, part: &str) {
        println!("\n{part}");
    }

    /// Writes what there is until now, so that a run that is cut off leaves what it measured.
    pub(crate) fn save(&self) {
        write("report.json", &serde_json::to_string_pretty(self).unwrap());
        write("report.html", &crate::page::html(self));
    }

    pub(crate) fn plot(&mut self, plot: Plot) {
        self.plots.push(plot);
    }

    /// Takes a figure and shows it at once: a run takes long, and may be cut off.
    pub(crate) fn add(&mut self, figure: Figure) {
        let Spread { min, median, max, times } = figure.measured;
        let spread = if times > 1 { format!("{} to {}", short(min), short(max)) } else { String::new() };
        let anchor = figure.anchor.as_ref();
        let ratio = anchor.map(|a| format!("{}x {} {}", short(a.ratio), short(a.value), a.what)).unwrap_or_default();
        let must = figure.goal.map(|g| format!("  must be {g}")).unwrap_or_default();
        println!("{:<66} {:>9} {:<6} {spread:<18} {ratio}{must}", figure.what, short(median), figure.unit);
        self.figures.push(figure);
    }

    pub(crate) fn note(&mut self, note: impl Into<String>) {
        let note = note.into();
        println!("{note}");
        self.notes.push(note);
    }
}

/// A file beside the report.
pub(crate) fn write(name: &str, text: &str) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench");
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join(name), text).unwrap();
}

/// Three or four digits, whatever the size.
pub(crate) fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 1000.0 => format!("{value:.0}"),
        v if v >= 100.0 => format!("{value:.1}"),
        v if v >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}
