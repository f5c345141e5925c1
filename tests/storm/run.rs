//! One storm: the plan is carried out, then everything heals, and the oracle has the last word.

use crate::plan::{Plan, Step, Told};
use anyhow::Context as _;
use domain::Role;
use rekey::local::{Ground, Local};
use rekey::wiring::Running;
use sandbox::{Announce, NewAccount, NewBusiness, NewItem, Sandbox};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use store::Store;
use tests::World;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

/// From the last fault to exact lists (I10): the longest of lease (2 s), backoff (500 ms), probe (200 ms) and sweep, with
/// what follows it, plus the work divided by what two shared cores do of it.
fn bound(items: usize) -> Duration {
    2 * sweep_period(items) + Duration::from_secs(20) + Duration::from_millis(100) * items as u32
}

/// As often as the world's size allows: the sweep is what finds changes that nobody announced.
fn sweep_period(items: usize) -> Duration {
    Duration::from_millis(50 * items.max(40) as u64)
}

/// What one seed came to.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub seed: u64,
    pub items: usize,
    pub crashes: u32,
    pub weather: usize,
    pub rotations: u64,
    pub mints: u64,
    pub mints_allowed: u64,
    pub orphans: u64,
    pub puts: u64,
    pub refused: u64,
    pub webhooks: u64,
    pub healed_ms: u64,
    /// Empty: everything held.
    pub faults: Vec<String>,
}

/// Rekey in a runtime of its own, so that it can die at any await point, as a process does.
struct Life {
    runtime: Option<Runtime>,
    running: Option<Running>,
}

impl Life {
    /// At new ports: what the one before it held is let go when its runtime finds the time.
    async fn begin(local: &Arc<Local>) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let mut life = Self { runtime: None, running: None };
        let starting = Arc::clone(local);
        let started = runtime.spawn(async move { starting.start(Role::ALL_IN_ONE, "").await });
        life.runtime = Some(runtime);
        let running = started.await??;
        if let Some(receiver) = running.receiver {
            local.sandbox.move_webhooks(&format!("http://{receiver}/webhooks/plaid"));
        }
        life.running = Some(running);
        Ok(life)
    }

    fn store(&self) -> Option<Store> {
        self.running.as_ref().and_then(|r| r.store.get().cloned())
    }

    /// Every task is dropped where it is.
    fn crash(self) {
        drop(self);
    }

    async fn stop(mut self) {
        if let (Some(runtime), Some(running)) = (self.runtime.take(), self.running.take()) {
            let stopped = runtime.spawn(running.stop()).await;
            self.runtime = Some(runtime);
            if stopped.is_err() {
                tracing::error!("the stop panicked");
            }
        }
    }
}

struct Storm {
    bound: Duration,
    local: Arc<Local>,
    sandbox: Sandbox,
    life: Option<Life>,
    items: Vec<String>,
    /// What the platform is telling Rekey, one call at a time for each Item, as a platform must: of two that are on
    /// their way, nobody knows which comes last.
    turns: BTreeMap<String, Arc<tokio::sync::Mutex<()>>>,
    telling: JoinSet<()>,
    outcome: Outcome,
}

/// Settings of a storm, on top of those of the stories: short leases, a sweep that comes round.
fn settings(seed: u64, items: usize) -> String {
    let mut settings: toml::Table = tests::SETTINGS.parse().unwrap();
    let own = format!(
        "[consumer]\nsweep_period = \"{sweep}ms\"\nlease = \"2s\"\nseed = {seed}\n[sandbox]\nseed = {seed}\n\
         [layer]\nmax_fleet_removals = 100000\ntimeout = \"700ms\"\n[plaid]\ntimeout = \"700ms\"\n\
         [kafka]\npublish_timeout = \"700ms\"\n\
         [kafka.properties]\n\"session.timeout.ms\" = \"2000\"\n\"heartbeat.interval.ms\" = \"300\"\n",
        seed = seed.max(1),
        sweep = sweep_period(items).as_millis(),
    );
    tests::merge(&mut settings, own.parse().unwrap());
    settings.to_string()
}

