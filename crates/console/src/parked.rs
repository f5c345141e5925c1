//! What waits for a person: parked and held rows, pauses, Items nobody pushed.

use crate::Console;
use crate::acts::{ActQuery, Order, carry_out};
use crate::auth::Caller;
use crate::error::{ApiError, ErrorBody};
use crate::view::{PageQuery, Paged, Parked, VerdictView, Work};
use axum::Json;
use axum::extract::{Extension, Path, Query, State};
use axum::http::StatusCode;
use domain::work::{Kind, Subject};
use serde::Serialize;
use store::PauseRow;
use utoipa::ToSchema;

/// What waits for a person: rows that are parked or held, and Items with accounts whose mint Plaid refuses, with the
/// reason and what to do.
#[utoipa::path(get, operation_id = "listParked", path = "/v1/parked", params(PageQuery), responses((status = 200, body = Paged<Parked>)))]
pub(crate) async fn parked(
    State(console): State<Console>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Paged<Parked>>, ApiError> {
    let mut tx = console.store.begin_read().await?;
    let rows = tx.list_parked(&query.page()?).await?;
    let mut judged = Vec::with_capacity(rows.len());
    for kind in Kind::ALL {
        let of_kind = rows.iter().filter(|row| row.subject.kind() == *kind).map(|row| row.subject.id().to_owned());
        judged.extend(tx.verdicts(*kind, &of_kind.collect::<Vec<_>>()).await?);
    }
    let parked = rows.iter().map(|row| Parked {
        kind: row.subject.kind().to_string(),
        id: row.subject.id().to_owned(),
        verdict: judged.iter().find(|j| j.subject == row.subject).map(VerdictView::from),
        work: Work::from(row),
    });
    let parked = parked.collect();
    Ok(Json(Paged::new(parked, &query, |p| format!("{}/{}", p.kind, p.id))))
}

/// Release a parked or held row: it is looked at now, and what a guard held back is permitted once, on the truth of
/// that moment.
#[utoipa::path(post, operation_id = "release", path = "/v1/parked/{kind}/{id}/release",
    params(("kind" = String, Path, description = "item or business"), ("id" = String, Path), ActQuery),
    responses((status = 202, description = "It is due"), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub(crate) async fn release(
    State(console): State<Console>,
    Extension(caller): Extension<Caller>,
    Path((kind, id)): Path<(String, String)>,
    Query(ActQuery { reason, version }): Query<ActQuery>,
) -> Result<StatusCode, ApiError> {
    let kind = Kind::from_word(&kind).ok_or_else(|| ApiError::bad_request("the kind is `item` or `business`"))?;
    let subject = Subject::parse(kind, id)?;
    carry_out(&console, &caller, Order::Release, &subject, reason.as_deref(), version.as_deref()).await?;
    Ok(StatusCode::ACCEPTED)
}

/// A provider whose work is stopped because it refuses everybody.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Pause {
    pub(crate) provider: String,
    pub(crate) reason: String,
    pub(crate) since: String,
    pub(crate) next_probe_at: String,
}

/// Paused providers. A pause ends by itself when a probe succeeds.
#[utoipa::path(get, operation_id = "listPauses", path = "/v1/pauses", responses((status = 200, body = Vec<Pause>)))]
pub(crate) async fn pauses(State(console): State<Console>) -> Result<Json<Vec<Pause>>, ApiError> {
    let mut tx = console.store.begin_read().await?;
    Ok(Json(tx.pauses().await?.into_iter().map(Pause::from).collect()))
}

impl From<PauseRow> for Pause {
    fn from(row: PauseRow) -> Self {
        Self {
            provider: row.provider.to_string(),
            reason: row.reason,
            since: row.since.rfc3339(),
            next_probe_at: row.probe_at.rfc3339(),
        }
    }
}

/// An Item that webhooks named and nobody pushed.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct UnknownItem {
    pub(crate) item_id: String,
    pub(crate) first_seen: String,
    pub(crate) last_seen: String,
    pub(crate) events: i64,
}

/// Items that webhooks named and nobody pushed.
#[utoipa::path(get, operation_id = "listUnknownItems", path = "/v1/unknown-items", params(PageQuery), responses((status = 200, body = Paged<UnknownItem>)))]
pub(crate) async fn unknown_items(
    State(console): State<Console>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Paged<UnknownItem>>, ApiError> {
    let mut tx = console.store.begin_read().await?;
    let items = tx.list_unknown_items(&query.page()?).await?.into_iter().map(|r| UnknownItem {
        item_id: r.item,
        first_seen: r.first_seen.rfc3339(),
        last_seen: r.last_seen.rfc3339(),
        events: r.seen,
    });
    Ok(Json(Paged::new(items.collect(), &query, |i| i.item_id.clone())))
}
