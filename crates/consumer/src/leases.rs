//! While a worker lives it says so: its leases are short and never run out. One that dies loses its rows soon after, and nobody
//! waits for the longest time that a call could have taken.

use crate::Context;
use domain::fault::chain;
use std::time::Duration;

/// Keeps the leases of this process until it is dropped.
pub(crate) async fn keep(context: &Context) {
    let lease = context.settings.lease;
    // Three misses in a row cost a lease: a busy database, a row that is locked, a slow start of this task.
    let mut beat = tokio::time::interval(lease / 4);
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        beat.tick().await;
        if context.at_work() == 0 {
            continue;
        }
        let kept = tokio::time::timeout(lease / 2, context.store.keep_leases(&context.owner, lease)).await;
        match kept {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(error = chain(&error), "leases could not be renewed"),
            Err(_) => tracing::debug!("leases could not be renewed in time"),
        }
    }
}

impl Context {
    /// The lease that a PUT begins under. Layer has no conditional one: nobody may take the business over before it has ended,
    /// whatever becomes of this process (I7).
    pub(crate) fn lease_of_put(&self) -> Duration {
        self.settings.lease.max(self.layer.request_timeout() * 3 / 2)
    }
}
