//! Intake, item reconciler, business reconciler, sweeper: from "look at this Item" to a list at Layer that is true.

mod budget;
mod business;
mod context;
mod intake;
mod item;
mod leases;
mod letters;
mod observed;
mod outcome;
mod plans;
mod reconcile;
mod refusals;
mod rehearsal;
mod settings;
mod source;
mod stats;
mod steps;
mod sweeper;
mod workers;

pub use context::Context;
pub use intake::judge;
pub use reconcile::reconcile;
pub use rehearsal::rehearse;
pub use settings::{FirstContact, ItemGoneProof, Mode, Settings, SourceSettings};
pub use source::{SourceError, TokenSource};

use bus::Intake;
use std::sync::Arc;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

/// Runs every part until `stop`. Then reconciliations end at their next provider call, keep what they did and give
/// their leases back: another process goes on at once, and waits for no lease to run out.
///
/// # Errors
/// A part panicked. Without it the others would go on as if all were well.
pub async fn run(
    context: Arc<Context>,
    intake: Intake,
    connection: bus::Connection,
    stop: CancellationToken,
) -> Result<(), JoinError> {
    let (stopping, kept) = (context.stopping.clone(), Arc::clone(&context));
    let ended = stop.clone();
    tokio::spawn(async move {
        ended.cancelled().await;
        stopping.cancel();
    });
    let mut parts = JoinSet::new();
    parts.spawn(intake::run(Arc::clone(&context), intake, stop.clone()));
    parts.spawn(workers::run(Arc::clone(&context), domain::work::Kind::Item, stop.clone()));
    parts.spawn(workers::run(Arc::clone(&context), domain::work::Kind::Business, stop.clone()));
    parts.spawn(observed::run(Arc::clone(&context), stop.clone()));
    parts.spawn(sweeper::run(Arc::clone(&context), stop.clone()));
    parts.spawn(plans::run(Arc::clone(&context), stop.clone()));
    parts.spawn(letters::run(Arc::clone(&context), connection, stop.clone()));
    parts.spawn(outcome::publish_outbox(context, stop));
    // Those that are in flight when this process is told to stop still need their leases.
    tokio::select! {
        ended = all(parts) => ended,
        () = leases::keep(&kept) => Ok(()),
    }
}

/// Until all have ended, or one has panicked.
async fn all(mut parts: JoinSet<()>) -> Result<(), JoinError> {
    while let Some(ended) = parts.join_next().await {
        ended?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_part_that_panics_ends_all_of_them() {
        let mut parts = JoinSet::new();
        parts.spawn(async {});
        assert!(all(parts).await.is_ok());
        let mut parts = JoinSet::new();
        parts.spawn(std::future::pending());
        parts.spawn(async { assert_eq!(1, 2, "a fault of ours") });
        assert!(all(parts).await.is_err_and(|error| error.is_panic()));
    }
}
