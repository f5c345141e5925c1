//! The life of Items and accounts.

use domain::work::{Class, Kind};
use sandbox::{Announce, Fault, FaultKind, NewAccount, NewItem};
use serde_json::json;
use std::time::Duration;
use store::Mark;
use tests::{Parts, World};

stories!(
    i10_an_item_rotated_and_then_revoked_leaves_the_list,
    i8_a_push_that_names_an_account_nobody_knows_changes_nothing,
    a_new_account_appears,
    i8_an_account_closed_at_the_bank_is_proved_by_two_reads,
    i8_an_account_that_only_flickers_never_leaves,
    i8_a_revoked_account_is_believed_when_plaid_agrees,
    a_renumbered_account_leaves_and_enters_in_one_put,
    i8_a_renumbered_account_keeps_its_place_under_a_filter,
    i8_a_removed_item_stays_removed_after_a_late_push,
    a_relinked_item_takes_the_place_of_the_old_one_in_one_put,
    login_required_and_repaired,
    the_end_of_access_is_announced,
    i8_a_revoked_item_leaves_after_plaid_said_so,
    i8_a_revocation_that_plaid_denies_drops_nothing,
    an_item_removed_by_the_platform_leaves,
    what_is_erased_during_a_look_does_not_come_back,
    i8_offboarding_the_last_item_sends_the_empty_list,
    i6_one_account_refuses_to_mint_while_the_others_go_on,
    i6_a_lost_answer_is_an_orphan_and_never_listed,
    one_item_serves_two_businesses,
    i8_an_account_moves_between_businesses,
    an_account_filter_leaves_the_others_out,
    a_webhook_for_an_unknown_item_is_noted,
);

/// A mistyped account in the filter would drop the one that was meant.
async fn i8_a_push_that_names_an_account_nobody_knows_changes_nothing(parts: Parts) {
    let world = World::start(parts, "").await;
    world.business("acme");
    let item = world.link("acme", 2).await;
    world.until_exact().await;
    let mistyped = json!([{"account_id": "nope"}]);
    world.sandbox.push(&item, &json!({"accounts": mistyped})).await.unwrap();
    world.until_blocked("item", &item, "unknown_account").await;
    world.until_quiet().await;
    assert!(world.sandbox.verdict().exact, "the list is as it was");
    world.sandbox.push(&item, &json!({})).await.unwrap();
    world.until_exact().await;
    world.end().await;
}

/// Found by a newcomer and by a storm: the token we hold is unknown to Plaid, and the one that the platform holds is of
/// an Item that the user has revoked meanwhile.
async fn i10_an_item_rotated_and_then_revoked_leaves_the_list(parts: Parts) {
    let world = World::start(parts, "").await;
    world.business("acme");
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
    world.end().await;
}

async fn a_new_account_appears(parts: Parts) {
    let world = World::start(parts, "").await;
    world.business("acme");
    let item = world.link("acme", 1).await;
    world.until_exact().await;
    world.sandbox.add_account(&item, &NewAccount::checking("7777")).unwrap();
    world.webhook(&item, "NEW_ACCOUNTS_AVAILABLE", &json!({}));
    world.until_exact().await;
    assert_eq!(world.sandbox.listed_tokens("acme").len(), 2);
    world.end().await;
}

async fn i8_an_account_closed_at_the_bank_is_proved_by_two_reads(parts: Parts) {
    let world = World::start(parts, "").await;
    world.business("acme");
    let item = world.link("acme", 2).await;
    world.until_exact().await;
    let account = world.accounts(&item).remove(0);
    world.sandbox.close_account(&account).unwrap();
    let reads = world.sandbox.calls("/accounts/get");
    world.sync_item(&item).await;
    world.until_exact().await;
    assert!(world.sandbox.calls("/accounts/get") >= reads + 2, "I8: one read alone proves nothing");
    let (_, body) = world.admin("GET", &format!("/v1/items/{item}"), None).await;
    let closed =
        body["accounts"].as_array().unwrap().iter().find(|a| a["account_id"] == account.as_str()).unwrap().clone();
    assert_eq!((closed["state"].as_str(), closed["proof"].as_str()), (Some("closed"), Some("two_reads")));
    world.end().await;
}

async fn i8_an_account_that_only_flickers_never_leaves(parts: Parts) {
    let world = World::start(parts, "[consumer]\ngone_after = \"700ms\"\n").await;
    world.business("acme");
    let item = world.link("acme", 2).await;
    world.until_exact().await;
    let account = world.accounts(&item).remove(0);
    world.sandbox.close_account(&account).unwrap();
    let reads = world.sandbox.calls("/accounts/get");
    world.sync_item(&item).await;
    world.until("the account was missed once", || world.sandbox.calls("/accounts/get") > reads).await;
    world.sandbox.reopen_account(&account).unwrap();
    let reads = world.sandbox.calls("/accounts/get");
    world.until("it was looked for again", || world.sandbox.calls("/accounts/get") > reads).await;
    world.until_exact().await;
    assert_eq!(world.sandbox.verdict().counts.puts, 1, "it never left the list");
    world.end().await;
}

