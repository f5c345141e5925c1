//! While a worker lives it says so: its leases are short and do not run out. One that dies loses its rows soon after, and nobody
//! waits for the longest time that a call could have taken. What becomes of a reconciliation that lost its lease, or was cut short
//! otherwise, stands here too. The loss is noticed where something is written under the lease (`work.rs` of the store).

use crate::Context;
use crate::outcome::{self, kind};
use crate::refusals::{backoff, parked};
use crate::steps;
use domain::fault::chain;
use domain::metric;
use domain::queue::{Finish, Mark};
use domain::work::{Class, Code, Subject};
use parking_lot::Mutex;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use store::Claim;

/// A reconciliation that takes longer than this keeps its lease by its own calls alone: one that hangs must not keep a row for
/// ever.
const LONGEST: Duration = Duration::from_mins(10);

/// What this process reconciles at the moment. A row that it holds without being here, because a claim was not answered or its
/// end was not stored, comes back when its lease runs out.
#[derive(Debug, Clone, Default)]
pub(crate) struct AtWork {
    claims: Arc<Mutex<BTreeMap<Subject, (i64, Instant)>>>,
}

impl AtWork {
    /// In flight until the guard is dropped.
    pub(crate) fn on(&self, claim: &Claim) -> impl Drop + Send + use<> {
        self.claims.lock().insert(claim.subject.clone(), (claim.epoch, Instant::now()));
        InFlight { of: self.clone(), subject: claim.subject.clone(), epoch: claim.epoch }
    }

    fn claims(&self) -> Vec<(Subject, i64)> {
        let claims = self.claims.lock();
        let living = claims.iter().filter(|(_, (_, since))| since.elapsed() < LONGEST);
        living.map(|(subject, (epoch, _))| (subject.clone(), *epoch)).collect()
    }
}

struct InFlight {
    of: AtWork,
    subject: Subject,
    epoch: i64,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut claims = self.of.claims.lock();
        // Claimed once more by this process after its lease was lost, it is another one's.
        if claims.get(&self.subject).is_some_and(|(epoch, _)| *epoch == self.epoch) {
            claims.remove(&self.subject);
        }
    }
}

/// Keeps the leases of what is in flight until it is dropped.
pub(crate) async fn keep(context: &Context) {
    let lease = context.settings.lease;
    // Three misses in a row cost a lease: a busy database, a row that is locked, a slow start of this task.
    let mut beat = tokio::time::interval(lease / 4);
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        beat.tick().await;
        let claims = context.at_work.claims();
        if claims.is_empty() {
            continue;
        }
        let keeping = context.store.keep_leases(&context.owner, lease, &claims);
        match tokio::time::timeout(lease / 2, keeping).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(error = chain(&error), "leases could not be renewed"),
            Err(_) => tracing::debug!("leases could not be renewed in time"),
        }
    }
}

impl Context {
    /// The lease that begins a PUT, or a new business. Layer knows no condition for either: nobody may take the row over before
    /// the call has ended, whatever becomes of this process (I7).
    pub(crate) fn lease_of_write(&self) -> Duration {
        self.settings.lease.max(self.layer.request_timeout() * 3 / 2)
    }
}

/// Ends a reconciliation that something other than the row itself cut short.
pub(crate) async fn interrupted(context: &Context, claim: &Claim, error: store::Error) {
    match error {
        store::Error::Stale { .. } => {
            // The worker that holds the row now does not know what was done here last: the row is reconciled once more.
            metrics::counter!(metric::LEASES_LOST, "kind" => claim.subject.kind().as_str()).increment(1);
            tracing::warn!("the lease was lost during the reconciliation; the row is marked due");
            if let Err(error) = mark_again(context, claim).await {
                tracing::warn!(
                    error = chain(&error),
                    "the row could not be marked due; its lease or the sweep brings it back"
                );
            }
        }
        // A row that a key is missing for, or that was tampered with, will not read better the next time.
        error if !error.is_passing() => {
            let why = format!("{}: mend the cause, then release it", chain(&error));
            tracing::error!(error = why, "the row can't be worked on and is parked");
            if let Err(error) = park(context, claim, &parked(context, Code::UnreadableRow, why)).await {
                tracing::warn!(error = chain(&error), "it could not be parked; it comes back when its lease ends");
            }
        }
        // A deadlock or a short outage: nothing was committed, so nothing is lost, and the row need not wait for its
        // lease to end.
        error => {
            let why = format!("the database did not answer as expected: {}", chain(&error));
            tracing::warn!(error = chain(&error), "the reconciliation was cut short by the database");
            let finish = backoff(context, claim, None, Code::Database, why);
            if let Err(error) = end(context, claim, &finish).await {
                tracing::debug!(error = chain(&error), "the row comes back when its lease ends");
            }
        }
    }
}

/// Only this row can't be read: its businesses are told, as far as they can be found.
async fn park(context: &Context, claim: &Claim, finish: &Finish) -> Result<(), store::Error> {
    let mut tx = context.store.begin().await?;
    tx.lock(claim).await?;
    let was = tx.work(&claim.subject).await?.and_then(|row| row.blocked);
    steps::note_end(&mut tx, claim, finish).await?;
    tx.finish(claim, finish).await?;
    if let Some(blocked) = finish.blocked.as_ref().filter(|b| was.is_none_or(|was| was.code != b.code)) {
        let payload = json!({"kind": claim.subject.kind(), "code": blocked.code, "why": blocked.why});
        match &claim.subject {
            Subject::Item(item) => {
                let businesses = tx.businesses_of_item(item).await?;
                outcome::about_item(&mut tx, claim, item, &businesses, kind::PARKED, payload).await?;
            }
            Subject::Business(business) => {
                outcome::about_business(&mut tx, claim, business, kind::PARKED, payload).await?;
            }
        }
    }
    tx.commit().await?;
    Ok(())
}

pub(crate) async fn end(context: &Context, claim: &Claim, finish: &Finish) -> Result<(), store::Error> {
    let mut tx = context.store.begin().await?;
    steps::note_end(&mut tx, claim, finish).await?;
    tx.finish(claim, finish).await?;
    tx.commit().await
}

async fn mark_again(context: &Context, claim: &Claim) -> Result<(), store::Error> {
    let mut tx = context.store.begin().await?;
    if tx.work(&claim.subject).await?.is_none() {
        // Erased meanwhile: marked, it would be looked for at every sweep.
        return tx.rollback().await;
    }
    let mark = Mark::new(&claim.subject, Class::Retry, "a lease was lost");
    tx.mark(&Mark { traceparent: claim.traceparent.as_deref(), ..mark }).await?;
    tx.commit().await
}
