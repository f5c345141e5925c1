//! The verdict: sets that have to be equal.

use crate::drive::Platform;
use crate::faults::Storm;
use crate::stage::{Brokers, Stage};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use tests::topics::{self, Record};

type Set = BTreeSet<String>;

/// Looks for what is left to do.
pub(crate) struct Left {
    store: sqlx::AnyPool,
    brokers: String,
    group: String,
    consumed: Vec<String>,
}

impl Left {
    pub(crate) fn new(stage: &Stage, brokers: &Brokers) -> Self {
        sqlx::any::install_default_drivers();
        Self {
            store: sqlx::any::AnyPoolOptions::new().max_connections(1).connect_lazy(&stage.store_url).unwrap(),
            brokers: brokers.address.clone(),
            group: stage.group.clone(),
            consumed: vec![stage.topics[0].clone(), stage.topics[2].clone()],
        }
    }

    /// Empty: every list is exact, no row waits, is leased or blocked, every record is settled, nothing is to publish.
    pub(crate) async fn look(&self, stage: &Stage, platform: &Platform) -> Vec<String> {
        let wrong = stage.world.sandbox.verdict().wrong;
        let mut left: Vec<String> = wrong.iter().map(|w| format!("list {w:?}")).collect();
        let work = "SELECT kind || ' ' || id || ': ' || COALESCE(blocked_code, reason) FROM work
            WHERE lease_owner IS NOT NULL OR wanted > done OR blocked_by IS NOT NULL ORDER BY id LIMIT 20";
        for (what, sql) in [("row", work), ("outbox", "SELECT id || ' ' || record_type FROM outbox LIMIT 20")] {
            match sqlx::query_scalar::<_, String>(sql).fetch_all(&self.store).await {
                Ok(found) => left.extend(found.into_iter().map(|f| format!("{what} {f}"))),
                Err(error) => left.push(format!("the store does not answer: {error}")),
            }
        }
        // The sweep comes again and again; the brokers are asked only when the rest is quiet.
        if left.is_empty() {
            let (brokers, group, consumed) = (self.brokers.clone(), self.group.clone(), self.consumed.clone());
            let behind = tokio::task::spawn_blocking(move || topics::lag(&brokers, &group, &consumed)).await.unwrap();
            // Before the first record the group has settled nothing.
            if behind > 0 && platform.rotations.load(Ordering::Relaxed) > 0 {
                left.push(format!("{behind} records not settled by the group"));
            }
        }
        left
    }

    async fn ledger(&self) -> BTreeMap<String, i64> {
        let sql = "SELECT state, COUNT(*) FROM processor_tokens GROUP BY state";
        sqlx::query_as::<_, (String, i64)>(sql).fetch_all(&self.store).await.unwrap().into_iter().collect()
    }
}

/// Two sets, and what only one of them has.
struct Comparison {
    what: &'static str,
    expected: Set,
    found: Set,
    /// May be found though nobody has to find it.
    allowed: Set,
}

impl Comparison {
    fn show(&self, red: &mut Vec<String>) {
        let missing: Vec<&String> = self.expected.difference(&self.found).collect();
        let extra: Vec<&String> = self.found.difference(&self.expected).collect();
        let (tolerated, unexpected): (Vec<&String>, Vec<&String>) =
            extra.into_iter().partition(|e| self.allowed.contains(*e));
        println!(
            "  {:<58} {:>8} {:>8} {:>8} {:>10} {:>10}",
            self.what,
            self.expected.len(),
            self.found.len(),
            missing.len(),
            unexpected.len(),
            tolerated.len()
        );
        for (how, which) in [("missing", missing), ("unexpected", unexpected)] {
            if !which.is_empty() {
                let some: Vec<_> = which.iter().take(5).collect();
                red.push(format!("{}: {} {how}, such as {some:?}", self.what, which.len()));
            }
        }
    }
}

/// Compares, prints, and returns what did not hold.
pub(crate) async fn judge(storm: &Storm, platform: &Platform, left: Vec<String>) -> Vec<String> {
    let stage = &storm.stage;
    let mut red: Vec<String> = left.into_iter().map(|l| format!("I10: left after the bound: {l}")).collect();
    let webhooks = webhooks(storm, platform).await;
    let lists = lists(stage);
    let (known, current) = tokens(stage, platform).await;
    let accepted = accepted(stage, platform).await;
    let (outcomes, told) = outcomes(storm).await;
    let dead = dead_letters(storm).await;
    println!(
        "\n  {:<58} {:>8} {:>8} {:>8} {:>10} {:>10}",
        "set", "expected", "found", "missing", "unexpected", "tolerated"
    );
    for comparison in [webhooks, lists, known, current, accepted, outcomes, dead] {
        comparison.show(&mut red);
    }
    red.extend(figures(storm, platform, told).await);
    println!();
    red
}