async fn i8_a_revoked_account_is_believed_when_plaid_agrees(parts: Parts) {
    let world = World::start(parts, "[consumer]\ngone_after = \"1h\"\n").await;
    world.business("acme");
    let item = world.link("acme", 2).await;
    world.until_exact().await;
    let accounts = world.accounts(&item);
    // Plaid's list still shows it: the webhook alone drops nothing.
    world.webhook(&item, "USER_ACCOUNT_REVOKED", &json!({"account_id": accounts[0]}));
    let reads = world.sandbox.calls("/accounts/get");
    world.until("it was looked for", || world.sandbox.calls("/accounts/get") > reads).await;
    world.until_exact().await;
    assert_eq!(world.sandbox.listed_tokens("acme").len(), 2);
    // Now it is gone there as well: proved at once.
    world.sandbox.close_account(&accounts[0]).unwrap();
    world.sync_item(&item).await;
    world.until_exact().await;
    assert_eq!(world.sandbox.listed_tokens("acme").len(), 1);
    world.end().await;
}

async fn a_renumbered_account_leaves_and_enters_in_one_put(parts: Parts) {
    let world = World::start(parts, "[consumer]\ngone_after = \"1h\"\n").await;
    world.business("acme");
    let item = world.link("acme", 2).await;
    world.until_exact().await;
    let puts = world.sandbox.verdict().counts.puts;
    world.sandbox.renumber_account(&world.accounts(&item)[0]).unwrap();
    world.sync_item(&item).await;
    world.until_exact().await;
    assert_eq!(world.sandbox.verdict().counts.puts - puts, 1);
    world.end().await;
}

async fn i8_a_renumbered_account_keeps_its_place_under_a_filter(parts: Parts) {
    let world = World::start(parts, "[consumer]\ngone_after = \"1h\"\n").await;
    world.business("acme");
    let item = world.link_as("acme", 2, Announce::Silent).await;
    let named: Vec<_> = world.accounts(&item).iter().map(|a| json!({"account_id": a})).collect();
    world.sandbox.push(&item, &json!({"accounts": named})).await.unwrap();
    world.until_exact().await;
    world.sandbox.renumber_account(&world.accounts(&item)[0]).unwrap();
    for _ in 0..3 {
        world.sync_item(&item).await;
        world.until_exact().await;
    }
    assert_eq!(world.sandbox.listed_tokens("acme").len(), 2);
    world.end().await;
}

async fn i8_a_removed_item_stays_removed_after_a_late_push(parts: Parts) {
    let world = World::start(parts, "").await;
    world.business("acme");
    let (gone, _) = (world.link("acme", 2).await, world.link("acme", 1).await);
    world.until_exact().await;
    world.sandbox.offboard(&gone, true).await.unwrap();
    world.until_exact().await;
    let (status, _) = world.sandbox.push(&gone, &json!({"access_token": "access-sandbox-late"})).await.unwrap();
    assert_eq!(status, 422);
    world.until_exact().await;
    world.until_item(&gone, "removed").await;
    assert_eq!(world.sandbox.listed_tokens("acme").len(), 1);
    world.end().await;
}

async fn a_relinked_item_takes_the_place_of_the_old_one_in_one_put(parts: Parts) {
    let world = World::start(parts, "").await;
    world.business("acme");
    let old = world.link("acme", 2).await;
    world.until_exact().await;
    let puts = world.sandbox.verdict().counts.puts;
    let new = world.link_as("acme", 2, Announce::Silent).await;
    world.sandbox.offboard(&old, false).await.unwrap();
    let (status, body) = world.sandbox.push(&new, &json!({"replaces": old})).await.unwrap();
    assert_eq!(status, 200, "{body}");
    world.until_exact().await;
    assert_eq!(world.sandbox.verdict().counts.puts - puts, 1);
    world.until_item(&old, "removed").await;
    world.end().await;
}

async fn login_required_and_repaired(parts: Parts) {
    let world = World::start(parts, "").await;
    world.business("acme");
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
    world.end().await;
}

