//! Chores: probes of paused providers, expired hints, figures about the queue.
//!
//! The sweep itself needs no chore: every finished look leaves its row due again within the sweep period.

use crate::Context;
use crate::faults::probe;
use crate::figures::Figures;
use domain::fault::chain;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

pub(crate) async fn run(context: Arc<Context>, stop: CancellationToken) {
    let mut tick = tokio::time::interval(
        (context.settings.probe_interval / 4).clamp(Duration::from_millis(20), Duration::from_secs(5)),
    );
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut figures = Figures::default();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        if let Err(error) = chores(&context, &mut figures).await {
            tracing::debug!(error = chain(&error), "chores wait for the database");
        }
    }
}

async fn chores(context: &Context, figures: &mut Figures) -> Result<(), store::Error> {
    let paused = context.store.begin_read().await?.pauses().await?;
    if !paused.is_empty() {
        probe_paused(context).await?;
    }
    let mut tx = context.store.begin().await?;
    if tx.take_turn("hints", &context.owner, Duration::from_secs(60)).await? {
        tx.forget_expired_hints().await?;
    }
    tx.commit().await?;
    figures.show(context).await
}

async fn probe_paused(context: &Context) -> Result<(), store::Error> {
    let mut tx = context.store.begin().await?;
    let due = tx.due_probes(context.settings.probe_interval).await?;
    tx.commit().await?;
    for pause in due {
        // Only an answer resumes: silence is an outage, in which nothing is gained by trying every row.
        if probe(context, pause.provider).await != Some(false) {
            tracing::warn!(provider = %pause.provider, "still paused: {}", pause.reason);
            continue;
        }
        let mut tx = context.store.begin().await?;
        tx.resume(pause.provider).await?;
        tx.commit().await?;
        tracing::info!(provider = %pause.provider, "provider resumed: a probe succeeded");
        context.items_due.notify_one();
        context.businesses_due.notify_one();
    }
    Ok(())
}
