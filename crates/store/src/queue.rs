//! The work queue: one row per Item and one per business.
//!
//! `wanted` grows with every event and `done` becomes the `wanted` that a finished look had started from, so an event
//! that arrives during a look is never erased by its end. A claim (see `claim.rs`) raises `epoch`; whoever commits under
//! an older epoch finds no row and writes nothing.
//!
//! A transaction that writes locks work rows before anything else: Items' in the order of their ids, then businesses',
//! then budgets, then the rest. On PostgreSQL another order ends in a deadlock, which costs somebody a second and one
//! of the two its work.

use crate::tx::{number, opt_parsed, opt_text, opt_time, parsed, text};
use crate::{Claim, Error, Tx};
use domain::budget::Call;
use domain::work::{Block, Class, Kind};
use domain::{Millis, Provider};
use sqlx::any::AnyRow;
use std::time::Duration;

/// An event that makes a row due.
#[derive(Debug, Clone)]
pub struct Mark<'a> {
    pub kind: Kind,
    pub id: &'a str,
    pub class: Class,
    pub reason: &'a str,
    /// When it may be looked at, from now.
    pub wait: Duration,
    /// At most one look in this time, counted from the last one.
    pub quiet: Option<Duration>,
    /// Clears backoff and parking.
    pub unblocks: bool,
    pub traceparent: Option<&'a str>,
}

/// Why a row does not go on by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocked {
    pub by: Block,
    /// A word for metrics and scripts.
    pub code: String,
    /// What happened and what a person can do.
    pub why: String,
}

/// How a look ended.
#[derive(Debug, Clone)]
pub struct Finish {
    /// When to look again if nothing happens until then.
    pub again_after: Duration,
    pub class: Class,
    /// None: the look reached its end.
    pub blocked: Option<Blocked>,
    /// A take-over is not settled by this look: what the holder before sent may arrive after it.
    pub owes_look: bool,
    /// Parked for a refusal that may be the provider's: not parked but paused, if by now this many rows agree.
    pub unless_agreed: Option<(Provider, u64)>,
    /// The look did what it had budget for, and goes on where there is budget for this call.
    pub unfinished: Option<Call>,
}

impl Finish {
    /// The look reached its end; the next one is due in `again_after` if nothing happens until then.
    pub fn done(again_after: Duration, class: Class) -> Self {
        Self { again_after, class, blocked: None, owes_look: false, unless_agreed: None, unfinished: None }
    }

    pub fn blocked(again_after: Duration, class: Class, blocked: Blocked) -> Self {
        Self { blocked: Some(blocked), ..Self::done(again_after, class) }
    }

    pub fn unfinished(again_after: Duration, class: Class, needs: Call) -> Self {
        Self { unfinished: Some(needs), ..Self::done(again_after, class) }
    }
}

/// A work row as operators see it.
#[derive(Debug, Clone)]
pub struct WorkRow {
    pub kind: Kind,
    pub id: String,
    pub due_at: Option<Millis>,
    pub class: Class,
    pub reason: String,
    pub wanted: i64,
    pub done: i64,
    pub attempts: i64,
    pub epoch: i64,
    pub leased_until: Option<Millis>,
    pub blocked: Option<Blocked>,
    pub blocked_at: Option<Millis>,
    pub looked_at: Option<Millis>,
    /// What a holder sent may still be on its way.
    pub taken_over: Option<Millis>,
}

impl WorkRow {
    /// An event waits to be served, and no look has come to an end or given up since that time. What only fails for a
    /// while is still waited for, and so is a look that was cut short; webhooks that can't touch a token are not.
    pub fn awaits_look(&self, since: Millis, now: Millis) -> bool {
        let soon = now.plus(Duration::from_secs(10));
        let looked_at = self.looked_at.is_some_and(|at| at > since) && self.due_at.is_none_or(|at| at > soon);
        match self.blocked.as_ref().map(|b| b.by) {
            None => self.leased_until.is_some() || self.wanted > self.done && !looked_at,
            Some(Block::Backoff | Block::Pause) => self.wanted > self.done,
            Some(Block::Hold | Block::Parked) => false,
        }
    }
}

/// The provider whose pause stops this kind of work.
pub fn provider_of(kind: Kind) -> Provider {
    match kind {
        Kind::Item => Provider::Plaid,
        Kind::Business => Provider::Layer,
    }
}