async fn the_end_of_access_is_announced(parts: Parts) {
    let world = World::start(parts, "").await;
    world.business("acme");
    let item = world.link("acme", 1).await;
    world.until_exact().await;
    world.webhook(
        &item,
        "PENDING_DISCONNECT",
        &json!({"reason": "INSTITUTION_MIGRATION", "disconnect_time": "2027-02-03T04:05:06Z"}),
    );
    world.webhook(&item, "PENDING_EXPIRATION", &json!({"consent_expiration_time": "2027-02-04T04:05:06Z"}));
    let topic = world.local.config("").unwrap().topics().outcomes;
    let told = |seen: &[bus::Delivery]| {
        seen.iter().any(|d| d.event.as_ref().is_ok_and(|e| e.kind == "rekey.item.access_ends"))
    };
    world.read_topic(&topic, bus::schema::OUTCOME, told).await;
    world.until_exact().await;
    assert_eq!(world.sandbox.verdict().counts.puts, 1, "nothing changes until the day");
    world.end().await;
}

async fn i8_a_revoked_item_leaves_after_plaid_said_so(parts: Parts) {
    let world = World::start(parts, "").await;
    world.business("acme");
    let (gone, stays) = (world.link("acme", 2).await, world.link("acme", 1).await);
    world.until_exact().await;
    world.sandbox.revoke(&gone).unwrap();
    world.webhook(&gone, "USER_PERMISSION_REVOKED", &sandbox::Sandbox::webhook_error("USER_PERMISSION_REVOKED"));
    world.until_item(&gone, "revoked").await;
    world.until_exact().await;
    assert_eq!(world.sandbox.listed_tokens("acme").len(), 1);
    world.until_item(&stays, "active").await;
    world.end().await;
}

async fn i8_a_revocation_that_plaid_denies_drops_nothing(parts: Parts) {
    let world = World::start(parts, "").await;
    world.business("acme");
    let item = world.link("acme", 2).await;
    world.until_exact().await;
    let reads = world.sandbox.calls("/accounts/get");
    world.webhook(&item, "USER_PERMISSION_REVOKED", &json!({}));
    world.until("Plaid was asked", || world.sandbox.calls("/accounts/get") > reads).await;
    world.until_exact().await;
    world.until_item(&item, "active").await;
    assert_eq!(world.sandbox.verdict().counts.puts, 1);
    world.end().await;
}

async fn an_item_removed_by_the_platform_leaves(parts: Parts) {
    let world = World::start(parts, "").await;
    world.business("acme");
    let (gone, _) = (world.link("acme", 2).await, world.link("acme", 1).await);
    world.until_exact().await;
    world.sandbox.offboard(&gone, true).await.unwrap();
    world.until_exact().await;
    let calls = world.sandbox.calls("/accounts/get");
    world.webhook(&gone, "ERROR", &json!({"error": null}));
    world.notice(&world.sandbox.items()[0].clone()).await;
    world.until_exact().await;
    let (_, body) = world.admin("GET", &format!("/v1/items/{gone}"), None).await;
    assert_eq!(body["state"], "removed");
    assert!(world.sandbox.calls("/accounts/get") <= calls + 1, "a removed Item costs no call");
    world.end().await;
}

/// A row that came back would be looked for at every sweep, and the customer's id would stay for good.
async fn what_is_erased_during_a_look_does_not_come_back(parts: Parts) {
    let mut world = World::start(parts, "").await;
    world.business("acme");
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
    let mut tx = world.store().begin().await.unwrap();
    let mark = Mark {
        kind: Kind::Item,
        id: "nobody",
        class: Class::Rotation,
        reason: "test",
        wait: Duration::ZERO,
        quiet: None,
        unblocks: false,
        traceparent: None,
    };
    tx.mark(&mark).await.unwrap();
    tx.commit().await.unwrap();
    let forgotten = async || rows("SELECT id FROM work WHERE id = $1", "nobody").await == 0;
    assert!(tests::holds(|| forgotten()).await, "a row about nothing stays");

    let call = "/accounts/get";
    world.sandbox.fault(Fault::times(call, 1, FaultKind::Hang));
    world.sync_item(&item).await;
    world.until("a look is on its way", || world.sandbox.hung(call) == 1).await;
    // Erasing waits for a look; only one that is lost for a quarter of an hour ends later.
    assert_eq!(rows("DELETE FROM work WHERE id = $1 RETURNING id", &item).await, 1);
    world.sandbox.heal();
    world.rekeys.remove(0).stop().await;
    assert_eq!(rows("SELECT id FROM work WHERE id = $1", &item).await, 0);
    world.end().await;
}

async fn i8_offboarding_the_last_item_sends_the_empty_list(parts: Parts) {
    let world = World::start(parts, "").await;
    world.business("acme");
    let item = world.link("acme", 2).await;
    world.until_exact().await;
    world.sandbox.offboard(&item, true).await.unwrap();
    world.until_exact().await;
    assert!(world.sandbox.listed_tokens("acme").is_empty());
    world.end().await;
}

