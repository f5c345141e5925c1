//! One suite of store tests for both databases.

mod erasing;
mod opening;
mod queue;
mod tokens;
mod verdicts;

use domain::accounts::{AccountState, Traits};
use domain::budget::Limits;
use domain::queue::{Blocked, Finish, Mark};
use domain::work::{Block, Class, Kind};
use domain::{AccessToken, AccountId, BusinessId, Fingerprinter, ItemId};
use secrecy::SecretString;
use std::time::Duration;
use store::{AccountUpdate, Claim, Declaration, Error, KeyRing, Push, Settings, Store, Tx};
use tests::{Parts, fresh_database};

struct Place {
    url: String,
    _directory: tempfile::TempDir,
}

async fn place(parts: Parts) -> Place {
    let directory = tempfile::tempdir().unwrap();
    let url = match parts {
        Parts::Embedded => format!("sqlite://{}", directory.path().join("store.sqlite").display()),
        Parts::Real => fresh_database().await,
    };
    Place { url, _directory: directory }
}

const KEY: &str = "a:AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
const OTHER_KEY: &str = "b:AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=";

async fn open_with(place: &Place, keys: &str, fingerprint: u8) -> Result<Store, Error> {
    let settings = Settings {
        url: SecretString::from(place.url.clone()),
        connections: 8,
        acquire_timeout: Duration::from_secs(10),
    };
    let ring = KeyRing::parse(&SecretString::from(keys)).unwrap();
    Store::open(&settings, "outcomes", ring, Fingerprinter::new(1, &[fingerprint; 32])).await
}

async fn open(parts: Parts) -> (Store, Place) {
    let place = place(parts).await;
    (open_with(&place, KEY, 7).await.unwrap(), place)
}

fn item(n: &str) -> ItemId {
    ItemId::parse(n).unwrap()
}
fn mark(id: &str) -> Mark<'_> {
    Mark::new(Kind::Item, id, Class::Rotation, "test")
}
async fn marked(store: &Store, mark: &Mark<'_>) -> i64 {
    let mut tx = store.begin().await.unwrap();
    let wanted = tx.mark(mark).await.unwrap();
    tx.commit().await.unwrap();
    wanted
}
async fn claim(store: &Store, owner: &str, lease: Duration) -> Vec<Claim> {
    store.claim(Kind::Item, owner, lease, 10, &limits()).await.unwrap()
}
/// More than any case uses.
fn limits() -> Limits {
    Limits {
        item_get: 600_000,
        accounts_get: 600_000,
        mint: 600_000,
        token_probe: 600_000,
        layer: 600_000,
        layer_create: 600_000,
        per_item: 60_000,
        recovery: Duration::from_secs(10),
    }
}
const LONG: Duration = Duration::from_secs(60);
const SWEEP: Duration = Duration::from_secs(3600);

fn done() -> Finish {
    Finish::done(SWEEP, Class::Sweep)
}
fn blocked(by: Block) -> Finish {
    let blocked = Blocked { by, code: "test".into(), why: "because".into() };
    Finish::blocked(SWEEP, Class::Retry, blocked)
}
async fn finish(store: &Store, claim: &Claim, finish: &Finish) -> Result<(), Error> {
    let mut tx = store.begin().await.unwrap();
    tx.finish(claim, finish).await?;
    tx.commit().await
}
async fn push(store: &Store, id: &str, token: &str, source: Declaration) {
    let push = Push {
        item: item(id),
        access_token: Some(AccessToken::new(token)),
        declaration: source,
        class: Class::Person,
        source: "push",
        traceparent: None,
    };
    let mut tx = store.begin().await.unwrap();
    tx.push(&push).await.unwrap();
    tx.commit().await.unwrap();
}
/// An account that takes part.
async fn save_account(tx: &mut Tx, id: &str, business: &str) {
    let (item, business) = (item(id), BusinessId::parse(business).unwrap());
    let traits = Traits { kind: "depository".into(), ..Traits::default() };
    let update = AccountUpdate {
        item,
        id: AccountId::parse(format!("acc-{id}")).unwrap(),
        traits,
        state: AccountState::Active,
        business: Some(business),
        moving_from: None,
        before: None,
        missing_since: None,
        proof: None,
        outside: None,
    };
    tx.save_account(&update).await.unwrap();
}
fn acme() -> Declaration {
    Declaration { business: Some(BusinessId::parse("acme").unwrap()), ..Declaration::default() }
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
        "removals",
        "suspicions",
        "unknown_items",
        "outbox",
        "audit",
        "audit_mentions",
        "verdicts",
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
