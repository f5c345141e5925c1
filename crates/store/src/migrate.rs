//! The schema: migrations, the range of schemas that this release runs on, the rights that they need.

use crate::open::sqlite_code;
use crate::sql::number;
use crate::tx::Dialect;
use crate::{Error, Store};
use sqlx::migrate::MigrateError::{self, Execute, ExecuteMigration};
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::{Row as _, SqlStr};
use std::sync::LazyLock;
use std::time::Duration;

/// Longest wait for a migration, and for the lock of one that another process works on.
const MIGRATION: Duration = Duration::from_hours(1);

/// Not by the macro `sqlx::migrate!`: for its sake sqlx's drivers would be built a second time, for the compiler, which is a quarter
/// of a first build.
static MIGRATIONS: LazyLock<Migrator> = LazyLock::new(|| {
    let texts = [
        (1, "first", include_str!("../migrations/0001_first.sql")),
        (2, "budget", include_str!("../migrations/0002_budget.sql")),
        (3, "figures", include_str!("../migrations/0003_figures.sql")),
        (4, "verdicts", include_str!("../migrations/0004_verdicts.sql")),
        (5, "audit", include_str!("../migrations/0005_audit.sql")),
        (6, "scale", include_str!("../migrations/0006_scale.sql")),
        (7, "explain", include_str!("../migrations/0007_explain.sql")),
        (8, "operate", include_str!("../migrations/0008_operate.sql")),
    ];
    let migration = |(version, name, text): (i64, &'static str, &'static str)| {
        Migration::new(version, name.into(), MigrationType::Simple, SqlStr::from_static(text), false)
    };
    Migrator::with_migrations(texts.map(migration).into())
});

/// The statements that make an empty database.
pub(crate) fn schema() -> impl Iterator<Item = SqlStr> {
    MIGRATIONS.iter().map(|m| m.sql.clone())
}

/// The newest schema this release knows.
pub(crate) const SCHEMA: i64 = 8;
/// Written into the database: the oldest schema a release must know to run on it. A migration that takes something
/// away raises it; one that only adds does not, so that the previous release can still run after a rollback.
const OLDEST_COMPATIBLE: i64 = 1;

/// PostgreSQL gave up this transaction for the sake of another one: a migration locks whole tables, a consumer of the release
/// before it rows of several.
fn is_deadlock(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(|e| e.code()).is_some_and(|c| c == "40P01" || c == "40001")
}

/// SQLite: the disk refuses (read-only, I/O, full), and the schema is what it was.
fn is_of_the_disk(error: &sqlx::Error) -> bool {
    matches!(sqlite_code(error), Some(8 | 10 | 13))
}

/// PostgreSQL: insufficient privilege, or no schema that this role may see.
fn lacks_rights(error: &MigrateError) -> bool {
    let (Execute(error) | ExecuteMigration(error, _)) = error else { return false };
    let code = error.as_database_error().and_then(|e| e.code());
    code.is_some_and(|c| c == "42501" || c == "3F000")
}

fn rights_needed() -> Error {
    Error::Unusable(
        "the role of database.url may not make or use its tables: GRANT USAGE, CREATE ON SCHEMA public to it, and let it \
         own what is there already"
            .into(),
    )
}

pub(crate) fn too_new(oldest: i64) -> Error {
    Error::Unusable(format!(
        "the database needs a release that knows schema {oldest}, this one knows {SCHEMA}: run a newer release"
    ))
}

impl Store {
    /// Applies what is missing. PostgreSQL serialises concurrent migrators by an advisory lock; SQLite has none, so
    /// the loser of a race tries again and finds the work done.
    ///
    /// A schema that is current is left alone, so that a role which may only read and write rows can run.
    pub async fn migrate(&self) -> Result<(), Error> {
        self.make_private_file();
        if self.is_current().await? {
            return self.check_range().await;
        }
        match tokio::time::timeout(MIGRATION, self.migrate_what_is_missing()).await {
            Ok(ended) => ended,
            // Passing: whoever holds the lock of the migration ends, or its session does.
            Err(_) => Err(Error::Database(sqlx::Error::PoolTimedOut)),
        }
    }

