//! The main job: a changed access token heals itself.

use sandbox::{Announce, Fault, FaultKind};
use serde_json::json;
use std::time::Duration;
use tests::World;

stories!(
    first_link,
    rotation_pushed,
    i10_rotation_found_by_a_dead_token,
    i10_rotation_found_by_the_sweep in "[consumer]\nsweep_period = \"1s\"\n",
    rotation_announced_by_a_notice,
    i9_two_items_of_one_business_rotate_together in "[consumer]\ndebounce = \"200ms\"\n",
    i5_a_late_push_of_an_old_token_changes_nothing,
    i5_a_push_with_a_token_of_another_item_is_rejected,
    i5_a_push_is_kept_while_plaid_cannot_answer in "[console]\npush_wait = \"300ms\"\n",
    i5_a_lagging_lookup_never_puts_an_old_token_over_a_newer_one,
    i5_a_lookup_that_skipped_a_rotation_needs_its_proof_like_any_other,
    i9_items_that_change_one_after_the_other_become_one_put in "[consumer]\ndebounce = \"800ms\"\n",
    i9_lists_whose_items_all_change_are_not_sent_for_each_of_them in "[consumer]\nworkers = 2\ndebounce = \"500ms\"\n",
    i9_a_burst_of_events_is_one_look in "[consumer]\ndebounce = \"4s\"\nlease = \"8s\"\n",
    i10_an_event_during_a_look_is_served_by_the_next_one in "[plaid]\ntimeout = \"1400ms\"\n",
    i8_a_dead_token_makes_layer_refuse_the_list on likely,
    i5_pushing_the_dead_current_token_is_rejected,
    a_rotation_that_follows_a_rotation,
    i5_a_push_overtaken_by_a_rotation_still_says_where_the_item_belongs,
);

/// Found by a storm: the pushed token dies before Plaid can prove it, the new one comes from the lookup and says nothing
/// of businesses.
async fn i5_a_push_overtaken_by_a_rotation_still_says_where_the_item_belongs(world: &World) {
    world.business("acme");
    let item = world.link_as("acme", 2, Announce::Database).await;
    let body = world.sandbox.push_body(&item, &json!({})).unwrap();
    let (stray, other) =
        (world.link_as("acme", 1, Announce::Database).await, world.link_as("acme", 1, Announce::Push).await);
    let token_of_another = world.sandbox.access_token(&other).unwrap();
    world.sandbox.fault(Fault::new("/accounts/get", FaultKind::CutBefore));
    let (status, answer) = world.admin("PUT", &format!("/v1/items/{item}?timeout=0"), Some(&body)).await;
    assert_eq!((status, answer["token"].as_str()), (202, Some("pending")), "{answer}");
    // The token of another Item was never this one's, and neither is what came with it.
    let wrong = json!({"access_token": token_of_another, "business": "globex"});
    assert_eq!(world.admin("PUT", &format!("/v1/items/{stray}?timeout=0"), Some(&wrong)).await.0, 202);
    world.rotate(&item, Announce::Database).await;
    world.sandbox.heal();
    let (status, answer) = world.sandbox.push(&stray, &json!({})).await.unwrap();
    assert!(matches!(status, 200 | 202), "{status} {answer}");
    world.until_exact().await;
    let shown = world.item(&item).await;
    assert_eq!((shown["business"].as_str(), shown["generation"].as_i64()), (Some("acme"), Some(1)), "{shown}");
}

async fn first_link(world: &World) {
    let item = world.link("acme", 3).await;
    world.until_exact().await;
    let body = world.business_at("acme").await;
    assert_eq!(body["accounts"].as_array().unwrap().len(), 3);
    assert_eq!(body["differs"], json!([]));
    let body = world.item(&item).await;
    assert_eq!((body["state"].as_str(), body["generation"].as_i64()), (Some("active"), Some(1)));
    assert_eq!(world.sandbox.verdict().counts.mints, 3, "I6: one mint an account");
    assert_eq!(world.puts(), 1, "I9: one PUT");
}

