//! First contact: tokens of our accounts that Layer had before Rekey came. By default they are replaced by minted
//! ones; told to adopt, Rekey asks Plaid which of them are alive and takes those.

use super::Reconciliation;
use crate::FirstContact;
use crate::business::{pages, resolve};
use crate::reconcile::Stop;
use crate::refusals::{Refusal, conclude};
use domain::budget::Call;
use domain::token_list::RowStatus;
use domain::{AccountId, BusinessId};
use layer::ListedAccount;
use plaid::TokenHealth;
use std::collections::BTreeMap;

impl Reconciliation<'_> {
    /// Returns the accounts that still need a mint.
    pub(super) async fn adopt_first(&mut self, missing: Vec<AccountId>) -> Result<Vec<AccountId>, Stop> {
        // Only the first generation is a first contact: what Layer lists later is ours or was replaced by ours.
        if self.context.settings.first_contact != FirstContact::Adopt || self.item.generation != 1 {
            return Ok(missing);
        }
        let mut lists: BTreeMap<BusinessId, Vec<ListedAccount>> = BTreeMap::new();
        let mut rest = Vec::new();
        for account in missing {
            let business = self.found.accounts.iter().find(|a| a.id == account).and_then(|a| a.business.clone());
            let Some(business) = business else { continue };
            if !lists.contains_key(&business) {
                let rows = self.list(&business).await?;
                lists.insert(business.clone(), rows);
            }
            let rows = lists.get(&business).map(Vec::as_slice).unwrap_or_default();
            if self.adopt(&account, rows).await? {
                self.found.adopted.push(account);
            } else {
                rest.push(account);
            }
        }
        Ok(rest)
    }

    async fn list(&mut self, business: &BusinessId) -> Result<Vec<ListedAccount>, Stop> {
        self.wait_for_slot(Call::Layer).await?;
        let rows = match resolve::layer_id_of(self.context, business).await {
            Ok(Some(id)) => pages(self.context, &mut self.claim, &id).await?,
            Ok(None) => Ok(Vec::new()),
            Err(error) => Err(error),
        };
        match rows {
            Ok(rows) => Ok(rows),
            Err(error) => Err(Stop::Row(conclude(self.context, &self.claim, &Refusal::from(&error)).await?)),
        }
    }

    async fn adopt(&mut self, account: &AccountId, rows: &[ListedAccount]) -> Result<bool, Stop> {
        let ours = |r: &&ListedAccount| r.status == RowStatus::Active && r.account.as_ref() == Some(account);
        let Some(token) = rows.iter().filter(ours).find_map(|r| r.token.clone()) else { return Ok(false) };
        self.wait_for_slot(Call::TokenProbe).await?;
        match self.context.plaid.processor_token_health(&token).await {
            Ok(TokenHealth::Alive) => {}
            Ok(TokenHealth::Dead) => return Ok(false),
            Err(error) => return Err(Stop::Row(conclude(self.context, &self.claim, &Refusal::from(&error)).await?)),
        }
        let mut tx = self.context.store.begin().await?;
        tx.check_lease(&self.claim).await?;
        tx.adopt(&self.item.id, account, self.item.generation, &token).await?;
        tx.commit().await?;
        tracing::info!(account = %account, "a living token that Layer had already is adopted");
        Ok(true)
    }
}
