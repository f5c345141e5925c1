//! What stories wait for: conditions, each within a bound, and never for a time.

use crate::{World, is_quiet, parked};
use serde_json::Value;
use std::future::Future;
use std::time::{Duration, Instant};

/// Waits on conditions are bounded by this; a story that reaches it has failed.
pub const PATIENCE: Duration = Duration::from_secs(40);

impl World {
    /// Waits until every list at Layer is exact and no work is left over.
    pub async fn until_exact(&self) {
        self.until_exact_within(PATIENCE).await;
    }

    pub async fn until_exact_within(&self, patience: Duration) {
        let exact = || async { self.sandbox.verdict().exact && self.is_quiet().await };
        if !holds_within(patience, exact).await {
            panic!("not exact: {:?}\nparked: {:?}", self.sandbox.verdict(), self.parked().await);
        }
    }

    /// Waits until no work is left that could go on by itself, exact or not.
    pub async fn until_quiet(&self) {
        assert!(holds(|| self.is_quiet()).await, "work goes on and on");
    }

    /// Nothing is being looked at and every event has been served or waits for a named reason.
    async fn is_quiet(&self) -> bool {
        match self.rekeys.iter().find_map(|r| r.store.get()) {
            Some(store) => is_quiet(store).await,
            None => true,
        }
    }

    /// Waits until the admin API shows the Item in this state.
    pub async fn until_item(&self, item: &str, state: &str) {
        let reached = || async {
            let (status, body) = self.admin("GET", &format!("/v1/items/{item}"), None).await;
            status == 200 && body["state"] == state
        };
        assert!(
            holds(reached).await,
            "{item} is not {state}: {:?}",
            self.admin("GET", &format!("/v1/items/{item}"), None).await.1
        );
    }

    /// Waits until the business is blocked for this reason.
    pub async fn until_blocked(&self, kind: &str, id: &str, code: &str) {
        let path = format!("/v1/{}/{id}", if kind == "item" { "items" } else { "businesses" });
        let reached = || async { self.admin("GET", &path, None).await.1["work"]["blocked"]["code"] == code };
        assert!(
            holds(reached).await,
            "{kind} {id} is not blocked by {code}: {:?}",
            self.admin("GET", &path, None).await.1
        );
    }

    /// Waits until the verdict that the API shows at `path` is this one, and returns it.
    pub async fn until_state(&self, path: &str, state: &str) -> Value {
        let reached = || async { self.verdict(path).await["state"] == state };
        assert!(holds(reached).await, "{path} is never {state}: {}", self.verdict(path).await);
        self.verdict(path).await
    }

    /// The verdict that the API shows at `path`.
    pub async fn verdict(&self, path: &str) -> Value {
        self.admin("GET", path, None).await.1["verdict"].clone()
    }

    pub async fn until(&self, what: &str, condition: impl Fn() -> bool) {
        let held = holds(|| async { condition() }).await;
        assert!(held, "waited in vain: {what}\n{:?}\nparked: {:?}", self.sandbox.verdict(), self.parked().await);
    }

    pub async fn parked(&self) -> Vec<String> {
        match self.rekeys.iter().find_map(|r| r.store.get()) {
            Some(store) => parked(store).await,
            None => Vec::new(),
        }
    }
}

/// Waits until the condition holds, within [`PATIENCE`].
pub async fn holds<F: Future<Output = bool>>(condition: impl Fn() -> F) -> bool {
    holds_within(PATIENCE, condition).await
}

async fn holds_within<F: Future<Output = bool>>(patience: Duration, condition: impl Fn() -> F) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        if condition().await {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
