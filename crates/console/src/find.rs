//! Who is meant by what a person has at hand.

use crate::Console;
use crate::error::{ApiError, ErrorBody};
use axum::Json;
use axum::extract::{Query, State};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// Answers at most; a mask of four digits may be that of many accounts.
const MOST: u32 = 50;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct FindQuery {
    /// The id of a business or an Item, Layer's id of a business, the id or the mask of an account, or the fingerprint of a
    /// token.
    pub(crate) q: String,
}

/// A business or an Item that was found.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Hit {
    /// `item` or `business`.
    pub(crate) kind: String,
    pub(crate) id: String,
    /// What the text is: `id`, `layer_id`, `account_id`, `mask`, `access_token` or `processor_token`.
    pub(crate) by: String,
}

/// What was found.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Hits {
    pub(crate) data: Vec<Hit>,
    /// There are more than these.
    pub(crate) more: bool,
}

/// The businesses and Items that a text is about.
#[utoipa::path(get, operation_id = "find", path = "/v1/find", params(FindQuery),
    responses((status = 200, body = Hits), (status = 400, body = ErrorBody)))]
pub(crate) async fn find(
    State(console): State<Console>,
    Query(query): Query<FindQuery>,
) -> Result<Json<Hits>, ApiError> {
    let text = query.q.trim();
    if domain::redact::shows_any_token(text) {
        return Err(ApiError::bad_request(
            "`q` is a token: ask for its fingerprint, and send tokens nowhere but in a push",
        ));
    }
    if text.is_empty() || text.chars().count() > 256 || text.contains('\0') {
        return Err(ApiError::bad_request("`q` is an id, a mask or a fingerprint of 1 to 256 characters"));
    }
    let mut tx = console.store.begin_read().await?;
    let mut found = tx.find(text, MOST + 1).await?;
    let more = found.len() > MOST as usize;
    found.truncate(MOST as usize);
    let hit = |f: store::Found| Hit { kind: f.subject.kind().to_string(), id: f.subject.id().to_owned(), by: f.by };
    Ok(Json(Hits { data: found.into_iter().map(hit).collect(), more }))
}
