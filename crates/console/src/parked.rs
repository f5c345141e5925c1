//! What waits for a person: parked and held rows, Items nobody pushed.

use crate::Console;
use crate::acts::{ActQuery, Acted, Ask, Order, With, carry_out, subject_of};
use crate::auth::Caller;
use crate::error::{ApiError, ErrorBody};
use crate::view::{PageQuery, Paged, Parked, VerdictView, Work};
use axum::Json;
use axum::extract::{Extension, Path, Query, State};
use axum::http::StatusCode;
use domain::Millis;
use domain::queue::Row;
use domain::verdict::Problem;
use domain::work::{Block, Kind};
use serde::Serialize;
use std::collections::BTreeMap;
use store::{Judged, Page, Tx};
use utoipa::ToSchema;

/// What waits for a person: rows that are parked or held, and Items with accounts whose mint Plaid refuses, with the
/// reason and what to do.
#[utoipa::path(get, operation_id = "listParked", path = "/v1/parked", params(PageQuery), responses((status = 200, body = Paged<Parked>)))]
pub(crate) async fn parked(
    State(console): State<Console>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Paged<Parked>>, ApiError> {
    let mut tx = console.store.begin_read().await?;
    let parked = kept(&mut tx, &query.page()?).await?.iter().map(Parked::from).collect();
    Ok(Json(Paged::new(parked, &query, |p: &Parked| format!("{}/{}", p.kind, p.id))))
}

/// A row that waits for a person, with its verdict.
pub(crate) struct Kept {
    pub(crate) row: Row,
    judged: Option<Judged>,
}

/// A page of them.
pub(crate) async fn kept(tx: &mut Tx, page: &Page) -> Result<Vec<Kept>, store::Error> {
    let rows = tx.list_parked(page).await?;
    let mut judged = BTreeMap::new();
    for kind in Kind::ALL {
        let of_kind = rows.iter().filter(|row| row.subject.kind() == *kind).map(|row| row.subject.id().to_owned());
        let of_kind = tx.verdicts(*kind, &of_kind.collect::<Vec<_>>()).await?;
        judged.extend(of_kind.into_iter().map(|judged| (judged.subject.clone(), judged)));
    }
    Ok(rows.into_iter().map(|row| Kept { judged: judged.remove(&row.subject), row }).collect())
}

impl Kept {
    /// One word for what keeps it.
    pub(crate) fn cause(&self) -> &str {
        let blocked = self.row.blocked.as_ref().map(|blocked| &*blocked.code);
        blocked.or_else(|| self.release_code()).unwrap_or("unknown")
    }

    /// The code for which it can be released. None: nobody can do anything to the row itself.
    pub(crate) fn release_code(&self) -> Option<&str> {
        let wrong = || self.judged.iter().flat_map(|judged| &judged.verdict.wrong);
        let refused = || wrong().find(|w| w.problem == Problem::MintRefused).and_then(|w| w.code.as_deref());
        match &self.row.blocked {
            Some(blocked) => matches!(blocked.by, Block::Hold | Block::Parked).then_some(&*blocked.code),
            None => refused(),
        }
    }

    /// Since when it is kept.
    pub(crate) fn since(&self) -> Option<Millis> {
        self.row.blocked_at.or(self.judged.as_ref().map(|judged| judged.since))
    }
}

impl From<&Kept> for Parked {
    fn from(kept: &Kept) -> Self {
        Self {
            kind: kept.row.subject.kind().to_string(),
            id: kept.row.subject.id().to_owned(),
            verdict: kept.judged.as_ref().map(VerdictView::from),
            work: Work::from(&kept.row),
        }
    }
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
