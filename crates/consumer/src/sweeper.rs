//! Chores: probes of paused providers, expired hints, stats about the queue.
//!
//! The sweep itself needs no chore: every finished reconciliation leaves its row due again within the sweep period.

use crate::refusals::probe;
use crate::stats::Stats;
use crate::{Context, Mode};
use domain::fault::chain;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// How often stats are taken: seldom enough that a large fleet of consumers is no load on the database.
const FIGURES: Duration = Duration::from_secs(5);
/// How often the rows that the sweep has to serve are counted, which reads whole indexes.
const COUNT_ROWS: Duration = Duration::from_mins(10);
/// Entries of the audit trail, and of the history, that one transaction deletes.
const FORGOTTEN_AT_ONCE: u32 = 5000;
/// Dead letters that are kept for somebody to look at.
const MOST_DEAD_LETTERS: u32 = 10_000;
/// Whoever asked for a plan has read it by then.
const PLANS_KEPT: Duration = Duration::from_mins(15);
/// How long rows of an earlier release are judged in one go.
const JUDGE_FOR: Duration = Duration::from_secs(1);
/// Rows that are judged in one transaction.
const SLICE: u32 = 200;

pub(crate) async fn run(context: Arc<Context>, stop: CancellationToken) {
    let mut tick = tokio::time::interval(
        (context.settings.probe_interval / 4).clamp(Duration::from_millis(20), Duration::from_secs(5)),
    );
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut count = tokio::time::interval(FIGURES);
    count.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut rows = tokio::time::interval(COUNT_ROWS);
    rows.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut stats = Stats::new();
    let mut unreadable = 0;
    loop {
        let done = tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => chores(&context, &mut unreadable).await,
            _ = count.tick() => stats.show(&context).await,
            _ = rows.tick() => fit_sweep(&context).await,
        };
        if let Err(error) = done {
            tracing::debug!(error = chain(&error), "chores wait for the database");
        }
    }
}

async fn chores(context: &Context, unreadable: &mut u32) -> Result<(), store::Error> {
    let paused = context.store.begin_read().await?.pauses().await?;
    if !paused.is_empty() {
        probe_paused(context).await?;
    }
    let mut tx = context.store.begin().await?;
    if tx.lease_chore("hints", &context.owner, Duration::from_secs(60)).await? {
        tx.forget_expired_hints().await?;
        tx.forget_refused_pushes(Duration::from_hours(1)).await?;
        let settings = &context.settings;
        tx.forget_unknown(settings.unknown_items_kept, settings.max_unknown_items).await?;
        tx.forget_old_audit(settings.audit_kept, FORGOTTEN_AT_ONCE).await?;
        tx.forget_old_history(settings.history_kept, FORGOTTEN_AT_ONCE).await?;
        tx.forget_old_dead_letters(settings.history_kept, MOST_DEAD_LETTERS).await?;
        tx.forget_old_plans(PLANS_KEPT).await?;
        tx.forget_old_batches(settings.audit_kept).await?;
    }
    let group = &context.group;
    if tx.lease_chore(&format!("at_work/{group}"), &context.owner, Duration::from_secs(60)).await? {
        tx.is_at_work(group).await?;
        if context.settings.mode == Mode::Act {
            tx.acts().await?;
        }
    }
    tx.commit().await?;
    judge_unknown(context, unreadable).await
}

/// What an earlier release wrote is judged by one process, a slice at a time, and for a moment only: probes and stats
/// must not wait until a million rows are done.
///
/// A row that can't be read keeps those that would be judged with it until their own reconciliations: `unreadable` counts
/// what is passed by, of either kind.
async fn judge_unknown(context: &Context, unreadable: &mut u32) -> Result<(), store::Error> {
    let began = Instant::now();
    while began.elapsed() < JUDGE_FOR {
        let mut tx = context.store.begin().await?;
        if tx.judge_unknown(SLICE, *unreadable).await? == 0
            || !tx.lease_chore("verdicts", &context.owner, JUDGE_FOR * 10).await?
        {
            return tx.rollback().await;
        }
        if let Err(error) = tx.commit().await {
            if error.is_passing() {
                return Err(error);
            }
            tracing::error!(
                error = chain(&error),
                "rows of an earlier release can't be judged before they are looked at"
            );
            *unreadable += SLICE;
        }
    }
    Ok(())
}

/// Counts what the sweep has to serve.
async fn fit_sweep(context: &Context) -> Result<(), store::Error> {
    let mut tx = context.store.begin_read().await?;
    let (items, businesses) = (tx.count_items().await?, tx.count_businesses().await?);
    context.fit_sweep(items, businesses);
    Ok(())
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
        let resumed = tx.resume_by_probe(pause.provider).await?;
        tx.commit().await?;
        if !resumed {
            continue;
        }
        tracing::info!(provider = %pause.provider, "provider resumed: a probe succeeded");
    }
    Ok(())
}
