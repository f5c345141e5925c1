//! The registry of metrics, the code, and what a running system shows are the same.

use domain::metric::{self, Type};
use sandbox::{Admin, Announce, Fault, FaultKind, Sandbox, Signer};
use serde_json::json;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use tests::metrics::{Sample, read, scrape, total};
use tests::process::Process;
use tests::{Parts, World, holds};

on_both_parts!(what_a_running_system_shows_is_the_registry,);

/// What the story below does not bring about, and why.
const NOT_COUNTED: [(&str, &str); 7] = [
    (metric::CONNECTIONS_EVICTED, "nobody floods it"),
    (metric::KAFKA_ERRORS, "the broker stays"),
    (metric::INTAKE_GAPS, "no record is lost"),
    (metric::LEASES_LOST, "no process is frozen"),
    (metric::THIRD_LISTS, "nobody else writes to Layer"),
    (metric::LAYER_OWNED_CHANGED, "Layer keeps what it connected"),
    (metric::BUDGET_POSTPONED, "the budget is larger than the story"),
];

/// A process of its own: the recorder of the test's process is shared by all stories.
async fn what_a_running_system_shows_is_the_registry(parts: Parts) {
    // The sweep comes soon, to find what nobody announces.
    let world = World::without_rekey(parts, "[consumer]\nsweep_period = \"2s\"\n").await;
    let rekey = Process::start(&world, "all").await;
    let url = format!("http://{}/webhooks/plaid", rekey.listen);
    let admin = Admin { url: format!("http://{}", rekey.console), token: world.local.admin_token.clone().into() };
    world.sandbox.set_webhook_url(url.clone());
    world.sandbox.set_admin(admin);

    let first = read(&scrape(rekey.ops).await);
    assert_eq!(total(&first, metric::READY, &[]), Some(1.0));
    assert_eq!(
        total(&first, metric::MINTS, &[("result", "live")]),
        Some(0.0),
        "counters begin before their first event"
    );

    // Linked, rotated as announced, and rotated without a word; mints whose answers are lost or refused.
    world.business("acme");
    world.sandbox.fault(Fault::times("/processor/token/create", 1, FaultKind::LoseAnswer));
    let item = world.link("acme", 2).await;
    let exact = || async { world.sandbox.verdict().exact };
    assert!(holds(exact).await, "{:?}", world.sandbox.verdict());
    let too_much = answer(429, "RATE_LIMIT_EXCEEDED", "ACCOUNTS_LIMIT");
    world.sandbox.fault(Fault::times("/accounts/get", 1, too_much));
    // Where a rotation kills nothing the list stays exact; and what the sweep shall find, nobody may find before it.
    for announce in [Announce::Push, Announce::Database] {
        let minted = world.sandbox.verdict().counts.mints;
        world.rotate(&item, announce).await;
        let followed = || async { world.sandbox.verdict().counts.mints >= minted + 2 && world.sandbox.verdict().exact };
        assert!(holds(followed).await, "{:?}", world.sandbox.verdict());
    }
    // Webhooks: taken, about nobody, forged, and signed nonsense.
    let about = |item: &str| Sandbox::webhook_body("ITEM", "LOGIN_REPAIRED", Some(item), &json!({}));
    assert_eq!(world.sandbox.send_once(&url, &about(&item)).await, 200);
    assert_eq!(world.sandbox.send_once(&url, &about("nobody-pushed-me")).await, 200);
    assert_eq!(world.sandbox.send_once(&url, b"nonsense").await, 200);
    let forged = Signer::new(&mut rand::rng()).sign(&about(&item), jiff::Timestamp::now().as_second());
    let sent = reqwest::Client::new().post(&url).header("plaid-verification", forged).body(about(&item)).send().await;
    assert_eq!(sent.unwrap().status(), 401);

    let seen = || async { missing(&read(&scrape(rekey.ops).await), parts).is_empty() };
    assert!(holds(seen).await, "never shown: {:?}", missing(&read(&scrape(rekey.ops).await), parts));

    // A row that Plaid refuses, for a reason that is no word of ours.
    let refusal = Fault {
        about: Some(item.clone()),
        ..Fault::new("/accounts/get", answer(400, "INVALID_REQUEST", "CODE_OF_2031"))
    };
    world.sandbox.fault(refusal);
    let parked = [("kind", "item"), ("by", "parked"), ("code", "other")];
    let is_parked = || async {
        let now = read(&scrape(rekey.ops).await);
        total(&now, metric::BLOCKED_ROWS, &parked) == Some(1.0)
            && total(&now, metric::UNCONVERGED_BUSINESSES, &[]) == Some(1.0)
    };
    assert!(holds(is_parked).await, "{}", scrape(rekey.ops).await);
    world.sandbox.heal();
    let is_safe = || async {
        let now = read(&scrape(rekey.ops).await);
        total(&now, metric::BLOCKED_ROWS, &parked) == Some(0.0)
            && total(&now, metric::UNCONVERGED_BUSINESSES, &[]) == Some(0.0)
            && total(&now, metric::UNCONVERGED_OLDEST, &[]) == Some(0.0)
    };
    assert!(holds(is_safe).await, "{}", scrape(rekey.ops).await);

    let text = scrape(rekey.ops).await;
    let accounts = world.accounts(&item);
    for id in accounts.iter().chain(&world.sandbox.secrets()).chain(&["acme".to_owned(), item.clone()]) {
        assert!(!text.contains(id.as_str()), "{id} in {text}");
    }
    for shown in read(&text) {
        let help = format!("# HELP {} {}", shown.metric.name, shown.metric.help());
        assert!(text.contains(&help), "not described: {help}");
    }
    assert_eq!(rekey.terminate().await, Some(0));
    world.end().await;
}

