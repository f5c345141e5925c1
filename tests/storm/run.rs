//! One storm: the plan is carried out, step by step.

use crate::life::Life;
use crate::plan::{Plan, Step, Told};
use crate::verdict::{Outcome, bound};
use rekey::local::{Ground, Local};
use sandbox::{Announce, NewAccount, NewBusiness, NewItem, Sandbox};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tests::World;
use tokio::task::JoinSet;

/// As often as the world's size allows: the sweep is what finds changes that nobody announced.
pub(crate) fn sweep_period(items: usize) -> Duration {
    Duration::from_millis(50 * items.max(40) as u64)
}

pub(crate) struct Storm {
    pub(crate) bound: Duration,
    pub(crate) local: Arc<Local>,
    pub(crate) sandbox: Sandbox,
    pub(crate) life: Option<Life>,
    pub(crate) items: Vec<String>,
    /// What the platform is telling Rekey, one call at a time for each Item, as a platform must: of two that are on
    /// their way, nobody knows which comes last.
    pub(crate) turns: BTreeMap<String, Arc<tokio::sync::Mutex<()>>>,
    pub(crate) telling: JoinSet<()>,
    pub(crate) outcome: Outcome,
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

    pub(crate) fn repair(&self, item: usize) -> anyhow::Result<()> {
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
}
