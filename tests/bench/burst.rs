//! Many webhooks about the Items of one business within seconds, all of which have rotated: how often its list is sent, and how
//! often each Item is read.

use crate::report::{Figure, Report};
use crate::rig::{Rig, until_exact};
use sandbox::{Announce, Sandbox, SignedWebhook};
use serde_json::json;
use std::time::{Duration, Instant};

/// How many there are, and how often they come.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    pub(crate) webhooks: usize,
    /// In which they all come.
    pub(crate) within: Duration,
    pub(crate) times: usize,
}

impl Size {
    pub(crate) const FULL: Self = Self { webhooks: 5_000, within: Duration::from_secs(4), times: 5 };
    pub(crate) const SMOKE: Self = Self { webhooks: 50, within: Duration::from_secs(1), times: 1 };
}

const ITEMS: usize = 10;
const CALLERS: usize = 32;

pub(crate) async fn run(size: Size, report: &mut Report) {
    let rig = Rig::start("", 1).await;
    let mut items = Vec::new();
    for _ in 0..ITEMS {
        items.push(rig.world.link("acme", 3).await);
    }
    until_exact(&rig.world, tests::PATIENCE).await;
    rig.slow_providers();
    let (mut puts, mut reads, mut took) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..size.times {
        rig.until_converged("/v1/businesses/acme").await;
        for item in &items {
            rig.until_converged(&format!("/v1/items/{item}")).await;
        }
        let signed = signed(&rig.world.sandbox, &items, size.webhooks).await;
        for item in &items {
            rig.world.rotate(item, Announce::Database).await;
        }
        let (before, began) = (rig.world.puts(), Instant::now());
        took.push(send(&rig, signed, size.within).await);
        until_exact(&rig.world, tests::PATIENCE).await;
        rig.until_converged("/v1/businesses/acme").await;
        for item in &items {
            rig.until_converged(&format!("/v1/items/{item}")).await;
        }
        puts.push((rig.world.puts() - before) as f64);
        let sandbox = &rig.world.sandbox;
        let count = |item: &String| {
            let of =
                |call| sandbox.calls_about(call).into_iter().filter(|(at, about)| *at > began && about == item).count();
            (of("/item/get") + of("/accounts/get")) as f64
        };
        reads.extend(items.iter().map(count));
    }
    let all = format!("{} webhooks for a business of {ITEMS} Items", size.webhooks);
    report.add(Figure::times("burst", format!("{all}: sent and answered 200 within"), &took));
    report.add(Figure::new("burst", format!("{all}: PUTs"), "", &puts).goal("<= 2"));
    report.add(Figure::new("burst", format!("{all}: reads of each Item"), "", &reads).goal("<= 2"));
}

/// Signed before anything is timed, by as many threads as there are, for the sandbox's signatures are slow.
async fn signed(sandbox: &Sandbox, items: &[String], how_many: usize) -> Vec<SignedWebhook> {
    let each = how_many.div_ceil(CALLERS);
    let some = |caller: usize| {
        let (sandbox, items) = (sandbox.clone(), items.to_vec());
        tokio::task::spawn_blocking(move || {
            let one = |n: usize| {
                let marker = json!({"error": null, "bench": caller * each + n});
                let item = &items[n % items.len()];
                sandbox.sign(&Sandbox::webhook_body("ITEM", "ERROR", Some(item), &marker))
            };
            (0..each).map(one).collect::<Vec<_>>()
        })
    };
    let all = futures::future::join_all((0..CALLERS).map(some)).await;
    all.into_iter().flat_map(Result::unwrap).take(how_many).collect()
}

/// Evenly over the time, each caller its share; until the last is answered.
async fn send(rig: &Rig, signed: Vec<SignedWebhook>, within: Duration) -> Duration {
    let url = format!("http://{}/webhooks/plaid", rig.receiver.as_ref().unwrap().listen);
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let began = Instant::now();
    let pause = within / u32::try_from(signed.len().div_ceil(CALLERS)).unwrap();
    let callers = signed.chunks(signed.len().div_ceil(CALLERS)).map(|share| {
        let (http, url, share) = (http.clone(), url.clone(), share.to_vec());
        tokio::spawn(async move {
            let mut tick = tokio::time::interval(pause);
            for webhook in share {
                tick.tick().await;
                let request = http.post(&url).header("content-type", "application/json");
                let request = request.header("plaid-verification", webhook.header).body(webhook.body);
                assert_eq!(request.send().await.unwrap().status(), 200, "each is answered 200");
            }
        })
    });
    for caller in futures::future::join_all(callers).await {
        caller.unwrap();
    }
    began.elapsed()
}
