//! The admin API and the command line.

use domain::Role;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::process::{Command, Output};
use tests::{Parts, World, process};

stories!(
    every_list_is_paginated,
    each_act_is_told_with_who_from_where_and_what_changed,
    i3_a_token_goes_in_and_never_comes_out,
    a_person_waits_until_layer_accepted_it,
    the_command_line_acts_through_the_admin_api,
    an_import_is_resumable,
);

on_both_parts!(a_customer_is_erased_from_the_command_line, guesses_at_the_admin_token_are_limited_and_stop_nobody,);

async fn every_list_is_paginated(world: &World) {
    for n in 0..5 {
        world.business(&format!("b{n}"));
        world.link(&format!("b{n}"), 1).await;
    }
    world.until_exact().await;
    for path in ["/v1/items", "/v1/businesses"] {
        let (mut seen, mut after) = (0, String::new());
        loop {
            let (status, body) = world.admin("GET", &format!("{path}?limit=2{after}"), None).await;
            assert_eq!(status, 200, "{body}");
            seen += body["data"].as_array().unwrap().len();
            match body["next"].as_str() {
                Some(next) => after = format!("&after={next}"),
                None => break,
            }
        }
        assert_eq!(seen, 5, "{path}");
    }
}

/// Moving an account to another business must not read like a no-op, and nobody can take an entry out.
async fn each_act_is_told_with_who_from_where_and_what_changed(world: &World) {
    world.business("globex");
    let item = world.link("acme", 1).await;
    world.until_exact().await;
    world.sync_item(&item).await;
    let account = world.sandbox.accounts_of(&item).unwrap().remove(0);
    world.sandbox.assign_account(&account, Some("globex")).unwrap();
    let moved = json!({"accounts": [{"account_id": account, "business": "globex"}]});
    let (status, answer) = world.admin("PUT", &format!("/v1/items/{item}?timeout=30"), Some(&moved)).await;
    assert_eq!(status, 200, "{answer}");
    let path = format!("/v1/audit?subject=item/{item}");
    let (status, body) = world.admin("GET", &path, None).await;
    assert_eq!(status, 200, "{body}");
    let entries = body["data"].as_array().unwrap();
    let told: Vec<(&str, &str, &str)> = entries
        .iter()
        .map(|e| (e["action"].as_str().unwrap(), e["by"].as_str().unwrap(), e["from"].as_str().unwrap()))
        .collect();
    let by = ("local", "127.0.0.1");
    assert_eq!(told, [("item.put", by.0, by.1), ("item.sync", by.0, by.1), ("item.put", by.0, by.1)], "newest first");
    let put = &entries[0];
    assert_eq!((&put["was"]["business"], &put["was"]["accounts"]), (&json!("acme"), &json!("all")), "{put}");
    assert_eq!(put["became"], moved, "what it said, and no more");
    let first = &entries[2];
    assert_eq!(first["was"], Value::Null, "nobody had pushed it");
    let token = first["became"]["token"].as_str().unwrap();
    assert!(token.starts_with("fp1_") && put["was"]["token"] == token, "{first} {put}");
    // A page at a time, by who did it.
    let (_, page) = world.admin("GET", &format!("{path}&limit=2&by=local"), None).await;
    let (_, rest) = world.admin("GET", &format!("{path}&after={}", page["next"].as_str().unwrap()), None).await;
    assert_eq!(rest["data"].as_array().unwrap()[..], entries[2..], "{page}");
    let (_, none) = world.admin("GET", "/v1/audit?by=nobody", None).await;
    assert_eq!(none["data"], json!([]));
    let (status, refused) = world.admin("GET", "/v1/audit?subject=acme", None).await;
    assert_eq!(status, 400, "{refused}");
    let printed = text(&cli(world, &["audit", "--subject", &format!("item/{item}"), "--limit", "1"], None));
    assert!(printed.contains("item.put") && printed.contains("globex") && printed.contains("127.0.0.1"), "{printed}");
}

