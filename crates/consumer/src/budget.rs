//! A provider is called when the fleet's budget says so, and under a lease that outlasts the call.

use crate::Context;
use domain::budget::{Call, horizon};
use domain::metric;
use domain::queue::Finish;
use std::time::Duration;
use store::{Booking, Claim};

/// Slots that a process may miss, because it or its database is slow, before its reconciliation ends.
const MISSES: u32 = 3;

/// Waits for the moment at which this call may be made, and makes the lease outlast it. Err: there is no budget soon,
/// so the reconciliation ends, keeps what it did, and goes on when there is.
pub(crate) async fn wait_for_slot(
    context: &Context,
    claim: &mut Claim,
    call: Call,
) -> Result<Result<(), Finish>, store::Error> {
    let lease = context.settings.lease;
    // As long as the last slot was missed by: a slow database costs a slot and some time, and never all calls.
    let mut lead = Duration::ZERO;
    for tried in 0..MISSES {
        if context.stopping.is_cancelled() {
            return Ok(Err(given_back(claim, call)));
        }
        let mut tx = context.store.begin().await?;
        tx.renew(claim, lease).await?;
        // It has a limit for each Item as well.
        if call == Call::ItemGet
            && tried == 0
            && let Err(wait) = tx.pace_proof(claim, &context.limits).await?
        {
            tx.commit().await?;
            return Ok(Err(postponed(claim, call, wait)));
        }
        let booking = match claim.prepaid(call) {
            Some(at) => Booking::At(at),
            // The wait is part of the lease, so it may take a part of it only.
            None => tx.book(&context.limits, call, horizon(claim.urgency).min(lease / 4), lead).await?,
        };
        tx.commit().await?;
        let at = match booking {
            Booking::At(at) => at,
            Booking::NotBefore(wait) => return Ok(Err(postponed(claim, call, wait))),
        };
        tokio::select! {
            () = tokio::time::sleep_until(at.into()) => {}
            () = context.stopping.cancelled() => return Ok(Err(given_back(claim, call))),
        }
        // A call that leaves late would meet those whose slots came after its own.
        if at.elapsed() < call.late() {
            return Ok(Ok(()));
        }
        lead = at.elapsed().min(lease / 4);
    }
    Ok(Err(postponed(claim, call, call.late())))
}

/// This process stops: the next worker to claim the row goes on where this reconciliation was.
fn given_back(claim: &Claim, call: Call) -> Finish {
    Finish::unfinished(Duration::ZERO, claim.class, call)
}

/// A row that needs a mint is claimed when there is budget for it; others are due again when there may be.
pub(crate) fn postponed(claim: &Claim, call: Call, wait: Duration) -> Finish {
    metrics::counter!(metric::BUDGET_POSTPONED, "call" => call.as_str()).increment(1);
    let again_after = if call == Call::Mint { Duration::ZERO } else { wait };
    Finish::unfinished(again_after, claim.class, call)
}
