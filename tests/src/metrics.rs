//! What `/metrics` shows, read as Prometheus reads it and held against the registry.

use domain::metric::{self, Metric, Type};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// One series of a scrape; of a histogram, its count.
#[derive(Debug)]
pub struct Sample {
    pub metric: &'static Metric,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

pub async fn scrape(ops: SocketAddr) -> String {
    reqwest::get(format!("http://{ops}/metrics")).await.unwrap().text().await.unwrap()
}

/// The series of a scrape. Panics at one that is not in the registry, or not with that type, label or value.
pub fn read(text: &str) -> Vec<Sample> {
    let mut types = BTreeMap::new();
    let mut samples = Vec::new();
    for line in text.lines() {
        if let Some(words) = line.strip_prefix("# TYPE ") {
            let (name, kind) = words.split_once(' ').unwrap();
            types.insert(name, kind);
        }
        if line.starts_with('#') || line.is_empty() {
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let mut labels = pairs(labels.strip_suffix('}').unwrap());
        let (name, part) = match ["_bucket", "_sum", "_count"].iter().find_map(|p| Some((name.strip_suffix(p)?, *p))) {
            Some((histogram, part)) if types.get(histogram) == Some(&"histogram") => (histogram, part),
            _ => (name, ""),
        };
        let metric = metric::named(name).unwrap_or_else(|| panic!("not in the registry: {line}"));
        let kind = match metric.kind {
            Type::Counter => "counter",
            Type::Gauge => "gauge",
            Type::Histogram => "histogram",
        };
        assert_eq!(types.get(name), Some(&kind), "{line}");
        assert_eq!(labels.remove("le").is_some(), part == "_bucket", "{line}");
        let shown: Vec<(&str, &str)> = labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert!(metric.admits(&shown), "no such label or value in the registry: {line}");
        if matches!(part, "" | "_count") {
            samples.push(Sample { metric, labels, value: value.parse().unwrap() });
        }
    }
    samples
}

/// `a="x",b="y"`; no value of ours has a quotation mark in it.
fn pairs(text: &str) -> BTreeMap<String, String> {
    let parts: Vec<&str> = text.split('"').collect();
    let pairs = parts.chunks_exact(2).map(|pair| {
        let name = pair[0].trim_start_matches(',').strip_suffix('=').unwrap();
        (name.to_owned(), pair[1].to_owned())
    });
    pairs.collect()
}

/// The sum of the series that have these labels; None when there is none.
pub fn total(samples: &[Sample], name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let has =
        |s: &&Sample| s.metric.name == name && labels.iter().all(|(k, v)| s.labels.get(*k).is_some_and(|l| l == v));
    samples.iter().filter(has).map(|s| s.value).reduce(|a, b| a + b)
}
