//! An operator's permit: by releasing a row, the operator lets one reconciliation do what a guard held back (I8).
//!
//! The release gives it ([`crate::queue::Row::release`]), and the row keeps it. A reconciliation that has it passes the guards of
//! [`crate::token_list`], the consumer's guard over all lists, and its question about dead unknown tokens. The end of that
//! reconciliation spends it. Items never read it.

use crate::queue::Finish;
use crate::work::Block;

/// What an operator's release permits, once, on the truth of that moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Permit {
    /// The reconciliation has one.
    pub granted: bool,
}

impl Permit {
    /// Whether this end spends it. A reconciliation that is tried again by itself, or has not come to its end, keeps it.
    pub fn is_spent_by(self, finish: &Finish) -> bool {
        self.granted && finish.unfinished.is_none() && !finish.is_blocked_by(&[Block::Backoff, Block::Pause])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Call;
    use crate::queue::Blocked;
    use crate::work::Class;
    use std::time::Duration;

    #[test]
    fn a_permit_is_spent_by_an_end_and_not_by_a_pause_for_breath() {
        let wait = Duration::from_secs(1);
        let blocked = |by| Finish::blocked(wait, Class::Sweep, Blocked { by, code: String::new(), why: String::new() });
        let table = [
            ("done", Finish::done(wait, Class::Sweep), true),
            ("held again", blocked(Block::Hold), true),
            ("parked", blocked(Block::Parked), true),
            ("backoff", blocked(Block::Backoff), false),
            ("the provider is paused", blocked(Block::Pause), false),
            ("no budget for its next call", Finish::unfinished(wait, Class::Sweep, Call::Layer), false),
        ];
        for (end, finish, expected) in table {
            assert_eq!(Permit { granted: true }.is_spent_by(&finish), expected, "{end}");
            assert!(!Permit::default().is_spent_by(&finish), "{end}: there was none");
        }
    }
}
