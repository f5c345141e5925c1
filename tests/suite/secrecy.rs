//! Secrets stay where they belong (I3).

use domain::Role;
use rekey::cli::sealing_key;
use reqwest::Method;
use sandbox::{Admin, Announce, Fault, FaultKind};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::process::Command;
use tests::process::{Process, binary};
use tests::{Parts, World, holds, kafka_address, topics};

on_both_parts!(i3_the_key_ring_is_rotated_while_everything_runs,);

const KEYS: &str = "REKEY_SECRETS__KEYS";

impl Rotating {
    /// Ends the processes one after the other and starts them with another ring, as a rollout does.
    async fn roll_out(&mut self, ring: &str) {
        self.world.local.environment.insert(KEYS.into(), ring.to_owned());
        let old: Vec<_> = self.world.rekeys.drain(..).collect();
        self.world.start_rekey(Role::ALL_IN_ONE, "").await;
        for rekey in old {
            rekey.stop().await;
        }
    }
}

struct Rotating {
    world: World,
}

/// The new key is first known to all, then seals, then everything is moved under it, then the old one goes: Items are
/// rotated all the time, and no row is ever unreadable.
async fn i3_the_key_ring_is_rotated_while_everything_runs(parts: Parts) {
    let world = World::start(parts, "").await;
    let (old, new) = (world.local.environment[KEYS].clone(), sealing_key());
    let id_of = |key: &str| key.split(':').next().unwrap().to_owned();
    let mut rotating = Rotating { world };
    let mut items = Vec::new();
    for n in 0..6 {
        rotating.world.business(&format!("b{n}"));
        items.push(rotating.world.link(&format!("b{n}"), 2).await);
    }
    rotating.world.until_exact().await;

    rotating.roll_out(&format!("{old},{new}")).await;
    rotating.world.rotate(&items[0], Announce::Push).await;
    rotating.roll_out(&format!("{new},{old}")).await;
    let world = &rotating.world;
    for item in &items[1..4] {
        world.rotate(item, Announce::Push).await;
    }
    // What `rekey keys rotate` does.
    let mut moved = 0;
    loop {
        let (status, body) = world.admin("POST", "/v1/keys/rotate", None).await;
        assert_eq!((status, &body["under"]), (200, &json!(id_of(&new))), "{body}");
        moved += body["moved"].as_u64().unwrap();
        if body["left"] == json!({}) {
            break;
        }
    }
    assert!(moved >= 5, "the tokens of the Items that were not rotated: {moved}");
    let (_, again) = world.admin("POST", "/v1/keys/rotate", None).await;
    assert_eq!((&again["moved"], &again["left"]), (&json!(0), &json!({})));

    rotating.roll_out(&new).await;
    let world = rotating.world;
    for item in &items {
        world.sync_item(item).await;
    }
    world.rotate(&items[5], Announce::Push).await;
    // A row under a key that is gone would be parked as unreadable.
    world.end().await;
}

/// Everything that Rekey wrote, said or answered, by where.
type Traces = BTreeMap<String, Vec<u8>>;

