//! Rekey as real processes: killed, frozen, cut off, started with what can't work. Always on Apache Kafka and PostgreSQL.

use domain::Role;
use sandbox::{Announce, Fault, FaultKind, NewAccount};
use serde_json::json;
use std::process::{Command, Stdio};
use std::time::Duration;
use tests::kafka::Cluster;
use tests::process::{Process, binary};
use tests::proxy::Proxy;
use tests::{Parts, World, holds};

const CONSOLE: &[Role] = &[Role::Console, Role::Receiver];

/// A world whose consumer is a process of its own.
async fn world() -> World {
    let mut world = World::without_rekey(Parts::Real, "").await;
    world.start_rekey(CONSOLE, "").await;
    world
}

/// SIGKILL at each step of a reconciliation, before and after its effect: nothing is lost, doubled or listed twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i6_i10_the_consumer_is_killed_at_each_step() {
    let world = world().await;
    world.business("acme");
    let consumer = Process::start(&world, "consumer").await;
    let item = world.link("acme", 2).await;
    world.until_exact().await;
    let both = vec![FaultKind::Hang, FaultKind::HangAfter];
    let steps = [
        ("/accounts/get", both.clone()),
        ("/processor/token/create", both.clone()),
        ("GET /v1/businesses/{id}/plaid/accounts", vec![FaultKind::Hang]),
        ("PUT /v1/businesses/{id}", both),
    ];
    for (call, kinds) in steps {
        for kind in kinds {
            let before = world.sandbox.hung(call);
            world.sandbox.fault(Fault::times(call, 1, kind));
            world.rotate(&item, Announce::Database).await;
            world.sync_item(&item).await;
            world.until("the call hangs", || world.sandbox.hung(call) > before).await;
            consumer.kill();
            world.sandbox.heal();
            consumer.restart().await;
            world.until_exact().await;
        }
    }
    drop(consumer);
    world.end().await;
}

/// A process that is stopped with a PUT on its way wakes after another one took over: what it sends late is drift, and
/// it is repaired.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i7_a_stopped_process_wakes_and_its_put_arrives_late() {
    let world = world().await;
    world.business("acme");
    let first = Process::start(&world, "consumer").await;
    let item = world.link("acme", 2).await;
    world.until_exact().await;
    let call = "PUT /v1/businesses/{id}";
    world.sandbox.fault(Fault::times(call, 1, FaultKind::Hang));
    world.rotate(&item, Announce::Push).await;
    world.until("the PUT is on its way", || world.sandbox.hung(call) == 1).await;
    first.freeze();
    // The list that hangs is soon an old one.
    let _second = Process::start(&world, "consumer").await;
    world.rotate(&item, Announce::Push).await;
    let healed = || async { world.sandbox.business_verdict("acme").exact };
    assert!(holds(healed).await, "the second one took over");
    world.sandbox.heal();
    first.thaw();
    // Whatever the late PUT did, the list is exact in the end, without waiting for the sweep.
    tokio::time::sleep(Duration::from_millis(200)).await;
    world.until_exact().await;
    world.end().await;
}

/// A consumer is stopped with a PUT on its way, another one took over and is done. What is on its way is an old list by
/// then, and Layer will take it: every token in it is alive.
async fn with_an_old_put_on_its_way() -> (World, Process, Process) {
    // Long enough for the second consumer to start and mint before it takes over, so that it looks once.
    let mut world = World::without_rekey(Parts::Real, "[consumer]\nlease = \"8s\"\n").await;
    world.start_rekey(CONSOLE, "").await;
    world.business("acme");
    let first = Process::start(&world, "consumer").await;
    let item = world.link("acme", 1).await;
    world.until_exact().await;
    let call = "PUT /v1/businesses/{id}";
    world.sandbox.fault(Fault::times(call, 1, FaultKind::Hang));
    world.sandbox.add_account(&item, &NewAccount::checking("2222")).unwrap();
    world.sync_item(&item).await;
    world.until("the PUT is on its way", || world.sandbox.hung(call) == 1).await;
    first.freeze();
    world.sandbox.add_account(&item, &NewAccount::checking("3333")).unwrap();
    let second = Process::start(&world, "consumer").await;
    world.sync_item(&item).await;
    world.until_exact().await;
    (world, first, second)
}

