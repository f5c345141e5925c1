//! How a business or an Item stands (I11): one verdict, which everything that shows its state reads.
//!
//! A verdict is made from stored facts alone. It says which accounts are not right and why, and who acts next. Two rules:
//! what is not known is never shown as fine, and *converged* means that every account that belongs into the list stands
//! in it with a live token of the current generation, read back.

use crate::accounts::Outside;
use crate::item::ItemState;
use crate::queue::Blocked;
use crate::token_list::Accepted;
pub use crate::verdict_words::{Actor, Problem, State, WaitsOn};
use crate::work::Block;
use crate::{AccountId, BusinessId, Fingerprint, ItemId, Millis, Provider};
use std::collections::{BTreeMap, BTreeSet};

/// What the work queue says about a row.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WorkFacts {
    /// An event that may have changed something is not served yet.
    pub signalled: bool,
    pub blocked: Option<Blocked>,
    pub due_at: Option<Millis>,
}

impl WorkFacts {
    fn is(&self, by: Block) -> bool {
        self.blocked.as_ref().is_some_and(|b| b.by == by)
    }
    /// A pause is not the row's fault, and is told by [`State::under`].
    fn is_pending(&self) -> bool {
        self.signalled || self.is(Block::Backoff)
    }
    /// Something happened, and the row has not been looked at since. A pause makes no difference: it ends for all rows at once,
    /// and nobody judges them all again then.
    fn is_fresh(&self) -> bool {
        self.signalled && self.blocked.as_ref().is_none_or(|b| b.by == Block::Pause)
    }
    fn code(&self) -> Option<String> {
        self.blocked.as_ref().map(|b| b.code.clone())
    }
}

/// What is stored of an Item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ItemFacts {
    pub id: ItemId,
    pub state: ItemState,
    pub generation: i64,
    /// The business its accounts join when nothing else is said.
    pub business: Option<BusinessId>,
    /// Plaid said once that there is no such Item; asked again, it is believed.
    pub doubted: bool,
    pub work: WorkFacts,
    /// Accounts that take part and are not known to be gone.
    pub accounts: Vec<AccountFacts>,
    /// Accounts that Plaid shows and that take no part although nobody left them out.
    pub left_out: Vec<(AccountId, Outside)>,
    /// Whether the Item's accounts were ever read.
    pub was_read: bool,
}

/// What is stored of an account that takes part, or is leaving.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountFacts {
    pub id: AccountId,
    /// None: it leaves `moving_from` for no other.
    pub business: Option<BusinessId>,
    pub moving_from: Option<BusinessId>,
    /// The last read did not show it.
    pub missing: bool,
    /// Its newest live token and the generation that it was minted under.
    pub token: Option<(Fingerprint, i64)>,
    /// Why it has no token of the current generation.
    pub refusal: Option<MintRefusal>,
}

/// Why no token could be minted for an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MintRefusal {
    pub code: String,
    pub generation: i64,
    /// When it is asked for again, if nothing happens before.
    pub again_at: Millis,
}

/// What is stored of a business and of its Items.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BusinessFacts {
    pub id: BusinessId,
    /// The Items with an account in this business or leaving it, and those that belong to it and were not read yet.
    pub items: Vec<ItemFacts>,
    pub work: WorkFacts,
    /// Some list of it was accepted, or read, at some time.
    pub was_listed: bool,
    /// The last accepted list was read back.
    pub read_back: bool,
    /// Tokens of the last list that Layer accepted.
    pub accepted: Accepted,
    /// Accounts that the last read found archived, and that are left out for that.
    pub archived: BTreeSet<AccountId>,
}

/// One account that is not right, or an Item as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    pub item: ItemId,
    pub account: Option<AccountId>,
    pub problem: Problem,
    /// The provider's word or ours for the reason, where there is one.
    pub code: Option<String>,
    /// When Rekey tries again by itself.
    pub again_at: Option<Millis>,
}

/// The one answer to how a row stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub state: State,
    /// Which provider's pause would stop it.
    pub waits_on: WaitsOn,
    /// Who acts next.
    pub next: Actor,
    /// When Rekey acts, if it is Rekey's turn.
    pub next_at: Option<Millis>,
    /// Accounts that belong here, and how many of them are right.
    pub accounts: usize,
    /// How many of them are right.
    pub right: usize,
    /// The others, and Items as a whole.
    pub wrong: Vec<Wrong>,
    /// What keeps the row itself.
    pub blocked: Option<Blocked>,
}

impl Verdict {
    /// The same with what pauses make of it.
    #[must_use]
    pub fn under(mut self, paused: &[Provider]) -> Self {
        self.state = self.state.under(self.waits_on, paused);
        self
    }

