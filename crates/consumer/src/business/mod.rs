//! The business reconciler: one reconciliation of a business, until its list at Layer equals the truth.
//!
//! 1. Find the business at Layer, or create it when the push carried what that takes.
//! 2. Read the truth (which accounts, with which tokens) and the list at Layer.
//! 3. Plan. Nothing differs: done, without a PUT (I9). A guard objects: hold (I8).
//! 4. PUT the whole list while the lease outlasts the request (I7), then list again until it shows.
//! 5. Commit what was found, and the end of the reconciliation, in one transaction.

mod facts;
mod put;
pub(crate) mod resolve;

use crate::budget::Slot;
use crate::outcome::{self, kind};
use crate::reconcile::{Reconcile, Stop, is_unannounced};
use crate::refusals::{Refusal, backoff, conclude, done, parked};
use crate::{Context, Mode, budget, leases, steps};
use domain::budget::Call;
use domain::counted;
use domain::fault::chain;
use domain::hold::Hold;
use domain::metric;
use domain::queue::{Blocked, Finish, Mark};
use domain::time::millis;
use domain::token_list::{LeaveOut, Plan, Put, Shown, plan};
use domain::work::{Block, Class, Code, Subject};
use domain::{AccountId, BusinessId, Endpoint, Provider};
use facts::Facts;
pub(crate) use facts::pages;
use serde_json::json;
use std::time::{Duration, Instant};
use store::{BusinessMark, BusinessRow, Claim, Coming, Patience, Tx};

/// Items that change within so many times `consumer.debounce` share a PUT, and none of their tokens waits longer than that for the
/// others.
const TOGETHER: u32 = 10;
/// After so many times `consumer.debounce` since the first event the list is sent as it is.
const AT_LAST: u32 = 120;
/// The first pause between two looks at what others do; each is twice as long as the one before.
const AFTER_NEWS: Duration = Duration::from_millis(4);

/// One reconciliation, while it lasts.
pub(crate) struct Reconciliation<'a> {
    context: &'a Context,
    claim: Claim,
    id: BusinessId,
    row: BusinessRow,
    /// The list at Layer, as it was read last.
    shown: Option<Vec<Shown>>,
}

/// None: there is no such business, and the row is done.
pub(crate) async fn begin<'a>(
    context: &'a Context,
    claim: &Claim,
    id: &BusinessId,
) -> Result<Option<Reconciliation<'a>>, store::Error> {
    let Some(row) = context.store.begin_read().await?.business(id).await? else {
        leases::end(context, claim, &done(context)).await?;
        return Ok(None);
    };
    Ok(Some(Reconciliation { context, claim: claim.clone(), id: row.id.clone(), row, shown: None }))
}

/// What a list that was compared, sent or planned comes to.
pub(crate) enum Ending {
    /// The list equals the truth, as far as Layer shows it.
    Converged(Box<Converged>),
    /// Observe mode: nothing was written, so nothing converged. What would be sent, if anything.
    Observed { outcome: String, would: Option<Put> },
}

/// A list that is as it should be.
pub(crate) struct Converged {
    facts: Facts,
    verified: bool,
    /// Left out because somebody archived them at Layer.
    archived: Vec<AccountId>,
    /// What was sent. None: nothing had to be.
    put: Option<Put>,
}