/// The late PUT itself drops an account, so these stories end without the verdict on violations.
async fn end_after_a_late_put(world: World) {
    world.until_exact().await;
    for rekey in world.rekeys {
        rekey.stop().await;
    }
    world.local.stop().await;
}

/// Nobody says that the late PUT was sent: the reconciliation that a take-over still owes finds it, long before the sweep.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i7_a_late_put_of_a_process_that_never_wakes_is_found_by_the_owed_look() {
    let (world, _first, _second) = with_an_old_put_on_its_way().await;
    world.sandbox.heal();
    world.until("the late PUT arrived", || world.sandbox.listed_tokens("acme").len() == 2).await;
    end_after_a_late_put(world).await;
}

/// An event between the take-over and the owed reconciliation makes the business looked at once more; the owed reconciliation
/// comes all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i7_an_event_does_not_cancel_the_look_that_a_take_over_owes() {
    let (world, _first, _second) = with_an_old_put_on_its_way().await;
    world.sync_business("acme").await;
    world.until_exact().await;
    world.sandbox.heal();
    world.until("the late PUT arrived", || world.sandbox.listed_tokens("acme").len() == 2).await;
    end_after_a_late_put(world).await;
}

/// It arrives even later than the owed reconciliation: the process wakes, finds its lease lost and marks the business due.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i7_a_writer_that_lost_its_lease_marks_the_business_due() {
    let (world, first, _second) = with_an_old_put_on_its_way().await;
    // The owed reconciliation comes after twice the timeout of a PUT.
    tokio::time::sleep(Duration::from_secs(3)).await;
    world.sandbox.heal();
    world.until("the late PUT arrived", || world.sandbox.listed_tokens("acme").len() == 2).await;
    first.thaw();
    end_after_a_late_put(world).await;
}

/// PostgreSQL is cut off and comes back: events wait in Kafka, nothing is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i10_postgresql_gone_and_back() {
    let mut world = World::without_rekey(Parts::Real, "[database]\nacquire_timeout = \"500ms\"\n").await;
    let url = world.local.environment["REKEY_DATABASE__URL"].clone();
    let proxy = Proxy::to_postgres(&url).await;
    world.local.environment.insert("REKEY_DATABASE__URL".into(), proxy.url(&url));
    world.start_rekey(Role::ALL_IN_ONE, "").await;
    let item = world.link("acme", 2).await;
    world.until_exact().await;
    proxy.cut();
    world.rotate(&item, Announce::Database).await;
    let url = world.receiver_url();
    let body = sandbox::Sandbox::webhook_body("ITEM", "ERROR", Some(&item), &json!({"error": null}));
    assert_eq!(world.sandbox.send_once(&url, &body).await, 200, "the receiver needs no database");
    let (status, answer) = world.admin("GET", "/v1/items", None).await;
    assert_eq!(status, 503, "{answer}");
    // Long enough for the intake to have failed with the webhook in its hands.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(!world.sandbox.verdict().exact);
    proxy.heal();
    world.until_exact().await;
    world.end().await;
}

/// Dependencies that are missing at the start are waited for; SIGTERM ends it in order all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_dependencies_are_waited_for() {
    let mut world = World::without_rekey(Parts::Real, "").await;
    let url = world.local.environment["REKEY_DATABASE__URL"].clone();
    let proxy = Proxy::to_postgres(&url).await;
    proxy.cut();
    world.local.environment.insert("REKEY_DATABASE__URL".into(), proxy.url(&url));
    let process = Process::spawn(&world, "consumer");
    let readyz = format!("http://{}/readyz", process.ops);
    let waits = || async {
        match reqwest::get(&readyz).await {
            Ok(answer) => {
                answer.status() == 503
                    && answer.text().await.is_ok_and(|t| t.contains("database: PostgreSQL at 127.0.0.1:"))
            }
            Err(_) => false,
        }
    };
    assert!(holds(waits).await, "{}", std::fs::read_to_string(&process.log).unwrap());
    assert_eq!(reqwest::get(readyz.replace("readyz", "livez")).await.unwrap().status(), 200);
    proxy.heal();
    process.ready().await;
    // And so is one that goes away later.
    proxy.cut();
    assert!(holds(waits).await, "{}", std::fs::read_to_string(&process.log).unwrap());
    proxy.heal();
    process.ready().await;
    assert_eq!(process.terminate().await, Some(0), "{}", std::fs::read_to_string(&process.log).unwrap());
    let log = std::fs::read_to_string(&process.log).unwrap();
    let said = log.matches("the database is not ready").count();
    assert!((1..=5).contains(&said), "each reason once, and five at most: {log}");
    for rekey in world.rekeys {
        rekey.stop().await;
    }
}

