//! Opening a database: the pool and what it does with each connection, why none can be had, the check of the keys.

use crate::claim::Turns;
use crate::group_commit::GroupCommit;
use crate::migrate::{SCHEMA, too_new};
use crate::session::{self, Distrust};
use crate::tx::{BEGIN_TO_WRITE, Dialect, Tx};
use crate::verified::{tls_hint, verified_url};
use crate::wake::Wake;
use crate::{Error, KeyRing};
use domain::Fingerprinter;
use domain::setting::{Count, Span};
use schemars::JsonSchema;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use sqlx::any::AnyPoolOptions;
use sqlx::{AnyConnection, AnyPool, Connection as _, Row as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Longest wait for the reason why a database is away.
const DIAGNOSIS: Duration = Duration::from_secs(2);

/// Longest wait for a sign that the database serves.
const SERVING: Duration = Duration::from_secs(10);

/// FULL, because I5 and I6 rest on a commit's being on disk before it is reported; unless [`GroupCommit`] sees to that.
const PRAGMAS: &str = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA busy_timeout = 5000;";

/// Sets a new connection up. Where there is a write-ahead log, commits may share a write of the disk.
async fn begin_session(connection: &mut AnyConnection, together: &GroupCommit) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(PRAGMAS).execute(&mut *connection).await?;
    let mode: String = sqlx::raw_sql("PRAGMA journal_mode").fetch_one(&mut *connection).await?.try_get(0)?;
    let file = "SELECT file FROM pragma_database_list WHERE name = 'main'";
    let file: String = sqlx::raw_sql(file).fetch_one(&mut *connection).await?.try_get(0)?;
    if mode == "wal" && !file.is_empty() {
        together.takes_over(&file);
        sqlx::raw_sql("PRAGMA synchronous = NORMAL").execute(connection).await?;
    }
    Ok(())
}

/// Where the sealed value stands that tells whether our keys are the database's.
pub(crate) const KEY_CHECK: &str = "meta/key_check";

/// SQLite's primary result code, https://www.sqlite.org/rescode.html.
pub(crate) fn sqlite_code(error: &sqlx::Error) -> Option<i64> {
    let extended: i64 = error.as_database_error()?.code()?.parse().ok()?;
    Some(extended & 0xff)
}

/// The settings of the section `database`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct Settings {
    /// `sqlite:///path/to/file` or `postgres://…`; secret, because it may hold a password.
    #[schemars(skip)]
    pub url: SecretString,
    /// At most so many at once.
    #[serde(with = "Count")]
    pub connections: u32,
    /// Longest wait for a free connection.
    #[serde(with = "Span")]
    pub acquire_timeout: Duration,
}

/// A database that is open, migrated and readable with our keys.
#[derive(Clone)]
pub struct Store {
    pub(crate) pool: AnyPool,
    pub(crate) dialect: Dialect,
    pub(crate) keys: Arc<KeyRing>,
    pub(crate) fingerprints: Fingerprinter,
    pub(crate) distrust: Distrust,
    pub(crate) outcomes: Arc<str>,
    pub(crate) wake: Wake,
    pub(crate) turns: Turns,
    /// SQLite's commits.
    pub(crate) together: Option<GroupCommit>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Store({:?})", self.dialect)
    }
}

impl Store {
    /// Connects, migrates and checks the key ring. Several processes may do so at once.
    pub async fn open(
        settings: &Settings,
        outcomes: &str,
        keys: KeyRing,
        fingerprints: Fingerprinter,
    ) -> Result<Self, Error> {
        let store = Self::connect(settings, outcomes, keys, fingerprints)?;
        store.prepare().await?;
        Ok(store)
    }

    /// Migrates and checks the key ring; to be called before anything else, and again if the database was away.
    pub async fn prepare(&self) -> Result<(), Error> {
        self.refuse_shared_sessions().await?;
        self.migrate().await?;
        self.check_keys().await
    }

    async fn refuse_shared_sessions(&self) -> Result<(), Error> {
        if self.dialect == Dialect::Postgres && session::is_shared(&self.pool.connect_options()).await {
            return Err(Error::Unusable(
                "database.url leads to a pooler that shares sessions between transactions (PgBouncer's pool_mode \
                 transaction or statement), and Rekey needs its own: set pool_mode = session, or name the server itself"
                    .into(),
            ));
        }
        Ok(())
    }

