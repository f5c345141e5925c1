//! How PostgreSQL carried out each statement: `auto_explain` says it to the client, and sqlx writes what a server says into
//! the log of the thread that asked.

use parking_lot::Mutex;
use serde_json::Value;
use sqlx::Connection as _;
use std::fmt::Debug;
use std::sync::Arc;
use tracing::field::{Field, Visit};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Tables that grow with the store. The others hold what is in force at the moment.
pub const LARGE: &[&str] = &[
    "work",
    "items",
    "accounts",
    "access_tokens",
    "processor_tokens",
    "businesses",
    "verdicts",
    "audit",
    "unknown_items",
    "hints",
    "assignments",
    "audit_mentions",
    "history",
    "plaid_views",
];

/// A statement as it was carried out.
#[derive(Debug, Clone)]
pub struct Ran {
    pub text: String,
    /// Of its tables and indexes, from memory or disk.
    pub pages: u64,
    /// Of large tables, those included that were thrown away.
    pub rows: u64,
    /// Large tables that it read from end to end.
    pub scans: Vec<String>,
    pub plan: Value,
}

impl Ran {
    fn of(notice: &str) -> Option<Self> {
        let plan: Value = serde_json::from_str(&notice[notice.find('{')?..]).ok()?;
        let text = plan["Query Text"].as_str()?.to_owned();
        let top = plan["Plan"].clone();
        let pages = ["Shared Hit Blocks", "Shared Read Blocks"].iter().filter_map(|k| top[k].as_u64()).sum();
        let mut ran = Self { text, pages, rows: 0, scans: Vec::new(), plan: top.clone() };
        ran.read(&top);
        Some(ran)
    }

    fn read(&mut self, node: &Value) {
        let table = node["Relation Name"].as_str().unwrap_or_default();
        if LARGE.contains(&table) && node["Node Type"].as_str().is_some_and(|t| t.contains("Scan")) {
            let of_each = ["Actual Rows", "Rows Removed by Filter", "Rows Removed by Index Recheck"];
            let rows: f64 = of_each.iter().filter_map(|k| node[k].as_f64()).sum();
            self.rows += (rows * node["Actual Loops"].as_f64().unwrap_or(1.0)) as u64;
            if node["Node Type"] == "Seq Scan" {
                self.scans.push(table.to_owned());
            }
        }
        node["Plans"].as_array().into_iter().flatten().for_each(|plan| self.read(plan));
    }
}

/// What the server says, in the thread of the test.
#[derive(Debug, Clone, Default)]
pub struct Notices(Arc<Mutex<Vec<Ran>>>);

impl<S: tracing::Subscriber> Layer<S> for Notices {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        if event.metadata().target() == "sqlx::postgres::notice" {
            event.record(&mut self.clone());
        }
    }
}

impl Visit for Notices {
    fn record_debug(&mut self, _: &Field, value: &dyn Debug) {
        self.0.lock().extend(Ran::of(&format!("{value:?}")));
    }
    fn record_str(&mut self, _: &Field, value: &str) {
        self.0.lock().extend(Ran::of(value));
    }
}

impl Notices {
    /// The statements since the last time.
    pub fn take(&self) -> Vec<Ran> {
        std::mem::take(&mut self.0.lock())
    }
}

/// From the next connection on each statement is explained, and carried out under these `settings`.
pub async fn explain(url: &str, settings: &[&str]) {
    let mut connection = sqlx::AnyConnection::connect(url).await.unwrap();
    let name: String = sqlx::query_scalar("SELECT current_database()::text").fetch_one(&mut connection).await.unwrap();
    let explaining = [
        "session_preload_libraries = 'auto_explain'",
        "auto_explain.log_min_duration = 0",
        "auto_explain.log_analyze = on",
        "auto_explain.log_buffers = on",
        "auto_explain.log_timing = off",
        "auto_explain.log_format = json",
        "auto_explain.log_level = notice",
    ];
    for setting in explaining.iter().chain(settings) {
        let sql = format!("ALTER DATABASE \"{name}\" SET {setting}");
        sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
    }
    connection.close().await.unwrap();
}
