//! The life of a process that serves: start, wait for a signal or a failure, drain, exit.

use crate::config::Config;
use crate::wiring::{Given, Roles, Running, start};

/// Runs the roles until SIGTERM or Ctrl-C.
pub async fn run(config: Config, roles: Roles) -> anyhow::Result<()> {
    let running = start(config, roles, Given::default()).await?;
    announce(&running, roles);
    let ended = tokio::select! {
        () = signal() => Ok(()),
        Some(error) = running.failure() => Err(error),
    };
    running.stop().await;
    ended
}

fn announce(running: &Running, roles: Roles) {
    tracing::info!(
        receiver = running.receiver.map(tracing::field::display),
        console = running.console.map(tracing::field::display),
        sandbox = running.sandbox_address.map(tracing::field::display),
        ops = %running.ops,
        consumer = roles.consumer,
        version = env!("CARGO_PKG_VERSION"),
        "rekey runs"
    );
}

/// Resolves on SIGTERM or Ctrl-C.
pub async fn signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let terminate = async {
        match signal(SignalKind::terminate()) {
            Ok(mut terminate) => {
                terminate.recv().await;
            }
            // Without a handler the default applies, which ends the process; nothing is lost by it.
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        () = terminate => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}
