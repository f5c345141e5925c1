//! What happens at the bank, at Plaid and at Layer, beside what [`crate::events`] has for everybody, and what only the platform of
//! a test decides.

use crate::world::Row;
use crate::{Error, Sandbox, Switches};

impl Sandbox {
    /// The bank writes the account's name in another way.
    pub fn rename_account(&self, account: &str, name: &str) -> Result<(), Error> {
        self.world().account(account)?.1.name = name.to_owned();
        Ok(())
    }

    /// Layer connects an account through its own Plaid integration.
    pub fn layer_connects(&self, business: &str) -> Result<String, Error> {
        let mut world = self.world();
        let (id, account) = (world.uuid(), world.opaque("own"));
        world.business(business)?.rows.push(Row { id: id.clone(), account, token: None, archived: false });
        Ok(id)
    }

    /// Somebody archives the account at Layer.
    pub fn archive_row(&self, business: &str, account: &str) -> Result<(), Error> {
        let mut world = self.world();
        world.business(business)?.rows.iter_mut().filter(|r| r.account == account).for_each(|r| r.archived = true);
        Ok(())
    }

    /// Kills one processor token, as Plaid might do on its own.
    pub fn kill_token_of(&self, account: &str) {
        self.world().minted.values_mut().filter(|m| m.account == account).for_each(|m| m.dead = true);
    }

    /// Plaid brings a new signing key into use.
    pub fn rotate_signing_key(&self) {
        let mut world = self.world();
        let signer = crate::Signer::new(&mut world.rng);
        world.signers.push(signer);
    }

    /// Plaid retires every signing key and brings a new one into use.
    pub fn retire_signing_keys(&self) {
        let now = jiff::Timestamp::now().as_second();
        self.world().signers.iter_mut().for_each(|s| s.expired_at = Some(now));
        self.rotate_signing_key();
    }

    /// Every bearer token that Layer gave out dies early.
    pub fn revoke_bearers(&self) {
        self.world().bearers.clear();
    }

    /// The platform gives every Item another webhook URL: `/item/webhook/update`.
    pub fn move_webhooks(&self, url: &str) {
        let mut world = self.world();
        world.webhook_url = Some(url.to_owned());
        world.items.values_mut().for_each(|i| i.webhook_url = Some(url.to_owned()));
    }

    /// The platform decides that the account belongs to another business, or to none.
    pub fn assign_account(&self, account: &str, business: Option<&str>) -> Result<(), Error> {
        let mut world = self.world();
        world.account(account)?.1.business = business.map(str::to_owned);
        // The next push says so.
        for item in world.items.values_mut().filter(|i| i.accounts.iter().any(|a| a.id == account)) {
            (item.assigned, item.pushed) = (true, false);
        }
        Ok(())
    }

    /// One delivery; the status, or 0 when there was none.
    pub async fn send_once(&self, url: &str, body: &[u8]) -> u16 {
        self.send_skewed(url, body, 0).await
    }
}

impl Switches {
    /// Plaid's limits as it publishes them for production: <https://plaid.com/docs/errors/rate-limit-exceeded/>; and
    /// Layer's for its sandbox: <https://docs.layerfi.com/api-details/rate-limiting>.
    pub fn limit_as_documented(&mut self) {
        self.item_get_per_minute = 5_000;
        self.item_get_per_minute_per_item = 15;
        self.accounts_get_per_minute = 15_000;
        self.accounts_get_per_minute_per_item = 15;
        self.mints_per_minute = 500;
        self.layer_per_second = 100;
        self.layer_creates_per_second = 10;
    }
}
