//! What a reconciliation would do now: a plan with live reads says it, changes nothing, and is what then happens.

use crate::api::{cli, text};
use domain::{Role, metric};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use sandbox::{Announce, Fault, FaultKind, NewAccount};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use tests::process::Process;
use tests::{Parts, World, holds, metrics};

stories!(
    a_plan_is_what_then_happens ending parked in "[consumer]\ngone_after = \"1h\"\nawaiting_token_poll = \"1h\"\nbackoff_first = \"1h\"\nbackoff_cap = \"1h\"\n",
    a_plan_reads_and_changes_nothing on likely,
    a_plan_says_why_it_can_not_tell on likely,
    a_terminal_plans_one_list_and_all on likely ending parked,
);

async fn plan(world: &World, business: &str) -> Value {
    let (status, body) = world.admin("POST", &format!("/v1/businesses/{business}/plan?timeout=60"), None).await;
    assert_eq!((status, &body["state"]), (200, &json!("answered")), "{body}");
    body
}

/// Something that happens to a business and that nobody tells.
type Silent = fn(&World, &str, &str, &str);

/// About a business, an Item of it, and an account of that.
const HAPPENS: &[(&str, Silent)] = &[
    ("an account is opened", |w, _, item, _| drop(w.sandbox.add_account(item, &NewAccount::checking("7777")).unwrap())),
    ("an account is closed", |w, _, _, account| w.sandbox.close_account(account).unwrap()),
    ("an account is renumbered", |w, _, _, account| drop(w.sandbox.renumber_account(account).unwrap())),
    ("the user must log in", |w, _, item, _| w.sandbox.require_login(item).unwrap()),
    ("consent is withdrawn", |w, _, item, _| w.sandbox.revoke(item).unwrap()),
    ("somebody adds a token of nobody", |w, business, _, _| drop(w.sandbox.foreign_token(business, None).unwrap())),
    ("somebody adds a token of ours", |w, business, _, account| {
        drop(w.sandbox.foreign_token(business, Some(account)).unwrap());
    }),
    ("somebody archives a row", |w, business, _, account| w.sandbox.archive_row(business, account).unwrap()),
    ("Layer connects an account itself", |w, business, _, _| drop(w.sandbox.layer_connects(business).unwrap())),
    ("Layer archives the business", |w, business, _, _| w.sandbox.archive_business(business, true).unwrap()),
    ("nothing", |_, _, _, _| {}),
];

fn listed(world: &World, business: &str) -> Vec<(String, String)> {
    let mut rows: Vec<_> =
        world.sandbox.listed().into_iter().filter(|l| l.business == business).map(|l| (l.account, l.token)).collect();
    rows.sort();
    rows
}

fn changes(world: &World, business: &str) -> u64 {
    world.sandbox.changed_lists().get(business).copied().unwrap_or_default()
}

fn ids(of: &Value) -> BTreeSet<String> {
    of.as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned()).collect()
}

