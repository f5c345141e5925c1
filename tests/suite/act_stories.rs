//! What operators do: each act is tried out first, refused where the row is another one by now, waited for, and audited.

use crate::api::{cli, text};
use sandbox::{Announce, Fault, FaultKind, SignedWebhook};
use serde_json::{Value, json};
use tests::{World, holds, metrics};

stories!(
    a_dry_run_says_what_would_be_sent_and_does_nothing on likely ending parked,
    i8_a_list_is_held_until_it_is_released on likely,
    i8_a_release_is_for_the_accounts_that_the_guard_named on likely in
        "[consumer]\nbackoff_first = \"1h\"\nbackoff_cap = \"1h\"\n",
    i8_an_unknown_token_is_kept_or_removed_for_good on likely,
    i6_every_token_is_minted_again on likely,
    an_account_is_moved_by_an_operator on likely,
    a_relinked_item_is_put_in_place_of_the_old_one_by_an_operator on likely,
    i4_a_replacement_ends_with_either_item on likely,
    i4_a_replacement_that_is_taken_back_on_its_way_does_not_happen on likely,
    a_provider_is_paused_and_resumed_by_a_person on likely,
    i1_a_webhook_that_never_came_is_told in
        "[consumer]\nsweep_period = \"1s\"\nmissed_webhook_after = \"0s\"\n[plaid]\nwebhook_url = \"https://hooks.example/plaid\"\n",
    what_nobody_could_read_is_told_until_somebody_has_looked,
    a_terminal_does_the_same on likely,
);

pub(crate) async fn get(world: &World, path: &str) -> Value {
    let (status, body) = world.admin("GET", path, None).await;
    assert_eq!(status, 200, "{path}: {body}");
    body
}

pub(crate) async fn post(world: &World, path: &str) -> (u16, Value) {
    world.admin("POST", path, None).await
}

/// A business with a token at Layer that nobody here knows: its fingerprint.
pub(crate) async fn with_stranger(world: &World, business: &str) -> String {
    world.business(business);
    world.sandbox.foreign_token(business, None).unwrap();
    world.link(business, 1).await;
    world.until_blocked("business", business, "unknown_tokens").await;
    let told = get(world, &format!("/v1/businesses/{business}/explain")).await;
    told["strangers"][0]["token"].as_str().unwrap().to_owned()
}

pub(crate) async fn actions(world: &World, subject: &str) -> Vec<String> {
    let audit = get(world, &format!("/v1/audit?subject={subject}")).await;
    audit["data"].as_array().unwrap().iter().map(|e| e["action"].as_str().unwrap().to_owned()).collect()
}

async fn a_dry_run_says_what_would_be_sent_and_does_nothing(world: &World) {
    let stranger = with_stranger(world, "acme").await;
    let before = actions(world, "business/acme").await;
    for act in ["parked/business/acme/release", &format!("businesses/acme/tokens/{stranger}/keep")] {
        let (status, would) = post(world, &format!("/v1/{act}?dry_run=true")).await;
        assert_eq!((status, &would["dry_run"]), (200, &json!(true)), "{would}");
        let list = &would["lists"][0];
        assert_eq!((&list["business_id"], &list["next_list"]["would"]), (&json!("acme"), &json!("put")), "{would}");
        assert_eq!(list["next_list"]["tokens"], 2, "ours and the stranger's: {would}");
    }
    let (_, would) = post(world, &format!("/v1/businesses/acme/tokens/{stranger}/remove?dry_run=true")).await;
    let next = &would["lists"][0]["next_list"];
    assert_eq!((&next["tokens"], &next["discarded"]), (&json!(1), &json!([stranger])), "{would}");
    assert_eq!(world.sandbox.listed_tokens("acme").len(), 1, "nothing was sent");
    assert_eq!(actions(world, "business/acme").await, before, "and nothing stands in the audit trail");
    let told = get(world, "/v1/businesses/acme/explain").await;
    assert_eq!((&told["strangers"][0]["word"], &told["blocked"]["by"]), (&json!(null), &json!("hold")));
    // What was decided on a version holds for that one.
    let version = told["version"].as_str().unwrap();
    let (status, refused) = post(world, "/v1/parked/business/acme/release?version=free.0").await;
    assert_eq!((status, &refused["error"]), (409, &json!("conflict")));
    let (status, done) = post(world, &format!("/v1/parked/business/acme/release?version={version}&timeout=20")).await;
    assert_eq!((status, &done["served"]), (200, &json!(true)), "it was waited for: {done}");
    assert_eq!(world.sandbox.listed_tokens("acme").len(), 2);
    let (status, _) = post(world, &format!("/v1/parked/business/acme/release?version={version}")).await;
    assert!(matches!(status, 404 | 409), "a double click does nothing more: {status}");
}

