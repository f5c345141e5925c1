//! Who works on a due row: the claim, with its lease, its epoch and the budget for its first calls.

use crate::sql::{Of, built, list, records, row, sql};
use crate::work::work_row;
use crate::{Error, Store, Tx};
use domain::budget::{Booked, Call, Limits, horizon};
use domain::permit::Permit;
use domain::queue::{Claimant, Row};
use domain::work::{Class, Kind, Subject};
use domain::{ItemId, Millis};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A row that only this worker may work on while its lease lasts.
#[derive(Debug, Clone)]
pub struct Claim {
    /// What it is about.
    pub subject: Subject,
    /// The fencing token: whoever commits under an older one writes nothing.
    pub epoch: i64,
    /// How many events there were when it was claimed: an end serves these.
    pub wanted: i64,
    pub class: Class,
    pub reason: String,
    /// Failures in a row before this one.
    pub attempts: u32,
    /// How long ago a holder lost the row without having given it back, or was not answered, if no reconciliation has settled
    /// that since: what it sent may still be on its way.
    pub taken_over: Option<Duration>,
    /// An operator released the row and allows, this once, what a guard held back.
    pub permit: Option<Permit>,
    /// When the oldest unserved event arrived.
    pub signal_at: Option<Millis>,
    /// The W3C trace of what made it due.
    pub traceparent: Option<String>,
    /// The call for want of which the reconciliation before this one did not come to its end.
    pub needs: Option<Call>,
    /// How far ahead this reconciliation may book calls: its class, raised if it waited long.
    pub urgency: Class,
    /// Calls that were booked with the claim, and when they may leave.
    prepaid: Vec<(Call, Instant)>,
    pub(crate) owner: String,
    /// Counted from before the claim was sent: however long the answer takes, the lease ends here first.
    pub(crate) deadline: Instant,
}

impl Claim {
    /// A claim that is nobody's, on a row that is only asked about: nothing is written under it.
    pub fn of_nobody(subject: impl Into<Subject>) -> Self {
        let row = Row::new(subject.into(), Millis(0));
        Self::of(&row, Class::Person, Vec::new(), Instant::now(), Millis(0))
    }

    /// Time left of the lease on this machine's monotonic clock, counted from before the claim was sent.
    pub fn remaining(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// When the lease ends on this machine's monotonic clock.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// A call was booked that is about to be made.
    pub fn prepay(&mut self, call: Call, at: Instant) {
        self.prepaid.push((call, at));
    }

    /// The moment for which this call was booked ahead, once; none if it passed too long ago.
    pub fn prepaid(&mut self, call: Call) -> Option<Instant> {
        let place = self.prepaid.iter().position(|(booked, _)| *booked == call)?;
        let (_, at) = self.prepaid.swap_remove(place);
        (at.elapsed() < call.late()).then_some(at)
    }

    /// Of a row that was just claimed.
    fn of(row: &Row, urgency: Class, prepaid: Vec<(Call, Instant)>, deadline: Instant, now: Millis) -> Self {
        Self {
            subject: row.subject.clone(),
            epoch: row.epoch,
            wanted: row.wanted,
            class: row.class,
            reason: row.reason.clone(),
            attempts: row.attempts,
            taken_over: row.taken_over.map(|at| now.since(at)),
            permit: row.permit.clone(),
            signal_at: row.signal_at,
            traceparent: row.traceparent.clone(),
            needs: row.needs,
            urgency,
            prepaid,
            owner: row.lease.as_ref().map(|l| l.owner.clone()).unwrap_or_default(),
            deadline,
        }
    }

    pub(crate) fn stale(&self) -> Error {
        Error::Stale { subject: self.subject.to_string(), epoch: self.epoch }
    }
}

/// What the next reconciliation of a due row needs budget for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    ToRead,
    ToMint,
}

impl Due {
    /// As the index over such rows says it, word for word: a database uses it for no other.
    fn filter(self) -> String {
        match self {
            Self::ToRead => format!("(needs IS NULL OR needs <> '{}')", Call::Mint),
            Self::ToMint => format!("needs = '{}'", Call::Mint),
        }
    }
}

/// What a claim may take: due, with no lease that still holds, past the pace of its own, and not of a paused provider.
/// `$1`: the kind; `$2`: now; `$3`: its provider.
pub(crate) fn claimable(class: &str, due: Due) -> String {
    let unleased = unleased(class, due);
    format!(
        "{unleased} AND (next_look IS NULL OR next_look <= $2) AND NOT EXISTS (SELECT 1 FROM pauses WHERE provider = $3)"
    )
}

/// Due, and no worker holds it. `$1`: the kind; `$2`: now.
pub(crate) fn unleased(class: &str, due: Due) -> String {
    let filter = due.filter();
    format!("kind = $1 AND {class} AND {filter} AND due_at <= $2 AND (lease_until IS NULL OR lease_until <= $2)")
}

