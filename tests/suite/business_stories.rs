//! The list at Layer: guards, strangers, creation, drift.

use domain::Role;
use sandbox::{Announce, BadToken, Fault, FaultKind, NewBusiness};
use serde_json::{Value, json};
use tests::{Parts, World, holds};

stories!(
    i8_an_unknown_token_holds_until_an_operator_decides on likely ending parked,
    i8_unknown_tokens_are_kept_when_told_so on likely ending parked in "[layer]\nunknown_tokens = \"keep\"\n",
    i8_a_foreign_token_of_our_account_is_replaced,
    i8_another_writer_at_work_holds_the_business on likely ending parked in "[layer]\ntimeout = \"20s\"\n[consumer]\nlease = \"60s\"\n",
    i8_accounts_that_layer_connected_itself_are_not_touched on likely,
    i8_removals_over_the_whole_fleet_are_held in "[layer]\nmax_fleet_removals = 2\n",
    i8_a_list_that_layer_refuses_is_parked_once,
    i7_a_put_that_was_not_answered_is_looked_after_once_it_can_no_longer_arrive,
    i4_a_business_that_layer_forgets_for_a_moment_is_asked_for_again,
    i4_a_refused_creation_is_tried_again_with_what_is_pushed_next,
    i4_a_refused_list_waits_for_the_looks_at_its_items on likely,
    i10_a_list_that_waits_for_its_tokens_is_looked_at_again on likely,
    i10_drift_is_found_by_the_sweep in "[consumer]\nsweep_period = \"900ms\"\n",
    i9_a_put_that_is_not_applied_is_sent_again,
    a_business_unknown_to_layer_is_parked_and_goes_on_by_itself,
    a_business_is_created_with_its_tokens,
    the_phone_number_trap_is_caught,
    a_business_by_layers_own_id ending parked,
    first_contact_replaces on likely,
    first_contact_adopts_what_is_alive on likely in "[consumer]\nfirst_contact = \"adopt\"\n",
    an_account_archived_at_layer_stays_out ending parked,
);

on_both_parts!(observe_mode_writes_nothing, what_an_observer_took_is_ordered_when_it_is_gone);

async fn i8_an_unknown_token_holds_until_an_operator_decides(world: &World) {
    world.business("acme");
    let stranger = world.sandbox.foreign_token("acme", None).unwrap();
    world.link("acme", 1).await;
    world.until_quiet().await;
    world.until_blocked("business", "acme", "unknown_tokens").await;
    assert_eq!(world.sandbox.listed_tokens("acme"), vec![stranger.clone()], "nothing was sent");
    let (_, body) = world.admin("GET", "/v1/parked", None).await;
    let why = body["data"][0]["work"]["blocked"]["why"].as_str().unwrap().to_owned();
    assert!(why.contains("rekey business token"), "{why}");
    let (status, _) = world.admin("POST", "/v1/parked/business/acme/release", None).await;
    assert_eq!(status, 202);
    world.until("both are listed", || world.sandbox.listed_tokens("acme").len() == 2).await;
    assert!(world.sandbox.listed_tokens("acme").contains(&stranger), "released means kept, not dropped");
}

async fn i8_unknown_tokens_are_kept_when_told_so(world: &World) {
    world.business("acme");
    let stranger = world.sandbox.foreign_token("acme", None).unwrap();
    // The sandbox would refuse a list with a token it can't read; this stranger lives elsewhere.
    world.sandbox.switch(|s| s.layer_checks_tokens = false);
    let item = world.link("acme", 1).await;
    world.until("both are listed", || world.sandbox.listed_tokens("acme").len() == 2).await;
    world.rotate(&item, Announce::Push).await;
    world.until("the new token is listed", || world.sandbox.business_verdict("acme").dead.is_empty()).await;
    assert!(world.sandbox.listed_tokens("acme").contains(&stranger));
}

async fn i8_a_foreign_token_of_our_account_is_replaced(world: &World) {
    let item = world.link("acme", 1).await;
    world.until_exact().await;
    let foreign = world.sandbox.foreign_token("acme", Some(&world.accounts(&item)[0])).unwrap();
    world.sync_business("acme").await;
    world.until_exact().await;
    assert!(!world.sandbox.listed_tokens("acme").contains(&foreign), "never doubled");
}

