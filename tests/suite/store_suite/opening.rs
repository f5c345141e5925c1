//! A database is opened: its schema, its keys, and what can be read in it without them.

use super::{KEY, LONG, OTHER_KEY, acme, claim, dump, item, open, open_with, place, push};
use domain::{AccountId, ProcessorToken};
use rekey::config::{self, Config};
use sqlx::Connection as _;
use store::{Declaration, Error, Store};
use tests::Parts;

on_both_parts!(
    i3_nothing_secret_is_readable_in_the_database,
    keys_are_checked_at_start,
    several_processes_migrate_at_once,
    a_database_of_the_future_is_refused,
);

/// A rolling upgrade migrates while consumers of the release before are at work. They lock rows of several tables, a migration the
/// tables themselves: where PostgreSQL finds the two in a circle it gives one up.
#[tokio::test]
async fn a_migration_that_meets_a_consumer_is_tried_again() {
    let place = place(Parts::Real).await;
    open_with(&place, KEY, 7).await.unwrap().close().await;
    let mut consumer = sqlx::AnyConnection::connect(&place.url).await.unwrap();
    // As it was before the last migration.
    for index in
        ["processor_tokens_item", "assignments_business", "hints_expire", "work_due_to_read", "work_due_to_mint"]
    {
        sqlx::query(sqlx::AssertSqlSafe(format!("DROP INDEX {index}"))).execute(&mut consumer).await.unwrap();
    }
    sqlx::query("DELETE FROM _sqlx_migrations WHERE version = 6").execute(&mut consumer).await.unwrap();
    // The migration is the first to look for a circle.
    let name: String = sqlx::query_scalar("SELECT current_database()::text").fetch_one(&mut consumer).await.unwrap();
    let patience = sqlx::AssertSqlSafe(format!("ALTER DATABASE \"{name}\" SET deadlock_timeout = '3s'"));
    sqlx::query(patience).execute(&mut consumer).await.unwrap();
    sqlx::query("SET deadlock_timeout = '60s'").execute(&mut consumer).await.unwrap();

    sqlx::query("BEGIN").execute(&mut consumer).await.unwrap();
    sqlx::query("UPDATE work SET held = held").execute(&mut consumer).await.unwrap();
    let url = place.url.clone();
    let upgrade = tokio::spawn(async move {
        // As a process does that starts: it tries again what may pass.
        loop {
            match open_with(&place, KEY, 7).await {
                Err(error) if error.is_passing() => {}
                ended => return ended.map(|store| (store, place)),
            }
        }
    });
    let mut watch = sqlx::AnyConnection::connect(&url).await.unwrap();
    let waits = "SELECT COUNT(*) FROM pg_locks WHERE NOT granted AND relation = 'work'::regclass";
    while sqlx::query_scalar::<_, i64>(waits).fetch_one(&mut watch).await.unwrap() == 0 {
        tokio::task::yield_now().await;
    }
    sqlx::query("SELECT 1 FROM accounts").execute(&mut consumer).await.unwrap();
    sqlx::query("COMMIT").execute(&mut consumer).await.unwrap();
    upgrade.await.unwrap().unwrap();
}

async fn i3_nothing_secret_is_readable_in_the_database(parts: Parts) {
    let (store, place) = open(parts).await;
    let creation = Some("{\"phone_number\": \"marked-phone\"}".to_owned());
    push(&store, "x", "access-sandbox-marked", Declaration { creation, ..acme() }).await;
    let held = claim(&store, "one", LONG).await.remove(0);
    let mut tx = store.begin().await.unwrap();
    tx.promote(&item("x"), &store.fingerprints().of("access-sandbox-marked")).await.unwrap();
    let intent = tx.intend(&held, &item("x"), &AccountId::parse("acc").unwrap(), 1).await.unwrap();
    tx.save_minted(&intent, &ProcessorToken::new("processor-sandbox-marked")).await.unwrap();
    tx.commit().await.unwrap();
    let dump = dump(&place.url).await;
    assert!(dump.len() > 500, "the dump is not empty");
    assert!(!dump.contains("marked"), "I3: a secret stands in the database");
}

async fn keys_are_checked_at_start(parts: Parts) {
    let place = place(parts).await;
    drop(open_with(&place, KEY, 7).await.unwrap());
    let refused = |result: Result<Store, Error>, word: &str| {
        let message = result.map(|_| ()).unwrap_err().to_string();
        assert!(message.contains(word), "{message}");
    };
    refused(open_with(&place, OTHER_KEY, 7).await, "add that key again");
    refused(open_with(&place, &KEY.replace("AQEB", "AQED"), 7).await, "a key was changed under the same id");
    refused(open_with(&place, KEY, 8).await, "fingerprint_key");
    // A new key in front seals, the old one behind it still opens.
    open_with(&place, &format!("{OTHER_KEY},{KEY}"), 7).await.unwrap();
}

async fn several_processes_migrate_at_once(parts: Parts) {
    let place = place(parts).await;
    let opened = futures::future::join_all((0..4).map(|_| open_with(&place, KEY, 7))).await;
    for store in opened {
        store.unwrap();
    }
}

async fn a_database_of_the_future_is_refused(parts: Parts) {
    let place = place(parts).await;
    let store = open_with(&place, KEY, 7).await.unwrap();
    store.close().await;
    sqlx::any::install_default_drivers();
    let pool = sqlx::any::AnyPoolOptions::new().connect(&place.url).await.unwrap();
    sqlx::query("UPDATE meta SET value = '99' WHERE name = 'oldest_compatible_schema'").execute(&pool).await.unwrap();
    let message = open_with(&place, KEY, 7).await.map(|_| ()).unwrap_err().to_string();
    assert!(message.contains("run a newer release"), "{message}");
}

/// The settings that the examples name are settings.
#[test]
fn every_configuration_in_the_repository_is_valid() {
    let config: Config = config::load_text("rekey.example.toml", config::EXAMPLE, &Default::default()).unwrap();
    assert_eq!(config.kafka.topics.partitions, 12);
    config::load_text("the tests' settings", tests::SETTINGS, &Default::default()).unwrap();
}
