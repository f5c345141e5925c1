//! Many due Items at the limits that Plaid documents.

use crate::report::{Figure, Report};
use domain::Role;
use futures::StreamExt;
use sandbox::{Announce, Fault, FaultKind, Switches};
use serde_json::json;
use std::time::{Duration, Instant};
use tests::{Parts, World};

const MINT: &str = "/processor/token/create";

/// How large the storm is.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    /// Items that are due at once.
    pub(crate) items: usize,
    /// How long their storm is watched.
    pub(crate) seconds: u64,
    /// How long half of the providers' answers take, in milliseconds.
    pub(crate) latency: u32,
    /// How long nothing is called before it.
    pub(crate) calm: Duration,
}

/// A storm of Items at the limits that Plaid documents: how much of the scarce one is used, how many calls are refused,
/// and how long a person waits.
pub(crate) async fn run(size: Size, report: &mut Report) {
    let mut world = World::start(Parts::Embedded, "[consumer]\nworkers = 16\ndebounce = \"1s\"\n").await;
    world.business("calm");
    let items = fill(&world, size.items).await;
    for rekey in std::mem::take(&mut world.rekeys) {
        rekey.stop().await;
    }
    // What was called without limits would count against them.
    tokio::time::sleep(size.calm).await;
    world.sandbox.switch(Switches::limit_as_documented);
    let median = f64::from(size.latency);
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
    tokio::time::sleep(Duration::from_secs(size.seconds / 2).saturating_sub(began.elapsed())).await;
    world.business("beside");
    let beside = person(&world, "beside").await;
    tokio::time::sleep(Duration::from_secs(size.seconds).saturating_sub(began.elapsed())).await;
    let what = format!("a person links an account, beside {} due Items", size.items);
    report.add(Figure::times("limits", what, &[beside]).beside("calm", calm.as_secs_f64() * 1e3));
    let mints: Vec<Instant> = world.sandbox.calls_about(MINT).into_iter().map(|(at, _)| at).collect();
    let minute = Duration::from_mins(1);
    let ended = began + Duration::from_secs(size.seconds);
    // The first seconds are spent on proving tokens; whole minutes from then on.
    let whole: Vec<usize> = mints
        .iter()
        .filter(|at| **at > began + minute / 4 && **at + minute < ended)
        .map(|at| mints.iter().filter(|other| *other >= at && **other < *at + minute).count())
        .collect();
    let whole: Vec<f64> = whole.into_iter().map(|n| n as f64).collect();
    if whole.is_empty() {
        report.note("no minute of mints was seen to its end");
    } else {
        let mints = Figure::new("limits", "mints in any minute", "", &whole);
        report.add(mints.beside("that Plaid documents", 500.0).goal("no call over a limit"));
    }
    let violations = world.sandbox.verdict().violations;
    report.note(format!(
        "calls over a limit: {}",
        if violations.is_empty() { "none".to_owned() } else { violations.join("; ") }
    ));
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
