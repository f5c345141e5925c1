//! An order for every row that is kept for one cause: counted first, ordered, worked off in the background a row at a time, watched,
//! and cancelled.

use crate::Console;
use crate::acts::{ActQuery, Ask, Order, With, carry_out, checked_reason};
use crate::auth::Caller;
use crate::error::{ApiError, ErrorBody};
use crate::view::{PageQuery, Paged};
use axum::Json;
use axum::extract::{Extension, Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use domain::fault::chain;
use domain::redact::shows_any_token;
use domain::work::{BatchState, Code, Kind, Subject};
use domain::{Millis, counted};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::time::Duration;
use store::{BatchRow, LeftAlone, NewBatch, TakenBatch};
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
    /// The `version` of a dry run. Rows that came to be kept since then, or of which a guard says another thing since, are not meant:
    /// nobody had seen that. The same order on the same version is given once.
    pub(crate) version: Option<String>,
}

impl AllQuery {
    fn seen_at(&self) -> Result<Option<Millis>, ApiError> {
        let is_number = |text: &&str| text.len() <= 15 && text.chars().all(|c| c.is_ascii_digit());
        let parsed = |text: &str| Some(text).filter(is_number).and_then(|text| text.parse().ok()).map(Millis);
        let refused = || ApiError::bad_request("`version` is what a dry run answers");
        self.version.as_deref().map(|text| parsed(text).ok_or_else(refused)).transpose()
    }
}

/// What an order for all of one cause would do.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BatchPlan {
    pub(crate) code: String,
    /// Rows that are kept for it.
    pub(crate) rows: u64,
    /// How many of them would be released.
    pub(crate) eligible: u64,
    /// How many would be left alone, because their provider is paused: what keeps them is not theirs.
    pub(crate) paused: u64,
    /// How many would be left alone, because an operator holds them as well.
    pub(crate) held: u64,
    /// The moment at which they were counted.
    pub(crate) version: String,
    #[serde(skip)]
    seen_at: Millis,
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
    /// Rows that were kept for the cause when it was ordered.
    pub(crate) rows: u64,
    /// How many of them were released until now. What is neither released nor left alone at the end was passed over: it
    /// went on by itself, or what keeps it changed.
    pub(crate) released: u64,
    /// How many were left alone, because their provider is paused.
    pub(crate) paused: u64,
    /// How many were left alone, because an operator holds them as well.
    pub(crate) held: u64,
    /// How many could not be released: the log of the console says why.
    pub(crate) failed: u64,
}

/// `under way: 120 of 240 rows released, 3 left alone (provider paused)`
fn sentence(row: &BatchRow) -> String {
    let begun = match row.state {
        BatchState::Running => "under way",
        BatchState::Done => "done",
        BatchState::Cancelled => "cancelled",
    };
    let LeftAlone { paused, held, failed } = row.left;
    let rest = match row.state {
        BatchState::Done => row.meant.saturating_sub(row.released + paused + held + failed),
        BatchState::Running | BatchState::Cancelled => 0,
    };
    let left = [
        (paused, "left alone (provider paused)"),
        (held, "left alone (held by an operator)"),
        (failed, "failed (see the console's log)"),
        (rest, "passed over (changed meanwhile)"),
    ];
    let left = left.iter().filter(|(n, _)| *n > 0).map(|(n, why)| format!(", {n} {why}"));
    format!("{begun}: {} of {} released{}", row.released, counted(row.meant, "row", "rows"), left.collect::<String>())
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
            rows: row.meant,
            released: row.released,
            paused: row.left.paused,
            held: row.left.held,
            failed: row.left.failed,
        }
    }
}

/// Release every row that is kept for one cause. It goes on in the background, a row at a time, and as one of many: what people
/// wait for goes first.
#[utoipa::path(post, operation_id = "releaseAll", path = "/v1/parked/release", params(AllQuery),
    responses((status = 200, description = "Of a dry run", body = BatchPlan), (status = 202, description = "It is ordered", body = Batch),
        (status = 404, description = "Nothing is kept for this code that could be released", body = ErrorBody),
        (status = 409, description = "One of this cause is under way", body = ErrorBody)))]
pub(crate) async fn release_all(
    State(console): State<Console>,
    Extension(caller): Extension<Caller>,
    Query(query): Query<AllQuery>,
) -> Result<Response, ApiError> {
    if query.dry_run {
        checked_reason(query.reason.as_deref())?;
        return Ok(Json(plan(&console, &query.code, query.seen_at()?).await?).into_response());
    }
    Ok((StatusCode::ACCEPTED, Json(order(&console, &caller, &query).await?)).into_response())
}

/// Orders for all of one cause, the newest first: those that run, and those that ended, as long as the audit trail is kept.
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
    let row = console.store.begin_read().await?.batch(checked_id(&id)?).await?.ok_or_else(no_batch)?;
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

