//! Providers that fail, throttle and refuse.

use domain::Role;
use sandbox::{Announce, Fault, FaultKind};
use serde_json::{Value, json};
use sqlx::Connection;
use std::time::{Duration, Instant};
use tests::{Parts, World, holds};

stories!(
    i4_refused_credentials_pause_the_provider_and_park_nothing,
    i4_one_row_and_a_refused_probe_pause_the_provider,
    i4_one_refused_item_is_parked_alone,
    i4_several_rows_that_agree_pause_the_provider in "[consumer]\nprobe_interval = \"2s\"\n",
    i4_layer_refusing_everybody_pauses_and_resumes,
    retry_after_is_honoured,
    server_errors_are_waited_out,
    a_bearer_token_revoked_early_costs_one_retry,
    i7_a_lost_put_answer_is_found_by_listing on likely,
    i11_a_word_nobody_knows_costs_one_row,
);

on_both_parts!(two_consumers_share_the_work,);

/// A row whose sealed token was changed behind Rekey's back can't be opened: it alone waits for a person.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i4_a_row_that_cannot_be_read_is_parked_alone() {
    let world = World::start(Parts::Embedded, "").await;
    let (broken, sound) = (world.link("acme", 1).await, world.link("acme", 1).await);
    world.until_exact().await;
    let mut database = sqlx::AnyConnection::connect(&world.local.environment["REKEY_DATABASE__URL"]).await.unwrap();
    let swap =
        "UPDATE access_tokens SET sealed = (SELECT sealed FROM access_tokens WHERE item_id = $1) WHERE item_id = $2";
    sqlx::query(swap).bind(sound.clone()).bind(broken.clone()).execute(&mut database).await.unwrap();
    world.sync_item(&broken).await;
    world.until_blocked("item", &broken, "unreadable_row").await;
    let topic = world.local.config("").unwrap().kafka.topics.outcomes;
    let is_told = |seen: &[bus::Delivery]| {
        let parked = seen.iter().filter_map(|d| d.event.as_ref().ok()).filter(|e| e.kind == "rekey.parked");
        let told: Vec<Value> = parked.filter_map(|e| serde_json::from_slice(&e.data).ok()).collect();
        told.iter()
            .any(|t| t["item_id"] == broken.as_str() && t["business_id"] == "acme" && t["code"] == "unreadable_row")
    };
    world.read_topic(&topic, bus::schema::OUTCOME, is_told).await;
    world.rotate(&sound, Announce::Push).await;
    world.until_exact().await;
    // A push brings a token that can be read.
    world.rotate(&broken, Announce::Push).await;
    world.end().await;
}

/// A word that this release does not know, as a newer one leaves it before a rollback.
async fn i11_a_word_nobody_knows_costs_one_row(world: &World) {
    let (odd, sound) = (world.link("acme", 1).await, world.link("acme", 1).await);
    world.until_exact().await;
    sqlx::any::install_default_drivers();
    let mut database = sqlx::AnyConnection::connect(&world.local.environment["REKEY_DATABASE__URL"]).await.unwrap();
    for sql in [
        "UPDATE work SET blocked_by = 'postponed' WHERE kind = 'item' AND id = $1",
        "UPDATE verdicts SET state = 'postponed', waits_on = 'somebody', told = 'postponed' WHERE kind = 'item' AND id = $1",
    ] {
        sqlx::query(sql).bind(odd.clone()).execute(&mut database).await.unwrap();
    }
    drop(database.close().await);
    for path in ["/v1/items", "/v1/businesses", "/v1/businesses/acme", &format!("/v1/items/{sound}")] {
        let (status, body) = world.admin("GET", path, None).await;
        assert_eq!(status, 200, "{path}: {body}");
    }
    let verdict = world.verdict(&format!("/v1/items/{odd}")).await;
    assert_eq!((&verdict["state"], &verdict["next"]), (&json!("parked"), &json!("operator")), "{verdict}");
    let (status, body) = world.admin("POST", &format!("/v1/parked/item/{odd}/release"), None).await;
    assert_eq!(status, 202, "{body}");
    world.until_state(&format!("/v1/items/{odd}"), "converged").await;
}

/// A provider that can't be reached at the start: not ready, and ready by itself when it can.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreachable_provider_keeps_the_process_unready() {
    let mut world = World::without_rekey(Parts::Embedded, "").await;
    world.sandbox.fault(Fault::new("GET /whoami", FaultKind::CutBefore));
    let running = world.local.start(Role::ALL_IN_ONE, "").await.unwrap();
    let readyz = format!("http://{}/readyz", running.ops);
    let says = |status: u16, word: &'static str| {
        let readyz = readyz.clone();
        move || {
            let readyz = readyz.clone();
            async move {
                let Ok(answer) = reqwest::get(readyz).await else { return false };
                answer.status() == status && answer.text().await.is_ok_and(|t| t.contains(word))
            }
        }
    };
    assert!(tests::holds(says(503, "layer: Layer's GET /whoami did not answer")).await);
    world.sandbox.heal();
    assert!(tests::holds(says(200, "layer: ready")).await);
    world.rekeys.push(running);
    world.link("acme", 1).await;
    world.end().await;
}

