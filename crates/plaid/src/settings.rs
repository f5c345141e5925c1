//! The settings of the section `plaid`.

use domain::setting::{AccountType, Count, Environment, Interval, Share, Span};
use schemars::JsonSchema;
use secrecy::SecretString;
use serde::Deserialize;
use std::path::PathBuf;
use std::time::Duration;

/// How to reach Plaid, and what Rekey may use of it.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct Settings {
    pub environment: Environment,
    /// Empty: the environment's own.
    #[schemars(regex(pattern = r"^(https?://.+)?$"))]
    pub base_url: String,
    pub client_id: String,
    #[schemars(skip)]
    pub secret: SecretString,
    /// Where the platform has Plaid send the webhooks of its Items. Empty: it is not compared with what Plaid says of them.
    #[schemars(regex(pattern = r"^(https?://.+)?$"))]
    pub webhook_url: String,
    /// The `processor` of `/processor/token/create`.
    pub processor: String,
    /// Types of accounts that Layer reads; the others take no part.
    #[schemars(length(min = 1))]
    pub account_types: Vec<AccountType>,
    /// Of one call.
    #[serde(with = "Span")]
    pub timeout: Duration,
    #[serde(with = "Span")]
    pub connect_timeout: Duration,
    pub limits: Limits,
    pub keys: KeySettings,
}

/// Plaid's limits, calls a minute for one `client_id`: <https://plaid.com/docs/errors/rate-limit-exceeded/>.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct Limits {
    /// What all consumers together may use of them.
    #[serde(with = "Share")]
    pub share: f64,
    pub item_get: u32,
    pub accounts_get: u32,
    pub processor_token_create: u32,
    pub processor_token_permissions_get: u32,
    /// Of `item_get` and of `accounts_get`, each, about one Item.
    pub per_item: u32,
}

/// How keys of webhooks are looked up and remembered.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct KeySettings {
    /// Look-ups of unknown keys a minute; a few may come at once.
    #[serde(with = "Count")]
    pub lookups_per_minute: u32,
    #[serde(with = "Count")]
    pub lookup_burst: u32,
    /// How long a webhook waits for the verdict on its unknown key.
    #[serde(with = "Span")]
    pub wait: Duration,
    /// How many webhooks may wait at once.
    pub max_waiting: usize,
    /// A key is fetched again after this time, to notice that it expired.
    #[serde(with = "Span")]
    pub refresh_after: Duration,
    /// How long Plaid's "no such key" is believed.
    #[serde(with = "Span")]
    pub absent_for: Duration,
    /// Of one look-up.
    #[serde(with = "Interval")]
    pub timeout: Duration,
    /// Keeps the keys over a restart. Empty: they are looked up again.
    #[schemars(skip)]
    pub file: PathBuf,
}

impl Settings {
    /// Where the calls go.
    pub fn url(&self) -> String {
        match self.base_url.trim_end_matches('/') {
            "" => format!("https://{}.plaid.com", self.environment),
            base_url => base_url.to_owned(),
        }
    }
}
