//! What Plaid answers, documented and odd: what each answer costs, and what it means.

use sandbox::{Announce, Fault, FaultKind, NewAccount};
use serde_json::{Value, json};
use tests::{Parts, World, holds};

stories!(
    what_the_user_must_mend_waits_for_the_user,
    i4_an_item_locked_on_mint_is_minted_after_login_repaired,
    i4_what_is_not_ready_is_asked_for_again,
    i4_a_bank_that_is_no_longer_supported_is_said_once,
    i4_a_processor_that_plaid_retired_parks_nothing in "[consumer]\nagree = 3\n",
    i4_what_nobody_understands_is_tried_again_and_shown,
    i8_one_item_not_found_takes_nothing_off in "[consumer]\ngone_after = \"2s\"\n",
    i8_one_item_not_found_under_the_new_token_takes_nothing_off in "[consumer]\ngone_after = \"2s\"\n",
    i9_a_refused_mint_that_cannot_be_asked_for_waits in "[consumer]\nbackoff_first = \"2s\"\nbackoff_cap = \"4s\"\n",
    one_odd_field_costs_one_account,
    i5_a_token_is_proved_although_its_accounts_cannot_be_read,
    i6_what_is_no_new_token_is_never_listed,
    an_account_that_comes_with_the_first_transactions_is_listed,
    names_never_decide in "[consumer]\ngone_after = \"1h\"\nnew_accounts_join = false\n",
);

on_both_parts!(i8_no_accounts_is_an_empty_list_of_them,);

fn refusal(error_type: &str, error_code: &str) -> FaultKind {
    FaultKind::Answer { status: 400, error_type: error_type.into(), error_code: error_code.into(), retry_after: None }
}

fn raw(body: impl Into<String>) -> FaultKind {
    FaultKind::Raw { status: 200, headers: vec![("content-type".into(), "application/json".into())], body: body.into() }
}

async fn what_the_user_must_mend_waits_for_the_user(world: &World) {
    let item = world.link("acme", 1).await;
    world.until_exact().await;
    let codes = [
        ("ITEM_ERROR", "ITEM_LOCKED"),
        ("ITEM_ERROR", "INVALID_CREDENTIALS"),
        ("ITEM_ERROR", "ACCESS_NOT_GRANTED"),
        ("ITEM_ERROR", "INVALID_MFA"),
        ("ITEM_ERROR", "USER_SETUP_REQUIRED"),
        ("ITEM_ERROR", "INSUFFICIENT_CREDENTIALS"),
        ("ITEM_ERROR", "PASSWORD_RESET_REQUIRED"),
        ("ITEM_ERROR", "MFA_NOT_SUPPORTED"),
        ("INVALID_INPUT", "ADDITIONAL_CONSENT_REQUIRED"),
    ];
    for (error_type, code) in codes {
        world.sandbox.fault(Fault::new("/accounts/get", refusal(error_type, code)));
        world.sync_item(&item).await;
        world.until_item(&item, "login_required").await;
        let shown = world.item(&item).await;
        assert!(shown["why"].as_str().unwrap().contains(code), "{shown}");
        assert!(shown["work"]["blocked"].is_null(), "nobody is called for it: {shown}");
        world.until_state("/v1/businesses/acme", "waiting_for_user").await;
        world.sandbox.heal();
        world.webhook(&item, "LOGIN_REPAIRED", &json!({}));
        world.until_item(&item, "active").await;
        world.until_state("/v1/businesses/acme", "converged").await;
    }
}

async fn i4_an_item_locked_on_mint_is_minted_after_login_repaired(world: &World) {
    world.business("acme");
    world.sandbox.fault(Fault::new("/processor/token/create", refusal("ITEM_ERROR", "ITEM_LOCKED")));
    let item = world.link("acme", 2).await;
    world.until_item(&item, "login_required").await;
    world.sandbox.heal();
    world.webhook(&item, "LOGIN_REPAIRED", &json!({}));
    world.until_exact().await;
}

async fn i4_what_is_not_ready_is_asked_for_again(world: &World) {
    world.business("acme");
    for endpoint in ["/processor/token/create", "/accounts/get", "/item/get"] {
        world.sandbox.fault(Fault::times(endpoint, 2, refusal("ITEM_ERROR", "PRODUCT_NOT_READY")));
        let item = world.link("acme", 1).await;
        world.until_exact().await;
        world.until_quiet().await;
        assert!(world.parked().await.is_empty(), "{endpoint}");
        world.until_state(&format!("/v1/items/{item}"), "converged").await;
    }
}

