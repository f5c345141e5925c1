//! What waits for a person: parked and held rows, Items nobody pushed.

use crate::Console;
use crate::acts::{ActQuery, Acted, Ask, Order, With, carry_out, checked_reason, subject_of, version_of};
use crate::auth::Caller;
use crate::error::{ApiError, ErrorBody};
use crate::providers::paused;
use crate::view::{PageQuery, Paged, Parked, VerdictView, Work};
use axum::Json;
use axum::extract::{Extension, Path, Query, State};
use axum::http::StatusCode;
use domain::work::{Code, Kind, Subject};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

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
    responses((status = 200, body = Acted), (status = 202, description = "It is due", body = Acted),
        (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub(crate) async fn release(
    State(console): State<Console>,
    Extension(caller): Extension<Caller>,
    Path((kind, id)): Path<(String, String)>,
    Query(said): Query<ActQuery>,
) -> Result<(StatusCode, Json<Acted>), ApiError> {
    let subject = subject_of(&kind, id)?;
    let ask = Ask { order: Order::Release, subject: &subject, with: With::Nothing, said };
    Ok(carry_out(&console, &caller, ask).await?.answer())
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct AllQuery {
    /// The code of what keeps them, as `GET /v1/parked` shows it.
    pub(crate) code: String,
    /// Why, for the audit trail.
    pub(crate) reason: Option<String>,
    /// Only count them.
    #[serde(default)]
    pub(crate) dry_run: bool,
    /// The `next` of the call before.
    pub(crate) after: Option<String>,
    /// The `version` of a dry run with the same `after`: refused with 409 if what keeps its rows is another thing by now.
    pub(crate) version: Option<String>,
}

/// How far the release of all of one cause is.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ReleasedAll {
    pub(crate) code: String,
    pub(crate) dry_run: bool,
    /// Rows that this call released, or would release.
    pub(crate) released: u64,
    /// Rows of the cause that were left alone, because their provider is paused: what keeps them is not theirs.
    pub(crate) paused: u64,
    /// Rows of the cause that were left alone, because an operator holds them as well.
    pub(crate) held: u64,
    /// What those rows are kept by, in which words: send it as `version`, and nothing is released if it is another one by then.
    pub(crate) version: String,
    /// Send it as `after` to go on; null when all of them were seen.
    pub(crate) next: Option<String>,
}

/// Rows that one call looks at.
const SEEN_AT_ONCE: u32 = 500;

/// Release every row that is kept for one cause, some hundred in each call: call it until `next` is null, or stop at any time.
#[utoipa::path(post, operation_id = "releaseAll", path = "/v1/parked/release", params(AllQuery),
    responses((status = 200, body = ReleasedAll), (status = 409, body = ErrorBody)))]
pub(crate) async fn release_all(
    State(console): State<Console>,
    Extension(caller): Extension<Caller>,
    Query(query): Query<AllQuery>,
) -> Result<Json<ReleasedAll>, ApiError> {
    let AllQuery { code, reason, dry_run, after, version } = query;
    let reason = checked_reason(reason.as_deref())?;
    let pages = PageQuery { after, limit: Some(SEEN_AT_ONCE) };
    let axum::Json(page) = parked(State(console.clone()), Query(pages)).await?;
    let pauses = paused(&mut console.store.begin_read().await?).await?;
    let mut all =
        ReleasedAll { code, dry_run, released: 0, paused: 0, held: 0, version: String::new(), next: page.next };
    let (mut eligible, mut seen) = (Vec::new(), String::new());
    let mut tx = console.store.begin_read().await?;
    for row in page.data.iter().filter(|row| row.cause() == all.code) {
        let subject = subject_of(&row.kind, row.id.clone())?;
        let is_held = match &subject {
            Subject::Business(id) => tx.business(id).await?.is_some_and(|b| b.kept_back.is_some()),
            Subject::Item(_) => false,
        };
        if pauses.iter().any(|p| p.provider == subject.kind().provider().as_str()) {
            all.paused += 1;
        } else if is_held && all.code != Code::OperatorHold.as_str() {
            all.held += 1;
        } else {
            let of_row = version_of(&mut tx, &subject).await?;
            seen.push_str(&format!("{subject} {of_row};"));
            eligible.push((subject, of_row));
        }
    }
    drop(tx);
    all.version = crate::hash_token(&seen)[..24].to_owned();
    if version.is_some_and(|version| version != all.version) {
        return Err(ApiError::conflict("what keeps them is not what it was when this was decided: look again"));
    }
    if dry_run {
        all.released = eligible.len() as u64;
        return Ok(Json(all));
    }
    for (subject, of_row) in eligible {
        let (reason, version) = (reason.map(str::to_owned), Some(of_row));
        let said = ActQuery { reason, version, ..ActQuery::default() };
        match carry_out(&console, &caller, Ask { order: Order::Release, subject: &subject, with: With::Nothing, said })
            .await
        {
            Ok(_) => all.released += 1,
            // It went on meanwhile, or is kept by another thing.
            Err(error) if error.is_of_the_row() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Json(all))
}

/// A business whose list an operator keeps from being sent.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct HeldByOperator {
    pub(crate) business_id: String,
    pub(crate) why: String,
    pub(crate) since: String,
}

/// Businesses whose lists operators keep from being sent, whether these are right or not.
#[utoipa::path(get, operation_id = "listHolds", path = "/v1/holds", params(PageQuery), responses((status = 200, body = Paged<HeldByOperator>)))]
pub(crate) async fn holds(
    State(console): State<Console>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Paged<HeldByOperator>>, ApiError> {
    let rows = console.store.begin_read().await?.list_kept_back(&query.page()?).await?.into_iter();
    let held = rows.filter_map(|row| {
        let (why, since) = row.kept_back?;
        Some(HeldByOperator { business_id: row.id.to_string(), why, since: since.rfc3339() })
    });
    Ok(Json(Paged::new(held.collect(), &query, |held| held.business_id.clone())))
}

impl Parked {
    /// One word for what keeps it.
    pub(crate) fn cause(&self) -> &str {
        let refused = || self.verdict.as_ref().and_then(|v| v.wrong.first()).and_then(|w| w.code.as_deref());
        self.work.blocked.as_ref().map(|b| &*b.code).or_else(refused).unwrap_or("unknown")
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
