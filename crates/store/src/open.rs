//! Opening a database: connection, migrations, the range of schemas this release runs on, the key check.

use crate::tx::{Dialect, Tx};
use crate::verified::{tls_hint, verified_url};
use crate::{Error, KeyRing};
use domain::Fingerprinter;
use secrecy::{ExposeSecret, SecretString};
use sqlx::any::AnyPoolOptions;
use sqlx::{AnyPool, Connection as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Longest wait for the reason why a database is away.
const DIAGNOSIS: Duration = Duration::from_secs(2);

/// FULL: a commit is on disk before it is reported, because I5 and I6 rest on it.
const PRAGMAS: &str = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA busy_timeout = 5000;";

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("./migrations");

/// The newest schema this release knows.
const SCHEMA: i64 = 3;
/// Written into the database: the oldest schema a release must know to run on it. A migration that takes something
/// away raises it; one that only adds does not, so that the previous release can still run after a rollback.
const OLDEST_COMPATIBLE: i64 = 1;

/// Where the sealed value stands that tells whether our keys are the database's.
pub(crate) const KEY_CHECK: &str = "meta/key_check";

/// SQLite's primary result code, https://www.sqlite.org/rescode.html.
fn sqlite_code(error: &sqlx::Error) -> Option<i64> {
    let extended: i64 = error.as_database_error()?.code()?.parse().ok()?;
    Some(extended & 0xff)
}

/// SQLite: the disk refuses (read-only, I/O, full), and the schema is what it was.
fn is_of_the_disk(error: &sqlx::Error) -> bool {
    matches!(sqlite_code(error), Some(8 | 10 | 13))
}

/// PostgreSQL: insufficient privilege, or no schema that this role may see.
fn lacks_rights(error: &sqlx::migrate::MigrateError) -> bool {
    use sqlx::migrate::MigrateError::{Execute, ExecuteMigration};
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

fn too_new(oldest: i64) -> Error {
    Error::Unusable(format!(
        "the database needs a release that knows schema {oldest}, this one knows {SCHEMA}: run a newer release"
    ))
}

/// How to reach the database.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `sqlite:///path/to/file` or `postgres://…`; secret, because it may hold a password.
    pub url: SecretString,
    pub connections: u32,
    /// Longest wait for a free connection.
    pub acquire_timeout: Duration,
}

/// A database that is open, migrated and readable with our keys.
#[derive(Clone)]
pub struct Store {
    pub(crate) pool: AnyPool,
    pub(crate) dialect: Dialect,
    pub(crate) keys: Arc<KeyRing>,
    pub(crate) fingerprints: Fingerprinter,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Store({:?})", self.dialect)
    }
}

impl Store {
    /// Connects, migrates and checks the key ring. Several processes may do so at once.
    pub async fn open(settings: &Settings, keys: KeyRing, fingerprints: Fingerprinter) -> Result<Self, Error> {
        let store = Self::connect(settings, keys, fingerprints)?;
        store.prepare().await?;
        Ok(store)
    }

    /// Migrates and checks the key ring; to be called before anything else, and again if the database was away.
    pub async fn prepare(&self) -> Result<(), Error> {
        self.migrate().await?;
        self.check_keys().await
    }

    /// Makes the pool without touching the database yet.
    pub fn connect(settings: &Settings, keys: KeyRing, fingerprints: Fingerprinter) -> Result<Self, Error> {
        sqlx::any::install_default_drivers();
        let url = settings.url.expose_secret();
        let dialect = Dialect::of_url(url)
            .ok_or_else(|| Error::Unusable("database.url must begin with sqlite:// or postgres://".into()))?;
        let options = AnyPoolOptions::new()
            .max_connections(settings.connections.max(1))
            .acquire_timeout(settings.acquire_timeout)
            // An idle connection that the server closed is noticed here instead of failing the work.
            .test_before_acquire(true);
        let options = match dialect {
            Dialect::Sqlite => options
                .after_connect(|connection, _| {
                    Box::pin(async move { sqlx::raw_sql(PRAGMAS).execute(connection).await.map(|_| ()) })
                })
                // SQLite rolls back by itself when the disk is full. sqlx then still counts a transaction on that
                // connection, refuses every BEGIN and nests what only reads, so such a connection is closed.
                .before_acquire(|connection, _| Box::pin(async move { Ok(!connection.is_in_transaction()) })),
            Dialect::Postgres => options,
        };
        // The URL may hold a password, so the parser's own message, which may quote it, is not passed on.
        let pool = options
            .connect_lazy(&dialect.complete_url(&verified_url(url)))
            .map_err(|_| Error::Unusable("database.url can't be read: check its form".into()))?;
        Ok(Self { pool, dialect, keys: Arc::new(keys), fingerprints })
    }

