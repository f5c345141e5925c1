//! A database is opened: its schema, its keys, and what can be read in it without them.

use super::{KEY, LONG, OTHER_KEY, acme, claim, done, finish, item, limits, mark, open, open_with, place, push};
use domain::accounts::{AccountState, Traits};
use domain::work::Kind;
use domain::{AccountId, BusinessId, Fingerprint, ProcessorToken};
use rekey::config::{self, Config};
use store::{AccountUpdate, Declaration, Erasure, Error, Mark, Saved, Store};
use tests::Parts;

stories!(
    i3_nothing_secret_is_readable_in_the_database,
    what_is_erased_leaves_only_the_audit,
    keys_are_checked_at_start,
    several_processes_migrate_at_once,
    a_database_of_the_future_is_refused,
);

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

/// Refused while a list may hold a token of it; then nothing is left but that it was done.
async fn what_is_erased_leaves_only_the_audit(parts: Parts) {
    let (store, place) = open(parts).await;
    let (id, acme_id, account) = (item("item-gone"), BusinessId::parse("acme-gone").unwrap(), "acc-gone");
    let account = AccountId::parse(account).unwrap();
    let declaration = || Declaration { business: Some(acme_id.clone()), ..Declaration::default() };
    push(&store, id.as_str(), "token-1", declaration()).await;
    let held = claim(&store, "one", LONG).await.remove(0);
    let mut tx = store.begin().await.unwrap();
    tx.promote(&id, &store.fingerprints().of("token-1")).await.unwrap();
    let traits = Traits { kind: "depository".into(), ..Traits::default() };
    let update = AccountUpdate {
        item: &id,
        id: &account,
        traits: &traits,
        state: AccountState::Active,
        business: Some(&acme_id),
        missing_since: None,
        proof: None,
        outside: None,
    };
    tx.save_account(&update).await.unwrap();
    let intent = tx.intend(&held, &id, &account, 1).await.unwrap();
    let Saved::Live(token) = tx.save_minted(&intent, &ProcessorToken::new("p-1")).await.unwrap() else { panic!() };
    tx.record_accepted(&acme_id, std::slice::from_ref(&token)).await.unwrap();
    tx.audit("somebody", "item.sync", id.as_str(), "").await.unwrap();
    tx.finish(&held, &done()).await.unwrap();
    tx.commit().await.unwrap();
    let refused = async |why: &str| {
        let mut tx = store.begin().await.unwrap();
        match tx.erase_item(&id).await.unwrap() {
            Erasure::Refused(said) => assert!(said.contains(why), "{said}"),
            other => panic!("{other:?}"),
        }
    };
    refused("remove it first").await;
    let mut tx = store.begin().await.unwrap();
    tx.remove_item(&id, store::REMOVED_BY_PLATFORM).await.unwrap();
    tx.mark(&Mark { kind: Kind::Business, id: acme_id.as_str(), ..mark("") }).await.unwrap();
    tx.commit().await.unwrap();
    refused("the list of acme-gone").await;
    let looking = store.claim(Kind::Business, "one", LONG, 1, &limits()).await.unwrap().remove(0);
    let record = async |tokens: &[Fingerprint]| {
        let mut tx = store.begin().await.unwrap();
        tx.record_accepted(&acme_id, tokens).await.unwrap();
        tx.commit().await.unwrap();
    };
    record(&[]).await;
    refused("the list of acme-gone").await;
    record(&[token]).await;
    finish(&store, &looking, &done()).await.unwrap();
    refused("the list of acme-gone").await;
    record(&[]).await;

    let mut tx = store.begin().await.unwrap();
    assert!(matches!(tx.erase_business(&acme_id).await.unwrap(), Erasure::Refused(why) if why.contains("item-gone")));
    drop(tx);
    let mut tx = store.begin().await.unwrap();
    assert_eq!(tx.erase_item(&id).await.unwrap(), Erasure::Done);
    assert_eq!(tx.erase_business(&acme_id).await.unwrap(), Erasure::Done);
    assert_eq!(tx.erase_item(&id).await.unwrap(), Erasure::Unknown);
    tx.commit().await.unwrap();
    let dump = dump(&place.url).await;
    assert!(!dump.contains("gone"), "{dump}");

    // A row of the same name is no row of before: what was claimed then is stale.
    push(&store, id.as_str(), "token-2", declaration()).await;
    let again = claim(&store, "one", LONG).await.remove(0);
    assert!(again.epoch > held.epoch, "{} after {}", again.epoch, held.epoch);
    assert!(matches!(finish(&store, &held, &done()).await, Err(Error::Stale { .. })), "I7");
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

/// Every row of every table as text.
async fn dump(url: &str) -> String {
    use sqlx::Row;
    sqlx::any::install_default_drivers();
    let pool = sqlx::any::AnyPoolOptions::new().connect(url).await.unwrap();
    let tables = [
        "work",
        "items",
        "assignments",
        "access_tokens",
        "accounts",
        "processor_tokens",
        "businesses",
        "hints",
        "unknown_items",
        "outbox",
        "audit",
        "meta",
    ];
    let mut text = String::new();
    for table in tables {
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!("SELECT * FROM {table}"))).fetch_all(&pool).await.unwrap();
        for row in rows {
            for column in 0..row.len() {
                let value = row.try_get::<Option<String>, _>(column).ok().flatten();
                text.push_str(&value.unwrap_or_default());
                text.push('\n');
            }
        }
    }
    text
}

/// The settings that the examples name are settings.
#[test]
fn every_configuration_in_the_repository_is_valid() {
    let config: Config = config::load_text("rekey.example.toml", config::EXAMPLE, &Default::default()).unwrap();
    assert_eq!(config.kafka.topics.partitions, 12);
    config::load_text("the tests' settings", tests::SETTINGS, &Default::default()).unwrap();
}