impl Reconcile for Reconciliation<'_> {
    type Ending = Ending;

    async fn steps(&mut self) -> Result<Ending, Stop> {
        let Some(layer_id) = self.resolve().await? else {
            // Nothing is minted yet, so there is nothing to create the business with; the mint makes it due again.
            return Err(Stop::Found);
        };
        let facts = facts::gather(self, &layer_id).await?;
        let policy = self.policy();
        let unminted = facts.wanted.iter().filter(|w| w.token.is_none()).count();
        let observes = self.context.settings.mode == Mode::Observe;
        if observes && unminted > 0 {
            let outcome =
                format!("observe mode: would mint for {}, then PUT", counted(unminted, "account", "accounts"));
            return Ok(Ending::Observed { outcome, would: None });
        }
        let plan = plan(&facts.wanted, &facts.listed, &self.row.accepted, &policy, self.claim.permit.as_ref());
        if let Some(rehearsal) = &self.context.rehearsal {
            rehearsal.planned(&plan);
        }
        match plan {
            Plan::Converged { verified, left_out, archived } => {
                metrics::counter!(metric::PUTS, "result" => "not_needed").increment(1);
                if !left_out.is_empty() {
                    tracing::warn!(accounts = left_out.len(), "accounts wait outside the list for their new tokens");
                }
                let verified = verified && left_out.is_empty();
                Ok(Ending::Converged(Box::new(Converged { facts, verified, archived, put: None })))
            }
            Plan::Wait { left_out } => Err(Stop::Row(self.waits_for_tokens(left_out.len()))),
            Plan::Hold(hold) => Err(Stop::Row(self.held(&hold))),
            Plan::Put(put) => {
                if is_unannounced(&self.claim) && facts.events == self.claim.wanted && !put.resent {
                    metrics::counter!(metric::DRIFT, "kind" => "business").increment(1);
                }
                if observes {
                    let outcome = "observe mode: a PUT would be sent".to_owned();
                    return Ok(Ending::Observed { outcome, would: Some(put) });
                }
                self.put(&layer_id, facts, put).await
            }
        }
    }

    async fn end(self, ending: Result<Option<Ending>, Finish>) -> Result<(), store::Error> {
        let mut tx = match &ending {
            Ok(Some(Ending::Converged(found))) => self.begin_holding(found.facts.leaving.clone()).await?,
            _ => self.context.store.begin().await?,
        };
        tx.lock(&self.claim).await?;
        let mut shown_after = None;
        let finish = match ending {
            Ok(Some(Ending::Converged(found))) => {
                let is_shown = found.put.is_some() && found.verified;
                shown_after = self.claim.signal_at.filter(|_| is_shown).map(|signal| tx.now().since(signal));
                self.converged(&mut tx, &found).await?
            }
            Ok(Some(Ending::Observed { outcome, would })) => {
                self.observed(&mut tx, &outcome, would.as_ref()).await?;
                done(self.context)
            }
            Ok(None) => done(self.context),
            Err(finish) => {
                let finish = tx.judged_again(finish).await?;
                self.stopped(&mut tx, &finish).await?;
                finish
            }
        };
        if let Some(shown) = &self.shown {
            tx.record_shown(&self.id, shown).await?;
        }
        steps::note_end(&mut tx, &self.claim, &finish).await?;
        tx.finish(&self.claim, &finish).await?;
        tx.commit().await?;
        if let Some(took) = shown_after {
            metrics::histogram!(metric::CONVERGE).record(took.as_secs_f64());
        }
        Ok(())
    }
}

