//! How the reconciliation of an Item ends: facts in, everything that is to be written out (I4, I8). Nothing here asks a
//! provider, reads the store or writes to it.

use super::report::{Report, word};
use super::{AccountChange, Fault, Found, NewState};
use domain::accounts::{AccountState, Change, Proof};
use domain::item::{Cause, ItemState};
use domain::queue::{Blocked, Finish};
use domain::work::{Block, Class, HintKind};
use domain::{AccountId, BusinessId, ItemId, Millis};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use store::{AccountRow, AccountUpdate, BusinessMark, Hint, ItemRow, MintFault};

/// A business with an account of the Item, or one that an account of it is leaving.
#[derive(Debug, Clone)]
pub(super) struct List {
    pub(super) business: BusinessId,
    /// It was found at Layer, so it may have a list there.
    pub(super) is_at_layer: bool,
    /// The last accepted list lacks a live token of the Item.
    pub(super) is_behind: bool,
}

/// What the end is decided from, as the store holds it under the locks of the last transaction.
pub(super) struct Facts<'a> {
    pub(super) item: &'a ItemRow,
    /// What this reconciliation found.
    pub(super) found: &'a Found,
    /// How urgent it was.
    pub(super) class: Class,
    pub(super) known: Vec<AccountRow>,
    /// The newest generation of each account's live tokens. Tokens that were minted by one that was cut short count as well.
    pub(super) live: Vec<(AccountId, i64)>,
    pub(super) hints: Vec<Hint>,
    pub(super) lists: Vec<List>,
    /// Businesses of the Item that this one replaces.
    pub(super) replaced: Vec<BusinessId>,
    /// What blocked the row until now.
    pub(super) blocked: Option<Blocked>,
    pub(super) now: Millis,
}

/// The settings that matter here, and the waits, which are drawn.
pub(super) struct Rules<'a> {
    pub(super) observes: bool,
    /// There is a token source that can be asked again.
    pub(super) can_look_up: bool,
    pub(super) gone_after: Duration,
    pub(super) debounce: Box<dyn Fn(Class) -> Duration + 'a>,
    pub(super) awaiting_token_poll: Duration,
    /// The end when nothing is left to do.
    pub(super) done: Finish,
    /// The end while the platform's database does not name the new token yet.
    pub(super) awaiting: Finish,
    /// How long a refused mint waits after so many tries.
    pub(super) refused: Box<dyn Fn(u32) -> Duration + 'a>,
}

/// The end: what is written, told, and due.
#[derive(Debug)]
pub(super) struct End {
    pub(super) state: Option<(ItemState, Option<Cause>, Option<String>)>,
    pub(super) was_read: bool,
    pub(super) accounts: Vec<AccountUpdate>,
    /// Accounts that keep their business although the push named another id.
    pub(super) inherits: Vec<(AccountId, BusinessId)>,
    /// Refusals that begin, go on, or are over.
    pub(super) mint_faults: Vec<(AccountId, Option<MintFault>)>,
    /// The Item that leaves because this one is complete.
    pub(super) retires: Option<ItemId>,
    pub(super) settled_hints: Vec<Hint>,
    pub(super) reported_hints: Vec<Hint>,
    /// With the businesses that each concerns.
    pub(super) reports: Vec<(Report, Vec<BusinessId>)>,
    pub(super) marks: Vec<BusinessMark>,
    pub(super) finish: Finish,
}

impl End {
    pub(super) fn of(facts: &Facts<'_>, rules: &Rules<'_>) -> Self {
        let mut draft = Draft { facts, rules, touched: BTreeSet::new(), reports: Vec::new() };
        let state = draft.state();
        let tokenless = facts.tokenless();
        let settled = facts.found.accounts.iter().filter(|c| !facts.waits_for_heir(c, &tokenless));
        let accounts: Vec<AccountUpdate> = settled.clone().map(|c| draft.account(c)).collect();
        let inherits = settled.filter_map(|c| facts.inherits(c)).collect();
        let mint_faults = draft.mint_faults();
        let retires = if tokenless.is_empty() { draft.retires() } else { None };
        let settled_hints = facts.settled_hints(rules);
        let reported_hints = draft.announcements();
        if !facts.found.would_mint.is_empty() {
            draft.report(Report::WouldMint(facts.found.would_mint.clone()));
        }
        let finish = facts.finish(rules, &accounts, &mint_faults, &settled_hints);
        draft.parked(&finish);
        Self {
            state,
            was_read: facts.found.read,
            accounts,
            inherits,
            mint_faults,
            retires,
            settled_hints,
            reported_hints,
            marks: draft.marks(),
            reports: draft.reports,
            finish,
        }
    }

