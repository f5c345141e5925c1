//! The settings, one struct per section of `rekey.example.toml`, which is compiled in as the defaults.

mod convert;
mod load;
mod secrets;
mod trust;

pub use convert::BadSetting;
pub use load::{ConfigError, EXAMPLE, load, load_text};
pub use secrets::fingerprinter;
pub(crate) use trust::provider_url;

use consumer::{FirstContact, ItemGoneProof, Mode};
use domain::token_list::{ArchivedPolicy, ListedTokens, UnknownPolicy};
use secrecy::SecretString;
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// A duration with its unit, such as `"500ms"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span(pub Duration);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let span: jiff::Span = text
            .parse()
            .map_err(|_| serde::de::Error::custom("expected a duration with a unit, such as \"500ms\" or \"10min\""))?;
        let days = jiff::SpanRelativeTo::days_are_24_hours();
        let wait = span.to_duration(days).ok().and_then(|d| Duration::try_from(d).ok());
        wait.map(Span).ok_or_else(|| serde::de::Error::custom("the duration must be positive and at most weeks long"))
    }
}

#[derive(Debug, Clone, Deserialize)]
pub struct Config {
    pub log: Log,
    pub trace: Trace,
    pub ops: Ops,
    pub tls: Tls,
    pub kafka: Kafka,
    pub database: Database,
    pub secrets: Secrets,
    pub plaid: Plaid,
    pub layer: Layer,
    pub token_source: TokenSource,
    pub receiver: Receiver,
    pub consumer: Consumer,
    pub console: Console,
    pub admin: Admin,
    pub sandbox: Sandbox,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    Auto,
    Pretty,
    Json,
    /// Pretty, with the time since the start: for the demonstration.
    #[serde(skip)]
    Demo,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Log {
    pub level: String,
    pub format: LogFormat,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Trace {
    pub endpoint: String,
    pub sample: f64,
    pub headers: SecretString,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Ops {
    pub listen: SocketAddr,
    pub drain_delay: Span,
    pub drain: Span,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Tls {
    pub ca: String,
    pub plain_http: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Kafka {
    pub bootstrap: String,
    pub group: String,
    pub publish_timeout: Span,
    pub queue_records: u32,
    pub queue_kbytes: u32,
    pub linger: Span,
    pub probe_interval: Span,
    #[serde(deserialize_with = "as_texts")]
    pub properties: BTreeMap<String, SecretString>,
    pub property_files: BTreeMap<String, PathBuf>,
    pub topics: Topics,
}

/// librdkafka takes texts; whoever writes a number or a switch as one in TOML means the same.
fn as_texts<'de, D: serde::Deserializer<'de>>(table: D) -> Result<BTreeMap<String, SecretString>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a text, a number, true or false")]
    enum Scalar {
        Text(String),
        Switch(bool),
        Integer(i64),
        Number(f64),
    }
    let scalars = BTreeMap::<String, Scalar>::deserialize(table)?.into_iter();
    let text = |scalar| match scalar {
        Scalar::Text(text) => text,
        Scalar::Switch(switch) => switch.to_string(),
        Scalar::Integer(number) => number.to_string(),
        Scalar::Number(number) => number.to_string(),
    };
    Ok(scalars.map(|(name, scalar)| (name, SecretString::from(text(scalar)))).collect())
}

#[derive(Debug, Clone, Deserialize)]
pub struct Topics {
    pub item_events: String,
    pub other_events: String,
    pub notices: String,
    pub outcomes: String,
    pub dead_letters: String,
    pub partitions: i32,
    pub replication: i32,
    pub min_insync: i32,
    pub retention: Span,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Database {
    pub url: SecretString,
    pub connections: u32,
    pub acquire_timeout: Span,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Secrets {
    pub keys: SecretString,
    pub fingerprint_key: SecretString,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Plaid {
    pub environment: String,
    pub base_url: String,
    pub client_id: String,
    pub secret: SecretString,
    pub processor: String,
    pub account_types: Vec<String>,
    pub timeout: Span,
    pub connect_timeout: Span,
    pub limits: PlaidLimits,
    pub keys: PlaidKeys,
}

/// Calls a minute.
#[derive(Debug, Clone, Deserialize)]
pub struct PlaidLimits {
    pub share: f64,
    pub item_get: u32,
    pub accounts_get: u32,
    pub processor_token_create: u32,
    pub processor_token_permissions_get: u32,
    pub per_item: u32,
}

/// Calls a minute.
#[derive(Debug, Clone, Deserialize)]
pub struct LayerLimits {
    pub share: f64,
    pub calls: u32,
    pub create: u32,
}

#[derive(Debug, Clone, Deserialize)]
pub struct PlaidKeys {
    pub lookups_per_minute: u32,
    pub lookup_burst: u32,
    pub wait: Span,
    pub max_waiting: usize,
    pub refresh_after: Span,
    pub absent_for: Span,
    pub timeout: Span,
    pub file: String,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Layer {
    pub base_url: String,
    pub token_url: String,
    pub scope: String,
    pub client_id: String,
    pub client_secret: SecretString,
    pub timeout: Span,
    pub connect_timeout: Span,
    pub limits: LayerLimits,
    pub unknown_tokens: UnknownPolicy,
    pub archived: ArchivedPolicy,
    pub listed_tokens: ListedTokens,
    pub max_unproved_removals: usize,
    pub max_fleet_removals: u32,
    pub removal_window: Span,
    pub verify_timeout: Span,
    pub verify_interval: Span,
}

#[derive(Debug, Clone, Deserialize)]
pub struct TokenSource {
    pub url: SecretString,
    pub sql: String,
    pub connections: u32,
    pub timeout: Span,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Receiver {
    pub listen: SocketAddr,
    pub max_body: usize,
    pub header_timeout: Span,
    pub body_timeout: Span,
    pub total_timeout: Span,
    pub max_connections: usize,
    pub max_concurrent: usize,
    pub unavailable_status: u16,
    pub retry_after: Span,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Consumer {
    pub mode: Mode,
    pub workers: u32,
    pub poll: Span,
    pub lease: Span,
    pub backoff_first: Span,
    pub backoff_cap: Span,
    pub refused_cap: Span,
    pub debounce: Span,
    pub quiet: Span,
    pub hint_ttl: Span,
    pub sweep_period: Span,
    pub sweep_share: f64,
    pub sweep_at_start: bool,
    pub awaiting_token_poll: Span,
    pub gone_after: Span,
    pub audit_kept: Span,
    pub unknown_items_kept: Span,
    pub max_unknown_items: u32,
    pub item_gone_proof: ItemGoneProof,
    pub new_accounts_join: bool,
    pub first_contact: FirstContact,
    pub agree: u64,
    pub dark_after: u32,
    pub slow_recovery: Span,
    pub agree_window: Span,
    pub probe_interval: Span,
    pub gap_spread: Span,
    pub seed: u64,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Console {
    pub listen: SocketAddr,
    pub tokens: Vec<String>,
    pub push_wait: Span,
    pub max_wait: Span,
    pub wait_poll: Span,
    pub max_connections: usize,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Admin {
    pub url: String,
    pub token: SecretString,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Sandbox {
    pub listen: SocketAddr,
    pub seed: u64,
    pub plaid_secret: SecretString,
    pub layer_secret: SecretString,
    pub webhook_url: String,
    pub webhook_retry_scale: f64,
    pub scenario: PathBuf,
    pub platform_database_url: SecretString,
}
