//! What operators can order, in the words of the API, the pages and the audit trail.

use crate::error::ApiError;
use domain::token_list::TokenWord;
use domain::work::Subject;
use domain::{AccountId, BusinessId, Fingerprint, ItemId, words};
use serde::Deserialize;
use store::TakenBatch;
use utoipa::IntoParams;

words!(
    /// What an operator can order.
    Order {
        /// Look at it now, whatever it waits for.
        Sync => "sync",
        /// Let a held or parked row go on, with a permit for once.
        Release => "release",
        /// Send nothing for a business until it is released.
        Hold => "hold",
        /// Mint every token of an Item anew.
        Mint => "mint",
        /// One account of an Item goes to another business.
        Move => "move",
        /// Another Item, linked anew, takes the place of one.
        Replace => "replace",
        /// It does not, after all.
        Withdraw => "withdraw",
        /// The webhook that never came was looked into.
        Acknowledge => "acknowledge",
        /// The platform removed the Item.
        Remove => "remove",
        /// A token at Layer that nobody here knows stays in the list for good.
        KeepToken => "keep_token",
        /// It leaves the list for good.
        RemoveToken => "remove_token",
        /// What was decided of it is taken back.
        ForgetToken => "forget_token",
    }
);

impl Order {
    /// What comes of it, for whoever is about to order it.
    pub(crate) fn effect(self) -> &'static str {
        match self {
            Self::Sync => "Asks Plaid and Layer now, and sends what is not right. Nothing is forced.",
            Self::Release => "Lets it go on, on the truth of that moment. What a guard held back is permitted once.",
            Self::Hold => {
                "Sends nothing for this business, whatever changes, until somebody releases it. A list that is being sent at this \
                 moment is waited for."
            }
            Self::Mint => {
                "Mints every token of the Item anew and sends them; the ones of now stay in the lists until then."
            }
            Self::Move => {
                "Takes the account off its list, and puts it into the other one once the first was read back without it. A later push \
                 that names accounts overrules it."
            }
            Self::Replace => {
                "Gives its accounts' places to those of the other Item. Once each of these has its token, both happen in one list, \
                 and this Item is removed."
            }
            Self::Withdraw => "Takes back that the other Item is to take its place. Both stay as they are.",
            Self::Acknowledge => "Takes the Item off the list of missed webhooks: somebody has looked into it.",
            Self::Remove => {
                "Takes its accounts off every list and erases its tokens here. Only a new push brings it back."
            }
            Self::KeepToken => "Sends this token along with every list, although nobody here knows it.",
            Self::RemoveToken => "Leaves this token out of the next list, and of every one after it.",
            Self::ForgetToken => "Takes back what was decided of this token: layer.unknown_tokens holds for it again.",
        }
    }

    /// What a page tells afterwards.
    pub(crate) fn done(self) -> &'static str {
        match self {
            Self::Sync => "It is due now: this page shows what comes of it.",
            Self::Release => "Released: it is due now, and this page shows what comes of it.",
            Self::Hold => "Held: nothing is sent for it until somebody releases it.",
            Self::Mint => "Its tokens are being minted again: this page shows what comes of it.",
            Self::Move => "The account is on its way: this page shows what comes of it.",
            Self::Replace => "The other Item takes its place once it has its tokens.",
            Self::Withdraw => "Withdrawn: both Items stay as they are.",
            Self::Acknowledge => "Acknowledged: it is off the list of missed webhooks.",
            Self::Remove => "Removed: its accounts are leaving every list.",
            Self::KeepToken | Self::RemoveToken | Self::ForgetToken => "Decided: the list is compared anew now.",
        }
    }

    /// It is shown to whoever meets what comes of it.
    pub(crate) fn needs_reason(self) -> bool {
        self == Self::Hold
    }

    pub(super) fn of_token(self) -> Option<Option<TokenWord>> {
        match self {
            Self::KeepToken => Some(Some(TokenWord::Keep)),
            Self::RemoveToken => Some(Some(TokenWord::Remove)),
            Self::ForgetToken => Some(None),
            _ => None,
        }
    }
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ActQuery {
    /// Why, for the audit trail.
    pub(crate) reason: Option<String>,
    /// The `version` of the row that an explanation showed: refused with 409 if the row is another one by now.
    pub(crate) version: Option<String>,
    /// Only say what would come of it.
    #[serde(default)]
    pub(crate) dry_run: bool,
    /// Wait for the reconciliation that this causes, so many seconds at most.
    pub(crate) timeout: Option<u32>,
}

/// What an order names besides its subject.
pub(crate) enum With<'a> {
    Nothing,
    /// A token of the list.
    Token(Fingerprint),
    /// An account of the Item, and where it goes.
    Move(AccountId, BusinessId),
    /// The Item that takes its place.
    Heir(ItemId),
    /// It is one of many, all that are kept for one cause.
    Batch(&'a TakenBatch),
}

impl With<'_> {
    /// As a page's form says it: a fingerprint, an account and a business, an Item.
    pub(crate) fn of_page(order: Order, about: &str) -> Result<Self, ApiError> {
        Ok(match (order, about.split_once(' ')) {
            (Order::Move, Some((account, to))) => Self::Move(AccountId::parse(account)?, BusinessId::parse(to.trim())?),
            (Order::Move, None) => return Err(ApiError::bad_request("say which business the account goes to")),
            (Order::Replace | Order::Withdraw, _) => Self::Heir(ItemId::parse(about.trim())?),
            _ if about.is_empty() => Self::Nothing,
            _ => Self::Token(Fingerprint::from_stored(about.to_owned())),
        })
    }
}

/// An order, and about what.
pub(crate) struct Ask<'a> {
    pub(crate) order: Order,
    pub(crate) subject: &'a Subject,
    pub(crate) with: With<'a>,
    pub(crate) said: ActQuery,
}