/// Somebody waits for a push that Plaid does not answer: told to stop, the process says that it is stored, and goes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_that_waits_is_answered_when_its_process_stops() {
    let mut world = World::without_rekey(Parts::Real, "[console]\npush_wait = \"30s\"\n").await;
    world.start_rekey(&[Role::Consumer], "").await;
    world.business("acme");
    let console = Process::start(&world, "console").await;
    let item = world.link_as("acme", 1, Announce::Silent).await;
    let call = "/accounts/get";
    world.sandbox.fault(Fault::new(call, FaultKind::Hang));
    let push = reqwest::Client::new()
        .put(format!("http://{}/v1/items/{item}", console.console))
        .bearer_auth(&world.local.admin_token)
        .json(&world.sandbox.push_body(&item, &json!({})).unwrap());
    let answer = tokio::spawn(push.send());
    world.until("the push is looked at", || world.sandbox.hung(call) > 0).await;
    let began = std::time::Instant::now();
    assert_eq!(console.terminate().await, Some(0));
    assert_eq!(answer.await.unwrap().unwrap().status(), 202, "stored, and not judged yet");
    assert!(began.elapsed() < Duration::from_secs(10), "nobody waits for the push: {:?}", began.elapsed());
    world.sandbox.heal();
    world.until_exact().await;
    for rekey in world.rekeys {
        rekey.stop().await;
    }
}

/// What waiting can't mend ends the process: one line that says what to do, and an exit code.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_work_is_said_in_one_line() {
    let world = World::start(Parts::Real, "").await;
    world.business("acme");
    for _ in 0..3 {
        world.link("acme", 1).await;
    }
    world.until_exact().await;
    let held = world.rekey().console.unwrap().to_string();
    let other_key = rekey::cli::sealing_key();
    type Case<'a> = (&'a str, Vec<(&'a str, String)>, i32, &'a str);
    let cases: Vec<Case<'_>> = vec![
        ("wrong key ring", vec![("REKEY_SECRETS__KEYS", other_key)], 1, "secrets.keys"),
        ("no key ring", vec![("REKEY_SECRETS__KEYS", String::new())], 2, "rekey keys new"),
        ("no database", vec![("REKEY_DATABASE__URL", String::new())], 2, "database.url"),
        (
            "a database of no known kind",
            vec![("REKEY_DATABASE__URL", "mysql://x".into())],
            2,
            "sqlite:// or postgres://",
        ),
        ("a lease shorter than a call", vec![("REKEY_CONSUMER__LEASE", "1s".into())], 2, "consumer.lease"),
        ("port in use", vec![("REKEY_CONSOLE__LISTEN", held)], 1, "console can't listen"),
        ("misspelt variable", vec![("REKEY_KAFKA__BOTSTRAP", "x".into())], 2, "REKEY_KAFKA__BOTSTRAP"),
        (
            "a status that Plaid does not retry",
            vec![("REKEY_RECEIVER__UNAVAILABLE_STATUS", "500".into())],
            2,
            "receiver.unavailable_status",
        ),
    ];
    let config = world.local.directory.path().join("bad.toml");
    std::fs::write(&config, &world.local.settings).unwrap();
    for (what, changes, code, word) in cases {
        let mut command = tokio::process::Command::new(binary());
        command.arg("all").arg("--config").arg(&config).envs(&world.local.environment).stdin(Stdio::null());
        command.envs(changes.iter().map(|(k, v)| (*k, v.as_str()))).kill_on_drop(true);
        let ended = tokio::time::timeout(Duration::from_mins(1), command.output()).await;
        let output = ended.unwrap_or_else(|_| panic!("{what}: it runs")).unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let last = text.lines().filter(|l| l.starts_with("rekey: ")).collect::<Vec<_>>();
        assert_eq!(output.status.code(), Some(code), "{what}: {text}");
        assert_eq!(last.len(), 1, "{what}: one line: {text}");
        assert!(last[0].contains(word), "{what}: {}", last[0]);
    }
    // Nothing was changed by any of it.
    world.link("acme", 1).await;
    world.end().await;
}

