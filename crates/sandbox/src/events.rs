//! What happens that Rekey has no part in: at the bank, to the user, at Plaid, and by others at Layer.

use crate::platform::{NewAccount, make_account};
use crate::world::{Account, ItemStatus};
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

    /// The user withdraws consent for the whole Item.
    pub fn revoke(&self, item: &str) -> Result<(), Error> {
        self.world().item(item)?.status = ItemStatus::Revoked;
        Ok(())
    }
}
