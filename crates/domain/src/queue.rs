//! The rules of the work queue: what an event, a claim, the end of a reconciliation and a release make of a row.
//!
//! There is one row per Item and one per business. `wanted` grows with every event, and `done` becomes the `wanted` that a
//! finished reconciliation had started from, so an event that arrives meanwhile is never lost with its end. A claim raises
//! `epoch`, and a commit under an older one writes nothing. The store locks, loads and saves rows. It decides only what a
//! statement about many rows does, such as a pause or a sweep, and what the renewal of a lease changes.

use crate::budget::{Call, PROMOTION};
use crate::permit::{Objection, Permit};
use crate::work::{Block, Class, Subject};
use crate::{Millis, Provider};
use std::time::Duration;

/// How many times [`Mark::debounce`] a row gathers events at most, counted from its last reconciliation.
const LONGEST_GATHERING: u32 = 10;

/// Why a row does not go on by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocked {
    /// Who or what has to act.
    pub by: Block,
    /// A word for metrics and scripts.
    pub code: String,
    /// What happened and what a person can do.
    pub why: String,
    /// What a release would permit. Empty: no guard spoke that can be overruled.
    pub objection: Objection,
}

impl Blocked {
    /// By something that no release overrules.
    pub fn new(by: Block, code: impl Into<String>, why: impl Into<String>) -> Self {
        Self { by, code: code.into(), why: why.into(), objection: Objection::default() }
    }
}

/// One row. Times are database time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// What it is about.
    pub subject: Subject,
    /// None: it rests until an event comes.
    pub due_at: Option<Millis>,
    /// Who goes first when provider calls are scarce.
    pub class: Class,
    /// What made it due, in words.
    pub reason: String,
    /// How many events there were.
    pub wanted: i64,
    /// How many of them are served.
    pub done: i64,
    /// The `wanted` of the last event that clears a block.
    pub unblocked: i64,
    /// Reconciliations in a row that failed.
    pub attempts: u32,
    /// None: no worker holds it.
    pub lease: Option<Lease>,
    /// Raised by each claim; a commit under an older one writes nothing.
    pub epoch: i64,
    /// From a claim to its end: a claim that finds it set takes over from a worker that never gave the row back.
    pub held: bool,
    /// What an earlier holder sent may still be on its way.
    pub taken_over: Option<Millis>,
    /// None: it goes on by itself when it is due.
    pub blocked: Option<Blocked>,
    /// Since when something blocks it.
    pub blocked_at: Option<Millis>,
    /// Since when it is this that blocks it, in these words.
    pub said_at: Option<Millis>,
    /// An operator allows, once, what a guard held back.
    pub permit: Option<Permit>,
    /// When the oldest event came that no reconciliation has served.
    pub signal_at: Option<Millis>,
    /// When the last reconciliation began.
    pub looked_at: Option<Millis>,
    /// The call that the next reconciliation needs budget for before it begins.
    pub needs: Option<Call>,
    /// Not before this time, whatever comes: Plaid limits calls per Item.
    pub next_look: Option<Millis>,
    /// The W3C trace of what made it due.
    pub traceparent: Option<String>,
}

/// No other worker may claim the row before it ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The worker, by a name that no other process has.
    pub owner: String,
    /// When it ends, if it is not renewed.
    pub until: Millis,
}

/// An event that makes a row due.
#[derive(Debug, Clone)]
pub struct Mark<'a> {
    /// What it is about.
    pub subject: Subject,
    /// How urgent it is.
    pub class: Class,
    /// What happened, in words.
    pub reason: &'a str,
    /// Events that come closer together than this share a reconciliation. The first one does not wait for others.
    pub debounce: Duration,
    /// At most one reconciliation in this time, counted from the last one. An event with one can't have touched a token.
    pub quiet: Option<Duration>,
    /// Clears backoff and parking.
    pub unblocks: bool,
    /// When the event arrived that this one follows from; now, if none.
    pub since: Option<Millis>,
    /// The W3C trace of the event.
    pub traceparent: Option<&'a str>,
}

impl<'a> Mark<'a> {
    /// One that may be looked at at once and clears no block.
    pub fn new(subject: impl Into<Subject>, class: Class, reason: &'a str) -> Self {
        let (subject, debounce) = (subject.into(), Duration::ZERO);
        Self { subject, class, reason, debounce, quiet: None, unblocks: false, since: None, traceparent: None }
    }
}

/// Who claims a row, and until when.
#[derive(Debug, Clone, Copy)]
pub struct Claimant<'a> {
    /// The worker, by a name that no other process has.
    pub owner: &'a str,
    /// How long it may work before it renews.
    pub lease: Duration,
    /// The time between two reconciliations of one Item, so that Plaid's limit per Item holds.
    pub each: Duration,
    /// How much of that a row that rests may save up: so many reconciliations may then begin at once.
    pub saved: Duration,
}