/// Somebody adds a token to the list between our PUT and the list that verifies it.
async fn i8_another_writer_at_work_holds_the_business(world: &World) {
    let item = world.link("acme", 1).await;
    world.until_exact().await;
    // The PUT is answered a while later, so that there is a between.
    world.sandbox.fault(Fault::new("PUT /v1/businesses/{id}", FaultKind::HangAfter));
    let puts = world.puts();
    world.rotate(&item, Announce::Push).await;
    world.until("the list is sent", || world.puts() > puts).await;
    let stranger = world.sandbox.foreign_token("acme", None).unwrap();
    world.sandbox.heal();
    world.until_blocked("business", "acme", "foreign_writer").await;
    let sent = world.puts();
    world.rotate(&item, Announce::Push).await;
    world.until("the new token is minted", || world.sandbox.verdict().counts.mints == 3).await;
    // The end of the reconciliation that minted it frees the business once more.
    world.until_quiet().await;
    world.until_blocked("business", "acme", "unknown_tokens").await;
    assert_eq!(world.puts(), sent, "nobody fights");
    // Released, it goes on from the list as it is now.
    assert_eq!(world.admin("POST", "/v1/parked/business/acme/release", None).await.0, 202);
    world.until("the new token is listed", || world.sandbox.business_verdict("acme").dead.is_empty()).await;
    assert!(world.sandbox.listed_tokens("acme").contains(&stranger), "released means kept");
}

async fn i8_accounts_that_layer_connected_itself_are_not_touched(world: &World) {
    world.business("acme");
    world.sandbox.layer_connects("acme").unwrap();
    let item = world.link("acme", 2).await;
    world.until_exact().await;
    world.rotate(&item, Announce::Push).await;
    world.until_exact().await;
    assert_eq!(world.sandbox.layer_rows("acme"), 3);
}

async fn i8_removals_over_the_whole_fleet_are_held(world: &World) {
    let mut items = Vec::new();
    for name in ["one", "two"] {
        world.business(name);
        items.push(world.link(name, 2).await);
    }
    world.until_exact().await;
    // Tries of one list are one removal.
    let put = "PUT /v1/businesses/{id}";
    let failing = FaultKind::Answer {
        status: 503,
        error_type: "Plaid".into(),
        error_code: "Unavailable".into(),
        retry_after: None,
    };
    world.sandbox.fault(Fault::times(put, 3, failing));
    world.sandbox.offboard(&items[0], true).await.unwrap();
    world.until("the first one left", || world.sandbox.listed_tokens("one").is_empty()).await;
    world.sandbox.offboard(&items[1], true).await.unwrap();
    world.until_blocked("business", "two", "fleet_removal_guard").await;
    assert_eq!(world.sandbox.listed_tokens("two").len(), 2, "held");
    world.admin("POST", "/v1/parked/business/two/release", None).await;
    world.until_exact().await;
}

async fn i8_a_list_that_layer_refuses_is_parked_once(world: &World) {
    let item = world.link("acme", 2).await;
    world.until_exact().await;
    // Layer can't read one token, for a reason of its own, although it is of the current generation.
    world.rotate(&item, Announce::Silent).await;
    world.sandbox.fault(Fault::new(
        "PUT /v1/businesses/{id}",
        FaultKind::Answer {
            status: 400,
            error_type: "Plaid".into(),
            error_code: "SpecifiedBadRequest".into(),
            retry_after: None,
        },
    ));
    world.sandbox.push(&item, &json!({})).await.unwrap();
    let is_parked = async || world.parked().await.iter().any(|row| row.contains("list_refused"));
    assert!(tests::holds(is_parked).await, "its Items are looked at, it is sent once more, then somebody is called");
    let puts = world.sandbox.calls("PUT /v1/businesses/{id}");
    world.notice(&item).await;
    world.until_quiet().await;
    assert_eq!(world.sandbox.calls("PUT /v1/businesses/{id}"), puts, "I8: no trial PUTs");
    world.sandbox.heal();
    world.admin("POST", "/v1/parked/business/acme/release", None).await;
    world.until_exact().await;
}

/// Nobody knows whether a request that was not answered is still on its way. Layer has no conditional PUT.
async fn i7_a_put_that_was_not_answered_is_looked_after_once_it_can_no_longer_arrive(world: &World) {
    world.business("acme");
    world.sandbox.fault(Fault::times("PUT /v1/businesses/{id}", 1, FaultKind::LoseAnswer));
    world.link("acme", 1).await;
    world.until_exact().await;
    let list = "GET /v1/businesses/{id}/plaid/accounts";
    // Before the PUT, after it, and when a late one would have arrived.
    world.until("the list is read a third time", || world.sandbox.calls(list) >= 3).await;
}

