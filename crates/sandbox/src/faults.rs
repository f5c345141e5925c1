//! Misbehaviour on demand.

use axum::body::Body;
use axum::http::{Response, StatusCode, header};
use serde::{Deserialize, Serialize};
use std::time::Duration;

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
    /// The connection is cut before anything happened.
    CutBefore,
    /// It happened, and the answer is lost.
    LoseAnswer,
    /// It takes longer.
    Delay { millis: u64 },
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
    /// The path, such as `/processor/token/create`, or the method and path template of Layer's, such as
    /// `PUT /v1/businesses/{id}`.
    pub call: String,
    /// Only calls about this Item, account or business.
    #[serde(default)]
    pub about: Option<String>,
    /// How many calls; None for all until healed.
    #[serde(default)]
    pub times: Option<u32>,
    #[serde(flatten)]
    pub kind: FaultKind,
}

/// The faults in force.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    active: Vec<Fault>,
}

impl Faults {
    pub(crate) fn push(&mut self, fault: Fault) {
        self.active.push(fault);
    }
    pub(crate) fn clear(&mut self) {
        self.active.clear();
    }
    pub(crate) fn still_hangs(&self, call: &str) -> bool {
        self.active.iter().any(|f| f.call == call && matches!(f.kind, FaultKind::Hang | FaultKind::HangAfter))
    }

    /// Takes the faults that this call meets.
    pub(crate) fn meet(&mut self, call: &str, about: &[&str]) -> Vec<FaultKind> {
        let mut met = Vec::new();
        for fault in &mut self.active {
            let concerns = fault.about.as_deref().is_none_or(|a| about.contains(&a));
            if fault.call != call || !concerns || fault.times == Some(0) {
                continue;
            }
            if let Some(times) = &mut fault.times {
                *times -= 1;
            }
            met.push(fault.kind.clone());
        }
        self.active.retain(|f| f.times != Some(0) || matches!(f.kind, FaultKind::Hang | FaultKind::HangAfter));
        met
    }
}

/// A body that breaks off: the client sees a cut connection, not an answer.
pub(crate) fn cut() -> Response<Body> {
    let mut response = Response::new(Body::from_stream(BrokenStream));
    *response.status_mut() = StatusCode::OK;
    response.headers_mut().insert(header::CONTENT_LENGTH, header::HeaderValue::from_static("1000000"));
    response
}

struct BrokenStream;

impl futures::Stream for BrokenStream {
    type Item = Result<axum::body::Bytes, std::io::Error>;
    fn poll_next(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        std::task::Poll::Ready(Some(Err(std::io::Error::other("cut by the sandbox"))))
    }
}

/// What is left of a call after its faults.
#[derive(Default)]
pub(crate) struct Fate {
    pub(crate) instead: Option<Response<Body>>,
    pub(crate) lose_answer: bool,
    pub(crate) not_applied: bool,
    pub(crate) hang_after: bool,
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
        let met = self.world().faults.meet(call, about);
        let mut fate = Fate::default();
        for kind in met {
            match kind {
                FaultKind::Answer { status, error_type, error_code, retry_after } => {
                    fate.instead = Some(error_answer(status, &body(&error_type, &error_code), retry_after));
                }
                FaultKind::CutBefore => fate.instead = Some(cut()),
                FaultKind::LoseAnswer => fate.lose_answer = true,
                FaultKind::NotApplied => fate.not_applied = true,
                FaultKind::Delay { millis } => tokio::time::sleep(Duration::from_millis(millis)).await,
                FaultKind::Hang => self.until_lifted(call).await,
                FaultKind::HangAfter => fate.hang_after = true,
            }
        }
        fate
    }

    pub(crate) async fn until_lifted(&self, call: &str) {
        self.world().hanging.push(call.to_owned());
        while self.world().faults.still_hangs(call) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
