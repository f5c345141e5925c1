//! Providers as a budget that all consumers share, and as somebody who may be away.

use domain::Role;
use sandbox::{Announce, Fault, FaultKind};
use serde_json::json;
use std::time::Duration;
use tests::{PATIENCE, Parts, World, holds};

stories!(
    i4_a_provider_that_goes_dark_is_probed_instead_of_asked in "[consumer]\ndark_after = 5\n",
);

on_both_parts!(
    i9_a_storm_stays_within_the_limits_and_a_person_overtakes_it,
    i9_looks_at_one_item_stay_within_its_own_limit,
    a_limit_lower_than_documented_slows_everybody,
);

const MINT: &str = "/processor/token/create";

/// Two consumers, a hundred rotations and an import that nobody waits for, and one rotation that somebody waits for.
async fn i9_a_storm_stays_within_the_limits_and_a_person_overtakes_it(parts: Parts) {
    // Twenty mints a second, fast enough for a test and slow enough for a queue. With two hundred looks on two busy cores it
    // takes longer than other stories.
    let limits = "[plaid.limits]\nprocessor_token_create = 1200\n";
    let mut world = World::start(parts, limits).await;
    world.start_rekey(&[Role::Consumer], "").await;
    world.business("acme");
    let items = 100;
    let mut linked = Vec::new();
    for n in 0..items {
        world.business(&format!("b{n}"));
        linked.push(world.link(&format!("b{n}"), 1).await);
    }
    world.until_exact_within(PATIENCE * 4).await;
    let before = world.sandbox.calls(MINT);
    for item in &linked {
        world.rotate(item, Announce::Database).await;
    }
    let (last, storm) = linked.split_last().unwrap();
    let import = (0..items).map(|n| {
        let world = &world;
        async move {
            let item = world.link_as(&format!("b{n}"), 1, Announce::Silent).await;
            let body = world.sandbox.push_body(&item, &json!({})).unwrap();
            let path = format!("/v1/items/{item}?background=true&timeout=0");
            // A hundred at once may keep one from SQLite's only writer for longer than it waits: 503, try again.
            let taken = || async { world.admin("PUT", &path, Some(&body)).await.0 == 202 };
            assert!(holds(taken).await, "{item} is not taken");
            item
        }
    });
    let import = futures::future::join_all(import).await;
    world.make_due(storm).await;
    let begun = || async { world.sandbox.calls(MINT) > before + 3 };
    assert!(holds(begun).await);
    world.rotate(last, Announce::Silent).await;
    // One call in many is not answered as it should be: the person keeps the place.
    let unwell =
        FaultKind::Answer { status: 500, error_type: "API_ERROR".into(), error_code: String::new(), retry_after: None };
    world.sandbox.fault(Fault { about: Some(last.clone()), ..Fault::times("/accounts/get", 1, unwell) });
    let body = world.sandbox.push_body(last, &json!({})).unwrap();
    let (status, _) = world.admin("PUT", &format!("/v1/items/{last}?timeout=0"), Some(&body)).await;
    assert_eq!(status, 202);
    let asked_at = world.sandbox.calls(MINT);
    world.until_exact_within(PATIENCE * 4).await;
    let mints = world.sandbox.calls_about(MINT);
    let place = mints.iter().rposition(|(_, item)| item == last).unwrap();
    // Those that had a slot already go first, and those that leave while the person's token is proved. In the order of
    // arrival it would be all of them.
    let ahead = place.saturating_sub(asked_at);
    assert!(ahead < 50, "I9: {ahead} mints came before the person's");
    assert!(mints.len() - place > 20, "I9: the queue was over when the person came");
    // Rotations go before the import, which came before them, but for what it had begun.
    let last_of_storm = mints.iter().rposition(|(_, item)| storm.contains(item)).unwrap();
    let early = mints[..last_of_storm].iter().filter(|(_, item)| import.contains(item)).count();
    assert!(early < import.len() * 3 / 4, "I9: {early} of the import's mints came before the last rotation's");
    // One burst, and what may leave late.
    let (window, at_most) = (Duration::from_millis(500), 20 / 2 + 5 + 20);
    for (n, (at, _)) in mints.iter().enumerate() {
        let in_window = mints[n..].iter().take_while(|(t, _)| t.duration_since(*at) < window).count();
        assert!(in_window <= at_most, "I9: {in_window} mints within {window:?}");
    }
    world.end().await;
}

