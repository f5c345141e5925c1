//! Why something stands as it does, in the API and in a terminal: both sides of a list, what comes next, what helps, what
//! happened.

use crate::api::{cli, command, text};
use domain::Role;
use sandbox::{Announce, Fault, FaultKind};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::sync::{Arc, Mutex};
use tests::proxy::Proxy;
use tests::{Parts, World, holds, process};

on_both_parts!(i11_nothing_is_right_that_nobody_reads);

stories!(
    i11_both_sides_of_a_list_are_told_account_by_account in "[consumer]\nrefused_cap = \"1h\"\nbackoff_first = \"20min\"\n",
    i11_a_list_that_is_held_names_the_strangers_and_what_helps on likely ending parked,
    whatever_a_person_has_at_hand_is_found,
    what_happened_is_told_once_and_outlives_acts,
    outcomes_are_listed_as_they_are_published,
    outcomes_are_followed_while_the_api_comes_and_goes,
    a_sweep_is_told_where_it_had_to_act on likely,
    a_terminal_tells_the_same,
);

async fn get(world: &World, path: &str) -> Value {
    let (status, body) = world.admin("GET", path, None).await;
    assert_eq!(status, 200, "{path}: {body}");
    body
}

fn refused(account: &str) -> Fault {
    let (error_type, error_code) = ("ITEM_ERROR".into(), "PRODUCTS_NOT_SUPPORTED".into());
    let answer = FaultKind::Answer { status: 400, error_type, error_code, retry_after: None };
    Fault { about: Some(account.to_owned()), ..Fault::new("/processor/token/create", answer) }
}

async fn i11_both_sides_of_a_list_are_told_account_by_account(world: &World) {
    let item = world.link("acme", 3).await;
    world.until_exact().await;
    world.until_state("/v1/businesses/acme", "converged").await;
    let told = get(world, "/v1/businesses/acme/explain").await;
    let shows_tokens = world.local.config("").unwrap().layer.listed_tokens == domain::token_list::ListedTokens::Full;
    for account in told["accounts"].as_array().unwrap() {
        assert_eq!(account["right"], shows_tokens, "{account}");
        let shown = account["at_layer"].as_array().unwrap();
        assert_eq!(shown.iter().filter(|row| row["status"] == "active").count(), 1, "{account}");
        if shows_tokens {
            assert!(shown.iter().any(|row| row["token"] == account["wanted"]), "{account}");
        }
    }
    assert_eq!(
        (told["accounts"].as_array().unwrap().len(), &told["next_list"]["would"]),
        (3, &json!("nothing")),
        "{told}"
    );
    assert_eq!((told["remedies"].clone(), told["blocked"].clone()), (json!([]), json!(null)));

    let third = world.accounts(&item).remove(2);
    world.sandbox.fault(refused(&third));
    world.rotate(&item, Announce::Push).await;
    world.until_state("/v1/businesses/acme", "partly").await;
    let is_told = || async {
        let told = get(world, "/v1/businesses/acme/explain").await;
        let of = |account: &&Value| account["account_id"] == third.as_str();
        let line = told["accounts"].as_array().unwrap().iter().find(of).unwrap().clone();
        line["problem"] == "mint_refused" && line["code"] == "PRODUCTS_NOT_SUPPORTED" && line["again_at"].is_string()
    };
    assert!(holds(is_told).await, "{}", get(world, "/v1/businesses/acme/explain").await);
    let told = get(world, "/v1/businesses/acme/explain").await;
    assert_eq!(told["remedies"][0]["command"], format!("rekey item sync {item}"), "{told}");
    let mut generations: Vec<_> =
        told["accounts"].as_array().unwrap().iter().map(|a| a["generation"].as_i64()).collect();
    generations.sort();
    assert_eq!(generations, [Some(1), Some(2), Some(2)], "{told}");
    let explained = tokio::task::block_in_place(|| text(&cli(world, &["explain", "acme"], None)));
    assert!(explained.contains("generation 1 of 2"), "{explained}");
    let of_item = get(world, &format!("/v1/items/{item}/explain")).await;
    assert_eq!(of_item["businesses"], json!({"acme": "partly"}), "{of_item}");
    assert_eq!(of_item["remedies"][0]["command"], format!("rekey item sync {item}"));
    let listed = tokio::task::block_in_place(|| text(&cli(world, &["parked", "list"], None)));
    assert!(listed.contains("REFUSED") && listed.contains("PRODUCTS_NOT_SUPPORTED"), "{listed}");
    // What it says helps, does.
    world.sandbox.heal();
    let (status, _) = world.admin("POST", &format!("/v1/items/{item}/sync"), None).await;
    assert_eq!(status, 202);
    world.until_exact().await;
    world.until_state("/v1/businesses/acme", "converged").await;
}

