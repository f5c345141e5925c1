//! What our HTTP servers and clients share: an accept loop with limits, the operations endpoints, paced outgoing calls.

mod client;
mod connections;
mod linger;
mod ops;
mod serve;

pub use client::{Answer, Client, ClientSettings, Unanswered, outgoing};
pub use ops::{Readiness, ops_routes, public_health_routes};
pub use serve::{Limits, serve};
