//! One transaction: the clock, the two differences between the databases, small helpers.

use crate::group_commit::{GroupCommit, Turn};
use crate::history::Happened;
use crate::session::Distrust;
use crate::sql::{Query, get, number, sql};
use crate::verdicts::Touched;
use crate::wake::Wake;
use crate::{Error, KeyRing, Store};
use domain::metric;
use domain::work::Kind;
use domain::{Fingerprinter, Millis};
use sqlx::any::AnyRow;
use sqlx::{Any, Row, Transaction};
use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    Sqlite,
    Postgres,
}

/// Whether a URL names a database of a kind that Rekey can use.
pub fn is_database_url(url: &str) -> bool {
    Dialect::of_url(url).is_some()
}

impl Dialect {
    pub(crate) fn of_url(url: &str) -> Option<Self> {
        if url.starts_with("sqlite:") {
            Some(Self::Sqlite)
        } else if url.starts_with("postgres:") || url.starts_with("postgresql:") {
            Some(Self::Postgres)
        } else {
            None
        }
    }

    /// A missing SQLite file is made; an explicit mode in the URL wins.
    pub(crate) fn complete_url(self, url: &str) -> String {
        match self {
            Self::Sqlite if !url.contains("mode=") => {
                format!("{url}{}mode=rwc", if url.contains('?') { '&' } else { '?' })
            }
            _ => url.to_owned(),
        }
    }

    /// The clock, and whether this server only reads.
    fn clock(self) -> &'static str {
        match self {
            Self::Sqlite => "SELECT CAST(unixepoch('subsec') * 1000 AS INTEGER) AS now, 0 AS reads_only",
            Self::Postgres => {
                "SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT) AS now,
                    CAST(pg_is_in_recovery() AS INTEGER) AS reads_only"
            }
        }
    }

    /// Locks what is read; SQLite has one writer anyway.
    pub(crate) fn for_update(self) -> &'static str {
        match self {
            Self::Sqlite => "",
            Self::Postgres => "FOR UPDATE",
        }
    }

    /// Lets several claimers pass each other; SQLite has one writer anyway.
    pub(crate) fn skip_locked(self) -> &'static str {
        match self {
            Self::Sqlite => "",
            Self::Postgres => "FOR UPDATE SKIP LOCKED",
        }
    }
}

/// A transaction. Dropped without [`Tx::commit`] it changes nothing.
pub struct Tx {
    pub(crate) inner: Transaction<'static, Any>,
    pub(crate) dialect: Dialect,
    pub(crate) keys: Arc<KeyRing>,
    pub(crate) fingerprints: Fingerprinter,
    distrust: Distrust,
    now: Millis,
    pub(crate) touched: Touched,
    /// What it does, for people.
    pub(crate) happened: Vec<Happened>,
    outcomes: Arc<str>,
    wake: Wake,
    /// While it may write, on SQLite: given back once it is committed or undone.
    turn: Option<(Turn, GroupCommit)>,
    /// Kinds of which this transaction makes rows due.
    makes_due: BTreeSet<Kind>,
    /// It brings something that the reconciliation of a business may wait for.
    brings_news: bool,
    /// It asks a consumer for a plan.
    asks: bool,
    /// It puts something into the outbox.
    pub(crate) tells: bool,
    /// The trace of the reconciliation that this transaction is part of.
    pub(crate) traceparent: Option<String>,
    /// Taken before the clock was asked: what lasts from `now` ends here at the latest.
    pub(crate) began: Instant,
    /// Taken when the clock had answered: what is to happen a time after `now` does not happen earlier than that.
    pub(crate) answered_at: Instant,
}

impl std::fmt::Debug for Tx {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tx({:?})", self.dialect)
    }
}

/// Named, because a database or a role may have another default, and a session may be one that can't write: then it fails here
/// and not in the middle.
pub(crate) const BEGIN_TO_WRITE: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE";

/// The longest that one statement may take. A server that vanished without a word would otherwise be waited for as
/// long as TCP likes.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(20);

async fn in_time<T>(operation: &'static str, asked: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, Error> {
    let began = Instant::now();
    let outcome = tokio::time::timeout(STATEMENT_TIMEOUT, asked).await;
    metrics::histogram!(metric::STORE_SECONDS, "operation" => operation).record(began.elapsed().as_secs_f64());
    match outcome {
        Ok(outcome) => Ok(outcome?),
        Err(_) => Err(Error::Database(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()))),
    }
}

impl Tx {
    pub(crate) async fn begin(store: &Store, writes: bool) -> Result<Self, Error> {
        match Self::try_begin(store, writes).await {
            // The session was closed meanwhile or is not what it was, and nothing was done in it; the next one is new.
            Err(Error::Database(error)) if store.dialect == Dialect::Postgres && store.distrust.note(&error) => {
                Self::try_begin(store, writes).await
            }
            begun => begun,
        }
    }

