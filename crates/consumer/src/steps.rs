//! What a reconciliation did, for people: the calls it made and how it ended, noted in the transaction that ends it.

use crate::reconcile::is_unannounced;
use domain::Millis;
use domain::queue::Finish;
use domain::time::millis;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::time::{Duration, Instant};
use store::{Claim, Tx};
use tracing::Span;

/// Entries that are kept of each business and of each Item.
const KEPT_OF_EACH: u32 = 500;
/// Reconciliations between two looks at how many there are.
const SHORTEN_EVERY: i64 = 64;

/// The outcome of a call that was answered well.
const OK: &str = "ok";
/// Steps that change nothing.
pub(crate) const READ_ACCOUNTS: &str = "read accounts";
pub(crate) const READ_ITEM: &str = "read the Item";
pub(crate) const READ_LIST: &str = "read the list";
const READS: [&str; 3] = [READ_ACCOUNTS, READ_ITEM, READ_LIST];

tokio::task_local! {
    static TAKEN: RefCell<Taken>;
}

struct Taken {
    began: Instant,
    steps: Vec<Step>,
}

/// Calls of one kind that ended alike.
struct Step {
    name: &'static str,
    outcome: String,
    times: u32,
    took: Duration,
}

/// Carries out a reconciliation whose calls are remembered until it ends.
pub(crate) async fn remembered<T>(reconciliation: impl Future<Output = T>) -> T {
    // Boxed: it is large, and would be moved with what it is remembered in.
    TAKEN.scope(RefCell::new(Taken { began: Instant::now(), steps: Vec::new() }), Box::pin(reconciliation)).await
}

/// Carries out a step, which is traced as `span` says and remembered as `name`.
pub(crate) async fn step<T, E>(
    name: &'static str,
    span: Span,
    word: fn(&E) -> &str,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let began = Instant::now();
    let ended = traces::step(span, word, work).await;
    let outcome = ended.as_ref().map_or_else(word, |_| OK);
    // Outside of a reconciliation there is nothing to tell it with.
    let _ = TAKEN.try_with(|taken| taken.borrow_mut().add(name, outcome, began.elapsed()));
    ended
}

impl Taken {
    /// Mints of one Item run side by side: they count as one step, as long as the longest of them.
    fn add(&mut self, name: &'static str, outcome: &str, took: Duration) {
        match self.steps.last_mut().filter(|last| last.name == name && last.outcome == outcome) {
            Some(last) => {
                last.times += 1;
                last.took = last.took.max(took);
            }
            None => self.steps.push(Step { name, outcome: outcome.to_owned(), times: 1, took }),
        }
    }
}

/// Notes how a reconciliation ended. Nothing of one that only read, whatever the answer, and that the sweep asked for or that waits for
/// budget: a million of these a day would be the whole history. What it found changed is told by outcomes of its own. Nor of a try that met what the one before it had met: an Item that waits for its token
/// for a day would push everything else out of its own.
pub(crate) async fn note_end(tx: &mut Tx, claim: &Claim, finish: &Finish) -> Result<(), store::Error> {
    let (only_read, only_read_or_refused, took, steps) = TAKEN
        .try_with(|taken| {
            let taken = taken.borrow();
            let only_read = taken.steps.iter().all(|step| READS.contains(&step.name));
            let only_read_or_refused = taken.steps.iter().all(|step| READS.contains(&step.name) || step.outcome != OK);
            let steps = taken.steps.iter().map(|Step { name, outcome, times, took }| {
                json!({"step": name, "outcome": outcome, "times": times, "took_ms": millis(*took)})
            });
            (only_read, only_read_or_refused, millis(taken.began.elapsed()), steps.collect::<Vec<Value>>())
        })
        .unwrap_or_default();
    if only_read && finish.blocked.is_none() && (is_unannounced(claim) || finish.unfinished.is_some()) {
        return Ok(());
    }
    let blocked = finish.blocked.as_ref();
    if only_read_or_refused && blocked.is_some_and(|b| claim.reason.strip_prefix("retry: ") == Some(&b.code)) {
        return Ok(());
    }
    let detail = json!({
        "because": claim.reason, "class": claim.class, "since": claim.signal_at.map(Millis::rfc3339),
        "ended": blocked.map_or("done", |b| b.by.as_str()), "code": blocked.map(|b| &b.code), "why": blocked.map(|b| &b.why),
        "took_ms": took, "steps": steps,
    });
    tx.note(&claim.subject, "rekey.reconciled", detail, claim.traceparent.as_deref());
    // Two epochs in a row: of these one may be a sweep's, of which nothing is noted.
    if claim.epoch % SHORTEN_EVERY < 2 {
        tx.shorten_history(&claim.subject, KEPT_OF_EACH).await?;
    }
    Ok(())
}
