//! What happens that Rekey has no part in: at the bank, to the user, at Plaid, and by others at Layer.

use crate::platform::{NewAccount, make_account};
use crate::world::{Account, ItemStatus, Minted, Row};
use crate::{Error, Sandbox};

impl Sandbox {
    /// Opens an account at the bank; its id.
    pub fn add_account(&self, item: &str, new: &NewAccount) -> Result<String, Error> {
        let mut world = self.world();
        let business = world.item(item)?.business.clone();
        let account = make_account(&mut world, new, &business);
        let id = account.id.clone();
        world.item(item)?.accounts.push(account);
        Ok(id)
    }

    /// The bank no longer shows it.
    pub fn close_account(&self, account: &str) -> Result<(), Error> {
        self.world().account(account)?.1.open = false;
        Ok(())
    }

    /// The bank shows it again.
    pub fn reopen_account(&self, account: &str) -> Result<(), Error> {
        self.world().account(account)?.1.open = true;
        Ok(())
    }

    /// The bank gives the account a new number: another `account_id` for the same account.
    pub fn renumber_account(&self, account: &str) -> Result<String, Error> {
        let mut world = self.world();
        let new_id = world.opaque("acc");
        let (item, old) = world.account(account)?;
        let item = item.to_owned();
        old.open = false;
        let renumbered = Account { id: new_id.clone(), open: true, ..old.clone() };
        world.item(&item)?.accounts.push(renumbered);
        Ok(new_id)
    }

    /// The user must log in before Plaid answers for the Item.
    pub fn require_login(&self, item: &str) -> Result<(), Error> {
        self.world().item(item)?.status = ItemStatus::LoginRequired;
        Ok(())
    }

    /// The user has logged in.
    pub fn repair(&self, item: &str) -> Result<(), Error> {
        self.world().item(item)?.status = ItemStatus::Good;
        Ok(())
    }

    /// Somebody else puts a token into the list at Layer: for `account` of ours, or for one nobody here knows.
    pub fn foreign_token(&self, business: &str, account: Option<&str>) -> Result<String, Error> {
        let mut world = self.world();
        let (id, token) = (world.uuid(), world.secret("processor-sandbox"));
        let (account, item, access_token) = match account {
            Some(account) => {
                let item = world.account(account)?.0.to_owned();
                let access_token = world.item(&item)?.access_token.clone();
                (account.to_owned(), item, access_token)
            }
            None => (world.opaque("foreign"), "elsewhere".into(), String::new()),
        };
        let minted = Minted { item, account: account.clone(), access_token, dead: false };
        world.minted.insert(token.clone(), minted);
        world.business(business)?.rows.push(Row { id, account, token: Some(token.clone()), archived: false });
        Ok(token)
    }

    /// Plaid can't hand the account to this processor.
    pub fn refuse_account(&self, account: &str, refuse: bool) -> Result<(), Error> {
        self.world().account(account)?.1.unsupported = refuse;
        Ok(())
    }

    /// Plaid sends a webhook that never comes, and believes that it arrived.
    pub fn lose_webhook(&self, item: &str, code: &str) -> Result<(), Error> {
        self.world().item(item)?.last_webhook = Some((jiff::Timestamp::now(), code.to_owned()));
        Ok(())
    }

    /// Consent ends so many days from now.
    pub fn end_consent(&self, item: &str, days: i64) -> Result<(), Error> {
        let ends = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(days * 24);
        self.world().item(item)?.consent_until = Some(ends);
        Ok(())
    }

    /// An operator has the Item's tokens minted again: that many more mints are as they should be (I6).
    pub fn order_mints(&self, item: &str) -> Result<(), Error> {
        let mut world = self.world();
        let accounts = world.item(item)?.accounts.len() as u64;
        world.counts.mints_ordered += accounts;
        Ok(())
    }

    /// Layer archives the business, or brings it back.
    pub fn archive_business(&self, business: &str, archived: bool) -> Result<(), Error> {
        self.world().business(business)?.archived = archived;
        Ok(())
    }

    /// The user withdraws consent for the whole Item.
    pub fn revoke(&self, item: &str) -> Result<(), Error> {
        self.world().item(item)?.status = ItemStatus::Revoked;
        Ok(())
    }
}
