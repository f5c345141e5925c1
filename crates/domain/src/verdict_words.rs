//! The words of a verdict: how a row stands, what is wrong with an account, whose turn it is.

use crate::Provider;
use crate::words::words;

words!(
    /// How a business or an Item stands. Only `converged`, `empty` and `gone` are good, and stand first for that.
    State {
        /// A business: its list at Layer is right, and was read back. An Item: every account has its live token.
        Converged => "converged",
        /// No account takes part, and no list ever held one.
        Empty => "empty",
        /// An Item that is removed or revoked: nothing of it belongs into a list.
        Gone => "gone",
        /// Rekey is at work on it, or tries again soon.
        Converging => "converging",
        /// Some accounts are right, and others can't be for now.
        Partly => "partly",
        /// No account is right, because Plaid refuses to mint or does not show the accounts.
        Refused => "refused",
        /// The access token is dead and the new one has not reached Rekey.
        AwaitingToken => "awaiting_token",
        /// Its user must log in or consent again.
        WaitingForUser => "waiting_for_user",
        /// An Item: no business is named for its accounts.
        Unassigned => "unassigned",
        /// The provider that it needs is paused.
        ProviderPaused => "provider_paused",
        /// A guard stopped it.
        Held => "held",
        /// It alone is refused.
        Parked => "parked",
        /// Layer accepted the list and does not show enough to read it back.
        Unverified => "unverified",
        /// Written by an earlier release, and not judged since.
        Unknown => "unknown",
    }
);

impl State {
    /// Nobody has to act, and nothing is at risk: the first three.
    pub const GOOD: &'static [Self] = Self::ALL.split_at(3).0;
    /// All others.
    pub const NOT_GOOD: &'static [Self] = Self::ALL.split_at(3).1;
    /// Their words, for the labels of metrics.
    pub const NOT_GOOD_WORDS: &'static [&'static str] = Self::WORDS.split_at(3).1;

    /// See [`State::GOOD`].
    pub fn is_good(self) -> bool {
        Self::GOOD.contains(&self)
    }

    /// What is stored does not know of pauses, which begin and end for all rows at once.
    pub fn under(self, waits_on: WaitsOn, paused: &[Provider]) -> Self {
        match self {
            Self::Converging if paused.iter().any(|p| waits_on.includes(*p)) => Self::ProviderPaused,
            state => state,
        }
    }
}

words!(
    /// Whose answers a row that is at work needs next.
    WaitsOn { Nobody => "nobody", Plaid => "plaid", Layer => "layer", Both => "both" }
);

impl WaitsOn {
    /// Whether it stands still while this provider is paused.
    pub fn includes(self, provider: Provider) -> bool {
        match self {
            Self::Nobody => false,
            Self::Plaid => provider == Provider::Plaid,
            Self::Layer => provider == Provider::Layer,
            Self::Both => true,
        }
    }

    pub(crate) fn of(plaid: bool, layer: bool) -> Self {
        match (plaid, layer) {
            (false, false) => Self::Nobody,
            (true, false) => Self::Plaid,
            (false, true) => Self::Layer,
            (true, true) => Self::Both,
        }
    }
}

words!(
    /// Who has to do something for the verdict to become good.
    Actor { Nobody => "nobody", Rekey => "rekey", Platform => "platform", Customer => "customer", Operator => "operator" }
);

words!(
    /// Why an account, or an Item whose accounts nobody has read, is not right.
    Problem {
        /// Its Item is being looked at, or will be shortly.
        ItemPending => "item_pending",
        /// Its token of this generation is about to be minted.
        NotMinted => "not_minted",
        /// Its token is not in the list that Layer accepted last.
        NotListed => "not_listed",
        /// It has to leave one list before it enters another.
        Moving => "moving",
        /// Plaid did not show it in the last read; it is proved gone by a second one.
        Missing => "missing",
        /// Somebody archived it at Layer.
        Archived => "archived",
        /// Plaid shows it with a field that decides and can't be read.
        Unreadable => "unreadable",
        /// Plaid shows it, and nobody said where it belongs.
        Unassigned => "unassigned",
        MintRefused => "mint_refused",
        AwaitingToken => "awaiting_token",
        WaitsForUser => "waits_for_user",
        ItemHeld => "item_held",
        ItemParked => "item_parked",
    }
);

impl Problem {
    /// Rekey's own work mends it, and that takes no longer than its backoff.
    pub(crate) fn is_pending(self) -> bool {
        match self {
            Self::ItemPending | Self::NotMinted | Self::NotListed | Self::Moving => true,
            Self::Missing
            | Self::Archived
            | Self::Unreadable
            | Self::Unassigned
            | Self::MintRefused
            | Self::AwaitingToken
            | Self::WaitsForUser
            | Self::ItemHeld
            | Self::ItemParked => false,
        }
    }

    pub(crate) fn actor(self) -> Actor {
        match self {
            Self::ItemPending
            | Self::NotMinted
            | Self::NotListed
            | Self::Moving
            | Self::Missing
            | Self::MintRefused => Actor::Rekey,
            Self::AwaitingToken | Self::Unassigned => Actor::Platform,
            Self::WaitsForUser => Actor::Customer,
            Self::Archived | Self::Unreadable | Self::ItemHeld | Self::ItemParked => Actor::Operator,
        }
    }

    /// The state of a row in which everything that is wrong is this.
    pub(crate) fn state(self) -> State {
        match self {
            Self::ItemPending | Self::NotMinted | Self::NotListed | Self::Moving => State::Converging,
            Self::Missing | Self::Archived | Self::Unreadable | Self::MintRefused => State::Refused,
            Self::Unassigned => State::Unassigned,
            Self::AwaitingToken => State::AwaitingToken,
            Self::WaitsForUser => State::WaitingForUser,
            Self::ItemHeld => State::Held,
            Self::ItemParked => State::Parked,
        }
    }

    /// What a person reads.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::ItemPending => "its Item is being reconciled",
            Self::NotMinted => "its processor token is not minted yet",
            Self::NotListed => "its processor token is not in the list that Layer accepted last",
            Self::Moving => "it leaves one business's list before it enters another's",
            Self::Missing => "Plaid did not show it in the last read, and a second read decides whether it is gone",
            Self::Archived => {
                "somebody archived it at Layer: unarchive it there, or leave it out by the Item's account filter"
            }
            Self::Unreadable => {
                "Plaid shows it with a `type` that can't be read: leave it out by the Item's account filter, or ask Plaid"
            }
            Self::Unassigned => "no business is assigned to it: push the Item with a business for this account",
            Self::MintRefused => "Plaid refuses to mint its processor token",
            Self::AwaitingToken => "the Item's access token is dead: push the new one",
            Self::WaitsForUser => "its user must log in or consent again, in Link's update mode",
            Self::ItemHeld => "a guard stopped its Item: see `rekey parked list`",
            Self::ItemParked => "its Item is parked: see `rekey parked list`",
        }
    }
}
