//! The settings of the section `receiver`.

use domain::setting::{Interval, Span};
use schemars::JsonSchema;
use serde::Deserialize;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::Duration;

/// The public listener.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct Settings {
    #[schemars(skip)]
    pub listen: SocketAddr,
    /// Bytes of a body.
    #[schemars(range(min = 1024))]
    pub max_body: usize,
    /// From the connection to the end of the headers.
    #[serde(with = "Interval")]
    pub header_timeout: Duration,
    /// From the end of the headers to the end of the body.
    #[serde(with = "Interval")]
    pub body_timeout: Duration,
    /// From the end of the headers to the answer: well inside the 10 s that Plaid waits.
    #[serde(with = "Interval")]
    pub total_timeout: Duration,
    pub max_connections: NonZeroUsize,
    /// Webhooks that are verified or published at once.
    pub max_concurrent: NonZeroUsize,
    /// 503, or 429, whose `Retry-After` Plaid honours by newer documentation.
    #[schemars(extend("enum" = [503, 429]))]
    pub unavailable_status: u16,
    #[serde(with = "Span")]
    pub retry_after: Duration,
}
