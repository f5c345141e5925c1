//! The item reconciler: one look at an Item, from its access token to one processor token per account.
//!
//! 1. Ask the token source, if there is one; a token that is news becomes a candidate (I5).
//! 2. Judge candidates with `/item/get`; a proved one becomes current and starts a generation.
//! 3. Read the accounts under the current token; settle who joined, left, is missing.
//! 4. Mint what is missing, intent before call (I6).
//! 5. Commit: states, businesses that are due, outcomes, and the end of the look, in one transaction.

mod adopt;
mod commit;
mod mint;
mod read;
mod token;

use crate::faults::{self, Interrupted};
use crate::{Context, budget};
use domain::budget::Call;
use domain::item::ItemState;
use domain::metric;
use domain::{AccountId, BusinessId, Fingerprint, ItemId};
use std::time::Instant;
use store::{AccountRow, Claim, CurrentToken, Finish, ItemRow};

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
    State(ItemState, String),
    /// The row waits, backs off or is parked; what was found until now is kept.
    Row(Finish),
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

/// What a look changed, for the commit.
#[derive(Default)]
struct Found {
    state: Option<(ItemState, Option<String>)>,
    accounts: Vec<AccountChange>,
    /// Accounts that got a token in this look.
    minted: Vec<AccountId>,
    adopted: Vec<AccountId>,
    /// Accounts that could get none, each for a reason of its own.
    faults: Vec<(AccountId, String)>,
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
            Err(Stop::State(state, why)) => found.state = Some((state, Some(why))),
            Err(Stop::Row(finish)) => found.finish = Some(finish),
            Err(Stop::Interrupted(error)) => return Err(error),
        }
        self.commit(found).await
    }

    async fn reconcile(&mut self, found: &mut Found) -> Result<(), Stop> {
        self.look_up_token().await?;
        self.judge_candidates().await?;
        let current = self.current_token().await?;
        self.read_accounts(&current, found).await?;
        self.mint_missing(&current, found).await
    }

    async fn current_token(&self) -> Result<CurrentToken, Stop> {
        let mut tx = self.context.store.begin_read().await?;
        let waiting = || match self.item.state {
            // A push with a wrong token does not bring a removed Item back.
            ItemState::Removed => Stop::State(ItemState::Removed, store::REMOVED_BY_PLATFORM.into()),
            _ => self.token_unknown("no access token has been proved yet"),
        };
        tx.current_token(&self.item.id).await?.ok_or_else(waiting)
    }

    /// The token we hold is no token of the Item. Usually a new one is about to reach us; but an Item that was rotated
    /// and then revoked has none any more, and Plaid says so only under the last one.
    fn token_unknown(&self, why: &str) -> Stop {
        match (self.gone_elsewhere, self.item.state) {
            (Some(true), _) => Stop::State(ItemState::Revoked, "Plaid says that the user withdrew consent".into()),
            (Some(false), _) => {
                Stop::State(ItemState::Removed, "Plaid says that the Item does not exist any more".into())
            }
            // Said once, and the token under which it was said is not asked about again.
            (None, state) if state.is_gone() => {
                Stop::State(state, self.item.state_why.clone().unwrap_or_else(|| why.to_owned()))
            }
            (None, _) => Stop::State(ItemState::AwaitingToken, why.to_owned()),
        }
    }

    /// Waits until this call may be made; fails if the lease was lost.
    async fn turn(&mut self, call: Call) -> Result<(), Stop> {
        budget::turn(self.context, &mut self.claim, call).await?.map_err(Stop::Row)
    }
}
