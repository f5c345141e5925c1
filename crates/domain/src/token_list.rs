//! The plan for one business: does its list at Layer differ from the truth, and what would the PUT say (I8, I9)?
//!
//! Facts in, plan out. The PUT replaces the whole list, so the plan names every token that the list has to hold; what
//! it leaves out, Layer drops. Nothing is left out without a proof, an operator's word, or the one exception of I8
//! (Layer refuses the list for tokens of older generations).

use crate::hold::Hold;
use crate::item::ItemState;
use crate::permit::Permit;
use crate::words::words;
use crate::{AccountId, Fingerprint};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;

words!(
    /// What to do with tokens at Layer whose account Rekey does not know.
    UnknownPolicy {
        /// Hold the business until an operator decides.
        Refuse => "refuse",
        /// Send them along unchanged.
        Keep => "keep",
        /// Probe them at Plaid: those that are alive are sent along unchanged, a dead one holds the business.
        Adopt => "adopt",
    }
);

words!(
    /// What to do with an account that somebody archived at Layer while it is wanted here.
    ArchivedPolicy { LeaveOut => "leave_out", ReAdd => "re_add" }
);

words!(
    /// What Layer's List Plaid Accounts shows of a token. Unconfirmed in production, so it is a setting.
    ListedTokens { Full => "full", Masked => "masked", Omitted => "omitted" }
);

/// An account that belongs into this business's list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    pub account: AccountId,
    /// The newest live token; none while nothing has been minted yet.
    pub token: Option<Fingerprint>,
    /// The token was minted under an earlier access token and waits for its successor.
    pub older_generation: bool,
}

impl Wanted {
    /// Whether a token of that generation waits for its successor: its access token was followed by another one, or is dead and
    /// the next one has not reached us.
    pub fn is_older(token: Option<i64>, item: i64, state: ItemState) -> bool {
        token.is_some_and(|generation| generation < item) || state == ItemState::AwaitingToken
    }
}

words!(
    /// Layer's `status` of a listed row.
    RowStatus {
        Active => "active",
        Archived => "archived",
        /// A value that appears later, or none that can be read.
        Other => "other",
    }
);

impl RowStatus {
    /// The account takes part at Layer, as far as anybody knows: what is not understood is not dropped.
    pub fn is_row(self) -> bool {
        self != Self::Archived
    }
}

/// One row of the list at Layer as it was shown, by the fingerprint of its token: what is kept of it, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// None when Layer does not show the token, or shows it masked.
    pub token: Option<Fingerprint>,
    pub account: Option<AccountId>,
    pub status: RowStatus,
    /// Connected by Layer's own Plaid integration.
    pub layer_owned: bool,
    /// The last digits of the account's number.
    pub mask: Option<String>,
    /// The account's name at its bank.
    pub name: Option<String>,
}

words!(
    /// What an operator decided of one token at Layer that nobody here knows.
    TokenWord {
        /// Every list sends it along.
        Keep => "keep",
        /// The next list leaves it out.
        Remove => "remove",
    }
);

/// One row of the list at Layer, already looked up among the tokens and accounts that Rekey knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// None when Layer does not show the token, or shows it masked.
    pub token: Option<Fingerprint>,
    pub account: Option<AccountId>,
    pub status: RowStatus,
    /// Connected by Layer's own Plaid integration: watched, never touched.
    pub layer_owned: bool,
    /// The account this row is about, when its token or its Plaid account id is one of ours.
    pub ours: Option<OurAccount>,
    /// An operator's word on its token, where it is nobody's here.
    pub word: Option<TokenWord>,
}

/// What Rekey knows of the account behind a listed row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OurAccount {
    pub account: AccountId,
    /// It may leave this list: proved gone, moved away, or taken out by the platform.
    pub may_leave: bool,
}

