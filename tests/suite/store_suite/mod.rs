//! One suite of store tests for both databases.

mod batches;
mod erasing;
mod group_commit;
mod opening;
mod plans;
mod queue;
mod tokens;
mod verdicts;

use domain::queue::{Blocked, Finish, Mark};
use domain::work::{Block, Class, Kind};
use std::time::Duration;
use store::{Claim, Error, Store};
use tests::bare_store::{KEY, LONG, SWEEP, acme, done, finish, item, limits, push, save_account};
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

const OTHER_KEY: &str = "b:AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=";

async fn open_with(place: &Place, keys: &str, fingerprint: u8) -> Result<Store, Error> {
    tests::bare_store::open_with(&place.url, keys, fingerprint).await
}

async fn open(parts: Parts) -> (Store, Place) {
    let place = place(parts).await;
    (open_with(&place, KEY, 7).await.unwrap(), place)
}

fn mark(id: &str) -> Mark<'static> {
    Mark::new(&item(id), Class::Rotation, "test")
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
fn blocked(by: Block) -> Finish {
    let blocked = Blocked::new(by, "test", "because");
    Finish::blocked(SWEEP, Class::Retry, blocked)
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
