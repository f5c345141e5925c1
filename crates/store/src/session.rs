//! Database sessions that may have lost their state: nothing about that state is assumed, and after an error that
//! points to lost state every older session is replaced.

use sqlx::any::AnyConnectOptions;
use sqlx::{AnyConnection, ConnectOptions as _, Connection as _, Error, Row as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

/// How often a session is asked for: other processes may take the one that was given back in between.
const TRIES: u32 = 3;
/// The longest that the question may take.
const PATIENCE: Duration = Duration::from_secs(5);

static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Since when no session is trusted that is older.
#[derive(Clone, Debug, Default)]
pub(crate) struct Distrust {
    /// Milliseconds since [`BEGAN`]; 0: all are trusted.
    at: Arc<AtomicU64>,
}

impl Distrust {
    /// Notes an error that a session may have caused. True: it may, and a new one may do better.
    pub(crate) fn note(&self, error: &Error) -> bool {
        let spoils = spoils(error);
        if spoils {
            let now = u64::try_from(BEGAN.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
            self.at.store(now, Ordering::Relaxed);
        }
        spoils
    }

    /// Whether a session of that age was made before the last such error.
    pub(crate) fn is_of(&self, age: Duration) -> bool {
        let at = self.at.load(Ordering::Relaxed);
        at > 0 && age > BEGAN.elapsed().saturating_sub(Duration::from_millis(at))
    }
}

/// A statement that can't be prepared, is unknown, or may not write in this session; a connection that broke. What the data or
/// other transactions cause says nothing about the session.
fn spoils(error: &Error) -> bool {
    match error {
        Error::Database(error) => {
            let code = error.code().unwrap_or_default();
            let of_data =
                ["22", "23", "40", "42", "53", "54", "55", "P0", "57014"].iter().any(|class| code.starts_with(class));
            // Of class 42 only what a pooler between us makes of prepared statements.
            code == "42P05" || (code.len() == 5 && !of_data)
        }
        // Our own bound on a statement, which waited for a lock or a busy server: new sessions would wait as well.
        Error::Io(error) if error.kind() == std::io::ErrorKind::TimedOut => false,
        Error::Io(_) | Error::Tls(_) | Error::Protocol(_) => true,
        _ => false,
    }
}

/// Whether a pooler between us and PostgreSQL lends one session to several connections, as PgBouncer does with `pool_mode`
/// transaction and statement. Prepared statements and the lock of a migration would then be somebody else's. Unknown (false)
/// where no two connections can be had.
pub(crate) async fn is_shared(options: &AnyConnectOptions) -> bool {
    let asking = async {
        let mut one = options.connect().await?;
        let mut is_shared = false;
        for _ in 0..TRIES {
            let first = session_of(&mut one).await?;
            // A session that both hold at once is nobody's: without such a pooler it is the connection itself.
            let mut other = options.connect().await?;
            let lent = session_of(&mut other).await? == first;
            // And one that changes under a connection was lent to it for one statement.
            is_shared = is_shared || lent || session_of(&mut one).await? != first;
            drop(other.close().await);
        }
        drop(one.close().await);
        Ok::<_, Error>(is_shared)
    };
    tokio::time::timeout(PATIENCE, asking).await.is_ok_and(|asked| asked.unwrap_or(false))
}

/// As simple queries, which need no prepared statement.
async fn session_of(connection: &mut AnyConnection) -> Result<i32, Error> {
    sqlx::raw_sql("SELECT pg_backend_pid()").fetch_one(connection).await?.try_get(0)
}
