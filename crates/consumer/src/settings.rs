//! The consumer's settings, already checked.

use domain::budget::Limits;
use domain::retry::Curve;
use domain::token_list::{ArchivedPolicy, UnknownPolicy};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Whether Rekey acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Looks, plans and reports; writes nothing at Plaid or Layer.
    Observe,
    Act,
}

/// What to do with tokens of our accounts that Layer had before Rekey came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FirstContact {
    /// Mint under the current access token and replace.
    Replace,
    /// Probe at Plaid, and take those that are alive as ours.
    Adopt,
}

/// What proves that an Item is gone of which Plaid says that it does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ItemGoneProof {
    /// Two answers, `gone_after` apart, or one and a webhook that says so as well.
    TwoAnswers,
    OneAnswer,
}

#[derive(Debug, Clone)]
pub struct Settings {
    pub mode: Mode,
    /// The consumer group that this process belongs to: its release's name, for whoever shares the database.
    pub group: String,
    /// Looks at once, per kind.
    pub workers: u32,
    /// How often the queue is asked when nothing woke this process.
    pub poll: Duration,
    /// Longer than the longest provider call; renewed before each one.
    pub lease: Duration,
    pub backoff: Curve,
    /// The longest wait before a mint that Plaid refuses, or a refusal that nobody understands, is tried again.
    pub refused_cap: Duration,
    pub item_gone_proof: ItemGoneProof,
    /// The wait that lets a burst of events become one look.
    pub debounce: Duration,
    /// Webhooks that can't touch tokens cause at most one look per Item in this time.
    pub quiet: Duration,
    pub hint_ttl: Duration,
    /// Every Item, and every business's list, is looked at again within this time.
    pub sweep_period: Duration,
    /// Share of the providers' rates that the sweep may use up.
    pub sweep_share: f64,
    /// While an Item's new access token has not reached us, how often the token source is asked at most.
    pub awaiting_token_poll: Duration,
    /// How far apart two reads must be that both miss an account.
    pub gone_after: Duration,
    /// How long the audit trail is kept.
    pub audit_kept: Duration,
    /// How long an Item that nobody pushed is remembered after its last webhook, and how many are.
    pub unknown_items_kept: Duration,
    pub max_unknown_items: u32,
    pub new_accounts_join: bool,
    pub account_types: Vec<String>,
    pub first_contact: FirstContact,
    pub environment: String,

    pub unknown_tokens: UnknownPolicy,
    pub archived: ArchivedPolicy,
    pub max_unproved_removals: usize,
    /// Accounts that may leave lists within `removal_window` over the whole fleet.
    pub max_fleet_removals: u32,
    pub removal_window: Duration,
    /// After a PUT the list is read until it shows it, at most this long.
    pub verify_timeout: Duration,
    pub verify_interval: Duration,

    /// Unrelated rows that must be refused alike before their provider is paused without a probe's word.
    pub agree: u64,
    /// Unanswered calls in a row after which a provider is taken to be away.
    pub dark_after: u32,
    /// The fleet's budget at the providers.
    pub limits: Limits,
    pub agree_window: Duration,
    pub probe_interval: Duration,
    /// After a gap in a topic every Item is looked at within this time.
    pub gap_spread: Duration,
}

/// Calls that the sweep makes for a business: it reads the list, and some lists are sent and read again.
const CALLS_A_BUSINESS: u32 = 3;

impl Settings {
    /// How long the sweep takes with so many rows: the configured period, or as long as the providers' limits make it.
    pub fn sweep_period_for(&self, items: i64, businesses: i64) -> Duration {
        let needed = |rows: i64, calls_per_minute: u32| {
            let allowed = f64::from(calls_per_minute) * self.sweep_share;
            let minutes = rows.max(0) as f64 / allowed.max(f64::MIN_POSITIVE);
            // A hundred years, should somebody set the share to next to nothing.
            Duration::from_secs_f64((minutes * 60.0).min(3.2e9))
        };
        self.sweep_period
            .max(needed(items, self.limits.accounts_get))
            .max(needed(businesses, self.limits.layer / CALLS_A_BUSINESS))
    }
}