/// What Layer forgets for a moment, it knows again after some tries, and nobody is called.
async fn i4_a_business_that_layer_forgets_for_a_moment_is_asked_for_again(world: &World) {
    let item = world.link("acme", 1).await;
    world.until_exact().await;
    let forgotten = |call: &str| {
        let answer = FaultKind::Answer {
            status: 404,
            error_type: "Plaid".into(),
            error_code: "SpecifiedIdNotFound".into(),
            retry_after: None,
        };
        world.sandbox.fault(Fault::times(call, 2, answer));
    };
    forgotten("GET /v1/businesses/{id}/plaid/accounts");
    forgotten("PUT /v1/businesses/{id}");
    world.rotate(&item, Announce::Push).await;
    world.until_exact().await;
}

/// Whoever was told what is wrong with `create`, and pushes it put right, need not release the business as well.
async fn i4_a_refused_creation_is_tried_again_with_what_is_pushed_next(world: &World) {
    world.sandbox.create_business(&NewBusiness { external_id: "acme".into(), ..NewBusiness::default() });
    let item = world.link_as("acme", 1, Announce::Silent).await;
    let push = async |create: Value| {
        let body = world.sandbox.push_body(&item, &json!({"create": create})).unwrap();
        world.admin("PUT", &format!("/v1/items/{item}"), Some(&body)).await;
    };
    push(json!({"legal_name": "New Inc"})).await;
    world.until_blocked("business", "acme", "creation_refused").await;
    push(json!({"legal_name": "New Inc", "us_state": "CA", "entity_type": "LLC"})).await;
    world.until_exact().await;
}

/// Layer notices a rotation first, and Plaid can't be asked for a while: nobody is called for what heals by itself.
async fn i4_a_refused_list_waits_for_the_looks_at_its_items(world: &World) {
    let item = world.link("acme", 1).await;
    world.until_exact().await;
    for read in ["/accounts/get", "/item/get"] {
        world.sandbox.fault(Fault::new(read, FaultKind::CutBefore));
    }
    world.rotate(&item, Announce::Database).await;
    // Something else differs, so that the list has to be sent.
    world.sandbox.foreign_token("acme", Some(&world.accounts(&item)[0])).unwrap();
    world.sync_business("acme").await;
    let put = "PUT /v1/businesses/{id}";
    let puts = world.sandbox.calls(put);
    world.until("it is sent now and then", || world.sandbox.calls(put) > puts + 4).await;
    assert!(world.parked().await.is_empty(), "I4: {:?}", world.parked().await);
    world.sandbox.heal();
    world.until_exact().await;
}

/// Layer refuses the only token there is, and its successor can't be minted yet. Whoever mints it may die before saying so:
/// the business is looked at again by itself, long before the sweep.
async fn i10_a_list_that_waits_for_its_tokens_is_looked_at_again(world: &World) {
    let item = world.link("acme", 1).await;
    world.until_exact().await;
    world.sandbox.fault(Fault::new("/processor/token/create", FaultKind::CutBefore));
    world.rotate(&item, Announce::Push).await;
    // Something else differs, so that the list has to be sent.
    world.sandbox.foreign_token("acme", Some(&world.accounts(&item)[0])).unwrap();
    world.sync_business("acme").await;
    world.until_blocked("business", "acme", "waits_for_tokens").await;
    let list = "GET /v1/businesses/{id}/plaid/accounts";
    let looks = world.sandbox.calls(list);
    world.until("it is looked at again", || world.sandbox.calls(list) > looks + 2).await;
    world.sandbox.heal();
    world.until_exact().await;
}

async fn i10_drift_is_found_by_the_sweep(world: &World) {
    let item = world.link("acme", 2).await;
    world.until_exact().await;
    // A process that was stopped wakes and sends its old list: Layer has no conditional PUT.
    world.sandbox.archive_row("acme", "nobody").unwrap();
    let account = world.accounts(&item).remove(0);
    world.sandbox.foreign_token("acme", Some(&account)).unwrap();
    assert!(!world.sandbox.verdict().exact);
    world.until_exact().await;
}

async fn i9_a_put_that_is_not_applied_is_sent_again(world: &World) {
    world.business("acme");
    world.sandbox.fault(Fault::times("PUT /v1/businesses/{id}", 2, FaultKind::NotApplied));
    world.link("acme", 1).await;
    world.until_exact().await;
}

