//! Chores: probes of paused providers, expired hints, stats about the queue.
//!
//! The sweep itself needs no chore: every finished reconciliation leaves its row due again within the sweep period.

use crate::faults::probe;
use crate::stats::Stats;
use crate::{Context, Mode};
use domain::fault::chain;
use domain::retry::{Curve, Retries};
use domain::work::Kind;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// How often stats are taken: seldom enough that a large fleet of consumers is no load on the database.
const FIGURES: Duration = Duration::from_secs(5);
/// How often the rows that the sweep has to serve are counted, which reads whole indexes.
const COUNT_ROWS: Duration = Duration::from_mins(10);
/// Entries of the audit trail that one transaction deletes.
const FORGOTTEN_AT_ONCE: u32 = 5000;
/// How long rows of an earlier release are judged in one go.
const JUDGE_FOR: Duration = Duration::from_secs(1);
/// How often a consumer in observe mode says that it is there.
const OBSERVES_EVERY: Duration = Duration::from_mins(1);
const UNMINTED: &str = "start: accounts without a token";
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

/// Orders what the start asks for. In the background: in a large store it takes a while, and nobody has to wait for it.
pub(crate) async fn begin(context: Arc<Context>, stop: CancellationToken) {
    let mut retries = Retries::new(Curve { first: Duration::from_millis(100), cap: Duration::from_secs(5) });
    loop {
        let ordered = tokio::select! {
            () = stop.cancelled() => return,
            ordered = order_at_start(&context) => ordered,
        };
        let Err(error) = ordered else { return };
        if retries.failures() == 0 {
            tracing::warn!(error = chain(&error), "what the start asks for could not be ordered; it is tried again");
        }
        let wait = retries.next_wait(&mut rand::rng());
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

async fn order_at_start(context: &Context) -> Result<(), store::Error> {
    let settings = &context.settings;
    let observed = context.store.begin_read().await?.observed_at().await?;
    if settings.mode == Mode::Act && observed.is_some() {
        context.store.mark_all_unminted(UNMINTED).await?;
        context.items_due.notify_one();
    }
    if settings.sweep_at_start {
        for kind in Kind::ALL {
            context.store.mark_all(*kind, settings.debounce, "sweep at start").await?;
        }
    }
    Ok(())
}

/// While a consumer in observe mode is at work it takes orders that one in act mode gave, and does not carry them out: they
/// are given once more when the last of them is gone.
async fn order_what_was_observed(context: &Context) -> Result<(), store::Error> {
    let mut tx = context.store.begin_read().await?;
    let (now, at) = (tx.now(), tx.observed_at().await?);
    drop(tx);
    let is_older = |than: Duration| at.is_none_or(|at| now.since(at) > than);
    match (context.settings.mode, at) {
        (Mode::Observe, _) if is_older(OBSERVES_EVERY) => {
            let mut tx = context.store.begin().await?;
            tx.observes().await?;
            tx.commit().await
        }
        (Mode::Act, Some(at)) if is_older(3 * OBSERVES_EVERY) => {
            context.store.mark_all_unminted(UNMINTED).await?;
            let mut tx = context.store.begin().await?;
            tx.forget_observed(at).await?;
            tx.commit().await?;
            context.items_due.notify_one();
            Ok(())
        }
        (Mode::Observe | Mode::Act, _) => Ok(()),
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
    }
    let group = &context.group;
    if tx.lease_chore(&format!("at_work/{group}"), &context.owner, Duration::from_secs(60)).await? {
        tx.is_at_work(group).await?;
    }
    tx.commit().await?;
    order_what_was_observed(context).await?;
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
        tx.resume(pause.provider).await?;
        tx.commit().await?;
        tracing::info!(provider = %pause.provider, "provider resumed: a probe succeeded");
        context.items_due.notify_one();
        context.businesses_due.notify_one();
    }
    Ok(())
}
