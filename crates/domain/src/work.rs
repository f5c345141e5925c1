//! The words of the work queue: what is due, why, how urgently, and what keeps it from being done.

use crate::budget::Call;
use crate::ids::BadId;
use crate::words::words;
use crate::{BusinessId, ItemId, Provider};

words!(
    /// The two things Rekey reconciles.
    Kind { Item => "item", Business => "business" }
);

impl Kind {
    /// The provider whose pause stops this kind of work.
    pub fn provider(self) -> Provider {
        match self {
            Self::Item => Provider::Plaid,
            Self::Business => Provider::Layer,
        }
    }

    /// The call that a reconciliation begins with, whose budget is taken with the claim.
    pub fn first_call(self) -> Call {
        match self {
            Self::Item => Call::AccountsGet,
            Self::Business => Call::Layer,
        }
    }
}

/// What a row of the queue is about. In the order in which rows are locked: Items, then businesses, each by id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    Item(ItemId),
    Business(BusinessId),
}

impl Subject {
    /// From outside.
    pub fn parse(kind: Kind, id: impl Into<String>) -> Result<Self, BadId> {
        Ok(match kind {
            Kind::Item => Self::Item(ItemId::parse(id)?),
            Kind::Business => Self::Business(BusinessId::parse(id)?),
        })
    }

    /// From our own store.
    pub fn from_stored(kind: Kind, id: String) -> Self {
        match kind {
            Kind::Item => Self::Item(ItemId::from_stored(id)),
            Kind::Business => Self::Business(BusinessId::from_stored(id)),
        }
    }

    /// Which of the two it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Item(_) => Kind::Item,
            Self::Business(_) => Kind::Business,
        }
    }

    /// Its id without the kind.
    pub fn id(&self) -> &str {
        match self {
            Self::Item(id) => id.as_str(),
            Self::Business(id) => id.as_str(),
        }
    }
}

/// `item/…` or `business/…`, as the audit trail names it.
impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.kind(), self.id())
    }
}

impl From<&ItemId> for Subject {
    fn from(id: &ItemId) -> Self {
        Self::Item(id.clone())
    }
}
impl From<&BusinessId> for Subject {
    fn from(id: &BusinessId) -> Self {
        Self::Business(id.clone())
    }
}
impl From<&Subject> for Subject {
    fn from(subject: &Subject) -> Self {
        subject.clone()
    }
}

words!(
    /// Who goes first when provider calls are scarce, the first before the last.
    Class {
        /// Somebody waits in a user interface.
        Person => "person",
        Rotation => "rotation",
        NewAccount => "new_account",
        Retry => "retry",
        Sweep => "sweep",
    }
);

words!(
    /// How an order for every row of one cause stands.
    BatchState {
        Running => "running",
        Done => "done",
        Cancelled => "cancelled",
    }
);

/// Tries in which a row keeps its place.
const PATIENCE: u32 = 3;

impl Class {
    /// The class of a row that failed so often in a row. One call in many is not answered, and a person must not wait
    /// for the end of a storm for it; what goes on failing stands behind everything that is new.
    pub fn after(self, failures: u32) -> Self {
        match self {
            Self::Person | Self::Rotation | Self::NewAccount if failures <= PATIENCE => self,
            _ => Self::Retry,
        }
    }

    /// The order of the words above, as the database sorts it.
    pub fn rank(self) -> i64 {
        self as i64
    }
    /// An unknown rank is the least urgent class.
    pub fn from_rank(rank: i64) -> Self {
        Self::ALL.iter().copied().find(|c| c.rank() == rank).unwrap_or(Self::Sweep)
    }
}

words!(
    /// What keeps a due row from being claimed.
    Block {
        /// It failed and waits for its next try.
        Backoff => "backoff",
        /// Its provider refuses everybody; it goes on by itself when the provider does.
        Pause => "pause",
        /// A guard stopped it; an operator decides.
        Hold => "hold",
        /// It alone is refused; an operator decides.
        Parked => "parked",
    }
);

words!(
    /// Why a row is blocked, where it is a word of ours and none of a provider's.
    Code {
        AnotherBusinessReturned => "another_business_returned",
        AwaitingToken => "awaiting_token",
        BusinessUnknownToLayer => "business_unknown_to_layer",
        CreationRefused => "creation_refused",
        /// Layer refuses our client id, secret or scope.
        Credentials => "credentials",
        Database => "database",
        EmptyListGuard => "empty_list_guard",
        FleetRemovalGuard => "fleet_removal_guard",
        ForeignWriter => "foreign_writer",
        HiddenTokens => "hidden_tokens",
        ItemNotFound => "item_not_found",
        ListRefused => "list_refused",
        /// The provider answered in an unknown form.
        Malformed => "malformed",
        NamedTwice => "named_twice",
        NotApplied => "not_applied",
        OperatorHold => "operator_hold",
        ShrinkGuard => "shrink_guard",
        ThirdList => "third_list",
        /// The provider did not answer.
        Unanswered => "unanswered",
        UnknownTokens => "unknown_tokens",
        /// The row itself can't be read: a key is missing, or somebody tampered with it.
        UnreadableRow => "unreadable_row",
        WaitsForTokens => "waits_for_tokens",
    }
);

words!(
    /// Something a webhook said about an Item that a reconciliation should know. Never believed without asking Plaid.
    HintKind {
        AccountRevoked => "account_revoked",
        /// The whole Item is said to be gone.
        PermissionRevoked => "permission_revoked",
        PendingDisconnect => "pending_disconnect",
        PendingExpiration => "pending_expiration",
    }
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i9_a_few_failures_cost_nobody_the_place() {
        let after = |failures: u32| Class::ALL.iter().map(|c| c.after(failures)).collect::<Vec<_>>();
        let kept = [Class::Person, Class::Rotation, Class::NewAccount, Class::Retry, Class::Retry];
        assert_eq!((after(0), after(3)), (kept.to_vec(), kept.to_vec()));
        assert_eq!(after(4), [Class::Retry; 5]);
    }

    #[test]
    fn i9_the_database_sorts_the_classes_as_the_design_does() {
        let ranks: Vec<i64> = Class::ALL.iter().map(|c| c.rank()).collect();
        assert_eq!(ranks, [0, 1, 2, 3, 4]);
        let back: Vec<Class> = ranks.into_iter().map(Class::from_rank).collect();
        assert_eq!(back, Class::ALL);
        assert_eq!((Class::from_rank(-1), Class::from_rank(5)), (Class::Sweep, Class::Sweep));
    }
}