async fn read(storm: &Storm, topic: &str) -> Vec<Record> {
    let (address, topic) = (storm.brokers.address.clone(), topic.to_owned());
    tokio::task::spawn_blocking(move || topics::read_all(&address, &topic)).await.unwrap()
}

/// What makes a webhook this one: its marker, and what it says about which Item.
fn webhook_id(value: &Value) -> String {
    let field = |name: &str| value[name].as_str().unwrap_or("?").to_owned();
    let [marker, item] = ["storm", "item_id"].map(field);
    format!("{marker} {} {item}", ["webhook_type", "webhook_code"].map(field).join("/"))
}

/// Each webhook that was answered 200 is on its topic, and nothing that Plaid did not send. One that is there without a
/// 200 had its answer lost.
async fn webhooks(storm: &Storm, platform: &Platform) -> Comparison {
    let bodies = storm.stage.world.sandbox.accepted_webhooks();
    let expected = bodies.iter().map(|b| webhook_id(&serde_json::from_slice(b).unwrap())).collect();
    let records = read(storm, storm.stage.item_events()).await;
    let sent = platform.sent();
    let mut found = Set::new();
    let mut allowed = Set::new();
    for record in records {
        let mut id = webhook_id(&record.value);
        // To tell what stands where a missing one should be.
        tracing::debug!(id, partition = record.place.0, offset = record.place.1, "record");
        if record.value["item_id"] != record.key.as_str() {
            id.push_str(" under another key");
        } else if sent.contains(record.value["storm"].as_str().unwrap_or_default()) {
            allowed.insert(id.clone());
        }
        found.insert(id);
    }
    Comparison { what: "(a) webhooks answered 200 = records on the topic", expected, found, allowed }
}

/// Each account that belongs into a list stands there once, with a token that works.
fn lists(stage: &Stage) -> Comparison {
    let expected = stage.world.sandbox.wanted().into_iter().map(|(b, a)| format!("{b} {a}")).collect();
    let mut found = Set::new();
    for row in stage.world.sandbox.listed() {
        let mut id = format!("{} {}", row.business, row.account);
        if !row.alive {
            id.push_str(" with a dead token");
        }
        while !found.insert(id.clone()) {
            id.push_str(" again");
        }
    }
    Comparison { what: "(c) accounts that belong into a list = listed and alive", expected, found, allowed: Set::new() }
}

/// The last token of each Item whose push was answered 200 or 202 is known to Rekey, and every Item's current token is
/// the one that the platform holds.
async fn tokens(stage: &Stage, platform: &Platform) -> (Comparison, Comparison) {
    let mut known = Set::new();
    let mut current = Set::new();
    for (item, _) in &platform.items {
        let shown = admin(stage, &format!("/v1/items/{item}")).await;
        for token in shown["access_tokens"].as_array().into_iter().flatten() {
            let id = format!("{item} {}", token["fingerprint"].as_str().unwrap_or_default());
            if token["standing"] == "current" {
                current.insert(id.clone());
            }
            known.insert(id);
        }
    }
    let pushed: Set =
        platform.pushed().into_iter().map(|(item, fingerprint)| format!("{item} {fingerprint}")).collect();
    let truth = |(item, _): &(String, String)| {
        format!("{item} {}", platform.fingerprint(&stage.world.sandbox.access_token(item).unwrap()))
    };
    let truth = platform.items.iter().map(truth).collect();
    let of_pushes = Comparison {
        what: "(b) last pushes answered 200 or 202 = known tokens",
        expected: pushed,
        allowed: known.clone(),
        found: known,
    };
    let of_items = Comparison {
        what: "(b) the platform's tokens = current tokens",
        expected: truth,
        found: current,
        allowed: Set::new(),
    };
    (of_pushes, of_items)
}

