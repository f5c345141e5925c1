//! Steady load: webhooks about every Item in turn, each sent once. Who is not answered is counted, never retried.

use crate::{Error, Sandbox};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// What is sent, and how.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Load {
    pub url: String,
    /// At most 600.
    pub seconds: u64,
    /// Webhooks a second of all callers together, at most 10 000.
    pub per_second: u32,
    /// At most 64.
    pub callers: u32,
    /// Each caller keeps its connection; else it opens one for each webhook.
    pub keep_connections: bool,
}

/// How it was answered.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Answered {
    pub sent: u64,
    /// By status.
    pub answers: BTreeMap<u16, u64>,
    /// No answer at all, by what went wrong.
    pub unanswered: BTreeMap<String, u64>,
    pub slowest_ms: u64,
}

impl Sandbox {
    /// Returns when the time is over and every request has ended.
    pub async fn load(&self, load: &Load) -> Result<Answered, Error> {
        let items = self.items();
        if items.is_empty() {
            return Err(Error::Unknown { what: "Item", id: "to send webhooks about: link one first".into() });
        }
        let callers = load.callers.clamp(1, 64);
        let pause = Duration::from_secs(1) * callers / load.per_second.clamp(1, 10_000);
        let until = Instant::now() + Duration::from_secs(load.seconds.min(600));
        let mut all = JoinSet::new();
        for caller in 0..callers as usize {
            let http = reqwest::Client::builder().timeout(Duration::from_secs(10)).no_proxy();
            let http = if load.keep_connections { http } else { http.pool_max_idle_per_host(0) }.build()?;
            let (sandbox, url, items) = (self.clone(), load.url.clone(), items.clone());
            all.spawn(async move {
                let mut answered = Answered::default();
                let mut tick = tokio::time::interval(pause);
                tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
                for item in items.iter().cycle().skip(caller) {
                    tick.tick().await;
                    if Instant::now() >= until {
                        break;
                    }
                    sandbox.send_one(&http, &url, item, &mut answered).await;
                }
                answered
            });
        }
        let mut sum = Answered::default();
        for one in all.join_all().await {
            sum.sent += one.sent;
            sum.slowest_ms = sum.slowest_ms.max(one.slowest_ms);
            for (status, n) in one.answers {
                *sum.answers.entry(status).or_default() += n;
            }
            for (why, n) in one.unanswered {
                *sum.unanswered.entry(why).or_default() += n;
            }
        }
        Ok(sum)
    }

    async fn send_one(&self, http: &reqwest::Client, url: &str, item: &str, answered: &mut Answered) {
        let body = Self::webhook_body("ITEM", "ERROR", Some(item), &json!({"error": null}));
        let request = self.sign(&body).to(http, url);
        let began = Instant::now();
        answered.sent += 1;
        match request.send().await {
            Ok(answer) => *answered.answers.entry(answer.status().as_u16()).or_default() += 1,
            Err(error) => *answered.unanswered.entry(causes(&error)).or_default() += 1,
        }
        let took = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        answered.slowest_ms = answered.slowest_ms.max(took);
    }
}

fn causes(error: &reqwest::Error) -> String {
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
