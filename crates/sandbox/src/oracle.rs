//! The oracle: judges from the truth of the simulated world alone.

use crate::Sandbox;
use crate::world::{Account, Item, LayerBusiness, Row, World};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// What was done, for bounds on it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Counts {
    pub rotations: u64,
    pub mints: u64,
    pub answers_lost: u64,
    pub puts: u64,
    pub needless_puts: u64,
    pub puts_refused: u64,
    pub lists: u64,
    pub webhooks_sent: u64,
    pub webhooks_answered_200: u64,
    #[serde(default)]
    pub mints_ordered: u64,
}

/// One business: is its list at Layer exactly right?
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BusinessVerdict {
    pub business: String,
    pub exact: bool,
    /// Accounts that should be listed.
    pub accounts: usize,
    /// Those of them that Layer can read.
    pub alive: usize,
    /// Accounts that should be listed and are not.
    pub missing: Vec<String>,
    /// Accounts listed with a token that Layer can't read with.
    pub dead: Vec<String>,
    /// Accounts listed that should not be.
    pub extra: Vec<String>,
    /// Accounts listed more than once.
    pub doubled: Vec<String>,
}

/// The whole world.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Verdict {
    /// Every business's list is exactly right.
    pub exact: bool,
    pub businesses: usize,
    /// Those that are not exact.
    pub wrong: Vec<BusinessVerdict>,
    /// What must never happen, in the order it happened.
    pub violations: Vec<String>,
    pub counts: Counts,
    /// Generations times accounts, plus answers lost, plus what operators ordered (I6).
    pub mints_allowed: u64,
}

impl Sandbox {
    /// Compares the whole world with what it should be.
    pub fn verdict(&self) -> Verdict {
        let world = self.world();
        // Sorted by business once: a world of thousands is judged while it runs.
        let mut wanted: HashMap<&str, BTreeSet<String>> = HashMap::new();
        for (business, _, account) in world.truth() {
            wanted.entry(business).or_default().insert(account.id.clone());
        }
        let mut lists: HashMap<String, &LayerBusiness> = HashMap::new();
        for (business, name) in world.layer.values().flat_map(|b| names(b).map(move |name| (b, name))) {
            lists.entry(name).or_insert(business);
        }
        let nothing = BTreeSet::new();
        let judge = |b: &String| world.judge(b, wanted.get(b.as_str()).unwrap_or(&nothing), lists.get(b).copied());
        let wrong: Vec<BusinessVerdict> = world.businesses.iter().map(judge).filter(|v| !v.exact).collect();
        let mints_allowed =
            world.items.values().map(|i| u64::from(i.generation) * i.accounts.len() as u64).sum::<u64>()
                + world.counts.answers_lost
                + world.counts.mints_ordered;
        let over = world.over_limits.iter().map(|(limit, n)| format!("I9: {n} calls over the limit of {limit}"));
        let violations = world.violations.iter().cloned().chain(over).collect();
        Verdict {
            exact: wrong.is_empty(),
            businesses: world.businesses.len(),
            wrong,
            violations,
            counts: world.counts.clone(),
            mints_allowed,
        }
    }

    /// Compares one business's list with what it should be.
    pub fn business_verdict(&self, business: &str) -> BusinessVerdict {
        let world = self.world();
        let wanted = world.truth_of(business).into_iter().map(|(_, a)| a.id.clone()).collect();
        let list = world.layer.values().find(|b| names(b).any(|name| name == business));
        world.judge(business, &wanted, list)
    }
}

/// What the platform may call a business: its own id for it, or Layer's.
fn names(business: &LayerBusiness) -> impl Iterator<Item = String> {
    [business.external_id.clone(), format!("layer:{}", business.id)].into_iter()
}

