//! Ids, secrets, states, and every decision of Rekey as a pure function.
//!
//! Nothing in this crate does I/O, reads a clock or rolls a die: time and randomness are arguments. The other crates
//! fetch facts, ask a function here what they mean, and carry out the answer.

pub mod accounts;
pub mod budget;
pub mod explain;
pub mod fault;
pub mod foreseen;
pub mod hold;
pub mod ids;
pub mod item;
pub mod json;
pub mod list_membership;
pub mod metric;
pub mod outage;
pub mod outcome;
pub mod permit;
pub mod queue;
pub mod redact;
pub mod retry;
pub mod role;
pub mod secret;
pub mod setting;
pub mod time;
pub mod token_list;
pub mod trace;
pub mod verdict;
mod verdict_words;
pub mod webhook;
mod words;
pub mod work;

pub use fault::{Answered, Endpoint, Next, Provider};
pub use ids::{AccountId, BusinessId, ItemId, LayerId};
pub use role::Role;
pub use secret::{AccessToken, Fingerprint, Fingerprinter, ProcessorToken};
pub use time::Millis;
pub use words::counted;
