//! What tests ask of the world.

use crate::Sandbox;
use crate::oracle::active_tokens;
use crate::switches::Shows;
use crate::world::{Item, ItemStatus, LayerBusiness};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// A row of a list at Layer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listed {
    pub business: String,
    pub account: String,
    pub token: String,
    /// Layer can read the account with it.
    pub alive: bool,
}

impl Sandbox {
    /// The Item works, or would after a login.
    pub fn is_good(&self, item: &str) -> bool {
        let good = |i: &mut Item| matches!(i.status, ItemStatus::Good | ItemStatus::LoginRequired);
        self.world().item(item).is_ok_and(good)
    }

    /// Whether the user must log in.
    pub fn needs_login(&self, item: &str) -> bool {
        self.world().item(item).is_ok_and(|i| i.status == ItemStatus::LoginRequired)
    }

    /// The Item that holds an account.
    pub fn item_of(&self, account: &str) -> Option<String> {
        self.world().account(account).ok().map(|(item, _)| item.to_owned())
    }

    /// Every account that belongs into a list, with its business.
    pub fn wanted(&self) -> BTreeSet<(String, String)> {
        let world = self.world();
        world.truth().map(|(business, _, account)| (business.to_owned(), account.id.clone())).collect()
    }

    /// Every row of every list at Layer.
    pub fn listed(&self) -> Vec<Listed> {
        let world = self.world();
        let of = |b: &LayerBusiness| {
            let business = b.external_id.clone();
            let row = |(account, token): (String, String)| Listed {
                business: business.clone(),
                alive: world.is_alive(&token),
                account,
                token,
            };
            active_tokens(b).map(row).collect::<Vec<_>>()
        };
        world.layer.values().flat_map(of).collect()
    }

    /// Tokens that Layer lists for a business, for tests of what leaks and what is compared.
    pub fn listed_tokens(&self, business: &str) -> Vec<String> {
        let mut world = self.world();
        let rows = world.layer_by_external(business).map(|b| b.rows.clone()).unwrap_or_default();
        rows.into_iter().filter(|r| !r.archived).filter_map(|r| r.token).collect()
    }

    /// How many rows Layer's list has, archived ones included.
    pub fn layer_rows(&self, business: &str) -> usize {
        self.world().layer_by_external(business).map_or(0, |b| b.rows.len())
    }

    /// Layer's id of the business.
    pub fn layer_id(&self, business: &str) -> Option<String> {
        self.world().layer_by_external(business).map(|b| b.id.clone())
    }

    /// Businesses whose list a PUT changed, and how often.
    pub fn changed_lists(&self) -> BTreeMap<String, u64> {
        self.world().changed.clone()
    }

    /// Calls to an endpoint so far.
    pub fn calls(&self, endpoint: &str) -> usize {
        self.world().calls.iter().filter(|c| c.endpoint == endpoint).count()
    }

    /// When an endpoint was called, and about which Item or business, in order.
    pub fn calls_about(&self, endpoint: &str) -> Vec<(Instant, String)> {
        self.world().calls.iter().filter(|c| c.endpoint == endpoint).map(|c| (c.at, c.about.clone())).collect()
    }

    /// How often a call was made to wait by a fault so far.
    pub fn hung(&self, call: &str) -> usize {
        self.world().hanging.iter().filter(|c| *c == call).count()
    }

    /// Bodies of the webhooks that were answered 200, in order: each of them has to be on its topic.
    pub fn accepted_webhooks(&self) -> Vec<Vec<u8>> {
        self.world().accepted.clone()
    }

    /// Every token that was ever given out.
    pub fn secrets(&self) -> Vec<String> {
        self.world().secrets.clone()
    }

    /// Whether Layer's list shows less of a token than what a PUT needs.
    pub fn hides_tokens(&self) -> bool {
        self.world().switches.list_shows != Shows::Full
    }
}
