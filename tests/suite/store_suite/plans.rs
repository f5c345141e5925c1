//! No statement reads more of a large store than it needs. SQLite is asked how it would carry out the texts that PostgreSQL
//! was sent.

use super::{KEY, open_with, place};
use sqlx::{Connection as _, Row as _};
use tests::{Parts, scale};

const ITEMS: u64 = 20_000;
const DUE: u64 = 5_000;
/// Pages that a statement about one Item or one business may read, or one page of a list: each index is three deep, and
/// a business has a dozen accounts.
const PAGES: u64 = 250;
/// The same for a hundred Items and their businesses, and for what counts a limited number of rows.
const PAGES_OF_MANY: u64 = 10_000;
/// With a million Items PostgreSQL reads a hundred of them by an index; with as few as here it would rather read all.
const AS_IF_LARGER: &str = "random_page_cost = 1.1";

/// Rows that a claim of 16 may read: as many of each class, to read and to mint, and a few that it passes by. Pages don't tell:
/// to read and sort all that is due takes few of them while it was written in one go.
const ROWS_OF_A_CLAIM: u64 = 400;

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
    "locked",
    "ids",
    "p",
    "p0",
    "p1",
    "p2",
    "p3",
];

#[tokio::test]
async fn no_statement_reads_a_large_store_from_end_to_end() {
    let ran = scale::carried_out(&place(Parts::Real).await.url, ITEMS, DUE, &[AS_IF_LARGER]).await;
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
        if what.starts_with("claim") && ran.rows > ROWS_OF_A_CLAIM {
            red.push(format!("{what}: {} rows: {}\n{:#}", ran.rows, ran.text, ran.plan));
        }
        let Some(steps) = plan_on_sqlite(&mut sqlite, &ran.text).await else {
            // What only PostgreSQL understands.
            let is_ours = !ran.text.contains("pg_is_in_recovery") && !ran.text.contains("clock_timestamp");
            red.extend(is_ours.then(|| format!("{what}: SQLite does not take it: {}", ran.text)));
            continue;
        };
        for step in steps {
            let sorts = what.starts_with("claim") && step.contains("B-TREE FOR ORDER BY");
            red.extend((sorts || is_scan(&step)).then(|| format!("{what}: SQLite: {step}: {}", ran.text)));
        }
    }
    assert!(ran.len() > 100, "only {} statements were explained: is auto_explain there?", ran.len());
    assert!(red.is_empty(), "{}", red.join("\n\n"));
}

/// A step in the words of https://www.sqlite.org/eqp.html that reads all of a table that may be large.
fn is_scan(step: &str) -> bool {
    let Some(of) = step.strip_prefix("SCAN ") else { return false };
    let name = of.split_whitespace().next().unwrap_or_default();
    let is_table = !of.contains(" USING ") && !of.contains("VALUES CLAUSE") && !of.contains("VIRTUAL TABLE");
    is_table && !name.starts_with('(') && name != "CONSTANT" && !SMALL.contains(&name)
}

/// The same with SQLite's functions for what is bound as JSON.
fn in_sqlite(text: &str) -> String {
    let mut text = text.replace("SELECT json_array_elements_text(", "SELECT value FROM json_each(");
    while let Some(from) = text.find(ARRAY) {
        let end = from + ARRAY.len() + end_of_parenthesis(&text[from + ARRAY.len()..]);
        // The one of ANY ends behind it.
        text.replace_range(end..=end + 1, ")");
        text.replace_range(from..from + ARRAY.len(), "IN (");
    }
    let text = text.replace("::json)", ")");
    let Some((before, records)) = text.split_once("json_to_recordset(") else { return text };
    let (bound, records) = records.split_once(") AS r(").unwrap();
    let (columns, after) = records.split_once(')').unwrap();
    let names = columns.split(", ").map(|column| column.split(' ').next().unwrap());
    let columns = names.map(|name| format!("value ->> '{name}' AS {name}")).collect::<Vec<_>>().join(", ");
    format!("{before}(SELECT {columns} FROM json_each({bound})) AS r{after}")
}

const ARRAY: &str = "= ANY(ARRAY(";

/// Where the parenthesis ends that was opened before.
fn end_of_parenthesis(text: &str) -> usize {
    let mut open = 1;
    let ends = |c: char| {
        open += i32::from(c == '(') - i32::from(c == ')');
        open == 0
    };
    text.find(ends).unwrap()
}

/// None: it does not take the text.
async fn plan_on_sqlite(connection: &mut sqlx::AnyConnection, text: &str) -> Option<Vec<String>> {
    let text = in_sqlite(&text.replace("FOR UPDATE", "").replace("SKIP LOCKED", ""));
    let sql = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {text}"));
    let rows = sqlx::query(sql).fetch_all(connection).await.ok()?;
    Some(rows.iter().map(|row| row.get::<String, _>("detail")).collect())
}
