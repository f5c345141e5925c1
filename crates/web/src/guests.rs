//! Who holds a connection, and who gives it up when all are taken.
//!
//! Behind a load balancer every caller has the same address, so no share per caller is possible. What can be told is
//! what a connection waits for: one whose request has not fully arrived (silent, slow, half-open, idle) waits for its
//! caller, and the one that has done so for longest makes room. A good caller sends its request in milliseconds and is
//! never the one; a request that has arrived is never cut.
//!
//! Attackers that connect again at once only turn the queue: it moves by all places each [`GRACE`], which for 2 048 places
//! empties the kernel's queue within a second, where the limits of header and body alone would take five for each turn.

use axum::body::{Body, Bytes, HttpBody};
use axum::http::Request;
use domain::metric;
use hyper::body::{Frame, Incoming, SizeHint};
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// How long a request may be on its way before its connection can be asked to leave.
const GRACE: Duration = Duration::from_millis(250);
/// While every connection works on a request or is too young, how often it is looked whether one waits for its caller again.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// The connections that are open, at most so many.
#[derive(Clone)]
pub(crate) struct Guests {
    places: Arc<Semaphore>,
    known: Arc<Mutex<Known>>,
}

#[derive(Default)]
struct Known {
    next: u64,
    guests: HashMap<u64, Arc<Guest>>,
}

/// One connection.
pub(crate) struct Guest {
    /// Since when it waits for its caller; None while a request that has arrived is worked on.
    waits: Mutex<Option<Instant>>,
    leave: Notify,
}

/// Its place, given back when dropped.
pub(crate) struct Seat {
    pub(crate) guest: Arc<Guest>,
    number: u64,
    known: Arc<Mutex<Known>>,
    _place: OwnedSemaphorePermit,
}

impl Guests {
    pub(crate) fn new(most: usize) -> Self {
        Self { places: Arc::new(Semaphore::new(most.max(1))), known: Arc::default() }
    }

    /// A place, as soon as there is one or somebody can be made to leave.
    pub(crate) async fn seat(&self) -> Option<Seat> {
        loop {
            let place = Arc::clone(&self.places).acquire_owned();
            if self.places.available_permits() == 0 {
                self.make_room();
            }
            match tokio::time::timeout(LOOK_AGAIN, place).await {
                Ok(place) => return Some(self.welcome(place.ok()?)),
                Err(_) => continue,
            }
        }
    }

    fn welcome(&self, place: OwnedSemaphorePermit) -> Seat {
        let guest = Arc::new(Guest { waits: Mutex::new(Some(Instant::now())), leave: Notify::new() });
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let number = known.next;
        known.next += 1;
        known.guests.insert(number, Arc::clone(&guest));
        Seat { guest, number, known: Arc::clone(&self.known), _place: place }
    }

    fn make_room(&self) {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let longest = known.guests.values().filter_map(|g| Some((g.waits()?, g))).min_by_key(|(since, _)| *since);
        if let Some((_, guest)) = longest.filter(|(since, _)| since.elapsed() >= GRACE) {
            metrics::counter!(metric::CONNECTIONS_EVICTED).increment(1);
            guest.leave.notify_one();
        }
    }
}

impl Guest {
    fn waits(&self) -> Option<Instant> {
        *self.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn set(&self, waits: Option<Instant>) {
        *self.waits.lock().unwrap_or_else(PoisonError::into_inner) = waits;
    }
    /// Resolves when it has to make room.
    pub(crate) async fn leaves(&self) {
        self.leave.notified().await;
    }
    /// Its request was answered: it waits for the next one.
    pub(crate) fn answered(&self) {
        self.set(Some(Instant::now()));
    }
    /// The request, whose body tells when it has arrived or nobody wants the rest of it.
    pub(crate) fn watch(self: &Arc<Self>, request: Request<Incoming>) -> Request<Body> {
        // Its headers are here: it is not the old silence that it is judged by.
        self.set(Some(Instant::now()));
        request.map(|body| Body::new(Watched { body, guest: Arc::clone(self) }))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).guests.remove(&self.number);
    }
}

struct Watched {
    body: Incoming,
    guest: Arc<Guest>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.guest.set(None);
    }
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }
    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