/// `rekey check` names what is wrong with each connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_says_what_to_fix() {
    let world = World::without_rekey(Parts::Real, "").await;
    let config = world.local.directory.path().join("check.toml");
    std::fs::write(&config, &world.local.settings).unwrap();
    let weak = tests::role_without_rights(&world.local.environment["REKEY_DATABASE__URL"]).await;
    let run = |args: &[&str], changes: Vec<(&'static str, &str)>| {
        let mut command = Command::new(binary());
        command.args(["check", "--config"]).arg(&config).args(args).envs(&world.local.environment).envs(changes);
        tokio::task::spawn_blocking(move || command.output().unwrap())
    };
    let good = run(&[], vec![]).await.unwrap();
    let text = String::from_utf8_lossy(&good.stdout).into_owned();
    assert_eq!(good.status.code(), Some(0), "{text}{}", String::from_utf8_lossy(&good.stderr));
    let odd = format!("{}-odd", world.local.config("").unwrap().kafka.topics.outcomes);
    tests::topics::make(&tests::kafka_address(), &odd, &[("cleanup.policy", "compact"), ("max.message.bytes", "9999")])
        .await;
    let wrong = vec![
        ("REKEY_KAFKA__TOPICS__OUTCOMES", odd.as_str()),
        ("REKEY_PLAID__SECRET", "wrong"),
        ("REKEY_LAYER__CLIENT_SECRET", "wrong"),
        ("REKEY_KAFKA__TOPICS__NOTICES", "no-such-topic"),
        ("REKEY_KAFKA__TOPICS__PARTITIONS", "64"),
        ("REKEY_DATABASE__URL", &weak),
        ("REKEY_TOKEN_SOURCE__SQL", "SELECT x FROM nowhere WHERE y = $1"),
        ("REKEY_TRACE__ENDPOINT", "http://127.0.0.1:1"),
    ];
    let bad = run(&[], wrong).await.unwrap();
    let text = String::from_utf8_lossy(&bad.stdout).into_owned();
    assert_eq!(bad.status.code(), Some(1), "{text}");
    let words = [
        "INVALID_API_KEYS",
        "layer.client_secret",
        "rekey topics apply",
        "token_source.sql",
        "trace.endpoint",
        "has 4 partitions (kafka.topics.partitions says 64)",
        "cleanup.policy compact",
        "max.message.bytes 9999",
        "GRANT USAGE, CREATE ON SCHEMA public",
    ];
    for word in words {
        assert!(text.contains(word), "{word} is missing: {text}");
    }
    let bad = run(&[], vec![("REKEY_TOKEN_SOURCE__URL", "mysql://platform")]).await.unwrap();
    let text = String::from_utf8_lossy(&bad.stdout).into_owned();
    assert!(text.contains("token_source.url can't be read: it must begin with"), "{text}");
    // A TLS client at a plaintext port: librdkafka's own words say so.
    let tls = "[kafka.properties]\n\"security.protocol\" = \"SSL\"\n";
    std::fs::write(&config, format!("{}\n{tls}", world.local.settings)).unwrap();
    let bad = run(&["--role", "receiver"], vec![]).await.unwrap();
    let text = String::from_utf8_lossy(&bad.stdout).into_owned();
    assert!(text.contains("FAIL  kafka") && text.contains("PLAINTEXT"), "{text}");
    std::fs::write(&config, &world.local.settings).unwrap();
    // A role's pod has nothing of what only other roles need.
    let foreign =
        [("REKEY_LAYER__CLIENT_SECRET", ""), ("REKEY_SECRETS__KEYS", ""), ("REKEY_DATABASE__URL", "postgres://x")];
    for (role, code) in [("receiver", 0), ("consumer", 1), ("console", 1)] {
        let done = run(&["--role", role], foreign.to_vec()).await.unwrap();
        assert_eq!(done.status.code(), Some(code), "{role}: {}", String::from_utf8_lossy(&done.stdout));
    }
    world.local.stop().await;
}