async fn i11_a_list_that_is_held_names_the_strangers_and_what_helps(world: &World) {
    world.business("acme");
    world.sandbox.foreign_token("acme", None).unwrap();
    world.link("acme", 1).await;
    world.until_blocked("business", "acme", "unknown_tokens").await;
    let told = get(world, "/v1/businesses/acme/explain").await;
    let strangers = told["strangers"].as_array().unwrap();
    assert_eq!(strangers.len(), 1, "{told}");
    assert!(strangers[0]["account_id"].is_string() || strangers[0]["token"].is_string(), "{told}");
    assert_eq!(told["next_list"]["would"], "hold", "by the function that the reconciler plans with");
    assert_eq!((&told["blocked"]["by"], &told["blocked"]["code"]), (&json!("hold"), &json!("unknown_tokens")));
    assert_eq!(told["accounts"][0]["right"], false, "it is not listed: {told}");
    assert_eq!(told["remedies"][0]["command"], "rekey parked release business acme");
    if let Some(token) = strangers[0]["token"].as_str() {
        assert_eq!(told["remedies"][1]["command"], format!("rekey business token acme {token} remove"), "to be pasted");
    }
    let (status, _) = world.admin("POST", "/v1/parked/business/acme/release", None).await;
    assert_eq!(status, 202);
    world.until("both are listed", || world.sandbox.listed_tokens("acme").len() == 2).await;
    let acts = || async {
        let history = get(world, "/v1/history?subject=business/acme").await;
        let what: Vec<&str> = history["data"].as_array().unwrap().iter().map(|e| e["what"].as_str().unwrap()).collect();
        ["rekey.business.held", "parked.release", "rekey.business.list_accepted"].iter().all(|w| what.contains(w))
    };
    assert!(holds(acts).await, "{}", get(world, "/v1/history?subject=business/acme").await);
    // An act does not overwrite why it was needed.
    let history = get(world, "/v1/history?subject=business/acme").await;
    let of = |what: &str| history["data"].as_array().unwrap().iter().find(|e| e["what"] == what).unwrap().clone();
    assert!(of("rekey.business.held")["text"].as_str().unwrap().contains("does not know"), "{history}");
    assert!(of("parked.release")["by"].is_string(), "{history}");
}

async fn whatever_a_person_has_at_hand_is_found(world: &World) {
    let item = world.link("acme", 2).await;
    world.until_exact().await;
    world.until_state("/v1/businesses/acme", "converged").await;
    let detail = get(world, &format!("/v1/items/{item}")).await;
    let (account, mask) = (&detail["accounts"][0]["account_id"], &detail["accounts"][0]["mask"]);
    let access = &detail["access_tokens"][0]["fingerprint"];
    let business = get(world, "/v1/businesses/acme").await;
    let processor = &business["accounts"][0]["token"];
    let table = [
        (&json!("acme"), "business", "acme", "id"),
        (&business["layer_id"], "business", "acme", "layer_id"),
        (&json!(item), "item", &*item, "id"),
        (account, "item", &*item, "account_id"),
        (mask, "item", &*item, "mask"),
        (access, "item", &*item, "access_token"),
        (processor, "item", &*item, "processor_token"),
    ];
    for (asked, kind, id, by) in table {
        let found = get(world, &format!("/v1/find?q={}", asked.as_str().unwrap())).await;
        assert_eq!(found["data"], json!([{"kind": kind, "id": id, "by": by}]), "{asked}");
    }
    assert_eq!(get(world, "/v1/find?q=nobody").await["data"], json!([]));
    let token = world.sandbox.access_token(&item).unwrap();
    for path in [format!("/v1/find?q={token}"), "/v1/find?q=".to_owned(), "/v1/find?q=a&x=b".to_owned()] {
        let (status, body) = world.admin("GET", &path, None).await;
        assert_eq!(status, 400, "{body}");
        assert!(!body.to_string().contains(&token), "I3");
    }
}

