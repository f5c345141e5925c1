//! What a webhook costs the receiver, beside the least that any receiver does: a process of the bench's own, [`crate::floor`],
//! under the same load, on the same core, on the same Kafka.

use crate::cores::Pinned;
use crate::load::{Answers, Load, request};
use crate::plot::{Lines, Plot};
use crate::report::{Figure, Report, Spread};
use crate::rig::{Rig, until};
use crate::usage::{cpu, memory};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use sandbox::Sandbox;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tests::kafka_address;
use tests::process::{Process, free_port};

/// How long, and how often.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    pub(crate) lasts: Duration,
    pub(crate) times: usize,
    /// Requests that are signed beforehand, and come again and again.
    pub(crate) signed: usize,
}

impl Size {
    pub(crate) const FULL: Self = Self { lasts: Duration::from_secs(8), times: 3, signed: 1024 };
    pub(crate) const SMOKE: Self = Self { lasts: Duration::from_millis(500), times: 1, signed: 64 };
}

const CONNECTIONS: usize = 64;
/// Items that the webhooks are about.
pub(crate) const ITEMS: usize = 1000;

/// A server under load.
struct Subject {
    name: &'static str,
    to: SocketAddr,
    pid: u32,
    /// Microseconds of its processor for each answer.
    cpu: Vec<f64>,
    most: f64,
    idle: f64,
}

/// The floor's process; killed when dropped.
struct FloorProcess(Child);

