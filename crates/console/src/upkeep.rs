//! Upkeep: the key ring, the orphan ledger, the budget.

use crate::Console;
use crate::auth::Caller;
use crate::error::ApiError;
use crate::view::{PageQuery, Paged};
use axum::Json;
use axum::extract::{Extension, Query, State};
use serde::Serialize;
use serde_json::json;
use std::collections::BTreeMap;
use store::Act;
use utoipa::ToSchema;

/// Values of each column that one call moves: a second or so of writing.
const BATCH: u32 = 200;

/// How far a key rotation is.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Rotation {
    /// Values that this call sealed again.
    pub(crate) moved: u64,
    /// The key that seals: the first of `secrets.keys`.
    pub(crate) under: String,
    /// Values that other keys still seal, by key; `?` is a key that the ring does not hold. Empty: it is done.
    pub(crate) left: BTreeMap<String, i64>,
}

/// Move sealed values under the first key of the ring; call it until `left` is empty.
#[utoipa::path(post, operation_id = "rotateKeys", path = "/v1/keys/rotate", responses((status = 200, body = Rotation)))]
pub(crate) async fn rotate_keys(
    State(console): State<Console>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Rotation>, ApiError> {
    let resealed = console.store.reseal(BATCH).await?;
    if resealed.moved > 0 {
        let mut tx = console.store.begin().await?;
        let became = Some(json!({"values_sealed_again": resealed.moved}));
        tx.audit(&Act { became, ..caller.act("keys.rotate", &format!("key/{}", resealed.under)) }).await?;
        tx.commit().await?;
        tracing::info!(moved = resealed.moved, under = resealed.under, by = caller.name, "values sealed again");
    }
    Ok(Json(Rotation { moved: resealed.moved, under: resealed.under, left: resealed.left }))
}

/// A mint that reached no list: its answer was lost, or came when another one was saved.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Orphan {
    pub(crate) id: String,
    pub(crate) item_id: String,
    pub(crate) account_id: String,
    pub(crate) generation: i64,
    pub(crate) asked_at: String,
    /// Null: the answer was never seen.
    pub(crate) fingerprint: Option<String>,
}

/// The orphan ledger: tokens that may exist at Plaid and are in no list. They end with the access token they were minted
/// from.
#[utoipa::path(get, operation_id = "listOrphans", path = "/v1/orphans", params(PageQuery), responses((status = 200, body = Paged<Orphan>)))]
pub(crate) async fn orphans(
    State(console): State<Console>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Paged<Orphan>>, ApiError> {
    let mut tx = console.store.begin_read().await?;
    let rows = tx.list_orphans(&query.page()?).await?.into_iter().map(|o| Orphan {
        id: o.id,
        item_id: o.item,
        account_id: o.account,
        generation: o.generation,
        asked_at: o.intended_at.rfc3339(),
        fingerprint: o.fingerprint,
    });
    Ok(Json(Paged::new(rows.collect(), &query, |o| o.id.clone())))
}

/// What is booked of one of the providers' limits.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Budget {
    pub(crate) call: String,
    /// Slots are booked this far ahead; null when the next call may leave at once.
    pub(crate) booked_ahead_ms: Option<u64>,
    /// Nobody calls before this, because the provider said so.
    pub(crate) rests_until: Option<String>,
    /// When a 429 last lowered the rate, and to which part of it. It recovers by itself.
    pub(crate) slowed_at: Option<String>,
    pub(crate) slowed_to: Option<f64>,
}

/// The fleet's budget at the providers.
#[utoipa::path(get, operation_id = "listBudgets", path = "/v1/budgets", responses((status = 200, body = Vec<Budget>)))]
pub(crate) async fn budgets(State(console): State<Console>) -> Result<Json<Vec<Budget>>, ApiError> {
    let mut tx = console.store.begin_read().await?;
    let now = tx.now();
    let budgets = tx.budgets().await?.into_iter().map(|row| {
        let booked = row.booked;
        let ahead = u64::try_from(booked.until / 1000 - now.0).ok().filter(|ms| *ms > 0);
        let slowed = booked.slowed_at.0 > 0;
        Budget {
            call: row.call.to_string(),
            booked_ahead_ms: ahead,
            rests_until: (booked.rest_until > now).then(|| booked.rest_until.rfc3339()),
            slowed_at: slowed.then(|| booked.slowed_at.rfc3339()),
            slowed_to: slowed.then_some(booked.slowed_to),
        }
    });
    Ok(Json(budgets.collect()))
}