words!(
    /// Which tokens of older generations stay outside the list until their successors are minted.
    LeaveOut {
        Nothing => "nothing",
        /// Layer took a list and skipped some of them: those that it does not show.
        Skipped => "skipped",
        /// Layer refused a list that held them, and nobody can tell which one it was.
        Older => "older",
    }
);

/// The settings and the memory that the plan depends on.
#[derive(Debug, Clone)]
pub struct Policy {
    pub unknown: UnknownPolicy,
    pub archived: ArchivedPolicy,
    /// More removals without proof than this hold the business.
    pub max_unproved_removals: usize,
    pub leave_out: LeaveOut,
    /// The list was accepted but could not be verified, and the sweep is here to send it again.
    pub resend: bool,
    /// An operator keeps the list from being sent, and said why.
    pub kept_back: Option<String>,
    /// Accounts that the last list left out because somebody had archived them at Layer. With their tokens, which stand in what was
    /// accepted: a new token is asked about anew, or an account that Layer archived itself, for a dead token, would never be back.
    pub archived_before: HashSet<AccountId>,
    /// The last accepted list was read back: what is archived now was not then.
    pub read_back: bool,
}

/// What the last accepted PUT said, for a Layer that does not show tokens.
pub type Accepted = HashSet<Fingerprint>;

/// A token list that differs from what Layer has.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Put {
    /// Every token of the new list, in a stable order.
    pub tokens: Vec<Fingerprint>,
    pub added: Vec<AccountId>,
    pub replaced: Vec<AccountId>,
    pub removed: Vec<AccountId>,
    /// Tokens of nobody here that an operator has told to remove.
    pub discarded: Vec<Fingerprint>,
    /// Left out although wanted: tokens of older generations that Layer refuses the list for.
    pub left_out: Vec<AccountId>,
    /// Left out because somebody archived them at Layer.
    pub archived: Vec<AccountId>,
    /// Nothing differs: it is sent once more because nobody could read it back (I9).
    pub resent: bool,
}

/// Tokens that are listed after our PUT, that we did not send and never minted: nobody but another writer put them there.
/// A part of our list, or an earlier list of ours that came late, is not one.
pub fn strangers_after(sent: &[Fingerprint], after: &[Listed]) -> Vec<Fingerprint> {
    let active = after.iter().filter(|r| r.status.is_row() && !r.layer_owned && r.ours.is_none());
    active.filter_map(|r| r.token.clone().filter(|t| !sent.contains(t))).collect()
}

/// What would be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// Nothing differs. `verified` is false where Layer does not show enough to be sure.
    Converged {
        verified: bool,
        left_out: Vec<AccountId>,
        archived: Vec<AccountId>,
    },
    Put(Put),
    /// Layer refused the tokens that these accounts have, and no other is there to be listed: nothing is sent until
    /// their successors are minted.
    Wait {
        left_out: Vec<AccountId>,
    },
    Hold(Hold),
}

/// Compares the truth with the list at Layer. `wanted` holds each account once.
pub fn plan(
    wanted: &[Wanted],
    listed: &[Listed],
    accepted: &Accepted,
    policy: &Policy,
    permit: Option<&Permit>,
) -> Plan {
    let mut draft = Draft { verified: true, ..Draft::default() };
    for want in wanted {
        draft.want(want, listed, accepted, policy);
    }
    let rows = listed.iter().filter(|r| r.status.is_row() && !r.layer_owned);
    for row in rows {
        draft.row(row, wanted, policy);
    }
    draft.finish(wanted, policy, permit)
}

#[derive(Default)]
struct Draft {
    put: Put,
    differs: bool,
    verified: bool,
    unproved: Vec<AccountId>,
    unknown: Vec<Fingerprint>,
    hidden: usize,
    resends: bool,
}

