//! What is judged in each state, and at the end of each way.

use crate::search::{Explorer, Way};
use crate::state::Queued;

impl Explorer {
    /// What must hold in every state.
    pub(crate) async fn judge(&mut self, way: &mut Way) -> Result<(), String> {
        let verdict = self.sandbox.verdict();
        if let Some(violation) = verdict.violations.get(way.violations) {
            return Err(violation.clone());
        }
        if let Some(stale) = tests::stale_verdicts(&self.store).await.pop() {
            return Err(format!("I11: what is shown is not so: {stale}"));
        }
        if let Some(current) = self.books.current().await {
            match way.tokens.iter().position(|t| *t == current) {
                Some(place) if place >= way.current => way.current = place,
                _ => return Err("I5: an access token was put over a newer one".into()),
            }
        }
        let (known, _) = self.books.mints().await;
        if verdict.counts.mints > known.unsigned_abs() {
            return Err(format!("I6: {} mints, and the ledger knows of {known}", verdict.counts.mints));
        }
        if self.books.doubly_live().await > 0 {
            return Err("I6: two live tokens for one account and generation".into());
        }
        let allowed = verdict.mints_allowed + way.lost;
        if verdict.counts.mints > allowed {
            return Err(format!("I6: {} mints, {allowed} allowed", verdict.counts.mints));
        }
        Ok(())
    }

    /// What must hold where nothing can happen any more.
    pub(crate) async fn judge_end(&mut self, way: &Way, queue: &[Queued]) -> Result<(), String> {
        let verdict = self.sandbox.verdict();
        if self.books.current().await.as_ref() != way.tokens.last() {
            return Err("I5: it ends without the true access token".into());
        }
        if !verdict.exact {
            return Err(format!("I10: it ends with wrong lists: {:?}", verdict.wrong));
        }
        if let Some(row) = queue.iter().find(|r| r.blocked.is_some()) {
            return Err(format!("I4: it ends with {} {} {:?}", row.kind, row.id, row.blocked));
        }
        match self.books.mints().await {
            (_, 0) => Ok(()),
            (_, open) => Err(format!("I6: it ends with {open} intents that nobody settled")),
        }
    }
}
