//! The receiver: what it takes, what it refuses, and what it says when Kafka is away (I1, I2, I3).

use domain::Role;
use domain::metric;
use jiff::Timestamp;
use sandbox::{Fault, FaultKind, Sandbox, Signer};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tests::process::Process;
use tests::{Parts, World, metrics};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const RECEIVER: &[Role] = &[Role::Receiver];

on_both_parts!(
    i1_i3_a_verified_webhook_is_on_kafka_redacted_before_200,
    i2_what_is_not_plaids_is_refused_and_not_published,
    a_verified_body_that_is_no_webhook_becomes_a_dead_letter,
    odd_webhooks_of_the_field_are_taken_and_their_items_found,
    i2_known_keys_serve_while_the_key_endpoint_is_dark,
);

async fn receiver(parts: Parts, extra: &str) -> World {
    let mut world = World::without_rekey(parts, extra).await;
    world.start_rekey(RECEIVER, "").await;
    world
}

struct Sent<'a> {
    headers: Vec<(&'a str, String)>,
    body: Vec<u8>,
}

async fn send(world: &World, sent: Sent<'_>) -> (u16, reqwest::header::HeaderMap) {
    let mut request = reqwest::Client::new().post(world.receiver_url()).body(sent.body);
    for (name, value) in sent.headers {
        request = request.header(name, value);
    }
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.headers().clone())
}

fn body() -> Vec<u8> {
    Sandbox::webhook_body("ITEM", "LOGIN_REPAIRED", Some("item-1"), &json!({}))
}

async fn post(world: &World, signature: &str, body: &[u8]) -> u16 {
    send(world, Sent { headers: vec![("plaid-verification", signature.to_owned())], body: body.to_vec() }).await.0
}

fn now() -> i64 {
    Timestamp::now().as_second()
}

/// A sequence number that is taken: librdkafka calls the record delivered, though another one may stand there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i1_an_acknowledgement_that_names_no_place_is_none() {
    let world = receiver(Parts::Embedded, "").await;
    let url = world.receiver_url();
    assert_eq!(world.sandbox.send_once(&url, &body()).await, 200);
    world.local.broker.clone().unwrap().claim_duplicate().unwrap();
    assert_eq!(world.sandbox.send_once(&url, &body()).await, 503, "nobody knows whether it is on Kafka");
    assert_eq!(world.sandbox.send_once(&url, &body()).await, 200);
    world.local.stop().await;
}

async fn i1_i3_a_verified_webhook_is_on_kafka_redacted_before_200(parts: Parts) {
    let world = receiver(parts, "").await;
    let extra = json!({
        "access_token": "opaque-secret", "deep": [{"note": "token access-sandbox-1234-5678 was seen"}],
        "field_of_2031": {"a": 1.5, "b": [null, true]},
    });
    let body = Sandbox::webhook_body("ITEM", "CODE_OF_2031", Some("item-1"), &extra);
    assert_eq!(world.sandbox.send_once(&world.receiver_url(), &body).await, 200);
    let link = Sandbox::webhook_body(
        "LINK",
        "SESSION_FINISHED",
        None,
        &json!({"link_session_id": "s-1", "public_tokens": ["public-sandbox-1"]}),
    );
    assert_eq!(world.sandbox.send_once(&world.receiver_url(), &link).await, 200);
    let topics = world.local.config("").unwrap().kafka.topics;
    let records = world.read_topic(&topics.item_events, bus::schema::WEBHOOK, |seen| !seen.is_empty()).await;
    let event = records[0].event.as_ref().unwrap();
    assert_eq!((event.kind.as_str(), event.subject.as_deref()), ("com.plaid.ITEM.CODE_OF_2031", Some("item-1")));
    assert_eq!(event.source, "/plaid/sandbox");
    let value: Value = serde_json::from_slice(&event.data).unwrap();
    assert_eq!(value["field_of_2031"], extra["field_of_2031"], "unknown fields pass untouched");
    assert!(value["access_token"].as_str().unwrap().starts_with("fp1_"), "{value}");
    let text = value.to_string();
    assert!(!text.contains("opaque-secret") && !text.contains("access-sandbox"), "I3: {text}");
    let others = world.read_topic(&topics.other_events, bus::schema::WEBHOOK, |seen| !seen.is_empty()).await;
    assert!(!String::from_utf8_lossy(&others[0].raw).contains("public-sandbox"), "I3");
    world.end_with_parked().await;
}