fn answer(call: &str, status: u16, error_type: &str, error_code: &str) -> Fault {
    Fault::new(
        call,
        FaultKind::Answer { status, error_type: error_type.into(), error_code: error_code.into(), retry_after: None },
    )
}

async fn i4_refused_credentials_pause_the_provider_and_park_nothing(world: &World) {
    for n in 0..5 {
        world.business(&format!("b{n}"));
    }
    for call in ["/item/get", "/accounts/get", "/webhook_verification_key/get", "/processor/token/create"] {
        world.sandbox.fault(answer(call, 400, "INVALID_INPUT", "INVALID_API_KEYS"));
    }
    for n in 0..5 {
        // Nobody waits for the answer: 202 is as good as it gets.
        let item = world.link_as(&format!("b{n}"), 1, Announce::Silent).await;
        let path = format!("/v1/items/{item}?timeout=0");
        let body = world.sandbox.push_body(&item, &json!({})).unwrap();
        assert_eq!(world.admin("PUT", &path, Some(&body)).await.0, 202);
    }
    let paused = || async { world.admin("GET", "/v1/pauses", None).await.1[0]["provider"] == "plaid" };
    assert!(tests::holds(paused).await);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(world.parked().await.is_empty(), "I4: {:?}", world.parked().await);
    world.sandbox.heal();
    world.until_exact().await;
    assert_eq!(world.admin("GET", "/v1/pauses", None).await.1, json!([]));
}

async fn i4_one_row_and_a_refused_probe_pause_the_provider(world: &World) {
    world.business("acme");
    for call in ["/accounts/get", "/webhook_verification_key/get"] {
        world.sandbox.fault(answer(call, 400, "INVALID_INPUT", "INVALID_API_KEYS"));
    }
    let item = world.link_as("acme", 1, Announce::Silent).await;
    let body = world.sandbox.push_body(&item, &json!({})).unwrap();
    assert_eq!(world.admin("PUT", &format!("/v1/items/{item}?timeout=0"), Some(&body)).await.0, 202);
    let paused = || async { world.admin("GET", "/v1/pauses", None).await.1[0]["provider"] == "plaid" };
    assert!(tests::holds(paused).await, "I4: nobody else had to be refused for it");
    assert!(world.parked().await.is_empty(), "I4: {:?}", world.parked().await);
    world.sandbox.heal();
    world.until_exact().await;
}

async fn i4_one_refused_item_is_parked_alone(world: &World) {
    world.business("acme");
    world.business("globex");
    let broken = world.link_as("acme", 1, Announce::Silent).await;
    let fault = answer("/accounts/get", 400, "INVALID_INPUT", "INVALID_PRODUCT");
    world.sandbox.fault(Fault { about: Some(broken.clone()), ..fault });
    let body = world.sandbox.push_body(&broken, &json!({})).unwrap();
    world.admin("PUT", &format!("/v1/items/{broken}?timeout=0"), Some(&body)).await;
    world.until_blocked("item", &broken, "INVALID_PRODUCT").await;
    // Not at the first refusal: a credential may have been replaced just then.
    let parked = || async { world.parked().await.len() == 1 };
    assert!(holds(parked).await);
    world.link("globex", 2).await;
    world.until("the others go on", || world.sandbox.business_verdict("globex").exact).await;
    assert_eq!(world.admin("GET", "/v1/pauses", None).await.1, json!([]), "I4: one Item never pauses the fleet");
    assert_eq!(world.parked().await.len(), 1);
    world.sandbox.heal();
    world.admin("POST", &format!("/v1/parked/item/{broken}/release"), None).await;
    world.until_exact().await;
}

async fn i4_several_rows_that_agree_pause_the_provider(world: &World) {
    // The integration is not enabled in Plaid's dashboard: a probe can't see that, the rows can.
    world.sandbox.fault(answer("/processor/token/create", 400, "INVALID_INPUT", "INVALID_PRODUCT"));
    for n in 0..4 {
        world.business(&format!("b{n}"));
        // Nobody waits for the answer: during the pause there is none.
        let item = world.link_as(&format!("b{n}"), 1, Announce::Silent).await;
        let body = world.sandbox.push_body(&item, &json!({})).unwrap();
        world.admin("PUT", &format!("/v1/items/{item}?timeout=0"), Some(&body)).await;
    }
    let paused = || async { world.admin("GET", "/v1/pauses", None).await.1[0]["provider"] == "plaid" };
    assert!(tests::holds(paused).await);
    world.sandbox.heal();
    world.until_exact().await;
}

