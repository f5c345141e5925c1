//! The faults, and the lanes in which they come: each lane meets its faults one after the other, the lanes all at once.

use crate::log::Log;
use crate::stage::{BROKERS, Brokers, Ground, Member, Stage};
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{RngExt, SeedableRng};
use sandbox::Fault;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tests::proxy::Proxy;
use tests::topics;
use tests::weather::{self, answer};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Line {
    Database,
    Providers,
    Webhooks,
}

/// What can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Kill(&'static str),
    Freeze(&'static str),
    /// SIGTERM, as a rollout does it.
    Restart(&'static str),
    KillLeader,
    FreezeLeader,
    /// The brokers that are left have no majority and too few replicas.
    KillTwoBrokers,
    StopImmediate,
    KillPostgres,
    FreezePostgres,
    FillDisk,
    Cut(Line),
    Slow(Line),
    Weather,
}

impl Kind {
    fn word(self) -> String {
        match self {
            Self::Kill(role) => format!("SIGKILL {role}"),
            Self::Freeze(role) => format!("SIGSTOP {role}"),
            Self::Restart(role) => format!("SIGTERM {role}"),
            Self::KillLeader => "SIGKILL the leading broker".into(),
            Self::FreezeLeader => "SIGSTOP the leading broker".into(),
            Self::KillTwoBrokers => "SIGKILL two brokers of three".into(),
            Self::StopImmediate => "PostgreSQL stop -m immediate".into(),
            Self::KillPostgres => "SIGKILL PostgreSQL".into(),
            Self::FreezePostgres => "SIGSTOP PostgreSQL".into(),
            Self::FillDisk => "full disk under the database".into(),
            Self::Cut(line) => format!("cut off: {}", line.word()),
            Self::Slow(line) => format!("slow: {}", line.word()),
            Self::Weather => "providers misbehave".into(),
        }
    }

    /// Milliseconds before it, and for how long it lasts.
    fn times(self) -> ([u64; 2], [u64; 2]) {
        match self {
            Self::Kill(_) => ([100, 1500], [20, 1500]),
            Self::Freeze(_) => ([100, 1500], [300, 6000]),
            Self::Restart(_) => ([100, 1500], [0, 200]),
            Self::KillLeader | Self::KillTwoBrokers => ([500, 4000], [200, 4000]),
            // Longer than the broker's session, so that the lead moves.
            Self::FreezeLeader => ([500, 4000], [3500, 6000]),
            Self::StopImmediate | Self::KillPostgres => ([1500, 5000], [50, 2000]),
            Self::FreezePostgres => ([1500, 5000], [300, 3000]),
            Self::FillDisk => ([1500, 5000], [1500, 4000]),
            Self::Cut(_) => ([500, 4000], [50, 2500]),
            Self::Slow(_) => ([500, 4000], [1000, 5000]),
            Self::Weather => ([200, 2000], [2000, 5000]),
        }
    }
}

impl Line {
    fn word(self) -> &'static str {
        match self {
            Self::Database => "Rekey to PostgreSQL",
            Self::Providers => "Rekey to Plaid and Layer",
            Self::Webhooks => "Plaid to the receivers",
        }
    }
}

/// Faults of each lane, and `only` those whose name holds one of these words, if there are any.
pub(crate) fn lanes(ground: Ground, has_disk: bool, only: &[String]) -> Vec<Vec<Kind>> {
    let mut lanes = all_lanes(ground, has_disk);
    if !only.is_empty() {
        lanes.iter_mut().for_each(|lane| lane.retain(|k| only.iter().any(|word| k.word().contains(word))));
        lanes.retain(|lane| !lane.is_empty());
    }
    lanes
}