    /// Something has changed besides whether a list was sent.
    pub(super) fn changed(&self) -> bool {
        self.marks.iter().any(|m| m.changed)
    }
}

/// What builds up while the end is decided.
struct Draft<'a> {
    facts: &'a Facts<'a>,
    rules: &'a Rules<'a>,
    /// Businesses whose truth changed.
    touched: BTreeSet<BusinessId>,
    reports: Vec<(Report, Vec<BusinessId>)>,
}

impl Draft<'_> {
    /// To every business of the Item, those that an account joins now included.
    fn report(&mut self, report: Report) {
        let joined = self.facts.found.accounts.iter().filter_map(|c| c.business.clone());
        let all: BTreeSet<BusinessId> = self.facts.businesses().chain(joined).collect();
        self.reports.push((report, all.into_iter().collect()));
    }

    fn state(&mut self) -> Option<(ItemState, Option<Cause>, Option<String>)> {
        let NewState { state, cause, why } = self.facts.found.state.as_ref()?;
        let (from, to) = (self.facts.item.state, *state);
        if from != to {
            let why = why.clone().or_else(|| cause.map(|c| c.sentence().to_owned()));
            let businesses: Vec<_> = self.facts.businesses().collect();
            self.touched.extend(businesses.iter().cloned());
            self.reports.push((Report::State { from, to, why }, businesses));
        }
        Some((*state, *cause, why.clone()))
    }

    fn account(&mut self, change: &AccountChange) -> AccountUpdate {
        let known = self.facts.known(&change.id);
        let settled = &change.settled;
        let (state, missing_since, proof, outside) = match &settled.change {
            Change::Joined { .. } | Change::Present | Change::Moved { .. } => (AccountState::Active, None, None, None),
            Change::Outside(why) => (AccountState::Active, None, None, Some(*why)),
            Change::Missing { since, .. } => (AccountState::Active, Some(*since), None, None),
            Change::Gone { state, proof } => {
                let before = known.filter(|k| k.state != AccountState::Active).and_then(|k| k.proof);
                (*state, known.and_then(|k| k.missing_since), Some(before.unwrap_or(*proof)), None)
            }
        };
        let before = known.and_then(|k| k.business.clone());
        let changed = known.is_none_or(|k| {
            k.state != state || k.business != change.business || k.missing_since.is_some() != missing_since.is_some()
        });
        let concerned: BTreeSet<BusinessId> = before.iter().chain(&change.business).cloned().collect();
        if changed && !concerned.is_empty() {
            self.touched.extend(concerned.iter().cloned());
            let (account, change) = (change.id.clone(), word(&settled.change));
            let report = Report::Account { account, change, proof, outside };
            self.reports.push((report, concerned.into_iter().collect()));
        }
        let moving_from = known.and_then(|k| {
            let at_layer = before.as_ref().is_some_and(|b| self.facts.is_at_layer(b));
            k.membership(self.facts.item.state).leaves_for(change.business.as_ref(), at_layer).cloned()
        });
        let (id, traits, business) = (change.id.clone(), settled.traits.clone(), change.business.clone());
        let item = self.facts.item.id.clone();
        AccountUpdate { item, id, traits, state, business, before, moving_from, missing_since, proof, outside }
    }

    fn mint_faults(&mut self) -> Vec<(AccountId, Option<MintFault>)> {
        let facts = self.facts;
        let mut writes: BTreeMap<AccountId, Option<MintFault>> = BTreeMap::new();
        for account in facts.found.minted.iter().chain(&facts.found.adopted) {
            let of = facts.found.accounts.iter().filter(|a| a.id == *account);
            self.touched.extend(of.filter_map(|a| a.business.clone()));
            writes.insert(account.clone(), None);
        }
        // Minted by one that died before it could say so.
        for account in facts.known.iter().filter(|a| a.mint_fault.is_some() && facts.is_live(&a.id)) {
            writes.insert(account.id.clone(), None);
        }
        let generation = facts.item.generation;
        for Fault { account, refused, code, why } in &facts.found.faults {
            let before = facts.known(account).and_then(|a| a.mint_fault.as_ref());
            let same = before.filter(|f| f.generation == generation && f.code == *code);
            let tries = same.map_or(0, |f| f.tries).saturating_add(1);
            let again_at = facts.now.plus((self.rules.refused)(tries));
            let (refused, code, why) = (*refused, code.clone(), why.clone());
            let fault = MintFault { refused, code, why, generation, tries, again_at };
            // Told when it began.
            if same.is_none() {
                self.report(Report::NotMinted { account: account.clone(), fault: fault.clone() });
            }
            writes.insert(account.clone(), Some(fault));
        }
        writes.into_iter().collect()
    }

    /// A re-linked Item takes the place of the old one once every account has its token, so that both happen in one PUT.
    fn retires(&mut self) -> Option<ItemId> {
        let (facts, found) = (self.facts, self.facts.found);
        let old = facts.item.replaces.clone()?;
        let is_complete = !found.accounts.is_empty() && found.finish.is_none() && found.faults.is_empty();
        let is_active = found.state.as_ref().is_some_and(|s| s.state == ItemState::Active);
        if !is_complete || !is_active || self.rules.observes {
            return None;
        }
        self.touched.extend(facts.replaced.iter().cloned());
        self.reports.push((Report::Replaced(old.clone()), Vec::new()));
        Some(old)
    }

    /// Plaid announced that access will end: said once per announcement.
    fn announcements(&mut self) -> Vec<Hint> {
        let ends = [HintKind::PendingDisconnect, HintKind::PendingExpiration];
        let new: Vec<Hint> =
            self.facts.hints.iter().filter(|h| ends.contains(&h.kind) && !h.reported).cloned().collect();
        for hint in &new {
            self.report(Report::Ends { kind: hint.kind, at: hint.detail.clone() });
        }
        new
    }

    fn parked(&mut self, finish: &Finish) {
        let Some(blocked) = finish.blocked.as_ref().filter(|b| b.by == Block::Parked) else { return };
        let before = self.facts.blocked.as_ref();
        // The sweep found it as it was: said once is enough.
        if before.is_none_or(|b| b.by != Block::Parked || b.code != blocked.code) {
            self.report(Report::Parked(blocked.clone()));
        }
    }

    /// The business of an Item that is linked for the first time is at least as urgent as a new account.
    fn marks(&self) -> Vec<BusinessMark> {
        let facts = self.facts;
        let class = if facts.item.generation > 1 { facts.class } else { facts.class.min(Class::NewAccount) };
        // Items of one business that change together become one PUT.
        let debounce = (self.rules.debounce)(class);
        let behind = facts.lists.iter().filter(|l| l.is_behind).map(|l| l.business.clone());
        let due: BTreeSet<BusinessId> = self.touched.iter().cloned().chain(behind).collect();
        let mark = |business: BusinessId| {
            let changed = self.touched.contains(&business);
            BusinessMark { business, class, debounce, changed }
        };
        due.into_iter().map(mark).collect()
    }
}