async fn what_happened_is_told_once_and_outlives_acts(world: &World) {
    let item = world.link("acme", 2).await;
    world.until_exact().await;
    world.until_state("/v1/businesses/acme", "converged").await;
    world.rotate(&item, Announce::Push).await;
    world.until_exact().await;
    world.until_state("/v1/businesses/acme", "converged").await;
    let path = format!("/v1/history?subject=item/{item}");
    let rotated = || async {
        let history = get(world, &path).await;
        let what = |entry: &&Value| entry["what"] == "rekey.item.token_changed";
        history["data"].as_array().unwrap().iter().filter(what).count() == 2
    };
    assert!(holds(rotated).await, "{}", get(world, &path).await);
    let history = get(world, &path).await;
    let entries = history["data"].as_array().unwrap();
    let reconciled =
        entries.iter().find(|e| e["what"] == "rekey.reconciled" && e["text"].as_str().unwrap().contains("mint"));
    let steps = &reconciled.unwrap_or_else(|| panic!("{history}"))["detail"]["steps"];
    assert!(steps.as_array().unwrap().iter().any(|s| s["step"] == "mint" && s["times"] == 2), "{steps}");
    assert!(entries.iter().all(|e| e["trace"].is_string() || e["by"].is_string()), "{history}");
    // Page by page it is the same story.
    let (mut paged, mut after) = (Vec::new(), String::new());
    loop {
        let page = get(world, &format!("{path}&limit=2{after}")).await;
        paged.extend(page["data"].as_array().unwrap().clone());
        let Some(next) = page["next"].as_str() else { break };
        after = format!("&after={next}");
    }
    assert_eq!(&paged[paged.len() - entries.len()..], &entries[..], "the newest may have come meanwhile");
    for wrong in ["/v1/history", "/v1/history?subject=acme", "/v1/history?subject=item/x&after=y"] {
        assert_eq!(world.admin("GET", wrong, None).await.0, 400, "{wrong}");
    }
}

/// Page by page, all of them.
async fn all_of(world: &World, path: &str) -> Vec<Value> {
    let (mut all, mut after) = (Vec::new(), String::new());
    loop {
        let page = get(world, &format!("{path}{after}")).await;
        all.extend(page["data"].as_array().unwrap().clone());
        let Some(next) = page["next"].as_str() else { return all };
        after = format!("&after={next}");
    }
}

fn types(outcomes: &[Value]) -> Vec<String> {
    outcomes.iter().map(|o| o["type"].as_str().unwrap().to_owned()).collect()
}

