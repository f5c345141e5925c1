//! One live processor token per account and generation (I6): the intents are stored before the calls.

use super::{Fault, Reconciliation};
use crate::Mode;
use crate::budget::{self, Leaves};
use crate::reconcile::Stop;
use crate::refusals::refused_by_all;
use crate::steps;
use domain::accounts::MintRefused;
use domain::budget::Call;
use domain::fault::chain;
use domain::metric;
use domain::{AccessToken, AccountId, BusinessId, Millis, Next, ProcessorToken};
use plaid::Meaning;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use store::{BusinessMark, Intent, Saved};
use tracing::Span;
use tracing::field::Empty;

/// Mints of one Item that are on their way at the same time.
const AT_ONCE: usize = 16;

/// A mint that is about to be asked for.
struct Mint {
    intent: Intent,
    at: Instant,
    span: Span,
}

/// What came of it.
enum Answer {
    Token(ProcessorToken),
    Refused(plaid::Error),
    /// It missed its slot by so much, and was not asked for.
    Late(Duration),
    /// This process stops, and it was not asked for.
    Stopping,
}

impl Reconciliation<'_> {
    pub(super) async fn mint_missing(&mut self, token: &AccessToken) -> Result<(), Stop> {
        let missing = self.missing();
        if self.context.settings.mode == Mode::Observe {
            self.found.would_mint = missing;
            return Ok(());
        }
        let mut missing = self.adopt_first(missing).await?;
        // As long as the last slots were missed by.
        let (mut misses, mut lead) = (0, Duration::ZERO);
        while !missing.is_empty() && misses < budget::MISSES {
            let mints = self.intend(&missing, lead).await?;
            let asking = mints.iter().map(|mint| self.ask(token, mint));
            let answers = futures::future::join_all(asking).await;
            missing.drain(..mints.len());
            let mut late = Duration::ZERO;
            let saved = self.save(&mints, &answers).await?;
            let mut stop = None;
            for (mint, (answer, saved)) in mints.iter().zip(answers.into_iter().zip(saved)) {
                let account = &mint.intent.account;
                let ended = match answer {
                    Answer::Token(_) => saved.map_or(Ok(()), |saved| self.minted(account, saved)),
                    // What stops the whole Item is said once.
                    Answer::Refused(_) if stop.is_some() => Ok(()),
                    Answer::Refused(error) => self.not_minted(account, &error).await,
                    Answer::Stopping => Err(Stop::Row(budget::given_back(&self.claim, Call::Mint))),
                    Answer::Late(by) => {
                        late = late.max(by);
                        missing.push(account.clone());
                        Ok(())
                    }
                };
                stop = stop.or(ended.err());
            }
            if let Some(stop) = stop {
                return Err(stop);
            }
            misses += u32::from(!late.is_zero());
            lead = late.min(self.context.settings.lease / 4);
        }
        if missing.is_empty() {
            return Ok(());
        }
        Err(Stop::Row(budget::postponed(&self.claim, Call::Mint, Call::Mint.late())))
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

    /// Books as many mints as there are slots for, and stores their intents. They are asked for together: one after the other,
    /// an Item with ten accounts would wait ten times as long for its list.
    async fn intend(&mut self, accounts: &[AccountId], lead: Duration) -> Result<Vec<Mint>, Stop> {
        let context = self.context;
        if context.stopping.is_cancelled() {
            return Err(Stop::Row(budget::given_back(&self.claim, Call::Mint)));
        }
        let most = accounts.len().min(AT_ONCE);
        let mut slots: Vec<Instant> = self.claim.prepaid(Call::Mint).into_iter().collect();
        let mut tx = context.store.begin().await?;
        tx.renew(&mut self.claim, context.settings.lease).await?;
        if slots.len() < most {
            let patience = budget::patience(context, &self.claim);
            match tx.book(&context.limits, Call::Mint, patience, lead, most - slots.len()).await? {
                Ok(booked) => slots.extend(booked),
                Err(wait) if slots.is_empty() => {
                    tx.commit().await?;
                    return Err(Stop::Row(budget::postponed(&self.claim, Call::Mint, wait)));
                }
                Err(_) => {}
            }
        }
        // A list with a part of the tokens would be one PUT too many. Nobody else locks a business's row before the budget of mints,
        // so this order, the other way round than elsewhere, can't end in a deadlock.
        if slots.len() == accounts.len() {
            let reason = format!("item {}: new tokens are on their way", self.item.id);
            let (class, debounce) = (self.claim.class, context.settings.debounce_of(self.claim.class));
            let mark = |business| BusinessMark { business, class, debounce, changed: false };
            let marks: Vec<_> = self.lists_of(accounts).into_iter().map(mark).collect();
            tx.mark_businesses(&marks, &reason, Some(&self.claim)).await?;
        }
        let mut mints = Vec::with_capacity(slots.len());
        for (account, at) in accounts.iter().zip(slots) {
            let intent = tx.intend(&self.claim, &self.item.id, account, self.item.generation).await?;
            let generation = self.item.generation;
            let span = tracing::info_span!(target: traces::STEP, "mint", %account, generation, outcome = Empty);
            mints.push(Mint { intent, at, span });
        }
        tx.commit().await?;
        Ok(mints)
    }

    /// The lists that these accounts stand in. Their businesses can be listed while the tokens are minted.
    fn lists_of(&self, accounts: &[AccountId]) -> BTreeSet<BusinessId> {
        let known = self.known.iter().filter(|known| accounts.contains(&known.id));
        known.filter_map(|known| known.business.clone()).collect()
    }

    async fn ask(&self, token: &AccessToken, mint: &Mint) -> Answer {
        if let Some(rehearsal) = &self.context.rehearsal {
            return Answer::Token(rehearsal.mint(&mint.intent.account));
        }
        match budget::leaves(self.context, Call::Mint, mint.at).await {
            Leaves::Now => {}
            Leaves::Late(by) => return Answer::Late(by),
            Leaves::Never => return Answer::Stopping,
        }
        let asked = self.context.plaid.processor_token_create(token, &mint.intent.account);
        match steps::step("mint", mint.span.clone(), plaid::Error::code, asked).await {
            Ok(token) => Answer::Token(token),
            Err(error) => Answer::Refused(error),
        }
    }

    /// What became of each intent, for those that brought a token.
    async fn save(&self, mints: &[Mint], answers: &[Answer]) -> Result<Vec<Option<Saved>>, Stop> {
        let mut tx = self.context.store.begin().await?;
        // Before the tokens, as whoever erases the Item, or takes its open intents for orphans, does.
        tx.lock_row(&self.item.id).await?;
        let (mut saved, mut orphans) = (Vec::with_capacity(mints.len()), 0);
        for (Mint { intent, span, .. }, answer) in mints.iter().zip(answers) {
            saved.push(match answer {
                Answer::Token(token) => Some(tx.save_minted(intent, token).await?),
                Answer::Refused(error) if error.may_have_happened() => {
                    tx.orphan_intent(intent).await?;
                    orphans += 1;
                    None
                }
                Answer::Refused(_) | Answer::Late(_) | Answer::Stopping => {
                    tx.drop_intent(intent).await?;
                    None
                }
            });
            if let Some(Some(Saved::Orphan(_))) = saved.last() {
                traces::failed(span, "orphan");
            }
        }
        tx.commit().await?;
        metrics::counter!(metric::ORPHANED_TOKENS).increment(orphans);
        Ok(saved)
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