async fn i6_one_account_refuses_to_mint_while_the_others_go_on(parts: Parts) {
    let world = World::start(parts, "").await;
    world.business("acme");
    let item = world.link_as("acme", 3, Announce::Silent).await;
    let stubborn = world.accounts(&item).remove(1);
    world.sandbox.refuse_account(&stubborn, true).unwrap();
    world.sandbox.announce(&item, Announce::Push).await.unwrap();
    world.until_exact().await;
    assert_eq!(world.sandbox.listed_tokens("acme").len(), 2);
    let (_, body) = world.admin("GET", &format!("/v1/items/{item}"), None).await;
    let parked: Vec<_> = body["accounts"].as_array().unwrap().iter().filter(|a| !a["not_minted"].is_null()).collect();
    assert_eq!(parked.len(), 1, "{body}");
    assert!(parked[0]["not_minted"].as_str().unwrap().contains("ITEM_NOT_SUPPORTED"));
    // Plaid learns to hand it over; a person asks for another look.
    world.sandbox.refuse_account(&stubborn, false).unwrap();
    world.sync_item(&item).await;
    world.until_exact().await;
    world.end().await;
}

async fn i6_a_lost_answer_is_an_orphan_and_never_listed(parts: Parts) {
    let world = World::start(parts, "").await;
    world.business("acme");
    let item = world.link_as("acme", 2, Announce::Silent).await;
    world.sandbox.fault(Fault::times("/processor/token/create", 1, FaultKind::LoseAnswer));
    world.sandbox.announce(&item, Announce::Push).await.unwrap();
    world.until_exact().await;
    let (_, body) = world.admin("GET", &format!("/v1/items/{item}"), None).await;
    assert_eq!(body["processor_tokens"], json!({"live": 2, "orphaned": 1}));
    assert_eq!(world.sandbox.verdict().counts.mints, 3);
    world.end().await;
}

async fn one_item_serves_two_businesses(parts: Parts) {
    let world = World::start(parts, "").await;
    world.business("acme");
    world.business("globex");
    let accounts = vec![
        NewAccount::checking("1111"),
        NewAccount { business: Some("globex".into()), ..NewAccount::checking("2222") },
    ];
    let item = NewItem { business: "acme".into(), accounts, announce: Announce::Push };
    let item = world.sandbox.link(&item).await.unwrap();
    world.until_exact().await;
    assert_eq!((world.sandbox.listed_tokens("acme").len(), world.sandbox.listed_tokens("globex").len()), (1, 1));
    world.rotate(&item, Announce::Push).await;
    world.until_exact().await;
    world.end().await;
}

async fn i8_an_account_moves_between_businesses(parts: Parts) {
    let world = World::start(parts, "").await;
    world.business("acme");
    world.business("globex");
    let item = world.link("acme", 2).await;
    world.until_exact().await;
    let moving = world.accounts(&item).remove(0);
    world.sandbox.assign_account(&moving, Some("globex")).unwrap();
    // The old list must be left, verified, before the new one is entered: Layer is slow about the old one.
    let layer_id = world.sandbox.layer_id("acme").unwrap();
    world
        .sandbox
        .fault(Fault { about: Some(layer_id), ..Fault::times("PUT /v1/businesses/{id}", 1, FaultKind::NotApplied) });
    let (status, body) = world.sandbox.push(&item, &json!({})).await.unwrap();
    assert_eq!(status, 200, "{body}");
    world.until("it left the old list", || world.sandbox.listed_tokens("acme").len() == 1).await;
    world.until_exact().await;
    assert_eq!(world.sandbox.listed_tokens("globex").len(), 1);
    assert_eq!(world.sandbox.verdict().counts.mints, 2, "a move mints nothing");
    world.end().await;
}

async fn an_account_filter_leaves_the_others_out(parts: Parts) {
    let world = World::start(parts, "").await;
    world.business("acme");
    let item = world.link_as("acme", 3, Announce::Silent).await;
    let accounts = world.accounts(&item);
    for left_out in &accounts[1..] {
        world.sandbox.assign_account(left_out, None).unwrap();
    }
    world.sandbox.announce(&item, Announce::Push).await.unwrap();
    world.until_exact().await;
    assert_eq!((world.sandbox.listed_tokens("acme").len(), world.sandbox.verdict().counts.mints), (1, 1));
    // The platform changes its mind, twice: one more takes part, then the first one no longer does.
    world.sandbox.assign_account(&accounts[1], Some("acme")).unwrap();
    world.sandbox.push(&item, &json!({})).await.unwrap();
    world.until_exact().await;
    world.sandbox.assign_account(&accounts[0], None).unwrap();
    world.sandbox.push(&item, &json!({})).await.unwrap();
    world.until_exact().await;
    assert_eq!(world.sandbox.listed_tokens("acme").len(), 1);
    world.end().await;
}

async fn a_webhook_for_an_unknown_item_is_noted(parts: Parts) {
    let world = World::start(parts, "").await;
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
    world.end().await;
}
