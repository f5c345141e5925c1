//! The item reconciler: one look at an Item, from its access token to one processor token per account.
//!
//! 1. Ask the token source, if there is one; a token that is news becomes a candidate (I5).
//! 2. Judge candidates with `/item/get`; a proved one becomes current and starts a generation.
//! 3. Read the accounts under the current token; settle who joined, left, is missing.
//! 4. Mint what is missing, intent before call (I6).
//! 5. Commit: states, businesses that are due, outcomes, and the end of the look, in one transaction.

mod adopt;
mod commit;
mod end;
mod mint;
mod read;
mod report;
mod token;
mod word;

use crate::faults::{self, Interrupted};
use crate::{Context, ItemGoneProof, budget};
use domain::accounts::MintRefused;
use domain::budget::Call;
use domain::item::{Cause, ItemState};
use domain::metric;
use domain::queue::Finish;
use domain::work::{Code, HintKind};
use domain::{AccountId, BusinessId, Fingerprint, ItemId};
use std::time::Instant;
use store::{AccountRow, Claim, CurrentToken, ItemRow};

/// One look, while it lasts.
pub(crate) struct Look<'a> {
    context: &'a Context,
    claim: Claim,
    item: ItemRow,
    known: Vec<AccountRow>,
    /// The token that the platform's database holds.
    looked_up: Option<Fingerprint>,
    /// Plaid answered that the Item is gone under a token that is not current but is the one that the platform's
    /// database holds for it; true: revoked.
    gone_elsewhere: Option<bool>,
    /// Only the sweep wanted this look.
    unannounced: bool,
}

/// How far a look came before it must stop.
enum Stop {
    /// The Item is in this state and nothing more can be done now.
    State(NewState),
    /// The row waits, backs off or is parked; what was found until now is kept.
    Row(Finish),
    /// The first push of the Item was refused, and nothing is left of it.
    Forgotten,
    Interrupted(Interrupted),
}

impl From<store::Error> for Stop {
    fn from(error: store::Error) -> Self {
        Self::Interrupted(error.into())
    }
}
impl From<Interrupted> for Stop {
    fn from(error: Interrupted) -> Self {
        Self::Interrupted(error)
    }
}

/// The state that a look found an Item in.
struct NewState {
    state: ItemState,
    cause: Option<Cause>,
    /// For people, where it says more than the cause.
    why: Option<String>,
}

impl NewState {
    fn active() -> Self {
        Self { state: ItemState::Active, cause: None, why: None }
    }

    fn of(state: ItemState, cause: Cause) -> Self {
        Self { state, cause: Some(cause), why: None }
    }

    /// Plaid's code says what the user has to do, in Plaid's words.
    fn user_must_act(code: &str) -> Self {
        let why = format!("{} ({code}): send the user through Link's update mode", Cause::UserMustAct.sentence());
        Self { why: Some(why), ..Self::of(ItemState::LoginRequired, Cause::UserMustAct) }
    }
}

/// Why one account got no token.
struct Fault {
    account: AccountId,
    refused: MintRefused,
    code: String,
    why: String,
}

/// What a look changed, for the commit.
#[derive(Default)]
struct Found {
    state: Option<NewState>,
    /// The accounts were read; there may be none.
    read: bool,
    accounts: Vec<AccountChange>,
    /// Accounts that got a token in this look.
    minted: Vec<AccountId>,
    adopted: Vec<AccountId>,
    /// Accounts that could get none, each for a reason of its own.
    faults: Vec<Fault>,
    /// A mint was refused in a way that speaks against the provider: it is not forgotten with the end of this look.
    suspicious: bool,
    would_mint: Vec<AccountId>,
    finish: Option<Finish>,
}

struct AccountChange {
    id: AccountId,
    business: Option<BusinessId>,
    settled: domain::accounts::Settled,
}

/// Looks at the Item and ends the claim, whatever happens.
pub(crate) async fn look(context: &Context, claim: Claim) {
    let began = Instant::now();
    let outcome = begin(context, &claim).await;
    let look = match outcome {
        Ok(Some(look)) => look,
        Ok(None) => return,
        Err(error) => return faults::interrupted(context, &claim, error).await,
    };
    let id = look.item.id.clone();
    if let Err(error) = look.run().await {
        return faults::interrupted(context, &claim, error).await;
    }
    metrics::histogram!(metric::LOOK, "kind" => "item").record(began.elapsed().as_secs_f64());
    tracing::debug!(item = %id, took_ms = began.elapsed().as_millis(), "look ended");
}

