//! The settings of the sections `consumer` and `token_source`.

use domain::budget::Limits;
use domain::retry::Curve;
use domain::setting::{Count, Interval, Share, Span};
use domain::words;
use domain::work::Class;
use schemars::JsonSchema;
use secrecy::SecretString;
use serde::Deserialize;
use std::time::Duration;

words!(
    /// Whether Rekey acts.
    Mode {
        /// Reconciles, plans and reports; writes nothing at Plaid or Layer.
        Observe => "observe",
        Act => "act",
    }
);

words!(
    /// What to do with tokens of our accounts that Layer had before Rekey came.
    FirstContact {
        /// Mint under the current access token and replace.
        Replace => "replace",
        /// Probe at Plaid, and take those that are alive as ours.
        Adopt => "adopt",
    }
);

words!(
    /// What proves that an Item is gone of which Plaid says that it does not exist.
    ItemGoneProof {
        /// Two answers, `gone_after` apart, or one and a webhook that says so as well.
        TwoAnswers => "two_answers",
        OneAnswer => "one_answer",
    }
);

/// How the reconcilers work.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct Settings {
    pub mode: Mode,
    /// Reconciliations at once, per kind.
    #[serde(with = "Count")]
    pub workers: u32,
    /// How often the queue is asked when nothing woke this process.
    #[serde(with = "Interval")]
    pub poll: Duration,
    /// How long the rows of a worker that died wait for another one.
    #[serde(with = "Span")]
    pub lease: Duration,
    /// The wait after the first failure, doubled with each one that follows.
    #[serde(with = "Interval")]
    pub backoff_first: Duration,
    #[serde(with = "Span")]
    pub backoff_cap: Duration,
    /// The longest wait before a refused mint, or a refusal of an unknown kind, is tried again.
    #[serde(with = "Span")]
    pub refused_cap: Duration,
    /// Events that come closer together than this share a reconciliation; the first one does not wait for others.
    #[serde(with = "Span")]
    pub debounce: Duration,
    /// Webhooks that can't touch tokens cause at most one reconciliation per Item in this time.
    #[serde(with = "Span")]
    pub quiet: Duration,
    /// How long a webhook's claim is remembered that Plaid's list does not show.
    #[serde(with = "Span")]
    pub hint_ttl: Duration,
    /// Every Item, and every business's list, is looked at again within this time.
    #[serde(with = "Interval")]
    pub sweep_period: Duration,
    /// Share of the providers' rates that the sweep may use up.
    #[serde(with = "Share")]
    pub sweep_share: f64,
    pub sweep_at_start: bool,
    /// The sweep also asks which webhook Plaid sent last.
    pub watch_webhooks: bool,
    /// A webhook that Plaid sent so long ago and that never came is missing.
    #[serde(with = "Span")]
    pub missed_webhook_after: Duration,
    /// While an Item's new access token has not reached us, how often the token source is asked at most.
    #[serde(with = "Span")]
    pub awaiting_token_poll: Duration,
    /// How far apart two reads must be that both miss an account.
    #[serde(with = "Span")]
    pub gone_after: Duration,
    pub item_gone_proof: ItemGoneProof,
    pub new_accounts_join: bool,
    pub first_contact: FirstContact,
    /// Unrelated rows that must be refused alike before their provider is paused without a probe's word.
    #[serde(with = "Count")]
    pub agree: u32,
    /// How long a refused row counts.
    #[serde(with = "Span")]
    pub agree_window: Duration,
    /// Unanswered calls in a row after which a provider is taken to be away.
    pub dark_after: u32,
    /// From a rate that a 429 halved back to the whole one.
    #[serde(with = "Span")]
    pub slow_recovery: Duration,
    /// How often a paused provider is probed.
    #[serde(with = "Interval")]
    pub probe_interval: Duration,
    /// After a gap in a topic every Item is looked at within this time.
    #[serde(with = "Span")]
    pub gap_spread: Duration,
    /// How long the audit trail is kept.
    #[serde(with = "Span")]
    pub audit_kept: Duration,
    /// How long it is kept what happened to businesses and Items, of each the newest 500 entries at most; and dead letters.
    #[serde(with = "Span")]
    pub history_kept: Duration,
    /// How long an Item that nobody pushed is remembered after its last webhook, and how many are.
    #[serde(with = "Span")]
    pub unknown_items_kept: Duration,
    pub max_unknown_items: u32,
    /// Seeds jitter; 0 draws one.
    pub seed: u64,
}

/// The platform's own database, where the current access token of an Item can be looked up.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct SourceSettings {
    /// Empty: tokens come by push and import only.
    #[schemars(skip)]
    pub url: SecretString,
    /// One text column; the `item_id` is `$1`.
    pub sql: String,
    #[serde(with = "Count")]
    pub connections: u32,
    /// For a connection, and for the answer.
    #[serde(with = "Interval")]
    pub timeout: Duration,
}

/// Calls that the sweep makes for a business: it reads the list, and some lists are sent and read again.
const CALLS_A_BUSINESS: u32 = 3;

impl Settings {
    pub(crate) fn backoff(&self) -> Curve {
        Curve { first: self.backoff_first, cap: self.backoff_cap }
    }

    /// Events for which a person waits are not gathered.
    pub(crate) fn debounce_of(&self, class: Class) -> Duration {
        if class == Class::Person { Duration::ZERO } else { self.debounce }
    }

    /// The fleet's part of the documented limits.
    pub fn budget(&self, plaid: &plaid::Limits, layer: &layer::Limits) -> Limits {
        let of = |share: f64, limit: u32| ((f64::from(limit) * share) as u32).max(1);
        Limits {
            item_get: of(plaid.share, plaid.item_get),
            accounts_get: of(plaid.share, plaid.accounts_get),
            mint: of(plaid.share, plaid.processor_token_create),
            token_probe: of(plaid.share, plaid.processor_token_permissions_get),
            layer: of(layer.share, layer.calls),
            layer_create: of(layer.share, layer.create),
            per_item: of(plaid.share, plaid.per_item),
            recovery: self.slow_recovery,
        }
    }

    /// How long the sweep takes with so many rows: the configured period, or as long as the providers' limits make it.
    pub fn sweep_period_for(&self, limits: &Limits, items: i64, businesses: i64) -> Duration {
        let needed = |rows: i64, calls_per_minute: u32| {
            let allowed = f64::from(calls_per_minute) * self.sweep_share;
            let minutes = rows.max(0) as f64 / allowed.max(f64::MIN_POSITIVE);
            // A hundred years, if the share is set to next to nothing.
            Duration::from_secs_f64((minutes * 60.0).min(3.2e9))
        };
        self.sweep_period
            .max(needed(items, limits.accounts_get))
            .max(needed(businesses, limits.layer / CALLS_A_BUSINESS))
    }
}
