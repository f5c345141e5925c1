//! What waits for a person: parked and held rows, pauses, Items nobody pushed.

use crate::Console;
use crate::auth::Caller;
use crate::error::{ApiError, ErrorBody};
use crate::view::{PageQuery, Paged, Parked, VerdictView, Work};
use axum::Json;
use axum::extract::{Extension, Path, Query, State};
use axum::http::StatusCode;
use domain::work::{Kind, Subject};
use serde::Serialize;
use serde_json::json;
use store::Act;
use utoipa::ToSchema;

/// What waits for a person: rows that are parked or held, and Items with accounts whose mint Plaid refuses, with the
/// reason and what to do.
#[utoipa::path(get, path = "/v1/parked", params(PageQuery), responses((status = 200, body = Paged<Parked>)))]
pub(crate) async fn parked(
    State(console): State<Console>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Paged<Parked>>, ApiError> {
    let mut tx = console.store.begin_read().await?;
    let rows = tx.list_parked(&query.page()?).await?;
    let mut parked = Vec::with_capacity(rows.len());
    for row in &rows {
        let verdict = tx.verdict(&row.subject).await?.as_ref().map(VerdictView::from);
        parked.push(Parked {
            kind: row.subject.kind().to_string(),
            id: row.subject.id().to_owned(),
            verdict,
            work: Work::from(row),
        });
    }
    Ok(Json(Paged::new(parked, &query, |p| format!("{}/{}", p.kind, p.id))))
}

/// Release a parked or held row: it is looked at now, and what a guard held back is permitted once, on the truth of
/// that moment.
#[utoipa::path(post, path = "/v1/parked/{kind}/{id}/release",
    params(("kind" = String, Path, description = "item or business"), ("id" = String, Path)),
    responses((status = 202, description = "It is due"), (status = 404, body = ErrorBody)))]
pub(crate) async fn release(
    State(console): State<Console>,
    Extension(caller): Extension<Caller>,
    Path((kind, id)): Path<(String, String)>,
) -> Result<StatusCode, ApiError> {
    let kind = Kind::from_word(&kind).ok_or_else(|| ApiError::bad_request("the kind is `item` or `business`"))?;
    let subject = Subject::parse(kind, id)?;
    let mut tx = console.store.begin().await?;
    tx.lock_row(&subject).await?;
    let was = tx.work(&subject).await?.and_then(|w| w.blocked);
    if !tx.release(&subject).await? {
        tx.rollback().await?;
        return Err(ApiError::not_found("blocked row", "GET /v1/parked lists those that wait for a person"));
    }
    let was = was.map(|b| json!({"blocked_by": b.by.as_str(), "code": b.code}));
    tx.audit(&Act { was, ..caller.act("parked.release", &subject) }).await?;
    tx.commit().await?;
    tracing::info!(%kind, id = subject.id(), by = caller.name, "released by an operator");
    Ok(StatusCode::ACCEPTED)
}

/// A provider whose work is stopped because it refuses everybody.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Pause {
    provider: String,
    reason: String,
    since: String,
    next_probe_at: String,
}

/// Paused providers. A pause ends by itself when a probe succeeds.
#[utoipa::path(get, path = "/v1/pauses", responses((status = 200, body = Vec<Pause>)))]
pub(crate) async fn pauses(State(console): State<Console>) -> Result<Json<Vec<Pause>>, ApiError> {
    let mut tx = console.store.begin_read().await?;
    let pauses = tx.pauses().await?.into_iter().map(|p| Pause {
        provider: p.provider.to_string(),
        reason: p.reason,
        since: p.since.rfc3339(),
        next_probe_at: p.probe_at.rfc3339(),
    });
    Ok(Json(pauses.collect()))
}

/// An Item that webhooks named and nobody pushed.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct UnknownItem {
    item_id: String,
    first_seen: String,
    last_seen: String,
    events: i64,
}

/// Items that webhooks named and nobody pushed.
#[utoipa::path(get, path = "/v1/unknown-items", params(PageQuery), responses((status = 200, body = Paged<UnknownItem>)))]
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