fn checked_id(id: &str) -> Result<&str, ApiError> {
    let is_id = id.len() == 36 && id.chars().all(|c| c.is_ascii_hexdigit() || c == '-');
    is_id.then_some(id).ok_or_else(no_batch)
}

fn checked_code(code: &str) -> Result<&str, ApiError> {
    let is_code = (1..=LONGEST_CODE).contains(&code.len()) && code.chars().all(|c| c.is_ascii_graphic());
    match is_code && !shows_any_token(code) {
        true => Ok(code),
        false => Err(ApiError::bad_request("`code` is what `GET /v1/parked` shows as the code of what keeps a row")),
    }
}

/// Cancels it.
pub(crate) async fn cancelled(console: &Console, caller: &Caller, id: &str) -> Result<Batch, ApiError> {
    let id = checked_id(id)?;
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

pub(crate) const LONGEST_CODE: usize = 128;
/// Rows that are worked off before another order has its turn.
const SLICE: u32 = 100;
/// A console that takes an order and shows no progress for so long is dead.
const LEASE: Duration = Duration::from_secs(30);
/// How often a console looks for orders that nobody works on.
const POLL: Duration = Duration::from_secs(2);
/// An order that could not go on lets others go first for so long.
const PUT_OFF: Duration = Duration::from_secs(10);

/// What an order for all of this cause would do. `seen_at`: on what was so at this moment; now if it is not given.
pub(crate) async fn plan(console: &Console, code: &str, seen_at: Option<Millis>) -> Result<BatchPlan, ApiError> {
    let code = checked_code(code)?;
    let mut tx = console.store.begin_read().await?;
    let seen_at = seen_at.unwrap_or(tx.now());
    if seen_at > tx.now() {
        return Err(ApiError::conflict("`version` is of a moment that is still to come: it is what a dry run answers"));
    }
    let found = tx.count_of_cause(code, seen_at).await?;
    let paused: Vec<_> = tx.pauses().await?.iter().map(|pause| pause.provider).collect();
    let is_paused = |kind: Kind| paused.contains(&kind.provider());
    let held = if code == Code::OperatorHold.as_str() { 0 } else { found.held };
    let (mut left, mut held_alone) = (0, held);
    if is_paused(Kind::Item) {
        left += found.items;
    }
    if is_paused(Kind::Business) {
        left += found.businesses;
        held_alone = 0;
    }
    let rows = found.items + found.businesses;
    Ok(BatchPlan {
        code: code.to_owned(),
        rows,
        eligible: rows.saturating_sub(left + held_alone),
        paused: left,
        held: held_alone,
        version: seen_at.0.to_string(),
        seen_at,
    })
}

/// Orders it, or answers the one that was ordered on the same version before.
pub(crate) async fn order(console: &Console, caller: &Caller, query: &AllQuery) -> Result<Batch, ApiError> {
    let reason = checked_reason(query.reason.as_deref())?;
    let plan = plan(console, &query.code, query.seen_at()?).await?;
    if let Some(same) = ordered_before(console, caller, &plan, query).await? {
        return Ok(same);
    }
    if plan.eligible == 0 {
        return Err(ApiError::nothing_to_do(match plan.rows {
            0 if query.version.is_some() => {
                "nothing is kept for this code as it was when it was counted: count anew (`--dry-run`)".to_owned()
            }
            0 => "nothing is kept for this code: `rekey parked list` shows what is".to_owned(),
            rows => format!(
                "{} left alone: their provider is paused (`rekey pauses`), or operators hold them",
                counted(rows, "row of it would be", "rows of it would be")
            ),
        }));
    }
    let (code, from, meant) = (&*plan.code, caller.from, plan.rows);
    let mut tx = console.store.begin().await?;
    let Some(id) =
        tx.order_batch(&NewBatch { code, reason, by: &caller.name, from, seen_at: plan.seen_at, meant }).await?
    else {
        tx.rollback().await?;
        // In this very moment.
        let same = ordered_before(console, caller, &plan, query).await?;
        return same.ok_or_else(|| ApiError::conflict("one that was under way has just ended: count anew"));
    };
    let became = Some(json!({"code": code, "rows": meant, "reason": reason}));
    tx.audit(&store::Act { became, ..caller.act("parked.release_all", &format!("batch/{id}")) }).await?;
    let row = tx.batch(&id).await?.ok_or_else(no_batch)?;
    tx.commit().await?;
    tracing::info!(id, code, by = caller.name, rows = meant, "a batch was ordered");
    console.ordered.notify_one();
    Ok(row.into())
}

/// The one that this caller ordered on the same version: a form was sent twice. Err: that was cancelled, or another one of the cause
/// is under way.
async fn ordered_before(
    console: &Console,
    caller: &Caller,
    plan: &BatchPlan,
    query: &AllQuery,
) -> Result<Option<Batch>, ApiError> {
    let mut tx = console.store.begin_read().await?;
    if query.version.is_some()
        && let Some(same) = tx.same_batch(&plan.code, &caller.name, plan.seen_at).await?
    {
        return match same.state {
            BatchState::Cancelled => {
                Err(ApiError::conflict("this very order was cancelled: count anew, and order that"))
            }
            BatchState::Running | BatchState::Done => Ok(Some(same.into())),
        };
    }
    match tx.running_batch(&plan.code).await? {
        Some(running) => {
            let by = running.ordered_by;
            Err(ApiError::conflict(format!("one that {by} ordered is under way: see `rekey batch list`")))
        }
        None => Ok(None),
    }
}

/// Works off orders, in turns. Whoever dies in the middle of one leaves it to another console.
pub(crate) async fn run(console: Console) {
    while !console.stop.is_cancelled() {
        match turn(&console).await {
            Ok(true) => continue,
            Ok(false) => {}
            Err(error) => tracing::debug!(error = chain(&error), "batches wait for the database"),
        }
        tokio::select! {
            () = console.stop.cancelled() => {}
            () = tokio::time::sleep(POLL) => {}
            () = console.ordered.notified() => {}
        }
    }
}

/// True: there may be more to do at once.
async fn turn(console: &Console) -> Result<bool, store::Error> {
    if !console.store.begin_read().await?.is_batch_waiting().await? {
        return Ok(false);
    }
    let mut tx = console.store.begin().await?;
    let taken = tx.take_batch(LEASE).await?;
    tx.commit().await?;
    let Some(taken) = taken else { return Ok(false) };
    let Err(error) = slice(console, &taken).await else { return Ok(true) };
    let pause = match console.stop.is_cancelled() {
        // Another console goes on at once.
        true => Duration::ZERO,
        false => {
            let (id, code) = (&taken.id, &taken.code);
            tracing::warn!(id, code, why = error.message(), "a batch can't go on just now: it is tried again");
            PUT_OFF
        }
    };
    let mut tx = console.store.begin().await?;
    tx.put_batch_off(&taken, pause).await?;
    tx.commit().await?;
    Ok(true)
}

/// The next rows of it. Err: it did not come to the end of them; those that were released are counted, the others are looked at again.
async fn slice(console: &Console, taken: &TakenBatch) -> Result<(), ApiError> {
    let caller = Caller::new(taken.by.clone(), taken.from);
    let mut tx = console.store.begin_read().await?;
    let rows = tx.rows_of_cause(&taken.code, taken.seen_at, taken.position.as_deref(), SLICE).await?;
    let paused: Vec<_> = tx.pauses().await?.iter().map(|pause| pause.provider).collect();
    let businesses = rows.iter().filter(|row| row.kind() == Kind::Business).map(|row| row.id().to_owned());
    let held = tx.businesses(&businesses.collect::<Vec<_>>()).await?.into_iter().filter(|row| row.kept_back.is_some());
    let held: Vec<Subject> = held.map(|row| Subject::from(&row.id)).collect();
    drop(tx);
    let mut left = LeftAlone::default();
    for subject in &rows {
        if console.stop.is_cancelled() {
            return Err(ApiError::busy("this process stops"));
        }
        if paused.contains(&subject.kind().provider()) {
            left.paused += 1;
            continue;
        }
        if held.contains(subject) && taken.code != Code::OperatorHold.as_str() {
            left.held += 1;
            continue;
        }
        let said = ActQuery { reason: taken.reason.clone(), ..ActQuery::default() };
        let ask = Ask { order: Order::Release, subject, with: With::Batch(taken), said };
        match carry_out(console, &caller, ask).await {
            Ok(_) => {}
            // It went on meanwhile, or is kept by another thing.
            Err(error) if error.is_of_the_row() => {}
            Err(error) if error.is_passing() => {
                let row = console.store.begin_read().await?.batch(&taken.id).await?;
                let still_runs = row.is_some_and(|row| row.state == BatchState::Running);
                return if still_runs { Err(error) } else { Ok(()) };
            }
            Err(error) => {
                let batch = &taken.id;
                tracing::error!(batch, kind = %subject.kind(), id = subject.id(), why = error.message(), "a row can't be released");
                left.failed += 1;
            }
        }
    }
    let position = rows.last().filter(|_| rows.len() == SLICE as usize).map(Subject::to_string);
    let mut tx = console.store.begin().await?;
    let has_moved = tx.advance_batch(taken, position.as_deref(), left).await?;
    tx.commit().await?;
    if has_moved && position.is_none() {
        tracing::info!(id = taken.id, code = taken.code, "a batch has come to its end");
    }
    Ok(())
}

/// A released row is counted with it, and keeps the order for this process.
pub(crate) async fn count_released(tx: &mut store::Tx, taken: &TakenBatch) -> Result<(), ApiError> {
    match tx.count_released(taken, LEASE).await? {
        true => Ok(()),
        false => Err(ApiError::busy("it was cancelled, or another console works on it")),
    }
}
