//! Plaid: webhook verification, the few API calls Rekey makes, and what Plaid's errors mean.
//!
//! Facts are from <https://plaid.com/docs/api/>; where Plaid says nothing, the behaviour is a setting.

mod client;
mod error;
mod keys;
mod settings;
mod verify;

pub use client::{Accounts, Client, ItemInfo, TokenHealth};
pub use error::{Error, Meaning, OfItem, item_meaning};
pub use keys::Keys;
pub use settings::{KeySettings, Limits, Settings};
pub use verify::{Rejection, Verified, Verifier};
