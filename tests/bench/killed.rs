//! A consumer ends in the middle of its work: how long what it had in its hands waits until another one takes it.

use crate::report::{Figure, Report, Spread};
use crate::rig::{MINT, Rig, until, until_exact};
use sandbox::{Announce, Fault, FaultKind};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use tests::process::Process;

/// How often it happens.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    pub(crate) times: usize,
    /// Other settings than those that are delivered.
    pub(crate) settings: &'static str,
}

impl Size {
    pub(crate) const FULL: Self = Self { times: 3, settings: "" };
    pub(crate) const SMOKE: Self = Self {
        times: 1,
        settings: "[consumer]\nlease = \"9s\"\n[plaid]\ntimeout = \"3s\"\n[layer]\ntimeout = \"3s\"\n",
    };
}

/// As many as a process has workers, so that each has one in its hands.
const ITEMS: usize = 16;
/// What it can't get past.
const STUCK: &str = "/accounts/get";
/// Longer than a lease.
const PATIENCE: Duration = Duration::from_mins(3);

pub(crate) async fn run(size: Size, report: &mut Report) {
    let mut rig = Rig::start(size.settings, 1).await;
    let mut items = Vec::new();
    for n in 0..ITEMS {
        items.push(rig.world.link(&format!("b{n}"), 1).await);
    }
    until_exact(&rig.world, tests::PATIENCE).await;
    let mut waited = [Vec::new(), Vec::new()];
    for _ in 0..size.times {
        for (polite, waited) in [true, false].into_iter().zip(&mut waited) {
            waited.extend(one(&mut rig, &items, polite).await);
        }
    }
    let anchor = Spread::of_times(&waited[0]).median;
    report.add(Figure::times("killed", "rows of a consumer that is ended by SIGTERM wait", &waited[0]));
    let killed = Figure::times("killed", "rows of a consumer that is ended by SIGKILL wait", &waited[1]);
    report.add(killed.beside("by SIGTERM", anchor).goal("<= 12 s"));
}

/// From the end of the first consumer until each of the Items gets its new token.
async fn one(rig: &mut Rig, items: &[String], polite: bool) -> Vec<Duration> {
    let sandbox = rig.world.sandbox.clone();
    // Nothing comes back from Plaid: whoever asks is in the middle of its work.
    let hung = sandbox.hung(STUCK);
    sandbox.fault(Fault::new(STUCK, FaultKind::Hang));
    for item in items {
        rig.world.rotate(item, Announce::Database).await;
        rig.world.notice(item).await;
    }
    until("each worker has an Item in its hands", tests::PATIENCE, || async { sandbox.hung(STUCK) >= hung + ITEMS })
        .await;
    let first = rig.consumers.pop().unwrap();
    let other = Process::start(&rig.world, "consumer").await;
    let began = Instant::now();
    if polite {
        tests::process::signal(first.pid(), "TERM");
    } else {
        first.kill();
    }
    sandbox.heal();
    // None had a new token before. The first consumer, when it is ended politely, may still finish one of its calls.
    let after = |item: &str| {
        let minted = sandbox.calls_about(MINT).into_iter();
        minted.filter(|(at, about)| *at > began && about == item).map(|(at, _)| at).min()
    };
    let all: BTreeSet<&String> = items.iter().collect();
    until("somebody goes on with each row", PATIENCE, || async { all.iter().all(|i| after(i).is_some()) }).await;
    let waited = items.iter().map(|item| after(item).unwrap() - began).collect();
    until_exact(&rig.world, PATIENCE).await;
    if polite {
        first.terminate().await;
    }
    drop(first);
    rig.consumers.push(other);
    waited
}