/// A condition for each class, and one for whatever class a newer release may have left, so that none is forgotten.
pub(crate) fn each_class() -> impl Iterator<Item = String> {
    let least = Class::ALL.iter().map(|c| c.rank()).max().unwrap_or_default();
    Class::ALL.iter().map(|c| format!("class = {}", c.rank())).chain([format!("class > {least}")])
}

/// Who comes first among rows of one urgency: rows of that class itself, or rows that waited until they reached it. One
/// claim in eight is for the latter: an import of thousands that have waited long must not go ahead of a rotation
/// that has just happened, but must still progress while rotations never end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    Own,
    Aged,
}

/// Whose turn it is. The clock would not do instead: workers that look every so many milliseconds could miss a turn always.
#[derive(Clone, Default)]
pub(crate) struct Turns(Arc<[AtomicU64; 2]>);

impl Turns {
    fn next(&self, kind: Kind) -> Order {
        let [items, businesses] = &*self.0;
        let claims = match kind {
            Kind::Item => items,
            Kind::Business => businesses,
        };
        if claims.fetch_add(1, Ordering::Relaxed) % 8 == 7 { Order::Aged } else { Order::Own }
    }
}

impl Store {
    /// Takes up to `limit` due rows for whose first calls there is budget, the most urgent first. None while the kind's
    /// provider is paused.
    pub async fn claim(
        &self,
        kind: Kind,
        owner: &str,
        lease: Duration,
        limit: u32,
        limits: &Limits,
    ) -> Result<Vec<Claim>, Error> {
        self.claim_beside(&[], kind, owner, lease, limit, limits).await
    }

    /// The same; but among rows of the same urgency, Items that share a list with one that has just ended come first. Taken by age
    /// alone, a list whose Items all changed would be sent once for each of them, and refused for the tokens of those whose turn
    /// has not come.
    pub async fn claim_beside(
        &self,
        ended: &[ItemId],
        kind: Kind,
        owner: &str,
        lease: Duration,
        limit: u32,
        limits: &Limits,
    ) -> Result<Vec<Claim>, Error> {
        let deadline = Instant::now() + lease;
        let (saved, each) = match kind {
            Kind::Item => limits.pace(),
            Kind::Business => (Duration::ZERO, Duration::ZERO),
        };
        let by = Claimant { owner, lease, saved, each };
        let mut tx = self.begin().await?;
        let order = self.turns.next(kind);
        let mut due = tx.due(kind, Due::ToRead, limit).await?;
        let mut siblings = BTreeSet::new();
        if kind == Kind::Item {
            due.extend(tx.due(kind, Due::ToMint, limit).await?);
            let beside = tx.due_beside(ended, limit).await?;
            siblings.extend(beside.iter().map(|row| row.subject.clone()));
            due.retain(|row| !siblings.contains(&row.subject));
            due.extend(beside);
        }
        let now = tx.now();
        let class = |row: &Row| if order == Order::Aged { Class::Person } else { row.class };
        // Not in the claim that is for those who waited long: lists that change all the time would take it from them.
        let comes_later = |row: &Row| order == Order::Aged || !siblings.contains(&row.subject);
        due.sort_by_key(|row| (row.urgency(now), class(row), comes_later(row), row.due_at));
        if due.is_empty() {
            tx.rollback().await?;
            return Ok(Vec::new());
        }
        // Work rows are locked before budgets, as everywhere.
        let mut budget = ClaimBudget::open(&mut tx, kind, due.iter().any(|row| row.needs == Some(Call::Mint))).await?;
        let (mut rows, mut claims) = (Vec::new(), Vec::new());
        for mut row in due.into_iter().take(limit as usize) {
            let urgency = row.urgency(now);
            if let Some(prepaid) = budget.book(&tx, &row, urgency, lease, limits) {
                row.claim(&by, tx.now());
                claims.push(Claim::of(&row, urgency, prepaid, deadline, tx.now()));
                rows.push(row);
            }
        }
        if claims.is_empty() {
            tx.rollback().await?;
        } else {
            tx.save(&rows).await?;
            budget.save(&mut tx).await?;
            tx.commit().await?;
        }
        Ok(claims)
    }
}

impl Store {
    /// Makes these leases of this worker last `lease` from now, as far as they have not run out: each row under the epoch of its
    /// claim. Rows that somebody locks at this moment are passed by: most likely it is the worker itself, which renews them.
    pub async fn keep_leases(&self, owner: &str, lease: Duration, claims: &[(Subject, i64)]) -> Result<(), Error> {
        let mut tx = self.begin().await?;
        let (now, until, lock) = (tx.now(), tx.now().plus(lease), tx.dialect.skip_locked());
        let columns = [("kind", Of::Text), ("id", Of::Text), ("epoch", Of::Number)];
        let from = tx.dialect.records(&columns, 4);
        let sql = format!(
            "UPDATE work SET due_at = CASE WHEN due_at = lease_until THEN $2 ELSE due_at END, lease_until = $2
            WHERE (kind, id) IN (SELECT w.kind, w.id FROM {from}
                JOIN work w ON w.kind = r.kind AND w.id = r.id AND w.epoch = r.epoch
                WHERE w.lease_owner = $1 AND w.lease_until > $3 AND w.lease_until < $2 {lock})"
        );
        let rows = records(&columns, claims.iter().map(|(subject, epoch)| row![subject.kind(), subject.id(), *epoch]));
        tx.run(sql!(built(sql), owner, until, now, rows)).await?;
        tx.commit().await
    }
}