    /// One line for a person.
    pub fn sentence(&self) -> String {
        if let Some(blocked) = self.blocked.as_ref().filter(|b| matches!(b.by, Block::Hold | Block::Parked)) {
            return blocked.why.clone();
        }
        let (right, all) = (self.right, self.accounts);
        let counted = format!("{right} of {} right", crate::counted(all, "account", "accounts"));
        let mut reasons: BTreeMap<Problem, usize> = BTreeMap::new();
        for wrong in &self.wrong {
            *reasons.entry(wrong.problem).or_default() += 1;
        }
        let reasons: Vec<String> = reasons.iter().map(|(p, n)| format!("{n}: {}", p.sentence())).collect();
        let blocked = self.blocked.as_ref().map(|b| b.why.clone());
        let told: Vec<String> = std::iter::once(counted).chain(reasons).chain(blocked).collect();
        told.join("; ")
    }
}

/// How a business stands.
pub fn of_business(facts: &BusinessFacts) -> Verdict {
    let mut wrong = Vec::new();
    let (mut accounts, mut right) = (0, 0);
    for item in facts.items.iter().filter(|i| !i.state.is_gone()) {
        let here = item.accounts.iter().filter(|a| a.concerns(&facts.id)).collect::<Vec<_>>();
        if here.is_empty() && !item.was_read && item.business.as_ref() == Some(&facts.id) {
            accounts += 1;
            wrong.push(item.as_a_whole());
        }
        if item.business.as_ref() == Some(&facts.id) {
            accounts += item.left_out.len();
            wrong.extend(item.wrong_left_out());
        }
        for account in here {
            accounts += 1;
            match account.wrong_in(item, facts) {
                Some(found) => wrong.push(found),
                None => right += 1,
            }
        }
    }
    let work = &facts.work;
    let lasting = wrong.iter().any(|w| !w.problem.is_pending());
    // What keeps the list from being sent while accounts can't be right is told by the accounts.
    let own_pending = work.is_pending() && !lasting || (accounts > 0 && !facts.was_listed && !lasting);
    let plaid = wrong.iter().any(|w| matches!(w.problem, Problem::ItemPending | Problem::NotMinted));
    let layer = own_pending || wrong.iter().any(|w| matches!(w.problem, Problem::NotListed | Problem::Moving));
    let pending = plaid || layer;
    let state = if work.is(Block::Parked) {
        State::Parked
    } else if work.is(Block::Hold) {
        State::Held
    } else if pending {
        State::Converging
    } else if let Some(state) = worst(&wrong, right) {
        state
    } else if accounts == 0 && !facts.was_listed {
        State::Empty
    } else if !facts.read_back {
        State::Unverified
    } else {
        State::Converged
    };
    Verdict::new(state, WaitsOn::of(plaid, layer), accounts, right, wrong, work)
}

/// How an Item stands.
pub fn of_item(item: &ItemFacts) -> Verdict {
    if item.state.is_gone() {
        return Verdict::new(State::Gone, WaitsOn::Nobody, 0, 0, Vec::new(), &WorkFacts::default());
    }
    let here: Vec<&AccountFacts> = item.accounts.iter().filter(|a| a.business.is_some()).collect();
    let mut wrong: Vec<Wrong> = here.iter().filter_map(|a| a.unminted(item)).collect();
    let right = here.len() - wrong.len();
    wrong.extend(item.wrong_left_out());
    let accounts = here.len() + item.left_out.len();
    if here.is_empty() && (!item.was_read || item.whole().is_some()) {
        wrong.push(item.as_a_whole());
    }
    let pending = wrong.iter().any(|w| w.problem.is_pending()) || item.work.is_pending() && wrong.is_empty();
    let state = match (pending, worst(&wrong, right)) {
        (true, _) => State::Converging,
        (false, Some(state)) => state,
        (false, None) if here.is_empty() => State::Empty,
        (false, None) => State::Converged,
    };
    Verdict::new(state, WaitsOn::of(pending, false), accounts, right, wrong, &item.work)
}

impl Verdict {
    fn new(
        state: State,
        waits_on: WaitsOn,
        accounts: usize,
        right: usize,
        wrong: Vec<Wrong>,
        work: &WorkFacts,
    ) -> Self {
        let next = match state {
            State::Converged | State::Empty | State::Gone => Actor::Nobody,
            State::Converging | State::Unverified | State::Unknown | State::ProviderPaused => Actor::Rekey,
            State::Held | State::Parked => Actor::Operator,
            State::Partly | State::Refused | State::AwaitingToken | State::WaitingForUser | State::Unassigned => {
                wrong.iter().map(|w| w.problem.actor()).max().unwrap_or(Actor::Rekey)
            }
        };
        let tries = wrong.iter().filter_map(|w| w.again_at).chain(work.due_at).min();
        let next_at = tries.filter(|_| next == Actor::Rekey);
        Self { state, waits_on, next, next_at, accounts, right, wrong, blocked: work.blocked.clone() }
    }
}

