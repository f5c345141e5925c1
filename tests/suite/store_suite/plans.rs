//! No statement reads more of a large store than it needs. SQLite is asked how it would carry out the texts that PostgreSQL
//! was sent.

use super::{KEY, open_with, place};
use sqlx::{Connection as _, Row as _};
use tests::explain::{Notices, Ran, explain};
use tests::{Parts, scale};
use tracing_subscriber::layer::SubscriberExt as _;

const ITEMS: u64 = 20_000;
const DUE: u64 = 5_000;
/// Pages that a statement about one Item or one business may read, or one page of a list: each index is three deep, and
/// a business has a dozen accounts.
const PAGES: u64 = 200;
/// The same for a hundred Items and their businesses, and for what counts a limited number of rows.
const PAGES_OF_MANY: u64 = 10_000;
/// Small tables, and names that our statements give to parts of their own.
const SMALL: &[&str] = &[
    "pauses",
    "budgets",
    "suspicions",
    "removals",
    "outbox",
    "meta",
    "due",
    "first",
    "counted",
    "ids",
    "p",
    "p0",
    "p1",
    "p2",
    "p3",
];

#[tokio::test]
async fn no_statement_reads_a_large_store_from_end_to_end() {
    let ran = ran_on_postgres().await;
    let embedded = place(Parts::Embedded).await;
    open_with(&embedded, KEY, 7).await.unwrap().close().await;
    scale::fill(&embedded.url, ITEMS, DUE).await;
    let mut sqlite = sqlx::AnyConnection::connect(&embedded.url).await.unwrap();
    let mut red = Vec::new();
    for (what, ran) in &ran {
        let most = if ["many", "16", "due"].iter().any(|w| what.contains(w)) { PAGES_OF_MANY } else { PAGES };
        if ran.pages > most || !ran.scans.is_empty() {
            red.push(format!("{what}: {} pages, scans {:?}: {}\n{:#}", ran.pages, ran.scans, ran.text, ran.plan));
        }
        for step in plan_on_sqlite(&mut sqlite, &ran.text).await {
            red.extend(is_scan(&step).then(|| format!("{what}: SQLite: {step}: {}", ran.text)));
        }
    }
    assert!(ran.len() > 100, "only {} statements were explained: is auto_explain there?", ran.len());
    assert!(red.is_empty(), "{}", red.join("\n\n"));
}

/// Each statement, with what it is a part of.
async fn ran_on_postgres() -> Vec<(String, Ran)> {
    let notices = Notices::default();
    let _guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(notices.clone()));
    let place = place(Parts::Real).await;
    open_with(&place, KEY, 7).await.unwrap().close().await;
    scale::fill(&place.url, ITEMS, DUE).await;
    explain(&place.url).await;
    let store = open_with(&place, KEY, 7).await.unwrap();
    notices.take();
    let mut found = Vec::new();
    scale::everything(&store, ITEMS, &mut |what| {
        found.extend(notices.take().into_iter().map(|ran| (what.to_owned(), ran)));
    })
    .await;
    found
}

/// A step in the words of https://www.sqlite.org/eqp.html that reads all of a table that may be large.
fn is_scan(step: &str) -> bool {
    let Some(of) = step.strip_prefix("SCAN ") else { return false };
    let name = of.split_whitespace().next().unwrap_or_default();
    let is_table = !of.contains(" USING ") && !of.contains("VALUES CLAUSE");
    is_table && !name.starts_with('(') && name != "CONSTANT" && !SMALL.contains(&name)
}

async fn plan_on_sqlite(connection: &mut sqlx::AnyConnection, text: &str) -> Vec<String> {
    let text = text.replace("FOR UPDATE", "").replace("SKIP LOCKED", "");
    let sql = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {text}"));
    // What only PostgreSQL understands is not asked of SQLite either.
    let Ok(rows) = sqlx::query(sql).fetch_all(connection).await else { return Vec::new() };
    rows.iter().map(|row| row.get::<String, _>("detail")).collect()
}
