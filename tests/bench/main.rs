//! Figures, each as a ratio of two measurements of one run: the machine cancels out.
//!
//! ```text
//! bench [--only pages|store|floods|limits|rotation] [--stored N] [--items N] [--seconds S] [--latency MS]
//! ```

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a tool for a terminal; what it can't do ends it")]

mod database;
mod report;
mod rig;
mod rotation;
mod scale;
mod usage;

use clap::Parser;
use domain::Role;
use futures::StreamExt;
use report::Report;
use sandbox::{Announce, Fault, FaultKind, Sandbox, Switches};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tests::{Parts, World};

/// Measures, side by side.
#[derive(Parser)]
struct Options {
    /// Items that are due at once.
    #[arg(long, default_value_t = 10_000)]
    items: usize,
    /// How long their storm is watched.
    #[arg(long, default_value_t = 130)]
    seconds: u64,
    /// How long half of the providers' answers take in that storm, in milliseconds; one in a hundred takes five times as long.
    #[arg(long, default_value_t = 400)]
    latency: u32,
    /// Items of the large store.
    #[arg(long, default_value_t = 1_000_000)]
    stored: u64,
    /// One part alone.
    #[arg(long)]
    only: Option<Part>,
    /// Everything for seconds, to see that it runs to its end.
    #[arg(long)]
    smoke: bool,
    /// The optimised `rekey` to measure; otherwise the one beside this program.
    #[arg(long)]
    release_binary: Option<std::path::PathBuf>,
}

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Pages of each statement in a small and a large store.
    Pages,
    /// How long a claim, an order to look at everything and a start take in such stores.
    Store,
    /// Good webhooks beside forged ones.
    Floods,
    /// Due Items at the documented limits.
    Limits,
    /// One rotation on an idle system.
    Rotation,
}

const MINT: &str = "/processor/token/create";

fn main() {
    let options = Options::parse();
    if let Some(binary) = &options.release_binary {
        tests::process::use_binary(binary.clone());
    }
    let mut report = Report::default();
    let wants = |part| options.only.is_none_or(|only| only == part);
    if wants(Part::Pages) {
        // In one thread: what the database says of a statement is read from the log of the thread that asked.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(scale::pages(options.stored));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    if wants(Part::Store) {
        runtime.block_on(scale::times(options.stored));
    }
    if wants(Part::Floods) {
        runtime.block_on(floods());
    }
    if wants(Part::Limits) {
        runtime.block_on(budget(&options));
    }
    if wants(Part::Rotation) {
        let size = if options.smoke { rotation::Size::SMOKE } else { rotation::Size::FULL };
        runtime.block_on(rotation::run(size, &mut report));
    }
}

fn row(what: &str, calm: Duration, beside: Duration) {
    let ratio = beside.as_secs_f64() / calm.as_secs_f64();
    println!("{what:<58} {:>8.1}ms {:>8.1}ms {ratio:>7.1}x", calm.as_secs_f64() * 1e3, beside.as_secs_f64() * 1e3);
}