async fn i8_a_list_is_held_until_it_is_released(world: &World) {
    let item = world.link("acme", 1).await;
    world.until_exact().await;
    let (status, refused) = post(world, "/v1/businesses/acme/hold").await;
    assert!(status == 400 && refused["message"].as_str().unwrap().contains("reason"), "{refused}");
    assert_eq!(post(world, "/v1/businesses/acme/hold?reason=migration").await.0, 200);
    let puts = world.puts();
    world.rotate(&item, Announce::Push).await;
    world.until_blocked("business", "acme", "operator_hold").await;
    assert_eq!(world.puts(), puts, "nothing is sent");
    let told = get(world, "/v1/businesses/acme/explain").await;
    assert_eq!(told["kept_back"]["why"], "migration", "{told}");
    assert_eq!(told["next_list"]["would"], "hold");
    assert!(told["blocked"]["why"].as_str().unwrap().contains("migration"), "{told}");
    let (status, done) = post(world, "/v1/parked/business/acme/release?timeout=20").await;
    assert_eq!(status, 200, "{done}");
    world.until_exact().await;
    assert_eq!(get(world, "/v1/businesses/acme/explain").await["kept_back"], json!(null));
    assert_eq!(actions(world, "business/acme").await[..2], ["parked.release", "business.hold"]);
    // What is lost meanwhile is still the shrink guard's to see: a release of the hold is none of the guard.
    assert_eq!(post(world, "/v1/businesses/acme/hold?reason=again").await.0, 200);
    world.sandbox.fault(Fault { about: Some(item.clone()), ..Fault::new("/accounts/get", FaultKind::CutBefore) });
    world.lose_accounts(&world.accounts(&item)).await;
    world.sync_business("acme").await;
    world.until_blocked("business", "acme", "operator_hold").await;
    assert_eq!(post(world, "/v1/parked/business/acme/release?timeout=20").await.0, 200);
    world.until_blocked("business", "acme", "empty_list_guard").await;
    assert_eq!(world.sandbox.listed_tokens("acme").len(), 1, "nothing left the list");
    world.sandbox.heal();
    world.sync_item(&item).await;
    world.until_exact().await;
    world.until_state("/v1/businesses/acme", "converged").await;
    // What waits by itself has no guard's word that could be overruled, and gets no permit for later.
    world.sandbox.fault(Fault::new("GET /v1/businesses/{id}/plaid/accounts", FaultKind::CutBefore));
    world.sync_business("acme").await;
    let waits = || async { get(world, "/v1/businesses/acme/explain").await["blocked"]["by"] == "backoff" };
    assert!(holds(waits).await);
    let (status, refused) = post(world, "/v1/parked/business/acme/release").await;
    assert!(status == 409 && refused["message"].as_str().unwrap().contains("a sync looks now"), "{refused}");
    world.sandbox.heal();
    world.until_state("/v1/businesses/acme", "converged").await;
    // Held while nothing differs, it can be released as well.
    assert_eq!(post(world, "/v1/businesses/acme/hold?reason=again").await.0, 200);
    assert_eq!(post(world, "/v1/parked/business/acme/release").await.0, 202);
    assert_eq!(get(world, "/v1/businesses/acme/explain").await["kept_back"], json!(null));
}

