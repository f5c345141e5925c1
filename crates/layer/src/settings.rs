//! The settings of the section `layer`.

use domain::setting::{Interval, Share, Span};
use domain::token_list::{ArchivedPolicy, LeaveOut, ListedTokens, Policy, UnknownPolicy};
use schemars::JsonSchema;
use secrecy::SecretString;
use serde::Deserialize;
use std::collections::HashSet;
use std::time::Duration;

/// How to reach Layer, what Rekey may use of it, and how careful it is with lists. The three addresses are separate settings,
/// because a right base URL with the scope of another environment is the likeliest mistake.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct Settings {
    #[schemars(regex(pattern = r"^(https?://.+)?$"))]
    pub base_url: String,
    #[schemars(regex(pattern = r"^(https?://.+)?$"))]
    pub token_url: String,
    pub scope: String,
    pub client_id: String,
    #[schemars(skip)]
    pub client_secret: SecretString,
    /// Of one call.
    #[serde(with = "Span")]
    pub timeout: Duration,
    #[serde(with = "Span")]
    pub connect_timeout: Duration,
    pub limits: Limits,
    pub unknown_tokens: UnknownPolicy,
    pub archived: ArchivedPolicy,
    /// Unless it is the full token, what a list shows of a token is not the token, and must never be sent back as one.
    pub listed_tokens: ListedTokens,
    /// More accounts than this leaving one list without a proof hold the business.
    pub max_unproved_removals: usize,
    /// More accounts than this leaving all lists within `removal_window` hold every removal.
    pub max_fleet_removals: u32,
    #[serde(with = "Span")]
    pub removal_window: Duration,
    /// After a PUT the list is read until it shows it, at most this long.
    #[serde(with = "Span")]
    pub verify_timeout: Duration,
    #[serde(with = "Interval")]
    pub verify_interval: Duration,
}

impl Settings {
    /// What a list is planned by, before anything is known of a business.
    pub fn policy(&self) -> Policy {
        Policy {
            unknown: self.unknown_tokens,
            archived: self.archived,
            max_unproved_removals: self.max_unproved_removals,
            leave_out: LeaveOut::Nothing,
            resend: false,
            kept_back: None,
            archived_before: HashSet::new(),
            read_back: true,
        }
    }
}

/// Layer's limits, calls a minute: <https://docs.layerfi.com/api-details/rate-limiting>.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct Limits {
    /// What all consumers together may use of them.
    #[serde(with = "Share")]
    pub share: f64,
    pub calls: u32,
    /// Of these, businesses that are created.
    pub create: u32,
}
