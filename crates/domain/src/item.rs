//! An Item's states, and which access token is its current one (I5).

use crate::ItemId;
use crate::words::words;
use std::time::Duration;

/// The platform is told of a consent that ends within this time: its customer has to renew it.
pub const CONSENT_ENDS_SOON: Duration = Duration::from_hours(30 * 24);

words!(
    /// What is known of an Item.
    ItemState {
        Active => "active",
        /// Plaid says that the token we hold is unknown: rotated elsewhere, the new one has not reached us.
        AwaitingToken => "awaiting_token",
        LoginRequired => "login_required",
        /// The user withdrew consent, and Plaid said so with an explicit code.
        Revoked => "revoked",
        /// The Item is gone: removed by the platform, or Plaid answers that it does not exist.
        Removed => "removed",
    }
);

impl ItemState {
    /// An Item that is proved gone has nothing to list at Layer.
    pub fn is_gone(self) -> bool {
        matches!(self, Self::Revoked | Self::Removed)
    }
}

words!(
    /// What an access token that reached Rekey is.
    TokenStanding {
        Candidate => "candidate",
        Current => "current",
        Rejected => "rejected",
        Superseded => "superseded",
    }
);

words!(
    /// Why an Item is in its state. What people read beside it may say more; only this decides.
    Cause {
        /// No access token of it was ever proved.
        NoTokenProved => "no_token_proved",
        /// Plaid does not know the token that we hold.
        TokenUnknown => "token_unknown",
        /// Plaid names another Item for the token that we hold.
        OtherItemNamed => "other_item_named",
        UserMustAct => "user_must_act",
        ConsentWithdrawn => "consent_withdrawn",
        GoneAtPlaid => "gone_at_plaid",
        /// No event, retry or sweep may cost a call.
        RemovedByPlatform => "removed_by_platform",
    }
);

impl Cause {
    /// For people.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::NoTokenProved => "no access token has been proved yet",
            Self::TokenUnknown => {
                "Plaid does not know the access token any more: it was rotated elsewhere, push the new one"
            }
            Self::OtherItemNamed => "Plaid names another Item for the access token",
            Self::UserMustAct => "Plaid says that the user must log in or consent again",
            Self::ConsentWithdrawn => "Plaid says that the user withdrew consent",
            Self::GoneAtPlaid => "Plaid says that the Item does not exist any more",
            Self::RemovedByPlatform => "removed by the platform",
        }
    }
}

words!(
    /// Why a token that reached Rekey is not the current one.
    TokenCause {
        OtherItem => "other_item",
        OtherEnvironment => "other_environment",
        UnknownToPlaid => "unknown_to_plaid",
        /// The Item behind it was revoked by its user.
        ConsentWithdrawn => "consent_withdrawn",
        /// The Item behind it does not exist any more.
        GoneAtPlaid => "gone_at_plaid",
        NewerProved => "newer_proved",
        /// A newer token was proved first, and what was pushed with this one holds: no rejection.
        DeclarationHolds => "word_holds",
        /// The token is the current one, and what was pushed with it was refused.
        BusinessUnknown => "business_unknown",
        AccountUnknown => "account_unknown",
    }
);

impl TokenCause {
    /// For people.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::OtherItem => "the access token belongs to another Item",
            Self::OtherEnvironment => "the access token is of another environment of Plaid's",
            Self::UnknownToPlaid => {
                "Plaid does not know the access token (rotated again, or mistyped): push the current one"
            }
            Self::ConsentWithdrawn => {
                "Plaid answers that the user withdrew consent from the Item behind this access token"
            }
            Self::GoneAtPlaid => "Plaid answers that the Item behind this access token is gone",
            Self::NewerProved => "a newer access token was proved",
            Self::DeclarationHolds => "a newer access token was proved; what was pushed with this one holds",
            Self::BusinessUnknown => "Layer has no such business",
            Self::AccountUnknown => "Plaid does not show the accounts that were named",
        }
    }

    /// Whether Plaid says under this token that its Item is gone; true: revoked.
    pub fn gone(self) -> Option<bool> {
        match self {
            Self::ConsentWithdrawn => Some(true),
            Self::GoneAtPlaid => Some(false),
            Self::OtherItem
            | Self::OtherEnvironment
            | Self::UnknownToPlaid
            | Self::NewerProved
            | Self::DeclarationHolds
            | Self::BusinessUnknown
            | Self::AccountUnknown => None,
        }
    }
}

