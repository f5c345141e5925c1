//! Plots as SVG, drawn without any library so that the page stands by itself.

use serde::Serialize;
use std::fmt::Write as _;

/// A picture of some measurements.
#[derive(Debug, Clone, Serialize)]
pub(crate) enum Plot {
    Lines(Lines),
    TimeLine(TimeLine),
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Lines {
    pub(crate) title: String,
    /// What the axes show.
    pub(crate) x: &'static str,
    pub(crate) y: &'static str,
    pub(crate) logarithmic: bool,
    pub(crate) series: Vec<(String, Vec<(f64, f64)>)>,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct TimeLine {
    pub(crate) title: String,
    /// Name, and from when to when, in milliseconds.
    pub(crate) bars: Vec<(String, f64, f64)>,
    pub(crate) end: f64,
}

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 360.0;
/// Room for the numbers at the axes.
const LEFT: f64 = 70.0;
const BOTTOM: f64 = 40.0;
const TOP: f64 = 10.0;
/// Room for the names of the series.
const RIGHT: f64 = 250.0;
const COLOURS: [&str; 8] = ["#3366cc", "#dc3912", "#109618", "#ff9900", "#990099", "#0099c6", "#6b8e23", "#888888"];

impl Lines {
    /// How many of the measured are at most so long: the distribution, as a line from 0 to 100 %.
    pub(crate) fn distribution(title: impl Into<String>, of: &[(&str, &[f64])]) -> Self {
        let line = |measured: &[f64]| -> Vec<(f64, f64)> {
            let mut sorted = measured.to_vec();
            sorted.sort_by(f64::total_cmp);
            // A few hundred points are all that an eye can tell apart.
            let step = (sorted.len() / 400).max(1);
            let share = |n: usize| 100.0 * (n + 1) as f64 / measured.len() as f64;
            sorted.iter().enumerate().step_by(step).map(|(n, took)| (*took, share(n))).collect()
        };
        let series = of.iter().map(|(name, measured)| ((*name).to_owned(), line(measured))).collect();
        Self { title: title.into(), x: "ms at most", y: "% of them", logarithmic: false, series }
    }

    fn svg(&self) -> String {
        let scaled = |v: f64| if self.logarithmic { v.max(1.0).log10() } else { v };
        let points = || self.series.iter().flat_map(|(_, points)| points);
        let range = |of: fn(&(f64, f64)) -> f64| {
            let all = points().map(|p| scaled(of(p)));
            let (low, high) = all.fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(v), h.max(v)));
            (if self.logarithmic { low.floor() } else { 0.0 }, high.max(low + 1e-9))
        };
        let ((x0, x1), (y0, y1)) = (range(|p| p.0), range(|p| p.1));
        let x = |v: f64| LEFT + (scaled(v) - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT);
        let y = |v: f64| HEIGHT - BOTTOM - (scaled(v) - y0) / (y1 - y0) * (HEIGHT - BOTTOM - TOP);
        let mut svg = open(&self.title, HEIGHT);
        for n in 0..=4 {
            let share = f64::from(n) / 4.0;
            let back = |v: f64| if self.logarithmic { 10_f64.powf(v) } else { v };
            let (at_x, at_y) = (back(x0 + share * (x1 - x0)), back(y0 + share * (y1 - y0)));
            text(&mut svg, x(at_x), HEIGHT - BOTTOM + 16.0, "middle", &number(at_x));
            text(&mut svg, LEFT - 6.0, y(at_y) + 4.0, "end", &number(at_y));
            let (right, height) = (WIDTH - RIGHT, y(at_y));
            let _ =
                write!(svg, r##"<line x1="{LEFT}" x2="{right}" y1="{height:.1}" y2="{height:.1}" stroke="#ddd"/>"##);
        }
        text(&mut svg, (LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 6.0, "middle", self.x);
        text(&mut svg, LEFT, TOP, "start", self.y);
        for (n, (name, points)) in self.series.iter().enumerate() {
            let colour = COLOURS[n % COLOURS.len()];
            let line: Vec<String> = points.iter().map(|p| format!("{:.1},{:.1}", x(p.0), y(p.1))).collect();
            let _ = write!(
                svg,
                r#"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="1.5"><title>{}</title></polyline>"#,
                line.join(" "),
                escaped(name)
            );
            if n < 26 {
                let height = TOP + 12.0 + 13.0 * n as f64;
                let _ = write!(
                    svg,
                    r#"<rect x="{}" y="{}" width="10" height="3" fill="{colour}"/>"#,
                    WIDTH - RIGHT + 8.0,
                    height - 5.0
                );
                text(&mut svg, WIDTH - RIGHT + 22.0, height, "start", name);
            }
        }
        svg + "</svg>"
    }
}

impl TimeLine {
    fn svg(&self) -> String {
        let height = 26.0 * self.bars.len() as f64 + BOTTOM;
        let x = |at: f64| LEFT + at / self.end.max(1.0) * (WIDTH - LEFT - RIGHT);
        let mut svg = open(&self.title, height);
        for (n, (name, from, to)) in self.bars.iter().enumerate() {
            let top = 4.0 + 26.0 * n as f64;
            let (left, width) = (x(*from), x(*to) - x(*from));
            let _ = write!(
                svg,
                r##"<rect x="{left:.1}" y="{top}" width="{width:.1}" height="18" fill="#3366cc" opacity="0.8"/>"##
            );
            text(&mut svg, WIDTH - RIGHT + 8.0, top + 13.0, "start", name);
            text(&mut svg, left - 4.0, top + 13.0, "end", &format!("{from:.0}"));
        }
        for n in 0..=4 {
            let at = self.end * f64::from(n) / 4.0;
            text(&mut svg, x(at), height - 8.0, "middle", &format!("{at:.0} ms"));
        }
        svg + "</svg>"
    }
}

impl Plot {
    pub(crate) fn svg(&self) -> String {
        match self {
            Self::Lines(lines) => lines.svg(),
            Self::TimeLine(line) => line.svg(),
        }
    }
}

fn open(title: &str, height: f64) -> String {
    format!(
        r#"<h3>{}</h3><svg viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" font-size="11">"#,
        escaped(title)
    )
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, words: &str) {
    let _ = write!(svg, r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{}</text>"#, escaped(words));
}

fn number(value: f64) -> String {
    if value >= 10.0 || value == 0.0 { format!("{value:.0}") } else { format!("{value:.1}") }
}

pub(crate) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
