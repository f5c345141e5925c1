//! Accounts of an Item: who joins a list, leaves it, moves to another, and who gets no token.

use sandbox::{Announce, Fault, FaultKind, NewAccount, NewItem};
use serde_json::json;
use tests::{Parts, World};

stories!(
    i8_a_push_that_names_an_account_nobody_knows_changes_nothing,
    a_new_account_appears,
    i8_an_account_closed_at_the_bank_is_proved_by_two_reads,
    i8_an_account_that_only_flickers_never_leaves in "[consumer]\ngone_after = \"700ms\"\n",
    i8_a_revoked_account_is_believed_when_plaid_agrees in "[consumer]\ngone_after = \"1h\"\n",
    a_renumbered_account_leaves_and_enters_in_one_put in "[consumer]\ngone_after = \"1h\"\n",
    i8_a_renumbered_account_keeps_its_place_under_a_filter in "[consumer]\ngone_after = \"1h\"\n",
    i6_one_account_refuses_to_mint_while_the_others_go_on,
    i6_a_lost_answer_is_an_orphan_and_never_listed,
    one_item_serves_two_businesses,
    i8_an_account_moves_between_businesses,
    an_account_filter_leaves_the_others_out,
);

on_both_parts!(i6_a_push_during_the_look_that_is_refused_asks_at_once,);

/// A mistyped account in the filter would drop the one that was meant.
async fn i8_a_push_that_names_an_account_nobody_knows_changes_nothing(world: &World) {
    let item = world.link("acme", 2).await;
    world.until_exact().await;
    let mistyped = json!([{"account_id": "nope"}]);
    let (status, refused) = world.sandbox.push(&item, &json!({"accounts": mistyped})).await.unwrap();
    assert!(status == 422 && refused["message"].as_str().unwrap().contains("nope"), "{refused}");
    world.until_quiet().await;
    assert!(world.sandbox.verdict().exact, "the list is as it was");
    world.sandbox.push(&item, &json!({})).await.unwrap();
    world.until_exact().await;
}

async fn a_new_account_appears(world: &World) {
    let item = world.link("acme", 1).await;
    world.until_exact().await;
    world.sandbox.add_account(&item, &NewAccount::checking("7777")).unwrap();
    world.webhook(&item, "NEW_ACCOUNTS_AVAILABLE", &json!({}));
    world.until_exact().await;
    assert_eq!(world.sandbox.listed_tokens("acme").len(), 2);
}

/// An Item, the one of its two accounts that the bank no longer shows, and how many reads of accounts there had been when Rekey
/// was told to look again.
async fn one_of_two_closed(world: &World) -> (String, String, usize) {
    let item = world.link("acme", 2).await;
    world.until_exact().await;
    let account = world.accounts(&item).remove(0);
    world.sandbox.close_account(&account).unwrap();
    let reads = world.sandbox.calls("/accounts/get");
    world.sync_item(&item).await;
    (item, account, reads)
}

async fn i8_an_account_closed_at_the_bank_is_proved_by_two_reads(world: &World) {
    let (item, account, reads) = one_of_two_closed(world).await;
    world.until_exact().await;
    assert!(world.sandbox.calls("/accounts/get") >= reads + 2, "I8: one read alone proves nothing");
    let body = world.item(&item).await;
    let closed =
        body["accounts"].as_array().unwrap().iter().find(|a| a["account_id"] == account.as_str()).unwrap().clone();
    assert_eq!((closed["state"].as_str(), closed["proof"].as_str()), (Some("closed"), Some("two_reads")));
}

async fn i8_an_account_that_only_flickers_never_leaves(world: &World) {
    let (_, account, reads) = one_of_two_closed(world).await;
    world.until("the account was missed once", || world.sandbox.calls("/accounts/get") > reads).await;
    world.sandbox.reopen_account(&account).unwrap();
    let reads = world.sandbox.calls("/accounts/get");
    world.until("it was looked for again", || world.sandbox.calls("/accounts/get") > reads).await;
    world.until_exact().await;
    assert_eq!(world.puts(), 1, "it never left the list");
}

async fn i8_a_revoked_account_is_believed_when_plaid_agrees(world: &World) {
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
}

