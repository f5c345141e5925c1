//! Rekey as it is deployed: each role a process, PostgreSQL and Apache Kafka behind them, every setting as delivered. The
//! sandbox runs in the bench itself, which therefore sees each provider call.

use crate::database::{Database, Work};
use crate::usage;
use rekey::local::{Databases, Ground};
use sandbox::{Fault, FaultKind};
use serde_json::Value;
use std::time::{Duration, Instant};
use tests::process::Process;
use tests::{World, kafka_address};

/// How long a provider takes to answer.
pub(crate) const CALL: Duration = Duration::from_millis(100);

const DATABASE: &str = "REKEY_DATABASE__URL";

/// The calls that reconciliations make.
pub(crate) const LIST: &str = "GET /v1/businesses/{id}/plaid/accounts";
pub(crate) const PUT: &str = "PUT /v1/businesses/{id}";
pub(crate) const MINT: &str = "/processor/token/create";
pub(crate) const CALLS: [&str; 9] = [
    "/item/get",
    "/accounts/get",
    MINT,
    "/processor/token/permissions/get",
    "/webhook_verification_key/get",
    "POST /oauth2/token",
    "GET /v1/businesses",
    PUT,
    LIST,
];

/// The providers' limits are lifted: what is measured is Rekey, not its patience. `partitions` and `replication` fit one
/// broker; topics are the bench's own.
const SETTINGS: &str = r#"
[ops]
listen = "127.0.0.1:0"
[kafka]
group = "@NAME@"
[kafka.topics]
item_events = "@NAME@.item-events"
other_events = "@NAME@.other-events"
notices = "@NAME@.notices"
outcomes = "@NAME@.outcomes"
dead_letters = "@NAME@.dead-letters"
replication = 1
min_insync = 1
[plaid.limits]
share = 1.0
item_get = 600000
accounts_get = 600000
processor_token_create = 600000
processor_token_permissions_get = 600000
per_item = 60000
[layer.limits]
share = 1.0
calls = 600000
create = 600000
[sandbox]
listen = "127.0.0.1:0"
webhook_url = ""
"#;

/// What is delivered, without limits, under names of its own.
pub(crate) fn lifted() -> String {
    SETTINGS.replace("@NAME@", &format!("bench-{}", uuid::Uuid::new_v4().simple()))
}

/// The processes and what they stand on. The processes end first.
pub(crate) struct Rig {
    pub(crate) consumers: Vec<Process>,
    pub(crate) console: Option<Process>,
    pub(crate) receiver: Option<Process>,
    /// A console of the bench's own: what it asks of the database is not counted.
    watcher: Option<Process>,
    http: reqwest::Client,
    pub(crate) world: World,
    pub(crate) database: Database,
}

/// A provider call that was made, in milliseconds from a beginning.
#[derive(Debug, Clone, serde::Serialize)]
pub(crate) struct Made {
    pub(crate) call: &'static str,
    pub(crate) from: f64,
    pub(crate) to: f64,
}

/// What a rig used until a moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Used {
    at: Instant,
    pub(crate) database: Work,
    /// Of Rekey's processes.
    pub(crate) cpu: Duration,
}

/// What one unit of work costs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    pub(crate) statements: f64,
    pub(crate) transactions: f64,
    /// Bytes that PostgreSQL wrote ahead, and how often it waited for the disk.
    pub(crate) wal: f64,
    pub(crate) syncs: f64,
    /// Milliseconds of Rekey's and of PostgreSQL's processor time.
    pub(crate) rekey: f64,
    pub(crate) postgres: f64,
}

impl Rig {
    /// Topics, databases and the sandbox; no process yet.
    pub(crate) async fn bare(extra: &str) -> Self {
        let database = Database::start().await;
        let databases =
            Some(Databases { rekey: database.create("rekey").await, platform: database.create("platform").await });
        let mut settings: toml::Table = lifted().parse().unwrap();
        tests::merge(&mut settings, extra.parse().unwrap());
        let ground = Ground { kafka: Some(kafka_address()), databases, settings: settings.to_string() };
        let world = World::over(ground).await;
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { consumers: Vec::new(), console: None, receiver: None, watcher: None, http, world, database }
    }

    /// A console, a receiver and that many consumers, ready.
    pub(crate) async fn start(extra: &str, consumers: usize) -> Self {
        let mut rig = Self::bare(extra).await;
        rig.start_console().await;
        rig.watch().await;
        let receiver = Process::start(&rig.world, "receiver").await;
        rig.world.sandbox.set_webhook_url(format!("http://{}/webhooks/plaid", receiver.listen));
        rig.receiver = Some(receiver);
        rig.start_consumers(consumers).await;
        rig
    }

    async fn start_console(&mut self) {
        let console = Process::start(&self.world, "console").await;
        let token = self.world.local.admin_token.clone().into();
        self.world.sandbox.set_admin(sandbox::Admin { url: format!("http://{}", console.console), token });
        self.console = Some(console);
    }