/// A whole life of tokens of every kind, at the most talkative level of logging, with failing providers, refused pushes,
/// a kill, and webhooks that carry tokens where none belong.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i3_a_storm_leaves_no_secret_anywhere() {
    let mut world = World::without_rekey(Parts::Real, "[log]\nlevel = \"trace\"\n").await;
    // In a file, whose bytes can be searched.
    let file = world.local.directory.path().join("searched.sqlite");
    world.local.environment.insert("REKEY_DATABASE__URL".into(), format!("sqlite://{}", file.display()));
    let rekey = Process::start(&world, "all").await;
    let console = format!("http://{}", rekey.console);
    world.sandbox.set_admin(Admin { url: console.clone(), token: world.local.admin_token.clone().into() });
    world.sandbox.set_webhook_url(format!("http://{}/webhooks/plaid", rekey.listen));

    let marked = storm(&world, &rekey, &console).await;
    let mut traces = answers(&world, &rekey, &console).await;
    traces.extend(command_lines(&world, &console, &marked));
    for (name, topic) in topics_of(&world) {
        let bootstrap = kafka_address();
        let records = tokio::task::spawn_blocking(move || topics::read_all(&bootstrap, &topic)).await.unwrap();
        assert!(!records.is_empty() || name == "notices", "nothing on {name}");
        traces.insert(format!("topic {name}"), records.into_iter().flat_map(|r| r.raw).collect());
    }
    assert_eq!(rekey.terminate().await, Some(0));
    traces.insert("log".into(), std::fs::read(&rekey.log).unwrap());
    for suffix in ["", "-wal"] {
        let path = format!("{}{suffix}", file.display());
        traces.insert(format!("database{suffix}"), std::fs::read(path).unwrap_or_default());
    }
    // What was searched is what would tell: how much of it there is depends on who was quicker.
    let log = String::from_utf8_lossy(&traces["log"]);
    for line in ["\"level\":\"TRACE\"", "Layer has the list", "item pushed", "reconciliation ended"] {
        assert!(log.contains(line), "the log has no {line:?}");
    }
    assert!(
        traces["database"].starts_with(b"SQLite format 3") && traces["database"].len() > 10_000,
        "an empty database"
    );

    let mut secrets = world.sandbox.secrets();
    for kind in ["access-", "processor-", "bearer-"] {
        assert!(secrets.iter().any(|s| s.starts_with(kind)), "no {kind} token was given out");
    }
    secrets.extend(marked);
    secrets.push(world.local.admin_token.clone());
    for name in ["SECRETS__KEYS", "SECRETS__FINGERPRINT_KEY", "PLAID__SECRET", "LAYER__CLIENT_SECRET"] {
        let secret = &world.local.environment[&format!("REKEY_{name}")];
        // Of a key its id may be seen.
        secrets.push(secret.rsplit(':').next().unwrap().to_owned());
    }
    for (place, bytes) in &traces {
        for secret in &secrets {
            let found = bytes.windows(secret.len()).position(|w| w == secret.as_bytes());
            let around = |at: usize| String::from_utf8_lossy(&bytes[at.saturating_sub(120)..at]).into_owned();
            assert!(found.is_none(), "I3: a secret in {place}, after …{}", around(found.unwrap_or_default()));
        }
    }
    world.local.stop().await;
}