async fn i8_a_release_is_for_the_accounts_that_the_guard_named(world: &World) {
    let item = world.link("acme", 4).await;
    world.until_exact().await;
    world.sandbox.fault(Fault { about: Some(item.clone()), ..Fault::new("/accounts/get", FaultKind::CutBefore) });
    let accounts = world.accounts(&item);
    world.lose_accounts(&accounts[..1]).await;
    world.sync_business("acme").await;
    world.until_blocked("business", "acme", "shrink_guard").await;
    // Released, it can't be sent: Layer is away, and so is another account when Layer is back.
    world.sandbox.fault(Fault::new("PUT /v1/businesses/{id}", FaultKind::CutBefore));
    assert_eq!(post(world, "/v1/parked/business/acme/release?timeout=20").await.0, 200);
    let told = get(world, "/v1/businesses/acme/explain").await;
    assert_eq!((&told["blocked"]["by"], &told["next_list"]["would"]), (&json!("backoff"), &json!("put")), "{told}");
    world.lose_accounts(&accounts[1..2]).await;
    assert_eq!(get(world, "/v1/businesses/acme/explain").await["next_list"]["would"], "hold", "nobody has seen that");
    world.sandbox.heal_call("PUT /v1/businesses/{id}");
    world.sync_business("acme").await;
    world.until_blocked("business", "acme", "shrink_guard").await;
    assert_eq!(world.sandbox.listed_tokens("acme").len(), 4, "nothing left the list");
    world.sandbox.heal();
    world.sync_item(&item).await;
    world.until_exact().await;
}

async fn i8_an_unknown_token_is_kept_or_removed_for_good(world: &World) {
    world.sandbox.switch(|s| s.layer_checks_tokens = false);
    let stranger = with_stranger(world, "acme").await;
    let path = |word: &str| format!("/v1/businesses/acme/tokens/{stranger}/{word}?timeout=20");
    let (status, _) = post(world, "/v1/businesses/acme/tokens/fp1_nobody/keep").await;
    assert_eq!(status, 404, "only what Layer shows can be decided on");
    let (status, done) = post(world, &path("keep")).await;
    assert_eq!(status, 200, "{done}");
    world.until("both are listed", || world.sandbox.listed_tokens("acme").len() == 2).await;
    // For good: the next rotation does not ask again.
    let item = world.sandbox.items().remove(0);
    world.rotate(&item, Announce::Push).await;
    world.until("the new token is listed", || world.sandbox.business_verdict("acme").dead.is_empty()).await;
    world.until_state("/v1/businesses/acme", "converged").await;
    assert_eq!(world.sandbox.listed_tokens("acme").len(), 2);
    assert_eq!(get(world, "/v1/businesses/acme/explain").await["strangers"][0]["word"], "keep");
    let (status, done) = post(world, &path("remove")).await;
    assert_eq!(status, 200, "{done}");
    world.until_exact().await;
    let audit = get(world, "/v1/audit?subject=business/acme").await;
    let entry = &audit["data"][0];
    assert_eq!((&entry["was"]["word"], &entry["became"]["word"]), (&json!("keep"), &json!("remove")), "{entry}");
    assert_eq!(post(world, &path("forget")).await.0, 200);
    assert_eq!(post(world, &path("forget")).await.0, 404, "there is nothing to take back");
    world.until_state("/v1/businesses/acme", "converged").await;
}

async fn i6_every_token_is_minted_again(world: &World) {
    let item = world.link("acme", 2).await;
    world.until_exact().await;
    let before = world.sandbox.listed_tokens("acme");
    let version = get(world, &format!("/v1/items/{item}/explain")).await["version"].as_str().unwrap().to_owned();
    world.sandbox.order_mints(&item).unwrap();
    let path = format!("/v1/items/{item}/mint?version={version}");
    assert_eq!(post(world, &path).await.0, 202);
    assert_eq!(post(world, &path).await.0, 409, "a double click does not mint twice");
    let is_new = || world.sandbox.listed_tokens("acme").iter().all(|token| !before.contains(token));
    world.until("both are new", is_new).await;
    world.until_exact().await;
    assert_eq!(world.sandbox.listed_tokens("acme").len(), 2);
    assert_eq!(world.sandbox.verdict().counts.mints, 4);
    world.until_state("/v1/businesses/acme", "converged").await;
    let (status, _) = post(world, "/v1/items/nobody/mint").await;
    assert_eq!(status, 404);
}