    /// Why no connection can be had, or what one was refused, and where the database was looked for; for messages. The
    /// pool itself only says that it waited in vain.
    pub async fn diagnose(&self, refused: Option<&Error>) -> String {
        match (self.try_to_connect().await, refused) {
            ((Some(true), why), Some(Error::Database(error))) => format!("{why}: {error}{}", self.hint(error)),
            ((_, why), _) => why,
        }
    }

    /// Some(false): a connection was refused for a reason that waiting won't mend.
    async fn try_to_connect(&self) -> (Option<bool>, String) {
        let options = self.pool.connect_options();
        let url = &options.database_url;
        let place = match self.dialect {
            Dialect::Sqlite => format!("the SQLite file {}", url.path()),
            Dialect::Postgres => {
                format!("PostgreSQL at {}:{}", url.host_str().unwrap_or("localhost"), url.port().unwrap_or(5432))
            }
        };
        let tried = async {
            let mut connection = sqlx::ConnectOptions::connect(options.as_ref()).await?;
            // As the pool does it: SQLite opens a file on a full or read-only disk, and then can do nothing with it.
            if let Dialect::Sqlite = self.dialect {
                sqlx::raw_sql(PRAGMAS).execute(&mut connection).await?;
            }
            drop(connection.close().await);
            Ok::<_, sqlx::Error>(())
        };
        match tokio::time::timeout(DIAGNOSIS, tried).await {
            Err(_) => (None, format!("{place} does not answer")),
            Ok(Err(error)) => {
                // SQLSTATE 28: not this user; 3D: no such database; 14 of SQLite: no such directory.
                let code = error.as_database_error().and_then(|e| e.code()).unwrap_or_default().into_owned();
                let is_lasting = code.starts_with("28") || code.starts_with("3D") || code == "14";
                (is_lasting.then_some(false), format!("{place} does not answer: {error}{}", self.hint(&error)))
            }
            Ok(Ok(())) => (Some(true), format!("{place} answers, but does not do everything yet")),
        }
    }