async fn i2_what_is_not_plaids_is_refused_and_not_published(parts: Parts) {
    let world = receiver(parts, "").await;
    let body = body();
    let good = world.sandbox.sign(&body);
    let stranger = Signer::new(&mut rand::rng());
    let kid = key_id(&good.header);
    let signed = |iat: i64| world.sandbox.sign_at(&body, iat);
    let mut changed = body.clone();
    *changed.last_mut().unwrap() = b' ';
    let claims = json!({"iat": now(), "request_body_sha256": "00"});
    let cases: Vec<(&str, String, Vec<u8>)> = vec![
        ("unknown key", stranger.sign(&body, now()), body.clone()),
        (
            "a stranger's signature under Plaid's kid",
            stranger.sign_raw(&json!({"alg": "ES256", "kid": kid}), &claims),
            body.clone(),
        ),
        ("algorithm none", stranger.sign_raw(&json!({"alg": "none", "kid": kid}), &claims), body.clone()),
        ("another algorithm", stranger.sign_raw(&json!({"alg": "HS256", "kid": kid}), &claims), body.clone()),
        ("no kid", stranger.sign_raw(&json!({"alg": "ES256"}), &claims), body.clone()),
        ("six minutes old", signed(now() - 360), body.clone()),
        ("from the future", signed(now() + 360), body.clone()),
        ("one byte changed", good.header.clone(), changed),
        (
            "re-indented",
            good.header.clone(),
            serde_json::to_vec(&serde_json::from_slice::<Value>(&body).unwrap()).unwrap(),
        ),
        ("garbage", "x.y.z".into(), body.clone()),
        ("empty", String::new(), body.clone()),
        ("very long", "a".repeat(8000), body.clone()),
    ];
    for (what, header, body) in cases {
        assert_eq!(post(&world, &header, &body).await, 401, "{what}");
    }
    let none = send(&world, Sent { headers: vec![], body: body.clone() }).await.0;
    assert_eq!(none, 401, "no header");
    let twice = vec![("plaid-verification", good.header.clone()), ("plaid-verification", signed(now() - 100))];
    assert_eq!(send(&world, Sent { headers: twice, body: body.clone() }).await.0, 401, "two different ones");
    let critical = json!({"alg": "ES256", "kid": kid, "crit": ["exp"]});
    assert_eq!(
        post(&world, &stranger.sign_raw(&critical, &claims), &body).await,
        401,
        "what must be understood and is not"
    );
    // Four minutes old is within Plaid's rule, and the real one passes at last.
    assert_eq!(post(&world, &signed(now() - 240), &body).await, 200);
    let topic = world.local.config("").unwrap().kafka.topics.item_events;
    let records = world.read_topic(&topic, bus::schema::WEBHOOK, |seen| !seen.is_empty()).await;
    assert_eq!(records.len(), 1, "only the verified one is on Kafka");
    world.end_with_parked().await;
}