/// The property: whatever happened, a plan says what the reconciliations of the Items and of the business then do.
async fn a_plan_is_what_then_happens(world: &World) {
    let seed = std::env::var("PLAN_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random);
    let mut rng = StdRng::seed_from_u64(seed);
    // What Layer says to tokens of before a rotation is not known before it is asked.
    world.sandbox.switch(|s| s.layer_checks_tokens = false);
    let mut businesses = Vec::new();
    for n in 0..16 {
        let (business, mut items) = (format!("b{n}"), Vec::new());
        for _ in 0..rng.random_range(1..=2) {
            items.push(world.link(&business, rng.random_range(1..=3)).await);
        }
        items.sort();
        businesses.push((business, items));
    }
    world.until_exact().await;
    world.until_quiet().await;
    for (business, items) in &businesses {
        let mut happened = Vec::new();
        for _ in 0..rng.random_range(1..=3) {
            let item = items.choose(&mut rng).unwrap();
            let account = world.accounts(item).choose(&mut rng).cloned();
            if let Some(account) = account {
                let (what, happens) = HAPPENS.choose(&mut rng).unwrap();
                happens(world, business, item, &account);
                happened.push(*what);
            }
        }
        // Last, or the bank would speak under a token that is no more. Not with an archived row: whether it counts as archived by
        // somebody depends on whether the list is read before its Item's token is known to be dead.
        if rng.random_bool(0.5) && !happened.contains(&"somebody archives a row") {
            let announce = if rng.random_bool(0.8) { Announce::Database } else { Announce::Silent };
            world.rotate(items.choose(&mut rng).unwrap(), announce).await;
            happened.push("the access token changes");
        }
        let told = || format!("{business}: {happened:?} (PLAN_SEED={seed})");
        let before = (listed(world, business), changes(world, business));
        let writes = || (world.sandbox.calls("/processor/token/create"), world.puts());
        let written = writes();
        let planned = plan(world, business).await;
        assert_eq!(writes(), written, "{}: a plan mints and sends nothing", told());
        let again = plan(world, business).await;
        let of = |p: &Value| (p["next_list"].clone(), p["code"].clone(), p["mints"].clone(), p["items"].clone());
        assert_eq!(of(&planned), of(&again), "{}: it left something behind", told());

        let mints = world.sandbox.calls("/processor/token/create");
        for item in items {
            world.admin("POST", &format!("/v1/items/{item}/sync?timeout=20"), None).await;
        }
        world.admin("POST", &format!("/v1/businesses/{business}/sync?timeout=20"), None).await;
        let minted = world.sandbox.calls("/processor/token/create") - mints;
        assert_eq!(minted, planned["mints"].as_array().unwrap().len(), "{}: mints; {planned}", told());
        let after = (listed(world, business), changes(world, business));
        let explained = world.admin("GET", &format!("/v1/businesses/{business}/explain"), None).await.1;
        let next = &planned["next_list"];
        match next["would"].as_str().unwrap() {
            "put" => {
                let accounts = |rows: &[(String, String)]| rows.iter().map(|(a, _)| a.clone()).collect::<BTreeSet<_>>();
                let mut expected = accounts(&before.0);
                expected.extend(ids(&next["added"]));
                for gone in ids(&next["removed"]).iter().chain(&ids(&next["left_out"])) {
                    expected.remove(gone);
                }
                assert_eq!(accounts(&after.0), expected, "{}: {planned}\n{explained}", told());
                assert!(after.1 > before.1, "{}: the list was sent: {planned}", told());
                for account in ids(&next["replaced"]) {
                    let of = |rows: &[(String, String)]| {
                        rows.iter().filter(|(a, _)| *a == account).map(|(_, t)| t.clone()).collect::<BTreeSet<_>>()
                    };
                    assert_ne!(of(&before.0), of(&after.0), "{}: {account} has a new token: {planned}", told());
                }
                // Those of the list that Layer did not connect itself.
                let rows = after.0.len() as u64;
                assert_eq!(next["tokens"].as_u64(), Some(rows), "{}: {planned}\n{after:?}", told());
            }
            "nothing" => assert_eq!(before, after, "{}: {planned}\n{explained}", told()),
            would => {
                assert_eq!(before, after, "{}: {planned}\n{explained}", told());
                let by = explained["blocked"]["by"].as_str().unwrap_or("nothing");
                // The sync of each Item makes the business due as well: the reconciliation that was planned is not the last one.
                let expected = match would {
                    "hold" => &["hold"][..],
                    "parked" => &["parked"],
                    "wait" => &["backoff"],
                    "retry" => &["backoff", "parked", "nothing"],
                    other => panic!("{}: {other}: {planned}", told()),
                };
                assert!(expected.contains(&by), "{}: {by}: {planned}", told());
                let code = explained["blocked"].get("code").unwrap_or(&planned["code"]);
                assert_eq!(*code, planned["code"], "{}: {planned}", told());
            }
        }
        for item in items {
            let state = world.item(item).await["state"].clone();
            let ahead = planned["items"].as_array().unwrap().iter().find(|i| i["item_id"] == item.as_str());
            let expected = ahead.map_or(json!("active"), |ahead| ahead["state"].clone());
            assert_eq!(state, expected, "{}: {planned}", told());
        }
    }
}

/// Everything in the store but what calls are booked in, and the plans.
async fn books(world: &World) -> Vec<String> {
    sqlx::any::install_default_drivers();
    let pool = sqlx::AnyPool::connect(&world.local.environment["REKEY_DATABASE__URL"]).await.unwrap();
    let mut books = Vec::new();
    for sql in [
        "SELECT kind || ' ' || id || ' ' || wanted || ' ' || done || ' ' || epoch || ' ' || COALESCE(blocked_code, '') FROM work ORDER BY 1",
        "SELECT item_id || ' ' || state || ' ' || generation FROM items ORDER BY 1",
        "SELECT item_id || ' ' || account_id || ' ' || state || ' ' || COALESCE(business_id, '') FROM accounts ORDER BY 1",
        "SELECT item_id || ' ' || fingerprint || ' ' || standing FROM access_tokens ORDER BY 1",
        "SELECT id || ' ' || state FROM processor_tokens ORDER BY 1",
        "SELECT business_id || ' ' || accepted || ' ' || COALESCE(shown_at, 0) || ' ' || COALESCE(put_at, 0) FROM businesses ORDER BY 1",
        "SELECT id FROM history ORDER BY 1",
        "SELECT id FROM audit ORDER BY 1",
        "SELECT id FROM outbox ORDER BY 1",
    ] {
        let rows: Vec<(String,)> = sqlx::query_as(sql).fetch_all(&pool).await.unwrap();
        books.extend(rows.into_iter().map(|(row,)| row));
    }
    pool.close().await;
    books
}

async fn a_plan_reads_and_changes_nothing(world: &World) {
    let item = world.link("acme", 2).await;
    world.until_exact().await;
    world.until_state("/v1/businesses/acme", "converged").await;
    world.until_quiet().await;
    world.rotate(&item, Announce::Database).await;
    world.sandbox.add_account(&item, &NewAccount::checking("9999")).unwrap();
    let emptied = || async { world.store().begin_read().await.unwrap().outbox_length().await.unwrap() == 0 };
    assert!(holds(emptied).await);
    let before = books(world).await;
    let reads = (world.sandbox.calls("/accounts/get"), world.sandbox.verdict().counts.lists);
    let planned = plan(world, "acme").await;
    let next = &planned["next_list"];
    assert_eq!((&next["would"], &next["tokens"]), (&json!("put"), &json!(3)), "{planned}");
    assert_eq!((ids(&next["added"]).len(), ids(&next["replaced"]).len()), (1, 2), "{planned}");
    assert_eq!(ids(&planned["mints"]).len(), 3, "{planned}");
    let read = (world.sandbox.calls("/accounts/get") - reads.0, world.sandbox.verdict().counts.lists - reads.1);
    assert_eq!(read, (1, 1), "one read of the accounts, and one of the list");
    assert_eq!(books(world).await, before, "nothing of it is stored");
    // It is kept for whoever asks again, and goes with the business.
    let id = planned["plan_id"].as_str().unwrap();
    let (status, kept) = world.admin("GET", &format!("/v1/plans/{id}"), None).await;
    assert_eq!((status, &kept), (200, &planned));
    assert_eq!(world.admin("GET", "/v1/plans/nothing", None).await.0, 404);
    assert_eq!(world.admin("POST", "/v1/businesses/nobody/plan", None).await.0, 404);
    world.sync_item(&item).await;
    world.until_exact().await;
}

/// In a process of its own: stories of one share their counters.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_is_counted_as_the_calls_that_it_makes_and_as_nothing_else() {
    let mut world = World::without_rekey(Parts::Real, "").await;
    world.start_rekey(&[Role::Receiver, Role::Console], "").await;
    let consumer = Process::start(&world, "consumer").await;
    let item = world.link("acme", 2).await;
    world.until_exact().await;
    world.until_quiet().await;
    world.rotate(&item, Announce::Database).await;
    let counted = async |metric: &str| {
        let samples = metrics::read(&metrics::scrape(consumer.ops).await);
        samples.iter().filter(|s| s.metric.name == metric).map(|s| s.value).sum::<f64>()
    };
    const OF_WHAT_IS_DONE: [&str; 5] =
        [metric::MINTS, metric::PUTS, metric::TOKEN_CHANGES, metric::RECONCILE, metric::TOKEN_LOOKUPS];
    let mut before = Vec::new();
    for name in OF_WHAT_IS_DONE {
        before.push(counted(name).await);
    }
    let calls = counted(metric::PROVIDER_CALLS).await;
    let planned = plan(&world, "acme").await;
    assert_eq!(ids(&planned["mints"]).len(), 2, "{planned}");
    for (name, before) in OF_WHAT_IS_DONE.into_iter().zip(before) {
        assert_eq!(counted(name).await, before, "{name}");
    }
    assert_eq!(counted(metric::PROVIDER_CALLS).await, calls + 2.0, "the accounts and the list");
    drop(consumer);
    world.end_with_parked().await;
}