async fn i4_layer_refusing_everybody_pauses_and_resumes(world: &World) {
    let calls =
        ["GET /v1/businesses", "GET /v1/businesses/{id}/plaid/accounts", "PUT /v1/businesses/{id}", "GET /whoami"];
    for call in calls {
        world.sandbox.fault(answer(call, 403, "Auth", "Forbidden"));
    }
    for n in 0..4 {
        world.business(&format!("b{n}"));
        world.link(&format!("b{n}"), 1).await;
    }
    let paused = || async { world.admin("GET", "/v1/pauses", None).await.1[0]["provider"] == "layer" };
    assert!(tests::holds(paused).await);
    assert!(world.parked().await.is_empty());
    world.sandbox.heal();
    world.until_exact().await;
}

async fn retry_after_is_honoured(world: &World) {
    let item = world.link("acme", 1).await;
    world.until_exact().await;
    let limited = FaultKind::Answer {
        status: 429,
        error_type: "RATE_LIMIT_EXCEEDED".into(),
        error_code: "ACCOUNTS_LIMIT".into(),
        retry_after: Some(2),
    };
    world.sandbox.fault(Fault::times("/accounts/get", 1, limited));
    let calls = world.sandbox.calls("/accounts/get");
    let began = Instant::now();
    world.sync_item(&item).await;
    world.until("it was tried again", || world.sandbox.calls("/accounts/get") >= calls + 2).await;
    assert!(began.elapsed() >= Duration::from_secs(2), "tried again after {:?}", began.elapsed());
}

async fn server_errors_are_waited_out(world: &World) {
    world.business("acme");
    for (call, kind) in [
        ("/accounts/get", FaultKind::CutBefore),
        ("/processor/token/create", FaultKind::CutBefore),
        ("GET /v1/businesses", FaultKind::LoseAnswer),
        ("PUT /v1/businesses/{id}", FaultKind::CutBefore),
    ] {
        world.sandbox.fault(Fault::times(call, 2, kind));
    }
    for call in ["/accounts/get", "GET /v1/businesses/{id}/plaid/accounts", "PUT /v1/businesses/{id}"] {
        world.sandbox.fault(Fault { times: Some(2), ..answer(call, 503, "API_ERROR", "PLANNED_MAINTENANCE") });
    }
    world.link("acme", 2).await;
    world.until_exact().await;
}

async fn a_bearer_token_revoked_early_costs_one_retry(world: &World) {
    let item = world.link("acme", 1).await;
    world.until_exact().await;
    world.sandbox.revoke_bearers();
    world.rotate(&item, Announce::Push).await;
    world.until_exact().await;
    let body = world.business_at("acme").await;
    assert_eq!(body["work"]["failures_in_a_row"], 0);
}

async fn i7_a_lost_put_answer_is_found_by_listing(world: &World) {
    let item = world.link("acme", 1).await;
    world.until_exact().await;
    world.sandbox.fault(Fault::times("PUT /v1/businesses/{id}", 1, FaultKind::LoseAnswer));
    let puts = world.puts();
    world.rotate(&item, Announce::Push).await;
    world.until_exact().await;
    assert_eq!(world.puts() - puts, 1, "the list shows that it was applied, so no second PUT");
    // The change has its outcome all the same: one for the link, one for the rotation.
    let topics = world.local.config("").unwrap().kafka.topics;
    let both = |seen: &[bus::Delivery]| {
        let converged = |d: &&bus::Delivery| d.event.as_ref().is_ok_and(|e| e.kind == "rekey.business.list_accepted");
        seen.iter().filter(converged).count() == 2
    };
    world.read_topic(&topics.outcomes, bus::schema::OUTCOME, both).await;
}

async fn two_consumers_share_the_work(parts: Parts) {
    let mut world = World::start(parts, "").await;
    world.start_rekey(&[Role::Consumer], "").await;
    let mut items = Vec::new();
    for n in 0..6 {
        world.business(&format!("b{n}"));
        items.push(world.link(&format!("b{n}"), 2).await);
        items.push(world.link(&format!("b{n}"), 1).await);
    }
    for item in &items {
        world.rotate(item, Announce::Push).await;
    }
    world.until_exact().await;
    // I6 is judged at the end: a lease lost on a slow machine costs a mint, and leaves an orphan in the ledger.
    world.end().await;
}