async fn a_provider_is_paused_and_resumed_by_a_person(world: &World) {
    let item = world.link("acme", 1).await;
    world.until_exact().await;
    assert_eq!(post(world, "/v1/providers/layer/pause").await.0, 400, "nobody would know why");
    assert_eq!(post(world, "/v1/providers/layer/resume").await.0, 404);
    let (status, paused) = post(world, "/v1/providers/layer/pause?reason=their%20maintenance").await;
    assert_eq!(status, 200, "{paused}");
    let pause = &paused[0];
    assert_eq!((&pause["reason"], &pause["next_probe_at"]), (&json!("their maintenance"), &json!(null)), "{pause}");
    assert!(pause["ordered_by"].is_string());
    let puts = world.puts();
    world.rotate(&item, Announce::Push).await;
    world.until("the token is minted", || world.sandbox.verdict().counts.mints == 2).await;
    world.until_state("/v1/businesses/acme", "provider_paused").await;
    // Layer answers all the while: a probe does not overrule a person.
    assert_eq!(post(world, "/v1/providers/layer/probe").await.0, 404);
    let mut tx = world.store().begin().await.unwrap();
    assert!(!tx.resume_by_probe(domain::Provider::Layer).await.unwrap(), "nor does one that was on its way");
    tx.rollback().await.unwrap();
    assert_eq!(world.puts(), puts);
    assert!(get(world, "/v1/status").await["sentence"].as_str().unwrap().contains("paused: layer"));
    let (status, paused) = post(world, "/v1/providers/layer/resume?reason=over").await;
    assert_eq!((status, paused), (200, json!([])));
    world.until_exact().await;
    assert_eq!(actions(world, "provider/layer").await, ["provider.resume", "provider.pause"]);
}

async fn i1_a_webhook_that_never_came_is_told(world: &World) {
    let item = world.link("acme", 1).await;
    world.until_exact().await;
    world.webhook(&item, "LOGIN_REPAIRED", &json!({}));
    let of_item = || async { get(world, &format!("/v1/items/{item}/explain")).await["at_plaid"].clone() };
    let heard = || async { of_item().await["last_heard"] == "ITEM/LOGIN_REPAIRED" };
    assert!(holds(heard).await, "{}", of_item().await);
    let is_known = || async { of_item().await["last_sent"] == "LOGIN_REPAIRED" };
    assert!(holds(is_known).await, "the sweep asks: {}", of_item().await);
    let at = of_item().await;
    assert_eq!((&at["missed"], &at["elsewhere"]), (&json!(false), &json!(true)), "{at}");
    assert_eq!(get(world, "/v1/webhooks/missed").await["data"], json!([]));
    assert_eq!(get(world, "/v1/webhooks/elsewhere").await["data"][0]["item_id"], item.as_str());

    world.sandbox.lose_webhook(&item, "USER_PERMISSION_REVOKED").unwrap();
    let missed = || async { get(world, "/v1/webhooks/missed").await["data"].clone() };
    let is_told = || async { missed().await[0]["last_sent"] == "USER_PERMISSION_REVOKED" };
    assert!(holds(is_told).await, "{}", missed().await);
    assert_eq!(get(world, "/v1/status").await["missed_webhooks"], 1);
    let ops = world.rekey().ops;
    let shows = || async {
        metrics::total(&metrics::read(&metrics::scrape(ops).await), "rekey_missed_webhooks", &[]) == Some(1.0)
    };
    assert!(holds(shows).await);
    let path = format!("/v1/items/{item}/acknowledge?reason=a%20proxy");
    assert_eq!(post(world, &path).await.0, 202);
    assert_eq!((missed().await, post(world, &path).await.0), (json!([]), 404));
    // The next one that comes is heard, and nothing is missed.
    world.webhook(&item, "LOGIN_REPAIRED", &json!({}));
    assert!(holds(is_known).await, "{}", of_item().await);
    assert_eq!(missed().await, json!([]));

    world.sandbox.end_consent(&item, 7).unwrap();
    let ends = || async { get(world, "/v1/consents").await["data"][0]["item_id"] == item.as_str() };
    assert!(holds(ends).await);
    let topic = world.local.config("").unwrap().kafka.topics.outcomes;
    let ends = |d: &bus::Delivery| d.event.as_ref().is_ok_and(|e| e.kind == "rekey.item.access_ends");
    let told = world.read_topic(&topic, bus::schema::OUTCOME, |seen| seen.iter().any(ends)).await;
    assert_eq!(told.iter().filter(|d| ends(d)).count(), 1, "said once");
    world.sandbox.end_consent(&item, 365).unwrap();
    let over = || async { get(world, "/v1/consents").await["data"] == json!([]) };
    assert!(holds(over).await);
}

