//! The audit trail: what was done, by whom, when.

use crate::Console;
use crate::error::{ApiError, ErrorBody};
use crate::view::{PageQuery, Paged, point_in_time};
use axum::Json;
use axum::extract::{Query, State};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use store::{AuditEntry, AuditFilter};
use utoipa::{IntoParams, ToSchema};

/// Something that somebody did.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Entry {
    pub(crate) id: String,
    pub(crate) at: String,
    /// The name of the admin token; `rekey` did what follows from something else.
    pub(crate) by: String,
    /// The address that the call came from; null where none did.
    pub(crate) from: Option<String>,
    /// Such as `item.put`, `item.remove`, `parked.release`.
    pub(crate) action: String,
    /// `item/ID`, `business/ID` or `key/ID`. Of an erased one the fingerprint stands in place of the id; asking for the id
    /// finds it.
    pub(crate) subject: String,
    /// What was so before, where the act changes something.
    #[schema(value_type = Option<Object>)]
    pub(crate) was: Option<Value>,
    /// What the act said or made: of a push only what it said, the rest stays as it was.
    #[schema(value_type = Option<Object>)]
    pub(crate) became: Option<Value>,
    /// What releases before this form wrote.
    pub(crate) detail: Option<String>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct AuditQuery {
    /// The `next` of the page before.
    pub(crate) after: Option<String>,
    /// At most this many entries, 1 to 500; 100 when not given.
    pub(crate) limit: Option<u32>,
    /// Only what was done to this: `item/ID`, `business/ID`, `key/ID`, `provider/NAME`, `dead-letter/ID` or `batch/ID`.
    pub(crate) subject: Option<String>,
    /// Only what this admin token did.
    pub(crate) by: Option<String>,
    /// Only what is not older than this point in time (RFC 3339).
    pub(crate) since: Option<String>,
}

impl From<AuditEntry> for Entry {
    fn from(entry: AuditEntry) -> Self {
        let json = |text: Option<String>| text.map(|t| serde_json::from_str(&t).unwrap_or(Value::String(t)));
        Self {
            id: entry.id,
            at: entry.at.rfc3339(),
            by: entry.by,
            from: entry.from,
            action: entry.action,
            subject: entry.subject,
            was: json(entry.was),
            became: json(entry.became),
            detail: Some(entry.detail).filter(|d| !d.is_empty()),
        }
    }
}

/// What was done, by whom and from where, the newest first.
#[utoipa::path(get, operation_id = "listAudit", path = "/v1/audit", params(AuditQuery),
    responses((status = 200, body = Paged<Entry>), (status = 400, body = ErrorBody)))]
pub(crate) async fn list(
    State(console): State<Console>,
    Query(query): Query<AuditQuery>,
) -> Result<Json<Paged<Entry>>, ApiError> {
    let AuditQuery { after, limit, subject, by, since } = query;
    let since = since.as_deref().map(point_in_time).transpose()?;
    let kinds = ["item/", "business/", "key/", "provider/", "dead-letter/", "batch/"];
    if subject.as_ref().is_some_and(|s| !kinds.iter().any(|k| s.starts_with(k))) {
        return Err(ApiError::bad_request(
            "`subject` is `item/ID`, `business/ID`, `key/ID`, `provider/NAME`, `dead-letter/ID` or `batch/ID`",
        ));
    }
    if [&subject, &by].into_iter().flatten().any(|text| text.contains('\0')) {
        return Err(ApiError::bad_request("`subject` and `by` can't hold a NUL"));
    }
    let pages = PageQuery::of_entries(after, limit)?;
    let mut tx = console.store.begin_read().await?;
    let entries = tx.audit_page(&AuditFilter { subject, by }, &pages.page()?).await?;
    let page = Paged::new(entries, &pages, |e: &AuditEntry| e.id.clone()).since(since, |e| e.at);
    Ok(Json(page.map(Entry::from)))
}
