//! An answer that comes before the whole request did. To close a connection on which bytes still arrive resets it, and the
//! caller never reads why it was refused (<https://www.rfc-editor.org/rfc/rfc9112#section-9.6>): so the rest is read and
//! thrown away behind the answer, for a short time.

use crate::connections::Connection;
use axum::body::Body;
use axum::http::{HeaderValue, Request, header};
use axum::response::Response;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use parking_lot::{Mutex, MutexGuard};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

/// How long the rest is read at most, and how much of it.
const TIME: Duration = Duration::from_secs(2);
const BYTES: usize = 16 * 1024 * 1024;

/// A request's body, which can still be read when the handler has dropped it.
pub(crate) struct Rest {
    /// None once it has arrived.
    body: Arc<Mutex<Option<Incoming>>>,
    /// Who asks before sending has not begun to send.
    asks_first: bool,
}

impl Rest {
    /// The request as it is handed to a handler, and the rest of its body. The connection is told when the body has arrived, or
    /// when the handler does not want more of it.
    pub(crate) fn of(request: Request<Incoming>, connection: &Arc<Connection>) -> (Request<Body>, Self) {
        let (head, body) = request.into_parts();
        let asks_first = head.headers.contains_key(header::EXPECT);
        let body = Arc::new(Mutex::new((!body.is_end_stream()).then_some(body)));
        let handed = Handed { body: Arc::clone(&body), connection: Arc::clone(connection) };
        (Request::from_parts(head, Body::new(handed)), Self { body, asks_first })
    }

    fn has_arrived(&self) -> bool {
        self.body.lock().is_none()
    }

    /// Lets a caller who was refused early read the answer.
    pub(crate) fn linger_behind(self, answer: Response) -> Response {
        let is_refused = answer.status().is_client_error() || answer.status().is_server_error();
        if !is_refused || self.asks_first || self.has_arrived() {
            return answer;
        }
        let (mut head, answer) = answer.into_parts();
        // Without a length, for the end is what is put off.
        head.headers.remove(header::CONTENT_LENGTH);
        head.headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        let rest = self.body.lock().take();
        let reading = async move {
            if let Some(rest) = rest {
                drop(tokio::time::timeout(TIME, throw_away(rest)).await);
            }
        };
        Response::from_parts(head, Body::new(Lingering { answer, reading: Some(Box::pin(reading)) }))
    }
}

/// What a handler reads.
struct Handed {
    body: Arc<Mutex<Option<Incoming>>>,
    connection: Arc<Connection>,
}

impl Handed {
    fn body(&self) -> MutexGuard<'_, Option<Incoming>> {
        self.body.lock()
    }
}

impl Drop for Handed {
    fn drop(&mut self) {
        self.connection.arrived();
    }
}

impl HttpBody for Handed {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let mut body = self.body();
        let Some(coming) = body.as_mut() else { return Poll::Ready(None) };
        let polled = Pin::new(&mut *coming).poll_frame(cx);
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) || coming.is_end_stream() {
            *body = None;
            self.connection.arrived();
        }
        polled
    }
    fn is_end_stream(&self) -> bool {
        self.body().is_none()
    }
    fn size_hint(&self) -> SizeHint {
        self.body().as_ref().map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

/// The body of such an answer: when all of it was sent, the rest of the request is read before the connection closes.
struct Lingering {
    answer: Body,
    reading: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl HttpBody for Lingering {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        match Pin::new(&mut self.answer).poll_frame(cx) {
            Poll::Ready(None) => {}
            more => return more,
        }
        if let Some(reading) = &mut self.reading {
            std::task::ready!(reading.as_mut().poll(cx));
            self.reading = None;
        }
        Poll::Ready(None)
    }
}

async fn throw_away(mut rest: Incoming) {
    let mut read = 0;
    while let Some(Ok(frame)) = rest.frame().await {
        read += frame.data_ref().map_or(0, Bytes::len);
        if read > BYTES {
            return;
        }
    }
}