async fn what_nobody_could_read_is_told_until_somebody_has_looked(world: &World) {
    let item = world.link("acme", 1).await;
    world.until_exact().await;
    let letters = || async { get(world, "/v1/dead-letters").await["data"].as_array().unwrap().clone() };
    assert_eq!(letters().await.len(), 0);
    // A webhook that is none, signed all the same; and a notice that is none.
    let SignedWebhook { body, header } = world.sandbox.sign(b"[\"marked-secret\"]");
    let request = reqwest::Client::new().post(world.receiver_url()).header("plaid-verification", header).body(body);
    assert_eq!(request.send().await.unwrap().status(), 200);
    let topics = world.local.config("").unwrap().kafka.topics;
    let event = bus::Event {
        id: "1".into(),
        kind: "rekey.notice".into(),
        source: "/platform".into(),
        subject: None,
        time: "2026-11-21T00:00:00Z".parse().unwrap(),
        schema: bus::schema::NOTICE.into(),
        traceparent: None,
        data: b"marked-secret".to_vec(),
    };
    world.producer().publish(&topics.notices, None, &event).await.unwrap();
    // Somebody else's record among the dead letters, with what a database does not take, keeps nothing waiting.
    let data = json!({"from": "us\u{0}", "reason": "r", "bytes": 1, "sha256": "s"}).to_string().into_bytes();
    let schema = bus::schema::DEAD_LETTER.to_owned();
    let odd = bus::Event { id: "odd".into(), schema, data, ..event };
    world.producer().publish(&topics.dead_letters, None, &odd).await.unwrap();
    assert!(holds(|| async { letters().await.len() == 2 }).await, "{:?}", letters().await);
    let told = letters().await;
    let from = |who: &str| told.iter().find(|l| l["from"] == who).unwrap().clone();
    assert_eq!((&from("receiver")["topic"], &from("intake")["topic"]), (&json!(null), &json!(topics.notices)));
    assert!(!json!(told).to_string().contains("marked-secret"), "never what it holds: {told:?}");
    assert_eq!(get(world, "/v1/status").await["dead_letters"], 2);
    for letter in &told {
        let path = format!("/v1/dead-letters/{}/dismiss?reason=mended", letter["id"].as_str().unwrap());
        assert_eq!((post(world, &path).await.0, post(world, &path).await.0), (204, 404));
    }
    assert_eq!(letters().await.len(), 0);
    world.rotate(&item, Announce::Push).await;
}

