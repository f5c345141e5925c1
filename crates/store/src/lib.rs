//! The store: queue, leases, sealed tokens, outbox; SQLite and PostgreSQL behind one text of SQL.
//!
//! Every operation is a method of [`Tx`], so a caller composes what must commit together. Times are database times,
//! read once when the transaction begins.

mod access_tokens;
mod accounts;
mod admin;
mod budget;
mod businesses;
mod claim;
mod erase;
mod figures;
mod items;
mod minting;
mod open;
mod outbox;
mod queue;
mod reseal;
mod sealed;
mod signals;
mod suspicion;
mod tx;
mod verified;

pub use access_tokens::{Candidate, CurrentToken, News, TokenView, WORD_HOLDS};
pub use accounts::{AccountRow, AccountUpdate};
pub use admin::{AuditEntry, Orphan, Page, UnknownItem};
pub use budget::{Booking, BudgetRow};
pub use businesses::{Accepted, BusinessRow, TokenOwner};
pub use claim::Claim;
pub use erase::Erasure;
pub use figures::{AtRisk, DueRows};
pub use items::{Assignment, Declaration, ItemRow, Push, REMOVED_BY_PLATFORM};
pub use minting::{Intent, Saved, WantedAccount};
pub use open::{Settings, Store};
pub use outbox::{OutboxRow, Record};
pub use queue::{Blocked, Finish, Mark, WorkRow, provider_of};
pub use reseal::Resealed;
pub use sealed::{BadKeyRing, KeyRing, parse_keys};
pub use signals::{Hint, Intake};
pub use suspicion::{PauseRow, Suspicion};
pub use tx::{Tx, is_database_url};
pub use verified::{unverified_mode, verified_url};

/// What can go wrong in the store.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Away, overloaded or refusing: the caller tries again.
    #[error("the database did not answer as expected")]
    Database(#[source] sqlx::Error),
    /// Somebody else holds the lease by now; nothing was written.
    #[error("the lease of {kind} {id} was lost (epoch {epoch}); nothing was written")]
    Stale { kind: &'static str, id: String, epoch: i64 },
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
