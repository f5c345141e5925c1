//! What observe mode planned and did not do is ordered for act mode.
//!
//! Observers say once a minute that they are there. While one is, it may take what a consumer in act mode has ordered, and
//! then plans it again and does nothing. So it is ordered when such a consumer starts, because people wait for it then, and
//! once more when the last observer has been gone for a while.

use crate::{Context, Mode};
use domain::fault::chain;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often an observer says that it is there.
const SAID_EVERY: Duration = Duration::from_mins(1);
/// One that has not said so for this long is gone.
const GONE_AFTER: Duration = Duration::from_mins(3);
/// Longest that one process orders alone.
const ORDERING: Duration = Duration::from_mins(2);

/// In the background: over a large store it takes a while, and nothing has to wait for it.
pub(crate) async fn run(context: Arc<Context>, stop: CancellationToken) {
    let mut tick =
        tokio::time::interval((context.settings.probe_interval).clamp(Duration::from_millis(50), SAID_EVERY / 4));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut has_ordered = false;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        let done = tokio::select! {
            () = stop.cancelled() => return,
            done = say_or_order(&context, has_ordered) => done,
        };
        match done {
            Ok(ordered) => has_ordered |= ordered,
            Err(error) => tracing::debug!(error = chain(&error), "what observe mode left waits for the database"),
        }
    }
}

/// True: what observers left is ordered, for now.
async fn say_or_order(context: &Context, has_ordered: bool) -> Result<bool, store::Error> {
    let mut tx = context.store.begin_read().await?;
    let (now, observed) = (tx.now(), tx.observed_at().await?);
    drop(tx);
    let silent_for = observed.map(|at| now.since(at));
    match (context.settings.mode, observed.zip(silent_for)) {
        (Mode::Observe, said) if said.is_none_or(|(_, silent)| silent > SAID_EVERY) => {
            let mut tx = context.store.begin().await?;
            tx.observes().await?;
            tx.commit().await?;
            Ok(false)
        }
        (Mode::Act, Some((at, silent))) if !has_ordered || silent > GONE_AFTER => {
            order(context, (silent > GONE_AFTER).then_some(at)).await
        }
        (Mode::Observe | Mode::Act, _) => Ok(false),
    }
}

/// `last`: when the last observer said that it was there; nothing is left of it after this. One process orders for all.
async fn order(context: &Context, last: Option<domain::Millis>) -> Result<bool, store::Error> {
    let mut tx = context.store.begin().await?;
    let is_ours = tx.lease_chore("observed", &context.owner, ORDERING).await?;
    tx.commit().await?;
    if !is_ours {
        return Ok(false);
    }
    let rows = context.store.mark_observed("start: what observe mode planned").await?;
    if let Some(at) = last {
        let mut tx = context.store.begin().await?;
        tx.forget_observed(at).await?;
        tx.commit().await?;
    }
    tracing::info!(rows, "what observe mode planned is ordered");
    Ok(true)
}