async fn a_terminal_does_the_same(world: &World) {
    let item = world.link("acme", 1).await;
    world.until_exact().await;
    let run = |arguments: &[&str], code: i32| {
        let output = tokio::task::block_in_place(|| cli(world, arguments, None));
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", text(&output));
        text(&output)
    };
    let told = run(&["item", "remove", &item, "--dry-run"], 0);
    assert!(told.contains("removed ") && told.contains("nothing was done"), "{told}");
    assert!(run(&["business", "hold", "acme", "--reason", "audit"], 0).contains("until somebody releases it"));
    assert!(run(&["explain", "acme"], 0).contains("Held by an operator"));
    assert!(run(&["business", "holds"], 0).contains("audit"));
    assert!(run(&["status"], 0).contains("rekey business holds"), "although its list is right");
    assert!(run(&["business", "hold", "acme"], 2).contains("--reason <REASON>"), "it is required");
    let told = run(&["parked", "release", "business", "acme", "--wait"], 0);
    assert!(told.contains("converged"), "{told}");
    run(&["parked", "release"], 2);
    assert!(run(&["parked", "release", "--all", "shrink_guard"], 3).contains("nothing is kept"));
    assert!(run(&["parked", "release", "--all", "shrink_guard", "--dry-run"], 0).contains("0 rows"));
    assert!(run(&["batch", "cancel", "none"], 3).contains("rekey batch list"));
    world.sandbox.order_mints(&item).unwrap();
    run(&["item", "mint", &item, "--wait", "--reason", "Layer reads nothing"], 0);
    world.until("it was minted again", || world.sandbox.verdict().counts.mints == 2).await;
    world.until_exact().await;
    world.until_state("/v1/businesses/acme", "converged").await;
    run(&["provider", "pause", "plaid", "--reason", "test"], 0);
    assert!(run(&["pauses"], 0).contains("rekey provider resume plaid"));
    run(&["provider", "resume", "plaid"], 0);
    assert!(run(&["provider", "resume", "plaid"], 3).contains("plaid is not paused"));
    assert!(
        run(&["provider", "pause", "--help"], 0).contains("Usage: rekey provider pause [OPTIONS] --reason <REASON>")
    );
    for list in [&["dead-letters", "ls"][..], &["item", "missed"], &["item", "elsewhere"], &["item", "consents"]] {
        run(list, 0);
    }
    assert!(run(&["plan", "acme"], 0).contains("nothing would be sent"));
    assert!(run(&["plan"], 0).contains("1 business: 1 needs nothing"));
    run(&["plan", &item], 1);
    assert!(run(&["item", "list", "--business", "acme"], 0).contains(&item));
    assert!(!run(&["item", "list", "--state", "parked"], 0).contains(&item));
    assert!(run(&["audit", "--since", "1h"], 0).contains("business.hold"));
    assert!(!run(&["audit", "--since", "2100-01-01T00:00:00Z"], 0).contains("business.hold"));
    assert!(run(&["history", "acme", "--since", "1h"], 0).contains("business.hold"));
    assert!(run(&["completions", "bash"], 0).contains("rekey"));
    let manual = tempfile::tempdir().unwrap();
    run(&["man", &manual.path().display().to_string()], 0);
    assert!(manual.path().join("rekey-item-mint.1").exists());
    let output = tokio::task::block_in_place(|| {
        std::process::Command::new(tests::process::binary())
            .args(["--json", "status"])
            .env("REKEY_ADMIN__URL", "http://127.0.0.1:9")
            .env("REKEY_ADMIN__TOKEN", "nobody")
            .output()
            .unwrap()
    });
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(said["message"].as_str().unwrap().contains("does not answer"), "{said}");
}

fn refused_mints() -> Fault {
    let (error_type, error_code) = ("ITEM_ERROR".into(), "PRODUCTS_NOT_SUPPORTED".into());
    let answer = FaultKind::Answer { status: 400, error_type, error_code, retry_after: None };
    Fault::new("/processor/token/create", answer)
}

/// Where the sandbox says that an account belongs, as the platform's own books do once its operator has moved it.
async fn an_account_is_moved_by_an_operator(world: &World) {
    let item = world.link("acme", 2).await;
    world.link("globex", 1).await;
    world.until_exact().await;
    for business in ["acme", "globex"] {
        world.until_state(&format!("/v1/businesses/{business}"), "converged").await;
    }
    let account = world.accounts(&item)[0].clone();
    let path = |account: &str, to: &str| format!("/v1/items/{item}/accounts/{account}/move/{to}");
    let (status, would) = post(world, &format!("{}?dry_run=true", path(&account, "globex"))).await;
    assert_eq!(status, 200, "{would}");
    let of = |n: usize| (&would["lists"][n]["business_id"], &would["lists"][n]["next_list"]);
    let ((from, left), (to, entered)) = (of(0), of(1));
    assert_eq!((from, to), (&json!("acme"), &json!("globex")));
    assert_eq!((&left["removed"], &left["tokens"]), (&json!([account]), &json!(1)), "{would}");
    assert_eq!((&entered["added"], &entered["tokens"]), (&json!([account]), &json!(2)), "{would}");
    assert_eq!(world.puts(), 2, "nothing was sent");
    // Nor does a list that can't be sent: the account would be in none.
    assert_eq!(post(world, "/v1/businesses/globex/hold?reason=audit").await.0, 200);
    let (status, refused) = post(world, &path(&account, "globex")).await;
    assert!(status == 409 && refused["message"].as_str().unwrap().contains("audit"), "{refused}");
    assert_eq!(post(world, "/v1/parked/business/globex/release").await.0, 202);
    world.until_quiet().await;
    // A name that is mistyped takes nothing off a list.
    for (account, to, refused) in [(&*account, "glbex", 409), (&*account, "acme", 409), ("nobody", "globex", 404)] {
        let (status, why) = post(world, &path(account, to)).await;
        assert_eq!(status, refused, "{to}: {why}");
    }
    world.sandbox.assign_account(&account, Some("globex")).unwrap();
    let moved = tokio::task::block_in_place(|| {
        cli(world, &["item", "move", &item, &account, "--to", "globex", "--reason", "sold", "--wait"], None)
    });
    assert!(moved.status.success(), "{}", text(&moved));
    world.until_exact().await;
    assert_eq!(world.sandbox.listed_tokens("globex").len(), 2);
    assert_eq!(actions(world, &format!("item/{item}")).await[0], "item.move");
    // Not until the next token, but for good.
    world.rotate(&item, Announce::Push).await;
    world.until_exact().await;
}

