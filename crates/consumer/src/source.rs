//! Where the current access token of an Item can be looked up: the platform's own database.

use crate::SourceSettings;
use domain::{AccessToken, ItemId};
use secrecy::{ExposeSecret, SecretString};
use sqlx::{AssertSqlSafe, Row};
use std::time::Duration;

/// Looks up tokens, or leaves it to pushes.
pub enum TokenSource {
    /// Tokens come by push and import only.
    PushOnly,
    /// A query of the platform's database, with the `item_id` as `$1`, that returns one text column.
    Sql { pool: sqlx::AnyPool, begin: &'static str, query: String, timeout: Duration },
}

impl std::fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::PushOnly => f.write_str("PushOnly"),
            Self::Sql { .. } => f.write_str("Sql"),
        }
    }
}

/// Why a lookup found nothing out.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("the token source did not answer in time")]
    TimedOut,
    /// Only the class of the driver's error is kept: its message may quote the query's parameters or its row.
    #[error("the token source can't answer the query of token_source.sql ({class})")]
    Refused { class: String },
    #[error("token_source.url can't be read: it must begin with sqlite:// or postgres://")]
    Url,
}

fn refused(error: &sqlx::Error) -> SourceError {
    let class = match error {
        sqlx::Error::Database(error) => match error.code() {
            Some(code) if code == "25006" || code == "8" => "it writes, and Rekey only reads there".into(),
            Some(code) => format!("the database's error {code}"),
            None => "an error of the database".into(),
        },
        sqlx::Error::Io(_) => "the connection failed".into(),
        sqlx::Error::Tls(_) => "TLS failed".into(),
        sqlx::Error::PoolTimedOut => "no connection could be made in time".into(),
        _ => "its one column must be text".into(),
    };
    SourceError::Refused { class }
}

impl TokenSource {
    /// Connects with the first look-up. Err: the URL is of no database that Rekey knows.
    pub fn new(settings: &SourceSettings) -> Result<Self, SourceError> {
        let SourceSettings { url, sql: query, connections, timeout } = settings.clone();
        if url.expose_secret().is_empty() {
            return Ok(Self::PushOnly);
        }
        let url = SecretString::from(store::verified_url(url.expose_secret()));
        // A URL of another kind would be refused at the first look-up only, as if the query were wrong.
        if !store::is_database_url(url.expose_secret()) {
            return Err(SourceError::Url);
        }
        sqlx::any::install_default_drivers();
        // It is the platform's own database: a query that writes there is refused, not carried out. In the transaction, since a
        // pooler in between may hand the session to somebody else.
        let is_sqlite = url.expose_secret().starts_with("sqlite:");
        let options = sqlx::any::AnyPoolOptions::new().max_connections(connections).acquire_timeout(timeout);
        let (begin, options) = if is_sqlite {
            let read_only = "PRAGMA query_only = ON";
            let options = options.after_connect(move |connection, _| {
                Box::pin(async move { sqlx::raw_sql(read_only).execute(connection).await.map(drop) })
            });
            ("BEGIN", options)
        } else {
            ("BEGIN READ ONLY", options)
        };
        let pool = options.connect_lazy(url.expose_secret()).map_err(|_| SourceError::Url)?;
        Ok(Self::Sql { pool, begin, query, timeout })
    }

    /// The token that the platform holds now. None when there is no source or it does not know the Item.
    pub async fn lookup(&self, item: &ItemId) -> Result<Option<AccessToken>, SourceError> {
        let Self::Sql { pool, begin, query, timeout } = self else { return Ok(None) };
        let asking = async {
            let mut tx = pool.begin_with(*begin).await?;
            // Not kept: a pooler may answer the next time from a session that does not know it.
            let sql = sqlx::query(AssertSqlSafe(query.clone())).persistent(false).bind(item.as_str().to_owned());
            let row = sql.fetch_optional(&mut *tx).await?;
            tx.rollback().await?;
            Ok(row)
        };
        let row = tokio::time::timeout(*timeout, asking)
            .await
            .map_err(|_| SourceError::TimedOut)?
            .map_err(|e: sqlx::Error| refused(&e))?;
        let Some(row) = row else { return Ok(None) };
        let token: Option<String> = row.try_get(0).map_err(|e| refused(&e))?;
        Ok(token.filter(|t| !t.trim().is_empty()).map(AccessToken::new))
    }

    /// Is the source there at all? For `rekey check`.
    pub async fn probe(&self) -> Result<(), SourceError> {
        let nobody = ItemId::parse("rekey-probe").map_err(|e| SourceError::Refused { class: e.to_string() })?;
        self.lookup(&nobody).await.map(drop)
    }
}
