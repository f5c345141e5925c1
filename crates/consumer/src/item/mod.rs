//! The item reconciler: one reconciliation of an Item, from its access token to one processor token per account.
//!
//! 1. Ask the token source, if there is one; a token that is news becomes a candidate (I5).
//! 2. Judge candidates: `/accounts/get` names the Item that the token is of, and `/item/get` does where the accounts can't be
//!    read. A proved one becomes current and starts a generation.
//! 3. Read the accounts under the current token, if step 2 has not; settle who joined, left, is missing.
//! 4. Mint what is missing, all at once, intents before calls (I6).
//! 5. Commit: states, businesses that are due, outcomes, and the end of the reconciliation, in one transaction.

mod adopt;
mod commit;
mod conclusion;
mod declaration;
mod mint;
mod read;
mod report;
mod state;
mod token;

use crate::budget::Slot;
use crate::reconcile::{Reconcile, Stop, is_unannounced};
use crate::{Context, budget, leases, refusals};
use domain::accounts::MintRefused;
use domain::budget::Call;
use domain::item::{Cause, ItemState};
use domain::metric;
use domain::queue::Finish;
use domain::{AccessToken, AccountId, BusinessId, Fingerprint, ItemId, Millis};
use state::NewState;
use store::{AccountRow, Candidate, Claim, Current, Declaration, ItemRow, ItemSaid, Tx};

/// One reconciliation, while it lasts.
pub(crate) struct Reconciliation<'a> {
    context: &'a Context,
    claim: Claim,
    item: ItemRow,
    known: Vec<AccountRow>,
    tokens: Tokens,
    /// The token that the platform's database holds.
    looked_up: Option<Fingerprint>,
    /// The token that was proved just now.
    proved: Option<AccessToken>,
    /// The accounts were asked for, under whichever token.
    reads: bool,
    /// What `/accounts/get` answered when it proved the token.
    read: Option<plaid::Accounts>,
    /// Plaid answered that the Item is gone under a token that is not current but is the one that the platform's
    /// database holds for it; true: revoked.
    gone_elsewhere: Option<bool>,
    /// Only the sweep wanted this reconciliation.
    unannounced: bool,
    found: Found,
}

/// The Item's access tokens as they are stored.
struct Tokens {
    /// The newest first.
    candidates: Vec<Candidate>,
    /// One that can't be read is no matter where a candidate takes its place, nor is what came with it.
    current: Result<Option<AccessToken>, store::Error>,
    /// When it was proved.
    proved_at: Option<Millis>,
    /// What was pushed with the current one and is not judged yet.
    waiting: Result<Option<(Fingerprint, Declaration)>, store::Error>,
}

impl Tokens {
    async fn of(tx: &mut Tx, item: &ItemId) -> Result<Self, store::Error> {
        let candidates = tx.candidates(item).await?;
        let Some(Current { fingerprint, token, proved_at, declaration }) = tx.current(item).await? else {
            return Ok(Self { candidates, current: Ok(None), proved_at: None, waiting: Ok(None) });
        };
        let waiting = declaration.map(|declaration| declaration.map(|said| (fingerprint, said)));
        Ok(Self { candidates, current: token.map(Some), proved_at, waiting })
    }
}

/// Why one account got no token.
struct Fault {
    account: AccountId,
    refused: MintRefused,
    code: String,
    why: String,
}

/// What a reconciliation changed, for the commit.
#[derive(Default)]
struct Found {
    state: Option<NewState>,
    /// The accounts were read; there may be none.
    read: bool,
    /// What Plaid said of the Item beside them, where it is kept.
    said: Option<ItemSaid>,
    accounts: Vec<AccountChange>,
    /// When they were read, and the newest generation of each account's live tokens then.
    read_at: Millis,
    live: Vec<(AccountId, i64)>,
    /// Accounts that got a token in this reconciliation.
    minted: Vec<AccountId>,
    adopted: Vec<AccountId>,
    /// Accounts that could get none, each for a reason of its own.
    faults: Vec<Fault>,
    /// A mint was refused in a way that speaks against the provider: it is not forgotten with the end of this reconciliation.
    suspicious: bool,
    would_mint: Vec<AccountId>,
    finish: Option<Finish>,
}