    async fn try_begin(store: &Store, writes: bool) -> Result<Self, Error> {
        let beginning = async {
            let turn = match &store.together {
                Some(together) if writes => {
                    let patience = store.pool.options().get_acquire_timeout();
                    Some((together.turn(patience).await?, together.clone()))
                }
                _ => None,
            };
            let begun = match (store.dialect, writes) {
                // IMMEDIATE: a transaction that reads first and writes later would fail, not wait, when another wrote.
                (Dialect::Sqlite, true) => store.pool.begin_with("BEGIN IMMEDIATE").await?,
                (Dialect::Sqlite, false) => store.pool.begin().await?,
                // One snapshot: what was read first must not have been replaced when the second query runs.
                (Dialect::Postgres, false) => {
                    store.pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?
                }
                (Dialect::Postgres, true) => store.pool.begin_with(BEGIN_TO_WRITE).await?,
            };
            Ok((turn, begun))
        };
        let (turn, mut inner) = in_time("begin", beginning).await?;
        let began = Instant::now();
        let clock = sql!(store.dialect.clock());
        let row = in_time("statement", clock.fetch_one(&mut *inner)).await?;
        let answered_at = Instant::now();
        if number(&row, "reads_only")? != 0 {
            // Demoted: what it says of the queue is old, or soon will be.
            return Err(Error::Database(sqlx::Error::Protocol("the server only reads".into())));
        }
        Ok(Self {
            inner,
            dialect: store.dialect,
            keys: Arc::clone(&store.keys),
            fingerprints: store.fingerprints.clone(),
            distrust: store.distrust.clone(),
            now: get(&row, "now")?,
            touched: Touched::default(),
            happened: Vec::new(),
            outcomes: Arc::clone(&store.outcomes),
            wake: store.wake.clone(),
            turn,
            makes_due: BTreeSet::new(),
            brings_news: false,
            asks: false,
            tells: false,
            traceparent: None,
            began,
            answered_at,
        })
    }

    /// The topic of outcomes.
    pub(crate) fn outcomes(&self) -> String {
        self.outcomes.to_string()
    }

    /// Database time at the beginning of this transaction.
    pub fn now(&self) -> Millis {
        self.now
    }

    /// Judges anew what the transaction has changed facts of, writes down what happened, and commits.
    pub async fn commit(mut self) -> Result<(), Error> {
        self.judge_touched().await?;
        self.write_history().await?;
        let (inner, turn) = (self.inner, self.turn);
        let committing = async {
            inner.commit().await?;
            if let Some((turn, together)) = turn {
                drop(turn);
                together.reaches_disk().await?;
            }
            Ok(())
        };
        in_time("commit", committing).await?;
        self.makes_due.iter().for_each(|kind| self.wake.due(*kind));
        if self.brings_news {
            self.wake.news();
        }
        if self.asks {
            self.wake.asked();
        }
        if self.tells {
            self.wake.told();
        }
        Ok(())
    }

    /// Once this is committed, there may be rows of this kind to claim.
    pub(crate) fn makes_due(&mut self, kind: Kind) {
        self.makes_due.insert(kind);
    }

    /// Once this is committed, the reconciliation of a business finds what it may have waited for.
    pub(crate) fn brings_news(&mut self) {
        self.brings_news = true;
    }

    /// Once this is committed, a consumer finds a question.
    pub(crate) fn asks(&mut self) {
        self.asks = true;
    }

    /// Undoes all of it, and returns once its locks are free. A drop leaves them to a task of the pool: for a moment `claim`
    /// skips the rows that they lock, as if nothing were due.
    pub async fn rollback(self) -> Result<(), Error> {
        in_time("rollback", self.inner.rollback()).await
    }

    pub(crate) async fn run(&mut self, query: Query) -> Result<u64, Error> {
        let done = in_time("statement", query.execute(&mut *self.inner)).await;
        Ok(self.noted(done)?.rows_affected())
    }
    pub(crate) async fn rows(&mut self, query: Query) -> Result<Vec<AnyRow>, Error> {
        let rows = in_time("statement", query.fetch_all(&mut *self.inner)).await;
        self.noted(rows)
    }
    pub(crate) async fn row(&mut self, query: Query) -> Result<Option<AnyRow>, Error> {
        let row = in_time("statement", query.fetch_optional(&mut *self.inner)).await;
        self.noted(row)
    }

    /// The number that the column `n` of its one row holds.
    pub(crate) async fn count(&mut self, query: Query) -> Result<i64, Error> {
        self.row(query).await?.map_or(Ok(0), |r| number(&r, "n"))
    }

    fn noted<T>(&self, outcome: Result<T, Error>) -> Result<T, Error> {
        if let Err(Error::Database(error)) = &outcome {
            self.distrust.note(error);
        }
        outcome
    }

    pub(crate) async fn meta(&mut self, name: &str) -> Result<Option<String>, Error> {
        let found = self.row(sql!("SELECT value FROM meta WHERE name = $1", name)).await?;
        Ok(found.map(|r| r.try_get("value")).transpose()?)
    }
    pub(crate) async fn set_meta(&mut self, name: &str, value: &str) -> Result<(), Error> {
        let sql = "INSERT INTO meta (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = $2";
        self.run(sql!(sql, name, value)).await?;
        Ok(())
    }

    /// The fingerprint key must stay the same: stored fingerprints are compared with new ones, and under another key every
    /// comparison would see a rotation.
    pub(crate) async fn check_fingerprint_key(&mut self, fingerprints: &Fingerprinter) -> Result<(), Error> {
        let now = fingerprints.of("rekey").to_string();
        match self.meta("fingerprint_check").await? {
            Some(before) if before != now => Err(Error::Unusable(
                "secrets.fingerprint_key is not the key (or not the version) this database was written with: put the old \
                 one back"
                    .into(),
            )),
            Some(_) => Ok(()),
            None => self.set_meta("fingerprint_check", &now).await,
        }
    }
}
