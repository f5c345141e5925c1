//! What metrics tell of the store. Each consumer shows the same, so that none of them has to be alive for it.

use crate::Context;
use domain::accounts::MintRefused;
use domain::budget::{Booked, Call};
use domain::item::CONSENT_ENDS_SOON;
use domain::verdict::State;
use domain::work::{Block, Class, Kind};
use domain::{Provider, metric};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use store::{AT_WORK_WITHIN, Tx};

/// Of each kind that are counted at most, every few seconds.
const MOST_COUNTED: u32 = 10_000;

async fn show_others(context: &Context, tx: &mut Tx) -> Result<(), store::Error> {
    let others = tx.others_at_work(&context.group, AT_WORK_WITHIN).await?;
    metrics::gauge!(metric::FOREIGN_GROUPS).set(others.len() as f64);
    if !others.is_empty() && context.shared_database.failed(Instant::now()).is_some() {
        tracing::error!(
            groups = others.join(", "),
            ours = context.group,
            "another release works on this database: give each a database of its own, or the same kafka.group"
        );
    }
    Ok(())
}

/// Series whose last row went away are set to nothing once more, instead of standing at their last value for ever.
pub(crate) struct Stats {
    blocked: BTreeSet<[&'static str; 3]>,
}

impl Stats {
    /// Where nothing is blocked, zeros say so: no series at all could as well be no consumer.
    pub(crate) fn new() -> Self {
        let each = |kind: &'static str| Block::WORDS.iter().map(move |by| [kind, *by, metric::OTHER]);
        Self { blocked: Kind::WORDS.iter().copied().flat_map(each).collect() }
    }

    pub(crate) async fn show(&mut self, context: &Context) -> Result<(), store::Error> {
        let mut tx = context.store.begin_read().await?;
        let spent = show_budgets(context, &mut tx).await?;
        for kind in Kind::ALL {
            show_due(&mut tx, *kind, &spent).await?;
            self.show_blocked(&mut tx, *kind).await?;
            let age = tx.reconciled_oldest(*kind).await?;
            metrics::gauge!(metric::RECONCILED_OLDEST, "kind" => kind.as_str()).set(age.as_secs_f64());
        }
        show_not_good(&mut tx).await?;
        metrics::gauge!(metric::OUTBOX).set(tx.outbox_length().await? as f64);
        metrics::gauge!(metric::ORPHANS).set(tx.count_orphans().await? as f64);
        show_attention(&mut tx).await?;
        let paused = tx.pauses().await?;
        for provider in Provider::ALL {
            let is_paused = paused.iter().any(|p| p.provider == *provider);
            metrics::gauge!(metric::PROVIDER_PAUSED, "provider" => provider.as_str())
                .set(f64::from(u8::from(is_paused)));
        }
        show_others(context, &mut tx).await?;
        metrics::gauge!(metric::SWEEP_PERIOD).set(context.sweep_period().as_secs_f64());
        metrics::gauge!(metric::SWEEP_PERIOD_SET).set(context.settings.sweep_period.as_secs_f64());
        Ok(())
    }