    async fn watch(&mut self) {
        let counted = self.database_url().to_owned();
        let other = self.database.as_watcher(&counted).await;
        self.world.local.environment.insert(DATABASE.into(), other);
        self.watcher = Some(Process::start(&self.world, "console").await);
        self.world.local.environment.insert(DATABASE.into(), counted);
    }

    pub(crate) async fn start_consumers(&mut self, how_many: usize) {
        let started: Vec<Process> = (0..how_many).map(|_| Process::spawn(&self.world, "consumer")).collect();
        for consumer in &started {
            consumer.ready().await;
        }
        self.consumers.extend(started);
    }

    pub(crate) async fn stop_consumers(&mut self) {
        for consumer in std::mem::take(&mut self.consumers) {
            consumer.terminate().await;
        }
    }

    /// Every provider call takes [`CALL`] from now on.
    pub(crate) fn slow_providers(&self) {
        let millis = u64::try_from(CALL.as_millis()).unwrap();
        self.world.sandbox.fault(Fault::new("*", FaultKind::Delay { millis }));
    }

    pub(crate) fn database_url(&self) -> &str {
        &self.world.local.environment[DATABASE]
    }

    /// The provider calls that were answered from `began` on. The sandbox notes a call when its delay is over.
    pub(crate) fn calls_since(&self, began: Instant, delay: Duration) -> Vec<Made> {
        let millis = |at: Instant| at.saturating_duration_since(began).as_secs_f64() * 1e3;
        let mut calls: Vec<Made> = CALLS
            .into_iter()
            .flat_map(|call| self.world.sandbox.calls_about(call).into_iter().map(move |(at, _)| (call, at)))
            .filter(|(_, at)| *at > began)
            .map(|(call, at)| Made { call, from: millis(at) - delay.as_secs_f64() * 1e3, to: millis(at) })
            .collect();
        calls.sort_by(|a, b| a.from.total_cmp(&b.from));
        calls
    }

    fn pids(&self) -> Vec<u32> {
        self.consumers.iter().chain(&self.console).chain(&self.receiver).map(Process::pid).collect()
    }

    pub(crate) async fn used(&self) -> Used {
        Used { at: Instant::now(), database: self.database.work().await, cpu: usage::cpu_of(&self.pids()) }
    }

    /// What was used since `before` for each of `units`, without what an idle system, if that was watched, uses in the same time.
    pub(crate) async fn cost(&self, before: Used, idle: Option<(Used, Used)>, units: usize) -> Cost {
        let after = self.used().await;
        let idle = idle.unwrap_or((before, before));
        let (done, rest) = (after.database - before.database, idle.1.database - idle.0.database);
        let watched = (idle.1.at - idle.0.at).as_secs_f64();
        let share = if watched > 0.0 { (after.at - before.at).as_secs_f64() / watched } else { 0.0 };
        let of = |done: f64, rest: f64| (done - rest * share).max(0.0) / units as f64;
        let millis = |time: Duration| time.as_secs_f64() * 1e3;
        let (cpu, cpu_rest) = (after.cpu.saturating_sub(before.cpu), idle.1.cpu.saturating_sub(idle.0.cpu));
        Cost {
            statements: of(done.statements, rest.statements),
            transactions: of(done.transactions, rest.transactions),
            wal: of(done.wal, rest.wal),
            syncs: of(done.syncs, rest.syncs),
            rekey: of(millis(cpu), millis(cpu_rest)),
            postgres: of(millis(done.cpu), millis(rest.cpu)),
        }
    }

    /// Waits until the admin API shows this Item or business as converged: nothing about it is being worked on.
    pub(crate) async fn until_converged(&self, path: &str) {
        let console = self.watcher.as_ref().unwrap().console;
        let deadline = Instant::now() + tests::PATIENCE;
        loop {
            let asked = self.http.get(format!("http://{console}{path}")).bearer_auth(&self.world.local.admin_token);
            let shown: Value = asked.send().await.unwrap().json().await.unwrap();
            if shown["verdict"]["state"] == "converged" {
                return;
            }
            assert!(Instant::now() < deadline, "{path} never converges: {shown}");
            // Seldom, because the database's time for it is counted with the rest.
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }
}

/// Waits until every list at Layer is exact.
pub(crate) async fn until_exact(world: &World, bound: Duration) {
    let deadline = Instant::now() + bound;
    while !world.sandbox.verdict().exact {
        assert!(Instant::now() < deadline, "not exact within {bound:?}: {:?}", world.sandbox.verdict().wrong);
        // Over thousands of lists the oracle takes a while, and the sandbox answers nobody meanwhile.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Waits until it holds; ends the bench after `bound`.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, bound: Duration, condition: impl Fn() -> F) {
    let deadline = Instant::now() + bound;
    while !condition().await {
        assert!(Instant::now() < deadline, "waited in vain for {bound:?}: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
