//! What operators list: pages of Items and businesses, what waits for a person, unknown Items, orphans.

use crate::businesses::{BusinessRow, business_row};
use crate::items::{ItemRow, item_row};
use crate::sql::{Query, built, get, list, number, sql, text};
use crate::work::work_row;
use crate::{Error, Tx};
use domain::Millis;
use domain::queue::Row;
use domain::verdict::State;
use domain::work::{Block, Kind};
use sqlx::any::AnyRow;
use std::cmp::Ordering;

/// A page of a list: at most `limit` rows after the id `after`.
#[derive(Debug, Clone)]
pub struct Page {
    /// Where the page before it ended. None: the first page.
    pub after: Option<String>,
    /// Rows of the page, at most.
    pub limit: u32,
}

/// An Item that webhooks named and nobody pushed.
#[derive(Debug, Clone)]
pub struct UnknownItem {
    pub item: String,
    pub first_seen: Millis,
    pub last_seen: Millis,
    /// How many webhooks named it.
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

impl Tx {
    /// A page of Items, by id.
    pub async fn list_items(&mut self, page: &Page) -> Result<Vec<ItemRow>, Error> {
        let sql = "SELECT * FROM items WHERE item_id > $1 ORDER BY item_id LIMIT $2";
        let rows = self.rows(paged(sql, page)).await?;
        rows.iter().map(item_row).collect()
    }

    /// A page of businesses, by id.
    pub async fn list_businesses(&mut self, page: &Page) -> Result<Vec<BusinessRow>, Error> {
        let sql = "SELECT * FROM businesses WHERE business_id > $1 ORDER BY business_id LIMIT $2";
        let rows = self.rows(paged(sql, page)).await?;
        rows.iter().map(business_row).collect()
    }

    /// These Items, in the order of their ids.
    pub async fn items(&mut self, ids: &[String]) -> Result<Vec<ItemRow>, Error> {
        self.named("items", "item_id", ids).await?.iter().map(item_row).collect()
    }

    /// These businesses, in the order of their ids.
    pub async fn businesses(&mut self, ids: &[String]) -> Result<Vec<BusinessRow>, Error> {
        self.named("businesses", "business_id", ids).await?.iter().map(business_row).collect()
    }

    async fn named(&mut self, table: &str, id: &str, ids: &[String]) -> Result<Vec<AnyRow>, Error> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let named = self.dialect.among(id, 1);
        let sql = format!("SELECT * FROM {table} WHERE {named} ORDER BY {id}");
        self.rows(sql!(built(sql), list(ids))).await
    }

    /// Parked and held rows, and Items with accounts whose mint is refused: what waits for a person. The cursor is
    /// `kind/id`.
    pub async fn list_parked(&mut self, page: &Page) -> Result<Vec<Row>, Error> {
        let (after_kind, after) = page.after.as_deref().and_then(|a| a.split_once('/')).unwrap_or(("", ""));
        let mut found = Vec::new();
        // In the order of their words, as the cursor has them.
        for kind in [Kind::Business, Kind::Item] {
            let after = match kind.as_str().cmp(after_kind) {
                Ordering::Less => continue,
                Ordering::Equal => after,
                Ordering::Greater => "",
            };
            let left = i64::from(page.limit) - i64::try_from(found.len()).unwrap_or(i64::MAX);
            if left > 0 {
                found.extend(self.parked(kind, after, left).await?);
            }
        }
        Ok(found)
    }

    async fn parked(&mut self, kind: Kind, after: &str, limit: i64) -> Result<Vec<Row>, Error> {
        // Each part is a stretch of an index; as one condition with OR the database reads all of `work` for each page.
        let part = |n: usize, from: &str| {
            format!("SELECT id FROM (SELECT w.id FROM {from} AND w.id > $2 ORDER BY w.id LIMIT $3) AS p{n}")
        };
        let blocked = |by: Block| format!("work w WHERE w.blocked_by = '{by}' AND w.kind = $1");
        let stands = |state: State| {
            format!(
                "verdicts v JOIN work w ON w.kind = v.kind AND w.id = v.id WHERE v.kind = $1 AND v.state = '{state}'
                 AND v.id > $2"
            )
        };
        let mut parts = vec![part(0, &blocked(Block::Parked)), part(1, &blocked(Block::Hold))];
        if kind == Kind::Item {
            parts.extend([part(2, &stands(State::Partly)), part(3, &stands(State::Refused))]);
        }
        let parts = parts.join(" UNION ");
        let sql = format!(
            "SELECT w.* FROM (SELECT id FROM ({parts}) AS ids ORDER BY id LIMIT $3) AS p
            JOIN work w ON w.kind = $1 AND w.id = p.id ORDER BY w.id"
        );
        let rows = self.rows(sql!(built(sql), kind, after, limit)).await?;
        rows.iter().map(work_row).collect()
    }

    /// A page of Items that webhooks name and nobody pushed.
    pub async fn list_unknown_items(&mut self, page: &Page) -> Result<Vec<UnknownItem>, Error> {
        let sql = "SELECT * FROM unknown_items WHERE item_id > $1 ORDER BY item_id LIMIT $2";
        let rows = self.rows(paged(sql, page)).await?;
        let read = |r: &AnyRow| {
            Ok(UnknownItem {
                item: text(r, "item_id")?,
                first_seen: get(r, "first_seen")?,
                last_seen: get(r, "last_seen")?,
                seen: number(r, "seen")?,
            })
        };
        rows.iter().map(read).collect()
    }

    /// Mints whose answer nobody has, or that came too late: at Plaid a token may exist that is in no list. Newest last.
    pub async fn list_orphans(&mut self, page: &Page) -> Result<Vec<Orphan>, Error> {
        let sql = "SELECT id, item_id, account_id, generation, intended_at, fingerprint FROM processor_tokens
            WHERE state = 'orphaned' AND id > $1 ORDER BY id LIMIT $2";
        let rows = self.rows(paged(sql, page)).await?;
        let read = |r: &AnyRow| {
            Ok(Orphan {
                id: text(r, "id")?,
                item: text(r, "item_id")?,
                account: text(r, "account_id")?,
                generation: number(r, "generation")?,
                intended_at: get(r, "intended_at")?,
                fingerprint: get(r, "fingerprint")?,
            })
        };
        rows.iter().map(read).collect()
    }
}

fn paged(sql: &'static str, page: &Page) -> Query {
    sql!(sql, page.after.clone().unwrap_or_default(), page.limit)
}