/// `/accounts/get` is refused until the user logs in; `/item/get` still says whose token it is.
async fn i5_a_token_is_proved_although_its_accounts_cannot_be_read(world: &World) {
    let item = world.link("acme", 1).await;
    world.until_exact().await;
    world.sandbox.fault(Fault::new("/accounts/get", refusal("ITEM_ERROR", "ITEM_LOGIN_REQUIRED")));
    world.sandbox.rotate(&item, Announce::Silent).await.unwrap();
    // What it says of accounts waits until they can be read, and so does the answer.
    let (status, body) = world.sandbox.push(&item, &json!({})).await.unwrap();
    assert_eq!(status, 202, "{body}");
    world.until_item(&item, "login_required").await;
    assert_eq!(world.item(&item).await["generation"], 2);
    world.sandbox.heal();
    world.webhook(&item, "LOGIN_REPAIRED", &json!({}));
    world.until_exact().await;
}

async fn i8_no_accounts_is_an_empty_list_of_them(parts: Parts) {
    // The webhook is the proof here; without one two reads are.
    let world = World::start(parts, "[consumer]\ngone_after = \"1h\"\n").await;
    let item = world.link("acme", 1).await;
    world.until_exact().await;
    let account = world.accounts(&item).remove(0);
    world.sandbox.fault(Fault::new("/accounts/get", refusal("ITEM_ERROR", "NO_ACCOUNTS")));
    world.sync_item(&item).await;
    world.until_quiet().await;
    assert_eq!(world.sandbox.listed_tokens("acme").len(), 1, "one such answer proves nothing");
    world.sandbox.close_account(&account).unwrap();
    world.webhook(&item, "USER_ACCOUNT_REVOKED", &json!({"account_id": account}));
    world.until("it left", || world.sandbox.listed_tokens("acme").is_empty()).await;
    let shown = world.item(&item).await;
    assert_eq!(shown["accounts"][0]["state"], "revoked", "{shown}");
    world.sandbox.heal();
    world.end().await;
}

async fn i4_a_bank_that_is_no_longer_supported_is_said_once(world: &World) {
    let item = world.link("acme", 1).await;
    world.until_exact().await;
    let code = "INSTITUTION_NO_LONGER_SUPPORTED";
    world.sandbox.fault(Fault::new("/accounts/get", refusal("INSTITUTION_ERROR", code)));
    world.sync_item(&item).await;
    world.until_blocked("item", &item, code).await;
    for _ in 0..2 {
        // As the sweep does it: an operator's word would clear what was there.
        world.make_due(std::slice::from_ref(&item)).await;
        world.until_quiet().await;
    }
    world.until_blocked("item", &item, code).await;
    assert_eq!(world.sandbox.listed_tokens("acme").len(), 1, "and nothing leaves the list for it");
    world.sandbox.heal();
    world.sync_item(&item).await;
    world.until_state("/v1/businesses/acme", "converged").await;
    let topic = world.local.config("").unwrap().kafka.topics.outcomes;
    let is = |d: &bus::Delivery, kind: &str| d.event.as_ref().is_ok_and(|e| e.kind == kind);
    let again = |seen: &[bus::Delivery]| seen.iter().any(|d| is(d, "rekey.parked"));
    let seen = world.read_topic(&topic, bus::schema::OUTCOME, again).await;
    assert_eq!(seen.iter().filter(|d| is(d, "rekey.parked")).count(), 1, "said once");
}

async fn i4_a_processor_that_plaid_retired_parks_nothing(world: &World) {
    for n in 0..5 {
        world.business(&format!("b{n}"));
    }
    for (error_type, code) in [("INVALID_REQUEST", "INVALID_FIELD"), ("INVALID_INPUT", "INVALID_PROCESSOR")] {
        world.sandbox.fault(Fault::new("/processor/token/create", refusal(error_type, code)));
        for n in 0..5 {
            world.link(&format!("b{n}"), 1).await;
        }
        let paused = || async {
            let (_, pauses) = world.admin("GET", "/v1/pauses", None).await;
            !pauses.as_array().unwrap().is_empty()
        };
        assert!(holds(paused).await, "{code}: the provider is suspected");
        // Probes succeed meanwhile, for they mint nothing: it is paused again and again, and nobody is parked for it.
        for _ in 0..4 {
            let resumed = || async { !paused().await };
            assert!(holds(resumed).await && holds(paused).await, "{code}");
            assert!(world.parked().await.is_empty(), "{code}: {:?}", world.parked().await);
        }
        world.sandbox.heal();
        world.until_exact().await;
        world.until_quiet().await;
    }
}

async fn i4_what_nobody_understands_is_tried_again_and_shown(world: &World) {
    let item = world.link("acme", 1).await;
    world.until_exact().await;
    world.sandbox.fault(Fault::times("/accounts/get", 4, refusal("ITEM_ERROR", "A_CODE_OF_2031")));
    world.sync_item(&item).await;
    world.until_blocked("item", &item, "A_CODE_OF_2031").await;
    assert_ne!(world.verdict("/v1/businesses/acme").await["state"], "converged");
    world.until_state("/v1/businesses/acme", "converged").await;
}