/// One that stands twice comes twice as often.
fn all_lanes(ground: Ground, has_disk: bool) -> Vec<Vec<Kind>> {
    let weather = vec![Kind::Weather];
    if ground == Ground::Sqlite {
        let process = vec![Kind::Kill("all"), Kind::Kill("all"), Kind::Freeze("all"), Kind::Restart("all")];
        let mut others = vec![Kind::Cut(Line::Providers), Kind::Slow(Line::Webhooks)];
        if has_disk {
            others.push(Kind::FillDisk);
        }
        return vec![process, others, weather];
    }
    let mut fleet = Vec::new();
    for (role, kills, stops) in [("consumer", 6, 2), ("receiver", 5, 2), ("console", 2, 1)] {
        fleet.extend(std::iter::repeat_n(Kind::Kill(role), kills));
        fleet.extend(std::iter::repeat_n(Kind::Freeze(role), stops));
        fleet.push(Kind::Restart(role));
    }
    let brokers = vec![Kind::KillLeader, Kind::KillLeader, Kind::FreezeLeader, Kind::KillTwoBrokers];
    let mut postgres = vec![Kind::StopImmediate, Kind::StopImmediate, Kind::KillPostgres, Kind::FreezePostgres];
    if has_disk {
        postgres.push(Kind::FillDisk);
    }
    let cuts = [Line::Database, Line::Providers, Line::Webhooks].map(Kind::Cut);
    let slows = [Line::Database, Line::Providers, Line::Webhooks].map(Kind::Slow);
    let lines = cuts.into_iter().chain(slows).collect();
    vec![fleet.clone(), fleet, brokers, postgres, lines, weather]
}

/// What the lanes share.
#[derive(Debug)]
pub(crate) struct Storm {
    pub(crate) stage: Arc<Stage>,
    pub(crate) brokers: Arc<Brokers>,
    pub(crate) log: Arc<Log>,
    pub(crate) over: AtomicBool,
    /// Lanes that met each of their faults once.
    pub(crate) rounds: AtomicUsize,
}

