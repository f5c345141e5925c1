//! A customer is forgotten. The audit keeps that it was, under a pseudonym.

use crate::Console;
use crate::acts::{ActQuery, checked_reason, version_of};
use crate::auth::Caller;
use crate::businesses::no_business;
use crate::error::{ApiError, ErrorBody};
use crate::items::no_item;
use axum::extract::{Extension, Path, Query, State};
use axum::http::StatusCode;
use domain::work::Subject;
use domain::{BusinessId, ItemId};
use serde::Deserialize;
use serde_json::json;
use store::{Act, Erasure};
use utoipa::IntoParams;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct EraseQuery {
    /// Also where no list could be read back without it: Layer does not have the business any more, or nothing is sent.
    #[serde(default)]
    unconfirmed: bool,
    /// Only say whether it can be done: the answer is the same, and nothing is deleted.
    #[serde(default)]
    dry_run: bool,
    /// Why, for the audit trail.
    reason: Option<String>,
    /// The `version` of the row that an explanation showed: refused with 409 if the row is another one by now.
    version: Option<String>,
}

impl EraseQuery {
    fn said(self) -> ActQuery {
        ActQuery { reason: self.reason, version: self.version, dry_run: self.dry_run, timeout: None }
    }
}

/// Forget a removed Item: every row about it is deleted, once the lists that it was in were read back without it.
#[utoipa::path(post, operation_id = "eraseItem", path = "/v1/items/{item_id}/erase", params(("item_id" = String, Path), EraseQuery),
    responses((status = 204, description = "Nothing is known of it any more"), (status = 404, body = ErrorBody),
        (status = 409, body = ErrorBody, description = "What has to happen first")))]
pub(crate) async fn item(
    State(console): State<Console>,
    Extension(caller): Extension<Caller>,
    Path(item): Path<String>,
    Query(query): Query<EraseQuery>,
) -> Result<StatusCode, ApiError> {
    let subject = Subject::from(&ItemId::parse(item)?);
    carry_out(&console, &caller, &subject, query.unconfirmed, &query.said()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Forget a business that no Item names any more: every row about it is deleted.
#[utoipa::path(post, operation_id = "eraseBusiness", path = "/v1/businesses/{business_id}/erase", params(("business_id" = String, Path), EraseQuery),
    responses((status = 204, description = "Nothing is known of it any more"), (status = 404, body = ErrorBody),
        (status = 409, body = ErrorBody, description = "What has to happen first")))]
pub(crate) async fn business(
    State(console): State<Console>,
    Extension(caller): Extension<Caller>,
    Path(business): Path<String>,
    Query(query): Query<EraseQuery>,
) -> Result<StatusCode, ApiError> {
    let subject = Subject::from(&BusinessId::parse(business)?);
    carry_out(&console, &caller, &subject, query.unconfirmed, &query.said()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Erases it, or tries it out: then nothing stands in the way if this succeeds.
pub(crate) async fn carry_out(
    console: &Console,
    caller: &Caller,
    subject: &Subject,
    unconfirmed: bool,
    said: &ActQuery,
) -> Result<(), ApiError> {
    let reason = checked_reason(said.reason.as_deref())?;
    let mut tx = console.store.begin().await?;
    tx.lock_row(subject).await?;
    if said.version.is_some() && said.version.as_deref() != Some(&version_of(&mut tx, subject).await?) {
        tx.rollback().await?;
        return Err(ApiError::conflict("it is not what it was when this was decided: look again"));
    }
    // First, so that its subject becomes a pseudonym with the others.
    let told = [("unconfirmed", unconfirmed.then(|| json!(true))), ("reason", reason.map(|r| json!(r)))];
    let told: serde_json::Map<_, _> = told.into_iter().filter_map(|(k, v)| Some((k.to_owned(), v?))).collect();
    let became = (!told.is_empty()).then_some(serde_json::Value::Object(told));
    tx.audit(&Act { became, ..caller.act(&format!("{}.erase", subject.kind()), subject) }).await?;
    let erasure = match subject {
        Subject::Item(id) => tx.erase_item(id, unconfirmed).await?,
        Subject::Business(id) => tx.erase_business(id, unconfirmed).await?,
    };
    let refused = match (erasure, subject) {
        (Erasure::Done, _) => None,
        (Erasure::Unknown, Subject::Item(_)) => Some(no_item()),
        (Erasure::Unknown, Subject::Business(_)) => Some(no_business()),
        (Erasure::Refused(why), _) => Some(ApiError::conflict(why)),
    };
    if refused.is_some() || said.dry_run {
        tx.rollback().await?;
        return refused.map_or(Ok(()), Err);
    }
    tx.commit().await?;
    tracing::info!(kind = %subject.kind(), id = subject.id(), by = caller.name, "erased");
    Ok(())
}
