//! Callers with bad intent, and what they cost.

use domain::Role;
use sandbox::{Sandbox, Signer};
use serde_json::json;
use std::time::{Duration, Instant};
use tests::process::Process;
use tests::{Parts, World, holds};
use tokio::io::AsyncWriteExt;

const RECEIVER: &[Role] = &[Role::Receiver];

fn body() -> Vec<u8> {
    Sandbox::webhook_body("ITEM", "LOGIN_REPAIRED", Some("item-1"), &json!({}))
}

/// 12 to 80 forged keys a second: a pod that has just started takes a genuine webhook within a minute, and asks Plaid seldom.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i2_a_genuine_key_is_found_under_a_trickle_of_forged_ones() {
    let settings = "[plaid.keys]\nlookups_per_minute = 6\nlookup_burst = 3\nwait = \"300ms\"\n";
    let mut world = World::without_rekey(Parts::Embedded, settings).await;
    world.start_rekey(RECEIVER, "").await;
    let url = world.receiver_url();
    let (http, stop) = (reqwest::Client::new(), tokio_util::sync::CancellationToken::new());
    let attack = {
        let (http, url, stop) = (http.clone(), url.clone(), stop.clone());
        tokio::spawn(async move {
            let mut tick = tokio::time::interval(Duration::from_millis(25));
            let mut sent = 0;
            while !stop.is_cancelled() {
                tick.tick().await;
                let forged = Signer::new(&mut rand::rng()).sign(&body(), jiff::Timestamp::now().as_second());
                let request = http.post(&url).header("plaid-verification", forged).body(body());
                tokio::spawn(request.send());
                sent += 1;
            }
            sent
        })
    };
    tokio::time::sleep(Duration::from_secs(3)).await;
    let began = Instant::now();
    // As Plaid does it: what was not taken is sent again, sooner here than there.
    let taken = || async {
        let taken = world.sandbox.send_once(&url, &body()).await == 200;
        if !taken {
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        taken
    };
    assert!(holds(taken).await, "a genuine webhook is never taken");
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    stop.cancel();
    let forged = attack.await.unwrap();
    let asked = world.sandbox.calls("/webhook_verification_key/get");
    assert!(forged > 100 && asked < 20, "{asked} look-ups for {forged} forged keys");
    world.end().await;
}

/// Bodies that come a byte a segment: what is kept is the bytes, and not the buffers that they came in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_is_bounded_by_the_bytes_that_came() {
    let world =
        World::without_rekey(Parts::Embedded, "[receiver]\nbody_timeout = \"9s\"\ntotal_timeout = \"9500ms\"\n").await;
    let receiver = Process::start(&world, "all").await;
    let resident = || {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", receiver.pid())).unwrap();
        statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
    };
    let before = resident();
    let address = receiver.listen;
    let mut callers = Vec::new();
    for _ in 0..200 {
        let mut caller = tokio::net::TcpStream::connect(address).await.unwrap();
        caller.set_nodelay(true).unwrap();
        let head = "POST /webhooks/plaid HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 4000\r\n\r\n";
        caller.write_all(head.as_bytes()).await.unwrap();
        callers.push(caller);
    }
    let sent = tokio::time::Instant::now() + Duration::from_secs(4);
    while tokio::time::Instant::now() < sent {
        for caller in &mut callers {
            caller.write_all(b"x").await.unwrap();
        }
    }
    let grown = resident().saturating_sub(before);
    assert!(grown < 64 * 1024 * 1024, "200 callers with a few hundred bytes each took {} MiB", grown / 1024 / 1024);
    drop(callers);
    assert_eq!(receiver.terminate().await, Some(0));
    world.end().await;
}
