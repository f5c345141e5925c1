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

#[derive(Debug, Clone)]
pub struct Settings {
    pub mode: Mode,
    /// Looks at once, per kind.
    pub workers: u32,
    /// How often the queue is asked when nothing woke this process.
    pub poll: Duration,
    /// Longer than the longest provider call; renewed before each one.
    pub lease: Duration,
    pub backoff: Curve,
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

/// A sweep that the providers' limits do not allow.
#[derive(Debug, thiserror::Error)]
#[error(
    "consumer.sweep_period can't be kept: {rows} {what} need {needed:.1} calls a minute, and the sweep may use {allowed:.1} \
     ({share} of Rekey's share of {limit}): make the period longer, or the limit or consumer.sweep_share larger"
)]
pub struct ImpossibleSweep {
    what: &'static str,
    limit: &'static str,
    rows: i64,
    needed: f64,
    allowed: f64,
    share: f64,
}

/// A sweep period that the limits make impossible is refused at start instead of being missed in silence.
pub fn check_sweep(
    settings: &Settings,
    what: &'static str,
    limit: &'static str,
    rows: i64,
    calls_per_minute: u32,
) -> Result<(), ImpossibleSweep> {
    let minutes = settings.sweep_period.as_secs_f64() / 60.0;
    let needed = rows as f64 / minutes.max(f64::MIN_POSITIVE);
    let allowed = f64::from(calls_per_minute) * settings.sweep_share;
    if needed > allowed {
        return Err(ImpossibleSweep { what, limit, rows, needed, allowed, share: settings.sweep_share });
    }
    Ok(())
}