/// How a reconciliation ended.
#[derive(Debug, Clone)]
pub struct Finish {
    /// When to reconcile again if nothing happens until then.
    pub again_after: Duration,
    /// How urgent the next reconciliation is, unless an event of meanwhile is more so.
    pub class: Class,
    /// None: the reconciliation reached its end.
    pub blocked: Option<Blocked>,
    /// A take-over is not settled by this reconciliation: what the holder before sent may arrive after it.
    pub owes_another: bool,
    /// Parked for a refusal that may be the provider's: not parked but paused, if by now this many rows agree.
    pub unless_agreed: Option<(Provider, u64)>,
    /// The reconciliation did what it had budget for, and goes on where there is budget for this call.
    pub unfinished: Option<Call>,
    /// The reconciliation came to its end, and still saw something that speaks against its provider.
    pub suspicious: bool,
}

impl Finish {
    /// The reconciliation reached its end; the next one is due in `again_after` if nothing happens until then.
    pub fn done(again_after: Duration, class: Class) -> Self {
        Self {
            again_after,
            class,
            blocked: None,
            owes_another: false,
            unless_agreed: None,
            unfinished: None,
            suspicious: false,
        }
    }

    /// Something keeps it from its end; it is tried again in `again_after`, or waits for a person.
    pub fn blocked(again_after: Duration, class: Class, blocked: Blocked) -> Self {
        Self { blocked: Some(blocked), ..Self::done(again_after, class) }
    }

    /// It goes on when there is budget for `needs`.
    pub fn unfinished(again_after: Duration, class: Class, needs: Call) -> Self {
        Self { unfinished: Some(needs), ..Self::done(again_after, class) }
    }

    /// Everything was done that the events before it asked for.
    fn is_complete(&self) -> bool {
        self.blocked.is_none() && self.unfinished.is_none()
    }

    pub(crate) fn is_blocked_by(&self, any: &[Block]) -> bool {
        self.blocked.as_ref().is_some_and(|b| any.contains(&b.by))
    }
}

impl Row {
    /// A row of which no event has told yet. Epochs begin at the clock's milliseconds: a row that was erased and comes again is
    /// then ahead of every earlier claim, because nobody claims a row once a millisecond. A count from 0 would take an old
    /// holder for the new one.
    pub fn new(subject: Subject, now: Millis) -> Self {
        Self {
            subject,
            due_at: None,
            class: Class::Sweep,
            reason: String::new(),
            wanted: 0,
            done: 0,
            unblocked: 0,
            attempts: 0,
            lease: None,
            epoch: now.0,
            held: false,
            taken_over: None,
            blocked: None,
            blocked_at: None,
            said_at: None,
            permit: None,
            signal_at: None,
            looked_at: None,
            needs: None,
            next_look: None,
            traceparent: None,
        }
    }

    /// An event came. True: it changes how the row stands, as only the first signal does and what clears a block.
    pub fn mark(&mut self, mark: &Mark<'_>, now: Millis) -> bool {
        let frees = mark.unblocks && self.blocked.is_some();
        self.wanted += 1;
        if mark.class <= self.class {
            self.class = mark.class;
            mark.reason.clone_into(&mut self.reason);
            self.traceparent = mark.traceparent.map(str::to_owned);
        }
        let waits = matches!(self.blocked.as_ref().map(|b| b.by), Some(Block::Backoff | Block::Parked));
        if mark.unblocks || !waits {
            self.bring_forward(mark, now);
        }
        if mark.unblocks {
            self.unblocked = self.wanted;
            self.attempts = 0;
            self.unblock();
        }
        // An event that can't have touched a token does not start the clock: a rotation hours later would seem to have
        // taken as long.
        let signal = mark.since.or_else(|| mark.quiet.is_none().then_some(now));
        let is_first = self.signal_at.is_none() && signal.is_some();
        self.signal_at = self.signal_at.or(signal);
        is_first || frees
    }

    fn bring_forward(&mut self, mark: &Mark<'_>, now: Millis) {
        let rested = |pause: Duration| self.looked_at.map_or(now, |at| at.plus(pause).max(now));
        if mark.quiet.is_none() && self.gathers(mark.debounce, now) {
            // As long as events keep coming, but not for ever.
            let longest = rested(mark.debounce * LONGEST_GATHERING);
            self.due_at = self.due_at.max(Some(now.plus(mark.debounce).min(longest)));
        } else {
            let at = rested(mark.quiet.unwrap_or_default().max(mark.debounce));
            self.due_at = Some(self.due_at.map_or(at, |due| due.min(at)));
        }
    }

    /// An event waits already for others to come.
    fn gathers(&self, debounce: Duration, now: Millis) -> bool {
        let is_brought_forward =
            self.lease.as_ref().is_none_or(|lease| self.due_at.is_some_and(|due| due < lease.until));
        self.wanted > self.done + 1
            && is_brought_forward
            && self.blocked.is_none()
            && self.needs.is_none()
            && self.due_at.is_some_and(|due| due > now && due <= now.plus(debounce))
    }

    fn unblock(&mut self) {
        (self.blocked, self.blocked_at, self.said_at) = (None, None, None);
    }

