//! Commits that share a write of the disk, on SQLite.

use super::{KEY, mark, marked, open, place};
use std::path::PathBuf;
use tests::Parts;

/// Where SQLite appends what is committed.
fn log_of(url: &str) -> PathBuf {
    PathBuf::from(format!("{}-wal", url.strip_prefix("sqlite://").unwrap()))
}

/// What the disk refused once may be lost, and the system would call the next attempt a success.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_is_reported_only_when_it_is_on_disk() {
    let place = place(Parts::Embedded).await;
    // One: a second connection, opened while another is on its way back to the pool, would open the device as its log.
    let store = tests::bare_store::open_with_connections(1, &place.url, KEY, 7).await.unwrap();
    marked(&store, &mark("before")).await;
    let (log, moved) = (log_of(&place.url), log_of(&place.url).with_extension("moved"));
    // SQLite goes on in the file that it has opened; a device takes no order to write.
    std::fs::rename(&log, &moved).unwrap();
    std::os::unix::fs::symlink("/dev/null", &log).unwrap();
    let commit = async |id: &'static str| {
        let mut tx = store.begin().await.unwrap();
        tx.mark(&mark(id)).await.unwrap();
        tx.commit().await
    };
    assert!(store.serves().await.is_ok());
    assert!(commit("refused").await.is_err(), "nobody may rest on it");
    std::fs::remove_file(&log).unwrap();
    std::fs::rename(&moved, &log).unwrap();
    let again = format!("{:?}", commit("later").await.unwrap_err());
    assert!(again.contains("restart this process"), "{again}");
    assert!(store.serves().await.is_err(), "the process is not ready");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_writers_take_turns() {
    let (store, _place) = open(Parts::Embedded).await;
    let writers = (0..64).map(|_| {
        let store = store.clone();
        tokio::spawn(async move { marked(&store, &mark("one")).await })
    });
    let mut counts: Vec<i64> = futures::future::join_all(writers).await.into_iter().map(Result::unwrap).collect();
    counts.sort_unstable();
    assert_eq!(counts, (1..=64).collect::<Vec<_>>(), "each saw what was committed before it");
}
