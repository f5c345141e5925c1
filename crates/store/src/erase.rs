//! What is known of a customer goes for good, once nothing of it is in a list.

use crate::tx::{number, text};
use crate::{Error, Tx};
use domain::work::Kind;
use domain::{BusinessId, ItemId};

/// How an order to erase ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Erasure {
    Done,
    /// There is no such row.
    Unknown,
    /// Nothing was erased: what has to happen first.
    Refused(String),
}

impl Tx {
    /// Deletes every row about an Item that the platform removed, once each list that it was in is known to be without
    /// it. Until then a row is what knows that a token has to leave a list. Commit only [`Erasure::Done`].
    pub async fn erase_item(&mut self, id: &ItemId) -> Result<Erasure, Error> {
        // First, so that nobody claims or marks the row meanwhile.
        self.erase_work(Kind::Item, id.as_str()).await?;
        let Some(item) = self.item(id).await? else { return Ok(Erasure::Unknown) };
        if !item.is_offboarded() {
            return Ok(Erasure::Refused(format!("remove it first: rekey item remove {id}")));
        }
        for business in self.businesses_of_item(id).await? {
            if self.may_be_listed(id, &business).await? {
                let why =
                    format!("the list of {business} is not known to be without it: see rekey business show {business}");
                return Ok(Erasure::Refused(why));
            }
        }
        for table in ["accounts", "assignments", "access_tokens", "processor_tokens", "hints", "unknown_items", "items"]
        {
            self.delete(&format!("DELETE FROM {table} WHERE item_id = $1"), id.as_str()).await?;
        }
        self.erase_traces(Kind::Item, id.as_str()).await?;
        Ok(Erasure::Done)
    }

    /// Deletes every row about a business that no Item names any more. Commit only [`Erasure::Done`].
    pub async fn erase_business(&mut self, id: &BusinessId) -> Result<Erasure, Error> {
        self.erase_work(Kind::Business, id.as_str()).await?;
        let sql = "SELECT item_id FROM items WHERE business_id = $1
            UNION SELECT item_id FROM accounts WHERE business_id = $1 OR moving_from = $1
            UNION SELECT item_id FROM assignments WHERE business_id = $1 ORDER BY 1 LIMIT 5";
        let rows = self.rows(sqlx::query(sql).bind(id.as_str().to_owned())).await?;
        let items = rows.iter().map(|r| text(r, "item_id")).collect::<Result<Vec<_>, _>>()?;
        if !items.is_empty() {
            return Ok(Erasure::Refused(format!("remove and erase its Items first: {}", items.join(", "))));
        }
        if self.delete("DELETE FROM businesses WHERE business_id = $1", id.as_str()).await? == 0 {
            return Ok(Erasure::Unknown);
        }
        self.delete("DELETE FROM removals WHERE business_id = $1", id.as_str()).await?;
        self.erase_traces(Kind::Business, id.as_str()).await?;
        Ok(Erasure::Done)
    }

    /// Whether a token of the Item is in the list that Layer accepted last, or in one that is on its way.
    async fn may_be_listed(&mut self, item: &ItemId, business: &BusinessId) -> Result<bool, Error> {
        let Some(row) = self.business(business).await? else { return Ok(false) };
        let served = self.work(Kind::Business, business.as_str()).await?.is_none_or(|w| w.is_served());
        let sql = "SELECT fingerprint FROM processor_tokens WHERE item_id = $1 AND fingerprint IS NOT NULL";
        let rows = self.rows(sqlx::query(sql).bind(item.as_str().to_owned())).await?;
        let tokens = rows.iter().map(|r| text(r, "fingerprint")).collect::<Result<Vec<_>, _>>()?;
        let listed = tokens.iter().any(|t| row.accepted.iter().any(|a| a.to_string() == *t));
        Ok(listed || !served)
    }

    async fn erase_work(&mut self, kind: Kind, id: &str) -> Result<(), Error> {
        let sql = "DELETE FROM work WHERE kind = $1 AND id = $2 RETURNING epoch";
        let row = self.row(sqlx::query(sql).bind(kind.as_str()).bind(id.to_owned())).await?;
        let Some(row) = row else { return Ok(()) };
        // A row of the same name begins behind it: who still works under an old epoch must not be taken for a new holder.
        let sql = "INSERT INTO meta (name, value) VALUES ('epoch_floor', $1) ON CONFLICT (name) DO UPDATE SET value =
            CASE WHEN CAST(meta.value AS BIGINT) < CAST($1 AS BIGINT) THEN $1 ELSE meta.value END";
        self.run(sqlx::query(sql).bind(number(&row, "epoch")?.to_string())).await?;
        Ok(())
    }

    /// What stands about it in tables of other things.
    async fn erase_traces(&mut self, kind: Kind, id: &str) -> Result<(), Error> {
        let suspicions = sqlx::query("DELETE FROM suspicions WHERE kind = $1 AND id = $2");
        self.run(suspicions.bind(kind.as_str()).bind(id.to_owned())).await?;
        self.delete("DELETE FROM audit WHERE subject = $1", id).await?;
        Ok(())
    }

    async fn delete(&mut self, sql: &str, id: &str) -> Result<u64, Error> {
        let query = sqlx::query(sqlx::AssertSqlSafe(sql.to_owned())).bind(id.to_owned());
        self.run(query).await
    }
}
