//! Commits of SQLite that share a write of the disk.
//!
//! SQLite has one writer, and with `synchronous = FULL` each commit waits for the disk while all others wait for it. With NORMAL a
//! commit is appended to the write-ahead log and the next writer goes on
//! (<https://www.sqlite.org/pragma.html#pragma_synchronous>). Then whoever committed waits here until the log is on disk, and one
//! write of the disk serves everybody who committed before it began. The log is written in order, so nothing is on disk without
//! what was committed before it.
//!
//! Writers also wait for their turn here: SQLite's own waiting is a sleep of up to 100 ms, and nobody's turn.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::{Mutex, OwnedMutexGuard};

/// Of one database in this process.
#[derive(Clone, Default)]
pub(crate) struct GroupCommit(Arc<Inner>);

#[derive(Default)]
struct Inner {
    /// The write-ahead log. Not set where SQLite writes each commit to disk: a database in memory, or with another journal.
    log: OnceLock<PathBuf>,
    turn: Arc<Mutex<()>>,
    commits: AtomicU64,
    on_disk: Mutex<OnDisk>,
}

#[derive(Default)]
struct OnDisk {
    /// So many of the commits are.
    commits: u64,
    /// The system may have thrown away what it could not write, and would call the next attempt a success.
    is_unsure: bool,
}

/// The turn to write, until it is dropped.
pub(crate) type Turn = OwnedMutexGuard<()>;

impl GroupCommit {
    /// From now on [`GroupCommit::reaches_disk`] writes commits to disk, and not SQLite. `database`: its file.
    pub(crate) fn takes_over(&self, database: &str) {
        self.0.log.get_or_init(|| PathBuf::from(format!("{database}-wal")));
    }

    /// The turn to write. Another process on the same file is waited for by SQLite.
    pub(crate) async fn turn(&self, patience: Duration) -> Result<Turn, sqlx::Error> {
        let turn = tokio::time::timeout(patience, Arc::clone(&self.0.turn).lock_owned()).await;
        turn.map_err(|_| sqlx::Error::PoolTimedOut)
    }

    /// Returns once everything that was committed until now is on disk.
    pub(crate) async fn reaches_disk(&self) -> Result<(), sqlx::Error> {
        let Some(log) = self.0.log.get() else { return Ok(()) };
        let ours = self.0.commits.fetch_add(1, Ordering::AcqRel) + 1;
        let mut on_disk = self.0.on_disk.lock().await;
        if on_disk.commits >= ours {
            return Ok(());
        }
        if on_disk.is_unsure {
            return Err(sqlx::Error::Io(std::io::Error::other(
                "the disk refused an earlier write: restart this process",
            )));
        }
        let all = self.0.commits.load(Ordering::Acquire);
        // Opened each time: it is another file once the last connection was closed. If there is none, SQLite has brought all of
        // it to the database, and that to disk.
        let log = log.clone();
        let written = tokio::task::spawn_blocking(move || match std::fs::File::open(&log) {
            Ok(log) => Ok(log.sync_data()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Ok(())),
            Err(error) => Err(error),
        });
        match written.await.map_err(std::io::Error::other).flatten() {
            Ok(Ok(())) => {
                on_disk.commits = all;
                Ok(())
            }
            Ok(Err(refused)) => {
                on_disk.is_unsure = true;
                Err(sqlx::Error::Io(refused))
            }
            Err(not_opened) => Err(sqlx::Error::Io(not_opened)),
        }
    }
}
