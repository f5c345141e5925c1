//! All that one cause keeps is released by one order: counted first, cancelled, and taken over from a console that died.

use crate::act_stories::{actions, get, post, with_stranger};
use crate::api::{cli, text};
use domain::BusinessId;
use sandbox::Announce;
use serde_json::{Value, json};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;
use store::{LeftAlone, NewBatch, TakenBatch};
use tests::{Parts, World, holds};

stories!(
    all_of_one_cause_are_released_together on likely ending parked,
    a_release_of_all_is_cancelled_and_outlives_its_console on likely ending parked,
    i8_a_release_of_all_permits_what_was_seen on likely ending parked,
);

async fn all_of_one_cause_are_released_together(world: &World) {
    for n in 0..3 {
        with_stranger(world, &format!("b{n}")).await;
    }
    let all = "/v1/parked/release?code=unknown_tokens";
    let would = || async { post(world, &format!("{all}&dry_run=true")).await.1 };
    let counts = |of: &Value| ["rows", "eligible", "paused", "held"].map(|name| of[name].as_u64().unwrap());
    let listed = |n: usize| world.sandbox.listed_tokens(&format!("b{n}")).len();
    assert_eq!(counts(&would().await), [3, 3, 0, 0]);
    assert!((0..3).all(|n| listed(n) == 1), "nothing was sent");
    assert_eq!(post(world, "/v1/parked/release?code=shrink_guard").await.0, 404, "another cause");
    for (bad, status) in [("code=%00", 400), ("code=", 400), ("code=unknown_tokens&version=x", 400)] {
        assert_eq!(post(world, &format!("/v1/parked/release?{bad}")).await.0, status, "{bad}");
    }
    post(world, "/v1/providers/layer/pause?reason=first").await;
    assert_eq!(counts(&would().await), [3, 0, 3, 0]);
    let (status, refused) = post(world, all).await;
    assert_eq!(status, 404, "its provider is paused: {refused}");
    assert!(refused["message"].as_str().unwrap().contains("3 rows of it would be left alone"), "{refused}");
    post(world, "/v1/providers/layer/resume").await;
    post(world, "/v1/businesses/b2/hold?reason=ours").await;
    let seen = would().await;
    assert_eq!(counts(&seen), [3, 2, 0, 1]);
    let version = seen["version"].as_str().unwrap();
    // It was not there when they were counted.
    with_stranger(world, "later").await;
    let ended = |id: Value| async move {
        let path = format!("/v1/batches/{}", id.as_str().unwrap());
        assert!(holds(|| async { get(world, &path).await["state"] != "running" }).await);
        get(world, &path).await
    };
    let order = format!("{all}&reason=theirs&version={version}");
    let (status, ordered) = post(world, &order).await;
    assert_eq!(status, 202, "{ordered}");
    let done = ended(ordered["batch_id"].clone()).await;
    assert_eq!(done["sentence"], "done: 2 of 3 rows released, 1 left alone (held by an operator)");
    let (status, again) = post(world, &order).await;
    assert_eq!((status, &again["batch_id"]), (202, &ordered["batch_id"]), "a double click");
    world.until("each list was sent", || (0..2).all(|n| listed(n) == 2)).await;
    assert_eq!(listed(2), 1, "held is held");
    assert_eq!(world.sandbox.listed_tokens("later").len(), 1, "nobody had seen it");
    let audit = get(world, "/v1/audit?subject=business/b1").await["data"][0].clone();
    let became = json!({"batch": ordered["batch_id"], "reason": "theirs"});
    assert_eq!((&audit["action"], &audit["became"]), (&json!("parked.release"), &became), "{audit}");
    let batch = format!("batch/{}", ordered["batch_id"].as_str().unwrap());
    assert_eq!(actions(world, &batch).await, ["parked.release_all"]);
    let of_terminal = |arguments: &[&str]| text(&tokio::task::block_in_place(|| cli(world, arguments, None)));
    let told = of_terminal(&["parked", "release", "--all", "unknown_tokens", "--dry-run"]);
    assert!(told.contains("1 row that is kept for unknown_tokens would be released"), "{told}");
    assert!(told.contains("1 would be left alone (held by an operator"), "{told}");
    let told = of_terminal(&["parked", "release", "--all", "unknown_tokens", "--wait"]);
    assert!(told.contains("done: 1 of 2 rows released, 1 left alone"), "{told}");
    world.until("that list was sent too", || world.sandbox.listed_tokens("later").len() == 2).await;
    assert!(of_terminal(&["batch", "list"]).contains("done: 2 of 3 rows released"));
    assert!(of_terminal(&["parked", "release", "--all", "unknown_tokens"]).contains("1 row of it would be left alone"));
}