/// Whoever has seen right signatures can send each with other bodies. Past what tells a proxy from a forger, no curve is
/// computed for them; and a good webhook passes meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i11_signatures_over_other_bodies_are_examined_now_and_then() {
    let world = World::without_rekey(Parts::Real, "").await;
    let process = Process::start(&world, "receiver").await;
    let url = format!("http://{}/webhooks/plaid", process.listen);
    assert_eq!(world.sandbox.send_once(&url, &body()).await, 200, "its key is known from here on");
    let http = reqwest::Client::new();
    let caught: Vec<String> = (0..200).map(|n| world.sandbox.sign_at(&body(), now() - n % 200)).collect();
    let sent = caught.iter().map(|signature| {
        let request = http.post(&url).header("plaid-verification", signature).body("{\"item_id\":\"item-other\"}");
        async { request.send().await.unwrap().status().as_u16() }
    });
    assert_eq!(futures::future::join_all(sent).await, [401; 200]);
    assert_eq!(world.sandbox.send_once(&url, &body()).await, 200);
    let shown = metrics::read(&metrics::scrape(process.ops).await);
    let counted = |reason| metrics::total(&shown, metric::WEBHOOKS, &[("reason", reason)]).unwrap_or_default();
    let examined = counted("body") + counted("replayed");
    assert!((1.0..=100.0).contains(&examined), "{examined} of 200, and 20 a second are examined");
    assert_eq!(examined + counted("unproved"), 200.0);
    world.end().await;
}

/// To a machine that is four minutes slow every webhook is from the future, and it has just started and knows no key.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i11_a_clock_that_is_wrong_from_the_start_is_seen() {
    let world = World::without_rekey(Parts::Real, "").await;
    let process = Process::start(&world, "receiver").await;
    let url = format!("http://{}/webhooks/plaid", process.listen);
    let body = body();
    for n in 0..3 {
        let signature = world.sandbox.sign_at(&body, now() + 240 + n);
        let request = reqwest::Client::new().post(&url).header("plaid-verification", signature).body(body.clone());
        assert_eq!(request.send().await.unwrap().status(), 401);
        let shown = metrics::read(&metrics::scrape(process.ops).await);
        let seen = metrics::total(&shown, metric::WEBHOOK_CLOCK_SKEW, &[]).is_some();
        assert_eq!(seen, n > 0, "one of the wrong time may be an old one that somebody caught");
    }
    let shown = metrics::read(&metrics::scrape(process.ops).await);
    let skew = metrics::total(&shown, metric::WEBHOOK_CLOCK_SKEW, &[]).unwrap();
    assert!((-245.0..=-235.0).contains(&skew), "{skew}");
    assert_eq!(metrics::total(&shown, metric::WEBHOOKS, &[("reason", "future")]), Some(3.0));
    // Whoever has caught a header, or a whole webhook, of long ago can send it for ever; that says nothing of the clock.
    let old = world.sandbox.sign_at(&body, now() - 8_640_000);
    for n in 0..6 {
        let other = Sandbox::webhook_body("ITEM", "ERROR", Some("item-1"), &json!({"n": n}));
        let request = reqwest::Client::new().post(&url).header("plaid-verification", &old).body(other);
        assert_eq!(request.send().await.unwrap().status(), 401);
    }
    let request = reqwest::Client::new().post(&url).header("plaid-verification", &old).body(body.clone());
    assert_eq!(request.send().await.unwrap().status(), 401);
    let shown = metrics::read(&metrics::scrape(process.ops).await);
    let counted = |reason| metrics::total(&shown, metric::WEBHOOKS, &[("reason", reason)]);
    assert_eq!((counted("body"), counted("replayed"), counted("stale")), (Some(1.0), Some(6.0), None));
    assert_eq!(metrics::total(&shown, metric::WEBHOOK_CLOCK_SKEW, &[]), Some(skew));
    let log = std::fs::read_to_string(&process.log).unwrap();
    assert_eq!(log.matches("is this machine's clock right?").count(), 1, "{log}");
    assert_eq!(world.sandbox.send_once(&url, &body).await, 200);
    world.end_with_parked().await;
}

pub(crate) fn key_id(header: &str) -> String {
    let part = header.split('.').next().unwrap();
    let decoded = base64url(part);
    serde_json::from_slice::<Value>(&decoded).unwrap()["kid"].as_str().unwrap().to_owned()
}