/// The state that lasting problems make; none while there is none.
fn worst(wrong: &[Wrong], right: usize) -> Option<State> {
    let worst = wrong.iter().map(|w| w.problem).max()?;
    Some(if right > 0 { State::Partly } else { worst.state() })
}

impl ItemFacts {
    /// Those whose verdict depends on it.
    pub fn businesses(&self) -> BTreeSet<&BusinessId> {
        let of_accounts = self.accounts.iter().flat_map(|a| [&a.business, &a.moving_from]);
        of_accounts.chain([&self.business]).flatten().collect()
    }

    /// What is wrong with all of its accounts at once.
    fn whole(&self) -> Option<Problem> {
        if self.work.is(Block::Parked) {
            Some(Problem::ItemParked)
        } else if self.work.is(Block::Hold) {
            Some(Problem::ItemHeld)
        } else if self.state == ItemState::AwaitingToken {
            Some(Problem::AwaitingToken)
        } else if self.state == ItemState::LoginRequired {
            Some(Problem::WaitsForUser)
        } else {
            None
        }
    }

    fn as_a_whole(&self) -> Wrong {
        let whole = self.whole().filter(|_| !self.work.is_fresh());
        self.wrong(None, whole.unwrap_or(Problem::ItemPending))
    }

    /// None of what an operator or the configuration left out on purpose.
    fn wrong_left_out(&self) -> impl Iterator<Item = Wrong> {
        let is_unsure = self.work.is_fresh() || self.work.is_pending() || self.doubted;
        self.left_out.iter().filter_map(move |(id, outside)| {
            let problem = match outside {
                Outside::Filtered | Outside::Late | Outside::Ineligible => return None,
                _ if is_unsure => Problem::ItemPending,
                Outside::Nowhere => self.whole().unwrap_or(Problem::Unassigned),
                Outside::Unreadable => self.whole().unwrap_or(Problem::Unreadable),
            };
            Some(Wrong { account: Some(id.clone()), ..self.wrong(None, problem) })
        })
    }

    fn wrong(&self, account: Option<&AccountFacts>, problem: Problem) -> Wrong {
        let refusal = account.and_then(|a| a.refusal.as_ref()).filter(|_| problem == Problem::MintRefused);
        let code = refusal.map(|r| r.code.clone()).or_else(|| self.work.code());
        let again_at = if problem.actor() == Actor::Rekey || problem == Problem::AwaitingToken {
            refusal.map(|r| r.again_at).or(self.work.due_at)
        } else {
            None
        };
        Wrong { item: self.id.clone(), account: account.map(|a| a.id.clone()), problem, code, again_at }
    }
}

impl AccountFacts {
    pub(crate) fn concerns(&self, business: &BusinessId) -> bool {
        self.business.as_ref() == Some(business) || self.moving_from.as_ref() == Some(business)
    }

    /// What keeps it from having a live token of the current generation, or from being sure of that.
    fn unminted(&self, item: &ItemFacts) -> Option<Wrong> {
        let is_current = self.token.as_ref().is_some_and(|(_, generation)| *generation >= item.generation);
        let refused = self.refusal.as_ref().is_some_and(|r| r.generation == item.generation);
        let problem = if item.work.is_fresh() {
            Problem::ItemPending
        } else if let Some(problem) = item.whole() {
            problem
        } else if item.work.is_pending() || item.doubted {
            Problem::ItemPending
        } else if is_current {
            return None;
        } else if refused {
            Problem::MintRefused
        } else if self.missing {
            Problem::Missing
        } else {
            Problem::NotMinted
        };
        Some(item.wrong(Some(self), problem))
    }

    fn wrong_in(&self, item: &ItemFacts, facts: &BusinessFacts) -> Option<Wrong> {
        if self.moving_from.is_some() {
            return Some(item.wrong(Some(self), Problem::Moving));
        }
        if let Some(found) = self.unminted(item) {
            return Some(found);
        }
        let listed = self.token.as_ref().is_some_and(|(token, _)| facts.accepted.contains(token));
        let problem = match (facts.archived.contains(&self.id), listed) {
            (true, _) => Problem::Archived,
            (false, false) => Problem::NotListed,
            (false, true) => return None,
        };
        Some(item.wrong(Some(self), problem))
    }
}

#[cfg(test)]
#[path = "verdict_tests.rs"]
mod tests;