async fn a_relinked_item_is_put_in_place_of_the_old_one_by_an_operator(world: &World) {
    let old = world.link("acme", 2).await;
    world.until_exact().await;
    // The user links the same bank again, and the platform pushes it as if it were another one: each account is listed twice.
    let new = world.link("acme", 3).await;
    let stray = world.link("attic", 2).await;
    world.until_exact().await;
    for business in ["acme", "attic"] {
        world.until_state(&format!("/v1/businesses/{business}"), "converged").await;
    }
    assert_eq!(world.sandbox.listed_tokens("acme").len(), 5);
    let path = format!("/v1/items/{old}/replace/{new}");
    let (status, would) = post(world, &format!("{path}?dry_run=true")).await;
    assert_eq!(status, 200, "{would}");
    assert_eq!((would["matched"].as_array().unwrap().len(), &would["unmatched"]), (2, &json!([])), "{would}");
    assert_eq!(would["matched"][0]["by"], "institution_mask_type", "{would}");
    let list = &would["lists"][0];
    assert_eq!((&list["business_id"], &list["next_list"]["tokens"]), (&json!("acme"), &json!(3)), "{would}");
    assert_eq!(list["next_list"]["removed"].as_array().unwrap().len(), 2, "{would}");
    for (heir, refused) in [(&*old, 400), ("nobody", 404), (&*stray, 409)] {
        let (status, why) = post(world, &format!("/v1/items/{old}/replace/{heir}")).await;
        assert_eq!(status, refused, "{why}");
    }
    // While the heir can't mint, the order is pending: it is told, refuses others about either, and can be taken back.
    world.sandbox.fault(refused_mints());
    assert_eq!(post(world, &format!("/v1/items/{new}/mint")).await.0, 202);
    world.until_state(&format!("/v1/items/{new}"), "refused").await;
    let (status, pending) = post(world, &format!("{path}?timeout=1")).await;
    assert_eq!((status, &pending["served"]), (202, &json!(false)), "nothing was replaced: {pending}");
    let told = get(world, &format!("/v1/items/{old}/explain")).await;
    assert_eq!((&told["heirs"], &told["state"]), (&json!([new]), &json!("active")), "{told}");
    assert_eq!(get(world, &format!("/v1/items/{new}")).await["replaces"], json!(old));
    let third = world.link("acme", 2).await;
    for (one, other) in [(&new, &old), (&old, &third), (&third, &old), (&third, &new)] {
        let (status, why) = post(world, &format!("/v1/items/{one}/replace/{other}")).await;
        assert_eq!(status, 409, "{why}");
    }
    assert_eq!(world.admin("DELETE", &path, None).await.0, 202);
    assert_eq!(world.admin("DELETE", &path, None).await.0, 404);
    assert_eq!(get(world, &format!("/v1/items/{old}/explain")).await["heirs"], json!([]));
    world.sandbox.heal();
    world.sandbox.order_mints(&new).unwrap();
    world.sync_item(&new).await;
    world.until_exact().await;
    // Removed, it takes no order along: a push long after is an ordinary one.
    assert_eq!(post(world, &format!("/v1/items/{old}/replace/{third}?dry_run=true")).await.0, 200);
    let puts = world.puts();
    world.sandbox.offboard(&old, false).await.unwrap();
    let done = tokio::task::block_in_place(|| {
        cli(world, &["item", "replace", &old, "--by", &new, "--reason", "linked again", "--wait"], None)
    });
    assert!(done.status.success(), "{}", text(&done));
    let replaced = || async { world.item(&old).await["state"] == "removed" };
    assert!(holds(replaced).await, "{}", world.item(&new).await);
    world.until_exact().await;
    assert_eq!((world.sandbox.listed_tokens("acme").len(), world.puts() - puts), (5, 1), "in one list");
    assert_eq!(actions(world, &format!("item/{old}")).await[..2], ["item.replaced", "item.replace"]);
    assert!(actions(world, &format!("item/{new}")).await.contains(&"item.replace".to_owned()));
    // An erasure finds accounts by their key, and in the entries of their own Item.
    let audit = get(world, &format!("/v1/audit?subject=item/{old}")).await;
    let entry = audit["data"].as_array().unwrap().iter().find(|e| e["action"] == "item.replace").unwrap();
    let named: Vec<Value> = world.accounts(&old).iter().map(|id| json!({"account_id": id})).collect();
    let matched = entry["became"]["matched"].as_array().unwrap();
    assert!(matched.len() == 2 && matched.iter().all(|m| named.contains(m)), "{entry}");
    assert!(world.accounts(&new).iter().all(|id| !entry.to_string().contains(id)), "{entry}");
    let (status, refused) = post(world, &path).await;
    assert_eq!(status, 409, "{refused}");
}

