//! Who waits for rows hears at once that there are some: in this process directly, in others by PostgreSQL's NOTIFY. Nothing
//! depends on it: what was not heard is found by the next poll.

use crate::Store;
use crate::tx::Dialect;
use domain::fault::chain;
use domain::work::Kind;
use parking_lot::Mutex;
use sqlx::postgres::PgListener;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// The channel of LISTEN and NOTIFY. A payload is a kind, [`NEWS`] or [`PLAN`], and the process that says it.
const CHANNEL: &str = "rekey_due";
const NEWS: &str = "news";
const PLAN: &str = "plan";
/// PostgreSQL lets one NOTIFY commit at a time, so a process says so at most this often, however many rows it makes due.
const TOLD_EVERY: Duration = Duration::from_millis(5);
/// Wait before a lost connection is made anew.
const AGAIN: Duration = Duration::from_secs(5);

/// What is waited for. Clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct Wake {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    items: Notify,
    businesses: Notify,
    /// For reconciliations that wait for those of Items.
    news: Notify,
    outbox: Notify,
    /// Somebody asks for a plan.
    plans: Notify,
    /// Workers of this process are free.
    takes_items: AtomicBool,
    takes_businesses: AtomicBool,
    /// Of what other processes have to hear: kinds, [`NEWS`], or [`PLAN`].
    untold: Mutex<BTreeSet<&'static str>>,
    tell: Notify,
    /// Names this process in payloads: it has heard of its own rows already.
    process: String,
}

impl Default for Wake {
    fn default() -> Self {
        let process = uuid::Uuid::new_v4().simple().to_string();
        Self {
            inner: Arc::new(Inner {
                items: Notify::new(),
                businesses: Notify::new(),
                news: Notify::new(),
                outbox: Notify::new(),
                plans: Notify::new(),
                takes_items: AtomicBool::new(false),
                takes_businesses: AtomicBool::new(false),
                untold: Mutex::default(),
                tell: Notify::new(),
                process,
            }),
        }
    }
}

impl Wake {
    fn of(&self, kind: Kind) -> &Notify {
        match kind {
            Kind::Item => &self.inner.items,
            Kind::Business => &self.inner.businesses,
        }
    }

    fn takes(&self, kind: Kind) -> &AtomicBool {
        match kind {
            Kind::Item => &self.inner.takes_items,
            Kind::Business => &self.inner.takes_businesses,
        }
    }

    /// Rows of this kind are due, and this is committed. Other processes hear of it where this one has no worker that is free.
    pub(crate) fn due(&self, kind: Kind) {
        self.of(kind).notify_one();
        if !self.takes(kind).load(Ordering::Relaxed) {
            self.say(kind.as_str());
        }
    }

    /// Something is committed that the reconciliation of a business may wait for, in whichever process.
    pub(crate) fn news(&self) {
        self.inner.news.notify_waiters();
        self.say(NEWS);
    }

    fn say(&self, what: &'static str) {
        self.inner.untold.lock().insert(what);
        self.inner.tell.notify_one();
    }

    /// Somebody asks for a plan, and this is committed.
    pub(crate) fn asked(&self) {
        self.inner.plans.notify_one();
        self.say(PLAN);
    }

    /// The outbox was filled, and this is committed.
    pub(crate) fn told(&self) {
        self.inner.outbox.notify_one();
    }

    fn hear(&self, payload: &str) {
        match payload.split_once(' ') {
            Some((_, process)) if process == self.inner.process => {}
            Some((NEWS, _)) => self.inner.news.notify_waiters(),
            Some((PLAN, _)) => self.inner.plans.notify_one(),
            Some((kind, _)) => drop(Kind::from_word(kind).map(|kind| self.of(kind).notify_one())),
            None => {}
        }
    }
}

impl Store {
    /// Rows of this kind may have become due.
    pub async fn due(&self, kind: Kind) {
        self.wake.of(kind).notified().await;
    }

    /// From the moment it is called: a business that is being reconciled was marked again, as an Item does when it ends.
    pub fn news(&self) -> Notified<'_> {
        self.wake.inner.news.notified()
    }

    /// Somebody may have asked for a plan.
    pub async fn plan_asked(&self) {
        self.wake.inner.plans.notified().await;
    }

    /// Whoever claims rows of this kind asks once more.
    pub fn ask_again(&self, kind: Kind) {
        self.wake.of(kind).notify_one();
    }

    /// Whether workers of this process are free for rows of this kind.
    pub fn takes(&self, kind: Kind, are_free: bool) {
        let were_free = self.wake.takes(kind).swap(are_free, Ordering::Relaxed);
        if were_free && !are_free {
            // There may be more than this process could take.
            self.wake.say(kind.as_str());
        }
    }

    /// The outbox may have been filled.
    pub async fn outbox_filled(&self) {
        self.wake.inner.outbox.notified().await;
    }

    /// Hears of rows that other processes make due, and tells them of ours, until it is dropped. On SQLite there are none.
    pub async fn share_wakes(&self) {
        if self.dialect == Dialect::Sqlite {
            return;
        }
        // Apart: who can't listen, because the server takes no more connections, can still tell.
        let hearing = async {
            loop {
                pause(self.hear().await).await;
            }
        };
        let telling = async {
            loop {
                pause(self.tell().await).await;
            }
        };
        tokio::join!(hearing, telling);
    }

    async fn hear(&self) -> Result<(), sqlx::Error> {
        let mut listener = PgListener::connect(self.pool.connect_options().database_url.as_str()).await?;
        listener.listen(CHANNEL).await?;
        loop {
            match listener.try_recv().await? {
                Some(heard) => self.wake.hear(heard.payload()),
                // Connected anew: what was said meanwhile is lost.
                None => Kind::ALL.iter().for_each(|kind| self.ask_again(*kind)),
            }
        }
    }

    async fn tell(&self) -> Result<(), sqlx::Error> {
        let inner = &self.wake.inner;
        loop {
            inner.tell.notified().await;
            let untold = std::mem::take(&mut *inner.untold.lock());
            for what in untold {
                let payload = format!("{what} {}", inner.process);
                let sql = sqlx::query("SELECT pg_notify($1, $2)").bind(CHANNEL).bind(payload);
                sql.execute(&self.pool).await?;
            }
            tokio::time::sleep(TOLD_EVERY).await;
        }
    }
}

async fn pause(ended: Result<(), sqlx::Error>) {
    if let Err(error) = ended {
        let error = chain(&error);
        tracing::debug!(error, "rows that other processes make due are found by polling for a while");
    }
    tokio::time::sleep(AGAIN).await;
}
