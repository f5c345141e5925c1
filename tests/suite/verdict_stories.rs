//! What is shown is so (I11): verdicts, on every surface, while something is not right.

use sandbox::{Announce, Fault, FaultKind};
use serde_json::{Value, json};
use tests::{World, holds};

stories!(
    i11_four_of_five_is_partly_and_names_the_fifth in "[consumer]\nrefused_cap = \"1h\"\nbackoff_first = \"20min\"\n",
    i11_a_business_awaits_its_token_with_its_item,
    i11_a_paused_provider_shows_on_whoever_waits_for_it,
    i11_a_waiting_push_says_what_it_waits_for,
    i11_an_account_that_belongs_nowhere_is_told,
    i11_a_user_who_must_act_is_no_good_state,
);

async fn show(world: &World, path: &str) -> Value {
    world.admin("GET", path, None).await.1
}

/// Until the verdict is in this state. Returns it.
async fn listed(world: &World, path: &str) -> Vec<String> {
    let (status, body) = world.admin("GET", path, None).await;
    assert_eq!(status, 200, "{path}: {body}");
    let rows = body["data"].as_array().unwrap();
    rows.iter().map(|r| r["business_id"].as_str().or(r["item_id"].as_str()).unwrap().to_owned()).collect()
}

/// external-secrets#3879: each surface says the same, and that is so.
async fn i11_four_of_five_is_partly_and_names_the_fifth(world: &World) {
    let item = world.link("acme", 5).await;
    world.until_exact().await;
    world.until_state("/v1/businesses/acme", "converged").await;
    let fifth = world.accounts(&item).remove(4);
    for code in ["PRODUCTS_NOT_SUPPORTED", "A_CODE_OF_2031"] {
        let answer = FaultKind::Answer {
            status: 400,
            error_type: "ITEM_ERROR".into(),
            error_code: code.into(),
            retry_after: None,
        };
        world.sandbox.fault(Fault { about: Some(fifth.clone()), ..Fault::new("/processor/token/create", answer) });
        world.rotate(&item, Announce::Push).await;
        let verdict = world.until_state("/v1/businesses/acme", "partly").await;
        assert_eq!((verdict["right"].as_u64(), verdict["accounts"].as_u64()), (Some(4), Some(5)), "{verdict}");
        let wrong = &verdict["wrong"][0];
        assert_eq!((wrong["account_id"].as_str(), wrong["code"].as_str()), (Some(&*fifth), Some(code)), "{verdict}");
        assert_eq!((wrong["problem"].as_str(), verdict["next"].as_str()), (Some("mint_refused"), Some("rekey")));
        assert!(wrong["again_at"].is_string(), "{verdict}");
        let body = show(world, "/v1/businesses/acme").await;
        assert_eq!(body["verified"], false, "{body}");
        let partly = || async { listed(world, "/v1/businesses?verdict=partly").await == ["acme"] };
        assert!(holds(partly).await, "the look has ended");
        assert!(listed(world, "/v1/businesses?verdict=converged").await.is_empty());
        assert_eq!(listed(world, "/v1/items?verdict=partly").await, std::slice::from_ref(&item));
        let parked = show(world, "/v1/parked").await;
        assert_eq!(parked["data"][0]["id"], item.as_str(), "{parked}");
        // The user repairs the Item: it is asked for at once, and not in twenty minutes.
        world.sandbox.heal();
        world.webhook(&item, "LOGIN_REPAIRED", &json!({}));
        world.until_exact().await;
        world.until_state("/v1/businesses/acme", "converged").await;
    }
    // And so do the outcomes: what the platform reads there is the same story, told once.
    let topics = world.local.config("").unwrap().kafka.topics;
    let told = |seen: &[bus::Delivery]| verdicts_told(seen).len() >= 5;
    let seen = world.read_topic(&topics.outcomes, bus::schema::OUTCOME, told).await;
    let told = verdicts_told(&seen);
    let states: Vec<&str> = told.iter().map(|v| v["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["converged", "partly", "converged", "partly", "converged"], "{told:?}");
    assert_eq!((&told[1]["was"], &told[1]["right"], &told[1]["accounts"]), (&json!("converged"), &json!(4), &json!(5)));
    let wrong =
        json!([{"item_id": item, "account_id": fifth, "problem": "mint_refused", "code": "PRODUCTS_NOT_SUPPORTED"}]);
    assert_eq!(told[1]["wrong"], wrong, "{told:?}");
    let numbers: Vec<i64> = told.iter().map(|v| v["number"].as_i64().unwrap()).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5]);
}

fn verdicts_told(seen: &[bus::Delivery]) -> Vec<Value> {
    let events = seen.iter().filter_map(|d| d.event.as_ref().ok());
    let told = events.filter(|e| e.kind == "rekey.business.verdict_changed");
    told.map(|e| serde_json::from_slice(&e.data).unwrap()).collect()
}