/// How long after the claim a reconciliation comes to its mint: accounts are read first. A slot that passes meanwhile is lost
/// to everybody; one that comes later than needed costs a rotation, which waits for the scarce limit anyway, that time.
const READS: Duration = Duration::from_secs(1);

/// The budget for first calls: it is taken before the lease, never waited for under it.
struct ClaimBudget {
    first: (Call, Booked),
    mint: Option<Booked>,
}

impl ClaimBudget {
    async fn open(tx: &mut Tx, kind: Kind, mints: bool) -> Result<Self, Error> {
        let first = kind.first_call();
        let mint = if mints { Some(tx.lock_budget(Call::Mint).await?) } else { None };
        Ok(Self { first: (first, tx.lock_budget(first).await?), mint })
    }

    /// None: too early for a row of this urgency.
    fn book(
        &mut self,
        tx: &Tx,
        row: &Row,
        urgency: Class,
        lease: Duration,
        limits: &Limits,
    ) -> Option<Vec<(Call, Instant)>> {
        let (ahead, now) = (horizon(urgency), tx.now());
        let (call, mut first) = self.first;
        let mut prepaid = vec![(call, tx.answered_at + first.book(limits, call, now, ahead).ok()?)];
        if row.needs == Some(Call::Mint)
            && let Some(mint) = &mut self.mint
        {
            let lead = if urgency == Class::Person { Duration::ZERO } else { READS.min(lease / 4) };
            prepaid.push((Call::Mint, tx.answered_at + mint.book_ahead(limits, Call::Mint, now, ahead, lead).ok()?));
        }
        self.first = (call, first);
        Some(prepaid)
    }

    async fn save(self, tx: &mut Tx) -> Result<(), Error> {
        if let Some(mint) = self.mint {
            tx.save_budget(Call::Mint, &mint).await?;
        }
        tx.save_budget(self.first.0, &self.first.1).await
    }
}

impl Tx {
    /// For each class the `limit` rows that have been due the longest, locked until the end of this transaction. Within a
    /// class the row that has waited longest is the most urgent, so no other can come first; and each part is the beginning
    /// of an index, however many rows are due. More are locked than are taken: another claim at the same moment passes them
    /// by, and comes to them with the next poll.
    async fn due(&mut self, kind: Kind, due: Due, limit: u32) -> Result<Vec<Row>, Error> {
        let lock = self.dialect.skip_locked();
        let parts = each_class().map(|class| {
            let claimable = claimable(&class, due);
            format!(
                "SELECT * FROM (SELECT * FROM work WHERE {claimable} ORDER BY class, due_at LIMIT $4 {lock}) AS due"
            )
        });
        let text = parts.collect::<Vec<_>>().join(" UNION ALL ");
        let rows = self.rows(sql!(built(text), kind, self.now(), kind.provider(), limit)).await?;
        rows.iter().map(work_row).collect()
    }

    /// Due Items that share a list with one of these, locked as well. In three statements, each a look-up by key: joined, PostgreSQL
    /// would read everything that is due.
    async fn due_beside(&mut self, ended: &[ItemId], limit: u32) -> Result<Vec<Row>, Error> {
        let ended: Vec<String> = ended.iter().map(ToString::to_string).collect();
        let lists = self.businesses_of(&ended).await?;
        if lists.is_empty() {
            return Ok(Vec::new());
        }
        let sql =
            format!("SELECT item_id AS id FROM accounts WHERE {} LIMIT {BESIDE}", self.dialect.among("business_id", 1));
        let mut items = self.ids(sql, &lists.into_iter().collect::<Vec<_>>()).await?;
        ended.iter().for_each(|item| drop(items.take(item)));
        if items.is_empty() {
            return Ok(Vec::new());
        }
        let (named, lock) = (self.dialect.among("id", 5), self.dialect.skip_locked());
        let claimable = claimable(&named, Due::ToRead);
        let sql = format!("SELECT * FROM work WHERE {claimable} ORDER BY class, due_at LIMIT $4 {lock}");
        let kind = Kind::Item;
        let query = sql!(built(sql), kind, self.now(), kind.provider(), limit, list(&items));
        self.rows(query).await?.iter().map(work_row).collect()
    }
}

/// Accounts of these lists that are looked at: a longer list must not slow every claim down.
const BESIDE: u32 = 500;
