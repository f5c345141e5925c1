//! SQLite runs out of disk. PostgreSQL does so in `make storm-real`.

use domain::Role;
use sandbox::Announce;
use serde_json::json;
use tests::disk::SmallDisk;
use tests::process::Process;
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
    world.start_rekey(Role::ALL_IN_ONE, "").await;
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

/// A process that is started on a full disk says so, ends when it is told to, and goes on by itself when there is room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i10_a_start_on_a_full_disk_waits_and_says_why() {
    let place = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(&place.path().join("disk"), 8, 0) else {
        tracing::warn!("NOT COVERED: a start on a full disk, because mounting is not allowed here");
        return;
    };
    // A try lasts longer than a process may take to end.
    let settings = "[database]\nacquire_timeout = \"9s\"\n[consumer]\nsweep_at_start = true\n";
    let mut world = World::without_rekey(Parts::Embedded, settings).await;
    let url = format!("sqlite://{}", disk.path().join("rekey.sqlite").display());
    world.local.environment.insert("REKEY_DATABASE__URL".into(), url);
    let process = Process::start(&world, "all").await;
    let token = world.local.admin_token.clone().into();
    world.sandbox.set_admin(sandbox::Admin { url: format!("http://{}", process.console), token });
    world.link("acme", 1).await;
    let exact = || async { world.sandbox.verdict().exact };
    assert!(holds(exact).await, "{:?}", world.sandbox.verdict());
    let log = || std::fs::read_to_string(&process.log).unwrap();
    let readiness = format!("http://{}/readyz", process.ops);
    let says_why = || async {
        disk.fill();
        let Ok(answer) = reqwest::get(&readiness).await else { return false };
        answer.status() == 503 && answer.text().await.is_ok_and(|text| text.contains("is its disk full?"))
    };

    // Killed, it left files in which there is something to read: it opens them, and can't write.
    process.kill();
    disk.fill();
    process.relaunch();
    assert!(holds(says_why).await, "{}", log());
    let said = log().matches("the database is not ready").count();
    assert!((1..=5).contains(&said), "each reason once, however often it is tried: {}", log());
    assert_eq!(process.terminate().await, Some(0));
    assert!(!log().contains("did not end in time"), "{}", log());
    disk.free();
    process.restart().await;

    // What SQLite keeps beside the file goes at a clean end, and has to be made anew.
    assert_eq!(process.terminate().await, Some(0));
    disk.fill();
    process.relaunch();
    let begun = || async { log().matches("rekey runs").count() == 4 };
    assert!(holds(begun).await, "{}", log());
    assert_eq!(process.terminate().await, Some(0));
    assert!(!log().contains("did not end in time"), "{}", log());
    process.relaunch();
    assert!(holds(says_why).await, "{}", log());
    disk.free();
    process.ready().await;
    assert!(log().contains("the database answers now"), "{}", log());
    world.end().await;
}
