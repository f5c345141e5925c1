//! An order for every row that is kept for one cause: tried out, ordered, worked off in the background a row at a time, watched,
//! and cancelled.

use crate::Console;
use crate::acts::{ActQuery, Ask, Order, With, carry_out, checked_reason, version};
use crate::auth::Caller;
use crate::error::{ApiError, ErrorBody};
use crate::parked::{Kept, kept};
use crate::view::{PageQuery, Paged};
use axum::Json;
use axum::extract::{Extension, Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use domain::fault::chain;
use domain::work::{BatchState, Code, Subject};
use domain::{Millis, counted};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::time::Duration;
use store::{BatchRow, LeftAlone, NewBatch, Page, TakenBatch};
use utoipa::{IntoParams, ToSchema};

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
    /// The `version` of a dry run: refused with 409 if what keeps the rows is another thing by now, or there are others.
    pub(crate) version: Option<String>,
}

/// What an order for all of one cause would do.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BatchPlan {
    pub(crate) code: String,
    /// Rows that would be released.
    pub(crate) eligible: u64,
    /// Rows of the cause that would be left alone, because their provider is paused: what keeps them is not theirs.
    pub(crate) paused: u64,
    /// Rows of the cause that would be left alone, because an operator holds them as well.
    pub(crate) held: u64,
    /// False: there are more of them than were counted.
    pub(crate) complete: bool,
    /// What those rows are kept by, in which words.
    pub(crate) version: String,
}

/// An order for all of one cause, and how far it is.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Batch {
    pub(crate) batch_id: String,
    pub(crate) code: String,
    pub(crate) state: String,
    /// How far it is, in one sentence.
    pub(crate) sentence: String,
    pub(crate) ordered_by: String,
    pub(crate) ordered_at: String,
    pub(crate) reason: Option<String>,
    pub(crate) ended_at: Option<String>,
    pub(crate) cancelled_by: Option<String>,
    /// Rows that could be released when it was ordered.
    pub(crate) eligible: u64,
    /// False: there were more of them than were counted.
    pub(crate) complete: bool,
    /// Rows that were released until now. Where it ends with fewer than were eligible and none left alone, the rest went on by
    /// itself, or came to be kept by another thing.
    pub(crate) released: u64,
    /// Rows that were left alone, because their provider is paused.
    pub(crate) paused: u64,
    /// Rows that were left alone, because an operator holds them as well.
    pub(crate) held: u64,
    /// Rows that could not be released: the log says why.
    pub(crate) failed: u64,
}

/// `120 of 240 rows are released. 3 are left alone: their provider is paused.`
fn sentence(row: &BatchRow) -> String {
    let begun = match row.state {
        BatchState::Running => "under way",
        BatchState::Done => "done",
        BatchState::Cancelled => "cancelled",
    };
    let more = if row.is_counted { "" } else { "more than " };
    let of = counted(row.eligible, "row is", "rows are");
    let left = [
        (row.left.paused, "left alone, because their provider is paused"),
        (row.left.held, "left alone, because an operator holds them as well"),
        (row.left.failed, "not released, because that did not work: the console's log says why"),
    ];
    let left = left.iter().filter(|(n, _)| *n > 0).map(|(n, why)| format!(", {n} {why}"));
    let rest = row.eligible.saturating_sub(row.released + row.left.paused + row.left.held + row.left.failed);
    let gone = match row.state {
        BatchState::Done if rest > 0 => format!(", {rest} went on meanwhile or are kept by another thing"),
        _ => String::new(),
    };
    format!("{begun}: {} of {more}{of} released{}{gone}", row.released, left.collect::<String>())
}

impl From<BatchRow> for Batch {
    fn from(row: BatchRow) -> Self {
        Self {
            sentence: sentence(&row),
            batch_id: row.id,
            code: row.code,
            state: row.state.to_string(),
            ordered_by: row.ordered_by,
            ordered_at: row.ordered_at.rfc3339(),
            reason: row.reason,
            ended_at: row.ended_at.map(Millis::rfc3339),
            cancelled_by: row.cancelled_by,
            eligible: row.eligible,
            complete: row.is_counted,
            released: row.released,
            paused: row.left.paused,
            held: row.left.held,
            failed: row.left.failed,
        }
    }
}