async fn i4_a_replacement_ends_with_either_item(world: &World) {
    let old = world.link("acme", 2).await;
    let new = world.link("acme", 1).await;
    world.until_exact().await;
    world.sandbox.fault(refused_mints());
    assert_eq!(post(world, &format!("/v1/items/{new}/mint")).await.0, 202);
    world.until_state(&format!("/v1/items/{new}"), "refused").await;
    assert_eq!(post(world, &format!("/v1/items/{old}/replace/{new}")).await.0, 202);
    // Given up: the platform removes the new one, and links it again much later, as an Item like any other.
    world.sandbox.heal();
    let token = world.sandbox.push_body(&new, &json!({"business": "acme"})).unwrap();
    let (status, _) = world.admin("DELETE", &format!("/v1/items/{new}"), None).await;
    assert_eq!(status, 202);
    world.until_quiet().await;
    // The sandbox's platform still holds it: it was removed here alone.
    world.sandbox.forgive(0);
    world.sandbox.order_mints(&new).unwrap();
    let (status, body) = world.admin("PUT", &format!("/v1/items/{new}?wait=converged&timeout=20"), Some(&token)).await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(world.item(&old).await["state"], "active", "nobody ordered that any more");
    world.until_exact().await;
    assert_eq!(world.sandbox.listed_tokens("acme").len(), 3);
}

async fn i4_a_replacement_that_is_taken_back_on_its_way_does_not_happen(world: &World) {
    let old = world.link("acme", 1).await;
    let new = world.link("acme", 1).await;
    world.until_exact().await;
    world.until_quiet().await;
    let path = format!("/v1/items/{old}/replace/{new}");
    const READ: &str = "/accounts/get";
    world.sandbox.fault(Fault::new(READ, FaultKind::Hang));
    assert_eq!(post(world, &path).await.0, 202);
    // The reconciliation knows the order, and is about to carry it out.
    assert!(holds(|| async { world.sandbox.hung(READ) > 0 }).await);
    assert_eq!(world.admin("DELETE", &path, None).await.0, 202);
    world.sandbox.heal();
    world.until_exact().await;
    world.until_quiet().await;
    assert_eq!(world.item(&old).await["state"], "active", "it was taken back");
    assert_eq!(world.sandbox.listed_tokens("acme").len(), 2);
}
