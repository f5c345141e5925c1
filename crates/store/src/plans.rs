//! What a reconciliation would do now: asked by whoever asks the admin API, answered by a consumer.

use crate::sql::{get, is_set, number, sql, text};
use crate::{Error, Tx};
use domain::work::Class;
use domain::{BusinessId, Millis};
use std::time::Duration;

/// Nobody waits for an answer longer than this.
const WAITED_FOR: Duration = Duration::from_secs(75);
/// Questions that may wait for an answer at once, of the whole fleet.
const MOST_OPEN: i64 = 200;

/// A question that a consumer has taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AskedPlan {
    pub id: String,
    pub business: BusinessId,
    /// As which its calls are booked.
    pub class: Class,
}

/// A question, and its answer once there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanRow {
    pub id: String,
    pub business: BusinessId,
    pub asked_at: Millis,
    /// A consumer has taken it.
    pub is_taken: bool,
    /// When it was answered, and what, as JSON.
    pub answer: Option<(Millis, String)>,
}

impl Tx {
    /// Asks what a reconciliation of this business would do. None: too many wait for an answer already.
    pub async fn ask_plan(&mut self, business: &BusinessId, class: Class) -> Result<Option<String>, Error> {
        let recent = self.now().minus(WAITED_FOR);
        let sql = "SELECT COUNT(*) AS n FROM plans WHERE answered_at IS NULL AND asked_at > $1";
        let open = self.count(sql!(sql, recent)).await?;
        if open >= MOST_OPEN {
            return Ok(None);
        }
        let id = uuid::Uuid::now_v7().to_string();
        let sql = "INSERT INTO plans (id, business_id, asked_at, class) VALUES ($1, $2, $3, $4)";
        self.run(sql!(sql, id, business, self.now(), class)).await?;
        self.asks();
        Ok(Some(id))
    }

    /// A question by its id, as long as it is kept.
    pub async fn plan(&mut self, id: &str) -> Result<Option<PlanRow>, Error> {
        let Some(row) = self.row(sql!("SELECT * FROM plans WHERE id = $1", id)).await? else { return Ok(None) };
        let answer = match is_set(&row, "answered_at")? {
            true => Some((get(&row, "answered_at")?, text(&row, "answer")?)),
            false => None,
        };
        Ok(Some(PlanRow {
            id: text(&row, "id")?,
            business: get(&row, "business_id")?,
            asked_at: get(&row, "asked_at")?,
            is_taken: is_set(&row, "taken_until")?,
            answer,
        }))
    }

    /// Whether a question waits for a consumer, or for another one.
    pub async fn is_plan_asked(&mut self) -> Result<bool, Error> {
        let sql = "SELECT 1 AS n FROM plans WHERE answered_at IS NULL AND asked_at > $1
            AND (taken_until IS NULL OR taken_until < $2) LIMIT 1";
        Ok(self.row(sql!(sql, self.now().minus(WAITED_FOR), self.now())).await?.is_some())
    }

    /// Takes up to `limit` questions that somebody still waits for, the oldest first, for `lease`: after that another consumer may.
    pub async fn take_plans(&mut self, limit: u32, lease: Duration) -> Result<Vec<AskedPlan>, Error> {
        let (now, lock) = (self.now(), self.dialect.skip_locked());
        let sql = format!(
            "UPDATE plans SET taken_until = $1 WHERE id IN (SELECT id FROM plans WHERE answered_at IS NULL AND asked_at > $2
                AND (taken_until IS NULL OR taken_until < $3) ORDER BY asked_at LIMIT $4 {lock})
            RETURNING id, business_id, class"
        );
        let rows = self.rows(sql!(crate::sql::built(sql), now.plus(lease), now.minus(WAITED_FOR), now, limit)).await?;
        let asked = rows.iter().map(|row| {
            Ok(AskedPlan {
                id: text(row, "id")?,
                business: get(row, "business_id")?,
                class: Class::from_rank(number(row, "class")?),
            })
        });
        asked.collect()
    }

    /// Answers one; what was erased meanwhile is not kept.
    pub async fn answer_plan(&mut self, id: &str, answer: &str) -> Result<(), Error> {
        let sql = "UPDATE plans SET answered_at = $2, answer = $3 WHERE id = $1 AND answered_at IS NULL";
        self.run(sql!(sql, id, self.now(), answer)).await?;
        self.brings_news();
        Ok(())
    }

    /// Deletes what was asked longer ago, answered or not.
    pub async fn forget_old_plans(&mut self, kept: Duration) -> Result<u64, Error> {
        let before = self.now().minus(kept);
        self.run(sql!("DELETE FROM plans WHERE asked_at < $1", before)).await
    }
}