async fn rotation_pushed(world: &World) {
    let item = world.link("acme", 2).await;
    world.until_exact().await;
    let before = world.sandbox.listed_tokens("acme");
    world.rotate(&item, Announce::Push).await;
    world.until_exact().await;
    assert!(world.sandbox.listed_tokens("acme").iter().all(|t| !before.contains(t)), "every token is new");
    let verdict = world.sandbox.verdict();
    assert_eq!((verdict.counts.mints, verdict.counts.puts), (4, 2));
}

async fn i10_rotation_found_by_a_dead_token(world: &World) {
    let item = world.link("acme", 2).await;
    world.until_exact().await;
    world.rotate(&item, Announce::Silent).await;
    world.webhook(&item, "ERROR", &json!({"error": null}));
    world.until_item(&item, "awaiting_token").await;
    // The platform's database catches up, and nobody says so.
    world.sandbox.announce(&item, Announce::Database).await.unwrap();
    world.until_exact().await;
    world.until_item(&item, "active").await;
}

async fn i10_rotation_found_by_the_sweep(world: &World) {
    let item = world.link("acme", 2).await;
    world.until_exact().await;
    world.rotate(&item, Announce::Database).await;
    world.until_exact().await;
}

async fn rotation_announced_by_a_notice(world: &World) {
    let item = world.link("acme", 1).await;
    world.until_exact().await;
    world.rotate(&item, Announce::Database).await;
    world.notice(&item).await;
    world.until_exact().await;
}

async fn i9_two_items_of_one_business_rotate_together(world: &World) {
    let (one, two) = (world.link("acme", 2).await, world.link("acme", 2).await);
    world.until_exact().await;
    let accepted = || {
        let counts = world.sandbox.verdict().counts;
        counts.puts - counts.puts_refused
    };
    let before = accepted();
    world.rotate(&one, Announce::Database).await;
    world.rotate(&two, Announce::Database).await;
    world.notice(&one).await;
    world.notice(&two).await;
    world.until("both are minted", || world.sandbox.verdict().counts.mints == 8).await;
    world.until_quiet().await;
    let puts = accepted() - before;
    assert!((1..=2).contains(&puts), "I9: {puts} PUTs for one business");
}

