//! SQLite runs out of disk. PostgreSQL does so in `make storm-real`.

use rekey::wiring::Roles;
use sandbox::Announce;
use serde_json::json;
use tests::disk::SmallDisk;
use tests::{Parts, World, holds};

/// Nothing is taken that can't be kept; when there is room again everything goes on by itself, in the same process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i10_the_disk_under_sqlite_is_full_and_has_room_again() {
    let place = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(&place.path().join("disk"), 8, 0) else {
        tracing::warn!("NOT COVERED: a full disk under SQLite, because mounting is not allowed here");
        return;
    };
    let mut world = World::without_rekey(Parts::Embedded, "[database]\nconnections = 2\n").await;
    let url = format!("sqlite://{}", disk.path().join("rekey.sqlite").display());
    world.local.environment.insert("REKEY_DATABASE__URL".into(), url);
    world.start_rekey(Roles::ALL, "").await;
    world.business("acme");
    let item = world.link("acme", 2).await;
    world.until_exact().await;
    disk.fill();
    // Each connection meets it, so that none is left which never did.
    for _ in 0..10 {
        world.rotate(&item, Announce::Database).await;
        let refused = || async {
            disk.fill();
            world.sandbox.push(&item, &json!({})).await.is_ok_and(|(status, _)| status == 503)
        };
        assert!(holds(refused).await, "a push is taken though there is no room for it");
    }
    disk.free();
    // No connection is left in a transaction that the database has long forgotten.
    for _ in 0..10 {
        let (status, answer) = world.sandbox.push(&item, &json!({})).await.unwrap();
        assert!(status < 300, "there is room again, and a push is not taken: {status} {answer}");
    }
    world.end().await;
}
