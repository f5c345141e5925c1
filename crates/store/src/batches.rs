//! Orders for every row that is kept for one cause: which rows are meant, how far each order is, who works on it, and that no row
//! is counted twice.

use crate::sql::{Query, built, get, number, opt_text, sql, text};
use crate::{Error, Page, Tx};
use domain::work::{BatchState, Kind, Subject};
use domain::{ItemId, Millis};
use sqlx::any::AnyRow;
use std::cmp::Ordering;
use std::net::IpAddr;
use std::time::Duration;

/// An order that is about to be given.
#[derive(Debug, Clone)]
pub struct NewBatch<'a> {
    /// What keeps the rows.
    pub code: &'a str,
    pub reason: Option<&'a str>,
    /// The name of an admin token.
    pub by: &'a str,
    pub from: IpAddr,
    /// What is said of a row since later is not meant.
    pub seen_at: Millis,
    /// Rows that are kept for the cause.
    pub meant: u64,
}

/// Rows that are kept for a cause.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OfCause {
    pub items: u64,
    pub businesses: u64,
    /// Of the businesses: an operator holds them.
    pub held: u64,
}

/// Rows of a cause that were left alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LeftAlone {
    /// Their provider is paused: what keeps them is not theirs.
    pub paused: u64,
    /// An operator holds them as well.
    pub held: u64,
    /// It did not work: the log says why.
    pub failed: u64,
}

/// An order, and how far it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchRow {
    pub id: String,
    pub code: String,
    pub reason: Option<String>,
    pub ordered_by: String,
    pub ordered_at: Millis,
    pub state: BatchState,
    pub ended_at: Option<Millis>,
    pub cancelled_by: Option<String>,
    /// Rows that were kept for the cause when it was ordered.
    pub meant: u64,
    pub released: u64,
    pub left: LeftAlone,
}

/// An order that this process works on, as long as nobody else has begun to.
#[derive(Debug, Clone)]
pub struct TakenBatch {
    pub id: String,
    pub code: String,
    pub reason: Option<String>,
    pub by: String,
    /// Where the order came from.
    pub from: IpAddr,
    /// What is said of a row since later is not meant.
    pub seen_at: Millis,
    /// The row after which it goes on. None: it has not begun.
    pub position: Option<String>,
    epoch: i64,
}

/// In the words of the index `work_causes`, or it does not serve.
const KEPT: &str = "w.blocked_by IN ('hold', 'parked') AND w.blocked_code = $1 AND w.said_at <= $2";
/// What waits for a person is not the row, but a mint that Plaid refuses, and that is not asked for again already. As the index
/// `accounts_refused_code` has it.
const REFUSED: &str = "a.mint_fault IS NOT NULL AND a.mint_code = $1 AND a.state = 'active' AND a.mint_again_at > 0
    AND COALESCE(a.mint_refused_at, 0) <= $2";
const UNKEPT: &str = "NOT EXISTS (SELECT 1 FROM work w
    WHERE w.kind = 'item' AND w.id = a.item_id AND w.blocked_by IS NOT NULL)";

impl Tx {
    /// How many rows are kept for this code, and were for the same before `seen_at`.
    pub async fn count_of_cause(&mut self, code: &str, seen_at: Millis) -> Result<OfCause, Error> {
        let kept = format!("SELECT COUNT(*) AS n FROM work w WHERE {KEPT} AND w.kind = $3");
        let of_kind = |kind: Kind| sql!(built(kept.clone()), code, seen_at, kind);
        let held = format!(
            "SELECT COUNT(*) AS n FROM businesses b JOIN work w ON w.kind = 'business' AND w.id = b.business_id
            WHERE b.kept_back IS NOT NULL AND {KEPT}"
        );
        let refused = format!("SELECT COUNT(DISTINCT a.item_id) AS n FROM accounts a WHERE {REFUSED} AND {UNKEPT}");
        Ok(OfCause {
            items: self.counted(of_kind(Kind::Item)).await? + self.counted(sql!(built(refused), code, seen_at)).await?,
            businesses: self.counted(of_kind(Kind::Business)).await?,
            held: self.counted(sql!(built(held), code, seen_at)).await?,
        })
    }

    async fn counted(&mut self, query: Query) -> Result<u64, Error> {
        Ok(u64::try_from(self.count(query).await?).unwrap_or_default())
    }

    /// Plaid refuses to mint for an account of the Item with this code, and did before `seen_at`.
    pub async fn is_refused_mint(&mut self, item: &ItemId, code: &str, seen_at: Millis) -> Result<bool, Error> {
        let sql = format!("SELECT 1 AS n FROM accounts a WHERE {REFUSED} AND a.item_id = $3 LIMIT 1");
        Ok(self.row(sql!(built(sql), code, seen_at, item)).await?.is_some())
    }

