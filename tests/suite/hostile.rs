//! Callers who mean harm, while good webhooks keep coming: every good one is answered 200, soon, and is on Kafka.

use domain::Role;
use jiff::Timestamp;
use sandbox::{Sandbox, Signer};
use serde_json::json;
use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tests::{Parts, World};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

on_both_parts!(good_webhooks_pass_through_floods_of_bad_ones, good_webhooks_pass_while_all_connections_are_held,);

const RECEIVER: &[Role] = &[Role::Receiver];
/// Few connections, so that a test can take them all; and patience that would show.
const SETTINGS: &str = "[receiver]\nmax_body = 20000\nmax_connections = 40\nheader_timeout = \"20s\"\nbody_timeout = \"8s\"\n\
                        [plaid.keys]\nwait = \"2s\"\nlookups_per_minute = 60\n";
/// Good ones are sent during each attack.
const GOOD: usize = 15;
/// A good one that took longer was held up: what is held would be held for much longer.
const SOON: Duration = Duration::from_secs(7);

type Attack = fn(&Arc<Target>) -> JoinSet<()>;

/// Whom the attackers know: an address, a body, and Plaid's `kid`, which stands in every header.
struct Target {
    address: SocketAddr,
    body: Vec<u8>,
    kid: String,
}

impl Target {
    fn of(world: &World) -> Arc<Self> {
        let body = Sandbox::webhook_body("ITEM", "ERROR", Some("forged"), &json!({}));
        let header = world.sandbox.sign(&body).header;
        let kid = crate::receiver::key_id(&header);
        Arc::new(Self { address: world.rekey().receiver.unwrap(), body, kid })
    }

    /// A request that is right in all but its signature.
    fn request(&self, signature: &str, body: &[u8]) -> Vec<u8> {
        let head = format!(
            "POST /webhooks/plaid HTTP/1.1\r\nhost: x\r\nplaid-verification: {signature}\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        [head.as_bytes(), body].concat()
    }

    /// Sends on a connection of its own and reads until the other side closes. Errors are the attacker's own trouble.
    async fn send(&self, bytes: &[u8]) -> Option<String> {
        let mut stream = TcpStream::connect(self.address).await.ok()?;
        stream.write_all(bytes).await.ok()?;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        Some(String::from_utf8_lossy(&answer).into_owned())
    }
}

/// So many attackers, each doing the same again and again.
fn again<F>(
    target: &Arc<Target>,
    attackers: usize,
    attack: impl Fn(Arc<Target>) -> F + Copy + Send + 'static,
) -> JoinSet<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut flood = JoinSet::new();
    for _ in 0..attackers {
        let target = Arc::clone(target);
        flood.spawn(async move {
            loop {
                attack(Arc::clone(&target)).await;
                tokio::task::yield_now().await;
            }
        });
    }
    flood
}

/// Well formed, under the right key's name, signed by a stranger.
fn bad_signatures(target: &Arc<Target>) -> JoinSet<()> {
    again(target, 20, |target| async move {
        let stranger = Signer::new(&mut rand::rng());
        let claims =
            json!({"iat": Timestamp::now().as_second(), "request_body_sha256": sandbox::sha256_hex(&target.body)});
        let forged = stranger.sign_raw(&json!({"alg": "ES256", "kid": target.kid}), &claims);
        let close = [target.request(&forged, &target.body), b"GET / HTTP/1.1\r\nconnection: close\r\n\r\n".to_vec()];
        target.send(&close.concat()).await;
    })
}

/// Each under a key that nobody has heard of.
fn unknown_kids(target: &Arc<Target>) -> JoinSet<()> {
    again(target, 20, |target| async move {
        let forged = Signer::new(&mut rand::rng()).sign(&target.body, Timestamp::now().as_second());
        let request = target.request(&forged, &target.body);
        let _ = tokio::time::timeout(Duration::from_millis(100), target.send(&request)).await;
    })
}

/// A body that never ends, in chunks.
fn endless_chunks(target: &Arc<Target>) -> JoinSet<()> {
    again(target, 10, |target| async move {
        let Ok(mut stream) = TcpStream::connect(target.address).await else { return };
        let head = b"POST /webhooks/plaid HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";
        let chunk = [b"1000\r\n".to_vec(), vec![b'a'; 4096], b"\r\n".to_vec()].concat();
        let _ = stream.write_all(head).await;
        while stream.write_all(&chunk).await.is_ok() {}
    })
}

