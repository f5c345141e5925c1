//! `/startz`, `/livez`, `/readyz` and `/metrics`, on a port of their own. What makes a process not ready is
//! said to [`Readiness`] by the binary (`wiring.rs`, `waiting.rs`).

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::get;
use domain::metric;
use metrics_exporter_prometheus::PrometheusHandle;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::watch;

/// Whether the process shall get work, and what it still waits for.
///
/// Each part reports its name once it has started. A broker or a provider that goes away later does not make the process
/// unready: leaving the load balancer would not bring it back. A group that refuses this member does, and so does the database
/// of a process that does nothing without it.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    inner: Arc<watch::Sender<Parts>>,
}

#[derive(Debug, Default)]
struct Parts {
    /// Name of a part, and what it waits for. None once started.
    parts: BTreeMap<&'static str, Option<String>>,
    draining: bool,
}

impl Parts {
    fn are_ready(&self) -> bool {
        !self.draining && self.parts.values().all(Option::is_none)
    }
}

impl Readiness {
    /// Nothing is ready before [`Readiness::begun`]: a process that has not yet said what it waits for is not ready.
    pub fn begin(&self) {
        self.expect(BEGINNING);
    }
    /// It has said what it waits for.
    pub fn begun(&self) {
        self.started(BEGINNING);
    }
    /// Announces a part that must start before the process is ready.
    pub fn expect(&self, part: &'static str) {
        self.inner.send_modify(|s| {
            s.parts.entry(part).or_insert(Some("starting".into()));
        });
    }
    /// The part waits, and for what; the process is not ready.
    pub fn waiting(&self, part: &'static str, why: impl Into<String>) {
        self.inner.send_modify(|s| {
            s.parts.insert(part, Some(why.into()));
        });
    }
    /// The part waits for nothing any more.
    pub fn started(&self, part: &'static str) {
        self.inner.send_modify(|s| {
            s.parts.insert(part, None);
        });
    }
    /// The process is about to stop: not ready from now on.
    pub fn drain(&self) {
        self.inner.send_modify(|s| s.draining = true);
    }
    /// Whether it is about to stop.
    pub fn is_draining(&self) -> bool {
        self.inner.borrow().draining
    }
    /// The configuration was taken and every port is bound; what else is missing is waited for.
    pub fn has_begun(&self) -> bool {
        self.inner.borrow().parts.get(BEGINNING).is_some_and(Option::is_none)
    }
    /// Whether it shall get work.
    pub fn is_ready(&self) -> bool {
        self.inner.borrow().are_ready()
    }
    /// Waits until it is.
    pub async fn ready(&self) {
        // The sender lives as long as this.
        drop(self.inner.subscribe().wait_for(Parts::are_ready).await);
    }
    fn report(&self) -> (bool, String) {
        let now = self.inner.borrow();
        let part = |(part, wait): (&&str, &Option<String>)| format!("{part}: {}", wait.as_deref().unwrap_or("ready"));
        let mut lines: Vec<String> = now.parts.iter().map(part).collect();
        if now.draining {
            lines.push("draining".into());
        }
        (now.are_ready(), lines.join("\n") + "\n")
    }
}

/// The part that ends when everything a process does by itself is done.
const BEGINNING: &str = "start";

#[derive(Clone)]
struct Ops {
    readiness: Readiness,
    metrics: PrometheusHandle,
}

/// The routes of the operations port. `/startz`: begun, once and for all. `/readyz`: give me work. `/livez`: this process
/// still runs tasks; it says nothing of what it depends on, because a restart would mend none of that.
pub fn ops_routes(readiness: Readiness, metrics: PrometheusHandle) -> Router {
    Router::new()
        .route("/startz", get(startz))
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(scrape))
        .with_state(Ops { readiness, metrics })
}

/// `/` and `/healthz` on a public port, where the load balancers of ALB and GKE ask by themselves: 200 while this process shall get
/// work. Why it shall not is nobody's business there.
pub fn public_health_routes(readiness: Readiness) -> Router {
    Router::new().route("/", get(health)).route("/healthz", get(health)).with_state(readiness)
}

async fn health(State(readiness): State<Readiness>) -> impl IntoResponse {
    if readiness.is_ready() { (StatusCode::OK, "ok\n") } else { (StatusCode::SERVICE_UNAVAILABLE, "not ready\n") }
}

async fn startz(State(ops): State<Ops>) -> impl IntoResponse {
    if ops.readiness.has_begun() {
        (StatusCode::OK, "begun\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "starting\n")
    }
}

async fn scrape(State(ops): State<Ops>) -> String {
    metrics::gauge!(metric::READY).set(f64::from(u8::from(ops.readiness.is_ready())));
    ops.metrics.render()
}

async fn readyz(State(ops): State<Ops>) -> impl IntoResponse {
    let (ready, report) = ops.readiness.report();
    (if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, report)
}
