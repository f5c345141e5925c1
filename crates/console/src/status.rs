//! The first question of whoever is on call: are the lists right, and if not, since when and for what?

use crate::Console;
use crate::error::ApiError;
use crate::providers::{Pause, paused};
use axum::Json;
use axum::extract::State;
use domain::Millis;
use domain::item::CONSENT_ENDS_SOON;
use domain::time::span;
use domain::work::Kind;
use serde::Serialize;
use std::time::Duration;
use store::{AT_WORK_WITHIN, Page, StandAlike, Tx};
use utoipa::ToSchema;

/// Businesses or Items that stand alike.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Alike {
    /// The state of their verdicts.
    pub(crate) state: String,
    pub(crate) rows: i64,
    /// Since when the first of them is in it.
    pub(crate) since: String,
}

/// Work that is due and that nobody has begun.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Due {
    /// `item` or `business`.
    pub(crate) kind: String,
    /// Its urgency: `person`, `rotation`, `new_account`, `retry` or `sweep`.
    pub(crate) class: String,
    /// Ten thousand stand for that many or more.
    pub(crate) rows: i64,
    /// How long the first of them has been due.
    pub(crate) oldest_seconds: u64,
}

/// How everything stands.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Status {
    /// One line for a person.
    pub(crate) sentence: String,
    /// Whether every list is right; null while no business is known, or nobody reads the lists: no consumer is at work, or a provider
    /// is paused.
    pub(crate) right: Option<bool>,
    /// Businesses that are not right.
    pub(crate) businesses: Vec<Alike>,
    /// Items that are not right.
    pub(crate) items: Vec<Alike>,
    pub(crate) pauses: Vec<Pause>,
    /// A consumer in observe mode is at work, or was a moment ago: it mints and sends nothing.
    pub(crate) observes: bool,
    /// The last sign of life of a consumer; each gives one a minute.
    pub(crate) consumer_seen_at: Option<String>,
    pub(crate) due: Vec<Due>,
    /// Records were lost before they were read, and not every Item has been looked at since.
    pub(crate) owes_sweep: bool,
    /// Outcomes that wait to be published.
    pub(crate) outcomes_waiting: i64,
    /// Mints whose answers were lost.
    pub(crate) orphans: i64,
    /// Items whose last webhook, as Plaid says, never came. Here and below 10 000 stand for that many or more.
    pub(crate) missed_webhooks: i64,
    /// Items whose webhooks go elsewhere than `plaid.webhook_url` says.
    pub(crate) webhooks_elsewhere: i64,
    /// Items whose consent ends within 30 days, or has ended.
    pub(crate) consents_ending: i64,
    /// Webhooks and records that could not be read and that nobody has looked at.
    pub(crate) dead_letters: i64,
    /// Businesses whose lists operators keep from being sent, right or not.
    pub(crate) held_by_operators: i64,
}

/// Rows that are counted at most.
pub(crate) const MOST_COUNTED: u32 = 10_000;

/// Whether every list is right, and what is not, by state and age.
#[utoipa::path(get, operation_id = "getStatus", path = "/v1/status", responses((status = 200, body = Status)))]
pub(crate) async fn status(State(console): State<Console>) -> Result<Json<Status>, ApiError> {
    let mut tx = console.store.begin_read().await?;
    let businesses = alike(tx.not_good(Kind::Business).await?);
    let is_empty = tx.list_businesses(&Page { after: None, limit: 1 }).await?.is_empty();
    let pauses = paused(&mut tx).await?;
    let found = tx.count_attention(CONSENT_ENDS_SOON, MOST_COUNTED).await?;
    let (observes, now, seen_at) = (observes(&mut tx).await?, tx.now(), tx.last_at_work().await?);
    let absent = absent(seen_at, now);
    let is_read = pauses.is_empty() && absent.is_empty();
    Ok(Json(Status {
        sentence: sentence(&businesses, &pauses, is_empty, observes, &absent),
        observes,
        consumer_seen_at: seen_at.map(Millis::rfc3339),
        right: match businesses.is_empty() {
            true => (!is_empty && is_read).then_some(true),
            false => Some(false),
        },
        businesses,
        items: alike(tx.not_good(Kind::Item).await?),
        pauses,
        due: due(&mut tx).await?,
        owes_sweep: tx.owes_sweep().await?,
        outcomes_waiting: tx.outbox_length().await?,
        orphans: tx.count_orphans().await?,
        missed_webhooks: found.missed_webhooks,
        webhooks_elsewhere: found.webhooks_elsewhere,
        consents_ending: found.consents_ending,
        dead_letters: found.dead_letters,
        held_by_operators: found.kept_back,
    }))
}

/// Consumers say once a minute that they are there, and in which mode.
const OBSERVED_LATELY: Duration = Duration::from_mins(2);

/// A consumer in observe mode is at work, or was a moment ago.
pub(crate) async fn observes(tx: &mut Tx) -> Result<bool, store::Error> {
    tx.is_observed(OBSERVED_LATELY).await
}

fn alike(rows: Vec<StandAlike>) -> Vec<Alike> {
    let alike = |s: StandAlike| Alike { state: s.state.to_string(), rows: s.rows, since: s.oldest.rfc3339() };
    rows.into_iter().map(alike).collect()
}

async fn due(tx: &mut Tx) -> Result<Vec<Due>, store::Error> {
    let mut due = Vec::new();
    for kind in Kind::ALL {
        due.extend(tx.due_rows(*kind).await?.into_iter().map(|d| Due {
            kind: kind.to_string(),
            class: d.class.to_string(),
            rows: d.rows,
            oldest_seconds: d.oldest.as_secs(),
        }));
    }
    Ok(due)
}

/// What there is to say where no consumer is at work.
pub(crate) fn absent(seen_at: Option<Millis>, now: Millis) -> String {
    match seen_at.map(|at| now.since(at)) {
        None => "; no consumer has been at work yet: nothing is read or sent".to_owned(),
        Some(gone) if gone > AT_WORK_WITHIN => {
            format!("; no consumer has been at work for {}: nothing is read or sent", span(gone.as_secs()))
        }
        Some(_) => String::new(),
    }
}

fn sentence(businesses: &[Alike], pauses: &[Pause], is_empty: bool, observes: bool, absent: &str) -> String {
    let paused: Vec<&str> = pauses.iter().map(|p| p.provider.as_str()).collect();
    let paused = if paused.is_empty() { String::new() } else { format!("; paused: {}", paused.join(", ")) };
    let wrong: i64 = businesses.iter().map(|alike| alike.rows).sum();
    // What nobody can read just now may be another thing by now.
    let is_known = pauses.is_empty() && absent.is_empty();
    let told = match (is_empty, wrong) {
        (true, _) => "no business is known yet: push an Item for one".to_owned(),
        (false, 0) if is_known => "every business's list is right".to_owned(),
        (false, 0) => "every business's list was right when it was last read".to_owned(),
        (false, _) => {
            let states: Vec<String> =
                businesses.iter().map(|alike| format!("{} {}", alike.rows, alike.state)).collect();
            let noun = if wrong == 1 { "business is" } else { "businesses are" };
            format!("{wrong} {noun} not right: {}", states.join(", "))
        }
    };
    let observes = if observes { "; observe mode: nothing is minted or sent" } else { "" };
    told + &paused + observes + absent
}