impl World {
    fn judge(&self, business: &str, wanted: &BTreeSet<String>, list: Option<&LayerBusiness>) -> BusinessVerdict {
        let mut listed: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (account, token) in list.into_iter().flat_map(active_tokens) {
            listed.entry(account).or_default().push(token);
        }
        let missing: Vec<String> = wanted.iter().filter(|a| !listed.contains_key(*a)).cloned().collect();
        let extra: Vec<String> = listed.keys().filter(|a| !wanted.contains(*a)).cloned().collect();
        let doubled: Vec<String> = listed.iter().filter(|(_, t)| t.len() > 1).map(|(a, _)| a.clone()).collect();
        let dead: Vec<String> = listed
            .iter()
            .filter(|(a, t)| wanted.contains(*a) && t.iter().any(|t| !self.is_alive(t)))
            .map(|(a, _)| a.clone())
            .collect();
        let exact = missing.is_empty() && extra.is_empty() && doubled.is_empty() && dead.is_empty();
        let (accounts, alive) = (wanted.len(), wanted.len() - missing.len() - dead.len());
        BusinessVerdict { business: business.to_owned(), exact, accounts, alive, missing, dead, extra, doubled }
    }

    /// Notes that a PUT changed a list, if it did.
    pub(crate) fn note_change(&mut self, id: &str, before: &[Row]) {
        let tokens = |rows: &[Row]| -> BTreeSet<String> {
            rows.iter().filter(|r| !r.archived).filter_map(|r| r.token.clone()).collect()
        };
        let Some(business) = self.layer.get(id) else { return };
        if tokens(&business.rows) != tokens(before) {
            *self.changed.entry(business.external_id.clone()).or_default() += 1;
        }
    }

    /// Judges a PUT before it takes effect: is it needed, and does it drop what nobody asked to drop?
    pub(crate) fn judge_put(&mut self, id: &str, tokens: &[String]) {
        let Some(business) = self.layer.get(id) else { return };
        let before: BTreeSet<String> = active_tokens(business).map(|(_, t)| t).collect();
        let after: BTreeSet<String> = tokens.iter().cloned().collect();
        let accounts: BTreeSet<&str> =
            tokens.iter().filter_map(|t| self.minted.get(t)).map(|m| m.account.as_str()).collect();
        let truth = self.truth_of(&business.external_id);
        let dropped: Vec<String> = active_tokens(business)
            .filter(|(account, token)| {
                let wanted = truth.iter().find(|(_, a)| a.id == *account);
                let older = |(item, _): &(&Item, &Account)| {
                    self.minted.get(token).is_some_and(|m| m.access_token != item.access_token)
                };
                // Once Layer refused a list, tokens of older generations may be left out: nobody can tell which it was.
                wanted.is_some_and(|w| !(business.refused && older(w)))
                    && self.is_alive(token)
                    && !accounts.contains(account.as_str())
            })
            .map(|(account, _)| account)
            .collect();
        let elsewhere: Vec<String> = self
            .layer
            .iter()
            .filter(|(other, b)| other.as_str() != id && !b.archived)
            .flat_map(|(_, b)| active_tokens(b))
            .filter(|(account, _)| accounts.contains(account.as_str()))
            .map(|(account, _)| account)
            .collect();
        let external = business.external_id.clone();
        // A caller that was shown an old list could not know that there was nothing to do.
        if before == after && business.last_shown == after {
            self.counts.needless_puts += 1;
        }
        if !elsewhere.is_empty() {
            self.violations
                .push(format!("I8: a PUT for {external} lists {}, which another list has", elsewhere.join(", ")));
        }
        if !dropped.is_empty() {
            self.violations.push(format!("I8: a PUT for {external} drops {}", dropped.join(", ")));
        }
    }
}

pub(crate) fn active_tokens(business: &LayerBusiness) -> impl Iterator<Item = (String, String)> + '_ {
    business
        .rows
        .iter()
        .filter(|r| !r.archived)
        .filter_map(|r| r.token.as_ref().map(|t| (r.account.clone(), t.clone())))
}
