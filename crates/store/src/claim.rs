//! Who works on a due row: the claim, with its lease, its epoch and the budget for its first calls.

use crate::queue::provider_of;
use crate::tx::{built, number, opt_parsed, opt_text, opt_time, text};
use crate::{Error, Store, Tx};
use domain::Millis;
use domain::budget::{Booked, Call, Limits, PROMOTION, horizon};
use domain::work::{Class, Kind};
use std::time::{Duration, Instant};

/// A row that this worker, and nobody else, may work on while its lease lasts.
#[derive(Debug, Clone)]
pub struct Claim {
    pub kind: Kind,
    pub id: String,
    pub epoch: i64,
    pub wanted: i64,
    pub class: Class,
    pub reason: String,
    pub attempts: u32,
    /// How long ago a holder lost the row without having given it back, or was not answered, if no look has settled that
    /// since: what it sent may still be on its way.
    pub taken_over: Option<Duration>,
    /// An operator released the row and allows, this once, what a guard held back.
    pub permit: bool,
    /// When the oldest unserved event arrived.
    pub signal_at: Option<Millis>,
    pub traceparent: Option<String>,
    /// How far ahead this look may book calls: its class, raised if it waited long.
    pub urgency: Class,
    /// Calls that were booked with the claim, and when they may leave.
    prepaid: Vec<(Call, Instant)>,
    pub(crate) owner: String,
    pub(crate) deadline: Instant,
}

impl Claim {
    /// Time left of the lease on this machine's monotonic clock, counted from before the claim was sent.
    pub fn remaining(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// When the lease ends on this machine's monotonic clock.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The moment for which this call was booked with the claim, once; none if it passed too long ago.
    pub fn prepaid(&mut self, call: Call) -> Option<Instant> {
        let place = self.prepaid.iter().position(|(booked, _)| *booked == call)?;
        let (_, at) = self.prepaid.swap_remove(place);
        (at.elapsed() < call.late()).then_some(at)
    }

    pub(crate) fn stale(&self) -> Error {
        Error::Stale { kind: self.kind.as_str(), id: self.id.clone(), epoch: self.epoch }
    }
}

/// Who claims, and for how long.
#[derive(Clone, Copy)]
struct Holder<'a> {
    owner: &'a str,
    lease: Duration,
    /// Counted from before the claim was sent: however long the answer takes, the lease ends here first.
    deadline: Instant,
}

/// A row that may be claimed.
struct Due {
    id: String,
    urgency: Class,
    class: Class,
    due_at: i64,
    needs: Option<Call>,
}

/// Who comes first among rows of one urgency: those whose own class it is, or those that waited until they had it. One
/// claim in eight is for these: an import of thousands, each of whom has waited for long, must not stand before a rotation
/// of this moment, and still goes on while rotations never end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    Own,
    Aged,
}

impl Turn {
    fn of(now: Millis) -> Self {
        if now.0 % 8 == 0 { Self::Aged } else { Self::Own }
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
        let holder = Holder { owner, lease, deadline: Instant::now() + lease };
        let mut tx = self.begin().await?;
        let turn = Turn::of(tx.now());
        let mut due = tx.due(kind, false, limit, turn).await?;
        if kind == Kind::Item {
            due.extend(tx.due(kind, true, limit, turn).await?);
            due.sort_by_key(|d| (d.urgency.rank(), if turn == Turn::Aged { 0 } else { d.class.rank() }, d.due_at));
        }
        if due.is_empty() {
            return Ok(Vec::new());
        }
        // Work rows are locked before budgets, as everywhere.
        let mut purse = Purse::open(&mut tx, kind, due.iter().any(|d| d.needs == Some(Call::Mint))).await?;
        let mut claims = Vec::new();
        for row in due.into_iter().take(limit as usize) {
            if let Some(prepaid) = purse.afford(&tx, &row, holder, limits) {
                claims.push(tx.take(kind, row, prepaid, holder, limits).await?);
            }
        }
        if !claims.is_empty() {
            purse.close(&mut tx).await?;
            tx.commit().await?;
        }
        Ok(claims)
    }
}

/// How long after the claim a look comes to its mint: accounts are read first. A slot that passes meanwhile is lost to
/// everybody; one that comes later than needed costs a rotation, which waits for the scarce limit anyway, that time.
const READS: Duration = Duration::from_secs(1);

/// The budgets that looks begin with: it is taken before the lease, never waited for under it.
struct Purse {
    first: (Call, Booked),
    mint: Option<Booked>,
}

impl Purse {
    async fn open(tx: &mut Tx, kind: Kind, mints: bool) -> Result<Self, Error> {
        let first = match kind {
            Kind::Item => Call::AccountsGet,
            Kind::Business => Call::Layer,
        };
        let mint = if mints { Some(tx.lock_budget(Call::Mint).await?) } else { None };
        Ok(Self { first: (first, tx.lock_budget(first).await?), mint })
    }

