//! One trace from the webhook to the verified PUT, over the processes it passes through. The test plays the collector.

use axum::Router;
use axum::http::HeaderMap;
use axum::routing::post;
use bytes::Bytes;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use prost::Message;
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tests::fleet::Fleet;
use tests::process::{Process, free_port};
use tests::{Parts, World, holds};

/// What every request to the collector has to show.
const HEADER: (&str, &str) = ("x-collector-key", "marked-key");

#[derive(Debug, Clone)]
struct Span {
    service: String,
    name: String,
    trace: Vec<u8>,
    id: Vec<u8>,
    parent: Vec<u8>,
    attributes: BTreeMap<String, String>,
}

impl Span {
    /// The trace id as logs show it.
    fn trace_id(&self) -> String {
        self.trace.iter().map(|b| format!("{b:02x}")).collect()
    }
}

/// Keeps the bodies that were sent to it.
#[derive(Clone)]
struct Collector {
    endpoint: String,
    bodies: Arc<Mutex<Vec<Bytes>>>,
}

impl Collector {
    async fn start() -> Self {
        let bodies: Arc<Mutex<Vec<Bytes>>> = Arc::default();
        let kept = Arc::clone(&bodies);
        let take = move |headers: HeaderMap, body: Bytes| async move {
            assert_eq!(headers[HEADER.0], HEADER.1);
            kept.lock().unwrap().push(body);
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async { axum::serve(listener, Router::new().route("/v1/traces", post(take))).await });
        Self { endpoint, bodies }
    }

    fn spans(&self) -> Vec<Span> {
        let bodies = self.bodies.lock().unwrap();
        let requests = bodies.iter().map(|b| ExportTraceServiceRequest::decode(b.clone()).unwrap());
        let by_process = requests.flat_map(|r| r.resource_spans).flat_map(|spans| {
            let service = texts(&spans.resource.unwrap().attributes)["service.name"].clone();
            spans.scope_spans.into_iter().flat_map(|s| s.spans).map(move |span| (service.clone(), span))
        });
        let read = by_process.map(|(service, span)| Span {
            service,
            attributes: texts(&span.attributes),
            name: span.name,
            trace: span.trace_id,
            id: span.span_id,
            parent: span.parent_span_id,
        });
        read.collect()
    }

    /// The spans of the trace that began with `root` and went as far as `end`.
    fn trace(&self, root: &str, end: &str) -> Vec<Span> {
        let spans = self.spans();
        let roots = spans.iter().filter(|s| s.name == root && s.parent.is_empty());
        let of = |trace: &[u8]| -> Vec<Span> { spans.iter().filter(|s| s.trace == trace).cloned().collect() };
        roots.map(|r| of(&r.trace)).find(|t| t.iter().any(|s| s.name == end)).unwrap_or_default()
    }
}

fn texts(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |pair: &KeyValue| match pair.value.as_ref()?.value.as_ref()? {
        any_value::Value::StringValue(text) => Some((pair.key.clone(), text.clone())),
        any_value::Value::IntValue(number) => Some((pair.key.clone(), number.to_string())),
        _ => None,
    };
    attributes.iter().filter_map(text).collect()
}

/// A fleet that exports to `endpoint`, with a business that is pushed and then rotated, announced by a webhook.
async fn rotated(endpoint: &str, sample: f64) -> Fleet {
    let (name, value) = HEADER;
    let settings = format!("[trace]\nendpoint = \"{endpoint}\"\nsample = {sample:?}\nheaders = \"{name}={value}\"\n");
    let fleet = Fleet::start(World::without_rekey(Parts::Real, &settings).await).await;
    fleet.webhooks_to(0).await;
    fleet.control(Method::POST, "/businesses", json!({"external_id": "acme", "at_layer": true})).await;
    let item = fleet.link("acme", 2).await;
    settled(&fleet).await;
    fleet.control(Method::POST, &format!("/items/{item}/rotate?announce=database"), Value::Null).await;
    fleet.control(Method::POST, &format!("/items/{item}/webhook?type=ITEM&code=ERROR"), Value::Null).await;
    let forged = reqwest::Client::new().post(format!("http://{}/webhooks/plaid", fleet.receivers[0].listen)).body("{}");
    assert_eq!(forged.send().await.unwrap().status(), 401);
    settled(&fleet).await;
    fleet
}

