//! How the providers misbehave in a storm, on embedded parts and on real ones.

use sandbox::FaultKind;

/// A kind of misbehaviour, and the chance that one call meets it.
#[derive(Debug)]
pub struct Weather {
    pub call: &'static str,
    pub kind: FaultKind,
    /// On embedded parts, where a third of them come for the whole storm: at most.
    pub embedded: f64,
    /// On real parts, where a few come for a while: at most.
    pub real: f64,
}

/// An error instead of the effect.
pub fn answer(status: u16, error_type: &str, error_code: &str, retry_after: Option<u64>) -> FaultKind {
    FaultKind::Answer { status, error_type: error_type.into(), error_code: error_code.into(), retry_after }
}

/// How long a PUT, and a webhook, is late is for the storm to say. The order is part of what a seed stands for.
pub fn weather(put_late: u64, webhook_late: u64) -> Vec<Weather> {
    let (put, list) = ("PUT /v1/businesses/{id}", "GET /v1/businesses/{id}/plaid/accounts");
    let table = [
        ("plaid", 0.15, 0.4, answer(500, "API_ERROR", "INTERNAL_SERVER_ERROR", None)),
        ("plaid", 0.1, 0.2, answer(429, "RATE_LIMIT_EXCEEDED", "RATE_LIMIT", None)),
        ("plaid", 0.1, 0.3, FaultKind::CutBefore),
        ("/processor/token/create", 0.2, 0.5, FaultKind::LoseAnswer),
        ("plaid", 0.3, 0.5, FaultKind::Latency { median_millis: 20.0, p99_millis: 600.0 }),
        ("layer", 0.15, 0.4, answer(503, "Sandbox", "", None)),
        ("layer", 0.05, 0.1, answer(429, "Sandbox", "RateLimited", Some(1))),
        ("layer", 0.1, 0.3, FaultKind::CutBefore),
        (put, 0.3, 0.5, FaultKind::LoseAnswer),
        (put, 0.2, 0.4, FaultKind::NotApplied),
        (put, 0.4, 0.5, FaultKind::Lag { millis: 300 }),
        (put, 0.2, 0.4, FaultKind::Delay { millis: put_late }),
        (list, 0.2, 0.4, FaultKind::Delay { millis: 400 }),
        ("layer", 0.05, 0.05, FaultKind::RevokeBearers),
        ("webhook", 0.3, 0.4, FaultKind::CutBefore),
        ("webhook", 0.3, 0.6, FaultKind::Repeat { copies: 3 }),
        ("webhook", 0.4, 0.6, FaultKind::Delay { millis: webhook_late }),
    ];
    table.into_iter().map(|(call, embedded, real, kind)| Weather { call, kind, embedded, real }).collect()
}
