//! What the end of a reconciliation tells the platform and the log.

use crate::outcome::kind;
use domain::accounts::{Change, Outside, Proof};
use domain::item::ItemState;
use domain::queue::Blocked;
use domain::work::HintKind;
use domain::{AccountId, ItemId, Millis};
use serde_json::{Value, json};
use store::MintFault;

/// One piece of news about an Item.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Report {
    /// It changed its state.
    State { from: ItemState, to: ItemState, why: Option<String> },
    /// An account joined, left, moved, is missing or is back.
    Account { account: AccountId, change: &'static str, proof: Option<Proof>, outside: Option<Outside> },
    /// An account began to be refused a token.
    NotMinted { account: AccountId, fault: MintFault },
    /// Plaid announced that access will end.
    Ends { kind: HintKind, at: Option<String> },
    /// Observe mode: these accounts would get a token.
    WouldMint(Vec<AccountId>),
    /// An operator has to look.
    Parked(Blocked),
    /// The Item that this one takes the place of leaves. Told by the accounts that leave.
    Replaced(ItemId),
}

impl Report {
    /// The outcome's type and payload. None: it is for the log alone.
    pub(super) fn outcome(&self) -> Option<(&'static str, Value)> {
        Some(match self {
            Self::State { from, to, why } => (kind::ITEM_STATE, json!({"from": from, "to": to, "why": why})),
            Self::Account { account, change, proof, outside } => {
                let why = outside.map(Outside::sentence);
                (kind::ACCOUNT, json!({"account_id": account, "change": change, "proof": proof, "why": why}))
            }
            Self::NotMinted { account, fault } => {
                let MintFault { code, why, again_at, .. } = fault;
                let again_at = Millis::rfc3339(*again_at);
                let payload = json!({"account_id": account, "change": "not_minted", "code": code, "why": why, "again_at": again_at});
                (kind::ACCOUNT, payload)
            }
            Self::Ends { kind: hint, at } => (kind::ITEM_ENDS, json!({"kind": hint, "ends_at": at})),
            Self::WouldMint(accounts) => (kind::WOULD, json!({"would_mint": accounts})),
            Self::Parked(Blocked { code, why, .. }) => {
                (kind::PARKED, json!({"kind": "item", "code": code, "why": why}))
            }
            Self::Replaced(_) => return None,
        })
    }

    /// Once it is committed.
    pub(super) fn log(&self) {
        match self {
            Self::State { from, to: ItemState::Active, .. } => tracing::info!(%from, "item is active"),
            Self::State { from, to, why } => tracing::warn!(%from, %to, why, "item changed its state"),
            Self::Account { account, change, proof, .. } => {
                let proof = proof.map(Proof::as_str);
                tracing::info!(%account, change, proof, "account changed");
            }
            // Said when Plaid refused it.
            Self::NotMinted { .. } => {}
            Self::Ends { at, .. } => tracing::warn!(ends_at = at, "Plaid announced the end of access to this item"),
            Self::WouldMint(accounts) => {
                tracing::info!(accounts = accounts.len(), "observe mode: would mint for these accounts");
            }
            Self::Parked(Blocked { code, why, .. }) => tracing::error!(code, why, "item parked"),
            Self::Replaced(old) => {
                tracing::info!(%old, "the replaced item leaves with the arrival of this one");
            }
        }
    }
}

/// The word for what happened to an account.
pub(super) fn word(change: &Change) -> &'static str {
    match change {
        Change::Joined { .. } => "joined",
        Change::Present => "present",
        Change::Outside(_) => "left_out",
        Change::Moved { .. } => "moved",
        Change::Missing { .. } => "missing",
        Change::Gone { .. } => "gone",
    }
}