async fn i9_items_that_change_one_after_the_other_become_one_put(world: &World) {
    world.business("acme");
    let mut items = Vec::new();
    for _ in 0..4 {
        items.push(world.link("acme", 1).await);
    }
    world.until_exact().await;
    let before = world.puts();
    for item in &items {
        world.rotate(item, Announce::Database).await;
    }
    for item in items.chunks(1) {
        world.make_due(item).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    world.until_exact().await;
    let puts = world.puts() - before;
    assert!((1..=2).contains(&puts), "I9: {puts} PUTs for one business");
}

/// More change at once than there are workers for. Taken by age alone, each Item would bring a PUT of its list with the dead tokens
/// of those whose turn has not come.
async fn i9_lists_whose_items_all_change_are_not_sent_for_each_of_them(world: &World) {
    let mut items = Vec::new();
    for n in 0..20 {
        items.push(world.link(&format!("b{}", n % 4), 1).await);
    }
    world.until_exact().await;
    for call in ["/accounts/get", "/processor/token/create"] {
        world.sandbox.fault(Fault::new(call, FaultKind::Delay { millis: 100 }));
    }
    for item in &items {
        world.rotate(item, Announce::Database).await;
    }
    let before = world.puts();
    // Nobody begins before all are told.
    world
        .sql("INSERT INTO pauses (provider, reason, since, probe_at) VALUES ('plaid', 'a test', 0, 4000000000000)")
        .await;
    futures::future::join_all(items.iter().map(|item| world.notice(item))).await;
    let all_are_told = || async {
        let mut tx = world.store().begin_read().await.unwrap();
        let mut told = 0;
        for item in &items {
            let row = tx.work(&domain::ItemId::parse(item.clone()).unwrap()).await.unwrap().unwrap();
            told += usize::from(row.signal_at.is_some());
        }
        told == items.len()
    };
    assert!(tests::holds(all_are_told).await);
    world.sql("DELETE FROM pauses").await;
    world.until_exact().await;
    let puts = world.puts() - before;
    assert!((4..=8).contains(&puts), "I9: {puts} PUTs for four lists");
}

async fn i9_a_burst_of_events_is_one_look(world: &World) {
    let item = world.link("acme", 1).await;
    world.until_exact().await;
    let reads = world.sandbox.calls("/accounts/get");
    for _ in 0..6 {
        world.webhook(&item, "ERROR", &json!({"error": null}));
        tokio::time::sleep(Duration::from_millis(600)).await;
    }
    world.until("all were answered", || world.sandbox.verdict().counts.webhooks_answered_200 == 6).await;
    world.until("it was looked at", || world.sandbox.calls("/accounts/get") > reads).await;
    // What is still on its way through Kafka would cause another reconciliation now.
    tokio::time::sleep(Duration::from_secs(1)).await;
    world.until_exact().await;
    let looks = world.sandbox.calls("/accounts/get") - reads;
    assert!(looks <= 2, "I9: {looks} reads for one burst");
}

async fn i5_a_late_push_of_an_old_token_changes_nothing(world: &World) {
    let item = world.link("acme", 1).await;
    world.until_exact().await;
    let old = world.sandbox.access_token(&item).unwrap();
    world.rotate(&item, Announce::Push).await;
    world.until_exact().await;
    let counts = world.sandbox.verdict().counts;

    let (status, body) = world.sandbox.push(&item, &json!({"access_token": old})).await.unwrap();
    assert_eq!(status, 422, "{body}");
    assert!(body["message"].as_str().unwrap().contains("push the current one"), "{body}");
    assert!(!body.to_string().contains(&old), "I3");
    world.until_exact().await;
    let after = world.sandbox.verdict().counts;
    assert_eq!((after.mints, after.puts), (counts.mints, counts.puts), "nothing was minted or sent");
    let body = world.item(&item).await;
    let standings: Vec<&str> =
        body["access_tokens"].as_array().unwrap().iter().filter_map(|t| t["standing"].as_str()).collect();
    assert!(standings.contains(&"rejected") && standings.contains(&"current"), "{standings:?}");
}

async fn i5_a_push_with_a_token_of_another_item_is_rejected(world: &World) {
    world.business("globex");
    let (ours, theirs) = (world.link("acme", 1).await, world.link("globex", 1).await);
    world.until_exact().await;
    let foreign = world.sandbox.access_token(&theirs).unwrap();
    let wrong = json!({"access_token": foreign, "business": "globex"});
    let (status, body) = world.sandbox.push(&ours, &wrong).await.unwrap();
    assert_eq!(status, 422, "{body}");
    assert!(body["message"].as_str().unwrap().contains("belongs to another Item"), "{body}");
    let production = json!({"access_token": "access-production-11111111"});
    let (status, body) = world.sandbox.push(&ours, &production).await.unwrap();
    assert_eq!(status, 422);
    assert!(body["message"].as_str().unwrap().contains("production environment"), "{body}");
    let (status, _) = world.sandbox.push(&ours, &json!({"access_token": "has spaces in it"})).await.unwrap();
    assert_eq!(status, 422);
    // A rejected push changes nothing, the business that it named included.
    let body = world.item(&ours).await;
    assert_eq!(body["business"], "acme");
}

async fn i5_a_push_is_kept_while_plaid_cannot_answer(world: &World) {
    let item = world.link("acme", 1).await;
    world.until_exact().await;
    world.sandbox.fault(Fault::new(
        "/accounts/get",
        FaultKind::Answer {
            status: 500,
            error_type: "API_ERROR".into(),
            error_code: "INTERNAL_SERVER_ERROR".into(),
            retry_after: None,
        },
    ));
    world.sandbox.rotate(&item, Announce::Silent).await.unwrap();
    let (status, body) = world.sandbox.push(&item, &json!({})).await.unwrap();
    assert_eq!((status, body["token"].as_str()), (202, Some("pending")), "{body}");
    world.sandbox.heal();
    world.until_exact().await;
}

async fn i5_a_lagging_lookup_never_puts_an_old_token_over_a_newer_one(world: &World) {
    let item = world.link("acme", 1).await;
    world.until_exact().await;
    // The push carries the new token, while the database still holds the old one.
    world.sandbox.rotate(&item, Announce::Silent).await.unwrap();
    let (status, _) = world.sandbox.push(&item, &json!({})).await.unwrap();
    assert_eq!(status, 200);
    world.until_exact().await;
    // The first look proves that the old one is dead, by a read of its own.
    let reads = world.sandbox.calls("/accounts/get");
    for _ in 0..3 {
        world.sync_item(&item).await;
        world.until_exact().await;
    }
    assert!(world.sandbox.calls("/accounts/get") <= reads + 4, "a token refused once is not tried at every look");
    world.until_item(&item, "active").await;
    assert_eq!(world.sandbox.verdict().counts.mints, 2, "I6: looks mint nothing for an account that has its token");
}

async fn i5_a_lookup_that_skipped_a_rotation_needs_its_proof_like_any_other(world: &World) {
    let item = world.link("acme", 1).await;
    world.until_exact().await;
    // The database holds a token that Rekey has never seen and that is dead by now; the push carries the living one.
    world.rotate(&item, Announce::Database).await;
    world.rotate(&item, Announce::Silent).await;
    let (status, body) = world.sandbox.push(&item, &json!({})).await.unwrap();
    assert_eq!(status, 200, "{body}");
    world.until_exact().await;
    let body = world.item(&item).await;
    assert_eq!((body["state"].as_str(), body["generation"].as_i64()), (Some("active"), Some(2)), "{body}");
}

async fn i10_an_event_during_a_look_is_served_by_the_next_one(world: &World) {
    let item = world.link("acme", 1).await;
    world.until_exact().await;
    let call = "/accounts/get";
    world.sandbox.fault(Fault::times(call, 1, FaultKind::HangAfter));
    world.sync_item(&item).await;
    world.until("the look hangs", || world.sandbox.hung(call) == 1).await;
    // The bank shows a new account right after Plaid has answered the reconciliation that is under way.
    world.sandbox.add_account(&item, &sandbox::NewAccount::checking("9999")).unwrap();
    world.notice(&item).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    world.sandbox.heal();
    world.until_exact().await;
}

async fn i8_a_dead_token_makes_layer_refuse_the_list(world: &World) {
    let (silent, loud) = (world.link("acme", 1).await, world.link("acme", 1).await);
    world.until_exact().await;
    // One Item's token is rotated and unknown to us: its account keeps the previous token, which is dead.
    world.rotate(&silent, Announce::Silent).await;
    world.webhook(&silent, "ERROR", &json!({"error": null}));
    world.until_item(&silent, "awaiting_token").await;
    assert_eq!(world.sandbox.listed_tokens("acme").len(), 2, "I8: nothing is dropped for it");
    // The other one is rotated and pushed: Layer refuses the list because of the dead token in it.
    world.rotate(&loud, Announce::Push).await;
    world
        .until("the healthy account is listed", || {
            let verdict = world.sandbox.business_verdict("acme");
            verdict.dead.is_empty() && verdict.missing.len() == 1
        })
        .await;
    assert!(world.sandbox.verdict().counts.puts_refused >= 1);
    assert!(world.sandbox.verdict().counts.puts_refused <= 2, "never found out by trial PUTs");
    // When the missing token arrives, its account is listed again.
    let (status, _) = world.sandbox.push(&silent, &json!({})).await.unwrap();
    assert_eq!(status, 200);
    world.until_exact().await;
}

async fn i5_pushing_the_dead_current_token_is_rejected(world: &World) {
    let item = world.link("acme", 1).await;
    world.until_exact().await;
    let old = world.sandbox.access_token(&item).unwrap();
    world.rotate(&item, Announce::Silent).await;
    for _ in 0..2 {
        let (status, body) = world.sandbox.push(&item, &json!({"access_token": old})).await.unwrap();
        assert_eq!(status, 422, "it was proved once and is dead by now: {body}");
    }
    let (status, _) = world.sandbox.push(&item, &json!({})).await.unwrap();
    assert_eq!(status, 200);
}

async fn a_rotation_that_follows_a_rotation(world: &World) {
    let item = world.link("acme", 2).await;
    for _ in 0..5 {
        world.rotate(&item, Announce::Push).await;
    }
    world.until_exact().await;
    let body = world.item(&item).await;
    assert_eq!(body["generation"], 6);
}
