//! What tests ask of the sandbox's world.

use crate::world::{Item, ItemStatus};
use crate::{Error, Sandbox};

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

    /// The one that Plaid takes now.
    pub fn access_token(&self, item: &str) -> Result<String, Error> {
        Ok(self.world().item(item)?.access_token.clone())
    }

    /// Ids of the accounts that the bank shows.
    pub fn accounts_of(&self, item: &str) -> Result<Vec<String>, Error> {
        Ok(self.world().item(item)?.accounts.iter().map(|a| a.id.clone()).collect())
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

    /// Ids of all Items.
    pub fn items(&self) -> Vec<String> {
        self.world().items.keys().cloned().collect()
    }

    /// Calls to an endpoint so far.
    pub fn calls(&self, endpoint: &str) -> usize {
        self.world().calls.iter().filter(|c| c.endpoint == endpoint).count()
    }

    /// Every token that was ever given out.
    pub fn secrets(&self) -> Vec<String> {
        self.world().secrets.clone()
    }

    /// When an endpoint was called, and about which Item or business, in order.
    pub fn calls_about(&self, endpoint: &str) -> Vec<(std::time::Instant, String)> {
        self.world().calls.iter().filter(|c| c.endpoint == endpoint).map(|c| (c.at, c.about.clone())).collect()
    }

    /// How often a call was made to wait by a fault so far.
    pub fn hung(&self, call: &str) -> usize {
        self.world().hanging.iter().filter(|c| *c == call).count()
    }
}