/// The only broker is killed and comes back on its directory: webhooks are refused meanwhile (Plaid sends them again),
/// rotations go on without it, and intake and outcomes resume by themselves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i1_i10_apache_kafka_killed_and_back() {
    let mut kafka = Cluster::start(1);
    let mut world = World::on(Some(kafka.address()), "[kafka]\npublish_timeout = \"500ms\"\n").await;
    world.start_rekey(Role::ALL_IN_ONE, "").await;
    let item = world.link("acme", 2).await;
    world.until_exact().await;
    let url = world.receiver_url();
    let body = sandbox::Sandbox::webhook_body("ITEM", "ERROR", Some(&item), &json!({"error": null}));
    let looks = world.sandbox.calls("/accounts/get");
    assert_eq!(world.sandbox.send_once(&url, &body).await, 200);
    world.until("the webhook is taken in", || world.sandbox.calls("/accounts/get") > looks).await;
    world.until_exact().await;
    kafka.kill(0);
    let refused = || async { world.sandbox.send_once(&url, &body).await == 503 };
    assert!(holds(refused).await, "nothing is acknowledged that Kafka has not");
    world.rotate(&item, Announce::Push).await;
    world.until_exact().await;
    // Longer than the group's session: the broker forgets its members.
    tokio::time::sleep(Duration::from_secs(12)).await;
    kafka.launch(0);
    let accepted = || async { world.sandbox.send_once(&url, &body).await == 200 };
    assert!(holds(accepted).await, "{}", kafka.log(0));
    world.rotate(&item, Announce::Database).await;
    assert_eq!(world.sandbox.send_once(&url, &body).await, 200);
    world.until_exact().await;
    let emptied = || async { world.store().begin_read().await.unwrap().outbox_length().await.unwrap() == 0 };
    assert!(holds(emptied).await, "the outcomes leave when Kafka is back");
    world.end().await;
}

/// What the consumer has asked of the database: transactions, and statements within them.
async fn work_of(consumer: &Process) -> (f64, f64) {
    let samples = tests::metrics::read(&tests::metrics::scrape(consumer.ops).await);
    let of = |operation: &str| {
        let is_it = |s: &&tests::metrics::Sample| {
            s.metric.name == domain::metric::STORE_SECONDS && s.labels["operation"] == operation
        };
        samples.iter().filter(is_it).map(|s| s.value).sum::<f64>()
    };
    (of("begin"), of("statement"))
}

/// With the debounce as it is delivered: a business waits that long for the Item that made it due, and stories have less.
const AS_DELIVERED: &str = "[consumer]\npoll = \"1h\"\nprobe_interval = \"1h\"\ndebounce = \"500ms\"\n";

/// What one rotation of two accounts costs, nothing else being there. Nobody polls: if the push did not wake the consumer, which
/// is another process, nothing would happen at all. Raise the bounds for something that is worth it, and not by accident.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i9_a_rotation_costs_a_known_number_of_calls_and_statements() {
    let mut world = World::without_rekey(Parts::Real, AS_DELIVERED).await;
    world.start_rekey(CONSOLE, "").await;
    world.business("acme");
    let consumer = Process::start(&world, "consumer").await;
    let item = world.link("acme", 2).await;
    world.until_exact().await;
    world.until_quiet().await;
    let calls = || ["/accounts/get", "/item/get", "/processor/token/create"].map(|call| world.sandbox.calls(call));
    let mut costs = Vec::new();
    for _ in 0..5 {
        let (before, work_before) = (calls(), work_of(&consumer).await);
        let counts_before = world.sandbox.verdict().counts;
        world.rotate(&item, Announce::Push).await;
        world.until_exact().await;
        world.until_quiet().await;
        let (after, work_after) = (calls(), work_of(&consumer).await);
        let made: Vec<usize> = after.iter().zip(before).map(|(after, before)| after - before).collect();
        assert_eq!(made, [1, 0, 2], "a read that is the proof, and a mint for each account");
        let counts = world.sandbox.verdict().counts;
        assert_eq!((counts.puts - counts_before.puts, counts.lists - counts_before.lists), (1, 2), "list, PUT, list");
        costs.push((work_after.0 - work_before.0, work_after.1 - work_before.1));
    }
    // The least: now and then something else is done meanwhile.
    let least = |of: fn(&(f64, f64)) -> f64| costs.iter().map(of).fold(f64::INFINITY, f64::min);
    let (transactions, statements) = (least(|c| c.0), least(|c| c.1));
    assert!(
        transactions <= 20.0 && statements <= 152.0,
        "{transactions} transactions, {statements} statements: {costs:?}"
    );
    drop(consumer);
    world.end().await;
}
