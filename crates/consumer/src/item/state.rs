//! Which state an Item is in, by what Plaid says of it: beside its accounts, or by refusing its token. What Plaid's codes mean is
//! [`plaid::Meaning`].

use super::Reconciliation;
use crate::ItemGoneProof;
use crate::reconcile::Stop;
use crate::refusals::{self, Refusal, conclude};
use domain::item::{Cause, ItemState};
use domain::queue::Finish;
use domain::work::{Code, HintKind};
use plaid::OfItem;

/// The state that a reconciliation found an Item in.
pub(super) struct NewState {
    pub(super) state: ItemState,
    pub(super) cause: Option<Cause>,
    /// For people, where it says more than the cause.
    pub(super) why: Option<String>,
}

impl NewState {
    pub(super) fn active() -> Self {
        Self { state: ItemState::Active, cause: None, why: None }
    }

    pub(super) fn of(state: ItemState, cause: Cause) -> Self {
        Self { state, cause: Some(cause), why: None }
    }

    /// Plaid's code says what the user has to do, in Plaid's words.
    pub(super) fn user_must_act(code: &str) -> Self {
        let why = format!("{} ({code}): send the user through Link's update mode", Cause::UserMustAct.sentence());
        Self { why: Some(why), ..Self::of(ItemState::LoginRequired, Cause::UserMustAct) }
    }
}

impl Reconciliation<'_> {
    /// Nothing more can be done while the Item is in this state.
    pub(super) fn stops_in(&mut self, state: NewState) -> Stop {
        self.found.state = Some(state);
        Stop::Found
    }

    /// The state of an Item whose accounts could be read; `error_code`: what Plaid says beside them (`item.error`).
    pub(super) async fn state_beside_accounts(&mut self, error_code: Option<&str>) -> Result<NewState, Stop> {
        match error_code.map(|code| (code, plaid::item_meaning(code).of_item())) {
            Some((_, OfItem::Gone { revoked })) => Err(self.gone(revoked).await?),
            Some((code, OfItem::UserMustAct)) => Ok(NewState::user_must_act(code)),
            // Its accounts were read all the same. A bank that Plaid gave up is told by the calls that it refuses.
            Some((_, OfItem::UnknownToken | OfItem::Nothing)) | None => Ok(NewState::active()),
        }
    }

    /// What it means that Plaid refuses the current token, when accounts are read or a processor token is minted.
    pub(super) async fn refused_as_a_whole(&mut self, error: &plaid::Error) -> Result<Stop, Stop> {
        match error.meaning().of_item() {
            OfItem::UnknownToken => self.token_unknown(Cause::TokenUnknown).await,
            OfItem::UserMustAct => Ok(self.stops_in(NewState::user_must_act(error.code()))),
            OfItem::Gone { revoked } => self.gone(revoked).await,
            OfItem::Nothing => Ok(Stop::Row(conclude(self.context, &self.claim, &Refusal::from(error)).await?)),
        }
    }

    /// The token we hold is no token of the Item. Usually a new one is about to reach us; but an Item that was rotated
    /// and then revoked has none any more, and Plaid says so only under the last one.
    pub(super) async fn token_unknown(&mut self, cause: Cause) -> Result<Stop, Stop> {
        let gone = match self.gone_elsewhere {
            Some(revoked) => Some(revoked),
            None => self.context.store.begin_read().await?.gone_under_newest(&self.item.id).await?,
        };
        match (gone, self.item.state) {
            (Some(revoked), _) => self.gone(revoked).await,
            // Said once, and the token under which it was said is not asked about again.
            (None, state) if state.is_gone() => {
                let (cause, why) = (self.item.cause, self.item.state_why.clone());
                Ok(self.stops_in(NewState { state, cause, why }))
            }
            (None, _) => Ok(self.stops_in(NewState::of(ItemState::AwaitingToken, cause))),
        }
    }

    /// Plaid says that the Item is gone.
    async fn gone(&mut self, revoked: bool) -> Result<Stop, Stop> {
        let state = self.believe_gone(revoked).await?;
        Ok(self.stops_in(state))
    }

    /// Withdrawn consent is explicit. That there is no such Item has also been said by mistake, and takes every
    /// account off its list: it is believed when said twice, some time apart, or when a webhook says it too. Until then
    /// the row waits.
    pub(super) async fn believe_gone(&self, revoked: bool) -> Result<NewState, Stop> {
        if revoked {
            return Ok(NewState::of(ItemState::Revoked, Cause::ConsentWithdrawn));
        }
        let settings = &self.context.settings;
        let removed = NewState::of(ItemState::Removed, Cause::GoneAtPlaid);
        if self.item.state == ItemState::Removed || settings.item_gone_proof == ItemGoneProof::OneAnswer {
            return Ok(removed);
        }
        let mut tx = self.context.store.begin().await?;
        tx.check_lease(&self.claim).await?;
        let since = tx.doubt_item(&self.item.id).await?;
        let hinted = tx.hints(&self.item.id).await?.iter().any(|h| h.kind == HintKind::PermissionRevoked);
        let now = tx.now();
        tx.commit().await?;
        let believed_at = since.plus(settings.gone_after);
        if hinted || now >= believed_at {
            return Ok(removed);
        }
        let why = format!(
            "Plaid says that there is no such Item: it is asked again at {}, and believed then; until then nothing leaves a list",
            believed_at.rfc3339()
        );
        tracing::warn!(why, "an Item is said to be gone");
        let finish = refusals::backoff(self.context, &self.claim, None, Code::ItemNotFound, why);
        Err(Stop::Row(Finish { again_after: believed_at.since(now), ..finish }))
    }
}