impl Tx {
    /// Makes a row due. Returns the `wanted` it raised, which a waiter compares with `done`.
    pub async fn mark(&mut self, mark: &Mark<'_>) -> Result<i64, Error> {
        self.mark_since(mark, None).await
    }

    /// The same for work that follows from an earlier event: `signal_at` is when that one arrived. An event that can't have
    /// touched a token is no signal: a rotation hours later would seem to have taken as long.
    pub async fn mark_since(&mut self, mark: &Mark<'_>, signal_at: Option<Millis>) -> Result<i64, Error> {
        // Epochs begin at the clock's milliseconds: a row that was erased and comes again is then ahead of every claim of
        // before, for nobody claims a row once a millisecond. A count from 0 would take an old holder for the new one.
        let sql = "INSERT INTO work (kind, id, due_at, class, reason, wanted, done, unblocked, attempts, epoch, held,
                taken_over, permit, signal_at, traceparent)
            VALUES ($1, $2, $3, $4, $5, 1, 0, $6, 0, $10, 0, NULL, 0, $7, $8)
            ON CONFLICT (kind, id) DO UPDATE SET
                wanted = work.wanted + 1,
                reason = CASE WHEN $4 <= work.class THEN $5 ELSE work.reason END,
                traceparent = CASE WHEN $4 <= work.class THEN $8 ELSE work.traceparent END,
                class = CASE WHEN $4 < work.class THEN $4 ELSE work.class END,
                unblocked = CASE WHEN $6 = 1 THEN work.wanted + 1 ELSE work.unblocked END,
                attempts = CASE WHEN $6 = 1 THEN 0 ELSE work.attempts END,
                due_at = CASE
                    WHEN $6 = 0 AND work.blocked_by IN ('backoff', 'parked') THEN work.due_at
                    WHEN work.looked_at IS NOT NULL AND work.looked_at + $9 > $3 THEN
                        CASE WHEN work.due_at IS NULL OR work.looked_at + $9 < work.due_at
                             THEN work.looked_at + $9 ELSE work.due_at END
                    WHEN work.due_at IS NULL OR $3 < work.due_at THEN $3
                    ELSE work.due_at END,
                blocked_by = CASE WHEN $6 = 1 THEN NULL ELSE work.blocked_by END,
                blocked_code = CASE WHEN $6 = 1 THEN NULL ELSE work.blocked_code END,
                blocked_why = CASE WHEN $6 = 1 THEN NULL ELSE work.blocked_why END,
                blocked_at = CASE WHEN $6 = 1 THEN NULL ELSE work.blocked_at END,
                signal_at = COALESCE(work.signal_at, $7)
            RETURNING wanted";
        let query = sqlx::query(sql)
            .bind(mark.kind.as_str())
            .bind(mark.id.to_owned())
            .bind(self.now().plus(mark.wait).0)
            .bind(mark.class.rank())
            .bind(mark.reason.to_owned())
            .bind(i64::from(mark.unblocks))
            .bind(signal_at.or_else(|| mark.quiet.is_none().then_some(self.now())).map(|at| at.0))
            .bind(mark.traceparent.map(str::to_owned))
            .bind(mark.quiet.map_or(i64::MIN / 2, domain::time::millis))
            .bind(self.now().0);
        let row = self.row(query).await?.ok_or_else(|| Error::Corrupt("a mark returned no row".into()))?;
        number(&row, "wanted")
    }

    /// An operator's release: due at once, every block cleared, and one permit for what a guard held back.
    /// Returns whether there was anything to release.
    pub async fn release(&mut self, kind: Kind, id: &str) -> Result<bool, Error> {
        let sql = "UPDATE work SET due_at = $3, class = $4, attempts = 0, permit = 1, wanted = wanted + 1,
                unblocked = wanted + 1, blocked_by = NULL, blocked_code = NULL, blocked_why = NULL, blocked_at = NULL,
                reason = 'released by an operator', signal_at = COALESCE(signal_at, $3)
            WHERE kind = $1 AND id = $2 AND blocked_by IS NOT NULL";
        let now = self.now().0;
        let query = sqlx::query(sql).bind(kind.as_str()).bind(id.to_owned()).bind(now).bind(Class::Person.rank());
        Ok(self.run(query).await? == 1)
    }

    /// Makes the lease last `lease` from now, and fails if it was lost. Call it before each provider call of a look
    /// that makes several.
    pub async fn renew(&mut self, claim: &mut Claim, lease: Duration) -> Result<(), Error> {
        let deadline = self.began + lease;
        let sql = "UPDATE work SET due_at = CASE WHEN due_at = lease_until THEN $5 ELSE due_at END, lease_until = $5
            WHERE kind = $1 AND id = $2 AND epoch = $3 AND lease_owner = $4 AND lease_until > $6";
        let (now, until) = (self.now(), self.now().plus(lease));
        let query = sqlx::query(sql)
            .bind(claim.kind.as_str())
            .bind(claim.id.clone())
            .bind(claim.epoch)
            .bind(claim.owner.clone())
            .bind(until.0)
            .bind(now.0);
        if self.run(query).await? == 0 {
            return Err(claim.stale());
        }
        claim.deadline = deadline;
        Ok(())
    }

    /// Ends a look and gives the row back; with it commit the look's results. Fails, and with it the whole
    /// transaction, if somebody else has claimed the row since.
    pub async fn finish(&mut self, claim: &Claim, finish: &Finish) -> Result<(), Error> {
        let sql = "UPDATE work SET
                lease_owner = NULL, lease_until = NULL, held = 0,
                -- A take-over that failed still owes the later look at the list.
                taken_over = CASE WHEN $5 IS NULL AND $13 = 0 AND $14 IS NULL THEN NULL ELSE taken_over END,
                needs = $14,
                -- Spent by a look that had it and came to an end; one given during the look is for the next.
                permit = CASE WHEN $12 = 1 AND $14 IS NULL AND COALESCE($5, 'hold') IN ('hold', 'parked') THEN 0
                              ELSE permit END,
                done = CASE WHEN $5 IS NULL AND $14 IS NULL THEN $4 ELSE done END,
                attempts = CASE WHEN $14 IS NOT NULL THEN attempts WHEN $5 IS NULL OR unblocked > $4 THEN 0
                                ELSE attempts + 1 END,
                class = CASE WHEN wanted > $4 AND class < $8 THEN class ELSE $8 END,
                reason = CASE WHEN wanted > $4 OR $14 IS NOT NULL THEN reason WHEN $5 IS NULL THEN 'sweep' ELSE 'retry: ' || $6 END,
                due_at = CASE WHEN wanted > $4 AND (COALESCE($5, 'hold') = 'hold' OR unblocked > $4) AND due_at < $9
                              THEN due_at ELSE $9 END,
                blocked_by = CASE WHEN unblocked > $4 THEN NULL ELSE $5 END,
                blocked_code = CASE WHEN unblocked > $4 THEN NULL ELSE $6 END,
                blocked_why = CASE WHEN unblocked > $4 THEN NULL ELSE $7 END,
                blocked_at = CASE WHEN $5 IS NULL OR unblocked > $4 THEN NULL ELSE COALESCE(blocked_at, $10) END,
                signal_at = CASE WHEN $5 IS NOT NULL OR $14 IS NOT NULL THEN signal_at
                    -- Who wants a look soon has brought the row forward; webhooks that can't touch a token have not.
                    WHEN wanted > $4 AND due_at < lease_until THEN $10 ELSE NULL END,
                -- The next look is the sweep's and none of this trace.
                traceparent = CASE WHEN $5 IS NULL AND $14 IS NULL AND wanted <= $4 THEN NULL ELSE traceparent END
            WHERE kind = $1 AND id = $2 AND epoch = $3 AND lease_owner = $11";
        let blocked = self.judged_again(finish).await?;
        let blocked = blocked.as_ref();
        if blocked.is_none() && finish.unfinished.is_none() {
            self.unsuspect(claim.kind, &claim.id).await?;
        }
        let query = sqlx::query(sql)
            .bind(claim.kind.as_str())
            .bind(claim.id.clone())
            .bind(claim.epoch)
            .bind(claim.wanted)
            .bind(blocked.map(|b| b.by.as_str()))
            .bind(blocked.map(|b| b.code.clone()))
            .bind(blocked.map(|b| b.why.clone()))
            .bind(finish.class.rank())
            .bind(self.now().plus(finish.again_after).0)
            .bind(self.now().0)
            .bind(claim.owner.clone())
            .bind(i64::from(claim.permit))
            .bind(i64::from(finish.owes_look))
            .bind(finish.unfinished.map(Call::as_str));
        if self.run(query).await? == 0 { Err(claim.stale()) } else { Ok(()) }
    }

    /// Others may have come to agree between the refusal and this end of the look.
    async fn judged_again(&mut self, finish: &Finish) -> Result<Option<Blocked>, Error> {
        let Some(blocked) = &finish.blocked else { return Ok(None) };
        let agreed = match finish.unless_agreed {
            Some((provider, agree)) => self.suspects(provider, &blocked.code).await? >= agree,
            None => false,
        };
        Ok(Some(if agreed { Blocked { by: Block::Pause, ..blocked.clone() } } else { blocked.clone() }))
    }

    /// Locks the row for the transaction that ends the look. Fails if somebody else has claimed it since; a lease that
    /// ended meanwhile and that nobody took is still good for that.
    pub async fn lock(&mut self, claim: &Claim) -> Result<(), Error> {
        let sql = "UPDATE work SET held = held WHERE kind = $1 AND id = $2 AND epoch = $3 AND lease_owner = $4";
        let query = sqlx::query(sql)
            .bind(claim.kind.as_str())
            .bind(claim.id.clone())
            .bind(claim.epoch)
            .bind(claim.owner.clone());
        if self.run(query).await? == 0 { Err(claim.stale()) } else { Ok(()) }
    }

    /// What was sent under this claim was not answered and may arrive late: as after a take-over, the row owes a look once
    /// that can't happen any more.
    pub async fn may_arrive_late(&mut self, claim: &Claim) -> Result<(), Error> {
        let sql = "UPDATE work SET taken_over = $5 WHERE kind = $1 AND id = $2 AND epoch = $3 AND lease_owner = $4";
        let query = sqlx::query(sql)
            .bind(claim.kind.as_str())
            .bind(claim.id.clone())
            .bind(claim.epoch)
            .bind(claim.owner.clone())
            .bind(self.now().0);
        if self.run(query).await? == 0 { Err(claim.stale()) } else { Ok(()) }
    }

    /// Fails unless the claim still holds its lease.
    pub async fn check_lease(&mut self, claim: &Claim) -> Result<(), Error> {
        // An update of nothing: it locks the row, so that nobody takes the lease over before this transaction ends.
        let sql = "UPDATE work SET held = held
            WHERE kind = $1 AND id = $2 AND epoch = $3 AND lease_owner = $4 AND lease_until > $5";
        let now = self.now().0;
        let query = sqlx::query(sql)
            .bind(claim.kind.as_str())
            .bind(claim.id.clone())
            .bind(claim.epoch)
            .bind(claim.owner.clone())
            .bind(now);
        if self.run(query).await? == 0 { Err(claim.stale()) } else { Ok(()) }
    }

    pub async fn work(&mut self, kind: Kind, id: &str) -> Result<Option<WorkRow>, Error> {
        let query =
            sqlx::query("SELECT * FROM work WHERE kind = $1 AND id = $2").bind(kind.as_str()).bind(id.to_owned());
        self.row(query).await?.map(|r| work_row(&r)).transpose()
    }

    /// Rows with an event that no look has served yet and that nothing keeps from being served, a hundred at most.
    pub async fn unserved(&mut self, kind: Kind) -> Result<Vec<String>, Error> {
        let sql = "SELECT id FROM work WHERE kind = $1
            AND (lease_owner IS NOT NULL OR (wanted > done AND (blocked_by IS NULL OR blocked_by IN ('backoff', 'pause'))))
            ORDER BY id LIMIT 100";
        let rows = self.rows(sqlx::query(sql).bind(kind.as_str())).await?;
        rows.iter().map(|r| text(r, "id")).collect()
    }

    /// Makes the Items due that have an account without a token of the current generation, and those of `business` alone
    /// if one is named: what observe mode left, or an operator asks for.
    pub async fn mark_unminted(&mut self, business: Option<&str>, reason: &str) -> Result<u64, Error> {
        let sql = "UPDATE work SET wanted = wanted + 1, due_at = $1, reason = $2,
                class = CASE WHEN class < $3 THEN class ELSE $3 END
            WHERE kind = 'item' AND blocked_by IS NULL AND id IN (
                SELECT a.item_id FROM accounts a JOIN items i ON i.item_id = a.item_id
                WHERE a.business_id IS NOT NULL AND a.state = 'active' AND a.mint_fault IS NULL
                  AND i.state IN ('active', 'login_required') AND ($4 IS NULL OR a.business_id = $4)
                  AND NOT EXISTS (SELECT 1 FROM processor_tokens t WHERE t.item_id = a.item_id
                      AND t.account_id = a.account_id AND t.state = 'live' AND t.generation = i.generation))";
        let query = sqlx::query(sql)
            .bind(self.now().0)
            .bind(reason.to_owned())
            .bind(Class::NewAccount.rank())
            .bind(business.map(str::to_owned));
        self.run(query).await
    }

    /// Makes every row of a kind due within `spread`, in a stable pseudo-random order.
    pub async fn mark_all(&mut self, kind: Kind, spread: Duration, reason: &str) -> Result<u64, Error> {
        let sql = "UPDATE work SET wanted = wanted + 1, reason = $2,
                due_at = CASE WHEN due_at IS NULL OR due_at > $3 + (epoch * 7919 + wanted * 104729) % $4
                    THEN $3 + (epoch * 7919 + wanted * 104729) % $4 ELSE due_at END
            WHERE kind = $1 AND blocked_by IS NULL";
        let (now, spread) = (self.now().0, domain::time::millis(spread).max(1));
        let query = sqlx::query(sql).bind(kind.as_str()).bind(reason.to_owned()).bind(now).bind(spread);
        self.run(query).await
    }
}

