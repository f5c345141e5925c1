//! Orders to look at many rows: the sweep over all of them, what observe mode left, what a business lacks. In slices: over a
//! large table one statement would hold the locks of all rows for longer than a lease.

use crate::sql::{built, sql, text};
use crate::{Error, Store, Tx};
use domain::work::{Class, Kind};
use domain::{BusinessId, Millis};
use std::time::Duration;

/// Rows in one transaction of a statement over all of them.
const MARKED_AT_ONCE: i64 = 1000;
/// In `meta`: since when a sweep over all Items is owed.
const OWED_SWEEP: &str = "owed_sweep";
const NOT_OWED: &str = "0";
/// In `meta`: when a consumer in observe mode was last at work.
const OBSERVED: &str = "observed_at";
const NEVER: &str = "-1";
const ACTED: &str = "acted_at";

impl Tx {
    /// Records were lost before they were read: whoever starts next orders a sweep, if it was not done.
    pub async fn owe_sweep(&mut self) -> Result<(), Error> {
        let since = self.now().0.to_string();
        self.set_meta(OWED_SWEEP, &since).await
    }

    /// Whether a sweep after a gap is ordered and not carried out.
    pub async fn owes_sweep(&mut self) -> Result<bool, Error> {
        Ok(self.meta(OWED_SWEEP).await?.is_some_and(|since| since != NOT_OWED))
    }

    /// What was owed when the sweep began; a gap that was found since owes another one.
    async fn forget_owed_sweep(&mut self, owed: Option<String>) -> Result<(), Error> {
        if owed.is_some() && self.meta(OWED_SWEEP).await? == owed {
            self.set_meta(OWED_SWEEP, NOT_OWED).await?;
        }
        Ok(())
    }

    /// A consumer in observe mode is at work: it plans and does nothing.
    pub async fn observes(&mut self) -> Result<(), Error> {
        let now = self.now().0.to_string();
        self.set_meta(OBSERVED, &now).await
    }

    /// A consumer in act mode is at work.
    pub async fn acts(&mut self) -> Result<(), Error> {
        let now = self.now().0.to_string();
        self.set_meta(ACTED, &now).await
    }

    /// Whether the last sign of life within that time was one of a consumer in observe mode.
    pub async fn is_observed(&mut self, within: Duration) -> Result<bool, Error> {
        let acted = self.meta(ACTED).await?.and_then(|at| at.parse().ok()).map_or(Millis(0), Millis);
        let since = self.now().minus(within);
        Ok(self.observed_at().await?.is_some_and(|at| at > since && at > acted))
    }

    /// When a consumer in observe mode was last at work; none if what it left was ordered since.
    pub async fn observed_at(&mut self) -> Result<Option<Millis>, Error> {
        let at = self.meta(OBSERVED).await?.and_then(|at| at.parse().ok());
        Ok(at.filter(|at| *at >= 0).map(Millis))
    }

    /// What it left is ordered. One that came meanwhile leaves more.
    pub async fn forget_observed(&mut self, at: Millis) -> Result<(), Error> {
        if self.observed_at().await? == Some(at) {
            self.set_meta(OBSERVED, NEVER).await?;
        }
        Ok(())
    }

    /// Makes the Items of a business due that have an account without a token of the current generation.
    pub async fn mark_unminted(&mut self, business: &BusinessId, reason: &str) -> Result<u64, Error> {
        let lacking = format!("kind = 'item' AND blocked_by IS NULL AND id IN ({})", unminted("a.business_id = $1"));
        self.lock_where(&lacking, |sql| sql!(built(sql), business)).await?;
        let items = unminted("a.business_id = $4");
        self.makes_due(Kind::Item);
        self.run(sql!(sooner(Kind::Item, &items), self.now(), reason, Class::NewAccount, business)).await
    }