async fn i3_a_token_goes_in_and_never_comes_out(world: &World) {
    let item = world.link("acme", 1).await;
    world.until_exact().await;
    let mut secrets = vec![world.sandbox.access_token(&item).unwrap(), world.local.admin_token.clone()];
    secrets.extend(world.sandbox.listed_tokens("acme"));
    let paths = [
        "/v1/items".to_owned(),
        format!("/v1/items/{item}"),
        "/v1/businesses".to_owned(),
        "/v1/businesses/acme".to_owned(),
        "/v1/parked".to_owned(),
        "/openapi.json".to_owned(),
    ];
    let metrics = reqwest::get(format!("http://{}/metrics", world.rekey().ops)).await.unwrap().text().await.unwrap();
    let mut answers = vec![metrics];
    for path in paths {
        answers.push(world.admin("GET", &path, None).await.1.to_string());
    }
    let broken = json!({"access_token": ["access-sandbox-marked"], "business": 7});
    answers.push(world.admin("PUT", &format!("/v1/items/{item}"), Some(&broken)).await.1.to_string());
    for answer in &answers {
        for secret in &secrets {
            assert!(!answer.contains(secret.as_str()), "I3: a secret in {answer}");
        }
        assert!(!answer.contains("access-sandbox-"), "I3: {answer}");
    }
}

async fn a_person_waits_until_layer_accepted_it(world: &World) {
    world.business("acme");
    let item = world.link_as("acme", 2, sandbox::Announce::Silent).await;
    let body = world.sandbox.push_body(&item, &json!({})).unwrap();
    let (status, answer) =
        world.admin("PUT", &format!("/v1/items/{item}?wait=converged&timeout=20"), Some(&body)).await;
    assert_eq!((status, answer["converged"].as_bool()), (200, Some(true)), "{answer}");
    assert!(world.sandbox.business_verdict("acme").exact, "it is true at the moment of the answer");
}

/// A command that calls the admin API at this address.
pub(crate) fn command(world: &World, console: SocketAddr, arguments: &[&str]) -> Command {
    let mut command = Command::new(process::binary());
    command
        .args(arguments)
        .env("REKEY_ADMIN__URL", format!("http://{console}"))
        .env("REKEY_ADMIN__TOKEN", &world.local.admin_token)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    command
}

pub(crate) fn cli(world: &World, arguments: &[&str], input: Option<&str>) -> Output {
    let console = world.rekeys.iter().find_map(|r| r.console).unwrap();
    let mut child = command(world, console, arguments).spawn().unwrap();
    if let Some(input) = input {
        std::io::Write::write_all(child.stdin.as_mut().unwrap(), input.as_bytes()).unwrap();
    }
    child.wait_with_output().unwrap()
}

pub(crate) fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

async fn the_command_line_acts_through_the_admin_api(world: &World) {
    world.business("acme");
    let item = world.link_as("acme", 1, sandbox::Announce::Silent).await;
    let token = world.sandbox.access_token(&item).unwrap();
    let run = |arguments: &[&str], input: Option<&str>| cli(world, arguments, input);
    let put = ["item", "put", &item, "--business", "acme", "--token-file", "-", "--wait"];
    let output = tokio::task::block_in_place(|| run(&put, Some(&token)));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(!text(&output).contains(&token), "I3");
    world.until_exact().await;
    let shown = tokio::task::block_in_place(|| run(&["business", "show", "acme", "--json"], None));
    let value: Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(value["differs"], json!([]));
    for (arguments, code) in [
        (vec!["item", "show", &item], 0),
        (vec!["item", "show", "nobody"], 3),
        (vec!["item", "list"], 0),
        (vec!["item", "sync", &item], 0),
        (vec!["item", "put", &item, "--all-accounts"], 0),
        (vec!["item", "put", &item], 2),
        (vec!["business", "list", "--limit", "1"], 0),
        (vec!["business", "sync", "acme"], 0),
        (vec!["parked", "list"], 0),
        (vec!["parked", "release", "item", "nobody"], 3),
        (vec!["item", "frobnicate"], 2),
    ] {
        let output = tokio::task::block_in_place(|| run(&arguments, None));
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", text(&output));
    }
    let wrong = ["item", "put", &item, "--business", "acme", "--token-file", "-"];
    let output = tokio::task::block_in_place(|| run(&wrong, Some("access-sandbox-dead")));
    assert_eq!(output.status.code(), Some(4), "{}", text(&output));
    world.sandbox.offboard(&item, false).await.unwrap();
    let output = tokio::task::block_in_place(|| run(&["item", "remove", &item, "--yes"], None));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
}