fn answer(status: u16, error_type: &str, error_code: &str) -> FaultKind {
    FaultKind::Answer { status, error_type: error_type.into(), error_code: error_code.into(), retry_after: None }
}

/// Metrics that were not shown, and counters and histograms that nothing has moved.
fn missing(samples: &[Sample], parts: Parts) -> Vec<&'static str> {
    let excused = |name: &str| match name {
        metric::CERTIFICATE_EXPIRES => true, // The sandbox speaks plain HTTP; `tls` sees it.
        metric::TOPIC_MIN_INSYNC => parts == Parts::Embedded, // The broker in the process does not tell.
        _ => false,
    };
    let uncounted: Vec<&str> = NOT_COUNTED.iter().map(|(name, _)| *name).collect();
    let wanted = metric::ALL.iter().filter(|m| !excused(m.name));
    let seen = |m: &&metric::Metric| {
        let total = total(samples, m.name, &[]);
        match m.kind {
            Type::Gauge => total.is_some(),
            Type::Counter if uncounted.contains(&m.name) => total.is_some(),
            Type::Counter | Type::Histogram => total.is_some_and(|n| n > 0.0),
        }
    };
    wanted.filter(|m| !seen(m)).map(|m| m.name).collect()
}

#[test]
fn code_names_metrics_by_the_registry_and_the_registry_names_none_that_code_does_not() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates");
    let registry = crates.join("domain/src/metric.rs");
    let mut used = BTreeSet::new();
    for path in sources(&crates).into_iter().filter(|p| *p != registry) {
        let text = std::fs::read_to_string(&path).unwrap();
        for call in ["counter!(", "gauge!(", "histogram!("] {
            for named in text.split(call).skip(1).map(str::trim_start) {
                assert!(
                    named.starts_with("metric::")
                        || named.starts_with("metric.name")
                        || named.starts_with("name, help"),
                    "{}: {call}{} is not in the registry",
                    path.display(),
                    &named[..40.min(named.len())]
                );
            }
        }
        let names =
            text.split("metric::").skip(1).map(|rest| rest.split(|c: char| c != '_' && !c.is_ascii_uppercase()).next());
        used.extend(names.flatten().map(str::to_owned));
    }
    let text = std::fs::read_to_string(&registry).unwrap();
    let entries =
        text.split_once("\nregistry! {").unwrap().1.lines().filter_map(|l| l.strip_prefix("    ")?.split_once(" = "));
    for (constant, _) in entries.filter(|(name, _)| name.chars().all(|c| c == '_' || c.is_ascii_uppercase())) {
        assert!(used.contains(constant), "nothing shows metric::{constant}");
    }
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    entries
        .flat_map(|path| match path.is_dir() {
            true => sources(&path),
            false => vec![path],
        })
        .filter(|p| p.extension().is_some_and(|e| e == "rs"))
        .collect()
}
