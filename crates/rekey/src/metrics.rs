//! The recorder of this process, and what is known before anything happened.

use anyhow::Context as _;
use domain::Role;
use domain::metric::{self, Metric, Type, Values};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use std::sync::OnceLock;

const BUCKETS: [f64; 17] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0];

/// One recorder, however many roles and tests share the process.
pub(crate) fn recorder() -> anyhow::Result<PrometheusHandle> {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    if let Some(handle) = HANDLE.get() {
        return Ok(handle.clone());
    }
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &BUCKETS)
        .context("the metrics can't be set up")?
        .build_recorder();
    let handle = recorder.handle();
    // Somebody else's recorder is in place only in tests that run several instances at once; theirs is ours.
    let _ = metrics::set_global_recorder(recorder);
    Ok(HANDLE.get_or_init(|| handle).clone())
}

/// Describes what these roles show and begins their counters at nothing: a counter that first appears with its first
/// event has, for Prometheus, not increased by it.
pub(crate) fn begin(roles: &[Role]) {
    for metric in metric::ALL.iter().filter(|m| m.roles.iter().any(|role| roles.contains(role))) {
        let (name, help) = (metric.name, metric.help());
        match metric.kind {
            Type::Counter => {
                metrics::describe_counter!(name, help);
                zero(metric);
            }
            Type::Gauge => metrics::describe_gauge!(name, help),
            Type::Histogram => metrics::describe_histogram!(name, help),
        }
    }
    // Set when an image is built; a build by hand has no revision.
    let revision = option_env!("REKEY_REVISION").unwrap_or("unknown");
    metrics::gauge!(metric::BUILD_INFO, "version" => env!("CARGO_PKG_VERSION"), "revision" => revision).set(1.0);
}

/// Of several labels not every combination can happen, so those counters begin with their first event.
fn zero(metric: &Metric) {
    match metric.labels {
        [] => metrics::counter!(metric.name).increment(0),
        [label] => {
            let Values::These(values) = label.values else { return };
            for value in values {
                metrics::counter!(metric.name, label.name => *value).increment(0);
            }
        }
        [_, _, ..] => {}
    }
}