/// How long good webhooks take until they are answered 200, nothing else being there and beside forged ones.
async fn floods() {
    println!("\n{:<58} {:>10} {:>10} {:>8}", "", "calm", "beside", "ratio");
    let world = World::start(Parts::Embedded, "").await;
    world.business("acme");
    let item = world.link("acme", 1).await;
    world.until_exact().await;
    let url = world.receiver_url();
    let body = Sandbox::webhook_body("TRANSACTIONS", "SYNC_UPDATES_AVAILABLE", Some(&item), &json!({}));
    p99(&world, &url, &body, 50).await;
    let calm = p99(&world, &url, &body, 400).await;
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
    let beside = p99(&world, &url, &body, 400).await;
    let rate = sent.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    for forger in forgers {
        forger.await.unwrap();
    }
    row(&format!("p99 of a good webhook, beside {rate:.0} forged ones a second"), calm, beside);
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

/// A storm of Items at the limits that Plaid documents: how much of the scarce one is used, how many calls are refused,
/// and how long a person waits.
async fn budget(options: &Options) {
    let mut world = World::start(Parts::Embedded, "[consumer]\nworkers = 16\ndebounce = \"1s\"\n").await;
    world.business("calm");
    let items = fill(&world, options.items).await;
    for rekey in std::mem::take(&mut world.rekeys) {
        rekey.stop().await;
    }
    // What was called without limits would count against them.
    tokio::time::sleep(Duration::from_secs(61)).await;
    world.sandbox.switch(Switches::limit_as_documented);
    let median = f64::from(options.latency);
    world.sandbox.fault(Fault::new("*", FaultKind::Latency { median_millis: median, p99_millis: median * 5.0 }));
    world.start_rekey(Role::ALL_IN_ONE, DOCUMENTED).await;
    world.start_rekey(&[Role::Consumer], DOCUMENTED).await;
    let calm = person(&world, "calm").await;
    for item in &items {
        world.rotate(item, Announce::Database).await;
    }
    let began = Instant::now();
    for some in items.chunks(500) {
        world.make_due(some).await;
    }
    tokio::time::sleep(Duration::from_secs(options.seconds / 2).saturating_sub(began.elapsed())).await;
    world.business("beside");
    let beside = person(&world, "beside").await;
    tokio::time::sleep(Duration::from_secs(options.seconds).saturating_sub(began.elapsed())).await;
    row(&format!("a person links an account, beside {} due Items", options.items), calm, beside);
    let mints: Vec<Instant> = world.sandbox.calls_about(MINT).into_iter().map(|(at, _)| at).collect();
    let minute = Duration::from_mins(1);
    let ended = began + Duration::from_secs(options.seconds);
    // The first seconds are spent on proving tokens; whole minutes from then on.
    let whole: Vec<usize> = mints
        .iter()
        .filter(|at| **at > began + minute / 4 && **at + minute < ended)
        .map(|at| mints.iter().filter(|other| *other >= at && **other < *at + minute).count())
        .collect();
    let (least, most) = (whole.iter().min().copied().unwrap_or(0), whole.iter().max().copied().unwrap_or(0));
    println!(
        "mints in any minute: {least} to {most} of the 500 that Plaid documents ({:.1} % used at least)",
        least as f64 / 5.0,
    );
    let violations = world.sandbox.verdict().violations;
    println!("calls over a limit: {}", if violations.is_empty() { "none".to_owned() } else { violations.join("; ") });
    for rekey in world.rekeys {
        rekey.stop().await;
    }
}

const DOCUMENTED: &str = "[consumer]\nlease = \"60s\"\n[plaid]\ntimeout = \"10s\"\n[layer]\ntimeout = \"10s\"\n[plaid.limits]\nshare = 1.0\nitem_get = 5000\naccounts_get = 15000\nprocessor_token_create = 500\n\
                          per_item = 15\n[layer.limits]\nshare = 1.0\ncalls = 6000\ncreate = 600\n";

/// Items that are linked already, ten to a business; without limits, or it would take most of an hour.
async fn fill(world: &World, items: usize) -> Vec<String> {
    let began = Instant::now();
    let businesses = items.div_ceil(10);
    (0..businesses).for_each(|n| world.business(&format!("b{n}")));
    let linked = futures::stream::iter(0..items)
        .map(|n| async move {
            let item = world.link_as(&format!("b{}", n % businesses), 1, Announce::Silent).await;
            let body = world.sandbox.push_body(&item, &json!({})).unwrap();
            let path = format!("/v1/items/{item}?background=true&timeout=0");
            assert_eq!(world.admin("PUT", &path, Some(&body)).await.0, 202);
            item
        })
        .buffer_unordered(8)
        .collect()
        .await;
    while !world.sandbox.verdict().exact {
        assert!(began.elapsed() < Duration::from_mins(20), "the world could not be filled");
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    println!("{items} Items linked in {:.0} s", began.elapsed().as_secs_f64());
    linked
}

/// From the push until the list at Layer holds the new account.
async fn person(world: &World, business: &str) -> Duration {
    let began = Instant::now();
    world.link(business, 1).await;
    while !world.sandbox.business_verdict(business).exact {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    began.elapsed()
}
