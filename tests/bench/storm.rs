//! Many rotations at once, the providers without limits and each of their calls answered after 100 ms: what a process and
//! several of them get done, and what a rotation costs the database and the processors. `target/bench/statements.txt` says
//! which statements those are.

use crate::records::{Says, publish};
use crate::report::{Figure, Report, Spread, write};
use crate::rig::{CALL, Cost, MINT, PUT, Rig, until, until_exact};
use futures::StreamExt;
use sandbox::Announce;
use serde_json::json;
use std::time::{Duration, Instant};

/// How many rotate.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    pub(crate) items: usize,
    pub(crate) times: usize,
}

impl Size {
    pub(crate) const SMOKE: Self = Self { items: 40, times: 1 };

    pub(crate) fn full(items: usize) -> Self {
        Self { items, times: 3 }
    }
}

/// Items of a business.
const TOGETHER: usize = 10;
const PATIENCE: Duration = Duration::from_mins(15);

/// Processes, and workers of each.
const FLEETS: [(usize, usize); 4] = [(1, 16), (1, 64), (2, 16), (4, 16)];

struct Storm {
    /// Rotations a second, from the first provider call to the last.
    rate: f64,
    /// Seconds from the first until half, 90 % and all of the mints, and of the PUTs, were answered: a long tail is no throughput.
    mints: [f64; 3],
    sent: [f64; 3],
    cost: Cost,
    puts: f64,
}

pub(crate) async fn run(size: Size, report: &mut Report) {
    let mut rig = Rig::start("", 1).await;
    let stored = async |rig: &Rig| rig.used().await.database.size;
    let empty = stored(&rig).await;
    let items = link(&rig, size.items).await;
    until_exact(&rig.world, PATIENCE).await;
    let linked = stored(&rig).await;
    rig.slow_providers();
    let (mut one, mut rotations) = (None, 0);
    for (processes, workers) in FLEETS {
        let mut storms = Vec::new();
        for _ in 0..size.times {
            rig.stop_consumers().await;
            storms.push(rage(&mut rig, &items, processes, workers).await);
            rotations += items.len();
        }
        let rates: Vec<f64> = storms.iter().map(|s| s.rate).collect();
        let named = format!("{processes} x {workers} workers");
        let figure = Figure::new("storm", format!("rotations, {named}"), "/s", &rates);
        let rate = Spread::of(&rates).median;
        let first = *one.get_or_insert(rate);
        let figure = figure.beside("one process of 16", first);
        report.add(match processes {
            2 => figure.goal(">= 1.9x"),
            4 => figure.goal(">= 3.5x"),
            _ => figure,
        });
        let last = &storms[storms.len() - 1];
        report.note(format!(
            "  half, 90 % and all of the last one's mints after {:.1?} s, of its PUTs after {:.1?} s",
            last.mints, last.sent
        ));
        let mut add = |what: &str, unit, goal, of: fn(&Storm) -> f64| {
            let measured: Vec<f64> = storms.iter().map(of).collect();
            report.add(Figure { goal, ..Figure::new("storm", format!("  {what}, {named}"), unit, &measured) });
        };
        add("statements a rotation", "", Some("<= 45"), |s| s.cost.statements);
        add("transactions a rotation", "", Some("<= 10"), |s| s.cost.transactions);
        add("written ahead by PostgreSQL a rotation", "bytes", None, |s| s.cost.wal);
        add("waits of PostgreSQL for the disk a rotation", "", None, |s| s.cost.syncs);
        add("CPU a rotation", "ms", Some("<= 8"), |s| s.cost.rekey + s.cost.postgres);
        add("  of PostgreSQL", "ms", None, |s| s.cost.postgres);
        add("PUTs for a business of 10 Items that all rotated", "", Some("<= 2"), |s| s.puts);
    }
    rig.stop_consumers().await;
    let grown = (stored(&rig).await - linked) / rotations as f64;
    let mut add = |what: &str, value| report.add(Figure::one("storm", what.to_owned(), "bytes", value));
    add("PostgreSQL on disk: an Item of one account, linked", (linked - empty) / items.len() as f64);
    add("PostgreSQL on disk: a rotation, with its history", grown);
}

/// Everything is announced while no consumer runs, and then they start.
async fn rage(rig: &mut Rig, items: &[String], processes: usize, workers: usize) -> Storm {
    for item in items {
        rig.world.rotate(item, Announce::Database).await;
    }
    publish(rig, Says::Notice, Vec::from(items)).await;
    let (puts, before) = (rig.world.puts(), Instant::now());
    rig.world.local.environment.insert("REKEY_CONSUMER__WORKERS".into(), workers.to_string());
    rig.start_consumers(processes).await;
    rig.database.forget().await;
    let used = rig.used().await;
    until_exact(&rig.world, PATIENCE).await;
    let cost = rig.cost(used, None, items.len()).await;
    if (processes, workers) == FLEETS[0] {
        write("statements.txt", &rig.database.listed(items.len()).await);
    }
    let calls = rig.calls_since(before, CALL);
    let ended = calls.iter().map(|c| c.to).fold(0.0, f64::max);
    let rate = items.len() as f64 / (ended - calls[0].from) * 1e3;
    let businesses = items.len().div_ceil(TOGETHER);
    let until = |call: &str| {
        let mut at: Vec<f64> = calls.iter().filter(|c| c.call == call).map(|c| (c.to - calls[0].from) / 1e3).collect();
        at.sort_by(f64::total_cmp);
        [50, 90, 100].map(|percent| at.get((at.len() * percent / 100).saturating_sub(1)).copied().unwrap_or(f64::NAN))
    };
    let (mints, sent) = (until(MINT), until(PUT));
    Storm { rate, cost, mints, sent, puts: (rig.world.puts() - puts) as f64 / businesses as f64 }
}

/// Items of one account, ten to a business, pushed without waiting for what follows.
async fn link(rig: &Rig, items: usize) -> Vec<String> {
    let businesses = items.div_ceil(TOGETHER);
    (0..businesses).for_each(|n| rig.world.business(&format!("b{n}")));
    let linked = futures::stream::iter(0..items)
        .map(|n| async move {
            let item = rig.world.link_as(&format!("b{}", n % businesses), 1, Announce::Database).await;
            let body = rig.world.sandbox.push_body(&item, &json!({})).unwrap();
            let path = format!("/v1/items/{item}?background=true&timeout=0");
            // Pushed again while the console has too much to do.
            until("a push is taken", PATIENCE, || async { rig.world.admin("PUT", &path, Some(&body)).await.0 == 202 })
                .await;
            item
        })
        .buffer_unordered(8);
    linked.collect().await
}
