//! The store: queue, leases, sealed tokens, outbox; SQLite and PostgreSQL behind one text of SQL.
//!
//! Every operation is a method of [`Tx`], so a caller composes what must commit together. Times are database times,
//! read once when the transaction begins.

mod access_tokens;
mod accounts;
mod admin;
mod audit;
mod batches;
mod budget;
mod businesses;
#[cfg(feature = "checks")]
mod checks;
mod claim;
mod copy;
mod database_url;
mod dead_letters;
mod erase;
mod error;
mod find;
mod group_commit;
mod groups;
mod history;
mod items;
mod migrate;
mod minting;
mod open;
mod outbox;
mod plaid_views;
mod plans;
mod reseal;
mod sealed;
mod session;
mod signals;
mod sql;
mod stats;
mod suspicion;
mod sweeps;
mod tx;
mod verdict_facts;
mod verdicts;
mod verified;
mod wake;
mod work;

pub use access_tokens::{Candidate, Current, News, TokenView};
pub use accounts::{AccountRow, AccountUpdate, MintFault};
pub use admin::{Orphan, Page, UnknownItem};
pub use audit::{Act, AuditEntry, AuditFilter, said};
pub use batches::{BatchRow, LeftAlone, NewBatch, OfCause, TakenBatch};
pub use budget::BudgetRow;
pub use businesses::{Accepted, BusinessRow, Coming, Patience};
pub use claim::Claim;
pub use copy::Copied;
pub use database_url::url_fault;
pub use dead_letters::{DeadLetter, Place};
pub use erase::Erasure;
pub use error::Error;
pub use find::Found;
pub use groups::AT_WORK_WITHIN;
pub use history::{HistoryEntry, OutcomeFilter};
pub use items::{Accounts, Assignment, Declaration, ItemRow, Push};
pub use minting::{Intent, Saved, WantedAccount};
pub use open::{Settings, Store};
pub use outbox::{OutboxRow, Record};
pub use plaid_views::{Attention, ItemSaid, PlaidView};
pub use plans::{AskedPlan, PlanRow};
pub use reseal::Resealed;
pub use sealed::{BadKeyRing, KeyRing, parse_keys};
pub use signals::{BusinessMark, Hint, Intake};
pub use stats::DueRows;
pub use suspicion::{PauseRow, Suspicion};
pub use tx::{Tx, is_database_url};
pub use verdicts::{Judged, StandAlike};
pub use verified::{unverified_mode, verified_url};
