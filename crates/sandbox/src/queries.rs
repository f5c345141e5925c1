//! What is asked of the world.

use crate::{Error, Sandbox};

impl Sandbox {
    /// The one that Plaid takes now.
    pub fn access_token(&self, item: &str) -> Result<String, Error> {
        Ok(self.world().item(item)?.access_token.clone())
    }

    /// Ids of the accounts that the bank shows.
    pub fn accounts_of(&self, item: &str) -> Result<Vec<String>, Error> {
        Ok(self.world().item(item)?.accounts.iter().map(|a| a.id.clone()).collect())
    }

    /// Ids of all Items.
    pub fn items(&self) -> Vec<String> {
        self.world().items.keys().cloned().collect()
    }
}
