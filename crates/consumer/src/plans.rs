//! Answers whoever asks the admin API what a reconciliation would do now: providers are asked by consumers alone.

use crate::Context;
use crate::rehearsal::{LONGEST, rehearse};
use domain::fault::chain;
use std::sync::Arc;
use std::time::Duration;
use store::AskedPlan;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Plans that this process works on at once: they share the providers' limits with what is due.
const AT_ONCE: usize = 4;
/// A consumer that took a question and does not answer it within this time is dead.
const LEASE: Duration = LONGEST.saturating_add(Duration::from_secs(15));
/// Seldom at least: whoever asks says so, and this finds what was not heard.
const POLL: Duration = Duration::from_secs(1);

pub(crate) async fn run(context: Arc<Context>, stop: CancellationToken) {
    let (slots, running) = (Arc::new(Semaphore::new(AT_ONCE)), TaskTracker::new());
    while !stop.is_cancelled() {
        // First, so that nothing is taken that would have to wait under its lease.
        let slot = tokio::select! {
            () = stop.cancelled() => break,
            slot = Arc::clone(&slots).acquire_owned() => slot,
        };
        let (Ok(slot), taken) = (slot, take(&context).await) else { break };
        let asked = taken.unwrap_or_else(|error| {
            tracing::debug!(error = chain(&error), "questions for plans wait for the database");
            None
        });
        let Some(asked) = asked else {
            drop(slot);
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(context.settings.poll.max(POLL)) => {}
                () = context.store.plan_asked() => {}
            }
            continue;
        };
        let (context, stop) = (Arc::clone(&context), stop.clone());
        running.spawn(async move {
            // Nobody is lost: another consumer answers once the lease has run out.
            let answered = stop.run_until_cancelled(answer(&context, &asked)).await;
            if let Some(Err(error)) = answered {
                tracing::warn!(error = chain(&error), business = %asked.business, "a plan could not be made");
            }
            drop(slot);
        });
    }
    running.close();
    running.wait().await;
}

async fn take(context: &Context) -> Result<Option<AskedPlan>, store::Error> {
    if !context.store.begin_read().await?.is_plan_asked().await? {
        return Ok(None);
    }
    let mut tx = context.store.begin().await?;
    let taken = tx.take_plans(1, LEASE).await?;
    tx.commit().await?;
    Ok(taken.into_iter().next())
}

async fn answer(context: &Context, asked: &AskedPlan) -> Result<(), store::Error> {
    // Erased meanwhile: the question went with it.
    let Some(foreseen) = rehearse(context, &asked.business, asked.class).await? else { return Ok(()) };
    let answer = serde_json::to_string(&foreseen).unwrap_or_default();
    let mut tx = context.store.begin().await?;
    tx.answer_plan(&asked.id, &answer).await?;
    tx.commit().await
}
