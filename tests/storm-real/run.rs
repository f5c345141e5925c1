//! One scene: link, rage, heal, judge.

use crate::drive::{Platform, driver};
use crate::faults::{Storm, lane, lanes, tend};
use crate::log::Log;
use crate::stage::{Brokers, Ground, Stage};
use crate::verdict::{Left, judge};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// How much a scene carries.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) seed: u64,
    pub(crate) seconds: u64,
    pub(crate) rotations: usize,
    pub(crate) kills: usize,
    pub(crate) businesses: usize,
    pub(crate) rate: usize,
}

impl Limits {
    /// A sweep is what finds what nobody announced.
    fn sweep_seconds(&self) -> usize {
        (self.businesses / 5).max(8)
    }

    /// From the last fault to rest (I10): lease (4 s), group session (6 s), what a group that was lost needs to gather,
    /// two sweeps, and the work divided by what two shared cores do of it.
    fn bound(&self) -> Duration {
        Duration::from_secs(60 + 2 * self.sweep_seconds() as u64)
    }
}

/// Within this some rotation is taken by Rekey, whatever rages.
const STALL: Duration = Duration::from_secs(90);

/// Returns what did not hold.
pub(crate) async fn storm(
    ground: Ground,
    limits: Limits,
    only: &[String],
    brokers: &Arc<Brokers>,
    logs: &Path,
    log: &Arc<Log>,
    cut: &AtomicBool,
) -> Vec<String> {
    let megabytes = match ground {
        Ground::Postgres => 160 + limits.rotations as u64 / 40,
        Ground::Sqlite => 12,
    };
    let stage = Stage::build(ground, limits.seed, megabytes, limits.sweep_seconds(), brokers, logs).await;
    if stage.disk.is_none() {
        log.note("NOT COVERED: a full disk under the database, because mounting is not allowed here");
    }
    let mut platform = Platform::new(&stage, brokers);
    for member in &stage.fleet {
        member.process.ready().await;
    }
    platform.link(&stage, limits.businesses).await;
    let storm = Arc::new(Storm {
        stage: Arc::new(stage),
        brokers: Arc::clone(brokers),
        log: Arc::clone(log),
        over: AtomicBool::new(false),
        rounds: AtomicUsize::new(0),
    });
    let platform = Arc::new(platform);
    let left = until_settled(&storm, &platform, Duration::from_secs(60)).await;
    assert!(left.is_empty(), "what was linked does not settle, before any fault: {left:?}");
    log.say(&format!("{} Items linked, every list exact; the storm begins", platform.items.len()));
    rage(&storm, &platform, limits, only, cut).await;
    log.say("the storm is over; everything heals");
    let healed = Instant::now();
    heal(&storm).await;
    let left = until_settled(&storm, &platform, limits.bound()).await;
    log.say(&format!(
        "{} after {:.1} s",
        if left.is_empty() { "settled" } else { "NOT settled" },
        healed.elapsed().as_secs_f64()
    ));
    log.show_faults();
    judge(&storm, &platform, left).await
}

/// All at once until each limit is reached and each lane has met each of its faults.
async fn rage(storm: &Arc<Storm>, platform: &Arc<Platform>, limits: Limits, only: &[String], cut: &AtomicBool) {
    let (mut lanes_running, mut drivers) = (JoinSet::new(), JoinSet::new());
    let lanes = lanes(storm.stage.ground, storm.stage.disk.is_some(), only);
    let how_many = lanes.len();
    for (n, kinds) in lanes.into_iter().enumerate() {
        lanes_running.spawn(lane(Arc::clone(storm), kinds, limits.seed.wrapping_mul(100).wrapping_add(n as u64)));
    }
    let tending = tokio::spawn(tend(Arc::clone(storm)));
    for n in 0..platform.drivers() {
        drivers.spawn(driver(Arc::clone(&storm.stage), Arc::clone(platform), n, limits));
    }
    let (began, mut told, mut last) = (Instant::now(), Instant::now(), (0, Instant::now()));
    loop {
        let (rotations, kills) = (platform.rotations.load(Ordering::Relaxed), storm.log.kills());
        if rotations > last.0 {
            last = (rotations, Instant::now());
        }
        assert!(last.1.elapsed() < STALL, "the platform gets nothing across any more, for {STALL:?}");
        let enough =
            began.elapsed().as_secs() >= limits.seconds && rotations >= limits.rotations && kills >= limits.kills;
        if cut.load(Ordering::SeqCst) || enough && storm.rounds.load(Ordering::SeqCst) >= how_many {
            break;
        }
        if told.elapsed() > Duration::from_secs(10) {
            told = Instant::now();
            storm.log.say(&format!("{rotations} rotations, {kills} kills"));
        }
        // A lane or a driver that panics ends the storm.
        while let Some(ended) = lanes_running.try_join_next().or_else(|| drivers.try_join_next()) {
            ended.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    storm.over.store(true, Ordering::SeqCst);
    platform.over.store(true, Ordering::SeqCst);
    while let Some(ended) = lanes_running.join_next().await {
        ended.unwrap();
    }
    tending.await.unwrap();
    while let Some(ended) = drivers.join_next().await {
        ended.unwrap();
    }
}

/// Nothing is broken any more, and everybody is there.
async fn heal(storm: &Storm) {
    let stage = &storm.stage;
    stage.world.sandbox.heal();
    for proxy in [stage.database.as_ref(), Some(&stage.providers), Some(&stage.webhooks)].into_iter().flatten() {
        proxy.heal();
    }
    storm.until_in_sync().await;
    for member in &stage.fleet {
        if member.process.ended().is_some() {
            member.process.relaunch();
        }
        member.process.ready().await;
    }
}

/// Until every list is exact and no work is left, or the bound is over; what is left.
async fn until_settled(storm: &Storm, platform: &Platform, bound: Duration) -> Vec<String> {
    let deadline = Instant::now() + bound;
    let left = Left::new(&storm.stage, &storm.brokers);
    loop {
        let found = left.look(&storm.stage, platform).await;
        if found.is_empty() || Instant::now() > deadline {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