impl Facts<'_> {
    fn known(&self, id: &AccountId) -> Option<&AccountRow> {
        self.known.iter().find(|k| k.id == *id)
    }

    fn businesses(&self) -> impl Iterator<Item = BusinessId> {
        self.lists.iter().map(|l| l.business.clone())
    }

    fn is_at_layer(&self, business: &BusinessId) -> bool {
        self.lists.iter().any(|l| l.business == *business && l.is_at_layer)
    }

    fn is_live(&self, id: &AccountId) -> bool {
        self.live.iter().any(|(account, generation)| account == id && *generation >= self.item.generation)
    }

    /// Accounts that take part and have no live token of this generation.
    fn tokenless(&self) -> BTreeSet<AccountId> {
        let takes_part = self.found.accounts.iter().filter(|a| a.business.is_some() && a.settled.change.is_present());
        takes_part.filter(|a| !self.is_live(&a.id)).map(|a| a.id.clone()).collect()
    }

    /// A re-numbered account leaves in the PUT in which its successor enters. While a new one has no token yet, both
    /// are left as they were, and the next reconciliation settles them again.
    fn waits_for_heir(&self, change: &AccountChange, tokenless: &BTreeSet<AccountId>) -> bool {
        let renumbered = |c: &AccountChange| matches!(c.settled.change, Change::Gone { proof: Proof::Renumbered, .. });
        let newcomer_waits = |c: &AccountChange| self.known(&c.id).is_none() && tokenless.contains(&c.id);
        let accounts = &self.found.accounts;
        accounts.iter().any(renumbered)
            && accounts.iter().any(newcomer_waits)
            && (renumbered(change) || newcomer_waits(change))
    }

    /// A re-numbered account keeps its business even where the push named the old id.
    fn inherits(&self, change: &AccountChange) -> Option<(AccountId, BusinessId)> {
        let Change::Joined { business } = &change.settled.change else { return None };
        let is_said = !self.item.only_listed && self.item.business.as_ref() == Some(business);
        (self.known(&change.id).is_none() && !is_said).then(|| (change.id.clone(), business.clone()))
    }

    /// A hint is judged when its account is gone, or when Plaid still shows what it denied a while after it was said.
    fn settled_hints(&self, rules: &Rules<'_>) -> Vec<Hint> {
        let is_there = |s: &NewState| matches!(s.state, ItemState::Active | ItemState::LoginRequired);
        if !self.found.state.as_ref().is_some_and(is_there) || !self.found.read {
            return Vec::new();
        }
        let is_judged = |hint: &&Hint| {
            let gone = |a: &AccountChange| Some(&a.id) == hint.account.as_ref() && !a.settled.change.is_present();
            let late = self.now >= hint.said_at.plus(rules.gone_after);
            is_denial(hint.kind) && (late || self.found.accounts.iter().any(gone))
        };
        self.hints.iter().filter(is_judged).cloned().collect()
    }

    /// When to reconcile again.
    fn finish(
        &self,
        rules: &Rules<'_>,
        accounts: &[AccountUpdate],
        mint_faults: &[(AccountId, Option<MintFault>)],
        settled_hints: &[Hint],
    ) -> Finish {
        if let Some(finish) = &self.found.finish {
            return finish.clone();
        }
        let awaits = self.found.state.as_ref().is_some_and(|s| s.state == ItemState::AwaitingToken);
        let mut finish = if awaits && rules.can_look_up {
            // The platform's database is asked again until it names the new token, ever more slowly.
            let again_after = rules.awaiting.again_after.min(rules.awaiting_token_poll);
            Finish { again_after, ..rules.awaiting.clone() }
        } else {
            rules.done.clone()
        };
        let mint = self.next_mint(rules, accounts, mint_faults);
        // A mint that is still refused says no good word for its provider, asked for this time or not.
        finish.suspicious = self.found.suspicious || mint.is_some();
        if let Some(at) = self.next_proof(rules, settled_hints).into_iter().chain(mint).min() {
            let wait = at.since(self.now);
            if wait < finish.again_after {
                finish = Finish { again_after: wait, class: Class::Retry, ..finish };
            }
        }
        finish
    }

    /// When a mint that Plaid refuses is asked for again.
    fn next_mint(
        &self,
        rules: &Rules<'_>,
        accounts: &[AccountUpdate],
        mint_faults: &[(AccountId, Option<MintFault>)],
    ) -> Option<Millis> {
        let takes_part = |id: &AccountId| match accounts.iter().find(|a| a.id == *id) {
            Some(a) => a.business.is_some() && a.state == AccountState::Active,
            None => self.known(id).is_some_and(|k| k.business.is_some() && k.state == AccountState::Active),
        };
        let mut faults: BTreeMap<&AccountId, Option<&MintFault>> =
            self.known.iter().map(|k| (&k.id, k.mint_fault.as_ref())).collect();
        faults.extend(mint_faults.iter().map(|(id, fault)| (id, fault.as_ref())));
        let waiting = faults.into_iter().filter(|(id, _)| takes_part(id)).filter_map(|(_, fault)| fault);
        // This one could not ask for it although it was due. Due at once, it would be asked in a loop.
        let next = |f: &MintFault| match f.again_at > self.now {
            true => f.again_at,
            false => self.now.plus((rules.refused)(f.tries.max(1))),
        };
        waiting.filter(|f| f.generation == self.item.generation).map(next).min()
    }

    /// The moment at which a missing account may be proved gone, or a revocation that Plaid's cached list does not
    /// show yet may have reached it.
    fn next_proof(&self, rules: &Rules<'_>, settled_hints: &[Hint]) -> Option<Millis> {
        let missing = self.found.accounts.iter().filter_map(|a| match &a.settled.change {
            Change::Missing { again_at, .. } => Some(*again_at),
            _ => None,
        });
        let is_settled = |h: &Hint| settled_hints.iter().any(|s| s.kind == h.kind && s.account == h.account);
        let is_gone = |h: &Hint| {
            let gone = |a: &AccountChange| {
                Some(&a.id) == h.account.as_ref() && matches!(a.settled.change, Change::Gone { .. })
            };
            self.found.accounts.iter().any(gone)
        };
        let open = self.hints.iter().any(|h| is_denial(h.kind) && !is_settled(h) && !is_gone(h));
        let gone_item = self.found.state.as_ref().is_some_and(|s| s.state.is_gone());
        let hinted = (open && !gone_item).then(|| self.now.plus(rules.gone_after));
        missing.chain(hinted).min()
    }
}

/// It says that something is gone, and Plaid's list has to agree.
fn is_denial(kind: HintKind) -> bool {
    matches!(kind, HintKind::AccountRevoked | HintKind::PermissionRevoked)
}

#[cfg(test)]
#[path = "conclusion_tests.rs"]
mod tests;