async fn a_plan_says_why_it_can_not_tell(world: &World) {
    let item = world.link("acme", 1).await;
    world.until_exact().await;
    world.until_quiet().await;
    // A provider that refuses is told, and asked no more than for that.
    world.sandbox.fault(Fault::new("GET /v1/businesses/{id}/plaid/accounts", FaultKind::CutBefore));
    let planned = plan(world, "acme").await;
    assert_eq!(planned["next_list"]["would"], "retry", "{planned}");
    world.sandbox.heal();
    world.sandbox.fault(Fault { about: Some(item.clone()), ..Fault::new("/accounts/get", FaultKind::CutBefore) });
    let planned = plan(world, "acme").await;
    assert_eq!(planned["items"][0]["item_id"], item.as_str(), "{planned}");
    assert_eq!((&planned["next_list"]["would"], &planned["items"][0]["state"]), (&json!("nothing"), &json!("active")));
    world.sandbox.heal();
    // One that is paused is not asked at all.
    assert_eq!(world.admin("POST", "/v1/providers/layer/pause?reason=maintenance", None).await.0, 200);
    let reads = world.sandbox.calls("/accounts/get");
    let planned = plan(world, "acme").await;
    assert_eq!(planned["next_list"]["would"], "unknown", "{planned}");
    assert!(planned["next_list"]["why"].as_str().unwrap().contains("layer is paused"), "{planned}");
    assert_eq!(world.sandbox.calls("/accounts/get"), reads);
    assert_eq!(world.admin("POST", "/v1/providers/layer/resume", None).await.0, 200);
    // What was not read is not taken for as it was: Plaid asks for a rest, which is for the whole fleet.
    let (error_type, error_code) = ("RATE_LIMIT_EXCEEDED".to_owned(), "ACCOUNTS_LIMIT".to_owned());
    let rest = FaultKind::Answer { status: 429, error_type, error_code, retry_after: Some(3600) };
    world.sandbox.fault(Fault::times("/accounts/get", 1, rest));
    plan(world, "acme").await;
    let planned = plan(world, "acme").await;
    assert_eq!(planned["next_list"]["would"], "unknown", "{planned}");
    let why = planned["next_list"]["why"].as_str().unwrap();
    assert!(why.contains(&item) && why.contains("were not read"), "{planned}");
    world.sandbox.heal();
    world.sql("DELETE FROM budgets").await;
    // An order of an operator is a guard like any other.
    assert_eq!(world.admin("POST", "/v1/businesses/acme/hold?reason=migration", None).await.0, 200);
    world.rotate(&item, Announce::Database).await;
    let planned = plan(world, "acme").await;
    assert_eq!(
        (&planned["next_list"]["would"], &planned["code"]),
        (&json!("hold"), &json!("operator_hold")),
        "{planned}"
    );
    assert_eq!(ids(&planned["mints"]).len(), 1, "{planned}");
    assert_eq!(world.admin("POST", "/v1/parked/business/acme/release", None).await.0, 202);
    world.sync_item(&item).await;
    world.until_exact().await;
}

