//! The accept loop of every server here: HTTP/1.1 with a bound on everything a caller could stretch.

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// Bounds on callers.
#[derive(Debug, Clone)]
pub struct Limits {
    pub connections: usize,
    /// From the first byte of a request (or the opening of the connection) to the end of its headers.
    pub header_read: Duration,
    /// From the stop signal until connections that are still busy are cut.
    pub drain: Duration,
}

/// Serves until `stop`, then lets requests in flight finish within [`Limits::drain`].
pub async fn serve(listener: TcpListener, routes: Router, limits: Limits, stop: CancellationToken) {
    let slots = Arc::new(Semaphore::new(limits.connections.max(1)));
    let graceful = GracefulShutdown::new();
    loop {
        let Some((stream, slot)) = next_connection(&listener, &slots, &stop).await else { break };
        let mut http = http1::Builder::new();
        // The header timer starts with the connection, so a silent one is closed as well.
        http.timer(TokioTimer::new()).header_read_timeout(limits.header_read).max_buf_size(64 * 1024);
        let service = TowerToHyperService::new(routes.clone());
        let connection = graceful.watch(http.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection ended early");
            }
            drop(slot);
        });
    }
    drop(listener);
    if tokio::time::timeout(limits.drain, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests were still running after the drain time and were cut");
    }
}

/// Waits for a slot first: over the limit, callers wait in the kernel's queue and cost nothing here.
async fn next_connection(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
    stop: &CancellationToken,
) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    loop {
        let slot = tokio::select! {
            () = stop.cancelled() => return None,
            slot = Arc::clone(slots).acquire_owned() => slot.ok()?,
        };
        let accepted = tokio::select! {
            () = stop.cancelled() => return None,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                // Answers are small; waiting to fill a packet would only delay them.
                let _ = stream.set_nodelay(true);
                return Some((stream, slot));
            }
            Err(error) => {
                // Out of file descriptors, most likely: give connections time to close instead of spinning.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}
