//! An operator's permit: by releasing a row, the operator lets one reconciliation do what a guard held back (I8).
//!
//! A guard that holds a row says what it objects to ([`Objection`]), and a release permits that and no more: a list that has come to
//! lose other accounts meanwhile, or to hold other strangers, is held anew. The release gives the permit
//! ([`crate::queue::Row::release`]), and the row keeps it. The end of the reconciliation that has it spends it. Items never read it.

use crate::queue::Finish;
use crate::work::{Block, Code};
use crate::{AccountId, Fingerprint};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// What a guard holds back, and a release would permit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Objection {
    /// The guards that spoke.
    pub guards: BTreeSet<Code>,
    /// Accounts that the list would lose.
    pub accounts: BTreeSet<AccountId>,
    /// Tokens at Layer that nobody here knows, and that the list would hold or lose.
    pub tokens: BTreeSet<Fingerprint>,
}

impl Objection {
    /// Nothing was held back by a guard that can be overruled.
    pub fn is_empty(&self) -> bool {
        self.guards.is_empty()
    }

    /// With what was permitted before, which the same operator had seen: two guards that speak one after the other could otherwise
    /// never both be overruled.
    pub fn join(&mut self, permitted: &Permit) {
        let Permit(Self { guards, accounts, tokens }) = permitted;
        self.guards.extend(guards);
        self.accounts.extend(accounts.iter().cloned());
        self.tokens.extend(tokens.iter().cloned());
    }
}

/// What an operator's release permits, once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Permit(pub Objection);

impl Permit {
    /// Whether everything that the guard objects to was seen by whoever gave it.
    pub fn covers(&self, objection: &Objection) -> bool {
        let Self(seen) = self;
        objection.guards.is_subset(&seen.guards)
            && objection.accounts.is_subset(&seen.accounts)
            && objection.tokens.is_subset(&seen.tokens)
    }

    /// Whether this end spends it. A reconciliation that is tried again by itself, or has not come to its end, keeps it.
    pub fn is_spent_by(finish: &Finish) -> bool {
        finish.unfinished.is_none() && !finish.is_blocked_by(&[Block::Backoff, Block::Pause])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Call;
    use crate::queue::Blocked;
    use crate::work::Class;
    use std::time::Duration;

    fn objection(guard: Code, accounts: &[&str], tokens: &[&str]) -> Objection {
        Objection {
            guards: BTreeSet::from([guard]),
            accounts: accounts.iter().map(|a| AccountId::parse(*a).unwrap()).collect(),
            tokens: tokens.iter().map(|t| Fingerprint::from_stored((*t).into())).collect(),
        }
    }

    #[test]
    fn a_permit_is_spent_by_an_end_and_not_by_a_pause_for_breath() {
        let wait = Duration::from_secs(1);
        let blocked = |by| Finish::blocked(wait, Class::Sweep, Blocked::new(by, "", ""));
        let table = [
            ("done", Finish::done(wait, Class::Sweep), true),
            ("held again", blocked(Block::Hold), true),
            ("parked", blocked(Block::Parked), true),
            ("backoff", blocked(Block::Backoff), false),
            ("the provider is paused", blocked(Block::Pause), false),
            ("no budget for its next call", Finish::unfinished(wait, Class::Sweep, Call::Layer), false),
        ];
        for (end, finish, expected) in table {
            assert_eq!(Permit::is_spent_by(&finish), expected, "{end}");
        }
    }

    #[test]
    fn i8_a_permit_is_for_what_was_seen_and_no_more() {
        let permit = Permit(objection(Code::ShrinkGuard, &["a", "b"], &["x"]));
        let table = [
            ("the same", objection(Code::ShrinkGuard, &["a", "b"], &["x"]), true),
            ("less of it", objection(Code::ShrinkGuard, &["a"], &[]), true),
            ("one more account", objection(Code::ShrinkGuard, &["a", "b", "c"], &[]), false),
            ("another token", objection(Code::ShrinkGuard, &["a"], &["y"]), false),
            ("another guard", objection(Code::EmptyListGuard, &["a"], &[]), false),
        ];
        for (claim, objection, expected) in table {
            assert_eq!(permit.covers(&objection), expected, "{claim}");
            assert!(!Permit::default().covers(&objection), "{claim}: what was no guard's word permits nothing");
        }
    }

    #[test]
    fn two_guards_are_overruled_one_after_the_other() {
        let mut second = objection(Code::ShrinkGuard, &["a"], &[]);
        second.join(&Permit(objection(Code::UnknownTokens, &[], &["x"])));
        let both = Permit(second);
        assert!(both.covers(&objection(Code::UnknownTokens, &[], &["x"])));
        assert!(both.covers(&objection(Code::ShrinkGuard, &["a"], &[])));
    }
}
