//! The life of Items: linked, repaired, revoked, replaced, removed, erased; and those that nobody knows.

use sandbox::{Announce, Fault, FaultKind};
use serde_json::json;
use tests::{Parts, World};

stories!(
    i10_an_item_rotated_and_then_revoked_leaves_the_list,
    i8_a_removed_item_stays_removed_after_a_late_push,
    a_relinked_item_takes_the_place_of_the_old_one_in_one_put,
    login_required_and_repaired,
    the_end_of_access_is_announced,
    i8_a_revoked_item_leaves_after_plaid_said_so,
    i8_a_revocation_that_plaid_denies_drops_nothing,
    an_item_removed_by_the_platform_leaves,
    i8_offboarding_the_last_item_sends_the_empty_list,
    a_webhook_for_an_unknown_item_is_noted,
    every_webhook_of_an_item_that_is_none_of_ours_is_taken,
);

on_both_parts!(what_is_erased_during_a_look_does_not_come_back,);

/// Found by a newcomer and by a storm: the token we hold is unknown to Plaid, and the one that the platform holds is of
/// an Item that the user has revoked meanwhile.
async fn i10_an_item_rotated_and_then_revoked_leaves_the_list(world: &World) {
    let (stays, leaves) = (world.link("acme", 1).await, world.link("acme", 1).await);
    world.until_exact().await;
    world.rotate(&leaves, Announce::Database).await;
    world.sandbox.revoke(&leaves).unwrap();
    world.sync_item(&leaves).await;
    world.until_item(&leaves, "revoked").await;
    world.until_exact().await;
    world.sync_item(&leaves).await;
    world.until_exact().await;
    world.until_item(&leaves, "revoked").await;
    world.until_item(&stays, "active").await;
}

async fn i8_a_removed_item_stays_removed_after_a_late_push(world: &World) {
    let (gone, _) = (world.link("acme", 2).await, world.link("acme", 1).await);
    world.until_exact().await;
    world.sandbox.offboard(&gone, true).await.unwrap();
    world.until_exact().await;
    let (status, _) = world.sandbox.push(&gone, &json!({"access_token": "access-sandbox-late"})).await.unwrap();
    assert_eq!(status, 422);
    world.until_exact().await;
    world.until_item(&gone, "removed").await;
    assert_eq!(world.sandbox.listed_tokens("acme").len(), 1);
}

async fn a_relinked_item_takes_the_place_of_the_old_one_in_one_put(world: &World) {
    let old = world.link("acme", 2).await;
    world.until_exact().await;
    let puts = world.puts();
    let new = world.link_as("acme", 2, Announce::Silent).await;
    world.sandbox.offboard(&old, false).await.unwrap();
    let (status, body) = world.sandbox.push(&new, &json!({"replaces": old})).await.unwrap();
    assert_eq!(status, 200, "{body}");
    world.until_exact().await;
    assert_eq!(world.puts() - puts, 1);
    world.until_item(&old, "removed").await;
}

async fn login_required_and_repaired(world: &World) {
    let item = world.link("acme", 2).await;
    world.until_exact().await;
    let counts = world.sandbox.verdict().counts;
    world.sandbox.require_login(&item).unwrap();
    world.webhook(&item, "ERROR", &sandbox::Sandbox::webhook_error("ITEM_LOGIN_REQUIRED"));
    world.until_item(&item, "login_required").await;
    world.until_exact().await;
    world.sandbox.repair(&item).unwrap();
    world.webhook(&item, "LOGIN_REPAIRED", &json!({}));
    world.until_item(&item, "active").await;
    world.until_exact().await;
    let after = world.sandbox.verdict().counts;
    assert_eq!((after.mints, after.puts), (counts.mints, counts.puts), "the tokens stay through a repair");
}

