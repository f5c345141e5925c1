//! One live processor token per account and generation (I6): the intent is stored before the call.

use super::{Fault, Reconciliation};
use crate::Mode;
use crate::faults::refused_by_all;
use crate::reconcile::Stop;
use domain::accounts::MintRefused;
use domain::budget::Call;
use domain::fault::chain;
use domain::metric;
use domain::{AccessToken, AccountId, Millis, Next};
use plaid::Meaning;
use store::{Intent, Saved};
use tracing::field::Empty;

impl Reconciliation<'_> {
    pub(super) async fn mint_missing(&mut self, token: &AccessToken) -> Result<(), Stop> {
        let missing = self.missing();
        if self.context.settings.mode == Mode::Observe {
            self.found.would_mint = missing;
            return Ok(());
        }
        let missing = self.adopt_first(missing).await?;
        for account in missing {
            self.mint(token, &account).await?;
        }
        Ok(())
    }

    /// Accounts that take part and have no live token of this generation.
    fn missing(&self) -> Vec<AccountId> {
        let found = &self.found;
        let has = |id: &AccountId| found.live.iter().any(|(a, g)| a == id && *g >= self.item.generation);
        let accounts = found.accounts.iter().filter(|a| a.business.is_some() && a.settled.change.is_present());
        let missing = accounts.filter(|a| !has(&a.id) && !self.waits_to_be_asked(&a.id, found.read_at));
        missing.map(|a| a.id.clone()).collect()
    }

    /// Refused under this very generation: it is asked for ever more slowly. Whatever could have changed Plaid's mind sets
    /// the time to now.
    fn waits_to_be_asked(&self, id: &AccountId, now: Millis) -> bool {
        let fault = self.known.iter().find(|a| a.id == *id).and_then(|a| a.mint_fault.as_ref());
        fault.is_some_and(|f| f.generation == self.item.generation && f.again_at > now)
    }

    async fn mint(&mut self, token: &AccessToken, account: &AccountId) -> Result<(), Stop> {
        self.wait_for_slot(Call::Mint).await?;
        let mut tx = self.context.store.begin().await?;
        tx.check_lease(&self.claim).await?;
        let intent = tx.intend(&self.claim, &self.item.id, account, self.item.generation).await?;
        tx.commit().await?;

        let generation = self.item.generation;
        let span = tracing::info_span!(target: traces::STEP, "mint", %account, generation, outcome = Empty);
        let minting = self.context.plaid.processor_token_create(token, account);
        match traces::step(span.clone(), plaid::Error::code, minting).await {
            Ok(token) => {
                let mut tx = self.context.store.begin().await?;
                let saved = tx.save_minted(&intent, &token).await?;
                tx.commit().await?;
                if let Saved::Orphan(_) = saved {
                    traces::failed(&span, "orphan");
                }
                self.minted(account, saved)
            }
            Err(error) => {
                self.settle_intent(&intent, &error).await?;
                self.not_minted(account, &error).await
            }
        }
    }

    fn minted(&mut self, account: &AccountId, saved: Saved) -> Result<(), Stop> {
        match saved {
            Saved::Live(token) => {
                metrics::counter!(metric::MINTS, "result" => "live").increment(1);
                tracing::info!(account = %account, token = %token, generation = self.item.generation, "processor token minted");
                self.found.minted.push(account.clone());
                Ok(())
            }
            Saved::Taken(token) => {
                metrics::counter!(metric::MINTS, "result" => "failed").increment(1);
                metrics::counter!(metric::ORPHANED_TOKENS).increment(1);
                let why = "Plaid answered with the processor token of another account: it is not used".to_owned();
                tracing::error!(account = %account, token = %token, why, "no processor token for this account");
                self.found.faults.push(Fault {
                    account: account.clone(),
                    refused: MintRefused::NoToken,
                    code: "token_of_another_account".into(),
                    why,
                });
                Ok(())
            }
            // Somebody else works on this Item by now; the end of the reconciliation will find that out.
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

    /// One account waits alone and its siblings go on; what concerns the whole Item ends the reconciliation.
    async fn not_minted(&mut self, account: &AccountId, error: &plaid::Error) -> Result<(), Stop> {
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
                    self.found.suspicious = true;
                    MintRefused::Other
                }
            },
            Meaning::UnknownToken
            | Meaning::UserMustAct
            | Meaning::ItemGone { .. }
            | Meaning::InstitutionGone
            | Meaning::UnknownProcessorToken
            | Meaning::UnknownKey
            | Meaning::Other(_) => return Err(self.refused_as_a_whole(error).await?),
        };
        let (account, code) = (account.clone(), error.code().to_owned());
        self.found.faults.push(Fault { account, refused, code, why: chain(error) });
        Ok(())
    }
}
