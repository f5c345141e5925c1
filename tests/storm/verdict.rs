//! After a storm: everything heals, and the oracle has the last word.

use crate::life::Life;
use crate::run::{Storm, sweep_period};
use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use store::Store;

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

/// From the last fault to exact lists (I10): the longest of lease (2 s), backoff (500 ms), probe (200 ms) and sweep, with
/// what follows it, plus the work divided by what two shared cores do of it.
pub(crate) fn bound(items: usize) -> Duration {
    2 * sweep_period(items) + Duration::from_secs(20) + Duration::from_millis(100) * items as u32
}

impl Storm {
    /// The weather clears, Kafka is back, people log in again.
    pub(crate) async fn heal(&mut self) -> anyhow::Result<()> {
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

    pub(crate) async fn judge(&mut self) {
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