async fn outcomes_are_listed_as_they_are_published(world: &World) {
    let item = world.link("acme", 2).await;
    world.until_exact().await;
    world.until_state("/v1/businesses/acme", "converged").await;
    world.rotate(&item, Announce::Push).await;
    world.until_exact().await;
    world.until_state("/v1/businesses/acme", "converged").await;
    let other = world.link("globex", 1).await;
    world.until_exact().await;
    world.until_state("/v1/businesses/globex", "converged").await;
    world.until_quiet().await;
    // One business each, so that what is told of an Item is published once: until its accounts are known under its own id.
    let listed = all_of(world, "/v1/outcomes?order=oldest&limit=2").await;
    let topics = world.local.config("").unwrap().kafka.topics;
    let all = |seen: &[bus::Delivery]| seen.len() >= listed.len();
    let published = world.read_topic(&topics.outcomes, bus::schema::OUTCOME, all).await;
    for (business, item) in [("acme", &item), ("globex", &other)] {
        let of = |path: String| async move { types(&all_of(world, &path).await) };
        let ours = of(format!("/v1/outcomes?order=oldest&subject=business/{business}")).await;
        let under = |key: &str| {
            let events = published.iter().map(|d| d.event.as_ref().unwrap());
            let of_key = events.filter(|e| e.subject.as_deref() == Some(key)).map(|e| e.kind.clone());
            of_key.collect::<Vec<_>>()
        };
        assert_eq!(ours, [under(item), under(business)].concat(), "{business}");
        let mut newest_first = of(format!("/v1/outcomes?subject=business/{business}&limit=3")).await;
        newest_first.reverse();
        assert_eq!(newest_first, ours);
    }
    assert!(listed.is_sorted_by_key(|o| o["id"].as_str().unwrap().to_owned()));
    let token = listed.iter().find(|o| o["type"] == "rekey.item.token_changed").unwrap();
    assert_eq!((&token["item_id"], &token["business_id"]), (&json!(item), &Value::Null), "{token}");
    assert!(token["data"]["fingerprint"].is_string() && token["text"].is_string(), "{token}");
    let accepted = get(world, "/v1/outcomes?type=rekey.business.list_accepted&subject=business/acme").await;
    assert_eq!(accepted["data"][0]["data"]["replaced"], 2, "their number, for ids go with their Item: {accepted}");
    assert!(types(accepted["data"].as_array().unwrap()).iter().all(|t| t == "rekey.business.list_accepted"));
    assert_eq!(get(world, "/v1/outcomes?since=2100-01-01T00:00:00Z").await["data"], json!([]));
    assert_eq!(all_of(world, "/v1/outcomes?since=2020-01-01T00:00:00Z&order=oldest").await.len(), listed.len());
    for wrong in ["subject=acme", "type=x", "since=x", "order=x", "after=x", "limit=0", "verdict=held", "business=acme"]
    {
        let (status, body) = world.admin("GET", &format!("/v1/outcomes?{wrong}"), None).await;
        assert_eq!(status, 400, "{wrong}: {body}");
    }
    let (_, named) = world.admin("GET", "/v1/outcomes?business=acme", None).await;
    assert!(named["message"].as_str().unwrap().contains("subject"), "{named}");
    let told = tokio::task::block_in_place(|| {
        let run = |arguments: &[&str]| text(&cli(world, &[&["outcomes"][..], arguments].concat(), None));
        (run(&["--business", "acme", "--since", "1h"]), run(&["--json", "--oldest-first"]), run(&["--limit", "1"]))
    });
    assert!(told.0.contains("TYPE") && told.0.contains("business/acme") && !told.0.contains("globex"), "{}", told.0);
    let lines: Vec<Value> = told.1.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines, listed);
    assert!(told.2.contains("# more: --after "), "{}", told.2);
}

