//! What metrics show of the store. Asked every few seconds by each consumer, so every count stands on an index.

use crate::claim::{Due, claimable, each_class, unleased};
use crate::sql::{built, get, number, sql, text};
use crate::work::blocked;
use crate::{Error, Tx};
use domain::Millis;
use domain::budget::Call;
use domain::work::{Block, Class, Kind};
use std::collections::BTreeMap;
use std::time::Duration;

/// Due rows of one urgency that are counted at most: to count a million every few seconds would cost more than to work on
/// them.
pub(crate) const MOST_COUNTED: i64 = 10_000;

/// Rows of one urgency that are due and that no worker holds.
#[derive(Debug, Clone, Copy)]
pub struct DueRows {
    pub class: Class,
    pub rows: i64,
    /// How long the first of them has been due.
    pub oldest: Duration,
}

/// Each class, of rows to read and of rows to mint.
fn each_part() -> impl Iterator<Item = (String, Due)> {
    each_class().flat_map(|class| [(class.clone(), Due::ToRead), (class, Due::ToMint)])
}

impl Tx {
    /// How much work is due, by urgency; of each at most 10 000 rows, which then stand for that many or more.
    pub async fn due_rows(&mut self, kind: Kind) -> Result<Vec<DueRows>, Error> {
        let now = self.now();
        let part = |(class, due): (String, Due)| {
            let unleased = unleased(&class, due);
            format!(
                "SELECT MIN(class) AS class, COUNT(*) AS due, MIN(due_at) AS oldest FROM (
                     SELECT class, due_at FROM work WHERE {unleased} ORDER BY class, due_at LIMIT $3) AS counted"
            )
        };
        let text = each_part().map(part).collect::<Vec<_>>().join(" UNION ALL ");
        let mut found: BTreeMap<i64, (i64, Millis)> = BTreeMap::new();
        for row in self.rows(sql!(built(text), kind, now, MOST_COUNTED)).await? {
            let Some(oldest) = get::<Option<Millis>>(&row, "oldest")? else { continue };
            let class = Class::from_rank(number(&row, "class")?);
            let (rows, since) = found.entry(class.rank()).or_insert((0, oldest));
            *rows = (*rows + number(&row, "due")?).min(MOST_COUNTED);
            *since = (*since).min(oldest);
        }
        let due = |(class, (rows, since))| DueRows { class: Class::from_rank(class), rows, oldest: now.since(since) };
        Ok(found.into_iter().map(due).collect())
    }

    /// How long the oldest row has waited that [`crate::Store::claim`] would take now. `is_spent` tells of which calls
    /// there is no budget: a row that needs one waits for the provider, not for a worker.
    pub async fn claimable_oldest(&mut self, kind: Kind, is_spent: impl Fn(Call) -> bool) -> Result<Duration, Error> {
        let now = self.now();
        // As in the claim: of what a reconciliation needs later, only the mint is paid in advance.
        let waits = |due: Due| is_spent(kind.first_call()) || due == Due::ToMint && is_spent(Call::Mint);
        let part = |(class, due): (String, Due)| {
            let claimable = claimable(&class, due);
            format!("SELECT * FROM (SELECT due_at FROM work WHERE {claimable} ORDER BY class, due_at LIMIT 1) AS first")
        };
        let parts: Vec<String> = each_part().filter(|(_, due)| !waits(*due)).map(part).collect();
        if parts.is_empty() {
            return Ok(Duration::ZERO);
        }
        let rows = self.rows(sql!(built(parts.join(" UNION ALL ")), kind, now, kind.provider())).await?;
        let waited = rows.iter().map(|row| Ok(now.since(get(row, "due_at")?)));
        Ok(waited.collect::<Result<Vec<Duration>, Error>>()?.into_iter().max().unwrap_or_default())
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
    pub async fn reconciled_oldest(&mut self, kind: Kind) -> Result<Duration, Error> {
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
