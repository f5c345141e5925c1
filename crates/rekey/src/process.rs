//! The life of a process that serves: start, wait for a signal or a failure, drain, exit.

use crate::config::Config;
use crate::wiring::{Given, Running, start};
use domain::Role;
use tokio::signal::unix::Signal;

/// Runs the roles until SIGTERM or Ctrl-C.
pub async fn run(config: Config, roles: &[Role]) -> anyhow::Result<()> {
    // First of all: without a handler process 1 of a container is deaf to SIGTERM, and any other ends at once.
    let mut told_to_stop = std::pin::pin!(signal());
    let running = tokio::select! {
        () = &mut told_to_stop => return Ok(()),
        started = start(config, roles, Given::default()) => started?,
    };
    announce(&running, roles);
    let ended = tokio::select! {
        () = told_to_stop => Ok(()),
        Some(error) = running.failure() => Err(error),
    };
    match &ended {
        Ok(()) => running.stop().await,
        Err(error) => {
            // First of all, before anything is drained: people look for this line in the log.
            tracing::error!(error = format!("{error:#}"), "this process can't go on and ends");
            running.stop_now().await;
        }
    }
    ended
}

fn announce(running: &Running, roles: &[Role]) {
    tracing::info!(
        receiver = running.receiver.map(tracing::field::display),
        console = running.console.map(tracing::field::display),
        sandbox = running.sandbox_address.map(tracing::field::display),
        ops = %running.ops,
        consumer = roles.contains(&Role::Consumer),
        version = env!("CARGO_PKG_VERSION"),
        "rekey runs"
    );
}

/// Listens from the call on, and resolves on SIGTERM or Ctrl-C.
pub fn signal() -> impl Future<Output = ()> {
    use tokio::signal::unix::{SignalKind, signal};
    // Where there can't be a handler the default applies, which ends the process; nothing is lost by it.
    let [mut terminate, mut interrupt] =
        [SignalKind::terminate(), SignalKind::interrupt()].map(|kind| signal(kind).ok());
    async move {
        tokio::select! {
            Some(()) = next(&mut terminate) => {}
            Some(()) = next(&mut interrupt) => {}
            else => std::future::pending().await,
        }
    }
}

async fn next(signals: &mut Option<Signal>) -> Option<()> {
    signals.as_mut()?.recv().await
}