async fn outcomes_are_followed_while_the_api_comes_and_goes(world: &World) {
    let item = world.link("acme", 2).await;
    world.until_exact().await;
    world.until_state("/v1/businesses/acme", "converged").await;
    world.until_quiet().await;
    let before = all_of(world, "/v1/outcomes?order=oldest").await.len();
    let console = world.rekeys.iter().find_map(|r| r.console).unwrap();
    let proxy = Proxy::to(vec![console.to_string()]).await;
    let follow = |arguments: &[&str]| {
        let mut child = command(world, proxy.address(), arguments).spawn().unwrap();
        let told = [Arc::<Mutex<Vec<String>>>::default(), Arc::default()];
        let out = BufReader::new(child.stdout.take().unwrap());
        let errors = BufReader::new(child.stderr.take().unwrap());
        let [first, second] = told.clone();
        std::thread::spawn(move || out.lines().for_each(|line| first.lock().unwrap().push(line.unwrap())));
        std::thread::spawn(move || errors.lines().for_each(|line| second.lock().unwrap().push(line.unwrap())));
        (child, told)
    };
    let (mut all, [told, said]) = follow(&["outcomes", "--follow", "--json", "--since", "1h"]);
    let (mut new, [of_now, began]) = follow(&["outcomes", "--follow", "--business", "acme"]);
    assert!(holds(|| async { told.lock().unwrap().len() == before }).await, "{told:?} {said:?}");
    assert!(
        holds(|| async { began.lock().unwrap().iter().any(|line| line.contains("from now on")) }).await,
        "{began:?}"
    );
    proxy.cut();
    assert!(holds(|| async { said.lock().unwrap().iter().any(|line| line.contains("asking again")) }).await);
    world.rotate(&item, Announce::Push).await;
    world.until_exact().await;
    world.until_state("/v1/businesses/acme", "converged").await;
    world.until_quiet().await;
    proxy.heal();
    let listed = all_of(world, "/v1/outcomes?order=oldest").await;
    assert!(holds(|| async { told.lock().unwrap().len() >= listed.len() }).await, "{told:?} {said:?}");
    let lines: Vec<Value> = told.lock().unwrap().iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines, listed, "each once, in order, and none of those that came meanwhile is left out");
    let said = said.lock().unwrap().clone();
    assert_eq!(said.iter().filter(|line| line.contains("asking again")).count(), 1, "said once: {said:?}");
    assert!(said.iter().any(|line| line.contains("answers again")), "{said:?}");
    assert!(holds(|| async { of_now.lock().unwrap().len() >= listed.len() - before }).await, "{of_now:?}");
    assert_eq!(of_now.lock().unwrap().len(), listed.len() - before, "from now on: {of_now:?}");
    for child in [&mut all, &mut new] {
        assert!(process::signal(child.id(), "INT"));
        let ended = tokio::task::block_in_place(|| child.wait().unwrap());
        assert_eq!(ended.code(), Some(0), "Ctrl-C ends it well");
    }
}

/// A sweep that finds everything as it was is no story: a million of them a day would be the whole history.
async fn a_sweep_is_told_where_it_had_to_act(world: &World) {
    let item = world.link("acme", 1).await;
    world.until_exact().await;
    world.until_state("/v1/businesses/acme", "converged").await;
    let reconciled = async || {
        let history = get(world, "/v1/history?subject=business/acme&limit=500").await;
        let of_acme = |e: &&Value| e["what"] == "rekey.reconciled" && e["subject"] == "business/acme";
        history["data"].as_array().unwrap().iter().filter(of_acme).count()
    };
    let sweep = async || {
        let acme = domain::BusinessId::parse("acme").unwrap();
        let mark = domain::queue::Mark::new(&acme, domain::work::Class::Sweep, "sweep");
        let mut tx = world.store().begin().await.unwrap();
        tx.mark(&domain::queue::Mark { quiet: Some(std::time::Duration::ZERO), ..mark }).await.unwrap();
        tx.commit().await.unwrap();
        world.until_quiet().await;
    };
    let before = reconciled().await;
    sweep().await;
    assert_eq!(reconciled().await, before);
    world.sandbox.foreign_token("acme", Some(&world.accounts(&item)[0])).unwrap();
    sweep().await;
    world.until_exact().await;
    assert_eq!(reconciled().await, before + 1, "it sent the list");
}

