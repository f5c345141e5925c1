//! Plaid's webhooks: its body form, its signature, its schedule of retries.
//! <https://plaid.com/docs/api/webhooks/#webhook-retries>

use crate::faults::{FaultKind, WEBHOOK};
use crate::{Error, Sandbox};
use serde_json::{Map, Value, json};
use std::time::Duration;

/// Plaid waits this long before the first retry and four times as long before each next one, up to a day.
const FIRST_RETRY: Duration = Duration::from_secs(30);
const GIVE_UP: Duration = Duration::from_secs(24 * 3600);

/// A signed request, ready to be sent as it is.
#[derive(Debug, Clone)]
pub struct SignedWebhook {
    pub body: Vec<u8>,
    pub header: String,
}

impl SignedWebhook {
    /// A request that is not sent yet.
    pub(crate) fn to(self, http: &reqwest::Client, url: &str) -> reqwest::RequestBuilder {
        let request = http.post(url).header("content-type", "application/json");
        request.header("plaid-verification", self.header).body(self.body)
    }
}

impl Sandbox {
    /// The body that Plaid would send: two-space indentation, no final newline.
    pub fn webhook_body(webhook_type: &str, webhook_code: &str, item: Option<&str>, extra: &Value) -> Vec<u8> {
        let mut fields = Map::new();
        fields.insert("webhook_type".into(), webhook_type.into());
        fields.insert("webhook_code".into(), webhook_code.into());
        if let Some(item) = item {
            fields.insert("item_id".into(), item.into());
        }
        fields.insert("environment".into(), "sandbox".into());
        if let Value::Object(extra) = extra {
            fields.extend(extra.clone());
        }
        serde_json::to_vec_pretty(&Value::Object(fields)).unwrap_or_default()
    }

    /// Signs with the newest key, at this moment.
    pub fn sign(&self, body: &[u8]) -> SignedWebhook {
        let header = self.sign_at(body, jiff::Timestamp::now().as_second());
        SignedWebhook { body: body.to_vec(), header }
    }

    /// The `Plaid-Verification` header of the newest key, issued at any time (Unix seconds).
    pub fn sign_at(&self, body: &[u8], issued_at: i64) -> String {
        self.world().signers.last().map(|s| s.sign(body, issued_at)).unwrap_or_default()
    }

    /// Sends a webhook about an Item as Plaid would, retries included, in the background.
    pub fn fire(&self, item: &str, webhook_type: &str, webhook_code: &str, extra: &Value) -> Result<(), Error> {
        let url = {
            let mut world = self.world();
            let of = world.item(item)?;
            let url = of.webhook_url.clone();
            if url.is_some() {
                of.last_webhook = Some((jiff::Timestamp::now(), webhook_code.to_owned()));
            }
            world.counts.webhooks_sent += 1;
            url
        };
        let Some(url) = url else { return Ok(()) };
        let body = Self::webhook_body(webhook_type, webhook_code, Some(item), extra);
        let (mut copies, mut wait, mut skew) = (1, Duration::ZERO, 0);
        for met in self.met(WEBHOOK, &[item]) {
            match met {
                // Lost on the way, and Plaid believes that it arrived.
                FaultKind::CutBefore | FaultKind::LoseAnswer => return Ok(()),
                FaultKind::Repeat { copies: more } => copies += more,
                // Late, and so behind those that were sent after it.
                FaultKind::Delay { millis } => wait = Duration::from_millis(millis),
                FaultKind::ClockStep { seconds } => skew = seconds,
                _ => {}
            }
        }
        for _ in 0..copies {
            let (sandbox, url, body) = (self.clone(), url.clone(), body.clone());
            tokio::spawn(async move {
                tokio::time::sleep(wait).await;
                sandbox.deliver(&url, body, skew).await;
            });
        }
        Ok(())
    }

    /// Each try is signed afresh: a signature of the first one would be too old for the later ones.
    async fn deliver(&self, url: &str, body: Vec<u8>, skew: i64) {
        let (mut wait, mut waited) = (FIRST_RETRY, Duration::ZERO);
        loop {
            let status = self.send_skewed(url, &body, skew).await;
            self.world().deliveries.push((url.to_owned(), status));
            if status == 200 {
                let mut world = self.world();
                world.counts.webhooks_answered_200 += 1;
                world.accepted.push(body);
                return;
            }
            if waited + wait > GIVE_UP || self.receiver_is_hopeless() {
                return;
            }
            tokio::time::sleep(wait.mul_f64(self.settings.webhook_retry_scale)).await;
            waited += wait;
            wait *= 4;
        }
    }

    pub(crate) async fn send_skewed(&self, url: &str, body: &[u8], skew: i64) -> u16 {
        let header = self.sign_at(body, jiff::Timestamp::now().as_second() + skew);
        let request = SignedWebhook { body: body.to_vec(), header }.to(&self.http, url);
        request.send().await.map_or(0, |answer| answer.status().as_u16())
    }

    /// Plaid stops retrying for an endpoint that rejected more than 90 % of a day's webhooks.
    fn receiver_is_hopeless(&self) -> bool {
        let world = self.world();
        let all = world.deliveries.len();
        let failed = world.deliveries.iter().filter(|(_, status)| *status != 200).count();
        all >= 100 && failed * 10 > all * 9
    }

    /// An error object as it stands inside a webhook.
    pub fn webhook_error(error_code: &str) -> Value {
        json!({"error": {
            "error_type": "ITEM_ERROR", "error_code": error_code, "error_message": "made by the sandbox",
            "display_message": null, "status": 400,
        }})
    }
}
