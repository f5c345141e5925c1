//! Rekey and its sandbox, every role a process of its own, driven over HTTP as a platform and an operator would.

use crate::World;
use crate::process::Process;
use reqwest::Method;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Two receivers, two consumers, a console and a sandbox.
#[derive(Debug)]
pub struct Fleet {
    pub sandbox: Process,
    pub console: Process,
    pub receivers: [Process; 2],
    pub consumers: [Process; 2],
    /// Holds what they stand on.
    pub world: World,
    http: reqwest::Client,
}

impl Fleet {
    pub async fn start(mut world: World) -> Self {
        let sandbox = Process::spawn(&world, "sandbox");
        let base = format!("http://{}", sandbox.sandbox);
        for key in ["REKEY_PLAID__BASE_URL", "REKEY_LAYER__BASE_URL"] {
            world.local.environment.insert(key.into(), base.clone());
        }
        world.local.environment.insert("REKEY_LAYER__TOKEN_URL".into(), format!("{base}/oauth2/token"));
        sandbox.ready().await;
        let console = Process::spawn(&world, "console");
        let receivers = [Process::spawn(&world, "receiver"), Process::spawn(&world, "receiver")];
        let consumers = [Process::spawn(&world, "consumer"), Process::spawn(&world, "consumer")];
        for process in [&console].into_iter().chain(&receivers).chain(&consumers) {
            process.ready().await;
        }
        let http = reqwest::Client::builder().timeout(Duration::from_secs(30)).build().unwrap();
        Self { sandbox, console, receivers, consumers, world, http }
    }

    /// Calls the sandbox's control API; panics if it refuses.
    pub async fn control(&self, method: Method, path: &str, body: Value) -> Value {
        let url = format!("http://{}/control{path}", self.sandbox.sandbox);
        let answer = self.http.request(method, &url).json(&body).send().await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert!(status.is_success(), "{path}: {status} {text}");
        serde_json::from_str(&text).unwrap()
    }

    /// Calls the admin API.
    pub async fn admin(&self, method: Method, path: &str, body: Option<&Value>) -> (u16, Value) {
        let url = format!("http://{}{path}", self.console.console);
        let mut request = self.http.request(method, &url).bearer_auth(&self.world.local.admin_token);
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        (status, answer.json().await.unwrap_or_default())
    }

    /// Webhooks of Items linked from now on go to this receiver.
    pub async fn webhooks_to(&self, receiver: usize) {
        let url = format!("http://{}/control/webhook-url", self.sandbox.sandbox);
        let receiver = format!("http://{}/webhooks/plaid", self.receivers[receiver].listen);
        assert!(self.http.put(url).body(receiver).send().await.unwrap().status().is_success());
    }

    /// The platform links an Item with that many accounts and pushes it.
    pub async fn link(&self, business: &str, accounts: usize) -> String {
        let accounts: Vec<Value> =
            (0..accounts).map(|n| json!({"name": "Checking", "mask": format!("{:04}", 1000 + n)})).collect();
        let new = json!({"business": business, "accounts": accounts, "announce": "database"});
        let made = self.control(Method::POST, "/items", new).await;
        let item = made["item_id"].as_str().unwrap().to_owned();
        self.push(&item, business).await;
        item
    }

    /// The platform pushes the token it holds, again until Rekey has taken it.
    pub async fn push(&self, item: &str, business: &str) {
        let deadline = Instant::now() + crate::PATIENCE;
        loop {
            let url = format!("http://{}/control/items/{item}/token", self.sandbox.sandbox);
            let token = self.http.get(url).send().await.unwrap().text().await.unwrap();
            let body = json!({"access_token": token, "business": business});
            let (status, answer) = self.admin(Method::PUT, &format!("/v1/items/{item}?timeout=0"), Some(&body)).await;
            // 422: another rotation came between, and its token is pushed next.
            if status < 300 {
                return;
            }
            assert!(Instant::now() < deadline, "pushing {item}: {status} {answer}");
        }
    }

    /// Waits until every list at Layer is exact and nothing is parked; the oracle's verdict.
    pub async fn until_exact(&self, bound: Duration) -> Value {
        let deadline = Instant::now() + bound;
        loop {
            let verdict = self.control(Method::GET, "/verdict?wait=10", Value::Null).await;
            let (_, parked) = self.admin(Method::GET, "/v1/parked", None).await;
            if verdict["exact"] == true && parked["data"] == json!([]) {
                return verdict;
            }
            assert!(Instant::now() < deadline, "not exact: {verdict}\nparked: {parked}");
        }
    }
}
