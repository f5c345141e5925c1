//! PostgreSQL as people have it: with a pooler before it, with other defaults.

use domain::Role;
use sandbox::Announce;
use sqlx::{Connection as _, Row as _};
use std::process::{Command, Stdio};
use std::time::Duration;
use tests::{Parts, PgBouncer, World, process};

const URL: &str = "REKEY_DATABASE__URL";

async fn sql(url: &str, sql: String) -> Vec<sqlx::any::AnyRow> {
    sqlx::any::install_default_drivers();
    let mut connection = sqlx::AnyConnection::connect(url).await.unwrap();
    let rows = sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).fetch_all(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    rows
}

/// Two linked and one of them rotated: everything that Rekey does with its database.
async fn serves(world: World) {
    let item = world.link("acme", 2).await;
    world.link("acme", 1).await;
    world.until_exact().await;
    world.rotate(&item, Announce::Push).await;
    world.until_exact().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooler_that_lends_whole_sessions_is_as_good_as_the_server() {
    let mut world = World::without_rekey(Parts::Real, "").await;
    let pooler = PgBouncer::start(&world.local.environment[URL], "session").await;
    let through = pooler.url(&world.local.environment[URL]);
    world.local.environment.insert(URL.into(), through);
    world.start_rekey(Role::ALL_IN_ONE, "").await;
    serves(world).await;
}

/// Its prepared statements and locks would be those of strangers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooler_that_shares_sessions_is_refused_before_anything_is_written() {
    let world = World::without_rekey(Parts::Real, "").await;
    let server = world.local.environment[URL].clone();
    let config = world.local.directory.path().join("pooled.toml");
    std::fs::write(&config, &world.local.settings).unwrap();
    for mode in ["transaction", "statement"] {
        let pooler = PgBouncer::start(&server, mode).await;
        for arguments in [&["check", "--role", "console"][..], &["console"], &["migrate"]] {
            let mut command = Command::new(process::binary());
            command.args(arguments).arg("--config").arg(&config).envs(&world.local.environment);
            command.env(URL, pooler.url(&server)).stdin(Stdio::null());
            let ended = tokio::task::spawn_blocking(move || command.output().unwrap());
            let output = tokio::time::timeout(Duration::from_mins(1), ended).await.expect("it ends").unwrap();
            let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            assert_eq!(output.status.code(), Some(1), "{mode} {arguments:?}: {text}");
            assert!(text.contains("set pool_mode = session"), "{mode} {arguments:?}: {text}");
        }
        let tables = "SELECT CAST(COUNT(*) AS BIGINT) FROM pg_tables WHERE schemaname = 'public'";
        assert_eq!(sql(&server, tables.into()).await[0].get::<i64, _>(0), 0, "nothing was written");
    }
    world.local.stop().await;
}

/// Whoever needs other defaults for his own code has the whole database set so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i4_defaults_of_the_database_change_nothing() {
    let mut world = World::without_rekey(Parts::Real, "").await;
    let url = world.local.environment[URL].clone();
    let (_, name) = url.rsplit_once('/').unwrap();
    for default in ["default_transaction_isolation = 'serializable'", "default_transaction_read_only = 'on'"] {
        sql(&url, format!("ALTER DATABASE {name} SET {default}")).await;
    }
    // The schema is made by somebody who sets it back for that.
    world.local.environment.insert(URL.into(), format!("{url}?options=-c%20default_transaction_read_only%3Doff"));
    world.start_rekey(Role::ALL_IN_ONE, "").await;
    world.rekeys.remove(0).stop().await;
    world.local.environment.insert(URL.into(), url);
    for roles in [Role::ALL_IN_ONE, &[Role::Consumer], &[Role::Consumer]] {
        world.start_rekey(roles, "").await;
    }
    for n in 0..6 {
        world.business(&format!("b{n}"));
    }
    let mut items = Vec::new();
    for n in 0..30 {
        items.push(world.link_as(&format!("b{}", n % 6), 1, Announce::Silent).await);
    }
    let pushes: Vec<_> = items
        .into_iter()
        .map(|item| {
            let sandbox = world.sandbox.clone();
            tokio::spawn(async move { sandbox.push(&item, &serde_json::json!({})).await.unwrap() })
        })
        .collect();
    for push in pushes {
        let (status, answer) = push.await.unwrap();
        assert!(status == 200 || status == 202, "{status} {answer}");
    }
    world.until_exact().await;
    world.end().await;
}

/// Each would mint and write lists for the other's customers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i11_two_releases_on_one_database_are_noticed() {
    let world = World::start(Parts::Real, "").await;
    let config = world.local.directory.path().join("one.toml");
    std::fs::write(&config, &world.local.settings).unwrap();
    let check = || {
        let mut command = Command::new(process::binary());
        command.args(["check", "--role", "consumer", "--config"]).arg(&config).envs(&world.local.environment);
        let ended = tokio::task::spawn_blocking(move || command.output().unwrap());
        async { String::from_utf8_lossy(&ended.await.unwrap().stdout).into_owned() }
    };
    assert!(!check().await.contains("another release"), "alone");
    let shown = async |line: &str| {
        let url = format!("http://{}/metrics", world.rekey().ops);
        reqwest::get(url).await.unwrap().text().await.unwrap().lines().any(|l| l == line)
    };
    assert!(tests::holds(|| shown("rekey_database_foreign_groups 0")).await);
    let consumer = &[Role::Consumer];
    let other = world.local.start(consumer, "[kafka]\ngroup = \"other-release\"\n").await.unwrap();
    other.ready().await.unwrap();
    assert!(tests::holds(|| shown("rekey_database_foreign_groups 1")).await);
    let text = check().await;
    assert!(text.contains("another release works on this database (kafka.group other-release)"), "{text}");
    other.stop().await;
    world.link("acme", 1).await;
    world.end().await;
}

/// It is the platform's own database.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_token_source_is_never_written() {
    for parts in [Parts::Embedded, Parts::Real] {
        let world = World::without_rekey(parts, "").await;
        let url = world.local.environment["REKEY_TOKEN_SOURCE__URL"].clone();
        sql(&url, "INSERT INTO plaid_items (item_id, access_token) VALUES ('x', 'kept')".into()).await;
        let writes =
            "UPDATE plaid_items SET access_token = 'lost' WHERE item_id = 'x' OR item_id = $1 RETURNING access_token";
        let source =
            world.local.config(&format!("[token_source]\nsql = \"{writes}\"\n")).unwrap().token_source().unwrap();
        assert!(source.probe().await.is_err(), "{parts:?}");
        let left = sql(&url, "SELECT access_token FROM plaid_items WHERE item_id = 'x'".into()).await;
        assert_eq!(left[0].get::<String, _>(0), "kept", "{parts:?}");
        world.local.stop().await;
    }
}