async fn the_end_of_access_is_announced(world: &World) {
    let item = world.link("acme", 1).await;
    world.until_exact().await;
    world.webhook(
        &item,
        "PENDING_DISCONNECT",
        &json!({"reason": "INSTITUTION_MIGRATION", "disconnect_time": "2027-02-03T04:05:06Z"}),
    );
    world.webhook(&item, "PENDING_EXPIRATION", &json!({"consent_expiration_time": "2027-02-04T04:05:06Z"}));
    let topic = world.local.config("").unwrap().kafka.topics.outcomes;
    let told = |seen: &[bus::Delivery]| {
        seen.iter().any(|d| d.event.as_ref().is_ok_and(|e| e.kind == "rekey.item.access_ends"))
    };
    world.read_topic(&topic, bus::schema::OUTCOME, told).await;
    world.until_exact().await;
    assert_eq!(world.puts(), 1, "nothing changes until the day");
}

async fn i8_a_revoked_item_leaves_after_plaid_said_so(world: &World) {
    let (gone, stays) = (world.link("acme", 2).await, world.link("acme", 1).await);
    world.until_exact().await;
    world.sandbox.revoke(&gone).unwrap();
    world.webhook(&gone, "USER_PERMISSION_REVOKED", &sandbox::Sandbox::webhook_error("USER_PERMISSION_REVOKED"));
    world.until_item(&gone, "revoked").await;
    world.until_exact().await;
    assert_eq!(world.sandbox.listed_tokens("acme").len(), 1);
    world.until_item(&stays, "active").await;
}

async fn i8_a_revocation_that_plaid_denies_drops_nothing(world: &World) {
    let item = world.link("acme", 2).await;
    world.until_exact().await;
    let reads = world.sandbox.calls("/accounts/get");
    world.webhook(&item, "USER_PERMISSION_REVOKED", &json!({}));
    world.until("Plaid was asked", || world.sandbox.calls("/accounts/get") > reads).await;
    world.until_exact().await;
    world.until_item(&item, "active").await;
    assert_eq!(world.puts(), 1);
}

async fn an_item_removed_by_the_platform_leaves(world: &World) {
    let (gone, _) = (world.link("acme", 2).await, world.link("acme", 1).await);
    world.until_exact().await;
    world.sandbox.offboard(&gone, true).await.unwrap();
    world.until_exact().await;
    let calls = world.sandbox.calls("/accounts/get");
    world.webhook(&gone, "ERROR", &json!({"error": null}));
    world.notice(&world.sandbox.items()[0].clone()).await;
    world.until_exact().await;
    let body = world.item(&gone).await;
    assert_eq!(body["state"], "removed");
    assert!(world.sandbox.calls("/accounts/get") <= calls + 1, "a removed Item costs no call");
}

/// A row that came back would be looked for at every sweep, and the customer's id would stay for good.
async fn what_is_erased_during_a_look_does_not_come_back(parts: Parts) {
    let mut world = World::start(parts, "").await;
    let item = world.link("acme", 1).await;
    world.until_exact().await;
    let url = world.local.environment["REKEY_DATABASE__URL"].clone();
    let rows = async |sql: &'static str, about: &str| {
        sqlx::any::install_default_drivers();
        let pool = sqlx::AnyPool::connect(&url).await.unwrap();
        let rows = sqlx::query(sql).bind(about.to_owned()).fetch_all(&pool).await.unwrap().len();
        pool.close().await;
        rows
    };

    // An event that waited while its Item was erased.
    world.make_due(&["nobody".into()]).await;
    let forgotten = async || rows("SELECT id FROM work WHERE id = $1", "nobody").await == 0;
    assert!(tests::holds(|| forgotten()).await, "a row about nothing stays");

    let call = "/accounts/get";
    world.sandbox.fault(Fault::times(call, 1, FaultKind::Hang));
    world.sync_item(&item).await;
    world.until("a look is on its way", || world.sandbox.hung(call) == 1).await;
    // Erasing waits for a reconciliation; only one that is lost for a quarter of an hour ends later.
    assert_eq!(rows("DELETE FROM work WHERE id = $1 RETURNING id", &item).await, 1);
    world.sandbox.heal();
    world.rekeys.remove(0).stop().await;
    assert_eq!(rows("SELECT id FROM work WHERE id = $1", &item).await, 0);
    world.end().await;
}