    /// Up to `limit` of them after this one, businesses first, each kind in the order of its ids.
    pub async fn rows_of_cause(
        &mut self,
        code: &str,
        seen_at: Millis,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<Subject>, Error> {
        let (after_kind, after) = after.and_then(|after| after.split_once('/')).unwrap_or(("", ""));
        let kept = format!("SELECT w.id FROM work w WHERE {KEPT} AND w.kind = $3 AND w.id > $4 ORDER BY w.id LIMIT $5");
        let refused = format!(
            "SELECT DISTINCT a.item_id AS id FROM accounts a WHERE {REFUSED} AND {UNKEPT} AND a.item_id > $4
            ORDER BY a.item_id LIMIT $5"
        );
        let mut found: Vec<Subject> = Vec::new();
        for kind in [Kind::Business, Kind::Item] {
            let after = match kind.as_str().cmp(after_kind) {
                Ordering::Less => continue,
                Ordering::Equal => after,
                Ordering::Greater => "",
            };
            let sql = match kind {
                Kind::Business => kept.clone(),
                // Sorted by the database, which may have an order of its own.
                Kind::Item => format!(
                    "SELECT id FROM (SELECT id FROM ({kept}) AS p0 UNION SELECT id FROM ({refused}) AS p1) AS ids
                    ORDER BY id LIMIT $5"
                ),
            };
            let left = limit.saturating_sub(u32::try_from(found.len()).unwrap_or(u32::MAX));
            for row in self.rows(sql!(built(sql), code, seen_at, kind, after, left)).await? {
                found.push(Subject::from_stored(kind, text(&row, "id")?));
            }
        }
        Ok(found)
    }

    /// Orders it. None: one runs for the same cause.
    pub async fn order_batch(&mut self, new: &NewBatch<'_>) -> Result<Option<String>, Error> {
        let sql = "INSERT INTO batches (id, code, reason, ordered_by, ordered_from, ordered_at, seen_at, state, meant, moved_at)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $6) ON CONFLICT (code) WHERE state = 'running' DO NOTHING";
        let NewBatch { code, reason, by, from, seen_at, meant } = *new;
        let id = uuid::Uuid::now_v7().to_string();
        let meant = i64::try_from(meant).unwrap_or(i64::MAX);
        let (now, state) = (self.now(), BatchState::Running);
        let ordered = self.run(sql!(sql, id, code, reason, by, from, now, seen_at, state, meant)).await?;
        Ok((ordered > 0).then_some(id))
    }

    /// The one that runs for this cause.
    pub async fn running_batch(&mut self, code: &str) -> Result<Option<BatchRow>, Error> {
        let sql = "SELECT * FROM batches WHERE code = $1 AND state = 'running'";
        self.row(sql!(sql, code)).await?.as_ref().map(batch_row).transpose()
    }

    /// The newest that this operator ordered on the same sight of the same cause: the form was sent twice.
    pub async fn same_batch(&mut self, code: &str, by: &str, seen_at: Millis) -> Result<Option<BatchRow>, Error> {
        let sql = "SELECT * FROM batches WHERE code = $1 AND seen_at = $2 AND ordered_by = $3 ORDER BY id DESC LIMIT 1";
        self.row(sql!(sql, code, seen_at, by)).await?.as_ref().map(batch_row).transpose()
    }

    /// One by its id, as long as it is kept.
    pub async fn batch(&mut self, id: &str) -> Result<Option<BatchRow>, Error> {
        let row = self.row(sql!("SELECT * FROM batches WHERE id = $1", id)).await?;
        row.as_ref().map(batch_row).transpose()
    }

    /// A page of them, the newest first.
    pub async fn list_batches(&mut self, page: &Page) -> Result<Vec<BatchRow>, Error> {
        // Ids are hexadecimal.
        let before = page.after.as_deref().unwrap_or("g");
        let sql = "SELECT * FROM batches WHERE id < $1 ORDER BY id DESC LIMIT $2";
        self.rows(sql!(sql, before, page.limit)).await?.iter().map(batch_row).collect()
    }

    /// Those that run, and the newest of those that ended since; the newest first.
    pub async fn recent_batches(&mut self, since: Millis) -> Result<Vec<BatchRow>, Error> {
        let sql = "SELECT * FROM batches WHERE state = 'running' UNION ALL
            SELECT * FROM (SELECT * FROM batches WHERE ended_at > $1 ORDER BY ended_at DESC LIMIT 20) AS p0";
        let mut rows = self.rows(sql!(sql, since)).await?.iter().map(batch_row).collect::<Result<Vec<_>, _>>()?;
        rows.sort_by(|a, b| b.id.cmp(&a.id));
        Ok(rows)
    }

    /// Whether there is one that nobody works on.
    pub async fn is_batch_waiting(&mut self) -> Result<bool, Error> {
        let sql =
            "SELECT 1 AS n FROM batches WHERE state = 'running' AND (taken_until IS NULL OR taken_until < $1) LIMIT 1";
        Ok(self.row(sql!(sql, self.now())).await?.is_some())
    }

    /// Takes the one that nobody has worked on for longest, for `lease`: after that another process may.
    pub async fn take_batch(&mut self, lease: Duration) -> Result<Option<TakenBatch>, Error> {
        let (now, lock) = (self.now(), self.dialect.skip_locked());
        let sql = format!(
            "UPDATE batches SET epoch = epoch + 1, taken_until = $1 WHERE id = (SELECT id FROM batches
                WHERE state = 'running' AND (taken_until IS NULL OR taken_until < $2) ORDER BY moved_at, id LIMIT 1 {lock})
            RETURNING *"
        );
        let taken = self.row(sql!(built(sql), now.plus(lease), now)).await?;
        taken.as_ref().map(taken_row).transpose()
    }

