//! Holds each provider call of a worker until the explorer says what becomes of it.

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::Uri;
use axum::response::Response;
use futures::stream;
use parking_lot::{Mutex, MutexGuard};
use sandbox::Sandbox;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::{Notify, oneshot};
use tower::ServiceExt;

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Fate {
    Answered,
    /// It has its effect, and the answer is lost.
    Lost,
    /// It never arrives.
    Cut,
}

/// A call that waits.
#[derive(Debug)]
struct Waiting {
    call: String,
    fate: oneshot::Sender<Fate>,
}

#[derive(Debug, Default)]
struct Inner {
    waiting: BTreeMap<usize, Waiting>,
    /// The last answer that each worker got.
    answered: BTreeMap<usize, u64>,
    /// A call whose sender is dead and that is still on its way.
    lingering: Option<Waiting>,
    arrived: u32,
    open: bool,
}

/// The gate in front of a sandbox. Clones are the same gate.
#[derive(Debug, Clone)]
pub(crate) struct Gate {
    inner: Arc<Mutex<Inner>>,
    pub(crate) changed: Arc<Notify>,
    routes: Router,
    pub(crate) address: SocketAddr,
}

impl Gate {
    pub(crate) async fn start(sandbox: &Sandbox) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let gate = Self { inner: Arc::default(), changed: Arc::default(), routes: sandbox.routes(), address };
        let router = Router::new().fallback(pass).with_state(gate.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        gate
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock()
    }

    /// Lets everything pass, or holds every call.
    pub(crate) fn open(&self, open: bool) {
        self.inner().open = open;
    }

    /// What this worker asks for, if it waits.
    pub(crate) fn asks(&self, worker: usize) -> Option<String> {
        self.inner().waiting.get(&worker).map(|w| w.call.clone())
    }

    pub(crate) fn answered(&self, worker: usize) -> u64 {
        self.inner().answered.get(&worker).copied().unwrap_or_default()
    }

    /// Decides the call that the worker waits for.
    pub(crate) fn decide(&self, worker: usize, fate: Fate) {
        if let Some(waiting) = self.inner().waiting.remove(&worker) {
            let _ = waiting.fate.send(fate);
        }
    }

    /// The worker's call stays on its way, whatever becomes of the worker.
    pub(crate) fn linger(&self, worker: usize) {
        let mut inner = self.inner();
        inner.lingering = inner.waiting.remove(&worker);
    }

    pub(crate) fn is_lingering(&self) -> bool {
        self.inner().lingering.is_some()
    }

    /// The call that was on its way arrives, and has its effect.
    pub(crate) async fn arrive(&self) {
        let Some(waiting) = self.inner().lingering.take() else { return };
        let before = self.inner().arrived;
        let _ = waiting.fate.send(Fate::Lost);
        while self.inner().arrived == before {
            tokio::task::yield_now().await;
        }
    }

    /// Forgets what waits.
    pub(crate) fn clear(&self) {
        let mut inner = self.inner();
        inner.waiting.clear();
        inner.answered.clear();
        inner.lingering = None;
    }
}

fn broken() -> Response {
    let cut = stream::iter([Err::<Bytes, _>(std::io::Error::from(std::io::ErrorKind::ConnectionReset))]);
    let mut response = Response::new(Body::from_stream(cut));
    response.headers_mut().insert("content-length", 100.into());
    response
}

/// `/0/…` and `/1/…` are the workers' calls, the rest passes.
async fn pass(State(gate): State<Gate>, mut request: Request) -> Response {
    let uri = request.uri().clone();
    let path = uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    let worker = path.get(1..2).and_then(|digit| digit.parse::<usize>().ok()).filter(|_| path.get(2..3) == Some("/"));
    let Some(worker) = worker else { return forward(&gate, request).await };
    *request.uri_mut() = path[2..].parse::<Uri>().unwrap();
    if gate.inner().open {
        return forward(&gate, request).await;
    }
    let (fate, decided) = oneshot::channel();
    let call = format!("{} {}", request.method(), request.uri().path());
    gate.inner().waiting.insert(worker, Waiting { call, fate });
    gate.changed.notify_one();
    // In a task of its own: what was sent arrives, though its sender may be dead by then.
    tokio::spawn(decide(gate, worker, decided, request)).await.unwrap_or_else(|_| broken())
}

async fn decide(gate: Gate, worker: usize, decided: oneshot::Receiver<Fate>, request: Request) -> Response {
    match decided.await {
        Ok(Fate::Answered) => {
            let (head, body) = forward(&gate, request).await.into_parts();
            let body = axum::body::to_bytes(body, usize::MAX).await.unwrap_or_default();
            let mut hasher = DefaultHasher::new();
            (head.status.as_u16(), &body[..]).hash(&mut hasher);
            gate.inner().answered.insert(worker, hasher.finish());
            Response::from_parts(head, Body::from(body))
        }
        Ok(Fate::Lost) => {
            forward(&gate, request).await;
            let mut inner = gate.inner();
            inner.answered.insert(worker, 1);
            inner.arrived += 1;
            drop(inner);
            broken()
        }
        Ok(Fate::Cut) | Err(_) => {
            gate.inner().answered.insert(worker, 2);
            broken()
        }
    }
}

async fn forward(gate: &Gate, request: Request) -> Response {
    match gate.routes.clone().oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}
