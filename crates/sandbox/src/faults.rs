//! Misbehaviour on demand.

use crate::switches::Switches;
use crate::world::World;
use axum::body::{Body, Bytes};
use axum::http::{Response, StatusCode, header};
use rand::RngExt;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// What happens to a call.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "do")]
pub enum FaultKind {
    /// An error instead of the effect.
    Answer {
        status: u16,
        #[serde(default)]
        error_type: String,
        #[serde(default)]
        error_code: String,
        #[serde(default)]
        retry_after: Option<u64>,
    },
    /// These very bytes instead of the effect, and these headers.
    Raw {
        status: u16,
        #[serde(default)]
        headers: Vec<(String, String)>,
        body: String,
    },
    /// The connection is cut before anything happened.
    CutBefore,
    /// It happened, and the answer is lost.
    LoseAnswer,
    /// It takes longer.
    Delay { millis: u64 },
    /// It takes as long as networks do: most calls near the median, one in a hundred as long as `p99_millis`.
    Latency { median_millis: f64, p99_millis: f64 },
    /// Layer's list goes on showing what was before this PUT for so long.
    Lag { millis: u64 },
    /// Layer forgets every bearer token it gave out.
    RevokeBearers,
    /// A webhook comes in this many more copies.
    Repeat { copies: u32 },
    /// A webhook is signed by a clock that is wrong by so many seconds.
    ClockStep { seconds: i64 },
    /// Layer answers 200 and does nothing.
    NotApplied,
    /// The call waits, before its effect, until the fault is lifted.
    Hang,
    /// It happened, and the answer waits until the fault is lifted.
    HangAfter,
}

/// Which calls misbehave, and how often.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Fault {
    /// The path, such as `/processor/token/create`; or the method and path template of Layer's, such as
    /// `PUT /v1/businesses/{id}`; `webhook` for the deliveries; `plaid`, `layer` or `*` for all of them.
    pub call: String,
    /// Only calls about this Item, account or business.
    #[serde(default)]
    pub about: Option<String>,
    /// How many calls; None for all until healed.
    #[serde(default)]
    pub times: Option<u32>,
    /// One call in how many meets it, from 0 to 1.
    #[serde(default = "always")]
    pub chance: f64,
    /// When it begins and how long it lasts, in seconds from when it was ordered; None: at once, until healed.
    #[serde(default)]
    pub begins: Option<f64>,
    #[serde(default)]
    pub lasts: Option<f64>,
    #[serde(flatten)]
    pub kind: FaultKind,
}

/// How the world misbehaves from its beginning.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Scenario {
    pub fault: Vec<Fault>,
    pub switches: Switches,
}

fn always() -> f64 {
    1.0
}

impl Fault {
    /// One that every call meets from now on, until healed.
    pub fn new(call: &str, kind: FaultKind) -> Self {
        Self { call: call.into(), about: None, times: None, chance: 1.0, begins: None, lasts: None, kind }
    }

    /// The same for that many calls.
    pub fn times(call: &str, times: u32, kind: FaultKind) -> Self {
        Self { times: Some(times), ..Self::new(call, kind) }
    }

    fn names(&self, call: &str) -> bool {
        let is_webhook = call == WEBHOOK;
        match self.call.as_str() {
            "*" => !is_webhook,
            // Plaid's endpoints are all POST and written without it.
            "plaid" => call.starts_with('/'),
            "layer" => !is_webhook && !call.starts_with('/'),
            named => named == call,
        }
    }

    fn is_in_force(&self, age: Duration) -> bool {
        let begins = self.begins.unwrap_or(0.0);
        let age = age.as_secs_f64();
        age >= begins && self.lasts.is_none_or(|lasts| age < begins + lasts)
    }
}

/// What deliveries of webhooks are called among the calls.
pub(crate) const WEBHOOK: &str = "webhook";

/// The faults in force, each with the moment it was ordered.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    active: Vec<(Instant, Fault)>,
}

impl Faults {
    pub(crate) fn push(&mut self, fault: Fault) {
        self.active.push((Instant::now(), fault));
    }
    pub(crate) fn clear(&mut self) {
        self.active.clear();
    }
    pub(crate) fn clear_of(&mut self, call: &str) {
        self.active.retain(|(_, fault)| fault.call != call);
    }
    pub(crate) fn still_hangs(&self, call: &str) -> bool {
        let hangs = |kind: &FaultKind| matches!(kind, FaultKind::Hang | FaultKind::HangAfter);
        self.active.iter().any(|(since, f)| f.names(call) && hangs(&f.kind) && f.is_in_force(since.elapsed()))
    }

