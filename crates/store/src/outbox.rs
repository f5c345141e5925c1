//! The outbox: what a committed change publishes is committed with it, and leaves at least once.

use crate::sql::{built, get, list, sql, text};
use crate::{Error, Tx};
use domain::Millis;
use sqlx::any::AnyRow;

/// An outcome to publish.
#[derive(Debug, Clone)]
pub struct Record<'a> {
    /// Records of one key stay in order.
    pub key: &'a str,
    /// The CloudEvents type, such as `rekey.business.verdict_changed`.
    pub kind: &'a str,
    pub subject: &'a str,
    pub payload: serde_json::Value,
    pub traceparent: Option<&'a str>,
}

/// A record that waits in the outbox.
#[derive(Debug, Clone)]
pub struct OutboxRow {
    pub id: String,
    pub topic: String,
    pub key: String,
    pub kind: String,
    pub subject: String,
    pub payload: String,
    pub traceparent: Option<String>,
    pub created_at: Millis,
}

impl Tx {
    /// Puts a record into the outbox, in the transaction that it tells of.
    pub async fn publish(&mut self, record: &Record<'_>) -> Result<(), Error> {
        let sql = "INSERT INTO outbox (id, topic, record_key, record_type, subject, payload, traceparent, created_at)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
        self.run(sql!(
            sql,
            uuid::Uuid::now_v7().to_string(),
            self.outcomes(),
            record.key,
            record.kind,
            record.subject,
            record.payload.to_string(),
            record.traceparent,
            self.now()
        ))
        .await?;
        self.tells = true;
        Ok(())
    }

    /// The oldest records. Whoever leases the outbox (see [`Tx::lease_chore`]) sends and then deletes them.
    pub async fn outbox(&mut self, limit: u32) -> Result<Vec<OutboxRow>, Error> {
        let sql = "SELECT * FROM outbox ORDER BY id LIMIT $1";
        let rows = self.rows(sql!(sql, limit)).await?;
        let read = |r: &AnyRow| {
            Ok(OutboxRow {
                id: text(r, "id")?,
                topic: text(r, "topic")?,
                key: text(r, "record_key")?,
                kind: text(r, "record_type")?,
                subject: text(r, "subject")?,
                payload: text(r, "payload")?,
                traceparent: get(r, "traceparent")?,
                created_at: get(r, "created_at")?,
            })
        };
        rows.iter().map(read).collect()
    }

    /// Kafka has acknowledged these.
    pub async fn published(&mut self, ids: &[String]) -> Result<(), Error> {
        let sql = format!("DELETE FROM outbox WHERE {}", self.dialect.among("id", 1));
        self.run(sql!(built(sql), list(ids))).await.map(drop)
    }

    /// Records that are not acknowledged yet.
    pub async fn outbox_length(&mut self) -> Result<i64, Error> {
        self.count(sql!("SELECT COUNT(*) AS n FROM outbox")).await
    }

    /// One process at a time does a chore of the whole fleet. Saves work only: two at once would publish twice, which
    /// at-least-once permits. Returns whether `owner` has it until `lasts` from now.
    pub async fn lease_chore(&mut self, chore: &str, owner: &str, lasts: std::time::Duration) -> Result<bool, Error> {
        let name = format!("turn_{chore}");
        let now = self.now();
        if let Some(held) = self.meta(&name).await? {
            let (holder, until) = held.rsplit_once(' ').unwrap_or((&held, "0"));
            if holder != owner && until.parse::<i64>().unwrap_or(0) > now.0 {
                return Ok(false);
            }
        }
        self.set_meta(&name, &format!("{owner} {}", now.plus(lasts).0)).await?;
        Ok(true)
    }
}