/// Each fault of the lane once, in drawn order, then any of them, until the storm is over.
pub(crate) async fn lane(storm: Arc<Storm>, kinds: Vec<Kind>, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut round: Vec<Kind> = Vec::new();
    for kind in &kinds {
        if !round.contains(kind) {
            round.push(*kind);
        }
    }
    round.shuffle(&mut rng);
    let (mut left_of_round, mut met_all) = (round.len(), false);
    let mut round = VecDeque::from(round);
    while left_of_round > 0 || !storm.over.load(Ordering::SeqCst) {
        let Some(kind) = round.pop_front().or_else(|| kinds.choose(&mut rng).copied()) else { return };
        let ([soonest, latest], [shortest, longest]) = kind.times();
        let gap = Duration::from_millis(rng.random_range(soonest..=latest));
        let lasts = Duration::from_millis(rng.random_range(shortest..=longest));
        // Drawn whether it is used or not, so that the next draws are the same in every replay.
        let (pick, of_its_own) = (rng.random_range(0..1000), rng.random());
        tokio::time::sleep(gap).await;
        let began = Instant::now();
        storm.meet(kind, lasts, pick, of_its_own).await;
        storm.log.fault(&kind.word(), began.elapsed());
        left_of_round = left_of_round.saturating_sub(1);
        if left_of_round == 0 && !std::mem::replace(&mut met_all, true) {
            storm.rounds.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// Starts again what ended by itself, as whatever runs Rekey in production does.
pub(crate) async fn tend(storm: Arc<Storm>) {
    while !storm.over.load(Ordering::SeqCst) {
        storm.stage.fleet.iter().for_each(|m| storm.revive(m));
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

impl Storm {
    async fn meet(&self, kind: Kind, lasts: Duration, pick: usize, seed: u64) {
        match kind {
            Kind::Kill(role) => self.kill(role, lasts, pick).await,
            Kind::Freeze(role) => self.freeze(role, lasts, pick).await,
            Kind::Restart(role) => self.restart(role, pick).await,
            Kind::KillLeader => self.kill_brokers(kind, 1, lasts, pick).await,
            Kind::KillTwoBrokers => self.kill_brokers(kind, 2, lasts, pick).await,
            Kind::FreezeLeader => self.freeze_broker(lasts, pick).await,
            Kind::StopImmediate | Kind::KillPostgres | Kind::FreezePostgres => self.postgres(kind, lasts).await,
            Kind::FillDisk => self.fill_disk(lasts).await,
            Kind::Cut(line) => self.line(kind, line, lasts, Proxy::cut).await,
            Kind::Slow(line) => {
                let delay = Duration::from_millis(50 + pick as u64 / 5);
                self.line(kind, line, lasts, |proxy| proxy.slow(delay)).await;
            }
            Kind::Weather => self.weather(lasts, seed).await,
        }
    }

    fn say(&self, what: &str, lasts: Duration) {
        self.log.say(&format!("{what} for {:.2} s", lasts.as_secs_f64()));
    }

    /// A process of this role that no other lane has in its hands.
    async fn member(&self, role: &str, pick: usize) -> (&Member, tokio::sync::MutexGuard<'_, ()>) {
        let of_role: Vec<&Member> = self.stage.fleet.iter().filter(|m| m.process.role == role).collect();
        for n in 0..of_role.len() {
            let member = of_role[(pick + n) % of_role.len()];
            if let Ok(guard) = member.busy.try_lock() {
                return (member, guard);
            }
        }
        let member = of_role[pick % of_role.len()];
        (member, member.busy.lock().await)
    }

    fn revive(&self, member: &Member) {
        let Ok(_guard) = member.busy.try_lock() else { return };
        if let Some(status) = member.process.ended() {
            let log = crate::stage::log_of(member);
            let why = log.lines().rev().find(|l| l.starts_with("rekey: ")).unwrap_or("no word").to_owned();
            self.log.note(&format!("a {} ended by itself, {status}: {why}", member.process.role));
            member.process.relaunch();
        }
    }

    async fn kill(&self, role: &str, lasts: Duration, pick: usize) {
        let (member, _guard) = self.member(role, pick).await;
        self.say(&format!("SIGKILL {}", member.name), lasts);
        member.process.kill();
        self.log.killed(1);
        tokio::time::sleep(lasts).await;
        member.process.relaunch();
    }

    async fn freeze(&self, role: &str, lasts: Duration, pick: usize) {
        let (member, _guard) = self.member(role, pick).await;
        self.say(&format!("SIGSTOP {}", member.name), lasts);
        member.process.freeze();
        tokio::time::sleep(lasts).await;
        member.process.thaw();
    }

    async fn restart(&self, role: &str, pick: usize) {
        let (member, _guard) = self.member(role, pick).await;
        let began = Instant::now();
        match member.process.terminate().await {
            Some(0) => {}
            Some(code) => self.log.note(&format!("a {role} ended with {code} after SIGTERM")),
            // It had only just begun and did not listen to signals yet.
            None if member.process.ended().is_some() => {}
            None => {
                self.log.note(&format!("a {role} did not end within 20 s of SIGTERM"));
                member.process.kill();
            }
        }
        self.say(&format!("SIGTERM {}, which ended", member.name), began.elapsed());
        member.process.relaunch();
    }

    /// The broker that leads the first partition of the webhooks, as long as somebody knows.
    async fn leader(&self, pick: usize) -> usize {
        let (address, topic) = (self.brokers.address.clone(), self.stage.item_events().clone());
        let found = tokio::task::spawn_blocking(move || topics::leader(&address, &topic)).await.unwrap();
        found.unwrap_or(pick % BROKERS)
    }

    async fn kill_brokers(&self, kind: Kind, how_many: usize, lasts: Duration, pick: usize) {
        let leader = self.leader(pick).await;
        self.say(&format!("{} ({leader})", kind.word()), lasts);
        let nodes: Vec<usize> = (0..how_many).map(|n| (leader + n) % BROKERS).collect();
        nodes.iter().for_each(|n| self.brokers.cluster().kill(*n));
        self.log.killed(how_many);
        tokio::time::sleep(lasts).await;
        nodes.iter().for_each(|n| self.brokers.cluster().launch(*n));
        self.until_in_sync().await;
    }

    async fn freeze_broker(&self, lasts: Duration, pick: usize) {
        let leader = self.leader(pick).await;
        self.say(&format!("{} ({leader})", Kind::FreezeLeader.word()), lasts);
        self.brokers.cluster().freeze(leader);
        tokio::time::sleep(lasts).await;
        self.brokers.cluster().thaw(leader);
        self.until_in_sync().await;
    }

    pub(crate) async fn until_in_sync(&self) {
        let deadline = Instant::now() + Duration::from_secs(90);
        while !self.stage.in_sync(&self.brokers).await {
            assert!(Instant::now() < deadline, "the brokers don't come back into sync");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn postgres(&self, kind: Kind, lasts: Duration) {
        let Some(postgres) = &self.stage.postgres else { return };
        self.say(&kind.word(), lasts);
        match kind {
            Kind::StopImmediate => postgres.stop_immediate(),
            Kind::KillPostgres => postgres.kill(),
            _ => postgres.freeze(),
        }
        if kind != Kind::FreezePostgres {
            self.log.killed(1);
        }
        tokio::time::sleep(lasts).await;
        postgres.thaw();
        postgres.up().await;
    }

    /// Until somebody has run into it, and for so long.
    async fn fill_disk(&self, lasts: Duration) {
        let Some(disk) = &self.stage.disk else { return };
        self.say(&Kind::FillDisk.word(), lasts);
        let (before, began) = (self.stage.out_of_space(), Instant::now());
        // The first time is waited for, so that there is one.
        let patience = if before == 0 { Duration::from_secs(30) } else { lasts };
        let (mut felt, mut squeezed, mut left_alone) = (0, false, Vec::new());
        while began.elapsed() < lasts || felt == 0 && began.elapsed() < patience {
            // A process that is killed every other second never gets as far as to write.
            if began.elapsed() >= lasts && left_alone.is_empty() {
                left_alone = futures::future::join_all(self.stage.fleet.iter().map(|m| m.busy.lock())).await;
            }
            if !squeezed {
                disk.free();
                squeezed = self.stage.squeeze().await;
            }
            disk.fill();
            tokio::time::sleep(Duration::from_millis(100)).await;
            felt = self.stage.out_of_space() - before;
        }
        disk.free();
        self.log.say(&format!("the disk has room again; {felt} times there was none"));
        if let Some(postgres) = &self.stage.postgres {
            postgres.up().await;
        }
    }

    async fn line(&self, kind: Kind, line: Line, lasts: Duration, act: impl Fn(&Proxy)) {
        let proxy = match line {
            Line::Database => self.stage.database.as_ref(),
            Line::Providers => Some(&self.stage.providers),
            Line::Webhooks => Some(&self.stage.webhooks),
        };
        let Some(proxy) = proxy else { return };
        self.say(&kind.word(), lasts);
        act(proxy);
        tokio::time::sleep(lasts).await;
        proxy.heal();
    }

    async fn weather(&self, lasts: Duration, seed: u64) {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut drawn = weather();
        drawn.shuffle(&mut rng);
        drawn.truncate(rng.random_range(2..5));
        for fault in &mut drawn {
            fault.chance *= rng.random_range(0.3..1.0);
        }
        let told: Vec<String> = drawn.iter().map(|f| format!("{} {:?}", f.call, f.kind)).collect();
        self.say(&format!("weather: {}", told.join("; ")), lasts);
        drawn.into_iter().for_each(|fault| self.stage.world.sandbox.fault(fault));
        tokio::time::sleep(lasts).await;
        self.stage.world.sandbox.heal();
    }
}

/// How Plaid and Layer misbehave. Nothing holds a PUT back for longer than its timeout: a late PUT of a stopped process
/// is drift by design, and has stories of its own.
fn weather() -> Vec<Fault> {
    let shared = weather::weather(500, 900).into_iter().map(|w| (w.call, w.real, w.kind));
    // Nothing at all works while these last.
    let dark = [
        ("plaid", 1.0, answer(503, "API_ERROR", "PLANNED_MAINTENANCE", None)),
        ("/webhook_verification_key/get", 1.0, answer(500, "API_ERROR", "INTERNAL_SERVER_ERROR", None)),
    ];
    shared.chain(dark).map(|(call, chance, kind)| Fault { chance, ..Fault::new(call, kind) }).collect()
}