async fn a_customer_is_erased_from_the_command_line(parts: Parts) {
    let world = World::start(parts, "").await;
    let item = world.link("acme", 2).await;
    world.until_exact().await;
    let steps = |steps: &[(&[&str], i32)]| {
        for (arguments, code) in steps {
            let output = tokio::task::block_in_place(|| cli(&world, arguments, None));
            assert_eq!(output.status.code(), Some(*code), "{arguments:?}: {}", text(&output));
        }
    };
    steps(&[(&["item", "erase", &item, "--yes"], 1), (&["business", "erase", "nobody", "--yes"], 3)]);
    world.sandbox.offboard(&item, false).await.unwrap();
    steps(&[(&["item", "remove", &item], 2), (&["item", "remove", &item, "--yes"], 0)]);
    world.until_exact().await;
    steps(&[(&["item", "erase", &item, "--yes"], 1), (&["business", "erase", "acme", "--yes"], 1)]);
    let url = &world.local.environment["REKEY_DATABASE__URL"];
    let pool = sqlx::any::AnyPoolOptions::new().connect(url).await.unwrap();
    for time_passes in
        ["UPDATE items SET state_since = state_since - 900000", "UPDATE businesses SET put_at = put_at - 900000"]
    {
        sqlx::query(time_passes).execute(&pool).await.unwrap();
    }
    pool.close().await;
    // What every story's end asks of the ledger goes with the Item.
    let store = world.rekeys.iter().find_map(|r| r.store.get()).unwrap();
    let known = tests::ledger(store, std::slice::from_ref(&item)).await.unwrap();
    steps(&[
        (&["item", "erase", &item, "--yes"], 0),
        (&["item", "show", &item], 3),
        (&["business", "erase", "acme", "--yes"], 0),
        (&["business", "show", "acme"], 3),
    ]);
    assert_eq!(known, [("superseded".to_owned(), 2)].into());
    let verdict = world.sandbox.verdict();
    assert!(verdict.exact && verdict.violations.is_empty(), "{verdict:?}");
    for rekey in world.rekeys {
        rekey.stop().await;
    }
    world.local.stop().await;
}

async fn an_import_is_resumable(world: &World) {
    let mut lines = Vec::new();
    for n in 0..6 {
        let business = format!("b{n}");
        world.business(&business);
        let item = world.link_as(&business, 1, sandbox::Announce::Silent).await;
        let mut body = world.sandbox.push_body(&item, &json!({})).unwrap();
        body["item_id"] = item.into();
        lines.push(body.to_string());
    }
    let file = world.local.directory.path().join("items.jsonl");
    let path = file.display().to_string();
    std::fs::write(&file, format!("{}\nnot json\n", lines[..3].join("\n"))).unwrap();
    let output = tokio::task::block_in_place(|| cli(world, &["import", &path], None));
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output).contains("line 4") && text(&output).contains("nothing was sent"), "{}", text(&output));
    assert_eq!(world.sandbox.calls("/accounts/get"), 0);
    std::fs::write(&file, lines[..3].join("\n")).unwrap();
    let output = tokio::task::block_in_place(|| cli(world, &["import", &path], None));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    std::fs::write(&file, lines.join("\n")).unwrap();
    let output = tokio::task::block_in_place(|| cli(world, &["import", &path], None));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    world.until_exact().await;
    assert_eq!(world.sandbox.calls("/accounts/get"), 6, "the second run went on where the first one ended");
}