    /// None: too early for a row of this urgency.
    fn afford(&mut self, tx: &Tx, row: &Due, holder: Holder<'_>, limits: &Limits) -> Option<Vec<(Call, Instant)>> {
        let (ahead, now) = (horizon(row.urgency), tx.now());
        let (call, mut first) = self.first;
        let mut prepaid = vec![(call, tx.told + first.book(limits, call, now, ahead).ok()?)];
        if row.needs == Some(Call::Mint)
            && let Some(mint) = &mut self.mint
        {
            let lead = if row.urgency == Class::Person { Duration::ZERO } else { READS.min(holder.lease / 4) };
            prepaid.push((Call::Mint, tx.told + mint.book_ahead(limits, Call::Mint, now, ahead, lead).ok()?));
        }
        self.first = (call, first);
        Some(prepaid)
    }

    async fn close(self, tx: &mut Tx) -> Result<(), Error> {
        if let Some(mint) = self.mint {
            tx.save_budget(Call::Mint, &mint).await?;
        }
        tx.save_budget(self.first.0, &self.first.1).await
    }
}

impl Tx {
    /// Due rows, those whose next look has to mint or the others, locked until the end of this transaction.
    async fn due(&mut self, kind: Kind, mints: bool, limit: u32, turn: Turn) -> Result<Vec<Due>, Error> {
        // One class higher for each promotion time that it waited, but never as a person.
        let query = built(format!(
            "SELECT id, due_at, class, needs, CASE WHEN class = 0 THEN 0 WHEN class - ($3 - due_at) / $4 < 1 THEN 1
                 ELSE class - ($3 - due_at) / $4 END AS urgency
             FROM work WHERE kind = $1 AND due_at <= $3 AND (lease_until IS NULL OR lease_until <= $3)
                 AND (next_look IS NULL OR next_look <= $3) AND COALESCE(needs, '') {} $5
                 AND NOT EXISTS (SELECT 1 FROM pauses WHERE provider = $2)
             ORDER BY urgency, {} due_at LIMIT $6 {}",
            if mints { "=" } else { "<>" },
            if turn == Turn::Aged { "" } else { "class," },
            self.dialect.skip_locked()
        ));
        let query = query
            .bind(kind.as_str())
            .bind(provider_of(kind).as_str())
            .bind(self.now().0)
            .bind(domain::time::millis(PROMOTION))
            .bind(Call::Mint.as_str())
            .bind(i64::from(limit));
        let rows = self.rows(query).await?;
        let due = rows.iter().map(|row| {
            let needs = opt_parsed(row, "needs", |w| Call::from_word(&w).ok_or_else(|| format!("unknown call {w}")))?;
            let urgency = Class::from_rank(number(row, "urgency")?);
            let class = Class::from_rank(number(row, "class")?);
            Ok(Due { id: text(row, "id")?, urgency, class, due_at: number(row, "due_at")?, needs })
        });
        due.collect()
    }

    async fn take(
        &mut self,
        kind: Kind,
        due: Due,
        prepaid: Vec<(Call, Instant)>,
        holder: Holder<'_>,
        limits: &Limits,
    ) -> Result<Claim, Error> {
        let (at_once, each) = match kind {
            Kind::Item => limits.pace(),
            Kind::Business => (Duration::ZERO, Duration::ZERO),
        };
        let sql = "UPDATE work SET epoch = epoch + 1, lease_owner = $1, lease_until = $2, due_at = $2, looked_at = $3,
                taken_over = CASE WHEN held = 1 THEN $3 ELSE taken_over END, held = 1,
                next_look = $7 + CASE WHEN next_look IS NULL OR next_look < $6 THEN $6 ELSE next_look END
            WHERE kind = $4 AND id = $5
            RETURNING epoch, wanted, class, reason, attempts, permit, signal_at, traceparent, taken_over";
        let query = sqlx::query(sql)
            .bind(holder.owner.to_owned())
            .bind(self.now().plus(holder.lease).0)
            .bind(self.now().0)
            .bind(kind.as_str())
            .bind(due.id.clone())
            .bind(self.now().minus(at_once).0)
            .bind(domain::time::millis(each));
        let row = self.row(query).await?.ok_or_else(|| Error::Corrupt("a locked row vanished".into()))?;
        Ok(Claim {
            kind,
            id: due.id,
            epoch: number(&row, "epoch")?,
            wanted: number(&row, "wanted")?,
            class: Class::from_rank(number(&row, "class")?),
            reason: text(&row, "reason")?,
            attempts: u32::try_from(number(&row, "attempts")?).unwrap_or(u32::MAX),
            taken_over: opt_time(&row, "taken_over")?.map(|at| self.now().since(at)),
            permit: number(&row, "permit")? == 1,
            signal_at: opt_time(&row, "signal_at")?,
            traceparent: opt_text(&row, "traceparent")?,
            urgency: due.urgency,
            prepaid,
            owner: holder.owner.to_owned(),
            deadline: holder.deadline,
        })
    }
}