async fn i8_one_item_not_found_takes_nothing_off(world: &World) {
    world.business("globex");
    let item = world.link("acme", 2).await;
    let other = world.link("globex", 1).await;
    world.until_exact().await;
    // Said once.
    world.sandbox.fault(Fault::times("/accounts/get", 1, refusal("ITEM_ERROR", "ITEM_NOT_FOUND")));
    world.sync_item(&item).await;
    world.until_blocked("item", &item, "item_not_found").await;
    assert_eq!(world.verdict("/v1/businesses/acme").await["state"], "converging");
    world.until_state("/v1/businesses/acme", "converged").await;
    assert_eq!(world.sandbox.listed_tokens("acme").len(), 2, "it came back, and nothing had left");
    // Said again, later: believed.
    world.sandbox.offboard(&item, false).await.unwrap();
    world.sync_item(&item).await;
    world.until_item(&item, "removed").await;
    world.until("its accounts left", || world.sandbox.listed_tokens("acme").is_empty()).await;
    // Said by a webhook as well: believed at once.
    world.sandbox.offboard(&other, false).await.unwrap();
    let error = json!({"error": {"error_type": "ITEM_ERROR", "error_code": "ITEM_NOT_FOUND"}});
    world.webhook(&other, "ERROR", &error);
    world.until("its account left", || world.sandbox.listed_tokens("globex").is_empty()).await;
}

/// The old token is dead, and of the new one Plaid says once that there is no such Item. What was said once counts once,
/// however often it is remembered.
async fn i8_one_item_not_found_under_the_new_token_takes_nothing_off(world: &World) {
    let item = world.link("acme", 2).await;
    world.until_exact().await;
    world.sandbox.fault(Fault::times("/accounts/get", 1, refusal("ITEM_ERROR", "ITEM_NOT_FOUND")));
    let doubted = async {
        world.until_blocked("item", &item, "item_not_found").await;
        assert_eq!(world.sandbox.listed_tokens("acme").len(), 2, "nothing leaves for it");
    };
    // The push waits for the second answer.
    tokio::join!(world.rotate(&item, Announce::Push), doubted);
    world.until_exact().await;
    world.until_item(&item, "active").await;
}

/// The user must log in before the mint can be asked for again: its time comes and goes, and nothing spins.
async fn i9_a_refused_mint_that_cannot_be_asked_for_waits(world: &World) {
    world.business("acme");
    world.sandbox.fault(Fault::new("/processor/token/create", refusal("ITEM_ERROR", "A_CODE_OF_2031")));
    let item = world.link_as("acme", 1, Announce::Push).await;
    world.until_state(&format!("/v1/items/{item}"), "refused").await;
    world.sandbox.heal();
    world.sandbox.fault(Fault::new("/accounts/get", refusal("ITEM_ERROR", "ITEM_LOGIN_REQUIRED")));
    // An operator's word sets the time of the mint to now, and the user's absence keeps it from being asked for.
    world.sync_item(&item).await;
    world.until_item(&item, "login_required").await;
    let before = world.sandbox.calls("/accounts/get");
    let looks = || world.sandbox.calls("/accounts/get") - before;
    // Long enough for hundreds of reconciliations.
    let began = std::time::Instant::now();
    world.until("some time passed", || began.elapsed() > std::time::Duration::from_millis(1500)).await;
    assert!(looks() <= 3, "{} looks at an Item whose user is away", looks());
    world.sandbox.heal();
    world.webhook(&item, "LOGIN_REPAIRED", &json!({}));
    world.until_exact().await;
}

