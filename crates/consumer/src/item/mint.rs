//! One live processor token per account and generation (I6): the intent is stored before the call.

use super::{Found, Look, Stop};
use crate::Mode;
use crate::faults::{Refusal, conclude};
use domain::accounts::Change;
use domain::budget::Call;
use domain::fault::chain;
use domain::item::ItemState;
use domain::metric;
use domain::work::Class;
use domain::{AccountId, Next};
use plaid::Meaning;
use store::{CurrentToken, Intent, Saved};
use tracing::field::Empty;

impl Look<'_> {
    pub(super) async fn mint_missing(&mut self, current: &CurrentToken, found: &mut Found) -> Result<(), Stop> {
        let missing = self.missing(found).await?;
        if self.context.settings.mode == Mode::Observe {
            found.would_mint = missing;
            return Ok(());
        }
        let missing = self.adopt_first(missing, found).await?;
        for account in missing {
            self.mint(current, &account, found).await?;
        }
        Ok(())
    }

    /// Accounts that take part and have no live token of this generation.
    async fn missing(&self, found: &Found) -> Result<Vec<AccountId>, Stop> {
        let mut tx = self.context.store.begin_read().await?;
        let live = tx.live_generations(&self.item.id).await?;
        let has = |id: &AccountId| live.iter().any(|(a, g)| a == id && *g >= self.item.generation);
        let takes_part =
            |change: &Change| matches!(change, Change::Joined { .. } | Change::Present | Change::Moved { .. });
        let accounts = found.accounts.iter().filter(|a| a.business.is_some() && takes_part(&a.settled.change));
        Ok(accounts.filter(|a| !has(&a.id) && !self.is_given_up(&a.id)).map(|a| a.id.clone()).collect())
    }

    /// Refused under this very generation, for a reason of its own: tried again by the sweep and for a person only.
    fn is_given_up(&self, id: &AccountId) -> bool {
        let patient = !matches!(self.claim.class, Class::Sweep | Class::Person);
        let fault = self.known.iter().find(|a| a.id == *id).and_then(|a| a.mint_fault.as_ref());
        patient && fault.is_some_and(|(_, generation)| *generation == self.item.generation)
    }

    async fn mint(&mut self, current: &CurrentToken, account: &AccountId, found: &mut Found) -> Result<(), Stop> {
        self.turn(Call::Mint).await?;
        let mut tx = self.context.store.begin().await?;
        tx.check_lease(&self.claim).await?;
        let intent = tx.intend(&self.claim, &self.item.id, account, self.item.generation).await?;
        tx.commit().await?;

        let generation = self.item.generation;
        let span = tracing::info_span!(target: traces::STEP, "mint", %account, generation, outcome = Empty);
        let token = self.context.plaid.processor_token_create(&current.token, account);
        match traces::step(span.clone(), plaid::Error::code, token).await {
            Ok(token) => {
                let mut tx = self.context.store.begin().await?;
                let saved = tx.save_minted(&intent, &token).await?;
                tx.commit().await?;
                if let Saved::Orphan(_) = saved {
                    traces::failed(&span, "orphan");
                }
                self.minted(account, saved, found)
            }
            Err(error) => {
                self.settle_intent(&intent, &error).await?;
                self.not_minted(account, &error, found).await
            }
        }
    }

    fn minted(&self, account: &AccountId, saved: Saved, found: &mut Found) -> Result<(), Stop> {
        match saved {
            Saved::Live(token) => {
                metrics::counter!(metric::MINTS, "result" => "live").increment(1);
                tracing::info!(account = %account, token = %token, generation = self.item.generation, "processor token minted");
                found.minted.push(account.clone());
                Ok(())
            }
            // Somebody else works on this Item by now; the end of the look will find that out.
            Saved::Orphan(token) => {
                metrics::counter!(metric::MINTS, "result" => "orphan").increment(1);
                metrics::counter!(metric::ORPHANED_TOKENS).increment(1);
                tracing::warn!(account = %account, token = %token, "a mint came too late and is an orphan");
                Ok(())
            }
        }
    }

    async fn settle_intent(&self, intent: &Intent, error: &plaid::Error) -> Result<(), Stop> {
        let mut tx = self.context.store.begin().await?;
        if error.may_have_happened() {
            tx.orphan_intent(intent).await?;
            metrics::counter!(metric::ORPHANED_TOKENS).increment(1);
        } else {
            tx.drop_intent(intent).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// One account is parked alone and its siblings go on; what concerns the whole Item ends the look.
    async fn not_minted(&mut self, account: &AccountId, error: &plaid::Error, found: &mut Found) -> Result<(), Stop> {
        metrics::counter!(metric::MINTS, "result" => "failed").increment(1);
        tracing::warn!(account = %account, error = chain(error), "no processor token for this account");
        let mut alone = |why: String| {
            found.faults.push((account.clone(), why));
            Ok(())
        };
        match error.meaning() {
            Meaning::AccountNotSupported | Meaning::UnknownAccount | Meaning::Other(Next::Park) => {
                alone(format!("{}: {}", error.code(), chain(error)))
            }
            Meaning::UnknownToken => Err(Stop::State(
                ItemState::AwaitingToken,
                "Plaid does not know the access token any more: it was rotated elsewhere, push the new one".into(),
            )),
            Meaning::LoginRequired => {
                Err(Stop::State(ItemState::LoginRequired, "Plaid says that the user must log in again".into()))
            }
            Meaning::ItemGone { revoked } => Err(Stop::State(
                if revoked { ItemState::Revoked } else { ItemState::Removed },
                "Plaid said so when a token was to be minted".into(),
            )),
            Meaning::UnknownProcessorToken | Meaning::UnknownKey | Meaning::Other(_) => {
                let finish = conclude(self.context, &self.claim, &Refusal::from(error)).await?;
                Err(Stop::Row(finish))
            }
        }
    }
}