/// Release every row that is kept for one cause. It goes on in the background, a row at a time, each on the truth of its moment
/// and as one of many: what people wait for goes first. Rows that come to be kept later are not meant. While one of a cause runs,
/// the same order answers that one.
#[utoipa::path(post, operation_id = "releaseAll", path = "/v1/parked/release", params(AllQuery),
    responses((status = 200, description = "Of a dry run", body = BatchPlan), (status = 202, description = "It is under way", body = Batch),
        (status = 404, description = "Nothing is kept for this code that could be released", body = ErrorBody), (status = 409, body = ErrorBody)))]
pub(crate) async fn release_all(
    State(console): State<Console>,
    Extension(caller): Extension<Caller>,
    Query(query): Query<AllQuery>,
) -> Result<Response, ApiError> {
    if query.dry_run {
        return Ok(Json(plan(&console, &query.code).await?).into_response());
    }
    Ok((StatusCode::ACCEPTED, Json(order(&console, &caller, &query).await?)).into_response())
}

/// Orders for all of one cause, the newest first: those that run, and those that ended within `consumer.audit_kept`.
#[utoipa::path(get, operation_id = "listBatches", path = "/v1/batches", params(PageQuery), responses((status = 200, body = Paged<Batch>)))]
pub(crate) async fn list(
    State(console): State<Console>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Paged<Batch>>, ApiError> {
    let query = PageQuery::of_entries(query.after, query.limit)?;
    let rows = console.store.begin_read().await?.list_batches(&query.page()?).await?;
    Ok(Json(Paged::new(rows.into_iter().map(Batch::from).collect(), &query, |batch| batch.batch_id.clone())))
}

/// How far one is.
#[utoipa::path(get, operation_id = "getBatch", path = "/v1/batches/{batch_id}", params(("batch_id" = String, Path)),
    responses((status = 200, body = Batch), (status = 404, body = ErrorBody)))]
pub(crate) async fn show(State(console): State<Console>, Path(id): Path<String>) -> Result<Json<Batch>, ApiError> {
    let row = console.store.begin_read().await?.batch(&id).await?.ok_or_else(no_batch)?;
    Ok(Json(row.into()))
}

/// Release no further row. Those that were released stay so.
#[utoipa::path(post, operation_id = "cancelBatch", path = "/v1/batches/{batch_id}/cancel", params(("batch_id" = String, Path)),
    responses((status = 200, body = Batch), (status = 404, body = ErrorBody),
        (status = 409, description = "It has ended", body = ErrorBody)))]