fn base64url(text: &str) -> Vec<u8> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let (mut out, mut bits, mut count) = (Vec::new(), 0u32, 0);
    for byte in text.bytes() {
        bits = bits << 6 | ALPHABET.iter().position(|c| *c == byte).unwrap() as u32;
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
    out
}

/// `webhook-*.json` of the field, and their like.
async fn odd_webhooks_of_the_field_are_taken_and_their_items_found(parts: Parts) {
    let world = receiver(parts, "").await;
    let topics = world.local.config("").unwrap().kafka.topics;
    let deep = format!("{}{}", "[".repeat(2_000), "]".repeat(2_000));
    let odd = |field: &str| {
        format!(r#"{{"webhook_type":"ITEM","webhook_code":"LOGIN_REPAIRED","later":{field},"item_id":"item-odd"}}"#)
    };
    let about_items = [odd(&deep), odd(r#""Caf\ud83d""#), odd("1e400"), odd("123456789012345678901234567890")];
    for body in &about_items {
        let url = format!("{}/", world.receiver_url());
        assert_eq!(world.sandbox.send_once(&url, body.as_bytes()).await, 200, "{}", &body[..80]);
    }
    let all = |seen: &[bus::Delivery]| seen.len() == about_items.len();
    let records = world.read_topic(&topics.item_events, bus::schema::WEBHOOK, all).await;
    for record in &records {
        assert_eq!(record.event.as_ref().unwrap().subject.as_deref(), Some("item-odd"));
    }
    assert!(records.iter().any(|r| String::from_utf8_lossy(&r.raw).contains("123456789012345678901234567890")));
    let id = "00000000-0000-4000-8000-000000000003";
    let secrets = [
        json!({"webhook_type": "ASSETS", "webhook_code": "PRODUCT_READY", "asset_report_id": id,
               "asset_report_token": format!("assets-sandbox-{id}"), "report_type": "FULL"}),
        json!({"webhook_type": "SIGNAL", "webhook_code": "NEW", "note": format!("see user-sandbox-{id}")}),
    ];
    for body in &secrets {
        assert_eq!(world.sandbox.send_once(&world.receiver_url(), body.to_string().as_bytes()).await, 200);
    }
    let both = |seen: &[bus::Delivery]| seen.len() == secrets.len();
    let records = world.read_topic(&topics.other_events, bus::schema::WEBHOOK, both).await;
    let text = records.iter().map(|r| String::from_utf8_lossy(&r.raw).into_owned()).collect::<String>();
    assert!(text.contains(id) && !text.contains("-sandbox-"), "I3: {text}");
    world.end_with_parked().await;
}

async fn a_verified_body_that_is_no_webhook_becomes_a_dead_letter(parts: Parts) {
    let world = receiver(parts, "").await;
    for body in [&b"not json, marked"[..], b"[1, 2]", b"{\"webhook_type\": \"ITEM\"}"] {
        assert_eq!(world.sandbox.send_once(&world.receiver_url(), body).await, 200);
    }
    let topic = world.local.config("").unwrap().kafka.topics.dead_letters;
    let dead = world.read_topic(&topic, bus::schema::DEAD_LETTER, |seen| seen.len() >= 3).await;
    assert!(dead.iter().all(|d| !String::from_utf8_lossy(&d.raw).contains("marked")));
    world.end_with_parked().await;
}

async fn i2_known_keys_serve_while_the_key_endpoint_is_dark(parts: Parts) {
    let mut world = World::without_rekey(parts, "[plaid.keys]\nwait = \"200ms\"\nrefresh_after = \"300ms\"\n").await;
    world.start_rekey(RECEIVER, "").await;
    assert_eq!(world.sandbox.send_once(&world.receiver_url(), &body()).await, 200);
    let call = "/webhook_verification_key/get";
    world.sandbox.fault(Fault::new(call, FaultKind::CutBefore));
    let calls = world.sandbox.calls(call);
    world.until("a refresh failed", || world.sandbox.calls(call) > calls).await;
    assert_eq!(world.sandbox.send_once(&world.receiver_url(), &body()).await, 200, "the known key stays in use");
    // A new key can't be judged: Plaid shall send again.
    world.sandbox.rotate_signing_key();
    assert_eq!(world.sandbox.send_once(&world.receiver_url(), &body()).await, 503);
    world.sandbox.heal();
    let found = || async { world.sandbox.send_once(&world.receiver_url(), &body()).await == 200 };
    assert!(tests::holds(found).await);
    // A restart during the next outage still verifies, from the file.
    world.rekeys.remove(0).stop().await;
    world.sandbox.fault(Fault::new(call, FaultKind::CutBefore));
    world.start_rekey(RECEIVER, "").await;
    assert_eq!(world.sandbox.send_once(&world.receiver_url(), &body()).await, 200);
    world.end_with_parked().await;
}

/// A key that Plaid retired is not trusted any more, although it is known and its signature is right.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i2_a_retired_key_is_not_trusted_any_more() {
    let world = receiver(Parts::Embedded, "[plaid.keys]\nrefresh_after = \"300ms\"\n").await;
    let body = body();
    let good = world.sandbox.sign(&body);
    assert_eq!(post(&world, &good.header, &body).await, 200);
    world.sandbox.retire_signing_keys();
    let refused = || async { post(&world, &good.header, &body).await == 401 };
    assert!(tests::holds(refused).await);
    assert_eq!(world.sandbox.send_once(&world.receiver_url(), &body).await, 200, "signed with the new key");
    world.end_with_parked().await;
}

/// A flood of forged keys costs a few calls, and a genuine new key that many webhooks carry is found all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i2_a_flood_of_forged_keys_is_cheap_and_does_not_hide_a_new_one() {
    let settings = "[plaid.keys]\nlookups_per_minute = 30\nlookup_burst = 2\nwait = \"100ms\"\n";
    let world = receiver(Parts::Embedded, settings).await;
    let url = world.receiver_url();
    assert_eq!(world.sandbox.send_once(&url, &body()).await, 200);
    let forged = |n: u32| {
        let stranger = Signer::new(&mut rand::rng());
        let _ = n;
        stranger.sign(&body(), now())
    };
    let mut flood = tokio::task::JoinSet::new();
    for n in 0..200 {
        let (url, header) = (url.clone(), forged(n));
        flood.spawn(async move {
            let client = reqwest::Client::new();
            client.post(url).header("plaid-verification", header).body(body()).send().await.unwrap().status().as_u16()
        });
    }
    world.sandbox.rotate_signing_key();
    let began = Instant::now();
    let found = || async { world.sandbox.send_once(&url, &body()).await == 200 };
    assert!(tests::holds(found).await);
    assert!(began.elapsed() < Duration::from_secs(15), "the genuine key goes before those seen once");
    while let Some(status) = flood.join_next().await {
        assert!(matches!(status.unwrap(), 401 | 503));
    }
    assert!(world.sandbox.calls("/webhook_verification_key/get") < 20, "budgeted");
    world.end_with_parked().await;
}

/// Kafka goes away: 503 with `Retry-After`, at once. Back: 200 within a second or two.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i1_kafka_gone_and_back() {
    kafka_gone_and_back(503).await;
}

