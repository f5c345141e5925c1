//! What changed: the outcomes that the platform reads from Kafka, for whoever has no Kafka at hand.
//!
//! They are read from the history, which is written with the outcomes in one transaction. It keeps less than their records hold, and
//! says less often: an outcome about an Item stands there once, and not once for each of its businesses; and where a record
//! lists accounts of a business, it has their number.

use crate::Console;
use crate::error::{ApiError, ErrorBody};
use crate::history::{ITEMS, named, sentence};
use crate::view::{PageQuery, Paged, point_in_time};
use axum::Json;
use axum::extract::{Query, State};
use domain::outcome::Outcome;
use domain::work::{Kind, Subject};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use store::{HistoryEntry, OutcomeFilter};
use utoipa::{IntoParams, ToSchema};

/// Something that changed.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "id": "019a3c5e-7d10-7c52-9d0b-3f6f0e9b8a11", "at": "2026-01-31T09:00:00.123Z", "type": "rekey.business.verdict_changed",
    "subject": "business/ACME", "business_id": "ACME", "item_id": null,
    "text": "converged -> partly: 2 of 3 accounts right",
    "data": {"was": "converged", "state": "partly", "why": "2 of 3 accounts right", "accounts": 3, "right": 2},
    "trace": "4bf92f3577b34da6a3ce929d0e0e4736"
}))]
pub(crate) struct OutcomeView {
    /// Of the entry here; the record on the topic has another one.
    pub(crate) id: String,
    pub(crate) at: String,
    /// The `ce_type` of the record on the topic.
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// `item/ID` or `business/ID`. Of an erased one the fingerprint stands in place of the id; asking for the id finds it.
    pub(crate) subject: String,
    /// Null of an outcome about an Item.
    pub(crate) business_id: Option<String>,
    /// Null of an outcome about a business.
    pub(crate) item_id: Option<String>,
    /// One line for a person.
    pub(crate) text: String,
    /// What the record holds besides the ids. Where that lists accounts of a business, this has their number.
    #[schema(value_type = Object)]
    pub(crate) data: Value,
    /// The trace that it is part of: log lines name it.
    pub(crate) trace: Option<String>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct OutcomesQuery {
    /// The `next` of the page before, or the `id` of an outcome.
    pub(crate) after: Option<String>,
    /// At most this many entries, 1 to 500; 100 when not given.
    pub(crate) limit: Option<u32>,
    /// Only what happened to this: `item/ID`, or `business/ID` with its Items (the first 50 by id). That of an erased one is found
    /// by its id.
    pub(crate) subject: Option<String>,
    /// Only outcomes of this type.
    #[serde(rename = "type")]
    pub(crate) kind: Option<String>,
    /// Only what is not older than this point in time (RFC 3339).
    pub(crate) since: Option<String>,
    /// `newest`, which is also meant when it is not given, or `oldest`: which come first.
    pub(crate) order: Option<String>,
}

/// What changed, the newest first: the outcomes that are published on the topic of outcomes, as far as the history keeps them.
///
/// To follow them, ask with `order=oldest`, and go on after the last one. One that was being written meanwhile may then stand
/// before it: ask again with a `since` some seconds earlier, and leave out those whose `id` you have seen.
#[utoipa::path(get, operation_id = "listOutcomes", path = "/v1/outcomes", params(OutcomesQuery),
    responses((status = 200, body = Paged<OutcomeView>), (status = 400, body = ErrorBody)))]
pub(crate) async fn list(
    State(console): State<Console>,
    Query(query): Query<OutcomesQuery>,
) -> Result<Json<Paged<OutcomeView>>, ApiError> {
    let OutcomesQuery { after, limit, subject, kind, since, order } = query;
    let since = since.as_deref().map(point_in_time).transpose()?;
    let unknown = || ApiError::bad_request(format!("`type` is none of {}", Outcome::WORDS.join(", ")));
    let kind = kind.map(|word| Outcome::from_word(&word).ok_or_else(unknown)).transpose()?;
    let oldest_first = match order.as_deref() {
        None | Some("newest") => false,
        Some("oldest") => true,
        Some(_) => return Err(ApiError::bad_request("`order` is `newest` or `oldest`")),
    };
    let subject = subject.as_deref().map(named).transpose()?;
    let pages = PageQuery::of_entries(after, limit)?;
    let mut tx = console.store.begin_read().await?;
    let mut subjects: Option<Vec<Subject>> = subject.map(|subject| vec![subject]);
    if let Some([Subject::Business(business)]) = subjects.as_deref() {
        let items = tx.items_in(business, ITEMS).await?;
        subjects.iter_mut().for_each(|all| all.extend(items.iter().map(Subject::from)));
    }
    let filter = OutcomeFilter { subjects, kind, since, oldest_first };
    let outcomes = tx.list_outcomes(&filter, &pages.page()?).await?;
    Ok(Json(Paged::new(outcomes, &pages, |o| o.id.clone()).map(OutcomeView::from)))
}

impl From<HistoryEntry> for OutcomeView {
    fn from(entry: HistoryEntry) -> Self {
        let HistoryEntry { id, at, subject, what, detail, trace } = entry;
        let of = |kind: Kind| subject.strip_prefix(kind.as_str())?.strip_prefix('/').map(str::to_owned);
        Self {
            business_id: of(Kind::Business),
            item_id: of(Kind::Item),
            text: sentence(&what, &detail),
            id,
            at: at.rfc3339(),
            kind: what,
            subject,
            data: detail,
            trace,
        }
    }
}
