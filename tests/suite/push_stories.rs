//! A push changes what it says, and nothing else.

use sandbox::{Announce, LoginRequiredReads, NewAccount, NewItem};
use serde_json::{Value, json};
use tests::{Parts, World};

stories!(
    a_new_token_needs_nothing_but_the_token,
    the_filter_is_taken_away_by_its_word_alone,
    i8_a_typo_in_the_business_empties_no_list ending parked,
    a_refused_push_leaves_no_item_behind,
    i11_what_can_not_be_judged_now_is_not_waited_for,
);

on_both_parts!(
    i10_a_pushed_token_of_a_revoked_item_tells,
    i8_a_list_that_would_shrink_without_proof_is_held,
    i8_a_list_that_would_become_empty_without_proof_is_held,
);

/// An Item with a second account that its filter leaves out.
async fn with_a_private_account(world: &World) -> (String, Vec<String>) {
    let accounts = vec![NewAccount::checking("1111"), NewAccount::checking("2222")];
    let new = NewItem { business: "acme".into(), accounts, announce: Announce::Silent };
    let item = world.sandbox.link(&new).await.unwrap();
    let accounts = world.accounts(&item);
    world.sandbox.assign_account(&accounts[1], None).unwrap();
    world.sandbox.announce(&item, Announce::Push).await.unwrap();
    world.until_exact().await;
    assert_eq!(world.sandbox.listed_tokens("acme").len(), 1);
    (item, accounts)
}

async fn a_new_token_needs_nothing_but_the_token(world: &World) {
    world.business("acme");
    let (item, _) = with_a_private_account(world).await;
    world.rotate(&item, Announce::Silent).await;
    let (status, body) = world.sandbox.push_token(&item).await.unwrap();
    assert_eq!((status, body["token"].as_str()), (200, Some("accepted")), "{body}");
    world.until_exact().await;
    assert_eq!(world.sandbox.listed_tokens("acme").len(), 1, "the private account stays outside");
    // A business alone keeps the filter, too.
    let (status, body) = world.admin("PUT", &format!("/v1/items/{item}"), Some(&json!({"business": "acme"}))).await;
    assert_eq!(status, 200, "{body}");
    world.until_quiet().await;
    assert_eq!(world.sandbox.listed_tokens("acme").len(), 1);
    // Of an Item that nobody knows a token is not enough.
    let path = "/v1/items/nobody-knows-me";
    let (status, body) = world.admin("PUT", path, Some(&json!({"access_token": "access-sandbox-1"}))).await;
    assert_eq!(status, 400, "{body}");
    assert!(body["message"].as_str().unwrap().contains("business"), "{body}");
    assert_eq!(world.admin("GET", path, None).await.0, 404);
}

async fn the_filter_is_taken_away_by_its_word_alone(world: &World) {
    world.business("acme");
    let (item, accounts) = with_a_private_account(world).await;
    let path = format!("/v1/items/{item}");
    let (status, body) = world.admin("PUT", &path, Some(&json!({"accounts": "some"}))).await;
    assert_eq!(status, 400, "{body}");
    world.sandbox.assign_account(&accounts[1], Some("acme")).unwrap();
    let (status, body) = world.admin("PUT", &path, Some(&json!({"accounts": "all"}))).await;
    assert_eq!(status, 200, "{body}");
    world.until_exact().await;
    assert_eq!(world.sandbox.listed_tokens("acme").len(), 2);
}

async fn i8_a_typo_in_the_business_empties_no_list(world: &World) {
    world.business("globex");
    let item = world.link("acme", 2).await;
    world.until_exact().await;
    let path = format!("/v1/items/{item}");
    for with_token in [false, true] {
        let mut body = json!({"business": "acne"});
        if with_token {
            world.rotate(&item, Announce::Silent).await;
            body = world.sandbox.push_body(&item, &body).unwrap();
        }
        let (status, answer) = world.admin("PUT", &path, Some(&body)).await;
        assert_eq!(status, 422, "{answer}");
        assert!(answer["message"].as_str().unwrap().contains("acne"), "{answer}");
        world.until_exact().await;
        let (_, shown) = world.admin("GET", &path, None).await;
        assert_eq!(shown["business"], "acme", "{shown}");
        assert_eq!(world.admin("GET", "/v1/businesses/acne", None).await.0, 404);
    }
    // One that Layer has is where they go.
    for account in world.accounts(&item) {
        world.sandbox.assign_account(&account, Some("globex")).unwrap();
    }
    let (status, answer) = world.admin("PUT", &path, Some(&json!({"business": "globex"}))).await;
    assert_eq!(status, 200, "{answer}");
    world.until("both moved", || world.sandbox.listed_tokens("globex").len() == 2).await;
    world.until("both left", || world.sandbox.listed_tokens("acme").is_empty()).await;
    world.until_quiet().await;
}

