//! The settings: a section of `rekey.example.toml` each, which is compiled in as the defaults. A section is deserialised by the
//! crate that it configures.

mod chart_schema;
mod load;
mod rules;
mod secrets;
mod trust;

pub use chart_schema::chart_schema;
pub use load::{ConfigError, EXAMPLE, load, load_text, merge};
pub use rules::BadSetting;
pub use secrets::fingerprinter;
pub(crate) use trust::provider_url;

use crate::logs;
use domain::setting::Span;
use schemars::JsonSchema;
use secrecy::SecretString;
use serde::Deserialize;
use std::net::SocketAddr;
use std::time::Duration;

/// Every section.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct Config {
    pub log: logs::Settings,
    pub trace: traces::Settings,
    pub ops: Ops,
    pub tls: Tls,
    pub kafka: bus::Settings,
    pub database: store::Settings,
    #[schemars(skip)]
    pub secrets: Secrets,
    pub plaid: plaid::Settings,
    pub layer: layer::Settings,
    pub token_source: consumer::SourceSettings,
    pub receiver: receiver::Settings,
    pub consumer: consumer::Settings,
    pub console: console::Settings,
    #[schemars(skip)]
    pub admin: Admin,
    pub sandbox: sandbox::Settings,
}

/// Probes and metrics, and the end of the process.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct Ops {
    #[schemars(skip)]
    pub listen: SocketAddr,
    /// After SIGTERM the process is not ready but still serves for this long.
    #[serde(with = "Span")]
    pub drain_delay: Duration,
    /// Then requests in flight have this long to finish.
    #[serde(with = "Span")]
    pub drain: Duration,
}

/// Which servers this process trusts.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct Tls {
    /// Authorities (PEM) that are trusted besides the system's.
    #[schemars(rename = "ca_file")]
    pub ca: String,
    /// Hosts that may be called over `http://` although they are not this machine.
    #[schemars(skip)]
    pub plain_http: Vec<String>,
}

/// Keys of what is sealed at rest, and of fingerprints.
#[derive(Debug, Clone, Deserialize)]
pub struct Secrets {
    pub keys: SecretString,
    pub fingerprint_key: SecretString,
}

/// The admin API, for the command line.
#[derive(Debug, Clone, Deserialize)]
pub struct Admin {
    pub url: String,
    pub token: SecretString,
}