struct AccountChange {
    id: AccountId,
    business: Option<BusinessId>,
    settled: domain::accounts::Settled,
}

/// Loads what is known. None: there is nothing to look at, and the row is done.
pub(crate) async fn begin<'a>(
    context: &'a Context,
    claim: &Claim,
    id: &ItemId,
) -> Result<Option<Reconciliation<'a>>, store::Error> {
    let mut tx = context.store.begin_read().await?;
    let Some(item) = tx.item(id).await? else {
        drop(tx);
        let mut tx = context.store.begin().await?;
        tx.check_lease(claim).await?;
        tx.forget(claim).await?;
        tx.commit().await?;
        return Ok(None);
    };
    if item.is_offboarded() {
        drop(tx);
        leases::end(context, claim, &refusals::done(context)).await?;
        return Ok(None);
    }
    let has_open_intents = tx.has_open_intents(&item.id).await?;
    let known = tx.accounts(&item.id).await?;
    let tokens = Tokens::of(&mut tx, &item.id).await?;
    drop(tx);
    if has_open_intents {
        orphan_intents(context, claim, &item.id).await?;
    }
    let unannounced = is_unannounced(claim);
    let claim = claim.clone();
    Ok(Some(Reconciliation {
        context,
        claim,
        item,
        known,
        tokens,
        looked_up: None,
        proved: None,
        reads: false,
        read: None,
        gone_elsewhere: None,
        unannounced,
        found: Found::default(),
    }))
}

/// Intents that are still open belong to a reconciliation that never ended: Plaid may have made tokens for them that were never
/// seen.
async fn orphan_intents(context: &Context, claim: &Claim, item: &ItemId) -> Result<(), store::Error> {
    let mut tx = context.store.begin().await?;
    // A claimant that was frozen must not touch the open intents of the worker that holds the row now.
    tx.check_lease(claim).await?;
    let orphans = tx.orphan_intents(item).await?;
    tx.commit().await?;
    metrics::counter!(metric::ORPHANED_TOKENS).increment(orphans);
    tracing::warn!(orphans, "mints whose answers were lost are recorded as orphans");
    Ok(())
}

impl Reconcile for Reconciliation<'_> {
    type Ending = ();

    async fn steps(&mut self) -> Result<(), Stop> {
        self.look_up_token().await?;
        self.judge_candidates().await?;
        let token = self.current_token().await?;
        self.read_accounts(&token).await?;
        self.mint_missing(&token).await
    }

    async fn end(mut self, ending: Result<Option<()>, Finish>) -> Result<(), store::Error> {
        self.found.finish = ending.err();
        self.commit().await
    }
}

impl Reconciliation<'_> {
    /// What waits under it is judged, as far as that takes nothing off a list.
    async fn current_token(&mut self) -> Result<AccessToken, Stop> {
        if let Some((token, declaration)) = std::mem::replace(&mut self.tokens.waiting, Ok(None))? {
            self.judge_declaration(&token, &declaration, None).await?;
        }
        let current = match self.proved.take() {
            Some(token) => Some(token),
            None => std::mem::replace(&mut self.tokens.current, Ok(None))?,
        };
        match current {
            Some(token) => Ok(token),
            // A push with a wrong token does not bring a removed Item back.
            None if self.item.state == ItemState::Removed => {
                let cause = self.item.cause.unwrap_or(Cause::RemovedByPlatform);
                Err(self.stops_in(NewState::of(ItemState::Removed, cause)))
            }
            None => Err(self.token_unknown(Cause::NoTokenProved).await?),
        }
    }

    /// Waits until this call may be made; fails if the lease was lost.
    async fn wait_for_slot(&mut self, call: Call) -> Result<(), Stop> {
        // The first read of the accounts was counted with the claim.
        let paced = match call {
            Call::AccountsGet => std::mem::replace(&mut self.reads, true),
            call => call == Call::ItemGet,
        };
        let slot = Slot { call, paced, lease: self.context.settings.lease };
        budget::wait_for_slot(self.context, &mut self.claim, &slot).await?.map_err(Stop::Row)
    }
}
