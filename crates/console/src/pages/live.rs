//! Tells an open page that what it shows has changed.

use crate::Console;
use crate::error::ApiError;
use crate::status::{MOST_COUNTED, absent, observes};
use axum::extract::{Query, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use domain::item::CONSENT_ENDS_SOON;
use domain::work::{Kind, Subject};
use serde::Deserialize;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};
use store::Page;
use tokio::sync::OwnedSemaphorePermit;

/// How often a page's row is looked at.
const EVERY: Duration = Duration::from_secs(1);
/// A batch that ended longer ago has been shown as ended.
const ENDED_LATELY: Duration = Duration::from_mins(1);
/// A browser asks again when this ends.
const LASTS: Duration = Duration::from_mins(10);
/// Pages that are watched at once in this process: each costs the database a few look-ups a second.
pub(crate) const MOST: usize = 50;

#[derive(Deserialize)]
pub(super) struct LiveQuery {
    /// `status`, `needs`, `item/ID` or `business/ID`.
    of: String,
    /// What the page shows. It may have changed before this call came.
    seen: String,
}

/// What a page shows.
pub(super) enum Of {
    Status,
    Needs,
    Row(Subject),
}

impl std::fmt::Display for Of {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Status => f.write_str("status"),
            Self::Needs => f.write_str("needs"),
            Self::Row(subject) => subject.fmt(f),
        }
    }
}

impl Of {
    fn parse(text: &str) -> Option<Self> {
        match text.split_once('/') {
            Some((kind, id)) => Subject::parse(Kind::from_word(kind)?, id).ok().map(Self::Row),
            None if text == "needs" => Some(Self::Needs),
            None => (text == "status").then_some(Self::Status),
        }
    }
}

/// A page that is open.
struct Watched {
    console: Console,
    of: Of,
    seen: String,
    began: Instant,
    _slot: OwnedSemaphorePermit,
}

pub(super) async fn live(State(console): State<Console>, Query(query): Query<LiveQuery>) -> Response {
    let Some(of) = Of::parse(&query.of) else {
        return ApiError::bad_request("`of` is `status`, `needs`, `item/ID` or `business/ID`").into_response();
    };
    let Ok(slot) = Arc::clone(&console.watched).try_acquire_owned() else {
        return ApiError::busy("too many pages are watched at once: reload to see what is new").into_response();
    };
    let watched = Watched { console, of, seen: query.seen, began: Instant::now(), _slot: slot };
    // A browser drops an event without data.
    let changed = || Ok::<_, Infallible>(Event::default().event("changed").data("now"));
    let events = futures::stream::unfold(watched, move |mut watched| async move {
        watched.changes().await.then(|| (changed(), watched))
    });
    Sse::new(events).keep_alive(KeepAlive::default()).into_response()
}

impl Watched {
    /// Returns when something has changed. False: it is not watched any longer.
    async fn changes(&mut self) -> bool {
        while self.began.elapsed() < LASTS {
            let began = Instant::now();
            // A database that is away is told by the page itself, once.
            let now = seen(&self.console, &self.of).await.unwrap_or_else(|_| "away".to_owned());
            if now != self.seen {
                self.seen = now;
                return true;
            }
            // What is dear to look at, with a million rows that wait, is looked at seldom.
            let pause = EVERY.max(began.elapsed() * 20);
            let stop = self.console.stop.clone();
            if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return false;
            }
        }
        false
    }
}

/// What there is to see of it, in a few characters: another one is another sight.
pub(super) async fn seen(console: &Console, of: &Of) -> Result<String, store::Error> {
    let mut tx = console.store.begin_read().await?;
    // They show on every row that waits for the provider, and change none of them.
    let paused: Vec<String> = tx.pauses().await?.iter().map(|p| p.provider.to_string()).collect();
    let sight = match of {
        Of::Status | Of::Needs => {
            let stand = (tx.not_good(Kind::Business).await?, tx.not_good(Kind::Item).await?);
            let (all, now) = (matches!(of, Of::Needs), tx.now());
            // Those that run and those that end from now on are all that changes.
            let batches = if all { tx.recent_batches(now.minus(ENDED_LATELY)).await? } else { Vec::new() };
            let batches: Vec<_> = batches.into_iter().map(|batch| (batch.id, batch.state, batch.released)).collect();
            let attention = tx.count_attention(CONSENT_ENDS_SOON, MOST_COUNTED).await?;
            // An open page must not stay green once nobody reads.
            let reads = (absent(tx.last_at_work().await?, now).is_empty(), observes(&mut tx).await?);
            format!("{paused:?} {stand:?} {batches:?} {attention:?} {reads:?}")
        }
        Of::Row(subject) => {
            // Look-ups of one row each, whatever the business is: its Items' changes reach its own rows.
            let newest = tx.history(std::slice::from_ref(subject), &Page { after: None, limit: 1 }).await?;
            let newest = newest.first().map(|h| h.id.clone());
            let stands = tx.stored_state(subject).await?;
            let work = tx.work(subject).await?.map(|w| (w.wanted, w.done, w.blocked));
            let held = match subject {
                Subject::Business(id) => tx.business(id).await?.and_then(|row| row.kept_back),
                Subject::Item(_) => None,
            };
            format!("{paused:?} {newest:?} {stands:?} {work:?} {held:?}")
        }
    };
    let mut hash = crate::hash_token(&sight);
    hash.truncate(16);
    Ok(hash)
}
