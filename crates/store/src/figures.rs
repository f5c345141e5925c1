//! What metrics show of the store. Asked every few seconds by each consumer, so every count stands on an index.

use crate::queue::provider_of;
use crate::tx::{number, opt_parsed, opt_time, parsed, text};
use crate::{Error, Tx};
use domain::Millis;
use domain::budget::Call;
use domain::work::{Block, Class, Kind};
use std::time::Duration;

/// Rows of one urgency that are due and that nobody works on.
#[derive(Debug, Clone, Copy)]
pub struct DueRows {
    pub class: Class,
    pub rows: i64,
    pub oldest: Duration,
}

/// Businesses whose list at Layer may not be what it should be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AtRisk {
    pub businesses: i64,
    /// For how long, the one that waits longest.
    pub oldest: Duration,
}

impl Tx {
    pub async fn due_rows(&mut self, kind: Kind) -> Result<Vec<DueRows>, Error> {
        let sql = "SELECT class, COUNT(*) AS due, MIN(due_at) AS oldest FROM work
            WHERE kind = $1 AND due_at <= $2 AND (lease_until IS NULL OR lease_until <= $2) GROUP BY class";
        let now = self.now();
        let rows = self.rows(sqlx::query(sql).bind(kind.as_str()).bind(now.0)).await?;
        let due = rows.iter().map(|r| {
            let (class, oldest) = (Class::from_rank(number(r, "class")?), now.since(Millis(number(r, "oldest")?)));
            Ok(DueRows { class, rows: number(r, "due")?, oldest })
        });
        due.collect()
    }

    /// How long the oldest row has waited that [`crate::Store::claim`] would take now. `is_spent` tells of which calls
    /// there is no budget: a row that needs one waits for the provider, not for a worker.
    pub async fn claimable_oldest(&mut self, kind: Kind, is_spent: impl Fn(Call) -> bool) -> Result<Duration, Error> {
        let sql = "SELECT needs, MIN(due_at) AS oldest FROM work
            WHERE kind = $1 AND due_at <= $2 AND (lease_until IS NULL OR lease_until <= $2)
                AND (next_look IS NULL OR next_look <= $2) AND NOT EXISTS (SELECT 1 FROM pauses WHERE provider = $3)
            GROUP BY needs";
        let now = self.now();
        let query = sqlx::query(sql).bind(kind.as_str()).bind(now.0).bind(provider_of(kind).as_str());
        let first = match kind {
            Kind::Item => Call::AccountsGet,
            Kind::Business => Call::Layer,
        };
        let mut oldest = Duration::ZERO;
        for row in self.rows(query).await? {
            let needs = opt_parsed(&row, "needs", |w| Call::from_word(&w).ok_or_else(|| format!("unknown call {w}")))?;
            // As in the claim: of what a look needs later, only the mint is paid in advance.
            let waits = is_spent(first) || needs == Some(Call::Mint) && is_spent(Call::Mint);
            if !waits {
                oldest = oldest.max(now.since(Millis(number(&row, "oldest")?)));
            }
        }
        Ok(oldest)
    }

    /// Blocked rows by block and code.
    pub async fn blocked_counts(&mut self, kind: Kind) -> Result<Vec<(Block, String, i64)>, Error> {
        let sql = "SELECT blocked_by, COALESCE(blocked_code, '') AS code, COUNT(*) AS n FROM work
            WHERE kind = $1 AND blocked_by IN ('backoff', 'pause', 'hold', 'parked') GROUP BY blocked_by, blocked_code";
        let word = |w: String| Block::from_word(&w).ok_or_else(|| format!("unknown block {w}"));
        let rows = self.rows(sqlx::query(sql).bind(kind.as_str())).await?;
        rows.iter().map(|r| Ok((parsed(r, "blocked_by", word)?, text(r, "code")?, number(r, "n")?))).collect()
    }

    /// A change that has not reached the list yet, in the business's own row or in that of an Item of it; a row that does
    /// not go on; an Item whose new access token nobody has told us; a business that never converged at all.
    pub async fn at_risk(&mut self) -> Result<AtRisk, Error> {
        // Each part stands on an index; one that joins two conditions by OR would read the whole table.
        let sql = "WITH waiting AS (
                SELECT id, signal_at AS since FROM work WHERE kind = 'item' AND signal_at IS NOT NULL
              UNION ALL
                SELECT id, COALESCE(signal_at, blocked_at) FROM work
                WHERE kind = 'item' AND blocked_by IN ('pause', 'hold', 'parked')
              UNION ALL
                SELECT item_id, state_since FROM items WHERE state = 'awaiting_token')
            SELECT COUNT(DISTINCT business) AS n, MIN(since) AS oldest FROM (
                SELECT id AS business, signal_at AS since FROM work WHERE kind = 'business' AND signal_at IS NOT NULL
              UNION ALL
                SELECT id, COALESCE(signal_at, blocked_at) FROM work
                WHERE kind = 'business' AND blocked_by IN ('backoff', 'pause', 'hold', 'parked')
              UNION ALL
                SELECT a.business_id, w.since FROM waiting w
                JOIN accounts a ON a.item_id = w.id AND a.business_id IS NOT NULL
              UNION ALL
                -- Nobody has read its accounts yet.
                SELECT i.business_id, w.since FROM waiting w
                JOIN items i ON i.item_id = w.id AND i.business_id IS NOT NULL
              UNION ALL
                SELECT b.business_id, b.created_at FROM businesses b
                WHERE b.converged_at IS NULL
                  AND EXISTS (SELECT 1 FROM accounts a WHERE a.business_id = b.business_id AND a.state = 'active')
            ) AS risks";
        let Some(row) = self.row(sqlx::query(sql)).await? else { return Ok(AtRisk::default()) };
        let oldest = opt_time(&row, "oldest")?.map_or(Duration::ZERO, |since| self.now().since(since));
        Ok(AtRisk { businesses: number(&row, "n")?, oldest })
    }

    /// How long ago the row was looked at that has waited longest for its next look.
    pub async fn looked_oldest(&mut self, kind: Kind) -> Result<Duration, Error> {
        let sql = "SELECT MIN(looked_at) AS oldest FROM work WHERE kind = $1";
        let row = self.row(sqlx::query(sql).bind(kind.as_str())).await?;
        let oldest = row.map(|r| opt_time(&r, "oldest")).transpose()?.flatten();
        Ok(oldest.map_or(Duration::ZERO, |at| self.now().since(at)))
    }

    pub async fn count_orphans(&mut self) -> Result<i64, Error> {
        let sql = "SELECT COUNT(*) AS n FROM processor_tokens WHERE state = 'orphaned'";
        self.row(sqlx::query(sql)).await?.map_or(Ok(0), |r| number(&r, "n"))
    }
}
