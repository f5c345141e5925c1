//! What a reconciliation of a business would do now, as its rehearsal found out.

use crate::item::ItemState;
use crate::token_list::Put;
use crate::{AccountId, ItemId};
use serde::{Deserialize, Serialize};

crate::words!(
    /// What becomes of a list.
    Would {
        /// It is as it should be: nothing is sent.
        Nothing => "nothing",
        /// It is sent.
        Put => "put",
        /// The business is created at Layer, with its tokens.
        Create => "create",
        /// Nothing is sent until new tokens are there.
        Wait => "wait",
        /// A guard, or an operator, keeps it from being sent.
        Hold => "hold",
        /// The business needs a person.
        Parked => "parked",
        /// A provider refuses for now, and is asked again.
        Retry => "retry",
        /// It could not be found out.
        Unknown => "unknown",
    }
);

/// What comes of an Item on the way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ItemForeseen {
    pub item: ItemId,
    pub was: ItemState,
    pub state: ItemState,
    /// Why it does not come to its end.
    pub code: Option<String>,
    pub why: Option<String>,
}

/// What a reconciliation of a business, and of each of its Items before, would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Foreseen {
    pub would: Would,
    pub code: Option<String>,
    /// For people.
    pub why: Option<String>,
    /// What would be sent. Tokens that would be minted first stand in it under fingerprints of their own.
    pub put: Option<Put>,
    /// Accounts that would get a new token first.
    pub mints: Vec<AccountId>,
    /// Items that do not come to their end, or are not active, or were not.
    pub items: Vec<ItemForeseen>,
    /// `consumer.mode` is `observe`: nothing of this would be done.
    pub observes: bool,
}
