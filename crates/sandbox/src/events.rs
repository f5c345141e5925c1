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

    /// The bank writes the account's name in another way.
    pub fn rename_account(&self, account: &str, name: &str) -> Result<(), Error> {
        self.world().account(account)?.1.name = name.to_owned();
        Ok(())
    }

    /// Plaid can't hand the account to this processor.
    pub fn refuse_account(&self, account: &str, refuse: bool) -> Result<(), Error> {
        self.world().account(account)?.1.unsupported = refuse;
        Ok(())
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

    /// Layer connects an account through its own Plaid integration.
    pub fn layer_connects(&self, business: &str) -> Result<String, Error> {
        let mut world = self.world();
        let (id, account) = (world.uuid(), world.opaque("own"));
        let unknown = || Error::Unknown { what: "business", id: business.into() };
        let at_layer = world.layer_by_external(business).ok_or_else(unknown)?;
        at_layer.rows.push(Row { id: id.clone(), account, token: None, archived: false });
        Ok(id)
    }

    /// Somebody else puts a token into the list at Layer: for `account` of ours, or for one nobody here knows.
    pub fn foreign_token(&self, business: &str, account: Option<&str>) -> Result<String, Error> {
        let mut world = self.world();
        let (id, token) = (world.uuid(), world.secret("processor-sandbox"));
        let (account, minted) = match account {
            Some(account) => {
                let item = world.account(account)?.0.to_owned();
                let access_token = world.item(&item)?.access_token.clone();
                (account.to_owned(), Minted { item, account: account.to_owned(), access_token, dead: false })
            }
            None => {
                let account = world.opaque("foreign");
                (
                    account.clone(),
                    Minted { item: "elsewhere".into(), account, access_token: String::new(), dead: false },
                )
            }
        };
        world.minted.insert(token.clone(), minted);
        let unknown = || Error::Unknown { what: "business", id: business.into() };
        let at_layer = world.layer_by_external(business).ok_or_else(unknown)?;
        at_layer.rows.push(Row { id, account, token: Some(token.clone()), archived: false });
        Ok(token)
    }

    /// Somebody archives the account at Layer.
    pub fn archive_row(&self, business: &str, account: &str) -> Result<(), Error> {
        let mut world = self.world();
        let unknown = || Error::Unknown { what: "business", id: business.into() };
        let at_layer = world.layer_by_external(business).ok_or_else(unknown)?;
        at_layer.rows.iter_mut().filter(|r| r.account == account).for_each(|r| r.archived = true);
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
}
