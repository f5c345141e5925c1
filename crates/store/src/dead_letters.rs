//! What nobody could read, webhooks and records: where it is and why, never what it holds.

use crate::sql::{get, number, opt_text, sql, text};
use crate::{Error, Page, Tx};
use domain::Millis;
use sqlx::any::AnyRow;
use std::time::Duration;

/// What is known of something that could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    pub id: String,
    pub at: Millis,
    /// `receiver` or `intake`.
    pub from: String,
    /// Where the record is. None: it was a webhook, which stands nowhere.
    pub place: Option<Place>,
    pub reason: String,
    pub bytes: i64,
    pub sha256: String,
}

/// A record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub topic: String,
    pub partition: i64,
    pub offset: i64,
}

impl Tx {
    /// Notes one. The same record read twice is one.
    pub async fn note_dead_letter(&mut self, letter: &DeadLetter) -> Result<(), Error> {
        let sql = "INSERT INTO dead_letters (id, at, told_by, topic, part, position, reason, bytes, sha256)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (id) DO NOTHING";
        let DeadLetter { id, at, from, place, reason, bytes, sha256 } = letter;
        let topic = place.as_ref().map(|p| p.topic.clone());
        let (partition, offset) = (place.as_ref().map(|p| p.partition), place.as_ref().map(|p| p.offset));
        self.run(sql!(sql, id, at, from, topic, partition, offset, reason, bytes, sha256)).await.map(drop)
    }

    /// A page of those that nobody has looked at yet, by id.
    pub async fn list_dead_letters(&mut self, page: &Page) -> Result<Vec<DeadLetter>, Error> {
        let sql = "SELECT * FROM dead_letters WHERE dismissed_at IS NULL AND id > $1 ORDER BY id LIMIT $2";
        let rows = self.rows(sql!(sql, page.after.clone().unwrap_or_default(), page.limit)).await?;
        rows.iter().map(letter).collect()
    }

    /// Somebody has looked. None: there is none of this id.
    pub async fn dismiss_dead_letter(&mut self, id: &str) -> Result<Option<DeadLetter>, Error> {
        let sql = "UPDATE dead_letters SET dismissed_at = $2 WHERE id = $1 AND dismissed_at IS NULL RETURNING *";
        let row = self.row(sql!(sql, id, self.now())).await?;
        row.map(|r| letter(&r)).transpose()
    }

    /// Keeps the newest `most` of those that are younger than `kept`.
    pub async fn forget_old_dead_letters(&mut self, kept: Duration, most: u32) -> Result<u64, Error> {
        let old = self.run(sql!("DELETE FROM dead_letters WHERE at < $1", self.now().minus(kept))).await?;
        let sql =
            "DELETE FROM dead_letters WHERE at <= (SELECT at FROM dead_letters ORDER BY at DESC LIMIT 1 OFFSET $1)";
        Ok(old + self.run(sql!(sql, most)).await?)
    }
}

fn letter(row: &AnyRow) -> Result<DeadLetter, Error> {
    Ok(DeadLetter {
        id: text(row, "id")?,
        at: get(row, "at")?,
        from: text(row, "told_by")?,
        place: match opt_text(row, "topic")? {
            Some(topic) => Some(Place { topic, partition: number(row, "part")?, offset: number(row, "position")? }),
            None => None,
        },
        reason: text(row, "reason")?,
        bytes: number(row, "bytes")?,
        sha256: text(row, "sha256")?,
    })
}
