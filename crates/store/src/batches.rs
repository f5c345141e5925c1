//! Orders for every row that is kept for one cause: how far each is, who works on it, and that no row is counted twice.

use crate::sql::{get, number, opt_text, sql, text};
use crate::{Error, Page, Tx};
use domain::Millis;
use domain::work::BatchState;
use sqlx::any::AnyRow;
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
    /// Rows that could be released at this moment.
    pub eligible: u64,
    /// All of them were counted.
    pub is_counted: bool,
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
    /// Rows that could be released when it was ordered.
    pub eligible: u64,
    /// All of them were counted.
    pub is_counted: bool,
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
    pub ordered_at: Millis,
    /// The row after which it goes on. None: it has not begun.
    pub position: Option<String>,
    epoch: i64,
}

impl Tx {
    /// Orders it: its id, which is that of the one that runs for the same cause if there is one.
    pub async fn order_batch(&mut self, new: &NewBatch<'_>) -> Result<(String, bool), Error> {
        let sql =
            "INSERT INTO batches (id, code, reason, ordered_by, ordered_from, ordered_at, state, eligible, counted)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (code) WHERE state = 'running' DO NOTHING";
        let NewBatch { code, reason, by, from, eligible, is_counted } = *new;
        let id = uuid::Uuid::now_v7().to_string();
        let eligible = i64::try_from(eligible).unwrap_or(i64::MAX);
        let (now, state) = (self.now(), BatchState::Running);
        let ordered = self.run(sql!(sql, id, code, reason, by, from, now, state, eligible, is_counted)).await?;
        if ordered > 0 {
            return Ok((id, true));
        }
        // Or it ended between the two: there is none of this id.
        Ok((self.running_batch(code).await?.unwrap_or(id), false))
    }

    /// The id of the one that runs for this cause.
    pub async fn running_batch(&mut self, code: &str) -> Result<Option<String>, Error> {
        let row = self.row(sql!("SELECT id FROM batches WHERE code = $1 AND state = 'running'", code)).await?;
        row.map(|row| text(&row, "id")).transpose()
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

    /// Takes one that runs and that nobody works on, for `lease`: after that another process may.
    pub async fn take_batch(&mut self, lease: Duration) -> Result<Option<TakenBatch>, Error> {
        let (now, lock) = (self.now(), self.dialect.skip_locked());
        let sql = format!(
            "UPDATE batches SET epoch = epoch + 1, taken_until = $1 WHERE id IN (SELECT id FROM batches
                WHERE state = 'running' AND (taken_until IS NULL OR taken_until < $2) ORDER BY code LIMIT 1 {lock})
            RETURNING *"
        );
        let taken = self.row(sql!(crate::sql::built(sql), now.plus(lease), now)).await?;
        taken.as_ref().map(taken_row).transpose()
    }

    /// Whether there is one that nobody works on.
    pub async fn is_batch_waiting(&mut self) -> Result<bool, Error> {
        let sql =
            "SELECT 1 AS n FROM batches WHERE state = 'running' AND (taken_until IS NULL OR taken_until < $1) LIMIT 1";
        Ok(self.row(sql!(sql, self.now())).await?.is_some())
    }

    /// Counts a row that is released in this transaction. False: it was cancelled, or somebody else works on it.
    pub async fn count_released(&mut self, taken: &TakenBatch) -> Result<bool, Error> {
        let sql = "UPDATE batches SET released = released + 1 WHERE id = $1 AND epoch = $2 AND state = 'running'";
        Ok(self.run(sql!(sql, taken.id, taken.epoch)).await? > 0)
    }

    /// All up to `position` were looked at, and these were left alone. False: it was cancelled, or somebody else works on it.
    pub async fn advance_batch(
        &mut self,
        taken: &TakenBatch,
        position: &str,
        left: LeftAlone,
        lease: Duration,
    ) -> Result<bool, Error> {
        let until = self.now().plus(lease);
        let [paused, held, failed] =
            [left.paused, left.held, left.failed].map(|n| i64::try_from(n).unwrap_or(i64::MAX));
        let sql = "UPDATE batches SET position = $3, paused = paused + $4, held = held + $5, failed = failed + $6, taken_until = $7
            WHERE id = $1 AND epoch = $2 AND state = 'running'";
        Ok(self.run(sql!(sql, taken.id, taken.epoch, position, paused, held, failed, until)).await? > 0)
    }

    /// All of them were looked at.
    pub async fn end_batch(&mut self, taken: &TakenBatch) -> Result<(), Error> {
        let sql = "UPDATE batches SET state = $3, ended_at = $4, position = NULL, taken_until = NULL
            WHERE id = $1 AND epoch = $2 AND state = 'running'";
        self.run(sql!(sql, taken.id, taken.epoch, BatchState::Done, self.now())).await.map(drop)
    }

    /// This process stops: another one may go on at once.
    pub async fn give_back_batch(&mut self, taken: &TakenBatch) -> Result<(), Error> {
        let sql = "UPDATE batches SET taken_until = NULL WHERE id = $1 AND epoch = $2";
        self.run(sql!(sql, taken.id, taken.epoch)).await.map(drop)
    }

    /// No further row is released. False: it runs no longer.
    pub async fn cancel_batch(&mut self, id: &str, by: &str) -> Result<bool, Error> {
        let sql = "UPDATE batches SET state = $2, ended_at = $3, cancelled_by = $4, position = NULL, taken_until = NULL
            WHERE id = $1 AND state = 'running'";
        Ok(self.run(sql!(sql, id, BatchState::Cancelled, self.now(), by)).await? > 0)
    }

    /// Deletes what was ordered longer ago and has ended.
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
        eligible: count(row, "eligible")?,
        is_counted: get(row, "counted")?,
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
        ordered_at: get(row, "ordered_at")?,
        position: opt_text(row, "position")?,
        epoch: number(row, "epoch")?,
    })
}
