//! Layer: OAuth, businesses, the full-replace token list, and what Layer's errors mean.
//!
//! Facts are from <https://docs.layerfi.com/>. Much is undocumented there, so answers are read leniently, and nothing
//! is concluded from a field that may be missing.

mod auth;
mod client;
mod error;
mod settings;

pub use client::{Business, Client, ListedAccount, PagedList};
pub use error::{Error, Meaning};
pub use settings::{Limits, Settings};