impl Draft {
    /// Puts one wanted account into the new list and notes whether Layer has it already.
    fn want(&mut self, want: &Wanted, listed: &[Listed], accepted: &Accepted, policy: &Policy) {
        let rows = || listed.iter().filter(|r| !r.layer_owned && r.is_about(&want.account));
        let mut active = rows().filter(|r| r.status.is_row());
        let Some(token) = &want.token else {
            self.keep_previous(active.next());
            return;
        };
        let shown = listed.iter().any(|r| r.status.is_row() && r.token.as_ref() == Some(token));
        let waits = match policy.leave_out {
            LeaveOut::Nothing => false,
            LeaveOut::Skipped => want.older_generation && !shown,
            LeaveOut::Older => want.older_generation,
        };
        if waits {
            self.put.left_out.push(want.account.clone());
            self.differs |= active.next().is_some();
            return;
        }
        let first = active.next();
        if first.is_none() && archived_by_somebody(rows(), want, accepted, policy) {
            self.put.archived.push(want.account.clone());
            return;
        }
        self.put.tokens.push(token.clone());
        match first {
            None => {
                self.differs = true;
                self.put.added.push(want.account.clone());
            }
            Some(row) => {
                // Two active rows for one account double its transactions: the PUT leaves one.
                let doubled = active.next().is_some();
                let same = self.is_same(row, token, accepted, policy);
                if doubled || !same {
                    self.differs = true;
                    self.put.replaced.push(want.account.clone());
                }
            }
        }
    }

    /// An account whose new token does not exist yet keeps the one Layer has.
    fn keep_previous(&mut self, row: Option<&Listed>) {
        match row.map(|r| &r.token) {
            Some(Some(previous)) => self.put.tokens.push(previous.clone()),
            Some(None) => self.hidden += 1,
            None => {}
        }
    }

    fn is_same(&mut self, row: &Listed, token: &Fingerprint, accepted: &Accepted, policy: &Policy) -> bool {
        match &row.token {
            Some(shown) => shown == token,
            // The list shows the account but not which token: only our own last accepted PUT tells.
            None => {
                self.verified = false;
                let accepted = accepted.contains(token);
                self.resends |= accepted && policy.resend;
                accepted
            }
        }
    }

    /// Decides on one active row that the wanted accounts did not ask for.
    fn row(&mut self, row: &Listed, wanted: &[Wanted], policy: &Policy) {
        match &row.ours {
            Some(ours) if wanted.iter().any(|w| w.account == ours.account) => {}
            Some(ours) => {
                self.differs = true;
                self.put.removed.push(ours.account.clone());
                if !ours.may_leave {
                    self.unproved.push(ours.account.clone());
                }
            }
            None => self.stranger(row, policy),
        }
    }

    /// A token nobody here knows is never silently removed.
    fn stranger(&mut self, row: &Listed, policy: &Policy) {
        match (&row.token, row.word, policy.unknown) {
            (None, ..) => self.hidden += 1,
            (Some(token), Some(TokenWord::Remove), _) => {
                self.differs = true;
                self.put.discarded.push(token.clone());
            }
            (Some(token), word, unknown) => {
                if word.is_none() && unknown == UnknownPolicy::Refuse {
                    self.unknown.push(token.clone());
                }
                self.put.tokens.push(token.clone());
            }
        }
    }

    fn finish(mut self, wanted: &[Wanted], policy: &Policy, permit: Option<&Permit>) -> Plan {
        if !self.unknown.is_empty() {
            let hold = Hold::UnknownTokens { tokens: std::mem::take(&mut self.unknown) };
            if !hold.is_permitted(permit) {
                return Plan::Hold(hold);
            }
        }
        self.put.resent = self.resends && !self.differs;
        if !self.differs && !self.resends {
            let Put { left_out, archived, .. } = self.put;
            return Plan::Converged { verified: self.verified, left_out, archived };
        }
        // Whatever was permitted before it was ordered.
        if let Some(why) = policy.kept_back.clone() {
            return Plan::Hold(Hold::Operator { why });
        }
        if self.hidden > 0 {
            return Plan::Hold(Hold::Hidden { count: self.hidden });
        }
        let takes_nothing_off = self.put.removed.is_empty() && self.put.discarded.is_empty();
        if self.put.tokens.is_empty() && takes_nothing_off && self.put.left_out.len() == wanted.len() {
            return Plan::Wait { left_out: self.put.left_out };
        }
        let guard = self.guard(wanted, policy);
        if let Some(hold) = guard.filter(|hold| !hold.is_permitted(permit)) {
            return Plan::Hold(hold);
        }
        let mut seen = HashSet::new();
        self.put.tokens.retain(|t| seen.insert(t.clone()));
        Plan::Put(self.put)
    }

