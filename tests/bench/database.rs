//! A PostgreSQL of the bench's own, on disk as it is delivered, that counts its statements.

use sqlx::{PgPool, Row as _};
use std::ops::Sub;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;
use tempfile::TempDir;
use tests::postgres::{Postgres, lend};

/// What a database does for Rekey.
pub(crate) struct Database {
    /// Before its home, which it must have left when that is deleted.
    server: Postgres,
    _home: TempDir,
    counts: PgPool,
}

/// What was done until a moment, or between two.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Work {
    /// Without those that begin and end transactions.
    pub(crate) statements: f64,
    pub(crate) transactions: f64,
    pub(crate) cpu: Duration,
    /// Bytes that were written ahead, and how often the disk was waited for: what a volume must be able to take.
    pub(crate) wal: f64,
    pub(crate) syncs: f64,
    /// Bytes that the tables and their indexes take.
    pub(crate) size: f64,
}

impl Sub for Work {
    type Output = Self;
    fn sub(self, before: Self) -> Self {
        Self {
            statements: self.statements - before.statements,
            transactions: self.transactions - before.transactions,
            cpu: self.cpu.saturating_sub(before.cpu),
            wal: self.wal - before.wal,
            syncs: self.syncs - before.syncs,
            size: self.size - before.size,
        }
    }
}

/// As PostgreSQL is delivered, where the tests' own servers differ.
const SETTINGS: &[&str] = &[
    "shared_preload_libraries=pg_stat_statements",
    "pg_stat_statements.track_planning=on",
    "shared_buffers=128MB",
    "min_wal_size=80MB",
    "max_wal_size=1GB",
];

impl Database {
    pub(crate) async fn start() -> Self {
        let home = tempfile::Builder::new().prefix("rekey-bench-").tempdir().unwrap();
        // The server runs as another user when we are root.
        std::fs::set_permissions(home.path(), PermissionsExt::from_mode(0o755)).unwrap();
        lend(home.path());
        let server = Postgres::create_with(home.path(), home.path().join("log"), SETTINGS);
        server.up().await;
        let counts = PgPool::connect(&server.url("postgres")).await.unwrap();
        sqlx::raw_sql("CREATE EXTENSION pg_stat_statements").execute(&counts).await.unwrap();
        Self { server, _home: home, counts }
    }

    pub(crate) async fn create(&self, name: &str) -> String {
        self.server.create_database(name).await
    }

    /// The same database for a user whose statements are not counted.
    pub(crate) async fn as_watcher(&self, url: &str) -> String {
        sqlx::raw_sql("CREATE ROLE watcher SUPERUSER LOGIN").execute(&self.counts).await.unwrap();
        url.replace("//rekey@", "//watcher@")
    }

    /// What was done in the database `rekey` since the server began.
    pub(crate) async fn work(&self) -> Work {
        let sql = "SELECT coalesce(sum(calls) FILTER (WHERE NOT of_transactions), 0)::float8 AS statements,
                coalesce(sum(calls) FILTER (WHERE upper(query) LIKE 'BEGIN%'), 0)::float8 AS transactions
            FROM (SELECT query, calls, upper(query) ~ '^(BEGIN|COMMIT|ROLLBACK)' AS of_transactions
                FROM pg_stat_statements WHERE dbid = (SELECT oid FROM pg_database WHERE datname = 'rekey')
                    AND userid = 'rekey'::regrole) s";
        let row = sqlx::query(sql).fetch_one(&self.counts).await.unwrap();
        let cpu = super::usage::cpu_of(&self.server.pids());
        let sql = "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::float8 AS wal, pg_database_size('rekey')::float8 AS size,
                (SELECT wal_sync FROM pg_stat_wal)::float8 AS syncs";
        let disk = sqlx::query(sql).fetch_one(&self.counts).await.unwrap();
        let (wal, syncs, size) = (disk.get("wal"), disk.get("syncs"), disk.get("size"));
        Work { statements: row.get("statements"), transactions: row.get("transactions"), cpu, wal, syncs, size }
    }

    /// Forgets what was counted until now.
    pub(crate) async fn forget(&self) {
        sqlx::raw_sql("SELECT pg_stat_statements_reset()").execute(&self.counts).await.unwrap();
    }

    /// What the database `rekey` did for each of `units`, most called first: calls, milliseconds of planning and of the rest, pages, statement.
    pub(crate) async fn listed(&self, units: usize) -> String {
        let sql =
            "SELECT calls / $1::float8 AS calls, total_plan_time / $1 AS planning, total_exec_time / $1 AS millis,
                (shared_blks_hit + shared_blks_read) / $1 AS pages, regexp_replace(query, '\\s+', ' ', 'g') AS query
            FROM pg_stat_statements WHERE dbid = (SELECT oid FROM pg_database WHERE datname = 'rekey')
                AND userid = 'rekey'::regrole ORDER BY calls DESC";
        let rows = sqlx::query(sql).bind(units as f64).fetch_all(&self.counts).await.unwrap();
        let line = |row: &sqlx::postgres::PgRow| {
            let [calls, planning, millis, pages] =
                ["calls", "planning", "millis", "pages"].map(|c| row.get::<f64, _>(c));
            format!("{calls:>8.2} {planning:>8.3} {millis:>8.3} {pages:>8.1}  {}\n", row.get::<String, _>("query"))
        };
        "   calls  plan ms       ms    pages  of each rotation\n".to_owned()
            + &rows.iter().map(line).collect::<String>()
    }
}