    /// Makes the pool without touching the database yet. `outcomes`: the topic of what is told in the outbox.
    pub fn connect(
        settings: &Settings,
        outcomes: &str,
        keys: KeyRing,
        fingerprints: Fingerprinter,
    ) -> Result<Self, Error> {
        sqlx::any::install_default_drivers();
        let url = settings.url.expose_secret();
        let dialect = Dialect::of_url(url)
            .ok_or_else(|| Error::Unusable("database.url must begin with sqlite:// or postgres://".into()))?;
        let distrust = Distrust::default();
        let options = AnyPoolOptions::new()
            .max_connections(settings.connections)
            .acquire_timeout(settings.acquire_timeout)
            // An idle connection that the server closed is noticed here instead of failing the work.
            .test_before_acquire(true);
        let together = (dialect == Dialect::Sqlite).then(GroupCommit::default);
        let options = match dialect {
            Dialect::Sqlite => options
                .after_connect({
                    let together = together.clone().unwrap_or_default();
                    move |connection, _| {
                        let together = together.clone();
                        Box::pin(async move { begin_session(connection, &together).await })
                    }
                })
                // SQLite rolls back by itself when the disk is full. sqlx then still counts a transaction on that
                // connection, refuses every BEGIN and nests what only reads, so such a connection is closed.
                .before_acquire(|connection, _| Box::pin(async move { Ok(!connection.is_in_transaction()) })),
            Dialect::Postgres => {
                let distrust = distrust.clone();
                // In place of the ping: each transaction begins with two questions, and the first answer that points to a
                // session that is not what it was replaces all of them.
                options.test_before_acquire(false).before_acquire(move |_, meta| {
                    let distrusted = distrust.is_of(meta.age);
                    Box::pin(async move { Ok(!distrusted) })
                })
            }
        };
        // The URL may hold a password, so the parser's own message, which may quote it, is not passed on.
        let pool = options
            .connect_lazy(&dialect.complete_url(&verified_url(url)))
            .map_err(|_| Error::Unusable("database.url can't be read: check its form".into()))?;
        let outcomes = Arc::from(outcomes);
        let (wake, turns) = (Wake::default(), Turns::default());
        Ok(Self { pool, dialect, keys: Arc::new(keys), fingerprints, distrust, outcomes, wake, turns, together })
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
    pub(crate) async fn try_to_connect(&self) -> (Option<bool>, String) {
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
                let does = if is_lasting { "refuses us" } else { "does not answer" };
                (is_lasting.then_some(false), format!("{place} {does}: {error}{}", self.hint(&error)))
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

    /// SQLite makes its files as the umask says, and everybody on the machine could read what stands in this one beside the
    /// sealed secrets. Those that SQLite adds take the mode of the first.
    pub(crate) fn make_private_file(&self) {
        let options = self.pool.connect_options();
        let url = &options.database_url;
        // As sqlx reads it: what would be the host is the first part of a relative path.
        let text = url.as_str().trim_start_matches("sqlite:").trim_start_matches("//");
        let (path, query) = text.split_once('?').unwrap_or((text, ""));
        // A path with escapes, or one that SQLite reads in its own way, is left to it; and so is a file that it may not make.
        let is_plain = !path.is_empty() && !path.contains('%') && !path.contains(':');
        if self.dialect != Dialect::Sqlite || !is_plain || !query.split('&').any(|q| q == "mode=rwc") {
            return;
        }
        let made = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        match made {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                tracing::debug!(%error, path, "the database file can't be made; SQLite says why");
            }
            _ => {}
        }
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
        // A start writes something in any case: a full disk is found by it, and not by the first event.
        let now = tx.now().0.to_string();
        tx.set_meta("started_at", &now).await?;
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
        self.refuse_shared_sessions().await?;
        self.ping().await?;
        let mut tx = self.begin().await?;
        let oldest = match tx.meta("oldest_compatible_schema").await {
            Ok(oldest) => oldest.and_then(|t| t.parse::<i64>().ok()).unwrap_or(0),
            // No such table yet, or none that this role may read.
            Err(_) => {
                tx.rollback().await?;
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
        // Not committed, so that a check writes nothing.
        let checked = tx.check_fingerprint_key(&self.fingerprints).await;
        tx.rollback().await?;
        checked
    }

    /// Whether it is a file that does not exist yet: to open it would create it.
    pub fn is_new_file(&self) -> bool {
        self.directory_of_missing_file().is_some()
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

    /// Whether what this release does can be done at this moment: a database that only reads answers pings as well. SQLite is
    /// only asked to answer, because it has one writer, and to wait for it is normal.
    pub async fn serves(&self) -> Result<(), Error> {
        let asking = async {
            match self.dialect {
                // Not counted as work: an idle console would hide from the alert that no consumer's work is answered.
                Dialect::Postgres => {
                    let begun = match self.pool.begin_with(BEGIN_TO_WRITE).await {
                        Err(error) if self.distrust.note(&error) => self.pool.begin_with(BEGIN_TO_WRITE).await,
                        begun => begun,
                    };
                    Ok(begun?.rollback().await?)
                }
                Dialect::Sqlite => {
                    self.together.as_ref().map_or(Ok(()), GroupCommit::is_sure)?;
                    self.ping().await
                }
            }
        };
        let answered = tokio::time::timeout(SERVING, asking).await;
        answered.unwrap_or(Err(Error::Database(sqlx::Error::PoolTimedOut)))
    }

    /// Answers when the database does.
    pub async fn ping(&self) -> Result<(), Error> {
        sqlx::query("SELECT 1").execute(&self.pool).await?;
        Ok(())
    }

    /// Makes the fingerprints that are stored.
    pub fn fingerprints(&self) -> &Fingerprinter {
        &self.fingerprints
    }

    /// Seals a text that somebody else keeps and brings back, such as a cookie, for a place of its own.
    pub fn seal_text(&self, place: &str, text: &str) -> Result<String, Error> {
        self.keys.seal(place, text)
    }

    /// What [`Store::seal_text`] sealed for this place. None: it was not, or by a key that is gone.
    pub fn open_sealed(&self, place: &str, sealed: &str) -> Option<String> {
        self.keys.open(place, sealed).ok().map(|text| text.expose_secret().to_owned())
    }

    /// Gives the connections back.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}