async fn i11_a_business_awaits_its_token_with_its_item(world: &World) {
    let item = world.link("acme", 2).await;
    world.until_exact().await;
    world.rotate(&item, Announce::Silent).await;
    world.sync_item(&item).await;
    let verdict = world.until_state("/v1/businesses/acme", "awaiting_token").await;
    assert_eq!((verdict["next"].as_str(), verdict["right"].as_u64()), (Some("platform"), Some(0)), "{verdict}");
    assert!(verdict["why"].as_str().unwrap().contains("push the new one"), "{verdict}");
    assert_eq!(world.until_state(&format!("/v1/items/{item}"), "awaiting_token").await["next"], "platform");
    // Looked at again it is no better.
    world.sync_business("acme").await;
    world.until_state("/v1/businesses/acme", "awaiting_token").await;
    world.sandbox.announce(&item, Announce::Push).await.unwrap();
    world.until_exact().await;
    world.until_state("/v1/businesses/acme", "converged").await;
}

async fn i11_a_paused_provider_shows_on_whoever_waits_for_it(world: &World) {
    world.business("globex");
    let item = world.link("acme", 1).await;
    world.link("globex", 1).await;
    world.until_exact().await;
    let refused = FaultKind::Answer {
        status: 400,
        error_type: "INVALID_INPUT".into(),
        error_code: "INVALID_API_KEYS".into(),
        retry_after: None,
    };
    world.sandbox.fault(Fault::new("plaid", refused));
    world.sandbox.rotate(&item, Announce::Silent).await.unwrap();
    world.notice(&item).await;
    let verdict = world.until_state("/v1/businesses/acme", "provider_paused").await;
    assert_eq!(verdict["next"], "rekey", "{verdict}");
    world.until_state(&format!("/v1/items/{item}"), "provider_paused").await;
    assert_eq!(listed(world, "/v1/businesses?verdict=provider_paused").await, ["acme"]);
    assert!(listed(world, "/v1/businesses?verdict=converging").await.is_empty());
    world.until_state("/v1/businesses/globex", "converged").await;
    world.sandbox.heal();
    world.sandbox.announce(&item, Announce::Push).await.unwrap();
    world.until_exact().await;
    world.until_state("/v1/businesses/acme", "converged").await;
}

async fn i11_a_waiting_push_says_what_it_waits_for(world: &World) {
    world.business("acme");
    let item = world.link_as("acme", 2, Announce::Silent).await;
    let stubborn = world.accounts(&item).remove(0);
    world.sandbox.refuse_account(&stubborn, true).unwrap();
    let body = world.sandbox.push_body(&item, &json!({})).unwrap();
    let path = format!("/v1/items/{item}?wait=converged&timeout=30");
    let (status, answer) = world.admin("PUT", &path, Some(&body)).await;
    assert_eq!((status, &answer["converged"]), (202, &json!(false)), "{answer}");
    assert!(answer["blocked"][0].as_str().unwrap().contains("partly"), "{answer}");
    let of_business = answer["verdicts"].as_array().unwrap().iter().find(|v| v["kind"] == "business").unwrap();
    assert_eq!(of_business["verdict"]["wrong"][0]["account_id"], stubborn.as_str(), "{answer}");
    world.sandbox.refuse_account(&stubborn, false).unwrap();
    let (status, answer) = world.admin("PUT", &path, Some(&body)).await;
    assert_eq!((status, &answer["converged"]), (200, &json!(true)), "{answer}");
}

async fn i11_an_account_that_belongs_nowhere_is_told(world: &World) {
    world.business("acme");
    let item = world.link_as("acme", 2, Announce::Silent).await;
    let ids = world.accounts(&item);
    let path = format!("/v1/items/{item}");
    let mut push =
        world.sandbox.push_body(&item, &json!({"accounts": [{"account_id": ids[0], "business": "acme"}]})).unwrap();
    push.as_object_mut().unwrap().remove("business");
    assert_eq!(world.admin("PUT", &path, Some(&push)).await.0, 200);
    world.until_state(&path, "converged").await;
    world.admin("PUT", &path, Some(&json!({"accounts": "all"}))).await;
    let verdict = world.until_state(&path, "partly").await;
    let wrong = &verdict["wrong"][0];
    assert_eq!((&wrong["account_id"], &wrong["problem"]), (&json!(ids[1]), &json!("unassigned")), "{verdict}");
    assert_eq!(verdict["next"], "platform", "{verdict}");
    world.admin("PUT", &path, Some(&json!({"business": "acme"}))).await;
    world.until_exact().await;
    world.until_state(&path, "converged").await;
}

async fn i11_a_user_who_must_act_is_no_good_state(world: &World) {
    let item = world.link("acme", 1).await;
    world.until_exact().await;
    world.sandbox.require_login(&item).unwrap();
    world.sync_item(&item).await;
    let verdict = world.until_state("/v1/businesses/acme", "waiting_for_user").await;
    assert_eq!(verdict["next"], "customer", "{verdict}");
    world.sandbox.repair(&item).unwrap();
    // Repaired in the platform's own app Plaid sends nothing (webhookdb#432): the same token, pushed again, tells.
    let (status, _) = world.sandbox.push_token(&item).await.unwrap();
    assert_eq!(status, 200);
    world.until_state("/v1/businesses/acme", "converged").await;
}