/// What Plaid answered under a candidate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OwnerAnswer {
    Names(ItemId),
    /// `INVALID_ACCESS_TOKEN`: dead, of another environment, or never a token.
    UnknownToken,
    /// The Item behind this token is gone, by an explicit code.
    Gone {
        revoked: bool,
    },
    /// Nothing that says whose token it is: an outage, a limit, a login that must be repaired first.
    Unanswered,
}

/// What becomes of a candidate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judgement {
    Promote,
    Reject {
        cause: TokenCause,
        why: String,
    },
    /// Keep it as a candidate and ask again.
    Later,
}

/// Only an answer that names the expected Item makes a candidate current, so a late push or a lagging replica never
/// puts an old token over a newer one: the old one is dead and Plaid says so.
pub fn judge(expected: &ItemId, answer: &OwnerAnswer, environment: Option<(&str, &str)>) -> Judgement {
    let reject = |cause: TokenCause, why: Option<String>| Judgement::Reject {
        cause,
        why: why.unwrap_or_else(|| cause.sentence().to_owned()),
    };
    match answer {
        OwnerAnswer::Names(item) if item == expected => Judgement::Promote,
        OwnerAnswer::Names(item) => {
            reject(TokenCause::OtherItem, Some(format!("the access token belongs to another Item ({item})")))
        }
        OwnerAnswer::UnknownToken => match environment {
            Some((token, ours)) if token != ours => reject(
                TokenCause::OtherEnvironment,
                Some(format!(
                    "the access token is of Plaid's {token} environment, Rekey works in {ours}: push the {ours} token"
                )),
            ),
            _ => reject(TokenCause::UnknownToPlaid, None),
        },
        OwnerAnswer::Gone { revoked: true } => reject(TokenCause::ConsentWithdrawn, None),
        OwnerAnswer::Gone { revoked: false } => reject(TokenCause::GoneAtPlaid, None),
        OwnerAnswer::Unanswered => Judgement::Later,
    }
}

/// Whether what a push said besides its token may hold although its token can't become current: the token was live
/// when it was pushed and is dead now. A token that is somebody else's, or of another environment, was never this
/// Item's, and then neither was the rest of the push.
pub fn declaration_may_hold(expected: &ItemId, answer: &OwnerAnswer, environment: Option<(&str, &str)>) -> bool {
    match answer {
        OwnerAnswer::Names(item) => item == expected,
        OwnerAnswer::UnknownToken => environment.is_none_or(|(token, ours)| token == ours),
        OwnerAnswer::Gone { .. } | OwnerAnswer::Unanswered => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(t: &str) -> ItemId {
        ItemId::parse(t).unwrap()
    }

    #[test]
    fn i5_only_an_answer_that_names_the_expected_item_makes_a_token_current() {
        let ours = id("ours");
        assert_eq!(judge(&ours, &OwnerAnswer::Names(id("ours")), None), Judgement::Promote);
        assert_eq!(judge(&ours, &OwnerAnswer::Unanswered, None), Judgement::Later);
        let refused = |answer, env, word: &str| match judge(&ours, &answer, env) {
            Judgement::Reject { why, .. } => assert!(why.contains(word), "{why}"),
            other => panic!("{other:?}"),
        };
        refused(OwnerAnswer::Names(id("theirs")), None, "theirs");
        refused(OwnerAnswer::UnknownToken, None, "does not know");
        refused(OwnerAnswer::UnknownToken, Some(("production", "sandbox")), "production");
        refused(OwnerAnswer::UnknownToken, Some(("sandbox", "sandbox")), "does not know");
        refused(OwnerAnswer::Gone { revoked: true }, None, "consent");
        refused(OwnerAnswer::Gone { revoked: false }, None, "gone");
    }

    #[test]
    fn what_a_push_said_may_outlive_its_token_but_not_its_mistakes() {
        let ours = id("ours");
        let holds = |answer, env| declaration_may_hold(&ours, &answer, env);
        assert!(holds(OwnerAnswer::UnknownToken, None));
        assert!(holds(OwnerAnswer::UnknownToken, Some(("sandbox", "sandbox"))));
        assert!(holds(OwnerAnswer::Names(id("ours")), None));
        assert!(!holds(OwnerAnswer::Names(id("theirs")), None));
        assert!(!holds(OwnerAnswer::UnknownToken, Some(("production", "sandbox"))));
        assert!(!holds(OwnerAnswer::Gone { revoked: false }, None));
        assert!(!holds(OwnerAnswer::Unanswered, None));
    }

    #[test]
    fn i8_only_an_item_that_is_proved_gone_has_nothing_to_list() {
        let gone: Vec<_> = ItemState::ALL.iter().filter(|s| s.is_gone()).collect();
        assert_eq!(gone, [&ItemState::Revoked, &ItemState::Removed]);
    }
}