    async fn show_blocked(&mut self, tx: &mut Tx, kind: Kind) -> Result<(), store::Error> {
        let shown = self.blocked.iter().filter(|[of, ..]| *of == kind.as_str());
        let mut blocked: BTreeMap<_, i64> = shown.map(|labels| (*labels, 0)).collect();
        for (by, code, rows) in tx.blocked_counts(kind).await? {
            // Several codes may become the same word.
            *blocked.entry([kind.as_str(), by.as_str(), metric::blocked_code(&code)]).or_default() += rows;
        }
        for ([kind, by, code], rows) in blocked {
            self.blocked.insert([kind, by, code]);
            metrics::gauge!(metric::BLOCKED_ROWS, "kind" => kind, "by" => by, "code" => code).set(rows as f64);
        }
        Ok(())
    }
}

/// Whose books are not right, by how they stand.
async fn show_not_good(tx: &mut Tx) -> Result<(), store::Error> {
    let now = tx.now();
    for kind in Kind::ALL {
        let found = tx.not_good(*kind).await?;
        for state in State::NOT_GOOD {
            let of = found.iter().find(|f| f.state == *state);
            let (rows, oldest) = of.map_or((0, Duration::ZERO), |f| (f.rows, now.since(f.oldest)));
            let (rows, oldest, state) = (rows as f64, oldest.as_secs_f64(), state.as_str());
            match kind {
                Kind::Business => {
                    metrics::gauge!(metric::UNCONVERGED_BUSINESSES, "state" => state).set(rows);
                    metrics::gauge!(metric::UNCONVERGED_OLDEST, "state" => state).set(oldest);
                }
                Kind::Item => {
                    metrics::gauge!(metric::UNCONVERGED_ITEMS, "state" => state).set(rows);
                    metrics::gauge!(metric::UNCONVERGED_ITEMS_OLDEST, "state" => state).set(oldest);
                }
            }
        }
    }
    let refused = tx.refused_mints().await?;
    for reason in MintRefused::ALL {
        let accounts = refused.iter().find(|(r, _)| r == reason).map_or(0, |(_, n)| *n);
        metrics::gauge!(metric::REFUSED_MINTS, "reason" => reason.as_str()).set(accounts as f64);
    }
    Ok(())
}

/// What wants a look beside rows that are kept.
async fn show_attention(tx: &mut Tx) -> Result<(), store::Error> {
    let found = tx.count_attention(CONSENT_ENDS_SOON, MOST_COUNTED).await?;
    metrics::gauge!(metric::MISSED_WEBHOOKS).set(found.missed_webhooks as f64);
    metrics::gauge!(metric::WEBHOOKS_ELSEWHERE).set(found.webhooks_elsewhere as f64);
    metrics::gauge!(metric::CONSENTS_ENDING).set(found.consents_ending as f64);
    metrics::gauge!(metric::DEAD_LETTERS_KEPT).set(found.dead_letters as f64);
    Ok(())
}

/// Returns the calls for which there is no budget at the moment.
async fn show_budgets(context: &Context, tx: &mut Tx) -> Result<Vec<Call>, store::Error> {
    let (limits, now) = (&context.limits, tx.now());
    let budgets = tx.budgets().await?;
    let mut spent = Vec::new();
    for call in Call::ALL {
        let booked = budgets.iter().find(|b| b.call == *call).map_or_else(Booked::default, |b| b.booked);
        let rate = f64::from(limits.per_minute(*call)) * booked.rate(now, limits.recovery);
        metrics::gauge!(metric::BUDGET_RATE, "call" => call.as_str()).set(rate);
        metrics::gauge!(metric::BUDGET_BOOKED, "call" => call.as_str()).set(booked.ahead(now));
        if booked.is_spent(limits, *call, now) {
            spent.push(*call);
        }
    }
    Ok(spent)
}

async fn show_due(tx: &mut Tx, kind: Kind, spent: &[Call]) -> Result<(), store::Error> {
    let due = tx.due_rows(kind).await?;
    for class in Class::ALL {
        let of = due.iter().find(|d| d.class == *class);
        let (rows, oldest) = of.map_or((0, Duration::ZERO), |d| (d.rows, d.oldest));
        metrics::gauge!(metric::DUE_ROWS, "kind" => kind.as_str(), "class" => class.as_str()).set(rows as f64);
        metrics::gauge!(metric::DUE_OLDEST, "kind" => kind.as_str(), "class" => class.as_str())
            .set(oldest.as_secs_f64());
    }
    let claimable = tx.claimable_oldest(kind, |call| spent.contains(&call)).await?;
    metrics::gauge!(metric::CLAIMABLE_OLDEST, "kind" => kind.as_str()).set(claimable.as_secs_f64());
    Ok(())
}
