//! Waiting for what an order causes: until nobody works on a row, until it is served, until an account has arrived.

use super::With;
use crate::Console;
use crate::error::ApiError;
use domain::Millis;
use domain::item::ItemState;
use domain::queue::Row;
use domain::work::Subject;
use std::time::Duration;
use tokio::time::Instant;

/// No reconciliation goes on for longer in front of a caller who waits.
const LETS_GO_WITHIN: Duration = Duration::from_secs(15);

impl Console {
    /// Whether nobody works on the row any more, as it was when an act forbade something.
    pub(super) async fn has_let_go(&self, subject: &Subject) -> Result<bool, ApiError> {
        let epoch = |row: &Row| row.lease.is_some().then_some(row.epoch);
        let begun = self.store.begin_read().await?.work(subject).await?.as_ref().and_then(epoch);
        let deadline = Instant::now() + LETS_GO_WITHIN.min(self.settings.max_wait);
        loop {
            let now = self.store.begin_read().await?.work(subject).await?.as_ref().and_then(epoch);
            if begun.is_none() || now != begun {
                return Ok(true);
            }
            if Instant::now() >= deadline || self.stop.is_cancelled() {
                return Ok(false);
            }
            tokio::time::sleep(self.settings.wait_poll.max(Duration::from_millis(5))).await;
        }
    }

    /// Whether a moved account stands in its new list, or an Item has left for its heir, by then. Other orders are done with their
    /// reconciliation.
    pub(super) async fn has_arrived(
        &self,
        subject: &Subject,
        with: &With<'_>,
        deadline: Instant,
    ) -> Result<bool, ApiError> {
        let (Subject::Item(item), With::Move(..) | With::Heir(_)) = (subject, with) else { return Ok(true) };
        loop {
            let mut tx = self.store.begin_read().await?;
            let arrived = match with {
                With::Move(account, to) => {
                    let row = tx.accounts(item).await?.into_iter().find(|row| row.id == *account);
                    let is_there =
                        row.is_some_and(|row| row.moving_from.is_none() && row.business.as_ref() == Some(to));
                    let wanted = tx.wanted_accounts(to).await?.into_iter().find(|wanted| wanted.account == *account);
                    let accepted = tx.business(to).await?.map(|row| row.accepted).unwrap_or_default();
                    is_there && wanted.is_some_and(|w| w.token.is_some_and(|token| accepted.contains(&token)))
                }
                _ => {
                    let has_left = tx.item(item).await?.is_none_or(|row| row.state == ItemState::Removed);
                    let mut settled = true;
                    for business in tx.businesses_of_item(item).await? {
                        settled &=
                            tx.work(&business).await?.is_none_or(|row| row.done >= row.wanted && row.blocked.is_none());
                    }
                    has_left && settled
                }
            };
            drop(tx);
            if arrived || Instant::now() >= deadline || self.stop.is_cancelled() {
                return Ok(arrived);
            }
            tokio::time::sleep(self.settings.wait_poll.max(Duration::from_millis(5)) * 5).await;
        }
    }

    /// Whether the reconciliation that an act caused ends within `patience`.
    pub(super) async fn is_served(
        &self,
        subject: &Subject,
        at: Millis,
        wanted: i64,
        patience: Duration,
    ) -> Result<bool, ApiError> {
        let deadline = Instant::now() + patience.min(self.settings.max_wait);
        let mut poll = self.settings.wait_poll.max(Duration::from_millis(1));
        let most = poll * 10;
        loop {
            let work = self.store.begin_read().await?.work(subject).await?;
            let ended = |row: &Row| row.lease.is_none() && row.looked_at.is_some_and(|seen| seen >= at);
            if work.is_none_or(|row| row.done >= wanted || ended(&row)) {
                return Ok(true);
            }
            if Instant::now() >= deadline || self.stop.is_cancelled() {
                return Ok(false);
            }
            tokio::time::sleep(poll.min(deadline.saturating_duration_since(Instant::now()))).await;
            poll = (poll * 2).min(most);
        }
    }
}