pub(crate) async fn storm(seed: u64, plan: Plan) -> anyhow::Result<Outcome> {
    let ground = Ground { kafka: None, databases: None, settings: settings(seed, plan.items) };
    let local = Arc::new(Local::new(ground).await?);
    let sandbox = local.sandbox.clone();
    sandbox.switch(|s| s.clone_from(&plan.switches));
    for n in 0..plan.businesses {
        let external_id = format!("b{n}");
        sandbox.create_business(&NewBusiness { external_id, at_layer: true, phone: None, archived: false });
    }
    let life = Some(Life::begin(&local).await?);
    let outcome = Outcome { seed, weather: plan.weather.len(), ..Outcome::default() };
    let bound = bound(plan.items);
    let mut storm = Storm {
        bound,
        local,
        sandbox,
        life,
        items: Vec::new(),
        turns: BTreeMap::new(),
        telling: JoinSet::new(),
        outcome,
    };
    storm.rage(&plan).await?;
    storm.heal().await?;
    storm.judge().await;
    if let Some(life) = storm.life.take() {
        life.stop().await;
    }
    Ok(storm.outcome)
}

impl Drop for Life {
    fn drop(&mut self) {
        // A runtime may not be dropped inside another one.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Storm {
    async fn rage(&mut self, plan: &Plan) -> anyhow::Result<()> {
        let began = Instant::now();
        let mut raging = false;
        for (at, step) in &plan.steps {
            if !raging && !at.is_zero() {
                raging = true;
                plan.weather.iter().cloned().for_each(|fault| self.sandbox.fault(fault));
            }
            tokio::time::sleep_until((began + *at).into()).await;
            tracing::info!(?step, "storm");
            self.take(*step).await?;
        }
        Ok(())
    }

    fn item(&self, n: usize) -> Option<String> {
        self.items.get(n % self.items.len().max(1)).cloned()
    }

    fn account(&self, item: usize, n: usize) -> Option<(String, String)> {
        let item = self.item(item)?;
        let accounts = self.sandbox.accounts_of(&item).ok()?;
        let account = accounts.get(n % accounts.len().max(1))?.clone();
        Some((item, account))
    }

    async fn take(&mut self, step: Step) -> anyhow::Result<()> {
        let sandbox = self.sandbox.clone();
        match step {
            Step::Link { business, accounts } => {
                let accounts = (0..accounts).map(|n| NewAccount::checking(&format!("{:04}", 1000 + n))).collect();
                let new = NewItem { business: format!("b{business}"), accounts, announce: Announce::Database };
                let item = sandbox.link(&new).await?;
                tracing::info!(item, business, accounts = ?sandbox.accounts_of(&item)?, "storm links");
                self.push(&item);
                self.items.push(item);
            }
            Step::Rotate { item, told } => {
                let Some(item) = self.item(item) else { return Ok(()) };
                sandbox.rotate(&item, Announce::Database).await?;
                tracing::info!(item, "storm rotates");
                match told {
                    Told::Push => self.push(&item),
                    Told::Database => {}
                    Told::Webhook => sandbox.fire(&item, "ITEM", "ERROR", &json!({"error": null}))?,
                    Told::Notice => self.notice(&item),
                }
            }
            Step::Webhook { item, code } => {
                if let Some(item) = self.item(item) {
                    sandbox.fire(&item, "ITEM", code, &json!({"error": null}))?;
                }
            }
            Step::AddAccount { item } => {
                if let Some(item) = self.item(item) {
                    let account = sandbox.add_account(&item, &NewAccount::checking("7777"))?;
                    tracing::info!(item, account, "storm adds");
                    // A platform that names the accounts that take part names the new one too.
                    if sandbox.push_body(&item, &json!({}))?.get("accounts").is_some() {
                        self.push(&item);
                    }
                    sandbox.fire(&item, "ITEM", "NEW_ACCOUNTS_AVAILABLE", &json!({}))?;
                }
            }
            Step::CloseAccount { item, account, told } => {
                if let Some((item, account)) = self.account(item, account) {
                    sandbox.close_account(&account)?;
                    tracing::info!(item, account, "storm closes");
                    if told {
                        sandbox.fire(&item, "ITEM", "USER_ACCOUNT_REVOKED", &json!({"account_id": account}))?;
                    }
                }
            }
            Step::ReopenAccount { item, account } => {
                if let Some((item, account)) = self.account(item, account) {
                    sandbox.reopen_account(&account)?;
                    tracing::info!(item, account, "storm reopens");
                }
            }
            Step::Renumber { item, account } => {
                if let Some((item, account)) = self.account(item, account) {
                    let new = sandbox.renumber_account(&account)?;
                    tracing::info!(account, new, "storm re-numbers");
                    // A platform that names accounts has to name the new id as well: Rekey may never have read the old one.
                    if sandbox.push_body(&item, &json!({}))?["accounts"].is_array() {
                        self.push(&item);
                    }
                }
            }
            Step::MoveAccount { item, account, business } => {
                if let Some((item, account)) = self.account(item, account) {
                    sandbox.assign_account(&account, Some(&format!("b{business}")))?;
                    tracing::info!(item, account, business, "storm moves");
                    self.push(&item);
                }
            }
            Step::RequireLogin { item } => {
                if let Some(item) = self.item(item).filter(|i| sandbox.is_good(i)) {
                    sandbox.require_login(&item)?;
                    sandbox.fire(&item, "ITEM", "ERROR", &Sandbox::webhook_error("ITEM_LOGIN_REQUIRED"))?;
                }
            }
            Step::Repair { item } => self.repair(item)?,
            Step::Revoke { item, told } => {
                if let Some(item) = self.item(item).filter(|i| sandbox.is_good(i)) {
                    sandbox.revoke(&item)?;
                    tracing::info!(item, "storm revokes");
                    if told {
                        let why = Sandbox::webhook_error("USER_PERMISSION_REVOKED");
                        sandbox.fire(&item, "ITEM", "USER_PERMISSION_REVOKED", &why)?;
                    }
                }
            }
            Step::Offboard { item } => {
                if let Some(item) = self.item(item).filter(|i| sandbox.is_good(i)) {
                    sandbox.offboard(&item, false).await?;
                    tracing::info!(item, "storm off-boards");
                    self.call(&item, reqwest::Method::DELETE, format!("/v1/items/{item}"));
                }
            }
            Step::SyncBusiness { business } => {
                self.call("", reqwest::Method::POST, format!("/v1/businesses/b{business}/sync"));
            }
            Step::Crash => {
                self.outcome.crashes += 1;
                if let Some(life) = self.life.take() {
                    life.crash();
                }
                self.life = Some(Life::begin(&self.local).await?);
            }
            Step::Restart => {
                if let Some(life) = self.life.take() {
                    life.stop().await;
                }
                self.life = Some(Life::begin(&self.local).await?);
            }
            Step::Kafka { up } => {
                if let Some(broker) = &self.local.broker {
                    if up { broker.up()? } else { broker.down()? }
                }
            }
        }
        Ok(())
    }

    fn repair(&self, item: usize) -> anyhow::Result<()> {
        if let Some(item) = self.item(item).filter(|i| self.sandbox.needs_login(i)) {
            self.sandbox.repair(&item)?;
            self.sandbox.fire(&item, "ITEM", "LOGIN_REPAIRED", &json!({}))?;
        }
        Ok(())
    }

    /// The platform tells Rekey what it knows of the Item, again until Rekey has taken it.
    fn push(&mut self, item: &str) {
        let (sandbox, item) = (self.sandbox.clone(), item.to_owned());
        let turn = Arc::clone(self.turns.entry(item.clone()).or_default());
        self.telling.spawn(async move {
            let _turn = turn.lock_owned().await;
            loop {
                let Ok(body) = sandbox.push_body(&item, &json!({})) else { return };
                let path = format!("/v1/items/{item}");
                match sandbox.admin_call(reqwest::Method::PUT, &path, Some(&body)).await {
                    Ok((200, _)) => return,
                    Ok((422, _)) if !sandbox.is_good(&item) => return,
                    // Not reached, not judged yet (202), or the token changed again meanwhile, and so does the next body.
                    answer => tracing::info!(item, ?answer, "the push was not taken"),
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
    }

    /// The same for calls without a body.
    fn call(&mut self, about: &str, method: reqwest::Method, path: String) {
        let sandbox = self.sandbox.clone();
        let turn = Arc::clone(self.turns.entry(about.to_owned()).or_default());
        self.telling.spawn(async move {
            let _turn = turn.lock_owned().await;
            while !sandbox.admin_call(method.clone(), &path, None).await.is_ok_and(|(status, _)| status < 500) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
    }

    fn notice(&self, item: &str) {
        let (local, item) = (Arc::clone(&self.local), item.to_owned());
        tokio::spawn(async move { World::publish_notice(&local, &item).await });
    }

    /// The weather clears, Kafka is back, people log in again.
    async fn heal(&mut self) -> anyhow::Result<()> {
        self.sandbox.heal();
        if let Some(broker) = &self.local.broker {
            broker.up()?;
        }
        for n in 0..self.items.len() {
            self.repair(n)?;
        }
        // What the platform has not got across yet is no fault of Rekey's.
        let told = async { while self.telling.join_next().await.is_some() {} };
        tokio::time::timeout(self.bound, told).await.context("the platform could not tell Rekey everything")?;
        let began = Instant::now();
        while began.elapsed() < self.bound {
            if self.sandbox.verdict().exact && self.parked().await.is_empty() && self.is_quiet().await {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        if began.elapsed() >= self.bound {
            let left = match self.store() {
                Some(store) => tests::unserved(&store).await,
                None => Vec::new(),
            };
            self.outcome.faults.push(format!("I10: work goes on {:?} after the last fault: {left:?}", self.bound));
        }
        self.outcome.healed_ms = u64::try_from(began.elapsed().as_millis())?;
        Ok(())
    }

    fn store(&self) -> Option<Store> {
        self.life.as_ref().and_then(Life::store)
    }

    async fn parked(&self) -> Vec<String> {
        match self.store() {
            Some(store) => tests::parked(&store).await,
            None => vec!["the store is not open".into()],
        }
    }

    async fn is_quiet(&self) -> bool {
        match self.store() {
            Some(store) => tests::is_quiet(&store).await,
            None => false,
        }
    }

    /// What Rekey itself thinks of a list that is wrong, for the trace.
    async fn explain(&self, wrong: &sandbox::BusinessVerdict) {
        let mut paths = vec![format!("/v1/businesses/{}", wrong.business)];
        for account in wrong.missing.iter().chain(&wrong.extra).chain(&wrong.dead).chain(&wrong.doubled) {
            let item = self.sandbox.item_of(account).unwrap_or_default();
            tracing::error!(business = wrong.business, account, item, "wrong");
            paths.push(format!("/v1/items/{item}"));
        }
        for path in paths {
            let shown = self.sandbox.admin_call(reqwest::Method::GET, &path, None).await;
            tracing::error!("{path}: {shown:?}");
        }
    }

    async fn judge(&mut self) {
        let verdict = self.sandbox.verdict();
        let parked = self.parked().await;
        let ledger = match self.store() {
            Some(store) => tests::ledger(&store, &self.items).await.unwrap_or_default(),
            None => BTreeMap::default(),
        };
        let (known, orphans) = (ledger.values().sum::<u64>(), ledger.get("orphaned").copied().unwrap_or_default());
        let (counts, bound) = (&verdict.counts, self.bound);
        let outcome = &mut self.outcome;
        outcome.items = self.items.len();
        outcome.rotations = counts.rotations;
        outcome.mints = counts.mints;
        outcome.mints_allowed = verdict.mints_allowed + orphans;
        outcome.orphans = orphans;
        outcome.puts = counts.puts;
        outcome.refused = counts.puts_refused;
        outcome.webhooks = counts.webhooks_answered_200;
        for wrong in &verdict.wrong {
            self.explain(wrong).await;
        }
        let outcome = &mut self.outcome;
        if !verdict.exact {
            outcome.faults.push(format!("I10: not exact {bound:?} after the last fault: {:?}", verdict.wrong));
        }
        outcome.faults.extend(verdict.violations.iter().cloned());
        if !parked.is_empty() {
            outcome.faults.push(format!("I4: left parked: {parked:?}"));
        }
        if outcome.mints > outcome.mints_allowed {
            outcome.faults.push(format!("I6: {} mints, {} allowed", outcome.mints, outcome.mints_allowed));
        }
        if outcome.mints > known || ledger.contains_key("intended") {
            outcome.faults.push(format!("I6: {} mints, and the ledger knows {ledger:?}", outcome.mints));
        }
        if counts.needless_puts > 0 {
            outcome.faults.push(format!("I9: {} PUTs changed nothing", counts.needless_puts));
        }
    }
}
