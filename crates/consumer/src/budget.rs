//! A provider is called when the fleet's budget says so, and under a lease. What a 429 changes: the row's backoff in
//! `refusals.rs`, the fleet's rate in [`domain::budget`].

use crate::Context;
use domain::budget::{Call, horizon};
use domain::metric;
use domain::queue::Finish;
use domain::work::Class;
use std::time::{Duration, Instant};
use store::Claim;

/// Slots that a process may miss, because it or its database is slow, before its reconciliation ends.
pub(crate) const MISSES: u32 = 3;

/// A call that a reconciliation is about to make.
pub(crate) struct Slot {
    pub(crate) call: Call,
    /// Plaid limits it for each Item as well, and the claim did not count it.
    pub(crate) paced: bool,
    /// The lease that it begins under.
    pub(crate) lease: Duration,
}

/// Waits for the moment at which this call may be made. Err: there is no budget soon, so the reconciliation ends, keeps what it
/// did, and goes on when there is.
pub(crate) async fn wait_for_slot(
    context: &Context,
    claim: &mut Claim,
    slot: &Slot,
) -> Result<Result<(), Finish>, store::Error> {
    let Slot { call, paced, lease } = *slot;
    if let Some(rehearsal) = &context.rehearsal {
        return rehearsal.wait_for_slot(context, claim, call).await;
    }
    // As long as the last slot was missed by: a slow database costs a slot and some time, and never all calls.
    let mut lead = Duration::ZERO;
    for tried in 0..MISSES {
        if context.stopping.is_cancelled() {
            return Ok(Err(given_back(claim, call)));
        }
        let prepaid = claim.prepaid(call);
        // Booked with a claim that is still new, it needs no word with the store.
        let at = match prepaid.filter(|_| claim.remaining() > lease / 4 * 3) {
            Some(at) => at,
            None => {
                let mut tx = context.store.begin().await?;
                tx.renew(claim, lease).await?;
                if paced
                    && tried == 0
                    && let Err(wait) = tx.pace(claim, call, &context.limits).await?
                {
                    tx.commit().await?;
                    return Ok(Err(postponed(claim, call, wait)));
                }
                let booked = match prepaid {
                    Some(at) => Ok(vec![at]),
                    None => tx.book(&context.limits, call, patience(context, claim), lead, 1).await?,
                };
                tx.commit().await?;
                match booked.map(|slots| slots.first().copied()) {
                    Ok(Some(at)) => at,
                    Ok(None) => return Ok(Err(postponed(claim, call, call.late()))),
                    Err(wait) => return Ok(Err(postponed(claim, call, wait))),
                }
            }
        };
        match leaves(context, call, at).await {
            Leaves::Now => return Ok(Ok(())),
            Leaves::Never => return Ok(Err(given_back(claim, call))),
            Leaves::Late(by) => lead = by.min(lease / 4),
        }
    }
    Ok(Err(postponed(claim, call, call.late())))
}

/// Whether a call that may as well not be made can be made now, at nobody's cost.
pub(crate) async fn is_spare(context: &Context, claim: &mut Claim, slot: &Slot) -> Result<bool, store::Error> {
    let mut tx = context.store.begin().await?;
    tx.renew(claim, slot.lease).await?;
    let paced = !slot.paced || tx.pace(claim, slot.call, &context.limits).await?.is_ok();
    let at = match paced {
        true => {
            tx.book(&context.limits, slot.call, horizon(Class::Sweep), Duration::ZERO, 1).await?.unwrap_or_default()
        }
        false => Vec::new(),
    };
    tx.commit().await?;
    let Some(at) = at.first() else { return Ok(false) };
    Ok(matches!(leaves(context, slot.call, *at).await, Leaves::Now))
}

/// How far ahead this reconciliation may book. The wait is part of the lease, so it may take a part of it only.
pub(crate) fn patience(context: &Context, claim: &Claim) -> Duration {
    horizon(claim.urgency).min(context.settings.lease / 4)
}

/// Whether a call may leave that waited for its slot.
pub(crate) enum Leaves {
    Now,
    /// It would meet those whose slots came after its own.
    Late(Duration),
    /// This process stops.
    Never,
}

/// Waits for a slot that was booked.
pub(crate) async fn leaves(context: &Context, call: Call, at: Instant) -> Leaves {
    tokio::select! {
        () = tokio::time::sleep_until(at.into()) => {}
        () = context.stopping.cancelled() => return Leaves::Never,
    }
    let by = at.elapsed();
    if by < call.late() { Leaves::Now } else { Leaves::Late(by) }
}

/// This process stops: the next worker to claim the row goes on where this reconciliation was.
pub(crate) fn given_back(claim: &Claim, call: Call) -> Finish {
    Finish::unfinished(Duration::ZERO, claim.class, call)
}

/// A row that needs a mint is claimed when there is budget for it; others are due again when there may be.
pub(crate) fn postponed(claim: &Claim, call: Call, wait: Duration) -> Finish {
    metrics::counter!(metric::BUDGET_POSTPONED, "call" => call.as_str()).increment(1);
    let again_after = if call == Call::Mint { Duration::ZERO } else { wait };
    Finish::unfinished(again_after, claim.class, call)
}
