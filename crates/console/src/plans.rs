//! What a reconciliation of a business would do now. A consumer finds that out, by live reads; this asks it, and hands the answer on.

use crate::Console;
use crate::businesses::no_business;
use crate::error::{ApiError, ErrorBody};
use crate::explain::NextList;
use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use domain::BusinessId;
use domain::foreseen::Foreseen;
use domain::work::Class;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use store::PlanRow;
use tokio::time::Instant;
use utoipa::{IntoParams, ToSchema};

/// How long a caller waits who does not say so.
const WAIT: Duration = Duration::from_secs(20);

/// An Item that does not come to its end, or is not active, or was not.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ItemAhead {
    pub(crate) item_id: String,
    /// Its state now.
    pub(crate) was: String,
    pub(crate) state: String,
    /// The provider's code, or Rekey's.
    pub(crate) code: Option<String>,
    pub(crate) why: Option<String>,
}

/// What a reconciliation of a business, and of each of its Items before, would do.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PlanView {
    pub(crate) plan_id: String,
    pub(crate) business_id: String,
    /// `asked`: no consumer has taken it yet. `taken`: one is reading. `answered`: the rest is set.
    pub(crate) state: String,
    pub(crate) asked_at: String,
    pub(crate) answered_at: Option<String>,
    pub(crate) next_list: Option<NextList>,
    /// A word for what keeps the list from being sent.
    pub(crate) code: Option<String>,
    /// Accounts that would get a new token first.
    pub(crate) mints: Vec<String>,
    pub(crate) items: Vec<ItemAhead>,
    /// `consumer.mode` is `observe`: nothing of this would be done.
    pub(crate) observes: bool,
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct PlanQuery {
    /// Wait for the answer, so many seconds at most; 20 by default.
    timeout: Option<u32>,
    /// One of many: calls for people, rotations and new accounts go first.
    #[serde(default)]
    background: bool,
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct WaitQuery {
    /// Wait for the answer, so many seconds at most; 20 by default.
    timeout: Option<u32>,
}

/// What would a reconciliation of this business, and of each of its Items before, do now? A consumer reads the accounts at Plaid and
/// the list at Layer for it, within the budgets; nothing is minted, sent or stored.
#[utoipa::path(post, operation_id = "planBusiness", path = "/v1/businesses/{business_id}/plan", params(("business_id" = String, Path), PlanQuery),
    responses((status = 200, description = "The plan", body = PlanView),
        (status = 202, description = "Not answered yet: ask for it by its `plan_id`", body = PlanView), (status = 404, body = ErrorBody)))]
pub(crate) async fn ask(
    State(console): State<Console>,
    Path(business): Path<String>,
    Query(query): Query<PlanQuery>,
) -> Result<(StatusCode, Json<PlanView>), ApiError> {
    let class = if query.background { Class::Retry } else { Class::Person };
    let id = begin(&console, &BusinessId::parse(business)?, class).await?;
    answer(&console, &id, query.timeout).await
}

/// A plan that was asked for, for a quarter of an hour.
#[utoipa::path(get, operation_id = "getPlan", path = "/v1/plans/{plan_id}", params(("plan_id" = String, Path), WaitQuery),
    responses((status = 200, description = "The plan", body = PlanView),
        (status = 202, description = "Not answered yet", body = PlanView), (status = 404, body = ErrorBody)))]
pub(crate) async fn show(
    State(console): State<Console>,
    Path(id): Path<String>,
    Query(query): Query<WaitQuery>,
) -> Result<(StatusCode, Json<PlanView>), ApiError> {
    answer(&console, &id, query.timeout).await
}

/// Asks for it: its id.
pub(crate) async fn begin(console: &Console, business: &BusinessId, class: Class) -> Result<String, ApiError> {
    let mut tx = console.store.begin().await?;
    if tx.business(business).await?.is_none() {
        tx.rollback().await?;
        return Err(no_business());
    }
    let Some(id) = tx.ask_plan(business, class).await? else {
        tx.rollback().await?;
        return Err(ApiError::busy("too many plans wait to be made already: ask again in a moment"));
    };
    tx.commit().await?;
    Ok(id)
}

async fn answer(console: &Console, id: &str, timeout: Option<u32>) -> Result<(StatusCode, Json<PlanView>), ApiError> {
    let patience = timeout.map_or(WAIT, |seconds| Duration::from_secs(seconds.into()));
    let view = wait(console, id, patience).await?;
    let status = if view.answered_at.is_some() { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, Json(view)))
}

/// Until it is answered, or `patience` ends.
pub(crate) async fn wait(console: &Console, id: &str, patience: Duration) -> Result<PlanView, ApiError> {
    let deadline = Instant::now() + patience.min(console.settings.max_wait);
    let mut poll = console.settings.wait_poll.max(Duration::from_millis(1));
    let most = poll * 10;
    loop {
        let row = console.store.begin_read().await?.plan(id).await?;
        let row = row.ok_or_else(|| ApiError::not_found("plan", "it is kept for a quarter of an hour: ask anew"))?;
        if row.answer.is_some() || Instant::now() >= deadline || console.stop.is_cancelled() {
            return PlanView::of(row);
        }
        tokio::time::sleep(poll.min(deadline.saturating_duration_since(Instant::now()))).await;
        poll = (poll * 2).min(most);
    }
}

impl PlanView {
    fn of(row: PlanRow) -> Result<Self, ApiError> {
        let PlanRow { id, business, asked_at, is_taken, answer } = row;
        let (answered_at, foreseen) = answer.map(|(at, text)| (at.rfc3339(), text)).unzip();
        let foreseen: Option<Foreseen> = foreseen
            .map(|text| serde_json::from_str(&text))
            .transpose()
            // By a consumer of another release.
            .map_err(|_| {
                ApiError::conflict("the plan can't be read by this console: ask anew once all pods are of one release")
            })?;
        let state = match (&foreseen, is_taken) {
            (Some(_), _) => "answered",
            (None, true) => "taken",
            (None, false) => "asked",
        };
        let ids = |accounts: &[domain::AccountId]| accounts.iter().map(ToString::to_string).collect();
        let items = foreseen.iter().flat_map(|f| &f.items).map(|item| ItemAhead {
            item_id: item.item.to_string(),
            was: item.was.to_string(),
            state: item.state.to_string(),
            code: item.code.clone(),
            why: item.why.clone(),
        });
        Ok(Self {
            plan_id: id,
            business_id: business.to_string(),
            state: state.into(),
            asked_at: asked_at.rfc3339(),
            answered_at,
            code: foreseen.as_ref().and_then(|f| f.code.clone()),
            mints: foreseen.as_ref().map(|f| ids(&f.mints)).unwrap_or_default(),
            items: items.collect(),
            observes: foreseen.as_ref().is_some_and(|f| f.observes),
            next_list: foreseen.map(NextList::foreseen),
        })
    }
}