async fn i11_nothing_is_right_that_nobody_reads(parts: Parts) {
    let mut world = World::start(parts, "").await;
    world.link("acme", 1).await;
    world.until_exact().await;
    assert!(holds(|| async { get(&world, "/v1/status").await["right"] == true }).await);
    world.rekeys.remove(0).stop().await;
    world.start_rekey(&[Role::Console], "").await;
    let pool = sqlx::AnyPool::connect(&world.local.environment["REKEY_DATABASE__URL"]).await.unwrap();
    for (change, told) in [
        ("UPDATE meta SET value = '1' WHERE name LIKE 'group_at_work/%'", "no consumer has been at work for "),
        ("DELETE FROM meta WHERE name LIKE 'group_at_work/%'", "no consumer has been at work yet"),
    ] {
        sqlx::query(change).execute(&pool).await.unwrap();
        let status = get(&world, "/v1/status").await;
        let sentence = status["sentence"].as_str().unwrap();
        assert!(sentence.contains("was right when it was last read") && sentence.contains(told), "{sentence}");
        assert!(status["right"].is_null());
    }
    pool.close().await;
    world.start_rekey(Role::ALL_IN_ONE, "").await;
    assert!(holds(|| async { get(&world, "/v1/status").await["right"] == true }).await, "somebody reads again");
    world.end().await;
}

async fn a_terminal_tells_the_same(world: &World) {
    let told = |arguments: &[&str]| {
        let output = tokio::task::block_in_place(|| cli(world, arguments, None));
        (output.status.code(), text(&output))
    };
    assert!(told(&["status"]).1.starts_with("no business is known yet"), "an empty world is not right");
    let item = world.link("acme", 2).await;
    world.until_exact().await;
    world.until_state("/v1/businesses/acme", "converged").await;
    let right = || async { get(world, "/v1/status").await["right"] == true };
    assert!(holds(right).await);
    assert!(told(&["status"]).1.starts_with("every business's list is right"));
    let (code, explained) = told(&["explain", "acme"]);
    assert_eq!(code, Some(0), "{explained}");
    for part in ["acme  converged", "STANDING", "right", "Next list: the one that Layer has", "What happened:"] {
        assert!(explained.contains(part), "{part}: {explained}");
    }
    let mask = get(world, &format!("/v1/items/{item}")).await["accounts"][0]["mask"].as_str().unwrap().to_owned();
    let (code, explained) = told(&["explain", &mask]);
    assert_eq!(code, Some(0), "{explained}");
    assert!(explained.starts_with(&item) && explained.contains("business acme is converged"), "{explained}");
    assert_eq!(told(&["explain", "nobody"]).0, Some(3));
    // One text that is two things is asked back.
    world.link("globex", 2).await;
    let two = || async { get(world, &format!("/v1/find?q={mask}")).await["data"].as_array().unwrap().len() == 2 };
    assert!(holds(two).await);
    let (code, asked_back) = told(&["explain", &mask]);
    assert!(code == Some(0) && asked_back.contains("ask for one of them"), "{asked_back}");
    assert_eq!(told(&["explain", &format!("item/{item}")]).0, Some(0));
    let (code, history) = told(&["history", "acme", "--limit", "3"]);
    assert!(code == Some(0) && history.contains("WHEN") && history.contains("# more"), "{history}");
    world.sandbox.require_login(&item).unwrap();
    world.webhook(&item, "ERROR", &json!({"error": {"error_code": "ITEM_LOGIN_REQUIRED", "error_type": "ITEM_ERROR"}}));
    world.until_state("/v1/businesses/acme", "waiting_for_user").await;
    let (_, status) = told(&["status"]);
    assert!(status.contains("1 business is not right: 1 waiting_for_user"), "{status}");
    // What no waiting brings is told at once, by the exit code as well.
    let (code, waited) = told(&["item", "sync", &item, "--wait"]);
    assert_eq!(code, Some(5), "{waited}");
    assert!(waited.contains("it waits for the customer: `rekey explain"), "{waited}");
    let (_, explained) = told(&["explain", "acme"]);
    assert!(explained.contains("waits for the customer") && explained.contains("What helps:"), "{explained}");
    assert_eq!(told(&["pauses"]), (Some(0), "no provider is paused\n".to_owned()));
}