async fn a_business_unknown_to_layer_is_parked_and_goes_on_by_itself(world: &World) {
    world.sandbox.create_business(&NewBusiness { external_id: "later".into(), ..NewBusiness::default() });
    world.link_as("later", 1, Announce::Push).await;
    world.until_blocked("business", "later", "business_unknown_to_layer").await;
    let looks = world.sandbox.calls("GET /v1/businesses");
    world.until_quiet().await;
    assert!(world.sandbox.calls("GET /v1/businesses") <= looks + 1, "parked, never a loop");
    world.business("later");
    world.admin("POST", "/v1/parked/business/later/release", None).await;
    world.until_exact().await;
}

fn creation(phone: &str) -> Value {
    json!({"create": {"legal_name": "New Inc", "us_state": "CA", "entity_type": "LLC", "phone_number": phone}})
}

async fn a_business_is_created_with_its_tokens(world: &World) {
    world.sandbox.create_business(&NewBusiness { external_id: "new".into(), ..NewBusiness::default() });
    let item = world.link_as("new", 2, Announce::Silent).await;
    let (status, body) = world.sandbox.push(&item, &creation("+15550001")).await.unwrap();
    assert_eq!(status, 200, "{body}");
    world.until_exact().await;
    assert_eq!(world.sandbox.calls("POST /v1/businesses"), 1);
    assert_eq!(world.puts(), 0, "created with its tokens, so no PUT was needed");
    world.rotate(&item, Announce::Push).await;
    world.until_exact().await;
}

async fn the_phone_number_trap_is_caught(world: &World) {
    world.sandbox.create_business(&NewBusiness {
        external_id: "somebody-else".into(),
        at_layer: true,
        phone: Some("+15550002".into()),
        archived: true,
    });
    world.sandbox.create_business(&NewBusiness { external_id: "new".into(), ..NewBusiness::default() });
    let item = world.link_as("new", 1, Announce::Silent).await;
    world.sandbox.push(&item, &creation("+15550002")).await.unwrap();
    world.until_blocked("business", "new", "another_business_returned").await;
    assert!(world.sandbox.listed_tokens("somebody-else").is_empty(), "the other business was not given our token");
    // Corrected and pushed again, it is created.
    world.sandbox.push(&item, &creation("+15550003")).await.unwrap();
    world.admin("POST", "/v1/parked/business/new/release", None).await;
    world.until_exact().await;
}

async fn a_business_by_layers_own_id(world: &World) {
    world.business("acme");
    let id = format!("layer:{}", world.sandbox.layer_id("acme").unwrap());
    let item = world.link_as("acme", 1, Announce::Silent).await;
    let (status, body) = world.sandbox.push(&item, &json!({"business": id})).await.unwrap();
    assert_eq!(status, 200, "{body}");
    world.until("the list is right", || world.sandbox.business_verdict("acme").exact).await;
    // The same business under its other name would have two writers.
    let other = world.link_as("acme", 1, Announce::Push).await;
    world.until_blocked("business", "acme", "named_twice").await;
    world.sandbox.push(&other, &json!({"business": id})).await.unwrap();
    world.until("both are listed", || world.sandbox.business_verdict("acme").exact).await;
}

async fn first_contact_replaces(world: &World) {
    world.business("acme");
    let item = world.link_as("acme", 1, Announce::Silent).await;
    let before = world.sandbox.foreign_token("acme", Some(&world.accounts(&item)[0])).unwrap();
    world.sandbox.announce(&item, Announce::Push).await.unwrap();
    world.until_exact().await;
    world.until("replaced", || !world.sandbox.listed_tokens("acme").contains(&before)).await;
}

async fn first_contact_adopts_what_is_alive(world: &World) {
    world.business("acme");
    let item = world.link_as("acme", 2, Announce::Silent).await;
    let accounts = world.accounts(&item);
    let alive = world.sandbox.foreign_token("acme", Some(&accounts[0])).unwrap();
    let dead = world.sandbox.foreign_token("acme", Some(&accounts[1])).unwrap();
    world.sandbox.kill_token_of(&accounts[1]);
    world.sandbox.announce(&item, Announce::Push).await.unwrap();
    world.until_exact().await;
    let listed = world.sandbox.listed_tokens("acme");
    assert!(listed.contains(&alive) && !listed.contains(&dead), "{}", listed.len());
    assert_eq!(world.sandbox.verdict().counts.mints, 1, "only the dead one was minted anew");
    world.rotate(&item, Announce::Push).await;
    world.until_exact().await;
}

