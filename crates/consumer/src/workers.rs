//! Claims due rows and gives each to a reconciliation of its own.

use crate::Context;
use domain::fault::chain;
use domain::retry::{Curve, Retries};
use domain::trace::TraceParent;
use domain::work::{Kind, Subject};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use store::Claim;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;
use tracing::field::Empty;

/// Works off one kind until `stop`; then no row is claimed any more and reconciliations in flight end.
pub(crate) async fn run(context: Arc<Context>, kind: Kind, stop: CancellationToken) {
    let slots = Arc::new(Semaphore::new(context.settings.workers as usize));
    let running = TaskTracker::new();
    // The last claim may have left rows for want of a free slot.
    let more = Arc::new(AtomicBool::new(false));
    let mut outage = Retries::new(Curve { first: Duration::from_millis(100), cap: Duration::from_secs(5) });
    while !stop.is_cancelled() {
        let free = slots.available_permits() as u32;
        let claims = if free == 0 {
            Ok(Vec::new())
        } else {
            context.store.claim(kind, &context.owner, context.settings.lease, free, &context.limits).await
        };
        let wait = match claims {
            Ok(claims) => {
                if outage.failures() > 0 {
                    tracing::info!(%kind, "the database is back");
                    outage.reset();
                }
                let claimed = claims.len() as u32;
                more.store(claimed == free, Ordering::Relaxed);
                for claim in claims {
                    start(&context, claim, &slots, &more, &running).await;
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
    running.close();
    running.wait().await;
}

async fn start(
    context: &Arc<Context>,
    mut claim: Claim,
    slots: &Arc<Semaphore>,
    more: &Arc<AtomicBool>,
    running: &TaskTracker,
) {
    let Ok(slot) = Arc::clone(slots).acquire_owned().await else { return };
    let (context, at_work, more) = (Arc::clone(context), context.at_work.on(&claim), Arc::clone(more));
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
        let kind = claim.subject.kind();
        crate::reconcile(&context, claim).await;
        drop((slot, at_work));
        if more.load(Ordering::Relaxed) {
            context.store.ask_again(kind);
        }
    };
    running.spawn(reconciling.instrument(span));
}