    /// Counts a row that is released in this transaction, and keeps the order for `lease`. False: it was cancelled, or somebody else
    /// works on it.
    pub async fn count_released(&mut self, taken: &TakenBatch, lease: Duration) -> Result<bool, Error> {
        let sql = "UPDATE batches SET released = released + 1, taken_until = $3
            WHERE id = $1 AND epoch = $2 AND state = 'running'";
        Ok(self.run(sql!(sql, taken.id, taken.epoch, self.now().plus(lease))).await? > 0)
    }

    /// All up to `position` were looked at, and these were left alone; None: there are no more. Whoever has waited longest goes on.
    /// False: it was cancelled, or somebody else works on it.
    pub async fn advance_batch(
        &mut self,
        taken: &TakenBatch,
        position: Option<&str>,
        left: LeftAlone,
    ) -> Result<bool, Error> {
        let now = self.now();
        let [paused, held, failed] =
            [left.paused, left.held, left.failed].map(|n| i64::try_from(n).unwrap_or(i64::MAX));
        let (state, ended_at) = match position {
            Some(_) => (BatchState::Running, None),
            None => (BatchState::Done, Some(now)),
        };
        let sql = "UPDATE batches SET position = $3, paused = paused + $4, held = held + $5, failed = failed + $6, state = $7,
            ended_at = $8, moved_at = $9, taken_until = NULL WHERE id = $1 AND epoch = $2 AND state = 'running'";
        let moved = sql!(sql, taken.id, taken.epoch, position, paused, held, failed, state, ended_at, now);
        Ok(self.run(moved).await? > 0)
    }

    /// It is left where it is: others go first, and any process may go on in a while.
    pub async fn put_batch_off(&mut self, taken: &TakenBatch, pause: Duration) -> Result<(), Error> {
        let sql =
            "UPDATE batches SET taken_until = $3, moved_at = $4 WHERE id = $1 AND epoch = $2 AND state = 'running'";
        let now = self.now();
        self.run(sql!(sql, taken.id, taken.epoch, now.plus(pause), now)).await.map(drop)
    }

    /// No further row is released. False: it runs no longer.
    pub async fn cancel_batch(&mut self, id: &str, by: &str) -> Result<bool, Error> {
        let sql = "UPDATE batches SET state = $2, ended_at = $3, cancelled_by = $4, position = NULL, taken_until = NULL
            WHERE id = $1 AND state = 'running'";
        Ok(self.run(sql!(sql, id, BatchState::Cancelled, self.now(), by)).await? > 0)
    }

    /// A row is erased: an order that stands at it looks through all of them once more.
    pub(crate) async fn forget_in_batches(&mut self, subject: &Subject) -> Result<(), Error> {
        let sql = "UPDATE batches SET position = NULL, paused = 0, held = 0, failed = 0, epoch = epoch + 1, taken_until = NULL
            WHERE state = 'running' AND position = $1";
        self.run(sql!(sql, subject.to_string())).await.map(drop)
    }

    /// Deletes what has ended longer ago.
    pub async fn forget_old_batches(&mut self, kept: Duration) -> Result<u64, Error> {
        let before = self.now().minus(kept);
        self.run(sql!("DELETE FROM batches WHERE ended_at < $1", before)).await
    }
}

fn count(row: &AnyRow, column: &str) -> Result<u64, Error> {
    Ok(u64::try_from(number(row, column)?).unwrap_or_default())
}

fn batch_row(row: &AnyRow) -> Result<BatchRow, Error> {
    let left = LeftAlone { paused: count(row, "paused")?, held: count(row, "held")?, failed: count(row, "failed")? };
    Ok(BatchRow {
        id: text(row, "id")?,
        code: text(row, "code")?,
        reason: opt_text(row, "reason")?,
        ordered_by: text(row, "ordered_by")?,
        ordered_at: get(row, "ordered_at")?,
        state: get(row, "state")?,
        ended_at: get(row, "ended_at")?,
        cancelled_by: opt_text(row, "cancelled_by")?,
        meant: count(row, "meant")?,
        released: count(row, "released")?,
        left,
    })
}

fn taken_row(row: &AnyRow) -> Result<TakenBatch, Error> {
    Ok(TakenBatch {
        id: text(row, "id")?,
        code: text(row, "code")?,
        reason: opt_text(row, "reason")?,
        by: text(row, "ordered_by")?,
        from: get(row, "ordered_from")?,
        seen_at: get(row, "seen_at")?,
        position: opt_text(row, "position")?,
        epoch: number(row, "epoch")?,
    })
}
