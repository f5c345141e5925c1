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
/// Who asked was told at once where that was possible; this finds the rest.
const POLL: Duration = Duration::from_secs(1);

pub(crate) async fn run(context: Arc<Context>, stop: CancellationToken) {
    let (slots, running) = (Arc::new(Semaphore::new(AT_ONCE)), TaskTracker::new());
    while !stop.is_cancelled() {
        let free = slots.available_permits() as u32;
        let taken = if free == 0 { Ok(Vec::new()) } else { take(&context, free).await };
        for asked in taken.unwrap_or_else(|error| {
            tracing::debug!(error = chain(&error), "questions for plans wait for the database");
            Vec::new()
        }) {
            let (context, slots, stop) = (Arc::clone(&context), Arc::clone(&slots), stop.clone());
            running.spawn(async move {
                let Ok(_slot) = slots.acquire_owned().await else { return };
                // Nobody is lost: another consumer answers once the lease has run out.
                let answered = stop.run_until_cancelled(answer(&context, &asked)).await;
                if let Some(Err(error)) = answered {
                    tracing::warn!(error = chain(&error), business = %asked.business, "a plan could not be made");
                }
                context.store.ask_for_plans();
            });
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(POLL) => {}
            () = context.store.plan_asked() => {}
        }
    }
    running.close();
    running.wait().await;
}

async fn take(context: &Context, limit: u32) -> Result<Vec<AskedPlan>, store::Error> {
    if !context.store.begin_read().await?.is_plan_asked().await? {
        return Ok(Vec::new());
    }
    let mut tx = context.store.begin().await?;
    let taken = tx.take_plans(limit, LEASE).await?;
    tx.commit().await?;
    Ok(taken)
}

async fn answer(context: &Context, asked: &AskedPlan) -> Result<(), store::Error> {
    // Erased meanwhile: the question went with it.
    let Some(foreseen) = rehearse(context, &asked.business).await? else { return Ok(()) };
    let answer = serde_json::to_string(&foreseen).unwrap_or_default();
    let mut tx = context.store.begin().await?;
    tx.answer_plan(&asked.id, &answer).await?;
    tx.commit().await
}
