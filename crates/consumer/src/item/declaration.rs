//! What the platform said with an access token: which business, which accounts. It is in force once it is judged.

use super::Reconciliation;
use crate::business::resolve;
use crate::outcome::{self, kind};
use crate::reconcile::Stop;
use crate::refusals::{Refusal, conclude};
use domain::accounts::Read;
use domain::budget::Call;
use domain::item::TokenCause;
use domain::{AccountId, BusinessId, Fingerprint};
use serde_json::json;
use store::{Accounts, Declaration};

impl Reconciliation<'_> {
    /// Judges what waits under the current token. `shown`: the accounts that Plaid shows now; without them only one that
    /// can take nothing off a list is judged.
    pub(super) async fn judge_declaration(
        &mut self,
        token: &Fingerprint,
        declaration: &Declaration,
        shown: Option<&[Read]>,
    ) -> Result<(), Stop> {
        let is_listed = self.known.iter().any(|a| a.business.is_some());
        let refused = match (is_listed, shown) {
            (false, _) => None,
            (true, None) => return Ok(()),
            (true, Some(shown)) => match self.strangers_named(declaration, shown) {
                Some(refused) => Some(refused),
                None => self.unknown_target(declaration).await?,
            },
        };
        let item = self.item.id.clone();
        let mut tx = self.context.store.begin().await?;
        tx.check_lease(&self.claim).await?;
        if let Some((cause, why)) = &refused {
            tx.refuse_declaration(&item, token, *cause, why).await?;
            let businesses = tx.businesses_of_item(&item).await?;
            let payload = json!({"fingerprint": token, "code": cause, "why": why});
            outcome::about_item(&mut tx, &self.claim, &item, &businesses, kind::PUSH_REFUSED, payload).await?;
            tracing::warn!(token = %token, code = %cause, why, "what was pushed is refused");
        } else {
            tx.apply_declaration(&item, token).await?;
        }
        if let Some(item) = tx.item(&item).await? {
            self.item = item;
        }
        tx.commit().await?;
        Ok(())
    }

    /// A push that names an account that Plaid has never shown for this Item, and leaves out one that takes part, looks
    /// like a mistake: to follow it would drop the account that was meant.
    fn strangers_named(&self, declaration: &Declaration, shown: &[Read]) -> Option<(TokenCause, String)> {
        let Some(Accounts::Only(named)) = &declaration.accounts else { return None };
        let is_stranger =
            |id: &AccountId| !shown.iter().any(|a| a.id == *id) && !self.known.iter().any(|a| a.id == *id);
        let strangers: Vec<&str> =
            named.iter().map(|a| &a.account).filter(|id| is_stranger(id)).map(AccountId::as_str).collect();
        let is_named = |id: &AccountId| named.iter().any(|a| a.account == *id);
        let drops =
            self.known.iter().any(|a| a.business.is_some() && !is_named(&a.id) && shown.iter().any(|s| s.id == a.id));
        let why = format!(
            "the push names accounts that Plaid does not show for this Item ({}): push it again with the right ids; nothing \
             but the access token was taken",
            strangers.join(", ")
        );
        (drops && !strangers.is_empty()).then_some((TokenCause::AccountUnknown, why))
    }

    /// Accounts leave a list for another business only once that business is found at Layer: a typo in a name would
    /// otherwise empty a good list.
    async fn unknown_target(&mut self, declaration: &Declaration) -> Result<Option<(TokenCause, String)>, Stop> {
        let current = |b: &BusinessId| self.known.iter().any(|a| a.business.as_ref() == Some(b));
        let targets: Vec<BusinessId> = declaration.businesses().into_iter().filter(|b| !current(b)).collect();
        for target in targets {
            let known = self.context.store.begin_read().await?.business(&target).await?;
            if known.is_some_and(|b| b.layer_id.is_some()) {
                continue;
            }
            self.wait_for_slot(Call::Layer).await?;
            match resolve::layer_id_of(self.context, &target).await {
                Ok(Some(_)) => {}
                Ok(None) => {
                    let why = format!(
                        "Layer has no active business {target}, so no account leaves its list for it: create the business \
                         there, or push again with the right name; of this push nothing was taken, except an access token if it had one"
                    );
                    return Ok(Some((TokenCause::BusinessUnknown, why)));
                }
                Err(error) => {
                    return Err(Stop::Row(conclude(self.context, &self.claim, &Refusal::from(&error)).await?));
                }
            }
        }
        Ok(None)
    }
}
