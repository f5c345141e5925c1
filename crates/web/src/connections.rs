//! Who holds a connection, and who gives it up when all are taken.
//!
//! Behind a load balancer every caller has the same address, so no share per caller is possible. What can be told is
//! what a connection waits for: one whose request has not fully arrived (silent, slow, half-open, idle) waits for its
//! caller, and the one that has done so for longest makes room. A good caller sends its request in milliseconds and is
//! never the one; a request that has arrived is never cut.
//!
//! Attackers that reconnect at once only keep the queue moving: all places turn over each [`GRACE`], which for 2 048 places
//! empties the kernel's queue within a second, where the limits of header and body alone would take five for each turn.

use domain::metric;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// How long a request may be on its way before its connection can be asked to leave.
const GRACE: Duration = Duration::from_millis(250);
/// While every connection works on a request or is too young, how often it is looked whether one waits for its caller again.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// The connections that are open, at most so many.
#[derive(Clone)]
pub(crate) struct Connections {
    places: Arc<Semaphore>,
    known: Arc<Mutex<Known>>,
}

#[derive(Default)]
struct Known {
    next: u64,
    connections: HashMap<u64, Arc<Connection>>,
}

/// One connection.
pub(crate) struct Connection {
    /// Since when it waits for its caller; None while a request that has arrived is worked on.
    waits: Mutex<Option<Instant>>,
    leave: Notify,
}

/// Its place, given back when dropped.
pub(crate) struct Slot {
    pub(crate) connection: Arc<Connection>,
    number: u64,
    known: Arc<Mutex<Known>>,
    _place: OwnedSemaphorePermit,
}

impl Connections {
    pub(crate) fn new(most: usize) -> Self {
        Self { places: Arc::new(Semaphore::new(most.max(1))), known: Arc::default() }
    }

    /// A place, as soon as there is one or somebody can be made to leave.
    pub(crate) async fn slot(&self) -> Option<Slot> {
        loop {
            let place = Arc::clone(&self.places).acquire_owned();
            if self.places.available_permits() == 0 {
                self.make_room();
            }
            match tokio::time::timeout(LOOK_AGAIN, place).await {
                Ok(place) => return Some(self.admit(place.ok()?)),
                Err(_) => continue,
            }
        }
    }

    fn admit(&self, place: OwnedSemaphorePermit) -> Slot {
        let connection = Arc::new(Connection { waits: Mutex::new(Some(Instant::now())), leave: Notify::new() });
        let mut known = self.known.lock();
        let number = known.next;
        known.next += 1;
        known.connections.insert(number, Arc::clone(&connection));
        Slot { connection, number, known: Arc::clone(&self.known), _place: place }
    }

    fn make_room(&self) {
        let known = self.known.lock();
        let longest = known.connections.values().filter_map(|g| Some((g.waits()?, g))).min_by_key(|(since, _)| *since);
        if let Some((_, connection)) = longest.filter(|(since, _)| since.elapsed() >= GRACE) {
            metrics::counter!(metric::CONNECTIONS_EVICTED).increment(1);
            connection.leave.notify_one();
        }
    }
}

impl Connection {
    fn waits(&self) -> Option<Instant> {
        *self.waits.lock()
    }
    fn set(&self, waits: Option<Instant>) {
        *self.waits.lock() = waits;
    }
    /// Resolves when it has to make room.
    pub(crate) async fn leaves(&self) {
        self.leave.notified().await;
    }
    /// Its request was answered: it waits for the next one.
    pub(crate) fn answered(&self) {
        self.set(Some(Instant::now()));
    }
    /// The request has arrived, or nobody wants the rest of it: it is worked on.
    pub(crate) fn arrived(&self) {
        self.set(None);
    }
    /// The headers of its next request are here: from now on it is judged by how long the body takes.
    pub(crate) fn asked(&self) {
        self.set(Some(Instant::now()));
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.known.lock().connections.remove(&self.number);
    }
}
