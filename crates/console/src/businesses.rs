//! Businesses: what belongs into each list and what Layer accepted.

use crate::Console;
use crate::acts::{ActQuery, Acted, Ask, Order, With, carry_out, checked_reason, no_reason};
use crate::auth::Caller;
use crate::error::{ApiError, ErrorBody};
use crate::view::{Business, BusinessDetail, Paged, StateQuery, WantedAccount, Work};
use axum::Json;
use axum::extract::{Extension, Path, Query, State};
use axum::http::StatusCode;
use domain::work::{Kind, Subject};
use domain::{BusinessId, Fingerprint};

pub(crate) fn no_business() -> ApiError {
    ApiError::not_found("business", "it becomes known when an Item is pushed for it")
}

/// Businesses, a page at a time.
#[utoipa::path(get, operation_id = "listBusinesses", path = "/v1/businesses", params(StateQuery),
    responses((status = 200, body = Paged<Business>), (status = 400, body = ErrorBody)))]
pub(crate) async fn list(
    State(console): State<Console>,
    Query(query): Query<StateQuery>,
) -> Result<Json<Paged<Business>>, ApiError> {
    let (pages, state) = (query.page_query(), query.state()?);
    let mut tx = console.store.begin_read().await?;
    let rows = match state {
        None => tx.list_businesses(&pages.page()?).await?,
        Some(state) => {
            let ids = tx.list_by_state(Kind::Business, state, &pages.page()?).await?;
            tx.businesses(&ids).await?
        }
    };
    let ids: Vec<String> = rows.iter().map(|r| r.id.to_string()).collect();
    let judged = tx.verdicts(Kind::Business, &ids).await?;
    let of = |row: &store::BusinessRow| judged.iter().find(|j| j.subject.id() == row.id.as_str());
    let businesses: Vec<Business> = rows.iter().map(|r| Business::new(r, of(r))).collect();
    Ok(Json(Paged::new(businesses, &pages, |b| b.business_id.clone())))
}

/// One business: what its list should hold, what Layer accepted last, what differs.
#[utoipa::path(get, operation_id = "getBusiness", path = "/v1/businesses/{business_id}", params(("business_id" = String, Path)),
    responses((status = 200, body = BusinessDetail), (status = 404, body = ErrorBody)))]
pub(crate) async fn show(
    State(console): State<Console>,
    Path(business): Path<String>,
) -> Result<Json<BusinessDetail>, ApiError> {
    let id = BusinessId::parse(business)?;
    let mut tx = console.store.begin_read().await?;
    let row = tx.business(&id).await?.ok_or_else(no_business)?;
    let accounts: Vec<WantedAccount> = tx
        .wanted_accounts(&id)
        .await?
        .into_iter()
        .map(|w| WantedAccount {
            account_id: w.account.to_string(),
            item_id: w.item.to_string(),
            accepted: w.token.as_ref().is_some_and(|t| row.accepted.contains(t)),
            token: w.token.map(|t| t.to_string()),
            older_generation: w.older_generation,
        })
        .collect();
    let differs = accounts.iter().filter(|a| !a.accepted).map(|a| a.account_id.clone()).collect();
    let work = tx.work(&id).await?.as_ref().map(Work::from);
    let judged = tx.verdict(&id).await?;
    Ok(Json(BusinessDetail { business: Business::new(&row, judged.as_ref()), accounts, differs, work }))
}

/// Compare the list at Layer with the truth now, whatever the business waits for.
#[utoipa::path(post, operation_id = "syncBusiness", path = "/v1/businesses/{business_id}/sync",
    params(("business_id" = String, Path), ActQuery),
    responses((status = 200, body = Acted), (status = 202, description = "It is due", body = Acted),
        (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub(crate) async fn sync(
    State(console): State<Console>,
    Extension(caller): Extension<Caller>,
    Path(business): Path<String>,
    Query(said): Query<ActQuery>,
) -> Result<(StatusCode, Json<Acted>), ApiError> {
    order(&console, &caller, Order::Sync, business, None, said).await
}

/// Send nothing for the business, whatever changes, until it is released. Needs a reason.
#[utoipa::path(post, operation_id = "holdBusiness", path = "/v1/businesses/{business_id}/hold",
    params(("business_id" = String, Path), ActQuery),
    responses((status = 200, body = Acted), (status = 202, description = "It is held", body = Acted),
        (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub(crate) async fn hold(
    State(console): State<Console>,
    Extension(caller): Extension<Caller>,
    Path(business): Path<String>,
    Query(said): Query<ActQuery>,
) -> Result<(StatusCode, Json<Acted>), ApiError> {
    // Of a dry run as well, as the document says.
    checked_reason(said.reason.as_deref())?.ok_or_else(no_reason)?;
    order(&console, &caller, Order::Hold, business, None, said).await
}

/// Decide on a token of the list that nobody here knows: every list keeps it, the next one leaves it out, or the decision is
/// taken back.
#[utoipa::path(post, operation_id = "decideOnToken", path = "/v1/businesses/{business_id}/tokens/{fingerprint}/{word}",
    params(("business_id" = String, Path), ("fingerprint" = String, Path, description = "as an explanation names it"),
        ("word" = String, Path, description = "keep, remove or forget"), ActQuery),
    responses((status = 200, body = Acted), (status = 202, description = "The list is compared anew", body = Acted),
        (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub(crate) async fn token(
    State(console): State<Console>,
    Extension(caller): Extension<Caller>,
    Path((business, fingerprint, word)): Path<(String, String, String)>,
    Query(said): Query<ActQuery>,
) -> Result<(StatusCode, Json<Acted>), ApiError> {
    let decision = match &*word {
        "keep" => Order::KeepToken,
        "remove" => Order::RemoveToken,
        "forget" => Order::ForgetToken,
        _ => return Err(ApiError::bad_request("the word is `keep`, `remove` or `forget`")),
    };
    order(&console, &caller, decision, business, Some(Fingerprint::from_stored(fingerprint)), said).await
}

async fn order(
    console: &Console,
    caller: &Caller,
    order: Order,
    business: String,
    token: Option<Fingerprint>,
    said: ActQuery,
) -> Result<(StatusCode, Json<Acted>), ApiError> {
    let subject = Subject::from(&BusinessId::parse(business)?);
    let ask = Ask { order, subject: &subject, with: token.map_or(With::Nothing, With::Token), said };
    Ok(carry_out(console, caller, ask).await?.answer())
}