/// A newer rule of Plaid's honours a 429's `Retry-After` (<https://plaid.com/docs/api/webhooks>), so a platform may choose it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i1_kafka_gone_and_back_with_429() {
    kafka_gone_and_back(429).await;
}

async fn kafka_gone_and_back(unavailable: u16) {
    let settings = format!("[kafka]\npublish_timeout = \"1s\"\n[receiver]\nunavailable_status = {unavailable}\n");
    let world = receiver(Parts::Embedded, &settings).await;
    let url = world.receiver_url();
    assert_eq!(world.sandbox.send_once(&url, &body()).await, 200);
    let broker = world.local.broker.clone().unwrap();
    broker.down().unwrap();
    let gone = || async { world.sandbox.send_once(&url, &body()).await == unavailable };
    assert!(tests::holds(gone).await);
    assert_eq!(
        world.sandbox.send_once(&url, b"no webhook").await,
        unavailable,
        "a dead letter is durable before 200 as well"
    );
    let began = Instant::now();
    let signed = world.sandbox.sign(&body());
    let (status, headers) =
        send(&world, Sent { headers: vec![("plaid-verification", signed.header)], body: signed.body }).await;
    assert_eq!(status, unavailable);
    assert!(headers.get("retry-after").is_some());
    assert!(
        began.elapsed() < Duration::from_millis(500),
        "answered at once, not after a timeout: {:?}",
        began.elapsed()
    );
    // A broker that is away is no reason to leave the load balancer.
    let ready = reqwest::get(format!("http://{}/readyz", world.rekey().ops)).await.unwrap();
    assert_eq!(ready.status(), 200);
    broker.up().unwrap();
    let began = Instant::now();
    let back = || async { world.sandbox.send_once(&url, &body()).await == 200 };
    assert!(tests::holds(back).await);
    assert!(began.elapsed() < Duration::from_secs(4), "back after {:?}", began.elapsed());
    world.end_with_parked().await;
}

