//! What is known of a customer goes for good, once nothing of it is in a list or on its way into one.

use crate::businesses::BusinessRow;
use crate::sql::{sql, text};
use crate::{Claim, Error, Tx};
use domain::work::Subject;
use domain::{BusinessId, ItemId, Millis};
use std::time::Duration;

/// What was on its way when an Item was removed, or a list last sent, has come or is lost by then: no lease and no request
/// lasts as long.
const SETTLING: Duration = Duration::from_mins(15);

/// How an order to erase ended. Commit only [`Erasure::Done`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Erasure {
    Done,
    /// There is no such row.
    Unknown,
    /// What has to happen first.
    Refused(String),
}

impl Tx {
    /// Deletes every row about an Item that the platform removed, once each list that it was in was read back without it:
    /// until then these rows are what knows that a token has to leave. `unconfirmed` does not ask for that, for a business
    /// that Layer does not have any more.
    pub async fn erase_item(&mut self, id: &ItemId, unconfirmed: bool) -> Result<Erasure, Error> {
        // First, so that nobody claims or marks the row meanwhile.
        let was_due = self.erase_work(&id.into()).await?;
        let was_unknown = self.delete("DELETE FROM unknown_items WHERE item_id = $1", id.as_str()).await? > 0;
        let Some(item) = self.item(id).await? else {
            if !was_due && !was_unknown {
                return Ok(Erasure::Unknown);
            }
            self.erase_traces(&id.into()).await?;
            return Ok(Erasure::Done);
        };
        if !item.is_offboarded() {
            return Ok(Erasure::Refused(format!("remove it first: rekey item remove {id}")));
        }
        if let Some(why) = self.settles("it was removed", item.state_since) {
            return Ok(Erasure::Refused(why));
        }
        for business in self.businesses_of_item(id).await? {
            let Some(row) = self.business(&business).await? else { continue };
            if let Some(why) = self.unsettled(&row, Some(item.state_since)).await?.filter(|_| !unconfirmed) {
                return Ok(Erasure::Refused(format!("the list of {business} was not read back without it: {why}")));
            }
        }
        self.touch_businesses_of(id).await?;
        let accounts: Vec<_> = self.accounts(id).await?.into_iter().map(|a| a.id).collect();
        let businesses = self.businesses_of_item(id).await?;
        self.cloak_history_of_item(id, &accounts, &businesses).await?;
        for business in &businesses {
            self.delete("DELETE FROM plans WHERE business_id = $1", business.as_str()).await?;
        }
        for table in ["accounts", "assignments", "access_tokens", "processor_tokens", "hints", "plaid_views", "items"] {
            self.delete(&format!("DELETE FROM {table} WHERE item_id = $1"), id.as_str()).await?;
        }
        self.erase_traces(&id.into()).await?;
        Ok(Erasure::Done)
    }

    /// Deletes every row about a business that no Item names any more, once nothing can change its list any more.
    pub async fn erase_business(&mut self, id: &BusinessId, unconfirmed: bool) -> Result<Erasure, Error> {
        let Some(row) = self.business(id).await? else { return Ok(Erasure::Unknown) };
        let unsettled = self.unsettled(&row, row.put_at).await?;
        self.erase_work(&id.into()).await?;
        // Before the Items are looked for: whoever names the business meanwhile waits, or is seen.
        self.delete("DELETE FROM businesses WHERE business_id = $1", id.as_str()).await?;
        let sql = "SELECT item_id FROM items WHERE business_id = $1
            UNION SELECT item_id FROM accounts WHERE business_id = $1
            UNION SELECT item_id FROM accounts WHERE moving_from = $1
            UNION SELECT item_id FROM assignments WHERE business_id = $1 ORDER BY 1 LIMIT 5";
        let rows = self.rows(sql!(sql, id)).await?;
        let items = rows.iter().map(|r| text(r, "item_id")).collect::<Result<Vec<_>, _>>()?;
        if !items.is_empty() {
            let items = items.join(", ");
            return Ok(Erasure::Refused(format!(
                "Items name it, remove and erase those of this customer first: {items}"
            )));
        }
        if let Some(why) = unsettled.or_else(|| self.settles("its list was sent", row.put_at?)).filter(|_| !unconfirmed)
        {
            return Ok(Erasure::Refused(why));
        }
        for table in ["removals", "token_words", "plans"] {
            self.delete(&format!("DELETE FROM {table} WHERE business_id = $1"), id.as_str()).await?;
        }
        self.cloak_history_of_business(id).await?;
        self.erase_traces(&id.into()).await?;
        Ok(Erasure::Done)
    }

    /// Deletes the row of a claim about nothing: what it was about was erased.
    pub async fn forget(&mut self, claim: &Claim) -> Result<(), Error> {
        self.check_lease(claim).await?;
        self.erase_work(&claim.subject).await?;
        Ok(())
    }

    fn settles(&self, what: &str, since: Millis) -> Option<String> {
        let left = SETTLING.checked_sub(self.now().since(since)).filter(|left| !left.is_zero())?;
        let minutes = left.as_secs().div_ceil(60);
        Some(format!("{what} a short time ago, and what was on its way may still come: try again in {minutes} minutes"))
    }

    /// Why the list at Layer may still be, or become, another one than the last that was read back after `since`.
    async fn unsettled(&mut self, row: &BusinessRow, since: Option<Millis>) -> Result<Option<String>, Error> {
        if row.layer_id.is_none() && row.put_at.is_none() && row.accepted.is_empty() {
            // It never was at Layer.
            return Ok(None);
        }
        let work = self.work(&row.id).await?;
        let waits = work.as_ref().and_then(|w| match &w.blocked {
            Some(blocked) => Some(format!("{} waits ({}: {})", row.id, blocked.code, blocked.why)),
            None if w.lease.is_some() => Some(format!("{} is being looked at", row.id)),
            None if w.wanted > w.done => Some(format!("{} is due", row.id)),
            None if w.taken_over.is_some() => {
                Some(format!("a list that was not answered may still arrive for {}", row.id))
            }
            None => None,
        });
        let confirmed = row.converged_at.is_some_and(|at| since.is_none_or(|since| at >= since));
        let never = || (!confirmed).then(|| format!("no reconciliation of {} has ended well since", row.id));
        Ok(waits.or_else(never))
    }

    /// Whether there was one.
    async fn erase_work(&mut self, subject: &Subject) -> Result<bool, Error> {
        self.touch(subject);
        let sql = "DELETE FROM work WHERE kind = $1 AND id = $2";
        Ok(self.run(sql!(sql, subject.kind(), subject.id())).await? > 0)
    }

    /// What stands about it in tables of other things.
    async fn erase_traces(&mut self, subject: &Subject) -> Result<(), Error> {
        self.unsuspect(subject).await?;
        self.forget_in_batches(subject).await?;
        self.pseudonymise(subject).await
    }

    async fn delete(&mut self, sql: &str, id: &str) -> Result<u64, Error> {
        self.run(sql!(sqlx::AssertSqlSafe(sql.to_owned()), id)).await
    }
}