async fn a_terminal_plans_one_list_and_all(world: &World) {
    let item = world.link("acme", 1).await;
    world.link("globex", 1).await;
    world.until_exact().await;
    world.until_state("/v1/businesses/acme", "converged").await;
    world.until_state("/v1/businesses/globex", "converged").await;
    world.sandbox.foreign_token("globex", None).unwrap();
    world.rotate(&item, Announce::Database).await;
    let run = |arguments: &[&str]| tokio::task::block_in_place(|| cli(world, arguments, None));
    let one = run(&["plan", "acme"]);
    let told = text(&one);
    assert!(one.status.success() && told.contains("would be sent") && told.contains("minted first"), "{told}");
    let all = run(&["plan"]);
    let told = text(&all);
    assert!(all.status.success(), "{told}");
    assert!(told.contains("2 businesses: 1 would be sent, 1 would be held"), "{told}");
    let stored = text(&run(&["plan", "--stored"]));
    assert!(stored.contains("2 businesses: 2 need nothing"), "neither was read since: {stored}");
    let json = run(&["plan", "acme", "--json"]);
    let value: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(value["next_list"]["would"], "put");
    world.sync_item(&item).await;
    world.until_state("/v1/businesses/acme", "converged").await;
    world.sync_business("globex").await;
    world.until_blocked("business", "globex", "unknown_tokens").await;
    world.until_quiet().await;
}