fn topics_of(world: &World) -> [(&'static str, String); 5] {
    let topics = world.local.config("").unwrap().kafka.topics;
    [
        ("item-events", topics.item_events),
        ("other-events", topics.other_events),
        ("notices", topics.notices),
        ("outcomes", topics.outcomes),
        ("dead-letters", topics.dead_letters),
    ]
}

/// Returns the tokens that were put where none belong.
async fn storm(world: &World, rekey: &Process, console: &str) -> Vec<String> {
    let mark = |kind: &str| format!("{kind}-{}", uuid::Uuid::new_v4());
    let marked: Vec<String> =
        ["access-sandbox", "processor-sandbox", "public-sandbox", "link-sandbox"].map(mark).to_vec();
    let mut items = Vec::new();
    for n in 0..3 {
        world.business(&format!("b{n}"));
        items.push(world.link(&format!("b{n}"), 2).await);
    }
    // Where tokens don't belong: deep in webhooks, in fields of other names, in the middle of a text.
    let leaky = json!({
        "error": {"error_message": format!("for {} and {}", marked[0], marked[1]), "causes": [{"deep": [marked[2]]}]},
        "public_token": marked[2], "link_token": marked[3], "public_tokens": [marked[2]], "note": marked[0],
    });
    for (kind, code) in [("ITEM", "ERROR"), ("LINK", "SESSION_FINISHED"), ("ITEM", "A_CODE_OF_2031")] {
        world.sandbox.fire(&items[0], kind, code, &leaky).unwrap();
    }
    let no_item = sandbox::Sandbox::webhook_body("LINK", "SESSION_FINISHED", None, &leaky);
    let receiver = format!("http://{}/webhooks/plaid", rekey.listen);
    assert_eq!(world.sandbox.send_once(&receiver, &no_item).await, 200);
    let no_webhook = format!("{{\"{}\": 1", marked[0]);
    assert_eq!(world.sandbox.send_once(&receiver, no_webhook.as_bytes()).await, 200, "a dead letter");
    // Pushes that can't be taken, each with a token in an unexpected place.
    let refused = [
        (format!("/v1/items/{}", items[0]), json!({"access_token": marked[0], "business": "b0"})),
        (format!("/v1/items/{}", items[0]), json!({"access_token": {"a": marked[0]}, "business": "b0"})),
        (format!("/v1/items/{}", items[0]), json!({marked[0].clone(): 1, "business": marked[1]})),
        (format!("/v1/items/{}?{}=1", marked[0], marked[1]), json!({"access_token": 1})),
        (format!("/v1/{}", marked[0]), json!(marked[0])),
    ];
    for (path, body) in &refused {
        world.admin("PUT", path, Some(body)).await;
    }
    let wrong = reqwest::Client::new().get(format!("{console}/v1/items")).bearer_auth(&marked[0]).send().await.unwrap();
    assert_eq!(wrong.status(), 401);
    // Providers that fail in every way, and a process that dies in the middle.
    let calls = ["/accounts/get", "/processor/token/create", "PUT /v1/businesses/{id}", "POST /oauth2/token"];
    for call in calls {
        let server_error = FaultKind::Answer {
            status: 500,
            error_type: "API_ERROR".into(),
            error_code: marked[1].clone(),
            retry_after: None,
        };
        world.sandbox.fault(Fault::times(call, 2, server_error));
        world.sandbox.fault(Fault::times(call, 1, FaultKind::LoseAnswer));
    }
    world.sandbox.revoke_bearers();
    for item in &items {
        world.rotate(item, Announce::Database).await;
        world.webhook(item, "ERROR", &json!({"error": null}));
    }
    rekey.kill();
    rekey.restart().await;
    world.sandbox.heal();
    world.rotate(&items[1], Announce::Push).await;
    world.sandbox.revoke(&items[2]).unwrap();
    world.webhook(&items[2], "USER_PERMISSION_REVOKED", &json!({}));
    let healed = || async { world.sandbox.verdict().exact };
    assert!(holds(healed).await, "{:?}", world.sandbox.verdict());
    marked
}

/// All that the admin API and the operations port tell.
async fn answers(world: &World, rekey: &Process, console: &str) -> Traces {
    let mut traces = Traces::new();
    let http = reqwest::Client::new();
    let lists = ["items", "businesses", "parked", "pauses", "unknown-items", "orphans", "audit", "budgets"];
    let mut paths: Vec<String> =
        lists.iter().map(|p| format!("/v1/{p}")).chain(["/openapi.json".into(), "/v1/nothing".into()]).collect();
    paths.extend(world.sandbox.items().iter().map(|i| format!("/v1/items/{i}")));
    paths.extend((0..3).map(|n| format!("/v1/businesses/b{n}")));
    for path in paths {
        let request = http.request(Method::GET, format!("{console}{path}")).bearer_auth(&world.local.admin_token);
        traces.insert(format!("admin {path}"), request.send().await.unwrap().bytes().await.unwrap().to_vec());
    }
    for path in ["metrics", "livez", "readyz"] {
        let answer = http.get(format!("http://{}/{path}", rekey.ops)).send().await.unwrap();
        traces.insert(path.into(), answer.bytes().await.unwrap().to_vec());
    }
    traces
}

/// What commands print when they fail with secrets in their hands.
fn command_lines(world: &World, console: &str, marked: &[String]) -> Traces {
    let mut traces = Traces::new();
    let token_file = world.local.directory.path().join("a-token");
    std::fs::write(&token_file, &marked[0]).unwrap();
    let token_file = token_file.display().to_string();
    let unreadable = format!("{token_file}x");
    type Arguments<'a> = &'a [&'a str];
    type Environment<'a> = &'a [(&'a str, &'a str)];
    let runs: [(Arguments, Environment); 6] = [
        (&["check"], &[]),
        (&["check"], &[("REKEY_SECRETS__KEYS", &marked[1])]),
        (&["check"], &[("REKEY_DATABASE__URL", &marked[1])]),
        (&["item", "put", "nobody", "--business", "b0", "--token-file", &token_file], &[]),
        (&["item", "put", "nobody", "--business", "b0", "--token-file", &unreadable], &[]),
        (&["item", "show", "nobody"], &[("REKEY_ADMIN__TOKEN", &marked[3])]),
    ];
    let config = world.local.directory.path().join("commands.toml");
    std::fs::write(&config, &world.local.settings).unwrap();
    for (n, (arguments, changes)) in runs.into_iter().enumerate() {
        let output = Command::new(binary())
            .args(arguments)
            .arg("--config")
            .arg(&config)
            .envs(&world.local.environment)
            .envs([("REKEY_ADMIN__URL", console), ("REKEY_ADMIN__TOKEN", &world.local.admin_token)])
            .envs(changes.iter().copied())
            .output()
            .unwrap();
        let value: Value = json!([arguments[0], n]);
        traces.insert(format!("command {value}"), [output.stdout, output.stderr].concat());
    }
    traces
}