async fn a_refused_push_leaves_no_item_behind(world: &World) {
    let other = world.link("acme", 1).await;
    world.until_exact().await;
    let of_other = world.sandbox.push_body(&other, &json!({})).unwrap()["access_token"].clone();
    let wrong = [json!("access-sandbox-mistyped"), json!("access-production-1"), of_other];
    for (n, token) in wrong.into_iter().enumerate() {
        let path = format!("/v1/items/never-was-{n}");
        let body = json!({"access_token": token, "business": "acme"});
        let (status, answer) = world.admin("PUT", &path, Some(&body)).await;
        assert_eq!(status, 422, "{answer}");
        assert_eq!(world.admin("GET", &path, None).await.0, 404);
    }
    let (_, items) = world.admin("GET", "/v1/items", None).await;
    assert_eq!(items["data"].as_array().unwrap().len(), 1, "{items}");
}

/// Rotated and then revoked: the newest token that was pushed is the only one under which Plaid says so.
async fn i10_a_pushed_token_of_a_revoked_item_tells(parts: Parts) {
    // No database of the platform's: what is known, was pushed.
    let world = World::start(parts, "[token_source]\nurl = \"\"\nsql = \"\"\n").await;
    world.business("globex");
    let item = world.link("acme", 2).await;
    world.link("globex", 1).await;
    world.until_exact().await;
    world.rotate(&item, Announce::Silent).await;
    world.sandbox.revoke(&item).unwrap();
    let (status, answer) = world.sandbox.push_token(&item).await.unwrap();
    assert_eq!(status, 422, "{answer}");
    world.until_exact().await;
    world.until_item(&item, "revoked").await;
    assert!(world.sandbox.listed_tokens("acme").is_empty());
    world.end().await;
}

/// The token is known and what comes with it can't be judged: nobody knows until when, so the caller is told at once.
async fn i11_what_can_not_be_judged_now_is_not_waited_for(world: &World) {
    let (revoked, locked) = (world.link("acme", 1).await, world.link("acme", 1).await);
    world.until_exact().await;
    world.sandbox.switch(|s| s.login_required_reads = LoginRequiredReads::Fail);
    world.sandbox.require_login(&locked).unwrap();
    world.sandbox.revoke(&revoked).unwrap();
    for (item, state) in [(&locked, "login_required"), (&revoked, "revoked")] {
        world.sync_item(item).await;
        world.until_item(item, state).await;
    }
    world.business("globex");
    let put = async |item: &str, said: Value| {
        let body = world.sandbox.push_body(item, &said).unwrap();
        let path = format!("/v1/items/{item}?timeout=60");
        let answered = world.admin("PUT", &path, Some(&body));
        tokio::time::timeout(tests::PATIENCE, answered).await.expect("nothing is gained by waiting")
    };
    let (status, answer) = put(&revoked, json!({})).await;
    assert_eq!((status, answer["error"].as_str()), (422, Some("token_rejected")), "{answer}");
    assert!(answer["message"].as_str().unwrap().contains("withdrew consent"), "{answer}");
    world.sandbox.assign_account(&world.accounts(&locked)[0], Some("globex")).unwrap();
    let (status, answer) = put(&locked, json!({})).await;
    assert_eq!((status, answer["token"].as_str()), (202, Some("pending")), "{answer}");
    assert_eq!(answer["verdicts"][0]["verdict"]["state"], "waiting_for_user", "it says what it waits for: {answer}");
    // When it can be read again, what was said is judged.
    world.sandbox.repair(&locked).unwrap();
    world.webhook(&locked, "LOGIN_REPAIRED", &json!({}));
    world.until_exact().await;
}

/// An assignment that vanishes from the store without a word of anybody's is no reason to drop accounts.
async fn i8_a_list_that_would_shrink_without_proof_is_held(parts: Parts) {
    guarded(parts, 3, 2, "shrink_guard").await;
}

async fn i8_a_list_that_would_become_empty_without_proof_is_held(parts: Parts) {
    guarded(parts, 2, 2, "empty_list_guard").await;
}

/// `lost` of so many accounts lose what says that they belong here, as a fault of Rekey's or of its database would do it.
async fn guarded(parts: Parts, accounts: usize, lost: usize, guard: &str) {
    let world = World::start(
        parts,
        &format!("[layer]\nmax_unproved_removals = {}\n", if guard == "shrink_guard" { 1 } else { 9 }),
    )
    .await;
    let item = world.link("acme", accounts).await;
    world.until_exact().await;
    let ids: Vec<String> = world.accounts(&item).into_iter().take(lost).collect();
    world.lose_accounts(&ids).await;
    world.sync_business("acme").await;
    world.until_blocked("business", "acme", guard).await;
    assert_eq!(world.sandbox.listed_tokens("acme").len(), accounts, "nothing left");
    let body = world.business_at("acme").await;
    assert_eq!((&body["verdict"]["state"], &body["verdict"]["next"]), (&json!("held"), &json!("operator")), "{body}");
    // The Item's next reconciliation finds them again, and nobody has to release anything.
    world.sync_item(&item).await;
    world.until_exact().await;
    world.sync_business("acme").await;
    world.end().await;
}