async fn an_account_archived_at_layer_stays_out(world: &World) {
    let item = world.link("acme", 2).await;
    world.until_exact().await;
    world.sandbox.archive_row("acme", &world.accounts(&item)[0]).unwrap();
    let puts = world.puts();
    world.sync_business("acme").await;
    world.until_quiet().await;
    assert_eq!(world.puts(), puts, "nobody fights the person who archived it");
    // Nor when the list is sent for another account.
    let archived = world.accounts(&item)[0].clone();
    let rows = || world.sandbox.listed().into_iter().map(|row| row.account).collect::<Vec<_>>();
    world.link("acme", 1).await;
    assert!(holds(|| async { world.puts() == puts + 1 }).await);
    world.until_quiet().await;
    world.sync_business("acme").await;
    world.until_quiet().await;
    assert!(!rows().contains(&archived) && rows().len() == 2, "{:?}", rows());
    // Until its Item gets new tokens, or an operator has them minted again.
    world.sandbox.order_mints(&item).unwrap();
    let (status, _) = world.admin("POST", &format!("/v1/items/{item}/mint?reason=listed+again"), None).await;
    assert_eq!(status, 202);
    world.until_exact().await;
}

async fn observe_mode_writes_nothing(parts: Parts) {
    let world = World::start(parts, "[consumer]\nmode = \"observe\"\n").await;
    world.business("acme");
    world.link("acme", 2).await;
    let topic = world.local.config("").unwrap().kafka.topics.outcomes;
    let told =
        |seen: &[bus::Delivery]| seen.iter().any(|d| d.event.as_ref().is_ok_and(|e| e.kind == "rekey.business.plan"));
    world.read_topic(&topic, bus::schema::OUTCOME, told).await;
    world.sandbox.switch(|s| s.bad_token = BadToken::IsAccepted);
    let counts = world.sandbox.verdict().counts;
    assert_eq!((counts.mints, counts.puts), (0, 0));
    assert_eq!(world.sandbox.calls("POST /v1/businesses"), 0);
    let said = || async {
        let (_, body) = world.admin("GET", "/v1/businesses/acme", None).await;
        body["converged_at"].is_null() && body["last_outcome"].as_str().is_some_and(|o| o.contains("would mint"))
    };
    assert!(tests::holds(said).await, "nothing converged");
    let shows = |path: &'static str, text: &'static str| {
        let world = &world;
        async move { world.admin("GET", path, None).await.1.to_string().contains(text) }
    };
    for (path, text) in [
        ("/v1/status", "observe mode: nothing is minted or sent"),
        ("/v1/businesses/acme/explain", "\"observes\":true"),
        ("/v1/businesses/acme/explain", "observe mode: 2 tokens would be minted"),
    ] {
        assert!(tests::holds(|| shows(path, text)).await, "{path} does not tell {text}");
    }
    // The team is satisfied: the same settings in act mode do what was planned.
    let mut world = world;
    world.rekeys.remove(0).stop().await;
    world.start_rekey(Role::ALL_IN_ONE, "[consumer]\nmode = \"act\"\n").await;
    let (_, status) = world.admin("GET", "/v1/status", None).await;
    assert_eq!(status["observes"], false, "from its start on");
    world.until_exact().await;
    world.end().await;
}

/// While the one mode takes over from the other, an observer may take what the start of the other ordered. What it left is
/// ordered again when the last of them has been gone for a while.
async fn what_an_observer_took_is_ordered_when_it_is_gone(parts: Parts) {
    let mut world = World::start(parts, "[consumer]\nmode = \"observe\"\n").await;
    world.link("acme", 2).await;
    let planned = || async {
        let (_, body) = world.admin("GET", "/v1/businesses/acme", None).await;
        body["last_outcome"].as_str().is_some_and(|o| o.contains("would mint"))
    };
    assert!(tests::holds(planned).await);
    world.rekeys.remove(0).stop().await;
    world.sql("UPDATE meta SET value = '-1' WHERE name = 'observed_at'").await;
    world.start_rekey(Role::ALL_IN_ONE, "[consumer]\nmode = \"act\"\n").await;
    world.until_quiet().await;
    assert!(!world.sandbox.verdict().exact, "nothing is ordered by a start that knows of no observer");
    world.sql("UPDATE meta SET value = '0' WHERE name = 'observed_at'").await;
    world.until_exact().await;
    let forgotten = || async { world.store().begin_read().await.unwrap().observed_at().await.unwrap().is_none() };
    assert!(tests::holds(forgotten).await, "it is ordered once");
    world.end().await;
}
