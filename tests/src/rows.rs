//! What Rekey's own store says is left: work, what waits for a person, the ledger of mints.

use domain::work::{Block, Kind};
use std::collections::BTreeMap;
use store::{Page, Store};

/// Nothing is being looked at and every event has been served or waits for a named reason.
pub async fn is_quiet(store: &Store) -> bool {
    let Ok(mut tx) = store.begin_read().await else { return false };
    for kind in Kind::ALL {
        if !tx.unserved(*kind).await.is_ok_and(|left| left.is_empty()) {
            return false;
        }
    }
    true
}

/// Rows with events that no reconciliation has served.
pub async fn unserved(store: &Store) -> Vec<String> {
    let Ok(mut tx) = store.begin_read().await else { return vec!["the store is away".into()] };
    let mut left = Vec::new();
    for kind in Kind::ALL {
        left.extend(tx.unserved(*kind).await.unwrap_or_else(|e| vec![e.to_string()]));
    }
    left
}

/// Rows whose stored verdict is not what the facts say; there must be none, ever (I11).
pub async fn stale_verdicts(store: &Store) -> Vec<String> {
    let Ok(mut tx) = store.begin_read().await else { return Vec::new() };
    tx.stale_verdicts().await.unwrap_or_else(|e| vec![e.to_string()])
}

/// What waits for a person.
pub async fn parked(store: &Store) -> Vec<String> {
    let Ok(mut tx) = store.begin_read().await else { return vec!["the store is away".into()] };
    let rows = tx.list_parked(&Page { after: None, limit: 100 }).await.unwrap_or_default();
    let waits =
        |r: &domain::queue::Row| r.blocked.as_ref().is_some_and(|b| matches!(b.by, Block::Parked | Block::Hold));
    rows.into_iter().filter(waits).map(|r| format!("{}: {:?}", r.subject, r.blocked)).collect()
}

/// Rekey's own ledger of mints: how many rows of these Items are in each state.
pub async fn ledger(store: &Store, items: &[String]) -> Option<BTreeMap<String, u64>> {
    let mut tx = store.begin_read().await.ok()?;
    let mut ledger = BTreeMap::new();
    for item in items {
        for (state, n) in tx.processor_token_counts(&item.parse().unwrap()).await.ok()? {
            *ledger.entry(state).or_default() += n.unsigned_abs();
        }
    }
    Some(ledger)
}