    /// What speaks against what the list would lose.
    fn guard(&self, wanted: &[Wanted], policy: &Policy) -> Option<Hold> {
        // Empty is right only when everything that is listed may leave and nothing is wanted any more.
        let proved_empty = wanted.is_empty() && self.unproved.is_empty();
        if self.put.tokens.is_empty() && !proved_empty {
            let Put { removed, left_out, archived, discarded, .. } = &self.put;
            let accounts = removed.iter().chain(left_out).chain(archived).cloned().collect();
            return Some(Hold::Empty { accounts, discarded: discarded.clone() });
        }
        let shrinks = self.unproved.len() > policy.max_unproved_removals;
        shrinks.then(|| Hold::Shrink { without_proof: self.unproved.clone() })
    }
}

impl Listed {
    fn is_about(&self, account: &AccountId) -> bool {
        self.ours.as_ref().is_some_and(|o| o.account == *account)
    }
}

/// A row that we had got accepted and that somebody archived since. Sending its token again would fight that person.
fn archived_by_somebody<'a>(
    mut rows: impl Iterator<Item = &'a Listed>,
    want: &Wanted,
    accepted: &Accepted,
    policy: &Policy,
) -> bool {
    let Some(token) = want.token.as_ref().filter(|token| accepted.contains(*token)) else { return false };
    // An archived row of an older token is only Layer's way to keep history after a swap or a removal, and one of a dead token may be
    // Layer's way to skip it.
    let is_archived = |row: &Listed| {
        row.status == RowStatus::Archived && row.token.as_ref().is_none_or(|t| t == token) && !want.older_generation
    };
    // Whether its row is still shown or not: the list that left it out may have taken that away.
    let was_before = policy.archived_before.contains(&want.account);
    policy.archived == ArchivedPolicy::LeaveOut && (was_before || policy.read_back && rows.any(is_archived))
}

/// What the list says after a PUT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verification {
    /// Exactly what was sent.
    Applied,
    /// What stood there before: not applied, or the list lags.
    Unchanged,
    /// Neither the old nor the new: somebody else writes, or Layer applied a part.
    Foreign,
    /// Layer does not show enough to tell.
    Unverifiable,
}

/// Compares the tokens that Layer now shows as active with what was sent and with what stood there before. Where it shows
/// none, the accounts that came or went at least tell that a list was not applied.
pub fn verify(put: &Put, before: &[Listed], after: &[Listed]) -> Verification {
    let is_active = |account: &AccountId| after.iter().any(|r| r.status.is_row() && r.is_about(account));
    let tokens = |rows: &[Listed]| -> Option<HashSet<Fingerprint>> {
        rows.iter().filter(|r| r.status.is_row() && !r.layer_owned).map(|r| r.token.clone()).collect()
    };
    let sent: HashSet<Fingerprint> = put.tokens.iter().cloned().collect();
    match tokens(after) {
        None if put.removed.iter().any(is_active) || !put.added.iter().all(is_active) => Verification::Unchanged,
        None => Verification::Unverifiable,
        Some(after) if after == sent => Verification::Applied,
        Some(after) if tokens(before).is_some_and(|b| b == after) => Verification::Unchanged,
        Some(_) => Verification::Foreign,
    }
}

#[cfg(test)]
#[path = "token_list_tests.rs"]
mod tests;