/// Each booking takes longer than a slot may be missed by: calls are late, and still are made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i10_a_slow_database_slows_calls_and_stops_none() {
    let world = World::start(Parts::Real, "").await;
    let config = world.local.config("").unwrap();
    let limits = config.consumer.budget(&config.plaid.limits, &config.layer.limits);
    let slow: Vec<_> = (0..3)
        .map(|_| {
            let (store, limits) = (world.store(), limits.clone());
            tokio::spawn(async move {
                loop {
                    let mut tx = store.begin().await.unwrap();
                    let _ = tx.book(&limits, domain::budget::Call::Layer, Duration::ZERO, Duration::ZERO, 1).await;
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            })
        })
        .collect();
    world.link("acme", 1).await;
    world.until_exact().await;
    slow.iter().for_each(tokio::task::JoinHandle::abort);
    world.end().await;
}

/// An Item that somebody asks about all the time is looked at as often as Plaid allows for one Item.
async fn i9_looks_at_one_item_stay_within_its_own_limit(parts: Parts) {
    let world = World::start(parts, "[plaid.limits]\nper_item = 15\n").await;
    world.sandbox.switch(sandbox::Switches::limit_as_documented);
    let item = world.link("acme", 1).await;
    world.until_exact().await;
    let before = world.sandbox.calls("/accounts/get");
    for _ in 0..30 {
        world.sync_item(&item).await;
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
    let looks = world.sandbox.calls("/accounts/get") - before;
    assert!((1..15).contains(&looks), "I9: {looks} looks");
    // Ends with the verdict, which names every call over a limit.
    assert_eq!(world.sandbox.verdict().violations, Vec::<String>::new());
}

async fn a_limit_lower_than_documented_slows_everybody(parts: Parts) {
    let mut world = World::start(parts, "").await;
    world.start_rekey(&[Role::Consumer], "").await;
    world.business("acme");
    let too_much = FaultKind::Answer {
        status: 429,
        error_type: "RATE_LIMIT_EXCEEDED".into(),
        error_code: "RATE_LIMIT".into(),
        retry_after: Some(1),
    };
    world.sandbox.fault(Fault::times(MINT, 1, too_much));
    // One account: what is asked for together is on its way together when the refusal comes.
    world.link_as("acme", 1, Announce::Silent).await;
    for item in world.sandbox.items() {
        let body = world.sandbox.push_body(&item, &serde_json::json!({})).unwrap();
        world.admin("PUT", &format!("/v1/items/{item}?timeout=0"), Some(&body)).await;
    }
    let refused = || async { world.sandbox.calls(MINT) == 1 };
    assert!(holds(refused).await);
    let slowed = || async {
        let mut tx = world.store().begin_read().await.unwrap();
        let budgets = tx.budgets().await.unwrap();
        budgets.iter().any(|b| b.call == domain::budget::Call::Mint && b.booked.slowed_to == 0.5)
    };
    assert!(holds(slowed).await, "half the rate, for every process");
    world.until_exact().await;
    let mints = world.sandbox.calls_about(MINT);
    assert!(mints[1].0.duration_since(mints[0].0) > Duration::from_millis(900), "nobody called before Retry-After");
    assert!(world.parked().await.is_empty());
    world.end().await;
}

async fn i4_a_provider_that_goes_dark_is_probed_instead_of_asked(world: &World) {
    let mut items = Vec::new();
    for n in 0..12 {
        world.business(&format!("b{n}"));
        items.push(world.link(&format!("b{n}"), 1).await);
    }
    world.until_exact().await;
    for call in ["/item/get", "/accounts/get", MINT, "/webhook_verification_key/get"] {
        world.sandbox.fault(Fault::new(call, FaultKind::CutBefore));
    }
    for item in &items {
        world.rotate(item, Announce::Database).await;
    }
    world.make_due(&items).await;
    let paused = || async { world.admin("GET", "/v1/pauses", None).await.1[0]["provider"] == "plaid" };
    assert!(holds(paused).await, "after a few unanswered calls nobody asks for itself any more");
    // What was in flight ends.
    let quiet = || async {
        let before = world.sandbox.calls("/item/get") + world.sandbox.calls("/accounts/get");
        tokio::time::sleep(Duration::from_millis(700)).await;
        before == world.sandbox.calls("/item/get") + world.sandbox.calls("/accounts/get")
    };
    assert!(holds(quiet).await, "only probes are sent while it is dark");
    assert!(world.parked().await.is_empty(), "I4: {:?}", world.parked().await);
    world.sandbox.heal();
    world.until_exact().await;
}
