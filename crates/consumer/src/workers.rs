//! Claims due rows and gives each to a reconciliation of its own.

use crate::Context;
use domain::ItemId;
use domain::fault::chain;
use domain::retry::{Curve, Retries};
use domain::trace::TraceParent;
use domain::work::{Kind, Subject};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use store::Claim;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;
use tracing::field::Empty;

/// At most so many ended Items are remembered, to find others of their lists.
const MOST_ENDED: usize = 64;

/// The workers of one kind.
struct Workers {
    context: Arc<Context>,
    slots: Arc<Semaphore>,
    running: TaskTracker,
    /// The last claim may have left rows for want of a free slot.
    more: Arc<AtomicBool>,
    /// Items that were worked on since the last claim that took something.
    ended: Arc<Mutex<BTreeSet<ItemId>>>,
}

/// Works off one kind until `stop`; then no row is claimed any more and reconciliations in flight end.
pub(crate) async fn run(context: Arc<Context>, kind: Kind, stop: CancellationToken) {
    let workers = Workers {
        slots: Arc::new(Semaphore::new(context.settings.workers as usize)),
        running: TaskTracker::new(),
        more: Arc::default(),
        ended: Arc::default(),
        context: Arc::clone(&context),
    };
    let mut outage = Retries::new(Curve { first: Duration::from_millis(100), cap: Duration::from_secs(5) });
    while !stop.is_cancelled() {
        let free = workers.slots.available_permits() as u32;
        let claims = if free == 0 { Ok(Vec::new()) } else { workers.claim(kind, free).await };
        let wait = match claims {
            Ok(claims) => {
                if outage.failures() > 0 {
                    tracing::info!(%kind, "the database is back");
                    outage.reset();
                }
                let claimed = claims.len() as u32;
                workers.more.store(claimed == free, Ordering::Relaxed);
                for claim in claims {
                    workers.start(claim).await;
                }
                context.store.takes(kind, claimed < free);
                if claimed > 0 && claimed == free { Duration::from_millis(1) } else { context.settings.poll }
            }
            Err(error) => {
                if outage.failures() == 0 {
                    // The pool's own reason is often no more than that it waited in vain.
                    let (error, why) = (chain(&error), context.store.diagnose(Some(&error)).await);
                    tracing::warn!(%kind, error, why, "the database does not answer; trying again until it does");
                }
                outage.next_wait(&mut rand::rng())
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(wait) => {}
            () = context.store.due(kind) => {}
        }
    }
    context.store.takes(kind, false);
    workers.running.close();
    workers.running.wait().await;
}

impl Workers {
    async fn claim(&self, kind: Kind, free: u32) -> Result<Vec<Claim>, store::Error> {
        let context = &self.context;
        let ended: Vec<ItemId> = self.ended.lock().iter().cloned().collect();
        let lease = context.settings.lease;
        let claims = context.store.claim_beside(&ended, kind, &context.owner, lease, free, &context.limits).await?;
        // While there is no budget, nothing is taken: the lists that were begun come first once there is.
        let mut kept = self.ended.lock();
        if !claims.is_empty() || kept.len() > MOST_ENDED {
            kept.retain(|item| !ended.contains(item));
        }
        Ok(claims)
    }

    async fn start(&self, mut claim: Claim) {
        let Ok(slot) = Arc::clone(&self.slots).acquire_owned().await else { return };
        let (context, at_work) = (Arc::clone(&self.context), self.context.at_work.on(&claim));
        let (more, ended) = (Arc::clone(&self.more), Arc::clone(&self.ended));
        let span = match &claim.subject {
            Subject::Item(id) => {
                tracing::info_span!(
                    "reconcile item",
                    item = id.as_str(),
                    why = claim.reason,
                    epoch = claim.epoch,
                    trace = Empty
                )
            }
            Subject::Business(id) => {
                let (business, why, epoch) = (id.as_str(), &claim.reason, claim.epoch);
                tracing::info_span!("reconcile business", business, why, epoch, trace = Empty)
            }
        };
        // What this reconciliation makes due follows from it.
        let from = claim.traceparent.as_deref().and_then(TraceParent::parse);
        claim.traceparent = traces::follow(&span, from).map(|t| t.to_string());
        let reconciling = async move {
            let subject = claim.subject.clone();
            crate::reconcile(&context, claim).await;
            let kind = subject.kind();
            if let Subject::Item(item) = subject {
                ended.lock().insert(item);
            }
            drop((slot, at_work));
            if more.load(Ordering::Relaxed) {
                context.store.ask_again(kind);
            }
        };
        self.running.spawn(reconciling.instrument(span));
    }
}