async fn i8_offboarding_the_last_item_sends_the_empty_list(world: &World) {
    let item = world.link("acme", 2).await;
    world.until_exact().await;
    world.sandbox.offboard(&item, true).await.unwrap();
    world.until_exact().await;
    assert!(world.sandbox.listed_tokens("acme").is_empty());
}

/// pattern-account-funding#79: whatever Plaid has to say of an Item that nobody pushed, or that was removed.
async fn every_webhook_of_an_item_that_is_none_of_ours_is_taken(world: &World) {
    let removed = world.link("acme", 1).await;
    world.until_exact().await;
    world.sandbox.offboard(&removed, true).await.unwrap();
    world.until_exact().await;
    let unknown = world.link_as("acme", 1, Announce::Silent).await;
    let said = [
        ("ITEM", "ERROR"),
        ("ITEM", "LOGIN_REPAIRED"),
        ("ITEM", "NEW_ACCOUNTS_AVAILABLE"),
        ("ITEM", "PENDING_DISCONNECT"),
        ("ITEM", "PENDING_EXPIRATION"),
        ("ITEM", "USER_PERMISSION_REVOKED"),
        ("ITEM", "USER_ACCOUNT_REVOKED"),
        ("ITEM", "WEBHOOK_UPDATE_ACKNOWLEDGED"),
        ("AUTH", "AUTOMATICALLY_VERIFIED"),
        ("AUTH", "DEFAULT_UPDATE"),
        ("AUTH", "VERIFICATION_EXPIRED"),
        ("TRANSACTIONS", "INITIAL_UPDATE"),
        ("TRANSACTIONS", "HISTORICAL_UPDATE"),
        ("TRANSACTIONS", "DEFAULT_UPDATE"),
        ("TRANSACTIONS", "SYNC_UPDATES_AVAILABLE"),
        ("TRANSACTIONS", "RECURRING_TRANSACTIONS_UPDATE"),
        ("HOLDINGS", "DEFAULT_UPDATE"),
        ("INVESTMENTS_TRANSACTIONS", "HISTORICAL_UPDATE"),
        ("LIABILITIES", "DEFAULT_UPDATE"),
        ("IDENTITY", "DEFAULT_UPDATE"),
        ("A_TYPE_OF_2031", "AND_ITS_CODE"),
    ];
    let answered = || world.sandbox.verdict().counts.webhooks_answered_200;
    let (before, looks) = (answered(), world.sandbox.calls("/accounts/get"));
    for (kind, code) in said {
        for item in [&unknown, &removed] {
            world.sandbox.fire(item, kind, code, &json!({})).unwrap();
        }
    }
    world.until("all are taken", || answered() == before + 2 * said.len() as u64).await;
    let noted = || async {
        let (_, body) = world.admin("GET", "/v1/unknown-items", None).await;
        let rows = body["data"].as_array().cloned().unwrap_or_default();
        rows.len() == 1 && rows[0]["events"].as_u64() >= Some(said.len() as u64)
    };
    assert!(tests::holds(noted).await, "one row, however often it is named");
    assert_eq!(world.sandbox.calls("/accounts/get"), looks, "and no look");
    world.sandbox.announce(&unknown, Announce::Push).await.unwrap();
    world.until_exact().await;
}

async fn a_webhook_for_an_unknown_item_is_noted(world: &World) {
    world.business("acme");
    let item = world.link_as("acme", 1, Announce::Silent).await;
    world.webhook(&item, "NEW_ACCOUNTS_AVAILABLE", &json!({}));
    let noted = || async {
        let (_, body) = world.admin("GET", "/v1/unknown-items", None).await;
        body["data"].as_array().is_some_and(|d| d.iter().any(|u| u["item_id"] == item.as_str()))
    };
    assert!(tests::holds(noted).await);
    assert_eq!(world.sandbox.calls("/accounts/get"), 0);
    // Pushed, it is no longer unknown.
    world.sandbox.announce(&item, Announce::Push).await.unwrap();
    world.until_exact().await;
    let (_, body) = world.admin("GET", "/v1/unknown-items", None).await;
    assert_eq!(body["data"], json!([]));
}