    /// Takes the faults that this call meets.
    pub(crate) fn meet(&mut self, call: &str, about: &[&str], rng: &mut StdRng) -> Vec<FaultKind> {
        let mut met = Vec::new();
        for (since, fault) in &mut self.active {
            let concerns = fault.about.as_deref().is_none_or(|a| about.contains(&a));
            if !fault.names(call) || !concerns || fault.times == Some(0) || !fault.is_in_force(since.elapsed()) {
                continue;
            }
            if fault.chance < 1.0 && rng.random::<f64>() >= fault.chance {
                continue;
            }
            if let Some(times) = &mut fault.times {
                *times -= 1;
            }
            met.push(fault.kind.clone());
        }
        self.active.retain(|(_, f)| f.times != Some(0) || matches!(f.kind, FaultKind::Hang | FaultKind::HangAfter));
        met
    }
}

fn raw(status: u16, headers: &[(String, String)], body: String) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
    for (name, value) in headers {
        if let (Ok(name), Ok(value)) = (header::HeaderName::try_from(name), header::HeaderValue::try_from(value)) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

/// A body that breaks off: the client sees a cut connection, not an answer.
pub(crate) fn cut() -> Response<Body> {
    let broken = Err::<Bytes, _>(std::io::Error::other("cut by the sandbox"));
    let mut response = Response::new(Body::from_stream(futures::stream::iter([broken])));
    response.headers_mut().insert(header::CONTENT_LENGTH, header::HeaderValue::from_static("1000000"));
    response
}

/// What is left of a call after its faults.
#[derive(Default)]
pub(crate) struct Fate {
    pub(crate) instead: Option<Response<Body>>,
    pub(crate) lose_answer: bool,
    pub(crate) not_applied: bool,
    pub(crate) hang_after: bool,
    pub(crate) lag: Option<Duration>,
}

/// A time from the log-normal distribution with this median and 99th percentile.
fn latency(rng: &mut StdRng, median: f64, p99: f64) -> Duration {
    /// The standard normal distribution's 99th percentile.
    const Z99: f64 = 2.326;
    let sigma = (p99 / median).max(1.0).ln() / Z99;
    // Box and Muller's way from two even numbers to one normal one.
    let (u, v): (f64, f64) = (rng.random::<f64>().max(f64::MIN_POSITIVE), rng.random());
    let normal = (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos();
    Duration::from_secs_f64((median * (sigma * normal).exp() / 1000.0).clamp(0.0, 60.0))
}

pub(crate) fn error_answer(status: u16, body: &serde_json::Value, retry_after: Option<u64>) -> Response<Body> {
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    if let Some(seconds) = retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from(seconds));
    }
    response
}

impl crate::Sandbox {
    /// Lets a call meet its faults; `body` makes the provider's own form of an error.
    pub(crate) async fn fate(
        &self,
        call: &str,
        about: &[&str],
        body: impl Fn(&str, &str) -> serde_json::Value,
    ) -> Fate {
        let met = self.met(call, about);
        let mut fate = Fate::default();
        for kind in met {
            match kind {
                FaultKind::Answer { status, error_type, error_code, retry_after } => {
                    fate.instead = Some(error_answer(status, &body(&error_type, &error_code), retry_after));
                }
                FaultKind::Raw { status, headers, body } => fate.instead = Some(raw(status, &headers, body)),
                FaultKind::CutBefore => fate.instead = Some(cut()),
                FaultKind::LoseAnswer => fate.lose_answer = true,
                FaultKind::NotApplied => fate.not_applied = true,
                FaultKind::Delay { millis } => tokio::time::sleep(Duration::from_millis(millis)).await,
                FaultKind::Latency { median_millis, p99_millis } => {
                    let wait = latency(&mut self.world().rng, median_millis, p99_millis);
                    tokio::time::sleep(wait).await;
                }
                FaultKind::Lag { millis } => fate.lag = Some(Duration::from_millis(millis)),
                FaultKind::RevokeBearers => self.world().bearers.clear(),
                FaultKind::Repeat { .. } | FaultKind::ClockStep { .. } => {}
                FaultKind::Hang => self.until_lifted(call).await,
                FaultKind::HangAfter => fate.hang_after = true,
            }
        }
        fate
    }

    pub(crate) fn met(&self, call: &str, about: &[&str]) -> Vec<FaultKind> {
        let mut world = self.world();
        let World { faults, rng, .. } = &mut *world;
        faults.meet(call, about, rng)
    }

    pub(crate) async fn until_lifted(&self, call: &str) {
        self.world().hanging.push(call.to_owned());
        while self.world().faults.still_hangs(call) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