    /// An operator releases it: due at once, in this class at least, and one permit for what a guard held back. False: nothing kept it.
    pub fn release(&mut self, class: Class, now: Millis) -> bool {
        let Some(blocked) = self.blocked.take() else { return false };
        self.wanted += 1;
        self.unblocked = self.wanted;
        self.attempts = 0;
        self.unblock();
        (self.due_at, self.permit) = (Some(now), Some(Permit(blocked.objection)));
        // One of many does not hold up what is more urgent for another reason.
        if class <= self.class {
            self.class = class;
            "released by an operator".clone_into(&mut self.reason);
        }
        self.signal_at = self.signal_at.or(Some(now));
        true
    }

    /// How urgent it is by now: one class higher for each [`PROMOTION`] that it has been due, but never as a person.
    pub fn urgency(&self, now: Millis) -> Class {
        let waited = self.due_at.map_or(Duration::ZERO, |due| now.since(due));
        let steps = i64::try_from(waited.as_millis() / PROMOTION.as_millis()).unwrap_or(i64::MAX);
        match self.class {
            Class::Person => Class::Person,
            class => Class::from_rank(class.rank().saturating_sub(steps).max(Class::Rotation.rank())),
        }
    }

    /// A worker may claim it, if its provider is not paused.
    pub fn is_due(&self, now: Millis) -> bool {
        let has_passed = |at: Option<Millis>| at.is_some_and(|at| at <= now);
        has_passed(self.due_at) && self.lease.as_ref().is_none_or(|lease| lease.until <= now)
    }

    /// A worker takes it.
    pub fn claim(&mut self, by: &Claimant<'_>, now: Millis) {
        let until = now.plus(by.lease);
        self.epoch += 1;
        self.lease = Some(Lease { owner: by.owner.to_owned(), until });
        // Due again when the lease ends: a worker that dies gives the row back with that.
        self.due_at = Some(until);
        self.looked_at = Some(now);
        if self.held {
            self.taken_over = Some(now);
        }
        self.held = true;
        let earliest = now.minus(by.saved);
        self.next_look = Some(self.next_look.unwrap_or(earliest).max(earliest).plus(by.each));
    }

    /// The reconciliation that began when `wanted` was `served` has ended. `permit`: what it had.
    pub fn end(&mut self, served: i64, permit: Option<&Permit>, finish: &Finish, now: Millis) {
        let again = now.plus(finish.again_after);
        let (newer, freed) = (self.wanted > served, self.unblocked > served);
        let lease = self.lease.take();
        self.held = false;
        if finish.is_complete() {
            self.done = served;
            // A take-over that failed still owes the later reconciliation.
            if !finish.owes_another {
                self.taken_over = None;
            }
            // Who wants a reconciliation soon has brought the row forward; webhooks that can't touch a token have not.
            let wants_soon = newer && self.due_at.zip(lease).is_some_and(|(due, lease)| due < lease.until);
            self.signal_at = wants_soon.then_some(now);
            if !newer {
                // The next reconciliation is the sweep's and none of this trace.
                self.traceparent = None;
            }
        }
        // One that was given meanwhile is for the next reconciliation.
        let spent = permit.filter(|_| Permit::is_spent_by(finish));
        if spent.is_some() && self.permit.as_ref() == spent {
            self.permit = None;
        }
        if finish.unfinished.is_none() {
            self.attempts = if finish.blocked.is_none() || freed { 0 } else { self.attempts.saturating_add(1) };
            if !newer {
                self.reason = match &finish.blocked {
                    None => "sweep".to_owned(),
                    Some(blocked) => format!("retry: {}", blocked.code),
                };
            }
        }
        self.class = if newer { self.class.min(finish.class) } else { finish.class };
        // Such a block outlasts the events that came during the reconciliation, unless one of them clears it.
        let lasts = finish.is_blocked_by(&[Block::Backoff, Block::Pause, Block::Parked]) && !freed;
        let earlier = self.due_at.filter(|due| newer && !lasts && *due < again);
        self.due_at = Some(earlier.unwrap_or(again));
        self.needs = finish.unfinished;
        match &finish.blocked {
            Some(blocked) if !freed => {
                self.blocked_at = self.blocked_at.or(Some(now));
                let mut blocked = blocked.clone();
                if let Some(spent) = spent.filter(|_| !blocked.objection.is_empty()) {
                    blocked.objection.join(spent);
                }
                if self.blocked.as_ref() != Some(&blocked) {
                    self.said_at = Some(now);
                }
                self.blocked = Some(blocked);
            }
            _ => self.unblock(),
        }
    }

    /// An event waits to be served, and no reconciliation has come to an end or given up since that time. What only fails for a
    /// while is still waited for, and so is a reconciliation that was cut short; webhooks that can't touch a token are not.
    pub fn awaits_reconciliation(&self, since: Millis, now: Millis) -> bool {
        let soon = now.plus(Duration::from_secs(10));
        let looked_at = self.looked_at.is_some_and(|at| at > since) && self.due_at.is_none_or(|at| at > soon);
        match self.blocked.as_ref().map(|b| b.by) {
            None => self.lease.is_some() || self.wanted > self.done && !looked_at,
            Some(Block::Backoff | Block::Pause) => self.wanted > self.done,
            Some(Block::Hold | Block::Parked) => false,
        }
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