/// `accounts-*.json` of the field: the odd one alone is left out or shown as it can be, and its sibling is listed.
async fn one_odd_field_costs_one_account(world: &World) {
    world.business("acme");
    let item = world.link_as("acme", 2, Announce::Silent).await;
    let ids = world.accounts(&item);
    let plain = |id: &str| json!({"account_id": id, "mask": "0001", "name": "Checking", "type": "depository", "subtype": "checking"});
    let with = |id: &str, field: &str, value: Value| {
        let mut account = plain(id);
        account[field] = value;
        account
    };
    let (a, b) = (plain(&ids[0]), |field: &str, value: Value| with(&ids[1], field, value));
    let answer = |accounts: Value| {
        json!({"accounts": accounts, "item": {"item_id": item, "error": null}, "request_id": "r"}).to_string()
    };
    let table = [
        ("a type that is null", answer(json!([a, b("type", Value::Null)])), 1),
        ("a type that is a number", answer(json!([a, b("type", json!(7))])), 1),
        ("a mask and a name that are numbers", answer(json!([a, with(&ids[1], "mask", json!(4321))])), 2),
        ("a NUL in the name", answer(json!([a, b("name", json!("Joint\u{0}Checking"))])), 2),
        ("a lone surrogate", answer(json!([a, b("name", json!("MARK"))])).replace("MARK", "Joint \\ud83d"), 2),
        ("one account twice", answer(json!([a, a, b("name", json!("x"))])), 2),
        (
            "empty persistent ids",
            answer(json!([with(&ids[0], "persistent_account_id", json!("")), b("persistent_account_id", json!(""))])),
            2,
        ),
        ("an id that is null", answer(json!([a, b("account_id", Value::Null)])), 2),
        ("an id that is an object", answer(json!([a, b("account_id", json!({}))])), 2),
        ("a subtype that is a list", answer(json!([a, b("subtype", json!(["x"]))])), 2),
        ("an account that is a text", answer(json!([a, "x", b("name", json!("x"))])), 2),
    ];
    let mut first = true;
    for (claim, body, listed) in table {
        world.sandbox.fault(Fault::new("/accounts/get", raw(body)));
        if std::mem::take(&mut first) {
            world.sandbox.announce(&item, Announce::Push).await.unwrap();
        } else {
            world.sync_item(&item).await;
        }
        world.until(claim, || world.sandbox.listed_tokens("acme").len() == listed).await;
        world.until_quiet().await;
        assert_eq!(world.sandbox.listed_tokens("acme").len(), listed, "{claim}");
        assert!(world.parked().await.is_empty(), "{claim}: {:?}", world.parked().await);
        if listed == 1 {
            let verdict = world.until_state("/v1/businesses/acme", "partly").await;
            let wrong = &verdict["wrong"][0];
            assert_eq!((&wrong["account_id"], &wrong["problem"]), (&json!(ids[1]), &json!("unreadable")), "{claim}");
        }
        world.sandbox.heal();
    }
    world.sync_item(&item).await;
    world.until_exact().await;
    // Left out on purpose, what nobody can read about it concerns nobody.
    world
        .sandbox
        .fault(Fault::new("/accounts/get", raw(answer(json!([plain(&ids[0]), with(&ids[1], "type", Value::Null)])))));
    world.sandbox.assign_account(&ids[1], None).unwrap();
    world.sandbox.push(&item, &json!({})).await.unwrap();
    world.until("it leaves", || world.sandbox.listed_tokens("acme").len() == 1).await;
    world.until_state("/v1/businesses/acme", "converged").await;
    world.sandbox.heal();
    world.sandbox.assign_account(&ids[1], Some("acme")).unwrap();
    world.sandbox.push(&item, &json!({"accounts": "all"})).await.unwrap();
    world.until_exact().await;
}

async fn i6_what_is_no_new_token_is_never_listed(world: &World) {
    world.business("acme");
    world.link("globex", 1).await;
    world.until_exact().await;
    let of_another = world.sandbox.listed_tokens("globex").remove(0);
    for token in ["", "has white space", &of_another] {
        let answer = json!({"processor_token": token, "request_id": "r"}).to_string();
        world.sandbox.fault(Fault::times("/processor/token/create", 2, raw(answer)));
        world.link("acme", 1).await;
        world.until_exact().await;
        assert!(!world.sandbox.listed_tokens("acme").iter().any(|t| t == token), "{token}");
    }
    world.until_quiet().await;
}

/// monetr#2645: update mode adds an account, and NEW_ACCOUNTS_AVAILABLE never comes.
async fn an_account_that_comes_with_the_first_transactions_is_listed(world: &World) {
    let item = world.link("acme", 1).await;
    world.until_exact().await;
    world.sandbox.add_account(&item, &NewAccount::checking("9999")).unwrap();
    world.sandbox.fire(&item, "TRANSACTIONS", "INITIAL_UPDATE", &json!({"new_transactions": 3})).unwrap();
    world.until_exact().await;
    assert_eq!(world.sandbox.listed_tokens("acme").len(), 2);
}

/// temple-stuart#1647: a new id, the same mask and type, and a name that the bank writes in another way.
async fn names_never_decide(world: &World) {
    let item = world.link("acme", 2).await;
    world.until_exact().await;
    let account = world.accounts(&item).remove(0);
    let renamed = world.sandbox.renumber_account(&account).unwrap();
    world.sandbox.rename_account(&renamed, "BROKERAGE ...2518").unwrap();
    world.sync_item(&item).await;
    world.until_exact().await;
    let shown = world.item(&item).await;
    let old =
        shown["accounts"].as_array().unwrap().iter().find(|a| a["account_id"] == account.as_str()).unwrap().clone();
    assert_eq!(old["proof"], "renumbered", "moved, not one gone and one new: {shown}");
}
