//! While a worker lives it says so: its leases are short and do not run out. One that dies loses its rows soon after, and nobody
//! waits for the longest time that a call could have taken.

use crate::Context;
use domain::fault::chain;
use domain::work::Subject;
use parking_lot::Mutex;
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