pub(crate) async fn cancel(
    State(console): State<Console>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<Batch>, ApiError> {
    cancelled(&console, &caller, &id).await.map(Json)
}

fn no_batch() -> ApiError {
    ApiError::not_found("batch", "`rekey batch list` shows those that there are")
}

/// Cancels it.
pub(crate) async fn cancelled(console: &Console, caller: &Caller, id: &str) -> Result<Batch, ApiError> {
    let mut tx = console.store.begin().await?;
    let is_cancelled = tx.cancel_batch(id, &caller.name).await?;
    let row = tx.batch(id).await?;
    if let (true, Some(row)) = (is_cancelled, row.as_ref()) {
        let became = Some(json!({"code": row.code, "released": row.released}));
        tx.audit(&store::Act { became, ..caller.act("batch.cancel", &format!("batch/{id}")) }).await?;
        tx.commit().await?;
        tracing::info!(id, by = caller.name, "a batch was cancelled");
    } else {
        tx.rollback().await?;
    }
    match row {
        Some(row) if is_cancelled => Ok(row.into()),
        Some(row) => Err(ApiError::conflict(format!("it has ended already: it is {}", row.state))),
        None => Err(no_batch()),
    }
}

/// Rows that are counted before one decides.
const COUNTED: usize = 20_000;
/// Rows of a page that is counted.
const PAGE: u32 = 500;
/// Rows of a page that is worked off: it is over long before the lease is.
const SLICE: u32 = 100;
/// A console that takes an order and shows no progress for so long is dead.
const LEASE: Duration = Duration::from_secs(30);
/// How often a console looks for orders that nobody works on.
const POLL: Duration = Duration::from_secs(2);

/// Rows of one cause on a page of what is kept.
#[derive(Default)]
struct OfCause {
    eligible: Vec<Kept>,
    left: LeftAlone,
    /// Where the next page begins.
    next: Option<String>,
}

async fn of_cause(console: &Console, code: &str, after: Option<String>, limit: u32) -> Result<OfCause, ApiError> {
    let mut tx = console.store.begin_read().await?;
    // One more than asked, to know whether there is a next page.
    let mut rows = kept(&mut tx, &Page { after, limit: limit + 1 }).await?;
    let has_more = rows.len() > limit as usize;
    rows.truncate(limit as usize);
    let next = rows.last().filter(|_| has_more).map(|kept| kept.row.subject.to_string());
    let mut found = OfCause { next, ..OfCause::default() };
    rows.retain(|kept| kept.cause() == code);
    let paused: Vec<_> = tx.pauses().await?.iter().map(|pause| pause.provider).collect();
    let businesses = rows.iter().filter(|kept| matches!(kept.row.subject, Subject::Business(_)));
    let businesses: Vec<String> = businesses.map(|kept| kept.row.subject.id().to_owned()).collect();
    let held = tx.businesses(&businesses).await?.into_iter().filter(|row| row.kept_back.is_some());
    let held: Vec<Subject> = held.map(|row| Subject::from(&row.id)).collect();
    for kept in rows {
        if paused.contains(&kept.row.subject.kind().provider()) {
            found.left.paused += 1;
        } else if code != Code::OperatorHold.as_str() && held.contains(&kept.row.subject) {
            found.left.held += 1;
        } else {
            found.eligible.push(kept);
        }
    }
    Ok(found)
}

/// What an order for all of this cause would do.
pub(crate) async fn plan(console: &Console, code: &str) -> Result<BatchPlan, ApiError> {
    let mut plan =
        BatchPlan { code: code.to_owned(), eligible: 0, paused: 0, held: 0, complete: true, version: String::new() };
    let (mut seen, mut after, mut pages) = (String::new(), None, 0);
    loop {
        let found = of_cause(console, code, after, PAGE).await?;
        plan.eligible += found.eligible.len() as u64;
        plan.paused += found.left.paused;
        plan.held += found.left.held;
        for kept in &found.eligible {
            let since = kept.since().map_or(0, |at| at.0);
            seen.push_str(&format!("{} {} {since};", kept.row.subject, version(Some(&kept.row), "")));
        }
        (after, pages) = (found.next, pages + 1);
        plan.complete = after.is_none();
        if plan.complete || pages * PAGE as usize >= COUNTED {
            break;
        }
    }
    plan.version = crate::hash_token(&seen)[..24].to_owned();
    Ok(plan)
}

/// Orders it, or answers the one that runs already.
pub(crate) async fn order(console: &Console, caller: &Caller, query: &AllQuery) -> Result<Batch, ApiError> {
    let AllQuery { code, reason, version, .. } = query;
    let reason = checked_reason(reason.as_deref())?;
    let plan = plan(console, code).await?;
    let mut tx = console.store.begin().await?;
    let running = tx.running_batch(code).await?;
    if running.is_none() {
        if version.as_ref().is_some_and(|version| *version != plan.version) {
            tx.rollback().await?;
            return Err(ApiError::conflict("what keeps them is not what it was when this was decided: look again"));
        }
        if plan.eligible == 0 && plan.complete {
            tx.rollback().await?;
            let left = plan.paused + plan.held;
            return Err(ApiError::nothing_to_do(match left {
                0 => "nothing is kept for this code: `rekey parked list` shows what is".to_owned(),
                _ => format!(
                    "{} left alone: the provider is paused (`rekey pauses`), or an operator holds them (`rekey business holds`)",
                    counted(left, "row of it is", "rows of it are")
                ),
            }));
        }
    }
    let new = NewBatch {
        code,
        reason,
        by: &caller.name,
        from: caller.from,
        eligible: plan.eligible,
        is_counted: plan.complete,
    };
    let (id, is_new) = tx.order_batch(&new).await?;
    if is_new {
        let became = Some(json!({"code": code, "eligible": plan.eligible, "reason": reason}));
        tx.audit(&store::Act { became, ..caller.act("parked.release_all", &format!("batch/{id}")) }).await?;
    }
    let row = tx.batch(&id).await?;
    tx.commit().await?;
    let Some(row) = row else { return Err(ApiError::conflict("the one before has ended at this moment: look again")) };
    if is_new {
        tracing::info!(id, code, by = caller.name, rows = plan.eligible, "a batch was ordered");
        console.ordered.notify_one();
    }
    Ok(row.into())
}

/// Works off orders, one at a time. Whoever dies in the middle of one leaves it to another console.
pub(crate) async fn run(console: Console) {
    while !console.stop.is_cancelled() {
        let worked = match take(&console).await {
            Ok(Some(taken)) => {
                let worked = work_off(&console, &taken).await;
                if let Err(error) = &worked {
                    let (id, code) = (&taken.id, &taken.code);
                    tracing::warn!(id, code, why = error.message(), "a batch waits, and goes on by itself");
                }
                give_back(&console, &taken).await.is_ok() && worked.is_ok()
            }
            Ok(None) => false,
            Err(error) => {
                tracing::debug!(error = chain(&error), "batches wait for the database");
                false
            }
        };
        if worked {
            continue;
        }
        tokio::select! {
            () = console.stop.cancelled() => {}
            () = tokio::time::sleep(POLL) => {}
            () = console.ordered.notified() => {}
        }
    }
}

async fn take(console: &Console) -> Result<Option<TakenBatch>, store::Error> {
    if !console.store.begin_read().await?.is_batch_waiting().await? {
        return Ok(None);
    }
    let mut tx = console.store.begin().await?;
    let taken = tx.take_batch(LEASE).await?;
    tx.commit().await?;
    Ok(taken)
}

async fn give_back(console: &Console, taken: &TakenBatch) -> Result<(), store::Error> {
    let mut tx = console.store.begin().await?;
    tx.give_back_batch(taken).await?;
    tx.commit().await
}

/// Until its end, or until it is cancelled, taken by another console, or this process stops.
async fn work_off(console: &Console, taken: &TakenBatch) -> Result<(), ApiError> {
    let caller = Caller::new(taken.by.clone(), taken.from);
    let mut after = taken.position.clone();
    loop {
        let OfCause { eligible, mut left, next } = of_cause(console, &taken.code, after, SLICE).await?;
        for kept in eligible.iter().filter(|kept| kept.since().is_none_or(|since| since <= taken.ordered_at)) {
            if console.stop.is_cancelled() {
                return Ok(());
            }
            let said = ActQuery { reason: taken.reason.clone(), ..ActQuery::default() };
            let ask = Ask { order: Order::Release, subject: &kept.row.subject, with: With::Batch(taken), said };
            match carry_out(console, &caller, ask).await {
                Ok(_) => {}
                // It went on meanwhile, or is kept by another thing.
                Err(error) if error.is_of_the_row() => {}
                Err(error) if error.is_passing() => {
                    let row = console.store.begin_read().await?.batch(&taken.id).await?;
                    let still_runs = row.is_some_and(|row| row.state == BatchState::Running);
                    return if still_runs { Err(error) } else { Ok(()) };
                }
                // The log has it.
                Err(_) => left.failed += 1,
            }
        }
        let mut tx = console.store.begin().await?;
        let position = next.clone().unwrap_or_default();
        if !tx.advance_batch(taken, &position, left, LEASE).await? {
            return Ok(tx.rollback().await?);
        }
        if next.is_none() {
            tx.end_batch(taken).await?;
            tx.commit().await?;
            tracing::info!(id = taken.id, code = taken.code, "a batch has come to its end");
            return Ok(());
        }
        tx.commit().await?;
        after = next;
    }
}
