//! Is it the provider or the row? (I4) Refusals are collected; when enough unrelated rows agree, or a probe is refused
//! as well, the provider is paused and nobody is parked for it.

use crate::sql::{built, get, number, opt_text, sql, text};
use crate::work::subject_of;
use crate::{Error, Tx};
use domain::work::{Kind, Subject};
use domain::{Millis, Provider};
use std::time::Duration;

/// A provider that refuses everybody.
#[derive(Debug, Clone)]
pub struct PauseRow {
    pub provider: Provider,
    pub reason: String,
    pub since: Millis,
    /// When the provider is asked next.
    pub probe_at: Millis,
    /// The operator who ordered it: then no probe ends it.
    pub ordered_by: Option<String>,
}

/// What speaks against a provider after a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Suspicion {
    /// Different rows that were refused alike within the window and were in no earlier pause.
    pub rows: u64,
    /// Those of an earlier pause included.
    pub ever: u64,
    /// This one was counted in an earlier pause.
    pub spent: bool,
}

/// A moment that does not come: the last day that every calendar knows, 9999-12-31.
const NEVER: Millis = Millis(253_402_214_400_000);

impl Tx {
    /// Notes that this row was refused for `fault`.
    pub async fn suspect(
        &mut self,
        provider: Provider,
        fault: &str,
        subject: &Subject,
        window: Duration,
    ) -> Result<Suspicion, Error> {
        self.lock_suspicions().await?;
        let sql = "INSERT INTO suspicions (provider, fault, kind, id, at, spent) VALUES ($1, $2, $3, $4, $5, 0)
            ON CONFLICT (provider, fault, kind, id) DO UPDATE SET at = $5 RETURNING spent";
        let row = self.row(sql!(sql, provider, fault, subject.kind(), subject.id(), self.now())).await?;
        let spent = row.map_or(Ok(0), |r| number(&r, "spent"))? == 1;
        let since = self.now().minus(window).0;
        self.run(sql!("DELETE FROM suspicions WHERE at <= $1", since)).await?;
        let sql = "SELECT COUNT(*) AS n FROM suspicions WHERE provider = $1 AND fault = $2";
        let ever = self.count(sql!(sql, provider, fault)).await?.unsigned_abs();
        Ok(Suspicion { rows: self.suspects(provider, fault).await?, ever, spent })
    }

    /// One at a time: each writes a row of its own and deletes those of others.
    async fn lock_suspicions(&mut self) -> Result<(), Error> {
        self.set_meta("suspicions_lock", "").await
    }

    /// How many different rows are refused for this fault.
    pub(crate) async fn suspects(&mut self, provider: Provider, fault: &str) -> Result<u64, Error> {
        let sql = "SELECT COUNT(*) AS n FROM suspicions WHERE provider = $1 AND fault = $2 AND spent = 0";
        Ok(self.count(sql!(sql, provider, fault)).await?.unsigned_abs())
    }

    /// The row succeeded: it no longer speaks against its provider.
    pub(crate) async fn unsuspect(&mut self, subject: &Subject) -> Result<(), Error> {
        let sql = "DELETE FROM suspicions WHERE kind = $1 AND id = $2";
        self.run(sql!(sql, subject.kind(), subject.id())).await.map(drop)
    }

