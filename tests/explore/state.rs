//! The database as the explorer sees it: what can be claimed, what time would change, what makes two states the same.

use sqlx::{Connection, Row, SqliteConnection};

/// Tables that hold the state; outcomes, audit and budgets only record it.
const TABLES: [&str; 13] = [
    "meta",
    "work",
    "items",
    "assignments",
    "access_tokens",
    "accounts",
    "processor_tokens",
    "businesses",
    "removals",
    "hints",
    "suspicions",
    "pauses",
    "verdicts",
];

/// What differs from run to run and is read by nobody who decides by it.
const VOLATILE: [&str; 29] = [
    "due_at",
    "lease_until",
    "lease_owner",
    "looked_at",
    "signal_at",
    "blocked_at",
    "traceparent",
    "taken_over",
    "epoch",
    "sealed",
    "declaration",
    "seen_at",
    "judged_at",
    "intended_at",
    "settled_at",
    "state_since",
    "created_at",
    "converged_at",
    "listed_at",
    "put_at",
    "attempts",
    "id",
    "at",
    "next_look",
    "next_proof",
    "missing_since",
    "since",
    "told",
    "told_times",
];

/// A row of the queue.
#[derive(Debug, Clone)]
pub(crate) struct Queued {
    pub(crate) kind: String,
    pub(crate) id: String,
    pub(crate) epoch: i64,
    pub(crate) wanted: i64,
    pub(crate) unblocked: i64,
    pub(crate) leased: bool,
    pub(crate) waits: bool,
    pub(crate) blocked: Option<String>,
}

pub(crate) struct Books {
    database: SqliteConnection,
    everything: String,
}

impl Books {
    pub(crate) async fn open(url: &str) -> Self {
        let mut database = SqliteConnection::connect(url).await.unwrap();
        let everything = everything(&mut database).await;
        Self { database, everything }
    }

    async fn run(&mut self, sql: &str) {
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned())).execute(&mut self.database).await.unwrap();
    }

    /// Keeps this state to return to.
    pub(crate) async fn keep(&mut self) {
        for table in TABLES {
            self.run(&format!("DROP TABLE IF EXISTS kept_{table}; CREATE TABLE kept_{table} AS SELECT * FROM {table}"))
                .await;
        }
    }

    pub(crate) async fn return_to_kept(&mut self) {
        let mut sql = String::from("BEGIN IMMEDIATE;");
        for table in TABLES {
            sql += &format!("DELETE FROM {table}; INSERT INTO {table} SELECT * FROM kept_{table};");
        }
        for table in ["outbox", "audit", "budgets", "unknown_items"] {
            sql += &format!("DELETE FROM {table};");
        }
        self.run(&(sql + "COMMIT")).await;
    }

    pub(crate) async fn queue(&mut self) -> Vec<Queued> {
        let sql = "SELECT kind, id, epoch, wanted, unblocked, lease_until IS NOT NULL AS leased, class < 4 OR blocked_by = 'backoff' AS waits, blocked_by FROM work ORDER BY kind, id";
        let rows = sqlx::query(sql).fetch_all(&mut self.database).await.unwrap();
        rows.iter()
            .map(|r| Queued {
                kind: r.get("kind"),
                id: r.get("id"),
                epoch: r.get("epoch"),
                wanted: r.get("wanted"),
                unblocked: r.get("unblocked"),
                leased: r.get("leased"),
                waits: r.get("waits"),
                blocked: r.get("blocked_by"),
            })
            .collect()
    }

    /// This row alone can be claimed now. `late`: nothing that an earlier holder sent can be on its way any more.
    pub(crate) async fn make_due(&mut self, row: &Queued, late: bool) {
        let age = if late { "taken_over = CASE WHEN taken_over IS NULL THEN NULL ELSE 1 END," } else { "" };
        let sql = format!(
            "UPDATE work SET due_at = 32503680000000 WHERE lease_until IS NULL;
             UPDATE work SET {age} due_at = 1, next_look = NULL WHERE kind = '{}' AND id = '{}'",
            row.kind, row.id
        );
        self.run(&sql).await;
    }

    /// The lease of this row ends.
    pub(crate) async fn expire(&mut self, kind: &str, id: &str) {
        // `held` stays: the next claim finds that it takes over.
        let sql = "UPDATE work SET lease_until = NULL, lease_owner = NULL, due_at = 1, class = MIN(class, 3)";
        self.run(&format!("{sql} WHERE kind = '{kind}' AND id = '{id}'")).await;
    }

    /// The state as text, equal where nobody can tell two states apart.
    pub(crate) async fn text(&mut self) -> String {
        let rows: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(self.everything.clone()))
            .fetch_all(&mut self.database)
            .await
            .unwrap();
        rows.join("\n")
    }

    /// Mints that the ledger knows of, and those among them that nobody settled.
    pub(crate) async fn mints(&mut self) -> (i64, i64) {
        let sql = "SELECT COUNT(*), COUNT(CASE WHEN state = 'intended' THEN 1 END) FROM processor_tokens";
        sqlx::query_as(sql).fetch_one(&mut self.database).await.unwrap()
    }

    /// The fingerprint of the access token that is current.
    pub(crate) async fn current(&mut self) -> Option<String> {
        let sql = "SELECT fingerprint FROM access_tokens WHERE standing = 'current'";
        sqlx::query_scalar(sql).fetch_optional(&mut self.database).await.unwrap()
    }

    /// Accounts that have more than one live token of one generation.
    pub(crate) async fn doubly_live(&mut self) -> i64 {
        let sql = "SELECT COUNT(*) FROM (SELECT 1 FROM processor_tokens WHERE state = 'live'
            GROUP BY item_id, account_id, generation HAVING COUNT(*) > 1)";
        sqlx::query_scalar(sql).fetch_one(&mut self.database).await.unwrap()
    }
}

/// One query that tells every row of every table as text, without what is volatile.
async fn everything(database: &mut SqliteConnection) -> String {
    let mut parts = Vec::new();
    for table in TABLES {
        let sql = format!("SELECT name FROM pragma_table_info('{table}') ORDER BY name");
        let columns: Vec<String> =
            sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_all(&mut *database).await.unwrap();
        // A row of the queue is named by its id. How many events wait is nobody's business, only whether one does; whether
        // one came since the row was claimed belongs to the worker that claimed it.
        let is_kept = |c: &String| match (table, c.as_str()) {
            ("work", "wanted" | "done" | "unblocked") => false,
            ("work", "id") => true,
            (_, c) => !VOLATILE.contains(&c),
        };
        let mut told: Vec<String> = columns.into_iter().filter(is_kept).map(|c| format!("quote({c})")).collect();
        if table == "work" {
            told.push("(wanted > done) || (unblocked > done) || (lease_until IS NULL) || (taken_over IS NULL)".into());
        }
        if table == "accounts" {
            told.push("(missing_since IS NULL)".into());
        }
        parts.push(format!("SELECT '{table}' || {} AS told FROM {table}", told.join(" || ',' || ")));
    }
    format!("{} ORDER BY told", parts.join(" UNION ALL "))
}