impl Reconciliation<'_> {
    fn policy(&self) -> domain::token_list::Policy {
        domain::token_list::Policy {
            // Accepted but never seen: the sweep sends it again.
            resend: !self.row.verified && self.claim.class == Class::Sweep,
            ..self.row.policy(&self.context.layer.settings().policy())
        }
    }

    /// The reconciliation that mints the new tokens makes this business due and unblocks it, so no person is needed. It may
    /// die between the two, so the business is looked at again in any case.
    fn waits_for_tokens(&self, accounts: usize) -> Finish {
        let why = "Layer refuses the tokens these accounts have: the list is sent when new ones are minted".to_owned();
        tracing::warn!(accounts, why, "business waits");
        backoff(self.context, &self.claim, None, Code::WaitsForTokens, why)
    }

    /// A hold is looked at again with every event and sweep: what it objects to may be gone by then.
    fn held(&self, hold: &Hold) -> Finish {
        let blocked = Blocked::new(Block::Hold, hold.code().as_str(), hold.to_string());
        let blocked = Blocked { objection: hold.objection(), ..blocked };
        Finish::blocked(self.context.sweep_wait(), Class::Sweep, blocked)
    }

    /// What a provider's refusal means for this row.
    async fn refused(&self, error: &layer::Error) -> Stop {
        tracing::warn!(error = chain(error), "Layer did not do what was asked");
        match conclude(self.context, &self.claim, &Refusal::from(error)).await {
            Ok(finish) => Stop::Row(finish),
            Err(error) => Stop::Store(error),
        }
    }

    async fn converged(&self, tx: &mut Tx, found: &Converged) -> Result<Finish, store::Error> {
        let Converged { facts, verified, archived, put } = found;
        let verified = *verified;
        let older = facts.wanted.iter().any(|w| w.older_generation);
        if self.row.leave_out != LeaveOut::Nothing && !older {
            tx.set_leave_out(&self.id, LeaveOut::Nothing).await?;
        }
        let outcome = match put {
            Some(_) if verified => "the list was sent and read back",
            Some(_) => "the list was accepted, and Layer does not show enough to read it back",
            None => "the list at Layer is the one to be sent: nothing was sent",
        };
        if put.is_none() {
            if let Some(unreported) = self.unreported(facts, verified) {
                self.report_accepted(tx, &unreported, verified).await?;
            }
            if verified {
                // Archived rows are history: an account that comes back is no account that somebody archived.
                let active = facts.listed.iter().filter(|row| row.status.is_row());
                let shown = active.filter_map(|row| row.token.clone()).chain(facts.tokens_of(archived));
                let shown: Vec<_> = shown.collect();
                tx.record_listed(&self.id, &shown).await?;
            }
        }
        tx.record_converged(&self.id, verified, archived, outcome).await?;
        if !facts.leaving.is_empty() {
            self.moves(tx).await?;
        }
        if let Some(put) = put {
            self.report_accepted(tx, put, verified).await?;
        }
        let finish = done(self.context);
        // The holder before may have been stopped with a PUT on its way: list again after the longest life that such a
        // PUT can have, whatever other events make us look before (I7).
        let life = self.context.layer.request_timeout() * 2;
        Ok(match self.claim.taken_over.filter(|age| *age < life) {
            Some(age) => Finish { again_after: life - age, class: Class::Retry, owes_another: true, ..finish },
            None => finish,
        })
    }

    /// A list of ours arrived and nobody said so: its sender died or stopped before it had read the list back, or its
    /// answer was lost. Without this the change would have no outcome.
    fn unreported(&self, facts: &Facts, verified: bool) -> Option<Put> {
        let is_new = |t: &domain::Fingerprint| verified && !self.row.accepted.contains(t);
        let arrived = facts.wanted.iter().filter(|w| w.token.as_ref().is_some_and(is_new));
        let mut replaced: Vec<_> = arrived.map(|w| w.account.clone()).collect();
        let mut added = Vec::new();
        if self.row.converged_at.is_none() {
            let listed = facts.wanted.iter().filter(|w| w.token.is_some());
            (added, replaced) = (listed.map(|w| w.account.clone()).collect(), Vec::new());
        }
        let tokens = facts.listed.iter().filter_map(|r| r.token.clone()).collect();
        let never_read_back = self.row.put_at > self.row.converged_at;
        (never_read_back || !replaced.is_empty()).then(|| Put { tokens, added, replaced, ..Put::default() })
    }

    /// A transaction that holds the rows in the queue that are written when accounts leave this list. Read again under their locks,
    /// because an account may be moved on to one more business while the list is read back.
    async fn begin_holding(&self, mut leaving: Vec<Subject>) -> Result<Tx, store::Error> {
        loop {
            let mut tx = self.context.store.begin().await?;
            if leaving.is_empty() {
                return Ok(tx);
            }
            tx.lock_rows(&leaving).await?;
            let now = tx.leaving(&self.id).await?;
            if now == leaving {
                return Ok(tx);
            }
            leaving = now;
            tx.rollback().await?;
        }
    }

    /// Accounts that were leaving this list are read back as gone: they may enter their new business.
    async fn moves(&self, tx: &mut Tx) -> Result<(), store::Error> {
        let reason = format!("an account moved here from {}", self.id);
        let entered = tx.moves_done(&self.id, &self.claim).await?;
        let marks: Vec<_> = entered.into_iter().map(|b| BusinessMark::changed(b, Class::Rotation)).collect();
        tx.mark_businesses(&marks, &reason, Some(&self.claim)).await
    }

    async fn report_accepted(&self, tx: &mut Tx, put: &Put, verified: bool) -> Result<(), store::Error> {
        let payload = json!({
            "verified": verified, "listed": put.tokens.len(), "added": put.added, "replaced": put.replaced,
            "removed": put.removed, "left_out": put.left_out, "archived": put.archived, "discarded": put.discarded.len(),
        });
        let took_ms = self.claim.signal_at.map(|signal| millis(tx.now().since(signal)));
        outcome::about_business(tx, &self.claim, &self.id, kind::LIST_ACCEPTED, payload).await?;
        tracing::info!(
            listed = put.tokens.len(),
            added = put.added.len(),
            replaced = put.replaced.len(),
            removed = put.removed.len(),
            left_out = put.left_out.len(),
            discarded = put.discarded.len(),
            verified,
            took_ms,
            "Layer has the list"
        );
        Ok(())
    }

    /// Says what would be sent.
    async fn observed(&self, tx: &mut Tx, outcome: &str, would: Option<&Put>) -> Result<(), store::Error> {
        if let Some(put) = would {
            let payload = json!({
                "would_list": put.tokens.len(), "added": put.added, "replaced": put.replaced, "removed": put.removed,
                "discarded": put.discarded.len(),
            });
            outcome::about_business(tx, &self.claim, &self.id, kind::WOULD, payload).await?;
            tracing::info!(
                added = put.added.len(),
                replaced = put.replaced.len(),
                removed = put.removed.len(),
                discarded = put.discarded.len(),
                "observe mode: would PUT"
            );
        }
        tx.record_outcome(&self.id, outcome).await
    }

    /// Says what keeps the row from going on.
    async fn stopped(&self, tx: &mut Tx, finish: &Finish) -> Result<(), store::Error> {
        let Some(blocked) = &finish.blocked else { return Ok(()) };
        tx.record_outcome(&self.id, &format!("{}: {}", blocked.by, blocked.why)).await?;
        // What an operator said stays where it can be erased.
        let ordered = blocked.code == Code::OperatorHold.as_str();
        let why = if ordered { "an operator keeps the list from being sent" } else { &*blocked.why };
        let payload = json!({"kind": "business", "code": blocked.code, "why": why});
        let kind = match blocked.by {
            Block::Hold => kind::BUSINESS_HELD,
            Block::Parked => kind::PARKED,
            Block::Backoff | Block::Pause => return Ok(()),
        };
        // Each event looks at it again and finds it as it was: said once is enough.
        let was = tx.work(&self.id).await?.and_then(|row| row.blocked);
        if was.is_some_and(|was| (was.by, &was.code) == (blocked.by, &blocked.code)) {
            return Ok(());
        }
        let stands = if blocked.by == Block::Hold { "held" } else { "parked" };
        match ordered {
            true => tracing::info!(code = blocked.code, "business held, as an operator ordered"),
            false => tracing::error!(code = blocked.code, why, "business {stands}, an operator must look"),
        }
        outcome::about_business(tx, &self.claim, &self.id, kind, payload).await
    }

    /// Archived or deleted since we knew it: the next reconciliation asks for it by name again. Or a mishap of Layer's, which
    /// is over after some tries and need not call anybody.
    async fn unknown_to_layer(&self) -> Result<Stop, Stop> {
        const TRIES: u32 = 4;
        let code = Code::BusinessUnknownToLayer;
        let is_new = self.blocked_since(code).await?.is_none();
        let mut tx = self.context.store.begin().await?;
        tx.check_lease(&self.claim).await?;
        tx.forget_layer_id(&self.id).await?;
        tx.commit().await?;
        if is_new || self.claim.attempts < TRIES {
            let why = format!("Layer does not show the business {} any more: it is asked for again", self.id);
            tracing::warn!(why, "the business vanished at Layer");
            return Ok(Stop::Row(backoff(self.context, &self.claim, None, code, why)));
        }
        let id = &self.id;
        let why =
            format!("Layer does not show the business {id} any more (archived?): unarchive it there, then release");
        self.alone_or_all(Endpoint::ListPlaidAccounts, code, why).await
    }

    /// This business alone is refused, and waits for a person; or others are refused alike, and it is Layer's fault.
    async fn alone_or_all(&self, endpoint: Endpoint, code: Code, why: String) -> Result<Stop, Stop> {
        let refusal = Refusal::of_row(Provider::Layer, endpoint, code, why);
        Ok(Stop::Row(conclude(self.context, &self.claim, &refusal).await?))
    }

    /// Layer does not take the list as it is. A token in it may be dead because its Item changed and nobody said so:
    /// every Item of the list is looked at, and what they find makes this business due again.
    ///
    /// Not under the lease: a reconciliation too many does no harm, and the Items' rows are locked before the business's.
    async fn doubt_items(&self, facts: &Facts) -> Result<(), Stop> {
        let mut tx = self.context.store.begin().await?;
        let mut marks = Vec::new();
        for item in facts.items.keys() {
            let mark = Mark::new(item, Class::Rotation, "Layer does not take the list");
            marks.push(Mark { traceparent: self.claim.traceparent.as_deref(), ..mark });
        }
        tx.mark_each(&marks).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Whether an Item with a token in this list has not been looked at since the list was refused for the first time, which
    /// may be now; then its reconciliation is ordered.
    async fn items_may_know_more(&self, facts: &Facts, put: &Put) -> Result<bool, Stop> {
        let Some(since) = self.blocked_since(Code::ListRefused).await? else {
            self.doubt_items(facts).await?;
            return Ok(true);
        };
        let mut tx = self.context.store.begin_read().await?;
        let now = tx.now();
        for (item, _) in facts.items.iter().filter(|(_, tokens)| put.tokens.iter().any(|t| tokens.contains(t))) {
            if tx.work(item).await?.is_some_and(|r| r.awaits_reconciliation(since, now)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Since when this business could not be served, if the last reconciliation ended for this very reason: what other
    /// failures came before it says nothing about this one.
    async fn blocked_since(&self, code: Code) -> Result<Option<domain::Millis>, Stop> {
        let row = self.context.store.begin_read().await?.work(&self.id).await?;
        Ok(row.filter(|r| r.blocked.as_ref().is_some_and(|b| b.code == code.as_str())).and_then(|r| r.blocked_at))
    }

    fn parked(&self, code: Code, why: String) -> Stop {
        Stop::Row(parked(self.context, code, why))
    }

    /// Our side, as of one moment. Items of this list that are being worked on, or are the next, are likely to bring new tokens in a
    /// moment: these share the PUT. Where they take longer, this reconciliation ends, and the business is due when they do: a list
    /// with tokens that are about to be replaced would be refused, or sent in vain. Only Items whose events are of the same time
    /// are waited for, and not for ever: otherwise a business whose Items change all the time would never be sent. A person
    /// waits for nobody who has not begun.
    pub(super) async fn read_our_side(&self) -> Result<Tx, Stop> {
        let (store, stopping, debounce) = (&self.context.store, &self.context.stopping, self.context.settings.debounce);
        let patience = Patience { longest: debounce * TOGETHER, near: debounce * 2 };
        let (began, mut pause) = (Instant::now(), AFTER_NEWS);
        loop {
            let news = store.news();
            let mut tx = store.begin_read().await?;
            let Some(signal) = self.claim.signal_at else { return Ok(tx) };
            if tx.now().since(signal) >= debounce * AT_LAST {
                return Ok(tx);
            }
            match tx.items_are_coming(&self.id, signal.plus(patience.longest), &patience).await? {
                Coming::AtWork => {}
                Coming::Next if self.claim.class != Class::Person => {}
                Coming::Next | Coming::Nobody => return Ok(tx),
            }
            drop(tx);
            let left = debounce.saturating_sub(began.elapsed());
            if left.is_zero() || stopping.is_cancelled() {
                return Err(Stop::Row(Finish::unfinished(debounce * 2, self.claim.class, Call::Layer)));
            }
            tokio::select! {
                _ = tokio::time::timeout(left.min(self.context.settings.poll), news) => {}
                () = stopping.cancelled() => {}
            }
            // News are of any business: under load they come faster than it is worth to look.
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(debounce / 4);
        }
    }

    /// Waits until this call may be made; fails if the lease was lost.
    async fn wait_for_slot(&mut self, call: Call) -> Result<(), Stop> {
        self.wait_under(self.context.settings.lease, call).await
    }

    async fn wait_under(&mut self, lease: Duration, call: Call) -> Result<(), Stop> {
        let slot = Slot { call, paced: false, lease };
        budget::wait_for_slot(self.context, &mut self.claim, &slot).await?.map_err(Stop::Row)
    }
}