impl Drop for FloorProcess {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

pub(crate) async fn run(size: Size, rekey: Option<&Path>, report: &mut Report) {
    let rig = Rig::bare("").await;
    let receiver = Process::start(&rig.world, "receiver").await;
    let (floor, floor_at) = start_floor(&rig, rekey).await;
    let pinned = Pinned::apart();
    if !pinned.apart {
        report.note("receiver: not pinned to a core of its own");
    }
    let subject = |name, to, pid| {
        pinned.alone(pid);
        Subject { name, to, pid, cpu: Vec::new(), most: 0.0, idle: memory(pid, "VmRSS") }
    };
    let mut subjects = [subject("floor", floor_at, floor.0.id()), subject("Rekey", receiver.listen, receiver.pid())];
    verified(&rig, size, &mut subjects, report).await;
    half_load(&rig, size, &subjects, report).await;
    refused(&rig, size, &subjects, report).await;
    forged(&rig, size, &subjects, report).await;
    drop((pinned, floor));
    receiver.terminate().await;
}

/// As fast as 64 connections can, in turns.
async fn verified(rig: &Rig, size: Size, subjects: &mut [Subject; 2], report: &mut Report) {
    let requests = good(&rig.world.sandbox, size.signed).await;
    let mut loaded = [0.0; 2];
    for n in 0..=size.times {
        for (subject, loaded) in subjects.iter_mut().zip(&mut loaded) {
            let (answers, cost) = full(subject, &requests, size).await;
            *loaded = memory(subject.pid, "VmRSS");
            // The first time connections are made, keys are asked for and memory is touched.
            if n > 0 {
                subject.cpu.push(cost);
                subject.most = subject.most.max(answers.rate());
                if !answers.are_all(200) {
                    report.note(format!("receiver: {} answered {:?}", subject.name, answers.by_status));
                }
            }
        }
    }
    let [floor, ours] = subjects;
    let least = Spread::of(&floor.cpu).median;
    let what = "CPU of a verified, durable webhook";
    report.add(Figure::new("receiver", format!("{what}: floor"), "us", &floor.cpu));
    report.add(Figure::new("receiver", what, "us", &ours.cpu).beside("floor", least).goal("<= 1.25x"));
    report.add(Figure::one("receiver", "webhooks a second at most", "/s", ours.most).beside("floor", floor.most));
    report.add(Figure::one("receiver", "memory, idle", "MiB", ours.idle).beside("floor", floor.idle).goal("<= 20"));
    report.add(Figure::one("receiver", "memory, loaded", "MiB", loaded[1]).beside("floor", loaded[0]).goal("<= 30"));
}

/// The answers, and microseconds of the server's processor for each.
async fn full(subject: &Subject, requests: &Arc<Vec<Vec<u8>>>, size: Size) -> (Answers, f64) {
    let before = cpu(subject.pid);
    let answers = load(subject, requests, size, None).run().await;
    let used = cpu(subject.pid).saturating_sub(before);
    let each = used.as_secs_f64() * 1e6 / answers.count() as f64;
    (answers, each)
}

fn load(subject: &Subject, requests: &Arc<Vec<Vec<u8>>>, size: Size, per_second: Option<f64>) -> Load {
    Load { to: subject.to, requests: requests.clone(), connections: CONNECTIONS, lasts: size.lasts, per_second }
}

async fn half_load(rig: &Rig, size: Size, subjects: &[Subject; 2], report: &mut Report) {
    let requests = good(&rig.world.sandbox, size.signed).await;
    let mut took = [Vec::new(), Vec::new()];
    let mut percentiles = [[Vec::new(), Vec::new()], [Vec::new(), Vec::new()]];
    for _ in 0..size.times {
        for (n, subject) in subjects.iter().enumerate() {
            let answers = load(subject, &requests, size, Some(subject.most / 2.0)).run().await;
            for (to, percent) in percentiles[n].iter_mut().zip([50, 99]) {
                to.push(answers.percentile(percent));
            }
            took[n].extend(answers.took);
        }
    }
    for (n, percent) in ["p50", "p99"].into_iter().enumerate() {
        let least = Spread::of(&percentiles[0][n]).median;
        let figure = Figure::new("receiver", format!("{percent} at half load"), "ms", &percentiles[1][n]);
        report.add(figure.beside("floor", least));
    }
    let title = "Until a webhook is answered 200, at half of what each server can do";
    report.plot(Plot::Lines(Lines::distribution(title, &[("floor", &took[0]), ("Rekey", &took[1])])));
}

/// What is refused before its signature is looked at should cost next to nothing.
async fn refused(rig: &Rig, size: Size, subjects: &[Subject; 2], report: &mut Report) {
    let [floor, ours] = subjects;
    let sandbox = &rig.world.sandbox;
    let bare = Arc::new(vec![request(None, body(0).as_slice())]);
    let mut least = Vec::new();
    for _ in 0..size.times {
        least.push(full(floor, &bare, size).await.1);
    }
    let anchor = Spread::of(&least).median;
    report.add(Figure::new("receiver", "CPU of a bare answer: floor", "us", &least));
    for (what, requests) in [
        ("without the header", bare.clone()),
        ("with a header that is no JWT", Arc::new(vec![request(Some("nonsense"), &body(0))])),
        ("under another algorithm", other_algorithm(sandbox, size.signed).await),
        (
            "signed an hour ago",
            made(sandbox, size.signed, |s, n| request(Some(&s.sign_at(&body(n), now() - 3600)), &body(n))).await,
        ),
        (
            "signed over another body",
            made(sandbox, size.signed, |s, n| request(Some(&s.sign_at(&body(n), now())), &body(n + 1))).await,
        ),
    ] {
        let (mut costs, mut statuses) = (Vec::new(), std::collections::BTreeSet::new());
        for _ in 0..size.times {
            let (answers, cost) = full(ours, &requests, size).await;
            costs.push(cost);
            statuses.extend(answers.by_status.into_keys());
        }
        let figure = Figure::new("receiver", format!("CPU of a webhook {what}, answered {statuses:?}"), "us", &costs);
        report.add(figure.beside("bare answer", anchor).goal("<= 2x"));
    }
}

/// Good webhooks at a rate that disturbs nobody, alone and beside others whose signatures are wrong.
async fn forged(rig: &Rig, size: Size, subjects: &[Subject; 2], report: &mut Report) {
    let forged = made(&rig.world.sandbox, size.signed, |sandbox, n| {
        let token = sandbox.sign_at(&body(n), now());
        // Of the right length and form, and nobody's.
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let forged: String = signature.chars().rev().skip(1).chain(['A']).collect();
        request(Some(&format!("{signed}.{forged}")), &body(n))
    })
    .await;
    let mut ratios = [Vec::new(), Vec::new()];
    for _ in 0..size.times {
        let requests = good(&rig.world.sandbox, size.signed).await;
        for (subject, ratios) in subjects.iter().zip(&mut ratios) {
            let good = Load { connections: 8, ..load(subject, &requests, size, Some(200.0)) };
            let calm = good.run().await.percentile(99);
            let forgers = load(subject, &forged, size, None);
            let (beside, _) = tokio::join!(good.run(), forgers.run());
            ratios.push(beside.percentile(99) / calm);
        }
    }
    let floor = Spread::of(&ratios[0]).median;
    let what = "p99 of good webhooks beside 64 connections of forged ones, calm = 1";
    report.add(Figure::new("receiver", what, "x", &ratios[1]).beside("floor", floor).goal("<= 2x calm"));
}

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// Plaid's most frequent webhook.
pub(crate) fn body(n: usize) -> Vec<u8> {
    let more = json!({"error": null, "initial_update_complete": true, "historical_update_complete": true, "bench": n});
    let item = format!("item{:020}", n % ITEMS);
    Sandbox::webhook_body("TRANSACTIONS", "SYNC_UPDATES_AVAILABLE", Some(&item), &more)
}

async fn good(sandbox: &Sandbox, how_many: usize) -> Arc<Vec<Vec<u8>>> {
    made(sandbox, how_many, |sandbox, n| request(Some(&sandbox.sign_at(&body(n), now())), &body(n))).await
}

async fn other_algorithm(sandbox: &Sandbox, how_many: usize) -> Arc<Vec<Vec<u8>>> {
    made(sandbox, how_many, |sandbox, n| {
        let token = sandbox.sign_at(&body(n), now());
        let (_, rest) = token.split_once('.').unwrap();
        let header = json!({"alg": "HS256", "kid": key_id(sandbox), "typ": "JWT"});
        request(Some(&format!("{}.{rest}", BASE64.encode(header.to_string()))), &body(n))
    })
    .await
}

/// Off the threads that send, for signing is slow.
async fn made(sandbox: &Sandbox, how_many: usize, one: fn(&Sandbox, usize) -> Vec<u8>) -> Arc<Vec<Vec<u8>>> {
    let sandbox = sandbox.clone();
    let all = tokio::task::spawn_blocking(move || (0..how_many).map(|n| one(&sandbox, n)).collect());
    Arc::new(all.await.unwrap())
}

/// Of the key that the sandbox signs with.
fn key_id(sandbox: &Sandbox) -> String {
    let token = sandbox.sign_at(b"", 0);
    let header = BASE64.decode(token.split('.').next().unwrap()).unwrap();
    serde_json::from_slice::<Value>(&header).unwrap()["kid"].as_str().unwrap().to_owned()
}

/// Beside the optimised `rekey` there may be an optimised bench, too.
async fn start_floor(rig: &Rig, rekey: Option<&Path>) -> (FloorProcess, SocketAddr) {
    let beside = rekey.and_then(Path::parent).map(|p| p.join("bench")).filter(|p| p.exists());
    let program = beside.unwrap_or_else(|| std::env::current_exe().unwrap());
    let listen = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let environment = &rig.world.local.environment;
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let asked = http
        .post(format!("{}/webhook_verification_key/get", environment["REKEY_PLAID__BASE_URL"]))
        .header("PLAID-CLIENT-ID", sandbox::PLAID_CLIENT_ID)
        .header("PLAID-SECRET", &environment["REKEY_PLAID__SECRET"])
        .json(&json!({"key_id": key_id(&rig.world.sandbox)}));
    let key: Value = asked.send().await.unwrap().json().await.unwrap();
    let part = |name: &str| BASE64.decode(key["key"][name].as_str().unwrap()).unwrap();
    let point = [vec![4], part("x"), part("y")].concat();
    let topic = rig.world.local.config("").unwrap().kafka.topics.other_events;
    let child = Command::new(program)
        .args(["floor", "--listen", &listen.to_string(), "--kafka", &kafka_address(), "--topic", &topic])
        .args(["--key", &BASE64.encode(point)])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let floor = FloorProcess(child);
    until("the floor listens", tests::PATIENCE, || async { tokio::net::TcpStream::connect(listen).await.is_ok() })
        .await;
    (floor, listen)
}
