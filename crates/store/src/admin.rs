//! What operators list and what they did: pages, unknown Items, the audit trail.

use crate::businesses::{BusinessRow, business_row};
use crate::items::{ItemRow, item_row};
use crate::queue::{WorkRow, work_row};
use crate::tx::{number, opt_text, text};
use crate::{Error, Tx};
use domain::Millis;
use serde::Serialize;

/// A page of a list: at most `limit` rows after the id `after`.
#[derive(Debug, Clone)]
pub struct Page {
    pub after: Option<String>,
    pub limit: u32,
}

/// An Item that webhooks named and nobody pushed.
#[derive(Debug, Clone)]
pub struct UnknownItem {
    pub item: String,
    pub first_seen: Millis,
    pub last_seen: Millis,
    pub seen: i64,
}

/// A mint that reached no list.
#[derive(Debug, Clone)]
pub struct Orphan {
    pub id: String,
    pub item: String,
    pub account: String,
    pub generation: i64,
    pub intended_at: Millis,
    /// None: its answer was never seen.
    pub fingerprint: Option<String>,
}

/// Something an operator or the platform did.
#[derive(Debug, Clone, Serialize)]
pub struct AuditEntry {
    pub actor: String,
    pub action: String,
    pub subject: String,
    pub detail: String,
    pub at: Millis,
}

impl Tx {
    pub async fn list_items(&mut self, page: &Page) -> Result<Vec<ItemRow>, Error> {
        let sql = "SELECT * FROM items WHERE item_id > $1 ORDER BY item_id LIMIT $2";
        let rows = self.rows(paged(sql, page)).await?;
        rows.iter().map(item_row).collect()
    }

    pub async fn list_businesses(&mut self, page: &Page) -> Result<Vec<BusinessRow>, Error> {
        let sql = "SELECT * FROM businesses WHERE business_id > $1 ORDER BY business_id LIMIT $2";
        let rows = self.rows(paged(sql, page)).await?;
        rows.iter().map(business_row).collect()
    }

    /// Parked and held rows: what waits for a person. The cursor is `kind/id`.
    pub async fn list_parked(&mut self, page: &Page) -> Result<Vec<WorkRow>, Error> {
        let sql = "SELECT * FROM work WHERE blocked_by IN ('parked', 'hold') AND kind || '/' || id > $1
            ORDER BY kind || '/' || id LIMIT $2";
        let rows = self.rows(paged(sql, page)).await?;
        rows.iter().map(work_row).collect()
    }

    pub async fn list_unknown_items(&mut self, page: &Page) -> Result<Vec<UnknownItem>, Error> {
        let sql = "SELECT * FROM unknown_items WHERE item_id > $1 ORDER BY item_id LIMIT $2";
        let rows = self.rows(paged(sql, page)).await?;
        rows.iter()
            .map(|r| {
                Ok(UnknownItem {
                    item: text(r, "item_id")?,
                    first_seen: Millis(number(r, "first_seen")?),
                    last_seen: Millis(number(r, "last_seen")?),
                    seen: number(r, "seen")?,
                })
            })
            .collect()
    }

    /// Mints whose answer nobody has, or that came too late: at Plaid a token may exist that is in no list. Newest last.
    pub async fn list_orphans(&mut self, page: &Page) -> Result<Vec<Orphan>, Error> {
        let sql = "SELECT id, item_id, account_id, generation, intended_at, fingerprint FROM processor_tokens
            WHERE state = 'orphaned' AND id > $1 ORDER BY id LIMIT $2";
        let rows = self.rows(paged(sql, page)).await?;
        rows.iter()
            .map(|r| {
                Ok(Orphan {
                    id: text(r, "id")?,
                    item: text(r, "item_id")?,
                    account: text(r, "account_id")?,
                    generation: number(r, "generation")?,
                    intended_at: Millis(number(r, "intended_at")?),
                    fingerprint: opt_text(r, "fingerprint")?,
                })
            })
            .collect()
    }

    /// Writes one audit entry, in the transaction of what it records.
    pub async fn audit(&mut self, actor: &str, action: &str, subject: &str, detail: &str) -> Result<(), Error> {
        let sql = "INSERT INTO audit (id, actor, action, subject, detail, at) VALUES ($1, $2, $3, $4, $5, $6)";
        let query = sqlx::query(sql)
            .bind(uuid::Uuid::now_v7().to_string())
            .bind(actor.to_owned())
            .bind(action.to_owned())
            .bind(subject.to_owned())
            .bind(detail.to_owned())
            .bind(self.now().0);
        self.run(query).await?;
        Ok(())
    }

    /// The newest audit entries about a subject.
    pub async fn audit_of(&mut self, subject: &str, limit: u32) -> Result<Vec<AuditEntry>, Error> {
        let sql = "SELECT * FROM audit WHERE subject = $1 ORDER BY id DESC LIMIT $2";
        let rows = self.rows(sqlx::query(sql).bind(subject.to_owned()).bind(i64::from(limit))).await?;
        rows.iter()
            .map(|r| {
                Ok(AuditEntry {
                    actor: text(r, "actor")?,
                    action: text(r, "action")?,
                    subject: text(r, "subject")?,
                    detail: text(r, "detail")?,
                    at: Millis(number(r, "at")?),
                })
            })
            .collect()
    }
}

fn paged(sql: &'static str, page: &Page) -> crate::tx::Query {
    sqlx::query(sql).bind(page.after.clone().unwrap_or_default()).bind(i64::from(page.limit))
}