/// Every list is exact, and the reconciliation that made it so has ended: what comes next is no part of its trace.
async fn settled(fleet: &Fleet) {
    let verdict = fleet.until_exact(tests::PATIENCE).await;
    assert_eq!(verdict["violations"], json!([]));
    let ended = || async {
        let work = &fleet.admin(Method::GET, "/v1/businesses/acme", None).await.1["work"];
        work["done"] == work["wanted"] && work["being_looked_at"] == false
    };
    assert!(holds(ended).await, "the look goes on and on");
}

/// Stops every process that exports. What they still hold is exported by then.
async fn stopped(fleet: &Fleet) {
    let began = Instant::now();
    let processes = [&fleet.console].into_iter().chain(&fleet.receivers).chain(&fleet.consumers);
    let codes = futures::future::join_all(processes.map(Process::terminate)).await;
    assert_eq!(codes, [Some(0); 5]);
    assert!(began.elapsed() < Duration::from_secs(8), "they stop slowly: {:?}", began.elapsed());
}

/// Trace ids of the lines that say `what`.
fn logged(processes: &[Process], what: &str) -> BTreeSet<String> {
    let logs = processes.iter().map(|p| std::fs::read_to_string(&p.log).unwrap());
    let lines: Vec<Value> =
        logs.flat_map(|l| l.lines().map(serde_json::from_str).collect::<Vec<_>>()).flatten().collect();
    let said = lines.iter().filter(|l| l["message"] == what);
    said.map(|l| l["span"]["trace"].as_str().expect("the line has a trace id").to_owned()).collect()
}

/// Every span leads to the root, over the processes in between.
fn assert_linked(trace: &[Span], links: &[(&str, &str, &str)]) {
    let parent = |span: &Span| trace.iter().find(|p| p.id == span.parent);
    let roots: Vec<&Span> = trace.iter().filter(|s| s.parent.is_empty()).collect();
    assert_eq!(roots.len(), 1, "{trace:#?}");
    for span in trace.iter().filter(|s| !s.parent.is_empty()) {
        assert!(parent(span).is_some(), "{} leads nowhere: {trace:#?}", span.name);
    }
    for (service, name, under) in links {
        let is_there =
            |s: &&Span| s.service == *service && s.name == *name && parent(s).is_some_and(|p| p.name == *under);
        assert!(trace.iter().any(|s| is_there(&s)), "no {name} of {service} under {under}: {trace:#?}");
    }
}