    /// The last id of the next slice of rows, locked, that nothing blocks.
    async fn next_slice(&mut self, kind: Kind, after: &str) -> Result<Option<String>, Error> {
        let lock = self.dialect.for_update();
        let sql = format!(
            "SELECT id FROM work WHERE kind = $1 AND id > $2 AND blocked_by IS NULL ORDER BY id LIMIT $3 {lock}"
        );
        let rows = self.rows(sql!(built(sql), kind, after, MARKED_AT_ONCE)).await?;
        rows.last().map(|row| text(row, "id")).transpose()
    }
}

/// Items that have an account without a token of the current generation, of those that `of` names.
fn unminted(of: &str) -> String {
    format!(
        "SELECT a.item_id FROM accounts a JOIN items i ON i.item_id = a.item_id
        WHERE {of} AND a.business_id IS NOT NULL AND a.state = 'active' AND a.mint_fault IS NULL
          AND i.state IN ('active', 'login_required')
          AND NOT EXISTS (SELECT 1 FROM processor_tokens t WHERE t.item_id = a.item_id
              AND t.account_id = a.account_id AND t.state = 'live' AND t.generation = i.generation)"
    )
}

const NOT_GOOD: &str = "SELECT id FROM verdicts WHERE kind = 'business' AND id > $4 AND id <= $5
    AND state NOT IN ('converged', 'empty', 'gone')";

/// Makes these rows due now, unless they are already; `$1`: now; `$2`: why; `$3`: how urgent.
fn sooner(kind: Kind, ids: &str) -> sqlx::AssertSqlSafe<String> {
    built(format!(
        "UPDATE work SET wanted = wanted + 1, reason = $2, class = CASE WHEN class < $3 THEN class ELSE $3 END,
            due_at = CASE WHEN due_at IS NULL OR due_at > $1 THEN $1 ELSE due_at END
        WHERE kind = '{kind}' AND blocked_by IS NULL AND id IN ({ids})"
    ))
}

impl Store {
    /// Makes every row of a kind due within `spread`, in a stable pseudo-random order; for Items no sweep is owed any more
    /// then.
    pub async fn mark_all(&self, kind: Kind, spread: Duration, reason: &str) -> Result<u64, Error> {
        let (mut marked, mut last, mut owed) = (0, String::new(), None);
        loop {
            let mut tx = self.begin().await?;
            if last.is_empty() && kind == Kind::Item {
                owed = tx.meta(OWED_SWEEP).await?;
            }
            let Some(end) = tx.next_slice(kind, &last).await? else {
                tx.forget_owed_sweep(owed).await?;
                tx.commit().await?;
                return Ok(marked);
            };
            let sql = "UPDATE work SET wanted = wanted + 1, reason = $2,
                    due_at = CASE WHEN due_at IS NULL OR due_at > $3 + (epoch * 7919 + wanted * 104729) % $4
                        THEN $3 + (epoch * 7919 + wanted * 104729) % $4 ELSE due_at END
                WHERE kind = $1 AND blocked_by IS NULL AND id > $5 AND id <= $6";
            let (now, spread) = (tx.now().0, domain::time::millis(spread).max(1));
            marked += tx.run(sql!(sql, kind, reason, now, spread, last, end)).await?;
            tx.commit().await?;
            last = end;
        }
    }

    /// Makes due what observe mode planned and did not do: Items that have an account without a token of the current
    /// generation, and businesses that are not as they should be. Returns how many.
    pub async fn mark_observed(&self, reason: &str) -> Result<u64, Error> {
        let mut marked = 0;
        for (kind, ids) in
            [(Kind::Item, unminted("a.item_id > $4 AND a.item_id <= $5")), (Kind::Business, NOT_GOOD.into())]
        {
            let mut last = String::new();
            loop {
                let mut tx = self.begin().await?;
                let Some(end) = tx.next_slice(kind, &last).await? else {
                    tx.rollback().await?;
                    break;
                };
                tx.makes_due(kind);
                marked += tx.run(sql!(sooner(kind, &ids), tx.now(), reason, Class::NewAccount, last, end)).await?;
                tx.commit().await?;
                last = end;
            }
        }
        Ok(marked)
    }
}
