//! Every role and the sandbox as processes of their own, on Apache Kafka and PostgreSQL.

use reqwest::Method;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tests::fleet::Fleet;
use tests::{Parts, World, holds};
use tokio::task::JoinSet;

/// Platforms that rotate at the same time.
const DRIVERS: usize = 8;

fn number(variable: &str, default: usize) -> usize {
    std::env::var(variable).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

/// One rotation, announced in one of the ways there are.
async fn rotate(fleet: &Fleet, n: usize, item: &str, business: &str) {
    let rotate = format!("/items/{item}/rotate?announce=database");
    fleet.control(Method::POST, &rotate, Value::Null).await;
    match n % 3 {
        0 => fleet.push(item, business).await,
        1 => {
            let webhook = format!("/items/{item}/webhook?type=ITEM&code=ERROR");
            fleet.control(Method::POST, &webhook, Value::Null).await;
        }
        _ => fleet.world.notice(item).await,
    }
}

/// Many rotations while one receiver and one consumer are killed and restarted again and again. TEST_ROTATIONS and
/// TEST_BUSINESSES make it longer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i10_rotations_while_processes_are_killed() {
    let (rotations, businesses) = (number("TEST_ROTATIONS", 80), number("TEST_BUSINESSES", 20));
    let world = World::without_rekey(Parts::Real, "[consumer]\nsweep_period = \"30s\"\n").await;
    let fleet = Arc::new(Fleet::start(world).await);
    let began = Instant::now();
    let mut items = Vec::new();
    for n in 0..businesses {
        fleet.webhooks_to(n % 2).await;
        let business = format!("b{n}");
        let new = json!({"external_id": business, "at_layer": true});
        fleet.control(Method::POST, "/businesses", new).await;
        items.push((fleet.link(&business, 1 + n % 3).await, business.clone()));
        if n % 4 == 0 {
            items.push((fleet.link(&business, 1).await, business));
        }
    }
    fleet.until_exact(Duration::from_secs(60)).await;
    let linked = began.elapsed();

    let began = Instant::now();
    let (items, next) = (Arc::new(items), Arc::new(AtomicUsize::new(0)));
    let mut drivers = JoinSet::new();
    for _ in 0..DRIVERS {
        let (fleet, items, next) = (Arc::clone(&fleet), Arc::clone(&items), Arc::clone(&next));
        drivers.spawn(async move {
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= rotations {
                    break;
                }
                let (item, business) = &items[(n * 7) % items.len()];
                rotate(&fleet, n, item, business).await;
            }
        });
    }
    // One of each dies at every eighth of the way, with work in its hands.
    for round in 1..8 {
        let passed = || async { next.load(Ordering::Relaxed) >= rotations * round / 8 };
        assert!(holds(passed).await, "the rotations don't get on");
        let (consumer, receiver) = (&fleet.consumers[round % 2], &fleet.receivers[round % 2]);
        consumer.kill();
        receiver.kill();
        consumer.restart().await;
        receiver.restart().await;
    }
    while let Some(driven) = drivers.join_next().await {
        driven.unwrap();
    }
    let verdict = fleet.until_exact(Duration::from_secs(120)).await;
    tracing::info!(
        "{businesses} businesses linked in {linked:?}; {rotations} rotations, 14 kills in {:?}: {}",
        began.elapsed(),
        verdict["counts"]
    );
    assert_eq!(verdict["violations"], json!([]));
    assert_eq!(verdict["counts"]["needless_puts"], 0, "I9");
}
