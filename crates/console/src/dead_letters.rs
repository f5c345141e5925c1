//! Webhooks and records that nobody could read, until somebody has looked.

use crate::Console;
use crate::acts::checked_reason;
use crate::auth::Caller;
use crate::error::{ApiError, ErrorBody};
use crate::view::{PageQuery, Paged};
use axum::Json;
use axum::extract::{Extension, Path, Query, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;
use store::Act;
use utoipa::{IntoParams, ToSchema};

/// Something that could not be read: where it is and why, never what it holds.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DeadLetter {
    pub(crate) id: String,
    pub(crate) at: String,
    /// `receiver`: a webhook that Plaid signed. `intake`: a record.
    pub(crate) from: String,
    /// Where the record is; null of a webhook, which stands nowhere.
    pub(crate) topic: Option<String>,
    pub(crate) partition: Option<i64>,
    pub(crate) offset: Option<i64>,
    pub(crate) reason: String,
    pub(crate) bytes: i64,
    pub(crate) sha256: String,
}

/// Webhooks and records that nobody could read, as far as nobody has looked at them yet.
#[utoipa::path(get, operation_id = "listDeadLetters", path = "/v1/dead-letters", params(PageQuery),
    responses((status = 200, body = Paged<DeadLetter>)))]
pub(crate) async fn list(
    State(console): State<Console>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Paged<DeadLetter>>, ApiError> {
    let letters = console.store.begin_read().await?.list_dead_letters(&query.page()?).await?;
    let letters = letters.into_iter().map(|l| DeadLetter {
        at: l.at.rfc3339(),
        id: l.id,
        from: l.from,
        partition: l.place.as_ref().map(|p| p.partition),
        offset: l.place.as_ref().map(|p| p.offset),
        topic: l.place.map(|p| p.topic),
        reason: l.reason,
        bytes: l.bytes,
        sha256: l.sha256,
    });
    Ok(Json(Paged::new(letters.collect(), &query, |l| l.id.clone())))
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct DismissQuery {
    /// Why, for the audit trail.
    reason: Option<String>,
}

/// Take a dead letter off the list: somebody has looked. The record stays where it is.
#[utoipa::path(post, operation_id = "dismissDeadLetter", path = "/v1/dead-letters/{id}/dismiss", params(("id" = String, Path), DismissQuery),
    responses((status = 204, description = "It is off the list"), (status = 404, body = ErrorBody)))]
pub(crate) async fn dismiss(
    State(console): State<Console>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    Query(DismissQuery { reason }): Query<DismissQuery>,
) -> Result<StatusCode, ApiError> {
    carry_out(&console, &caller, &id, reason.as_deref()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Carries it out.
pub(crate) async fn carry_out(
    console: &Console,
    caller: &Caller,
    id: &str,
    reason: Option<&str>,
) -> Result<(), ApiError> {
    let reason = checked_reason(reason)?;
    let mut tx = console.store.begin().await?;
    let Some(letter) = tx.dismiss_dead_letter(id).await? else {
        tx.rollback().await?;
        return Err(ApiError::not_found(
            "dead letter",
            "`rekey dead-letters list` shows those that nobody has looked at",
        ));
    };
    let was = Some(json!({"reason": letter.reason, "at": letter.at.rfc3339()}));
    let became = reason.map(|r| json!({"reason": r}));
    tx.audit(&Act { was, became, ..caller.act("dead_letter.dismiss", &format!("dead-letter/{id}")) }).await?;
    tx.commit().await?;
    tracing::info!(id, by = caller.name, "a dead letter was dismissed");
    Ok(())
}