/// From one address: guesses end, whoever was right there goes on, and another address is not concerned.
async fn guesses_at_the_admin_token_are_limited_and_stop_nobody(parts: Parts) {
    let mut world = World::without_rekey(parts, "").await;
    let (late, hash) = console::new_token();
    let entries = world.local.environment["REKEY_CONSOLE__TOKENS"].clone();
    world.local.environment.insert("REKEY_CONSOLE__TOKENS".into(), format!("{entries},late:read:{hash}"));
    world.start_rekey(&[Role::Console], "").await;
    let url = format!("http://{}/v1/items", world.rekey().console.unwrap());
    let from =
        |address: &str| reqwest::Client::builder().local_address(Some(address.parse().unwrap())).build().unwrap();
    let (here, there) = (from("127.0.0.1"), from("127.0.0.2"));
    let call = |client: &reqwest::Client, token: &str| client.get(&url).bearer_auth(token).send();
    assert_eq!(call(&here, &world.local.admin_token).await.unwrap().status(), 200);
    let mut refused = 0;
    let limited = loop {
        let answer = call(&here, &format!("rekey_{refused}")).await.unwrap();
        match answer.status().as_u16() {
            401 if refused < 100 => refused += 1,
            429 => break answer,
            other => panic!("{other} after {refused} guesses"),
        }
    };
    assert!((5..=50).contains(&refused), "{refused}");
    let wait: u64 = limited.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
    assert_eq!(limited.json::<Value>().await.unwrap()["error"], "too_many_wrong_tokens");
    assert_eq!(call(&here, &late).await.unwrap().status(), 200, "a right token always passes, seen before or not");
    assert_eq!(call(&here, &world.local.admin_token).await.unwrap().status(), 200);
    assert_eq!(call(&there, &late).await.unwrap().status(), 200, "another address");
    world.end_with_parked().await;
}

/// The document names exactly the routes that exist, with the roles that they need.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_openapi_document_is_true() {
    let mut world = World::without_rekey(Parts::Embedded, "").await;
    let (reader, hash) = console::new_token();
    let entries = world.local.environment["REKEY_CONSOLE__TOKENS"].clone();
    world.local.environment.insert("REKEY_CONSOLE__TOKENS".into(), format!("{entries},reader:read:{hash}"));
    world.start_rekey(&[Role::Console], "").await;
    let base = format!("http://{}", world.rekey().console.unwrap());
    let client = reqwest::Client::new();
    let document: Value = client.get(format!("{base}/openapi.json")).send().await.unwrap().json().await.unwrap();
    let paths = document["paths"].as_object().unwrap();
    assert!(paths.len() >= 9, "{:?}", paths.keys());
    for (path, operations) in paths {
        let url = format!("{base}{}", path.replace("{kind}", "item").replace(['{', '}'], ""));
        for method in ["get", "put", "post", "delete"] {
            let parameters = operations[method]["parameters"].as_array().into_iter().flatten();
            let required = parameters.filter(|p| p["in"] == "query" && p["required"] == true);
            let query: Vec<_> = required.map(|p| (p["name"].as_str().unwrap().to_owned(), "item/x")).collect();
            let request = || client.request(method.to_uppercase().parse().unwrap(), &url).query(&query);
            let unauthorized = request().send().await.unwrap().status();
            let as_reader = request().bearer_auth(&reader).send().await.unwrap();
            let known = operations.get(method).is_some();
            match (known, method) {
                (false, _) => {
                    assert_eq!(as_reader.status(), if method == "get" { 405 } else { 403 }, "{method} {path}");
                }
                (true, "get") => assert!(matches!(as_reader.status().as_u16(), 200 | 404), "{method} {path}"),
                (true, _) => assert_eq!(as_reader.status(), 403, "{method} {path}: a reader may not"),
            }
            assert_eq!(unauthorized, 401, "{method} {path} without a token");
        }
    }
    world.end_with_parked().await;
}