/// Loads what is known. None: there is nothing to look at, and the row is done.
async fn begin<'a>(context: &'a Context, claim: &Claim) -> Result<Option<Look<'a>>, Interrupted> {
    let mut tx = context.store.begin().await?;
    // A claimant that was frozen must not touch the open intents of whoever holds the row now.
    tx.check_lease(claim).await?;
    let item = match ItemId::parse(claim.id.clone()) {
        Ok(id) => tx.item(&id).await?,
        Err(_) => None,
    };
    let Some(item) = item else {
        tx.forget(claim).await?;
        tx.commit().await?;
        return Ok(None);
    };
    if item.is_offboarded() {
        tx.finish(claim, &faults::done(context)).await?;
        tx.commit().await?;
        return Ok(None);
    }
    // Intents that are still open belong to a look that never ended: whatever Plaid made for them, nobody has seen.
    let orphans = tx.orphan_intents(&item.id).await?;
    let known = tx.accounts(&item.id).await?;
    tx.commit().await?;
    if orphans > 0 {
        metrics::counter!(metric::ORPHANED_TOKENS).increment(orphans);
        tracing::warn!(orphans, "mints whose answers were lost are recorded as orphans");
    }
    let unannounced = faults::is_unannounced(claim);
    Ok(Some(Look { context, claim: claim.clone(), item, known, looked_up: None, gone_elsewhere: None, unannounced }))
}

impl Look<'_> {
    async fn run(mut self) -> Result<(), Interrupted> {
        let mut found = Found::default();
        match self.reconcile(&mut found).await {
            Ok(()) => {}
            Err(Stop::State(state)) => found.state = Some(state),
            Err(Stop::Row(finish)) => found.finish = Some(finish),
            Err(Stop::Forgotten) => return Ok(()),
            Err(Stop::Interrupted(error)) => return Err(error),
        }
        self.commit(&found).await
    }

    async fn reconcile(&mut self, found: &mut Found) -> Result<(), Stop> {
        self.look_up_token().await?;
        self.judge_candidates().await?;
        self.judge_word(None).await?;
        let current = self.current_token().await?;
        self.read_accounts(&current, found).await?;
        self.mint_missing(&current, found).await
    }

    async fn current_token(&self) -> Result<CurrentToken, Stop> {
        let mut tx = self.context.store.begin_read().await?;
        let current = tx.current_token(&self.item.id).await?;
        drop(tx);
        match current {
            Some(current) => Ok(current),
            // A push with a wrong token does not bring a removed Item back.
            None if self.item.state == ItemState::Removed => {
                Err(Stop::State(NewState::of(ItemState::Removed, self.item.cause.unwrap_or(Cause::RemovedByPlatform))))
            }
            None => Err(self.token_unknown(Cause::NoTokenProved).await?),
        }
    }

    /// The token we hold is no token of the Item. Usually a new one is about to reach us; but an Item that was rotated
    /// and then revoked has none any more, and Plaid says so only under the last one.
    async fn token_unknown(&self, cause: Cause) -> Result<Stop, Stop> {
        let gone = match self.gone_elsewhere {
            Some(revoked) => Some(revoked),
            None => self.context.store.begin_read().await?.gone_under_newest(&self.item.id).await?,
        };
        match (gone, self.item.state) {
            (Some(revoked), _) => self.gone(revoked).await,
            // Said once, and the token under which it was said is not asked about again.
            (None, state) if state.is_gone() => {
                let (cause, why) = (self.item.cause, self.item.state_why.clone());
                Ok(Stop::State(NewState { state, cause, why }))
            }
            (None, _) => Ok(Stop::State(NewState::of(ItemState::AwaitingToken, cause))),
        }
    }

    /// Plaid says that the Item is gone. That a user withdrew consent is explicit; that there is no such Item has also been
    /// said by mishap, and takes every account off its list: it is believed when it is said twice, set apart, or when a
    /// webhook says it as well.
    async fn gone(&self, revoked: bool) -> Result<Stop, Stop> {
        if revoked {
            return Ok(Stop::State(NewState::of(ItemState::Revoked, Cause::ConsentWithdrawn)));
        }
        let settings = &self.context.settings;
        let removed = || Stop::State(NewState::of(ItemState::Removed, Cause::GoneAtPlaid));
        if self.item.state == ItemState::Removed || settings.item_gone_proof == ItemGoneProof::OneAnswer {
            return Ok(removed());
        }
        let mut tx = self.context.store.begin().await?;
        tx.check_lease(&self.claim).await?;
        let since = tx.doubt_item(&self.item.id).await?;
        let hinted = tx.hints(&self.item.id).await?.iter().any(|h| h.kind == HintKind::PermissionRevoked);
        let now = tx.now();
        tx.commit().await?;
        let believed_at = since.plus(settings.gone_after);
        if hinted || now >= believed_at {
            return Ok(removed());
        }
        let why = format!(
            "Plaid says that there is no such Item: it is asked again at {}, and believed then; until then nothing leaves a list",
            believed_at.rfc3339()
        );
        tracing::warn!(why, "an Item is said to be gone");
        let finish = faults::backoff(self.context, &self.claim, None, Code::ItemNotFound, why);
        Ok(Stop::Row(Finish { again_after: believed_at.since(now), ..finish }))
    }

    /// Waits until this call may be made; fails if the lease was lost.
    async fn turn(&mut self, call: Call) -> Result<(), Stop> {
        budget::turn(self.context, &mut self.claim, call).await?.map_err(Stop::Row)
    }
}
