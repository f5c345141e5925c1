//! The fleet's budget: what is booked of each limit stands in one row, so all processes spend from one account, and
//! while the store is away nothing is spent.

use crate::sql::{built, get, number, sql};
use crate::{Claim, Error, Tx};
use domain::budget::{Booked, Call, Limits};
use std::time::{Duration, Instant};

/// One limit as operators see it.
#[derive(Debug, Clone, Copy)]
pub struct BudgetRow {
    pub call: Call,
    pub booked: Booked,
}

const THOUSAND: f64 = 1000.0;

impl Tx {
    /// Books up to `most` calls, to leave when `lead` is over at the earliest: the moments at which they may leave, of this
    /// machine's monotonic clock. Err: the class may not look that far ahead; how long until it is worth asking again.
    ///
    /// They count once this transaction commits. The row stays locked until then, so a transaction that also changes work rows
    /// changes those first.
    pub async fn book(
        &mut self,
        limits: &Limits,
        call: Call,
        horizon: Duration,
        lead: Duration,
        most: usize,
    ) -> Result<Result<Vec<Instant>, Duration>, Error> {
        let mut booked = self.lock_budget(call).await?;
        let mut slots = Vec::new();
        while slots.len() < most {
            match booked.book_ahead(limits, call, self.now(), horizon, lead) {
                Ok(wait) => slots.push(self.answered_at + wait),
                Err(wait) if slots.is_empty() => return Ok(Err(wait)),
                Err(_) => break,
            }
        }
        self.save_budget(call, &booked).await?;
        Ok(Ok(slots))
    }

    /// A provider answered that it was too much: everybody slows down. Returns the part of the rate that is left.
    pub async fn slow_down(&mut self, call: Call, after: Option<Duration>, recovery: Duration) -> Result<f64, Error> {
        let mut booked = self.lock_budget(call).await?;
        booked.slow_down(self.now(), after, recovery);
        self.save_budget(call, &booked).await?;
        Ok(booked.slowed_to)
    }

    /// Each limit of which something was ever booked.
    pub async fn budgets(&mut self) -> Result<Vec<BudgetRow>, Error> {
        let mut budgets = Vec::new();
        for call in Call::ALL {
            let sql = "SELECT booked_until, rest_until, slowed_at, slowed_to FROM budgets WHERE call = $1";
            if let Some(row) = self.row(sql!(sql, call)).await? {
                budgets.push(BudgetRow { call: *call, booked: booked(&row)? });
            }
        }
        Ok(budgets)
    }

    /// Lets one more call about this Item happen, within the limit that Plaid has for each Item. Err: how long to wait.
    ///
    /// `/accounts/get` is paced by the claims, for each reconciliation makes one; this is for a second one.
    pub async fn pace(&mut self, claim: &Claim, call: Call, limits: &Limits) -> Result<Result<(), Duration>, Error> {
        let column = if call == Call::AccountsGet { "next_look" } else { "next_proof" };
        let (at_once, each) = limits.pace();
        let now = self.now();
        let earliest = now.minus(at_once);
        let sql = format!(
            "UPDATE work SET {column} = $4 + CASE WHEN {column} IS NULL OR {column} < $3 THEN $3 ELSE {column} END
            WHERE kind = $1 AND id = $2 AND ({column} IS NULL OR {column} <= $5)"
        );
        let (kind, id) = (claim.subject.kind(), claim.subject.id());
        let query = sql!(built(sql), kind, id, earliest, domain::time::millis(each), now);
        // The wait is a guess of one interval: nobody else calls about this Item meanwhile.
        if self.run(query).await? == 1 { Ok(Ok(())) } else { Ok(Err(each)) }
    }

    pub(crate) async fn lock_budget(&mut self, call: Call) -> Result<Booked, Error> {
        let lock = "UPDATE budgets SET booked_until = booked_until WHERE call = $1
            RETURNING booked_until, rest_until, slowed_at, slowed_to";
        if let Some(row) = self.row(sql!(lock, call)).await? {
            return booked(&row);
        }
        let insert = "INSERT INTO budgets (call, booked_until, rest_until, slowed_at, slowed_to)
            VALUES ($1, 0, 0, 0, 1000) ON CONFLICT (call) DO NOTHING";
        self.run(sql!(insert, call)).await?;
        let row = self.row(sql!(lock, call)).await?;
        booked(&row.ok_or_else(|| Error::Corrupt(format!("the budget of {call} vanished")))?)
    }

    pub(crate) async fn save_budget(&mut self, call: Call, booked: &Booked) -> Result<(), Error> {
        let sql =
            "UPDATE budgets SET booked_until = $2, rest_until = $3, slowed_at = $4, slowed_to = $5 WHERE call = $1";
        self.run(sql!(
            sql,
            call,
            booked.until,
            booked.rest_until,
            booked.slowed_at,
            (booked.slowed_to * THOUSAND) as i64
        ))
        .await?;
        Ok(())
    }
}

fn booked(row: &sqlx::any::AnyRow) -> Result<Booked, Error> {
    Ok(Booked {
        until: number(row, "booked_until")?,
        rest_until: get(row, "rest_until")?,
        slowed_at: get(row, "slowed_at")?,
        slowed_to: number(row, "slowed_to")? as f64 / THOUSAND,
    })
}