async fn a_renumbered_account_leaves_and_enters_in_one_put(world: &World) {
    let item = world.link("acme", 2).await;
    world.until_exact().await;
    let puts = world.puts();
    world.sandbox.renumber_account(&world.accounts(&item)[0]).unwrap();
    world.sync_item(&item).await;
    world.until_exact().await;
    assert_eq!(world.puts() - puts, 1);
}

async fn i8_a_renumbered_account_keeps_its_place_under_a_filter(world: &World) {
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
}

async fn i6_one_account_refuses_to_mint_while_the_others_go_on(world: &World) {
    world.business("acme");
    let item = world.link_as("acme", 3, Announce::Silent).await;
    let stubborn = world.accounts(&item).remove(1);
    world.sandbox.refuse_account(&stubborn, true).unwrap();
    world.sandbox.announce(&item, Announce::Push).await.unwrap();
    world.until_exact().await;
    assert_eq!(world.sandbox.listed_tokens("acme").len(), 2);
    let body = world.item(&item).await;
    let parked: Vec<_> = body["accounts"].as_array().unwrap().iter().filter(|a| !a["not_minted"].is_null()).collect();
    assert_eq!(parked.len(), 1, "{body}");
    assert!(parked[0]["not_minted"].as_str().unwrap().contains("ITEM_NOT_SUPPORTED"));
    // It stands where people look, and a release asks Plaid at once, which still refuses.
    let (_, parked) = world.admin("GET", "/v1/parked", None).await;
    assert_eq!(parked["data"][0]["id"], item.as_str(), "{parked}");
    let asked = world.sandbox.calls("/processor/token/create");
    let (status, body) = world.admin("POST", &format!("/v1/parked/item/{item}/release"), None).await;
    assert_eq!(status, 202, "{body}");
    world.until("Plaid was asked again", || world.sandbox.calls("/processor/token/create") > asked).await;
    world.until_quiet().await;
    // Plaid learns to hand it over; a person asks for another reconciliation.
    world.sandbox.refuse_account(&stubborn, false).unwrap();
    world.sync_item(&item).await;
    world.until_exact().await;
    let (status, _) = world.admin("POST", &format!("/v1/parked/item/{item}/release"), None).await;
    assert_eq!(status, 404, "nothing is left to release");
}

async fn i6_a_push_during_the_look_that_is_refused_asks_at_once(parts: Parts) {
    let patient =
        "[plaid]\ntimeout = \"20s\"\n[consumer]\nlease = \"60s\"\nbackoff_first = \"1h\"\nbackoff_cap = \"1h\"\n";
    let world = World::start(parts, patient).await;
    world.business("acme");
    let item = world.link_as("acme", 1, Announce::Silent).await;
    let stubborn = world.accounts(&item).remove(0);
    world.sandbox.refuse_account(&stubborn, true).unwrap();
    let call = "/processor/token/create";
    world.sandbox.fault(Fault::times(call, 1, FaultKind::HangAfter));
    let body = world.sandbox.push_body(&item, &json!({})).unwrap();
    let path = format!("/v1/items/{item}?timeout=0");
    world.admin("PUT", &path, Some(&body)).await;
    world.until("the refusal is on its way", || world.sandbox.hung(call) == 1).await;
    world.sandbox.refuse_account(&stubborn, false).unwrap();
    world.admin("PUT", &path, Some(&body)).await;
    world.sandbox.heal();
    world.until_exact().await;
    world.end().await;
}

async fn i6_a_lost_answer_is_an_orphan_and_never_listed(world: &World) {
    world.business("acme");
    let item = world.link_as("acme", 2, Announce::Silent).await;
    world.sandbox.fault(Fault::times("/processor/token/create", 1, FaultKind::LoseAnswer));
    world.sandbox.announce(&item, Announce::Push).await.unwrap();
    world.until_exact().await;
    let body = world.item(&item).await;
    assert_eq!(body["processor_tokens"], json!({"live": 2, "orphaned": 1}));
    assert_eq!(world.sandbox.verdict().counts.mints, 3);
}

async fn one_item_serves_two_businesses(world: &World) {
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
}

async fn i8_an_account_moves_between_businesses(world: &World) {
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
}

async fn an_account_filter_leaves_the_others_out(world: &World) {
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
}
