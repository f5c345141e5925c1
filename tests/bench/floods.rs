//! How long good webhooks take until they are answered 200, nothing else being there and beside forged ones under keys that
//! nobody knows: on embedded parts, all in one process.

use crate::report::{Figure, Report};
use sandbox::Sandbox;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tests::{Parts, World};

pub(crate) async fn run(times: usize, report: &mut Report) {
    let world = World::start(Parts::Embedded, "").await;
    world.business("acme");
    let item = world.link("acme", 1).await;
    world.until_exact().await;
    let url = world.receiver_url();
    let body = Sandbox::webhook_body("TRANSACTIONS", "SYNC_UPDATES_AVAILABLE", Some(&item), &json!({}));
    p99(&world, &url, &body, times / 8).await;
    let calm = p99(&world, &url, &body, times).await;
    let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let http = reqwest::Client::new();
    // Of the right form, under a key that nobody knows: each costs a look at the budget for unknown keys.
    let token = format!("{}.{}.{}", "eyJhbGciOiJFUzI1NiIsImtpZCI6IngiLCJ0eXAiOiJKV1QifQ", "e30", "A".repeat(86));
    let forgers: Vec<_> = (0..16)
        .map(|_| {
            let (http, url, stop, sent, token) = (http.clone(), url.clone(), stop.clone(), sent.clone(), token.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let _ = http.post(&url).header("plaid-verification", &token).body("{}").send().await;
                    sent.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let began = Instant::now();
    let beside = p99(&world, &url, &body, times).await;
    let rate = sent.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    for forger in forgers {
        forger.await.unwrap();
    }
    let what = format!("p99 of a good webhook, beside {rate:.0} forged ones a second");
    report.add(Figure::times("floods", what, &[beside]).beside("calm", calm.as_secs_f64() * 1e3));
    world.end_with_parked().await;
}

async fn p99(world: &World, url: &str, body: &[u8], times: usize) -> Duration {
    let mut took = Vec::with_capacity(times);
    for _ in 0..times {
        let began = Instant::now();
        assert_eq!(world.sandbox.send_once(url, body).await, 200, "good webhooks are answered 200 all the time");
        took.push(began.elapsed());
    }
    took.sort_unstable();
    took[times * 99 / 100]
}