    /// What an operator can do about a connection that failed.
    fn hint(&self, error: &sqlx::Error) -> &'static str {
        match (self.dialect, sqlite_code(error)) {
            (Dialect::Postgres, _) => tls_hint(error),
            (Dialect::Sqlite, Some(8 | 14)) => ": is there such a directory, and may this process write there?",
            (Dialect::Sqlite, Some(10 | 13)) => ": is its disk full?",
            (Dialect::Sqlite, _) => "",
        }
    }

    /// Applies what is missing. PostgreSQL serialises concurrent migrators by an advisory lock; SQLite has none, so
    /// the loser of a race tries again and finds the work done.
    pub async fn migrate(&self) -> Result<(), Error> {
        let mut tries = 0;
        loop {
            let mut migrator = sqlx::migrate::Migrator { ignore_missing: true, ..sqlx::migrate::Migrator::DEFAULT };
            migrator.migrations = MIGRATIONS.migrations.clone();
            match migrator.run(&self.pool).await {
                Ok(()) => break,
                Err(
                    sqlx::migrate::MigrateError::Execute(error)
                    | sqlx::migrate::MigrateError::ExecuteMigration(error, _),
                ) if tries < 5 && matches!(self.dialect, Dialect::Sqlite) && error.as_database_error().is_some() => {
                    tries += 1;
                    tokio::time::sleep(Duration::from_millis(50 * tries)).await;
                }
                Err(
                    sqlx::migrate::MigrateError::Execute(error)
                    | sqlx::migrate::MigrateError::ExecuteMigration(error, _),
                ) if error.as_database_error().is_none()
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

    /// A lost or mistyped key is found here, before anything is written under a wrong one.
    async fn check_keys(&self) -> Result<(), Error> {
        let mut tx = self.begin().await?;
        match tx.meta("key_check").await? {
            None => {
                let sealed = self.keys.seal(KEY_CHECK, "rekey")?;
                tx.set_meta("key_check", &sealed).await?;
            }
            Some(sealed) => self.opens(&sealed)?,
        }
        tx.check_fingerprint_key(&self.fingerprints).await?;
        tx.commit().await
    }

    fn opens(&self, sealed: &str) -> Result<(), Error> {
        match self.keys.open(KEY_CHECK, sealed) {
            Ok(_) => Ok(()),
            Err(Error::MissingKey { id }) => Err(Error::Unusable(format!(
                "this database was sealed under key {id}, which secrets.keys does not hold: add that key again, after the \
                 one that shall seal"
            ))),
            Err(_) => Err(Error::Unusable(
                "secrets.keys does not open this database: a key was changed under the same id, so put the old key back"
                    .into(),
            )),
        }
    }

    /// Checks a database without changing it: does it answer, does this release run on it, do our keys open it? One
    /// that was never migrated is fine.
    pub async fn inspect(&self) -> Result<(), Error> {
        if let Some(directory) = self.directory_of_missing_file() {
            // Not opened, because that would make the file.
            return if directory.is_dir() {
                Ok(())
            } else {
                let place = directory.display();
                Err(Error::Unusable(format!("the directory {place} of database.url does not exist: make it")))
            };
        }
        self.ping().await?;
        let mut tx = self.begin().await?;
        let oldest = match tx.meta("oldest_compatible_schema").await {
            Ok(oldest) => oldest.and_then(|t| t.parse::<i64>().ok()).unwrap_or(0),
            // No such table yet, or none that this role may read.
            Err(_) => {
                drop(tx);
                return self.may_migrate().await;
            }
        };
        if oldest > SCHEMA {
            return Err(too_new(oldest));
        }
        match tx.meta("key_check").await? {
            Some(sealed) => self.opens(&sealed)?,
            None => return Ok(()),
        }
        // Dropped without a commit, so that a check writes nothing.
        tx.check_fingerprint_key(&self.fingerprints).await
    }

    async fn may_migrate(&self) -> Result<(), Error> {
        let Dialect::Postgres = self.dialect else { return Ok(()) };
        let mut tx = self.begin().await?;
        let asks = "SELECT CAST(COALESCE(has_schema_privilege(current_schema(), 'CREATE') AND NOT EXISTS (
                SELECT 1 FROM pg_tables WHERE schemaname = current_schema() AND tablename = 'meta'
                AND NOT has_table_privilege(quote_ident(schemaname) || '.meta', 'SELECT')), FALSE) AS INTEGER) AS may";
        let may = tx.row(sqlx::query(asks)).await?.map_or(Ok(0), |row| crate::tx::number(&row, "may"))?;
        if may == 1 { Ok(()) } else { Err(rights_needed()) }
    }

    fn directory_of_missing_file(&self) -> Option<PathBuf> {
        let options = self.pool.connect_options();
        let file = Path::new(options.database_url.path());
        let missing = matches!(self.dialect, Dialect::Sqlite) && file.is_absolute() && !file.exists();
        missing.then(|| file.parent().map(Path::to_path_buf)).flatten()
    }

    /// Begins a transaction that may write.
    pub async fn begin(&self) -> Result<Tx, Error> {
        Tx::begin(self, true).await
    }

    /// Begins one that only reads, everything as of one moment; on SQLite it does not wait for the writer.
    pub async fn begin_read(&self) -> Result<Tx, Error> {
        Tx::begin(self, false).await
    }

    /// Answers when the database does.
    pub async fn ping(&self) -> Result<(), Error> {
        sqlx::query("SELECT 1").execute(&self.pool).await?;
        Ok(())
    }

    pub fn fingerprints(&self) -> &Fingerprinter {
        &self.fingerprints
    }

    pub async fn close(&self) {
        self.pool.close().await;
    }
}