pub(crate) fn work_row(row: &AnyRow) -> Result<WorkRow, Error> {
    let word = |w: String| Block::from_word(&w).ok_or_else(|| format!("unknown block {w}"));
    let by = opt_parsed(row, "blocked_by", word)?;
    let (code, why) = (opt_text(row, "blocked_code")?, opt_text(row, "blocked_why")?);
    Ok(WorkRow {
        kind: parsed(row, "kind", |w| Kind::from_word(&w).ok_or_else(|| format!("unknown kind {w}")))?,
        id: text(row, "id")?,
        due_at: opt_time(row, "due_at")?,
        class: Class::from_rank(number(row, "class")?),
        reason: text(row, "reason")?,
        wanted: number(row, "wanted")?,
        done: number(row, "done")?,
        attempts: number(row, "attempts")?,
        epoch: number(row, "epoch")?,
        leased_until: opt_time(row, "lease_until")?,
        blocked: by.map(|by| Blocked { by, code: code.unwrap_or_default(), why: why.unwrap_or_default() }),
        blocked_at: opt_time(row, "blocked_at")?,
        looked_at: opt_time(row, "looked_at")?,
        taken_over: opt_time(row, "taken_over")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i4_a_look_is_awaited_until_it_ended_or_gave_up() {
        let (since, now, hour) = (Millis(1_000_000), Millis(1_060_000), Duration::from_hours(1));
        let row = |looked_at: i64, due_at: Millis, by: Option<Block>| WorkRow {
            kind: Kind::Item,
            id: "x".into(),
            due_at: Some(due_at),
            class: Class::Rotation,
            reason: String::new(),
            wanted: 2,
            done: 1,
            attempts: 0,
            epoch: 1,
            leased_until: None,
            blocked: by.map(|by| Blocked { by, code: String::new(), why: String::new() }),
            blocked_at: None,
            looked_at: Some(Millis(looked_at)),
            taken_over: None,
        };
        let (before, after) = (since.0 - 1, since.0 + 1);
        let served = WorkRow { done: 2, ..row(after, now.plus(hour), None) };
        let table = [
            ("not looked at yet", row(before, now, None), true),
            ("cut short, and due again at once", row(after, now, None), true),
            ("looked at; a webhook that can wait came since", row(after, now.plus(hour), None), false),
            ("served", served.clone(), false),
            ("being looked at", WorkRow { leased_until: Some(now.plus(hour)), ..served }, true),
            ("fails for a while", row(after, now, Some(Block::Backoff)), true),
            ("its provider is paused", row(after, now, Some(Block::Pause)), true),
            ("held", row(before, now, Some(Block::Hold)), false),
            ("parked", row(before, now, Some(Block::Parked)), false),
        ];
        for (claim, row, expected) in table {
            assert_eq!(row.awaits_look(since, now), expected, "{claim}");
        }
    }
}
