//! One live processor token per account and generation (I6): the intent is stored before the call.

use super::{Fault, Found, Look, Stop};
use crate::Mode;
use crate::faults::refused_by_all;
use domain::accounts::{Change, MintRefused};
use domain::budget::Call;
use domain::fault::chain;
use domain::metric;
use domain::{AccountId, Millis, Next};
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
        let now = tx.now();
        let has = |id: &AccountId| live.iter().any(|(a, g)| a == id && *g >= self.item.generation);
        let takes_part =
            |change: &Change| matches!(change, Change::Joined { .. } | Change::Present | Change::Moved { .. });
        let accounts = found.accounts.iter().filter(|a| a.business.is_some() && takes_part(&a.settled.change));
        Ok(accounts.filter(|a| !has(&a.id) && !self.waits_to_be_asked(&a.id, now)).map(|a| a.id.clone()).collect())
    }

    /// Refused under this very generation: it is asked for ever more slowly. Whatever could have changed Plaid's mind sets
    /// the time to now.
    fn waits_to_be_asked(&self, id: &AccountId, now: Millis) -> bool {
        let fault = self.known.iter().find(|a| a.id == *id).and_then(|a| a.mint_fault.as_ref());
        fault.is_some_and(|f| f.generation == self.item.generation && f.again_at > now)
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
            Saved::Taken(token) => {
                metrics::counter!(metric::MINTS, "result" => "failed").increment(1);
                metrics::counter!(metric::ORPHANED_TOKENS).increment(1);
                let why = "Plaid answered with the processor token of another account: it is not used".to_owned();
                tracing::error!(account = %account, token = %token, why, "no processor token for this account");
                found.faults.push(Fault {
                    account: account.clone(),
                    refused: MintRefused::NoToken,
                    code: "token_of_another_account".into(),
                    why,
                });
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
        let refused = match error.meaning() {
            Meaning::AccountNotSupported => MintRefused::NotSupported,
            // Plaid listed it a moment ago: the accounts are read again.
            Meaning::UnknownAccount | Meaning::NoAccounts => MintRefused::UnknownAccount,
            Meaning::NotReady => MintRefused::NotReady,
            Meaning::Unknown => MintRefused::Other,
            Meaning::Other(Next::Suspect) => match refused_by_all(self.context, &self.claim, error).await? {
                Some(finish) => return Err(Stop::Row(finish)),
                None => {
                    found.suspicious = true;
                    MintRefused::Other
                }
            },
            Meaning::UnknownToken
            | Meaning::UserMustAct
            | Meaning::ItemGone { .. }
            | Meaning::InstitutionGone
            | Meaning::UnknownProcessorToken
            | Meaning::UnknownKey
            | Meaning::Other(_) => return Err(self.unreadable(error).await?),
        };
        let (account, code) = (account.clone(), error.code().to_owned());
        found.faults.push(Fault { account, refused, code, why: chain(error) });
        Ok(())
    }
}