    async fn is_current(&self) -> Result<bool, Error> {
        let sql = "SELECT version, checksum FROM _sqlx_migrations WHERE success";
        let rows = match sqlx::query(sql).fetch_all(&self.pool).await {
            Ok(rows) => rows,
            // The database has an answer, such as that there is no such table yet.
            Err(error) if error.as_database_error().is_some() => return Ok(false),
            // It has none. To go on would wait for a connection a second time before the log says why there is none.
            Err(error) => return Err(Error::Database(error)),
        };
        let applied = |version: i64, checksum: &[u8]| {
            rows.iter().any(|row| {
                row.try_get::<i64, _>(0).is_ok_and(|v| v == version)
                    && row.try_get::<Vec<u8>, _>(1).is_ok_and(|c| c == checksum)
            })
        };
        Ok(MIGRATIONS.iter().all(|m| applied(m.version, &m.checksum)))
    }

    async fn migrate_what_is_missing(&self) -> Result<(), Error> {
        let mut tries = 0;
        loop {
            let mut migrator = Migrator::with_migrations(MIGRATIONS.iter().cloned().collect());
            migrator.set_ignore_missing(true);
            // A connection of its own: after a migration that failed, sqlx leaves the lock of migrators with the session, and the
            // next try would wait for it.
            let options = self.pool.options().clone().min_connections(0).max_connections(1);
            let own = options.connect_lazy_with(self.pool.connect_options().as_ref().clone());
            let ran = migrator.run(&own).await;
            own.close().await;
            match ran {
                Ok(()) => break,
                Err(Execute(error) | ExecuteMigration(error, _))
                    if tries < 5 && matches!(self.dialect, Dialect::Sqlite) && error.as_database_error().is_some() =>
                {
                    tries += 1;
                    tokio::time::sleep(Duration::from_millis(50 * tries)).await;
                }
                Err(Execute(error) | ExecuteMigration(error, _))
                    if error.as_database_error().is_none()
                        || is_deadlock(&error)
                        || matches!(self.dialect, Dialect::Sqlite) && is_of_the_disk(&error) =>
                {
                    return Err(Error::Database(error));
                }
                Err(error) => {
                    match self.try_to_connect().await {
                        (Some(true), _) => {}
                        (Some(false), why) => return Err(Error::Unusable(format!("{why}: check database.url"))),
                        (None, _) => return Err(Error::Database(sqlx::Error::PoolTimedOut)),
                    }
                    if lacks_rights(&error) {
                        return Err(rights_needed());
                    }
                    return Err(Error::Unusable(format!(
                        "the database can't be migrated ({error}): restore the last backup or run the release that \
                         changed it"
                    )));
                }
            }
        }
        self.check_range().await
    }

    async fn check_range(&self) -> Result<(), Error> {
        let mut tx = self.begin().await?;
        let oldest: i64 = match tx.meta("oldest_compatible_schema").await? {
            Some(text) => text.parse().unwrap_or(i64::MAX),
            None => 0,
        };
        if oldest > SCHEMA {
            return Err(too_new(oldest));
        }
        if oldest < OLDEST_COMPATIBLE {
            tx.set_meta("oldest_compatible_schema", &OLDEST_COMPATIBLE.to_string()).await?;
        }
        tx.commit().await
    }

    /// The role of database.url may make this release's tables.
    pub(crate) async fn may_migrate(&self) -> Result<(), Error> {
        let Dialect::Postgres = self.dialect else { return Ok(()) };
        let mut tx = self.begin().await?;
        let asks = "SELECT CAST(COALESCE(has_schema_privilege(current_schema(), 'CREATE') AND NOT EXISTS (
                SELECT 1 FROM pg_tables WHERE schemaname = current_schema() AND tablename = 'meta'
                AND NOT has_table_privilege(quote_ident(schemaname) || '.meta', 'SELECT')), FALSE) AS INTEGER) AS may";
        let may = tx.row(sqlx::query(asks)).await?.map_or(Ok(0), |row| number(&row, "may"))?;
        tx.rollback().await?;
        if may == 1 { Ok(()) } else { Err(rights_needed()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_migration_is_listed() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/migrations");
        let mut files: Vec<String> =
            std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        files.sort();
        let listed: Vec<String> =
            MIGRATIONS.iter().map(|m| format!("{:04}_{}.sql", m.version, m.description)).collect();
        assert_eq!(files, listed);
        assert_eq!(MIGRATIONS.iter().last().map(|m| m.version), Some(SCHEMA));
    }
}