async fn i8_a_release_of_all_permits_what_was_seen(world: &World) {
    with_stranger(world, "acme").await;
    with_stranger(world, "held").await;
    let all = "/v1/parked/release?code=unknown_tokens";
    let seen = post(world, &format!("{all}&dry_run=true")).await.1["version"].as_str().unwrap().to_owned();
    // The guard speaks of two strangers now, and of one then.
    world.sandbox.foreign_token("acme", None).unwrap();
    post(world, "/v1/businesses/acme/sync?timeout=20").await;
    world.until_blocked("business", "acme", "unknown_tokens").await;
    let strangers = || async { get(world, "/v1/businesses/acme/explain").await["strangers"].as_array().unwrap().len() };
    assert_eq!(strangers().await, 2);
    let (_, ordered) = post(world, &format!("{all}&version={seen}")).await;
    let path = format!("/v1/batches/{}", ordered["batch_id"].as_str().unwrap());
    assert!(holds(|| async { get(world, &path).await["state"] == "done" }).await);
    assert_eq!(get(world, &path).await["released"], 1, "of the other one");
    world.until("the other one was sent", || world.sandbox.listed_tokens("held").len() == 2).await;
    assert_eq!(world.sandbox.listed_tokens("acme").len(), 2, "both strangers, and nothing was sent");
    // A hold that was renewed after it was seen is somebody's word that nobody has heard.
    let item = world.link("free", 1).await;
    world.until_state("/v1/businesses/free", "converged").await;
    post(world, "/v1/businesses/free/hold?reason=first").await;
    world.rotate(&item, Announce::Push).await;
    world.until_blocked("business", "free", "operator_hold").await;
    let all = "/v1/parked/release?code=operator_hold";
    let seen = post(world, &format!("{all}&dry_run=true")).await.1["version"].as_str().unwrap().to_owned();
    post(world, "/v1/businesses/free/hold?reason=second").await;
    let (_, ordered) = post(world, &format!("{all}&version={seen}")).await;
    let path = format!("/v1/batches/{}", ordered["batch_id"].as_str().unwrap());
    assert!(holds(|| async { get(world, &path).await["state"] == "done" }).await);
    assert_eq!(get(world, &path).await["sentence"], "done: 0 of 1 row released, 1 passed over (changed meanwhile)");
    assert_eq!(get(world, "/v1/holds").await["data"][0]["why"], "second");
}

/// A console orders, and dies.
async fn left_behind(world: &World, lease: Duration) -> (String, TakenBatch) {
    let mut tx = world.store().begin().await.unwrap();
    let from = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let (code, by, seen_at) = ("unknown_tokens", "ops", tx.now());
    let new = NewBatch { code, reason: None, by, from, seen_at, meant: 1 };
    let id = tx.order_batch(&new).await.unwrap().unwrap();
    let taken = tx.take_batch(lease).await.unwrap().unwrap();
    tx.commit().await.unwrap();
    (id, taken)
}

async fn a_release_of_all_is_cancelled_and_outlives_its_console(world: &World) {
    with_stranger(world, "acme").await;
    let (id, taken) = left_behind(world, Duration::from_hours(1)).await;
    let (status, refused) = post(world, "/v1/parked/release?code=unknown_tokens").await;
    assert_eq!(status, 409, "one that ops ordered is under way: {refused}");
    let running = get(world, "/v1/batches").await["data"][0].clone();
    assert_eq!(running["sentence"], "under way: 0 of 1 row released");
    let (status, cancelled) = post(world, &format!("/v1/batches/{id}/cancel")).await;
    assert_eq!((status, &cancelled["state"], &cancelled["released"]), (200, &json!("cancelled"), &json!(0)));
    assert_eq!(post(world, &format!("/v1/batches/{id}/cancel")).await.0, 409);
    assert_eq!(post(world, "/v1/batches/none/cancel").await.0, 404);
    assert_eq!(actions(world, &format!("batch/{id}")).await, ["batch.cancel"]);
    let mut tx = world.store().begin().await.unwrap();
    assert!(!tx.count_released(&taken, Duration::ZERO).await.unwrap(), "whoever works on it releases no further row");
    tx.advance_batch(&taken, None, LeftAlone::default()).await.unwrap();
    tx.rollback().await.unwrap();
    assert_eq!(world.sandbox.listed_tokens("acme").len(), 1, "nothing was sent");
    if world.parts == Parts::Real {
        // In the middle of a row, which another transaction holds.
        let mut holds_row = world.store().begin().await.unwrap();
        holds_row.lock_row(&BusinessId::parse("acme").unwrap()).await.unwrap();
        let (_, ordered) = post(world, "/v1/parked/release?code=unknown_tokens").await;
        let waits = || async { world.store().begin_read().await.unwrap().is_batch_waiting().await.unwrap() };
        assert!(holds(|| async { !waits().await }).await, "a console takes it");
        assert_eq!(post(world, &format!("/v1/batches/{}/cancel", ordered["batch_id"].as_str().unwrap())).await.0, 200);
        holds_row.rollback().await.unwrap();
    }
    // It finds the row as it was.
    let (id, taken) = left_behind(world, Duration::ZERO).await;
    let path = format!("/v1/batches/{id}");
    assert!(holds(|| async { get(world, &path).await["state"] == "done" }).await, "another console goes on");
    assert_eq!(get(world, &path).await["released"], 1);
    let mut tx = world.store().begin().await.unwrap();
    assert!(!tx.count_released(&taken, Duration::ZERO).await.unwrap(), "and it comes back too late");
    tx.rollback().await.unwrap();
    world.until("the list was sent", || world.sandbox.listed_tokens("acme").len() == 2).await;
}
