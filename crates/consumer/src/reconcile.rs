//! The skeleton of both reconcilers: begin, take the steps, end. Whatever happens, the claim ends with it, or with its lease.

use crate::{Context, business, item, leases, steps};
use domain::metric;
use domain::queue::Finish;
use domain::work::{Class, Subject};
use std::time::Instant;
use store::Claim;

/// Why the steps ended before the last one.
pub(crate) enum Stop {
    /// The row ends like this; what was found until now is kept.
    Row(Finish),
    /// Nothing more can be found out now, and what was found is kept.
    Found,
    /// The row was deleted, and what it was about with it.
    Gone,
    /// Nothing was committed of this step.
    Store(store::Error),
}

impl Stop {
    /// The word for traces.
    pub(crate) fn word(&self) -> &str {
        match self {
            Self::Row(finish) => finish.blocked.as_ref().map_or("stopped", |b| &b.code),
            Self::Found | Self::Gone => "stopped",
            Self::Store(_) => "interrupted",
        }
    }
}

impl From<store::Error> for Stop {
    fn from(error: store::Error) -> Self {
        Self::Store(error)
    }
}

/// One reconciliation, while it lasts.
pub(crate) trait Reconcile: Sized {
    /// What it does to end well, when every step was taken.
    type Ending;

    /// Asks, plans and acts. Each step commits what the next one rests on.
    async fn steps(&mut self) -> Result<Self::Ending, Stop>;

    /// Commits what was found with the end of the claim. None: the steps stopped with nothing more to find.
    async fn end(self, ending: Result<Option<Self::Ending>, Finish>) -> Result<(), store::Error>;
}

/// Reconciles what was claimed. A consumer does nothing else with a claimed row; explorers of the protocol decide themselves
/// who reconciles when.
pub async fn reconcile(context: &Context, claim: Claim) {
    let (began, kind) = (Instant::now(), claim.subject.kind());
    // Boxed one by one: a task holds what its own kind needs, not the larger of the two.
    let ended = steps::remembered(async {
        match &claim.subject {
            Subject::Item(id) => Box::pin(async { run(item::begin(context, &claim, id).await).await }).await,
            Subject::Business(id) => Box::pin(async { run(business::begin(context, &claim, id).await).await }).await,
        }
    });
    match ended.await {
        Ok(false) => {}
        Ok(true) => {
            metrics::histogram!(metric::RECONCILE, "kind" => kind.as_str()).record(began.elapsed().as_secs_f64());
            tracing::debug!(took_ms = domain::time::millis(began.elapsed()), "reconciliation ended");
        }
        Err(error) => leases::interrupted(context, &claim, error).await,
    }
}

/// False: there was nothing to reconcile, and the row is done.
async fn run<R: Reconcile>(begun: Result<Option<R>, store::Error>) -> Result<bool, store::Error> {
    let Some(mut reconciliation) = begun? else { return Ok(false) };
    let ending = match reconciliation.steps().await {
        Ok(ending) => Ok(Some(ending)),
        Err(Stop::Found) => Ok(None),
        Err(Stop::Row(finish)) => Err(finish),
        Err(Stop::Gone) => return Ok(true),
        Err(Stop::Store(error)) => return Err(error),
    };
    reconciliation.end(ending).await?;
    Ok(true)
}

/// Only the sweep asked for it: a change that it finds was not announced.
pub(crate) fn is_unannounced(claim: &Claim) -> bool {
    claim.class == Class::Sweep && claim.signal_at.is_none()
}
