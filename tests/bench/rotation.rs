//! One rotation on an idle system, each provider call answered after 100 ms: from the push, or the webhook, until the list at
//! Layer was read back with the new tokens in it.

use crate::plot::{Plot, TimeLine};
use crate::report::{Figure, Report, Spread, short};
use crate::rig::{CALL, Cost, LIST, Made, PUT, Rig, Used, until, until_exact};
use sandbox::Announce;
use serde_json::json;
use std::time::{Duration, Instant};

/// How many times each is measured.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    pub(crate) times: usize,
    /// How long the idle system is watched.
    pub(crate) idle: Duration,
}

impl Size {
    pub(crate) const FULL: Self = Self { times: 9, idle: Duration::from_secs(10) };
    pub(crate) const SMOKE: Self = Self { times: 1, idle: Duration::from_secs(1) };
}

/// Calls that follow from one another at the least: read, mint, PUT, list.
const STEPS: usize = 4;
const ACCOUNTS: [usize; 3] = [1, 3, 10];

/// How the new token becomes known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Push,
    /// A webhook, and the token is in the platform's database.
    Webhook,
}

struct Rotation {
    took: Duration,
    calls: Vec<Made>,
}

pub(crate) async fn run(size: Size, report: &mut Report) {
    let mut rig = Rig::start("", 1).await;
    let mut of_size = Vec::new();
    for accounts in ACCOUNTS {
        of_size.push((accounts, link(&rig, accounts, size.times + 1).await));
    }
    until_exact(&rig.world, Duration::from_mins(2)).await;
    rig.slow_providers();
    let anchor = Spread::of_times(&steps(&rig, size.times).await);
    report.add(Figure { measured: anchor, ..Figure::one("rotation", "4 calls one after the other", "ms", 0.0) });
    // Keys of webhooks, bearer tokens and connections are there after the first of each kind.
    for way in [Way::Push, Way::Webhook] {
        for (_, items) in &of_size {
            rotate(&rig, &items[0], way).await;
        }
    }
    let from = rig.used().await;
    tokio::time::sleep(size.idle).await;
    let idle = (from, rig.used().await);
    for way in [Way::Push, Way::Webhook] {
        for (accounts, items) in &of_size {
            measure(&rig, way, *accounts, &items[1..], idle, anchor, report).await;
        }
    }
    rig.stop_consumers().await;
}

async fn measure(
    rig: &Rig,
    way: Way,
    accounts: usize,
    items: &[String],
    idle: (Used, Used),
    anchor: Spread,
    report: &mut Report,
) {
    let before = rig.used().await;
    let mut rotations = Vec::new();
    for item in items {
        rotations.push(rotate(rig, item, way).await);
    }
    let cost = rig.cost(before, Some(idle), items.len()).await;
    rotations.sort_by_key(|r| r.took);
    let took: Vec<Duration> = rotations.iter().map(|r| r.took).collect();
    let named = match way {
        Way::Push => "from the push",
        Way::Webhook => "from a webhook",
    };
    let what = format!("a rotation {named}, accounts: {accounts}");
    let figure = Figure::times("rotation", &what, &took).beside("the 4 calls", anchor.median);
    report.add(figure.goal("<= 1.1x + 20 ms"));
    costs(&what, cost, report);
    let middle = &rotations[rotations.len() / 2];
    report.note(format!("  calls of the median one, ms: {}", in_words(&middle.calls)));
    let bars: Vec<_> = middle.calls.iter().map(|c| (c.call.to_owned(), c.from, c.to)).collect();
    report.plot(Plot::TimeLine(TimeLine { title: what, bars, end: took[took.len() / 2].as_secs_f64() * 1e3 }));
}

fn costs(what: &str, cost: Cost, report: &mut Report) {
    let Cost { statements, transactions, wal, syncs, rekey, postgres } = cost;
    let mut add = |name: &str, unit, value| {
        report.add(Figure::one("rotation", format!("  {name}: {what}"), unit, value));
    };
    add("statements", "", statements);
    add("transactions", "", transactions);
    add("written ahead by PostgreSQL", "bytes", wal);
    add("waits of PostgreSQL for the disk", "", syncs);
    add("CPU of Rekey", "ms", rekey);
    add("CPU of PostgreSQL", "ms", postgres);
}

/// `/item/get 12-112, …`
fn in_words(calls: &[Made]) -> String {
    let words: Vec<String> = calls.iter().map(|c| format!("{} {}-{}", c.call, short(c.from), short(c.to))).collect();
    words.join(", ")
}

/// Items that are linked, each of a business of its own.
async fn link(rig: &Rig, accounts: usize, how_many: usize) -> Vec<String> {
    let mut items = Vec::new();
    for n in 0..how_many {
        items.push(rig.world.link(&format!("of-{accounts}-{n}"), accounts).await);
    }
    items
}

/// As many calls to the sandbox one after the other, as a client makes them that has a connection already.
async fn steps(rig: &Rig, times: usize) -> Vec<Duration> {
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("{}/item/get", rig.world.local.environment["REKEY_PLAID__BASE_URL"]);
    let mut took = Vec::new();
    for n in 0..=times {
        let began = Instant::now();
        for _ in 0..STEPS {
            // Refused for want of credentials, after the same delay.
            http.post(&url).json(&json!({})).send().await.unwrap().bytes().await.unwrap();
        }
        if n > 0 {
            took.push(began.elapsed());
        }
    }
    took
}

async fn rotate(rig: &Rig, item: &str, way: Way) -> Rotation {
    let sandbox = &rig.world.sandbox;
    let business = sandbox.push_body(item, &json!({})).unwrap()["business"].as_str().unwrap().to_owned();
    let at_layer = sandbox.layer_id(&business).unwrap();
    // The platform knows its new token, in the second case by its database, before anything is timed.
    let announce = if way == Way::Push { Announce::Silent } else { Announce::Database };
    sandbox.rotate(item, announce).await.unwrap();
    let began = Instant::now();
    let pushed = match way {
        Way::Push => {
            let (sandbox, item) = (sandbox.clone(), item.to_owned());
            Some(tokio::spawn(async move { sandbox.push_token(&item).await.unwrap().0 }))
        }
        Way::Webhook => {
            sandbox.fire(item, "ITEM", "LOGIN_REPAIRED", &json!({})).unwrap();
            None
        }
    };
    let read_back = || {
        let exact = sandbox.business_verdict(&business).exact;
        let last = |call| sandbox.calls_about(call).into_iter().rev().find(|(_, about)| *about == at_layer);
        let put = last(PUT).map(|(at, _)| at).filter(|at| *at > began)?;
        // The first list that was answered after the last PUT.
        let lists = sandbox.calls_about(LIST).into_iter().filter(|(_, about)| *about == at_layer);
        lists.map(|(at, _)| at).find(|at| *at > put).filter(|_| exact)
    };
    until("a rotation is read back", tests::PATIENCE, || async { read_back().is_some() }).await;
    let took = read_back().unwrap() - began;
    if let Some(pushed) = pushed {
        assert_eq!(pushed.await.unwrap(), 200, "a push is answered when Plaid has named the Item");
    }
    rig.until_converged(&format!("/v1/items/{item}")).await;
    rig.until_converged(&format!("/v1/businesses/{business}")).await;
    Rotation { took, calls: rig.calls_since(began, CALL) }
}
