//! A customer is forgotten. The audit keeps that it was, under a pseudonym.

use crate::Console;
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
use store::{Act, Erasure, Tx};
use utoipa::IntoParams;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct EraseQuery {
    /// Also where no list could be read back without it: Layer does not have the business any more, or nothing is sent.
    #[serde(default)]
    unconfirmed: bool,
}

impl EraseQuery {
    fn act<'a>(&self, caller: &'a Caller, action: &'a str, subject: &Subject) -> Act<'a> {
        Act { became: self.unconfirmed.then(|| json!({"unconfirmed": true})), ..caller.act(action, subject) }
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
    let id = ItemId::parse(item)?;
    let mut tx = console.store.begin().await?;
    // First, so that its subject becomes a pseudonym with the others.
    let subject = Subject::from(&id);
    tx.audit(&query.act(&caller, "item.erase", &subject)).await?;
    let erasure = tx.erase_item(&id, query.unconfirmed).await?;
    end(tx, &caller, &subject, erasure).await
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
    let id = BusinessId::parse(business)?;
    let mut tx = console.store.begin().await?;
    let subject = Subject::from(&id);
    tx.audit(&query.act(&caller, "business.erase", &subject)).await?;
    let erasure = tx.erase_business(&id, query.unconfirmed).await?;
    end(tx, &caller, &subject, erasure).await
}

async fn end(tx: Tx, caller: &Caller, subject: &Subject, erasure: Erasure) -> Result<StatusCode, ApiError> {
    let refused = match (erasure, subject) {
        (Erasure::Done, _) => None,
        (Erasure::Unknown, Subject::Item(_)) => Some(no_item()),
        (Erasure::Unknown, Subject::Business(_)) => Some(no_business()),
        (Erasure::Refused(why), _) => Some(ApiError::conflict(why)),
    };
    if let Some(refused) = refused {
        tx.rollback().await?;
        return Err(refused);
    }
    tx.commit().await?;
    tracing::info!(kind = %subject.kind(), id = subject.id(), by = caller.name, "erased");
    Ok(StatusCode::NO_CONTENT)
}