    /// Stops the provider's work until a probe succeeds. Rows that were parked for the same fault were wronged: they
    /// wait like the others. Returns whether the pause is new.
    pub async fn pause(
        &mut self,
        provider: Provider,
        reason: &str,
        fault: &str,
        probe_after: Duration,
    ) -> Result<bool, Error> {
        let sql = "INSERT INTO pauses (provider, reason, since, probe_at) VALUES ($1, $2, $3, $4)
            ON CONFLICT (provider) DO NOTHING";
        let new = self.run(sql!(sql, provider, reason, self.now(), self.now().plus(probe_after))).await? == 1;
        let wronged = "blocked_by = 'parked' AND EXISTS (
            SELECT 1 FROM suspicions s WHERE s.provider = $1 AND s.fault = $2 AND s.kind = work.kind AND s.id = work.id)";
        self.lock_where(wronged, |condition| sql!(built(condition), provider, fault)).await?;
        let sql = format!("UPDATE work SET blocked_by = 'pause', due_at = $3 WHERE {wronged} RETURNING kind, id");
        let wronged = self.rows(sql!(built(sql), provider, fault, self.now())).await?;
        self.touch_rows(&wronged)?;
        Ok(new)
    }

    /// An operator stops the provider's work until an operator resumes it.
    pub async fn pause_by_order(&mut self, provider: Provider, why: &str, by: &str) -> Result<(), Error> {
        // Never due: the release before this one would probe it, and end it.
        let sql = "INSERT INTO pauses (provider, reason, since, probe_at, ordered_by) VALUES ($1, $2, $3, $5, $4)
            ON CONFLICT (provider) DO UPDATE SET reason = $2, ordered_by = $4, probe_at = $5";
        self.run(sql!(sql, provider, why, self.now(), by, NEVER)).await.map(drop)
    }

    /// The provider is asked at once. False: it is not paused, or by an operator, whom a probe does not overrule.
    pub async fn probe_now(&mut self, provider: Provider) -> Result<bool, Error> {
        let sql = "UPDATE pauses SET probe_at = $2 WHERE provider = $1 AND ordered_by IS NULL";
        Ok(self.run(sql!(sql, provider, self.now())).await? > 0)
    }

    /// Takes the pauses whose probe is due; the next probe is set before this one is sent, so that one process probes.
    pub async fn due_probes(&mut self, interval: Duration) -> Result<Vec<PauseRow>, Error> {
        let sql = "UPDATE pauses SET probe_at = $1 WHERE probe_at <= $2 AND ordered_by IS NULL RETURNING *";
        let (next, now) = (self.now().plus(interval).0, self.now().0);
        let rows = self.rows(sql!(sql, next, now)).await?;
        rows.iter().map(pause_row).collect()
    }

    /// Providers that are paused.
    pub async fn pauses(&mut self) -> Result<Vec<PauseRow>, Error> {
        let rows = self.rows(sql!("SELECT * FROM pauses ORDER BY provider")).await?;
        rows.iter().map(pause_row).collect()
    }

    /// A probe was answered. False: nothing is paused any more, or an operator paused it meanwhile, whom a probe does not overrule.
    pub async fn resume_by_probe(&mut self, provider: Provider) -> Result<bool, Error> {
        let lock = self.dialect.for_update();
        let sql = format!("SELECT provider FROM pauses WHERE provider = $1 AND ordered_by IS NULL {lock}");
        match self.row(sql!(built(sql), provider)).await? {
            Some(_) => self.resume(provider).await,
            None => Ok(false),
        }
    }

    /// Its rows go on.
    pub async fn resume(&mut self, provider: Provider) -> Result<bool, Error> {
        let ended = self.run(sql!("DELETE FROM pauses WHERE provider = $1", provider)).await? == 1;
        let kind = match provider {
            Provider::Plaid => Kind::Item,
            Provider::Layer => Kind::Business,
        };
        // All that is written below, in the order of everybody.
        let suspects = "SELECT id FROM suspicions WHERE provider = $2 AND kind = 'item' AND spent = 0";
        let written = format!(
            "kind = $1 AND blocked_by = 'pause'
            OR kind = $1 AND blocked_by = 'parked' AND EXISTS (SELECT 1 FROM suspicions s
                WHERE s.provider = $2 AND s.kind = work.kind AND s.id = work.id)
            OR kind = 'item' AND {}",
            // An index serves each part: with IN the last one would be all Items.
            self.dialect.within("id", suspects)
        );
        self.lock_where(&written, |sql| sql!(built(sql), kind, provider)).await?;
        let sql = "UPDATE work SET blocked_by = NULL, blocked_code = NULL, blocked_why = NULL,
            blocked_objection = NULL, blocked_at = NULL, said_at = NULL,
            attempts = 0, due_at = $2 WHERE kind = $1 AND $CONDITION";
        let now = self.now().0;
        self.makes_due(kind);
        // A pause is no part of a row's own verdict, so these are not judged anew: they may be everybody.
        self.run(sql!(built(sql.replace("$CONDITION", "blocked_by = 'pause'")), kind, now)).await?;
        // Parked as well: a row whose look ended just before the others agreed was wronged like them.
        let parked = "blocked_by = 'parked' AND EXISTS (SELECT 1 FROM suspicions s
            WHERE s.provider = $3 AND s.kind = work.kind AND s.id = work.id) RETURNING kind, id";
        let wronged = self.rows(sql!(built(sql.replace("$CONDITION", parked)), kind, now, provider)).await?;
        self.touch_rows(&wronged)?;
        // What they could not get minted is asked for at once, too.
        let sql = "UPDATE accounts SET mint_again_at = 0, mint_tries = 0 WHERE mint_fault IS NOT NULL AND item_id IN (
            SELECT id FROM suspicions WHERE provider = $1 AND kind = 'item' AND spent = 0)";
        self.run(sql!(sql, provider)).await?;
        let sql = "UPDATE work SET due_at = $2 WHERE kind = 'item' AND blocked_by IS NULL AND due_at > $2 AND id IN (
            SELECT id FROM suspicions WHERE provider = $1 AND kind = 'item' AND spent = 0)";
        self.run(sql!(sql, provider, now)).await?;
        // They have had their say: a few rows that are refused for reasons of their own must not pause the provider again
        // and again.
        self.lock_suspicions().await?;
        let sql = "UPDATE suspicions SET spent = 1 WHERE provider = $1";
        self.run(sql!(sql, provider)).await?;
        Ok(ended)
    }

    /// These rows have the columns `kind` and `id`.
    pub(crate) fn touch_rows(&mut self, rows: &[sqlx::any::AnyRow]) -> Result<(), Error> {
        for row in rows {
            self.touch(&subject_of(row)?);
        }
        Ok(())
    }
}

fn pause_row(row: &sqlx::any::AnyRow) -> Result<PauseRow, Error> {
    Ok(PauseRow {
        provider: get(row, "provider")?,
        reason: text(row, "reason")?,
        since: get(row, "since")?,
        probe_at: get(row, "probe_at")?,
        ordered_by: opt_text(row, "ordered_by")?,
    })
}
