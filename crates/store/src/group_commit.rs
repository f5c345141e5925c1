//! Commits of SQLite that share a write of the disk.
//!
//! SQLite has one writer, and with `synchronous = FULL` each commit waits for the disk while all others wait for it. With NORMAL a
//! commit is appended to the write-ahead log and the next writer goes on
//! (<https://www.sqlite.org/pragma.html#pragma_synchronous>). Then whoever committed waits here until the log is on disk, and one
//! write of the disk serves everybody who committed before it began. The log is written in order, so nothing is on disk without
//! what was committed before it. Readers may see a commit a moment before it is on disk; whoever made it has not gone on yet.
//!
//! Writers take turns here, too: SQLite itself would sleep for up to 100 ms and try again, and might find another writer there.

use std::fs::File;
use std::io::{Error, ErrorKind};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::{Mutex, OwnedMutexGuard};

/// The commits of this process to one database.
#[derive(Clone, Default)]
pub(crate) struct GroupCommit(Arc<Inner>);

#[derive(Default)]
struct Inner {
    /// The write-ahead log. Not set where SQLite writes each commit to disk: a database in memory, or with another journal.
    log: OnceLock<PathBuf>,
    turn: Arc<Mutex<()>>,
    commits: AtomicU64,
    on_disk: Arc<Mutex<OnDisk>>,
    /// The disk refused a write. The system may have thrown away what it could not write, and would call the next attempt a
    /// success.
    is_unsure: Arc<AtomicBool>,
}

#[derive(Default)]
struct OnDisk {
    /// The first so many commits are on disk.
    commits: u64,
    /// Kept open: the system reports a failed write once to each file that was open by then, and SQLite's own may have been told.
    log: Option<File>,
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
        turn.map_err(|_| {
            sqlx::Error::Io(Error::new(ErrorKind::TimedOut, "other transactions of this process did not end in time"))
        })
    }

    /// Fails once the disk has refused a write: only a new process can tell what is on it.
    pub(crate) fn is_sure(&self) -> Result<(), sqlx::Error> {
        match self.0.is_unsure.load(Ordering::Acquire) {
            true => Err(sqlx::Error::Io(Error::other("the disk refused an earlier write: restart this process"))),
            false => Ok(()),
        }
    }

    /// Returns once everything that was committed until now is on disk.
    pub(crate) async fn reaches_disk(&self) -> Result<(), sqlx::Error> {
        let Some(log) = self.0.log.get().cloned() else { return Ok(()) };
        let ours = self.0.commits.fetch_add(1, Ordering::AcqRel) + 1;
        let mut on_disk = Arc::clone(&self.0.on_disk).lock_owned().await;
        if on_disk.commits >= ours {
            return Ok(());
        }
        self.is_sure()?;
        let all = self.0.commits.load(Ordering::Acquire);
        let is_unsure = Arc::clone(&self.0.is_unsure);
        // What came of it is noted where it is done: whoever waits for it may be gone by then.
        let writing = tokio::task::spawn_blocking(move || {
            let written = on_disk.write(&log);
            match &written {
                Ok(()) => on_disk.commits = all,
                Err(error) => {
                    is_unsure.store(true, Ordering::Release);
                    tracing::error!(%error, "the disk refused what was committed: nothing is stored until this process is restarted");
                }
            }
            written
        });
        writing.await.map_err(Error::other).flatten().map_err(sqlx::Error::Io)
    }
}

impl OnDisk {
    fn write(&mut self, log: &Path) -> Result<(), Error> {
        let now = match std::fs::metadata(log) {
            Ok(now) => now,
            // SQLite deletes it when the last connection is closed, once all of it is in the database and that is on disk.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                self.log = None;
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        if let Some(open) = &self.log {
            let open = open.metadata()?;
            if (open.dev(), open.ino()) != (now.dev(), now.ino()) {
                self.log = None;
            }
        }
        match &self.log {
            Some(open) => open.sync_data(),
            None => self.log.insert(File::open(log)?).sync_data(),
        }
    }
}