/// What Rekey believes of each list is what Layer has, token by token.
async fn accepted(stage: &Stage, platform: &Platform) -> Comparison {
    let row = |r: sandbox::Listed| format!("{} {} {}", r.business, r.account, platform.fingerprint(&r.token));
    let expected = stage.world.sandbox.listed().into_iter().map(row).collect();
    let businesses: BTreeSet<&String> = platform.items.iter().map(|(_, business)| business).collect();
    let mut found = Set::new();
    for business in businesses {
        let shown = admin(stage, &format!("/v1/businesses/{business}")).await;
        for account in shown["accounts"].as_array().into_iter().flatten().filter(|a| a["accepted"] == true) {
            let field = |name: &str| account[name].as_str().unwrap_or("?").to_owned();
            found.insert(format!("{business} {} {}", field("account_id"), field("token")));
        }
    }
    Comparison { what: "(c) tokens at Layer = tokens that Rekey calls accepted", expected, found, allowed: Set::new() }
}

/// Whoever's list changed has an outcome that says so.
///
/// A set of businesses and not of changes: a change whose process dies before it commits is found done by the next
/// reconciliation, which has nothing to say. How often that was is printed with the figures.
async fn outcomes(storm: &Storm) -> (Comparison, usize) {
    let expected = storm.stage.world.sandbox.changed_lists().into_keys().collect();
    let records = read(storm, storm.stage.outcomes()).await;
    let converged: Vec<Record> = records.into_iter().filter(|r| r.kind == "rekey.business.list_accepted").collect();
    let told = converged.iter().map(|r| &r.id).collect::<BTreeSet<_>>().len();
    let found = converged.into_iter().map(|r| r.key).collect();
    let comparison = Comparison {
        what: "(e) businesses whose list changed = with an outcome",
        expected,
        found,
        allowed: Set::new(),
    };
    (comparison, told)
}

async fn dead_letters(storm: &Storm) -> Comparison {
    let records = read(storm, storm.stage.dead_letters()).await;
    let found = records.into_iter().map(|r| r.value.to_string()).collect();
    Comparison { what: "    dead letters: none", expected: Set::new(), found, allowed: Set::new() }
}

async fn admin(stage: &Stage, path: &str) -> Value {
    let (status, body) = stage.world.admin("GET", path, None).await;
    assert_eq!(status, 200, "{path}: {body}");
    body
}

/// What is judged by the oracle and the ledger, and figures to read.
async fn figures(storm: &Storm, platform: &Platform, told: usize) -> Vec<String> {
    let stage = &storm.stage;
    let verdict = stage.world.sandbox.verdict();
    let mut red: Vec<String> = verdict.violations.clone();
    let parked = admin(stage, "/v1/parked").await;
    red.extend(parked["data"].as_array().into_iter().flatten().map(|p| format!("I4: left parked: {p}")));
    red.extend(stage.scandals());
    if stage.disk.is_some() && stage.out_of_space() == 0 {
        red.push("the storm itself: nobody ever ran into the full disk".into());
    }
    let ledger = Left::new(stage, &storm.brokers).ledger().await;
    let of = |state: &str| ledger.get(state).copied().unwrap_or_default().unsigned_abs();
    let (known, orphans) = (ledger.values().sum::<i64>().unsigned_abs(), of("orphaned"));
    let counts = &verdict.counts;
    if counts.mints > verdict.mints_allowed + orphans {
        red.push(format!("I6: {} mints, {} and {orphans} orphans allowed", counts.mints, verdict.mints_allowed));
    }
    if counts.mints > known || of("intended") > 0 {
        red.push(format!("I6: {} mints, and the ledger knows {ledger:?}", counts.mints));
    }
    if counts.needless_puts > 0 {
        red.push(format!("I9: {} PUTs changed nothing", counts.needless_puts));
    }
    println!(
        "\n  rotations {}, pushes answered {}, notices {}, webhooks sent {}, answered 200 {}",
        counts.rotations,
        platform.pushes.load(Ordering::Relaxed),
        platform.notices.load(Ordering::Relaxed),
        counts.webhooks_sent,
        counts.webhooks_answered_200
    );
    println!(
        "  mints {} (allowed {} and {orphans} orphans), PUTs {}, refused {}, lists changed {} times, {told} outcomes say so",
        counts.mints,
        verdict.mints_allowed,
        counts.puts,
        counts.puts_refused,
        stage.world.sandbox.changed_lists().values().sum::<u64>()
    );
    red
}
