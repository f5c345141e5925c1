//! The accept loop of every server here: HTTP/1.1 with a bound on everything a caller could stretch.

use crate::Readiness;
use crate::connections::{Connections, Slot};
use crate::linger::Rest;
use axum::Router;
use axum::extract::ConnectInfo;
use axum::http::{HeaderValue, header};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

/// Bounds on callers.
#[derive(Debug, Clone)]
pub struct Limits {
    /// When all are taken, the one that has waited longest for its caller makes room for the next.
    pub connections: usize,
    /// From the first byte of a request (or the opening of the connection) to the end of its headers.
    pub header_read: Duration,
    /// From the stop signal until connections that are still busy are cut.
    pub drain: Duration,
}

/// Serves until `stop`, then lets requests in flight finish within [`Limits::drain`]. While `readiness` says that the process
/// drains, callers are told to open their next connection elsewhere, so that none is left whose next request meets a closed
/// door.
pub async fn serve(
    listener: TcpListener,
    routes: Router,
    limits: Limits,
    readiness: Readiness,
    stop: CancellationToken,
) {
    let connections = Connections::new(limits.connections);
    let graceful = GracefulShutdown::new();
    loop {
        let Some((stream, peer, slot)) = next_connection(&listener, &connections, &stop).await else { break };
        let mut http = http1::Builder::new();
        // The header timer starts with the connection, so a silent one is closed as well.
        http.timer(TokioTimer::new()).header_read_timeout(limits.header_read).max_buf_size(64 * 1024);
        let (connection, routes, readiness) = (Arc::clone(&slot.connection), routes.clone(), readiness.clone());
        // Not as layers of the router, which would clone and box each of them for each request.
        let service = service_fn(move |request| {
            connection.asked();
            let (mut request, rest) = Rest::of(request, &connection);
            request.extensions_mut().insert(ConnectInfo(peer));
            let (connection, readiness) = (Arc::clone(&connection), readiness.clone());
            let answering = routes.clone().oneshot(request);
            async move {
                let answer = answering.await.map(|answer| rest.linger_behind(answer));
                connection.answered();
                answer.map(|mut answer| {
                    if readiness.is_draining() {
                        answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                    }
                    answer
                })
            }
        });
        let served = graceful.watch(http.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            tokio::select! {
                ended = served => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "connection ended early");
                    }
                }
                () = slot.connection.leaves() => tracing::debug!("a connection that waited for its caller made room"),
            }
        });
    }
    drop(listener);
    if tokio::time::timeout(limits.drain, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests were still running after the drain time and were cut");
    }
}

/// Accepted first, and given a slot then: one connection waits for a slot, the others wait in the kernel's queue and cost
/// nothing.
async fn next_connection(
    listener: &TcpListener,
    connections: &Connections,
    stop: &CancellationToken,
) -> Option<(TcpStream, SocketAddr, Slot)> {
    loop {
        match stop.run_until_cancelled(listener.accept()).await? {
            Ok((stream, peer)) => {
                // Answers are small; waiting to fill a packet would only delay them.
                let _ = stream.set_nodelay(true);
                let slot = stop.run_until_cancelled(connections.slot()).await??;
                return Some((stream, peer, slot));
            }
            Err(error) => {
                // Out of file descriptors, most likely: give connections time to close instead of spinning.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}
