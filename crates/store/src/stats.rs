//! What metrics show of the store. Asked every few seconds by each consumer, so every count stands on an index.

use crate::queue::blocked;
use crate::sql::{get, number, sql, text};
use crate::{Error, Tx};
use domain::budget::Call;
use domain::work::{Block, Class, Kind};
use std::collections::BTreeMap;
use std::time::Duration;

/// Rows of one urgency that are due and that nobody works on.
#[derive(Debug, Clone, Copy)]
pub struct DueRows {
    pub class: Class,
    pub rows: i64,
    /// How long the first of them has been due.
    pub oldest: Duration,
}

impl Tx {
    /// How much work is due, by urgency.
    pub async fn due_rows(&mut self, kind: Kind) -> Result<Vec<DueRows>, Error> {
        let sql = "SELECT class, COUNT(*) AS due, MIN(due_at) AS oldest FROM work
            WHERE kind = $1 AND due_at <= $2 AND (lease_until IS NULL OR lease_until <= $2) GROUP BY class";
        let now = self.now();
        let rows = self.rows(sql!(sql, kind, now)).await?;
        let due = rows.iter().map(|r| {
            let (class, oldest) = (Class::from_rank(number(r, "class")?), now.since(get(r, "oldest")?));
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
        let query = sql!(sql, kind, now, kind.provider());
        let first = match kind {
            Kind::Item => Call::AccountsGet,
            Kind::Business => Call::Layer,
        };
        let mut oldest = Duration::ZERO;
        for row in self.rows(query).await? {
            let needs: Option<Call> = get(&row, "needs")?;
            // As in the claim: of what a reconciliation needs later, only the mint is paid in advance.
            let waits = is_spent(first) || needs == Some(Call::Mint) && is_spent(Call::Mint);
            if !waits {
                oldest = oldest.max(now.since(get(&row, "oldest")?));
            }
        }
        Ok(oldest)
    }

    /// Blocked rows by block and code.
    pub async fn blocked_counts(&mut self, kind: Kind) -> Result<Vec<(Block, String, i64)>, Error> {
        // Without the kind as a condition: SQLite would read all rows of a kind for it, by another index.
        let sql = "SELECT kind, blocked_by, blocked_code, NULL AS blocked_why, COUNT(*) AS n FROM work
            WHERE blocked_by > '' GROUP BY kind, blocked_by, blocked_code";
        let mut counts: BTreeMap<(Block, String), i64> = BTreeMap::new();
        for row in self.rows(sql!(sql)).await? {
            if text(&row, "kind")? == kind.as_str()
                && let Some(blocked) = blocked(&row)?
            {
                *counts.entry((blocked.by, blocked.code)).or_default() += number(&row, "n")?;
            }
        }
        Ok(counts.into_iter().map(|((by, code), n)| (by, code, n)).collect())
    }

    /// How long ago the row was looked at that has waited longest for its next reconciliation.
    pub async fn looked_oldest(&mut self, kind: Kind) -> Result<Duration, Error> {
        let sql = "SELECT MIN(looked_at) AS oldest FROM work WHERE kind = $1";
        let row = self.row(sql!(sql, kind)).await?;
        let oldest = row.map(|r| get(&r, "oldest")).transpose()?.flatten();
        Ok(oldest.map_or(Duration::ZERO, |at| self.now().since(at)))
    }

    /// Processor tokens that may exist at Plaid and are in no list.
    pub async fn count_orphans(&mut self) -> Result<i64, Error> {
        let sql = "SELECT COUNT(*) AS n FROM processor_tokens WHERE state = 'orphaned'";
        self.count(sql!(sql)).await
    }
}
