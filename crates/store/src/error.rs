//! What can go wrong in the store, and whether trying again can help.

/// A failure of the database, or of what stands in it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Away, overloaded or refusing: the caller tries again.
    #[error("the database did not answer as expected")]
    Database(#[source] sqlx::Error),
    /// Somebody else holds the lease by now; nothing was written.
    #[error("the lease of {subject} was lost (epoch {epoch}); nothing was written")]
    Stale { subject: String, epoch: i64 },
    #[error("a row was sealed under key {id}, which secrets.keys does not hold: add that key again")]
    MissingKey { id: String },
    #[error("a secret could not be sealed")]
    Sealing,
    #[error("{0}")]
    Corrupt(String),
    #[error("{0}")]
    Unusable(String),
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}

impl Error {
    /// Passing faults are retried; the others need a person.
    pub fn is_passing(&self) -> bool {
        match self {
            // Class 22 of SQLSTATE: the data itself is refused, and will be the next time as well.
            Self::Database(sqlx::Error::Database(error)) => !error.code().is_some_and(|c| c.starts_with("22")),
            Self::Database(_) => true,
            Self::Stale { .. } | Self::MissingKey { .. } | Self::Sealing | Self::Corrupt(_) | Self::Unusable(_) => {
                false
            }
        }
    }
}