/// Many requests at once on one connection.
fn pipelines(target: &Arc<Target>) -> JoinSet<()> {
    again(target, 10, |target| async move {
        let all = target.request("x.y.z", &target.body).repeat(50);
        target.send(&[all, b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".to_vec()].concat()).await;
    })
}

/// Connects, says this much, and waits to be thrown out; then does it again. There are more of them than connections.
fn hold(target: &Arc<Target>, say: fn(&Target) -> Vec<u8>) -> JoinSet<()> {
    let mut holders = JoinSet::new();
    for _ in 0..70 {
        let target = Arc::clone(target);
        holders.spawn(async move {
            loop {
                let Ok(mut stream) = TcpStream::connect(target.address).await else { continue };
                let _ = stream.write_all(&say(&target)).await;
                // A byte a second, the way slowloris does it, until the other side has enough.
                let mut byte = [0; 1];
                while tokio::time::timeout(Duration::from_secs(1), stream.read(&mut byte)).await.is_err() {
                    let _ = stream.write_all(b"a").await;
                }
            }
        });
    }
    holders
}

fn half_open(target: &Arc<Target>) -> JoinSet<()> {
    hold(target, |_| Vec::new())
}
fn slow_headers(target: &Arc<Target>) -> JoinSet<()> {
    hold(target, |_| b"POST /webhooks/plaid HTTP/1.1\r\nhost: x\r\nx-slow: ".to_vec())
}
fn slow_bodies(target: &Arc<Target>) -> JoinSet<()> {
    hold(target, |target| {
        let whole = target.request("x.y.z", &target.body);
        whole[..whole.len() - 100].to_vec()
    })
}

async fn good_webhooks_pass_through_floods_of_bad_ones(parts: Parts) {
    let attacks: [(&str, Attack); 4] = [
        ("bad signatures", bad_signatures),
        ("unknown keys", unknown_kids),
        ("endless chunks", endless_chunks),
        ("pipelines", pipelines),
    ];
    withstand(parts, &attacks).await;
}

async fn good_webhooks_pass_while_all_connections_are_held(parts: Parts) {
    let attacks: [(&str, Attack); 3] =
        [("half-open", half_open), ("slow headers", slow_headers), ("slow bodies", slow_bodies)];
    withstand(parts, &attacks).await;
}

async fn withstand(parts: Parts, attacks: &[(&str, Attack)]) {
    let mut world = World::without_rekey(parts, SETTINGS).await;
    world.start_rekey(RECEIVER, "").await;
    let target = Target::of(&world);
    let mut sent = HashSet::from(["warm-up".to_owned()]);
    good(&world, "before", "warm-up").await;
    for (what, attack) in attacks {
        let mut flood = attack(&target);
        for n in 0..GOOD {
            let item = format!("{}-{n}", what.replace(' ', "-"));
            good(&world, what, &item).await;
            sent.insert(item);
        }
        assert!(flood.try_join_next().is_none(), "{what}: the attackers gave up");
        flood.shutdown().await;
    }
    let topic = world.local.config("").unwrap().kafka.topics.item_events;
    let records = world.read_topic(&topic, bus::schema::WEBHOOK, |seen| seen.len() >= sent.len()).await;
    let on_kafka: HashSet<String> = records.iter().filter_map(|r| r.event.as_ref().unwrap().subject.clone()).collect();
    assert_eq!(on_kafka, sent, "exactly the good ones are on Kafka");
    world.end_with_parked().await;
}

/// A genuine webhook, on a new connection as after a pause of Plaid's.
async fn good(world: &World, during: &str, item: &str) {
    let signed = world.sandbox.sign(&Sandbox::webhook_body("ITEM", "ERROR", Some(item), &json!({})));
    let began = Instant::now();
    let request = reqwest::Client::new().post(world.receiver_url()).timeout(Duration::from_secs(10));
    let answer = request.header("plaid-verification", signed.header).body(signed.body).send().await;
    let status = answer.map(|a| a.status().as_u16()).map_err(|e| format!("{e:?}"));
    assert_eq!(status, Ok(200), "{during}: a good webhook after {:?}", began.elapsed());
    assert!(began.elapsed() < SOON, "{during}: a good webhook took {:?}", began.elapsed());
}

/// A connection that is closed on bytes still arriving is reset, and the answer with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_sends_too_much_reads_why() {
    let world = World::start(Parts::Embedded, "").await;
    let targets = [
        (world.rekeys[0].receiver.unwrap(), "POST /webhooks/plaid", "413"),
        (world.rekeys[0].console.unwrap(), "PUT /v1/items/x", "401"),
    ];
    for (address, request, status) in targets {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let body = vec![b' '; 4 * 1024 * 1024];
        let head = format!("{request} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).await.unwrap();
        // All of it is sent before the answer is looked for, as most clients do.
        stream.write_all(&body).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")) && answer.ends_with("0\r\n\r\n"), "{answer}");
    }
    world.end().await;
}

/// A size that is announced is believed: nobody waits for the bytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_announced_too_large_is_refused_before_it_comes() {
    let mut world = World::without_rekey(Parts::Embedded, SETTINGS).await;
    world.start_rekey(RECEIVER, "").await;
    let target = Target::of(&world);
    let began = Instant::now();
    let head = "POST /webhooks/plaid HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999\r\n\r\n";
    let answer = target.send(head.as_bytes()).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    for nonsense in [
        "POST /webhooks/plaid HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nabcdef",
        "POST /webhooks/plaid HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        "\x16\x03\x01\x02\x00\x01\x00\x01\x7c\x03\x03",
    ] {
        let answer = target.send(nonsense.as_bytes()).await.unwrap();
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{nonsense:?}: {answer}");
    }
    let long = format!("POST /webhooks/plaid HTTP/1.1\r\nx: {}\r\n\r\n", "a".repeat(1_000_000));
    let answer = target.send(long.as_bytes()).await.unwrap_or_default();
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    good(&world, "after all of that", "item-1").await;
    world.end_with_parked().await;
}