const LOOKS: [(&str, &str, &str); 6] = [
    ("rekey-consumer", "read accounts", "reconcile item"),
    ("rekey-consumer", "mint", "reconcile item"),
    ("rekey-consumer", "reconcile business", "reconcile item"),
    ("rekey-consumer", "list", "reconcile business"),
    ("rekey-consumer", "put", "reconcile business"),
    ("rekey-consumer", "verify list", "reconcile business"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i3_one_trace_from_the_webhook_to_the_verified_put() {
    let collector = Collector::start().await;
    let fleet = rotated(&collector.endpoint, 1.0).await;
    let whole = || async { !collector.trace("webhook", "reconcile business").is_empty() };
    assert!(holds(whole).await, "{:#?}", collector.spans());
    stopped(&fleet).await;

    let trace = collector.trace("webhook", "put");
    let before = [
        ("rekey-receiver", "verify", "webhook"),
        ("rekey-receiver", "publish", "webhook"),
        ("rekey-consumer", "intake", "webhook"),
        ("rekey-consumer", "reconcile item", "intake"),
    ];
    assert_linked(&trace, &before);
    assert_linked(&trace, &LOOKS);
    let outcomes = |name: &str| -> BTreeSet<&str> {
        let named = trace.iter().filter(|s| s.name == name);
        named.map(|s| s.attributes["outcome"].as_str()).collect()
    };
    assert_eq!(outcomes("mint"), ["ok"].into());
    assert_eq!(outcomes("put"), ["ok"].into());
    assert_eq!(outcomes("webhook"), ["published"].into());
    let accounts: BTreeSet<_> = trace.iter().filter_map(|s| s.attributes.get("account")).collect();
    assert_eq!(accounts.len(), 2, "each mint names its account");

    let forged = |s: &&Span| s.attributes.get("outcome").is_some_and(|o| o == "missing_header");
    assert_eq!(collector.spans().iter().filter(forged).count(), 0, "who floods us fills no collector");

    let push = collector.trace("push", "put");
    assert_linked(&push, &[("rekey-consumer", "reconcile item", "push")]);
    assert_linked(&push, &LOOKS);

    let id = trace[0].trace_id();
    assert!(logged(&fleet.receivers, "webhook published").contains(&id));
    assert!(logged(&fleet.consumers, "Layer has the list").contains(&id));

    let ours = ["SECRET", "KEYS", "KEY", "URL"];
    let secrets = fleet.world.local.environment.iter().filter(|(k, v)| {
        !v.is_empty() && !k.ends_with("BASE_URL") && !k.ends_with("TOKEN_URL") && ours.iter().any(|o| k.ends_with(o))
    });
    let tokens = ["access-sandbox-", "processor-sandbox-", "public-sandbox-", "bearer", HEADER.1];
    let secrets = secrets.map(|(_, v)| v.as_str()).chain(tokens).chain([fleet.world.local.admin_token.as_str()]);
    let secrets: Vec<String> = secrets.map(str::to_ascii_lowercase).collect();
    assert!(secrets.len() > 10, "{} secrets to look for", secrets.len());
    for body in collector.bodies.lock().unwrap().iter() {
        let text = String::from_utf8_lossy(body).to_ascii_lowercase();
        let found = secrets.iter().find(|s| text.contains(s.as_str()));
        assert_eq!(found, None, "I3: exported: {text}");
    }
    fleet.world.local.stop().await;
}

/// Nothing is exported, and the trace ids of the log lines still join the processes up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sample_of_none_exports_nothing() {
    let collector = Collector::start().await;
    let fleet = rotated(&collector.endpoint, 0.0).await;
    stopped(&fleet).await;
    assert_eq!(collector.spans().len(), 0);
    let (published, minted) =
        (logged(&fleet.receivers, "webhook published"), logged(&fleet.consumers, "processor token minted"));
    assert!(published.intersection(&minted).next().is_some(), "{published:?} {minted:?}");
    fleet.world.local.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_away_changes_nothing() {
    changes_nothing(free_port()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_hangs_changes_nothing() {
    // The kernel takes connections, and nobody ever answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    changes_nothing(silent.local_addr().unwrap().port()).await;
}

/// Rotations converge and processes stop as ever, and each process says once that its traces are lost.
async fn changes_nothing(port: u16) {
    let fleet = rotated(&format!("http://127.0.0.1:{port}"), 1.0).await;
    let lost = "traces can't be exported (trace.endpoint); they are dropped until they can";
    let told = |process: &Process| std::fs::read_to_string(&process.log).unwrap().matches(lost).count();
    assert!(holds(|| async { fleet.consumers.iter().any(|c| told(c) > 0) }).await, "nobody says that traces are lost");
    stopped(&fleet).await;
    for process in fleet.receivers.iter().chain(&fleet.consumers) {
        assert!(told(process) <= 1, "the {} repeats itself", process.role);
    }
    fleet.world.local.stop().await;
}