/// Limits against callers: size, slowness, method, type.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_are_bounded() {
    let settings = "[receiver]\nmax_body = 2000\nheader_timeout = \"300ms\"\nbody_timeout = \"300ms\"\n";
    let world = receiver(Parts::Embedded, settings).await;
    assert_eq!(post(&world, "x", &vec![b'a'; 5000]).await, 413);
    let form = vec![("content-type", "application/x-www-form-urlencoded".to_owned())];
    assert_eq!(send(&world, Sent { headers: form, body: body() }).await.0, 415);
    assert_eq!(reqwest::get(world.receiver_url()).await.unwrap().status(), 405);
    let other = world.receiver_url().replace("/webhooks/plaid", "/other");
    assert_eq!(reqwest::get(other).await.unwrap().status(), 404);
    let address = world.rekey().receiver.unwrap();
    let talk = |text: &'static str| async move {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await;
        assert!(read.is_ok(), "the connection was not closed");
        String::from_utf8_lossy(&answer).into_owned()
    };
    let slow = talk("POST /webhooks/plaid HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nhalf a bo").await;
    assert!(slow.starts_with("HTTP/1.1 408"), "{slow}");
    talk("POST /webhooks/plaid HTTP/1.1\r\nhost: x\r\nhalf-a-hea").await;
    talk("").await;
    assert_eq!(world.sandbox.send_once(&world.receiver_url(), &body()).await, 200, "others are served meanwhile");
    world.end_with_parked().await;
}

/// The hash that a real delivery of 2021 was signed with: <https://github.com/plaid/plaid-node/issues/399>. It fixes
/// Plaid's body form (two-space indentation, no final newline), which the sandbox must speak.
#[test]
fn the_body_form_is_plaids() {
    let text = "{\n  \"error\": null,\n  \"item_id\": \"xVDbz8kaZRf69Nd18x81I3y83kZaxEF688545\",\n  \"new_transactions\": 0,\n  \
                \"webhook_code\": \"DEFAULT_UPDATE\",\n  \"webhook_type\": \"TRANSACTIONS\"\n}";
    let value: Value = serde_json::from_str(text).unwrap();
    assert_eq!(serde_json::to_vec_pretty(&value).unwrap(), text.as_bytes());
    assert_eq!(
        sandbox::sha256_hex(text.as_bytes()),
        "c43741964e9b173d7bc1e840a21ce1ad26cfa27c1a379bba8cb5f5715aade40a"
    );
}
