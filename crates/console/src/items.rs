//! Items: list, show, and what can be ordered of them.

use crate::Console;
use crate::acts::{ActQuery, Acted, Ask, Order, With, carry_out};
use crate::auth::Caller;
use crate::error::{ApiError, ErrorBody};
use crate::view::{Account, Item, ItemDetail, ItemsQuery, Paged, StateQuery, Token, Work};
use axum::Json;
use axum::extract::{Extension, Path, Query, State};
use axum::http::StatusCode;
use domain::work::{Kind, Subject};
use domain::{AccountId, BusinessId, ItemId};

pub(crate) fn no_item() -> ApiError {
    ApiError::not_found(
        "Item",
        "push it (`rekey item put`); `rekey item unknown` lists those that webhooks name and nobody pushed",
    )
}

/// Items, a page at a time.
#[utoipa::path(get, operation_id = "listItems", path = "/v1/items", params(ItemsQuery),
    responses((status = 200, body = Paged<Item>), (status = 400, body = ErrorBody)))]
pub(crate) async fn list(
    State(console): State<Console>,
    Query(query): Query<ItemsQuery>,
) -> Result<Json<Paged<Item>>, ApiError> {
    let ItemsQuery { after, limit, verdict, business } = query;
    let query = StateQuery { after, limit, verdict };
    let (pages, state) = (query.page_query(), query.state()?);
    let mut tx = console.store.begin_read().await?;
    let rows = match (state, business) {
        (Some(_), Some(_)) => {
            return Err(ApiError::bad_request("ask for a `verdict` or for a `business`, and not for both"));
        }
        (None, Some(business)) => {
            let page = pages.page()?;
            let ids = tx.items_in(&BusinessId::parse(business)?, usize::MAX).await?.into_iter();
            let ids = ids.map(String::from).filter(|id| page.after.as_ref().is_none_or(|after| id > after));
            tx.items(&ids.take(page.limit as usize).collect::<Vec<_>>()).await?
        }
        (None, None) => tx.list_items(&pages.page()?).await?,
        (Some(state), None) => {
            let ids = tx.list_by_state(Kind::Item, state, &pages.page()?).await?;
            tx.items(&ids).await?
        }
    };
    let ids: Vec<String> = rows.iter().map(|r| r.id.to_string()).collect();
    let judged = tx.verdicts(Kind::Item, &ids).await?;
    let of = |row: &store::ItemRow| judged.iter().find(|j| j.subject.id() == row.id.as_str());
    let items: Vec<Item> = rows.iter().map(|r| Item::new(r, of(r))).collect();
    Ok(Json(Paged::new(items, &pages, |i| i.item_id.clone())))
}

/// One Item: its state, its tokens by fingerprint, its accounts, its place in the queue.
#[utoipa::path(get, operation_id = "getItem", path = "/v1/items/{item_id}", params(("item_id" = String, Path)),
    responses((status = 200, body = ItemDetail), (status = 404, body = ErrorBody)))]
pub(crate) async fn show(
    State(console): State<Console>,
    Path(item): Path<String>,
) -> Result<Json<ItemDetail>, ApiError> {
    let id = ItemId::parse(item)?;
    let mut tx = console.store.begin_read().await?;
    let row = tx.item(&id).await?.ok_or_else(no_item)?;
    let judged = tx.verdict(&id).await?;
    Ok(Json(ItemDetail {
        item: Item::new(&row, judged.as_ref()),
        access_tokens: tx.token_views(&id).await?.iter().map(Token::from).collect(),
        accounts: tx.accounts(&id).await?.iter().map(Account::from).collect(),
        processor_tokens: tx.processor_token_counts(&id).await?.into_iter().collect(),
        work: tx.work(&id).await?.as_ref().map(Work::from),
    }))
}

/// The platform removed the Item: its accounts leave every list, its tokens are erased here.
#[utoipa::path(delete, operation_id = "removeItem", path = "/v1/items/{item_id}", params(("item_id" = String, Path), ActQuery),
    responses((status = 200, body = Acted), (status = 202, description = "Its accounts are leaving", body = Acted),
        (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub(crate) async fn remove(
    State(console): State<Console>,
    Extension(caller): Extension<Caller>,
    Path(item): Path<String>,
    Query(said): Query<ActQuery>,
) -> Result<(StatusCode, Json<Acted>), ApiError> {
    order(&console, &caller, Order::Remove, item, said).await
}

/// Look at the Item now, whatever it waits for.
#[utoipa::path(post, operation_id = "syncItem", path = "/v1/items/{item_id}/sync",
    params(("item_id" = String, Path), ActQuery),
    responses((status = 200, body = Acted), (status = 202, description = "It is due", body = Acted),
        (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub(crate) async fn sync(
    State(console): State<Console>,
    Extension(caller): Extension<Caller>,
    Path(item): Path<String>,
    Query(said): Query<ActQuery>,
) -> Result<(StatusCode, Json<Acted>), ApiError> {
    order(&console, &caller, Order::Sync, item, said).await
}

/// Mint every token of the Item anew, under the access token that it has: the ones of now stay in the lists until then.
#[utoipa::path(post, operation_id = "mintItem", path = "/v1/items/{item_id}/mint",
    params(("item_id" = String, Path), ActQuery),
    responses((status = 200, body = Acted), (status = 202, description = "It is due", body = Acted),
        (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub(crate) async fn mint(
    State(console): State<Console>,
    Extension(caller): Extension<Caller>,
    Path(item): Path<String>,
    Query(said): Query<ActQuery>,
) -> Result<(StatusCode, Json<Acted>), ApiError> {
    order(&console, &caller, Order::Mint, item, said).await
}

/// Take the Item off the list of missed webhooks: somebody has looked into it.
#[utoipa::path(post, operation_id = "acknowledgeMissedWebhook", path = "/v1/items/{item_id}/acknowledge",
    params(("item_id" = String, Path), ActQuery),
    responses((status = 200, body = Acted), (status = 202, description = "It is off the list", body = Acted),
        (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub(crate) async fn acknowledge(
    State(console): State<Console>,
    Extension(caller): Extension<Caller>,
    Path(item): Path<String>,
    Query(said): Query<ActQuery>,
) -> Result<(StatusCode, Json<Acted>), ApiError> {
    order(&console, &caller, Order::Acknowledge, item, said).await
}

/// Move one account of the Item to another business: out of its list first, and into the other one once the first was read back
/// without it.
#[utoipa::path(post, operation_id = "moveAccount", path = "/v1/items/{item_id}/accounts/{account_id}/move/{business_id}",
    params(("item_id" = String, Path), ("account_id" = String, Path),
        ("business_id" = String, Path, description = "where it goes; Layer must have it"), ActQuery),
    responses((status = 200, body = Acted), (status = 202, description = "It is on its way", body = Acted),
        (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub(crate) async fn move_account(
    State(console): State<Console>,
    Extension(caller): Extension<Caller>,
    Path((item, account, business)): Path<(String, String, String)>,
    Query(said): Query<ActQuery>,
) -> Result<(StatusCode, Json<Acted>), ApiError> {
    let with = With::Move(AccountId::parse(account)?, BusinessId::parse(business)?);
    order_with(&console, &caller, Order::Move, item, with, said).await
}

/// Let another Item, which the user has linked anew, take the place of this one. Its accounts are matched by their persistent ids,
/// else by bank, mask and type. Once each account of the other Item has its token, both happen in one list, and this one is removed.
#[utoipa::path(post, operation_id = "replaceItem", path = "/v1/items/{item_id}/replace/{heir_id}",
    params(("item_id" = String, Path), ("heir_id" = String, Path, description = "the Item that takes its place"), ActQuery),
    responses((status = 200, body = Acted), (status = 202, description = "It takes its place once it has its tokens", body = Acted),
        (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub(crate) async fn replace(
    State(console): State<Console>,
    Extension(caller): Extension<Caller>,
    Path((item, heir)): Path<(String, String)>,
    Query(said): Query<ActQuery>,
) -> Result<(StatusCode, Json<Acted>), ApiError> {
    order_with(&console, &caller, Order::Replace, item, With::Heir(ItemId::parse(heir)?), said).await
}

/// Take back that the other Item is to take this one's place, as long as that has not happened.
#[utoipa::path(delete, operation_id = "withdrawReplacement", path = "/v1/items/{item_id}/replace/{heir_id}",
    params(("item_id" = String, Path), ("heir_id" = String, Path), ActQuery),
    responses((status = 200, body = Acted), (status = 202, description = "It is taken back", body = Acted),
        (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub(crate) async fn withdraw(
    State(console): State<Console>,
    Extension(caller): Extension<Caller>,
    Path((item, heir)): Path<(String, String)>,
    Query(said): Query<ActQuery>,
) -> Result<(StatusCode, Json<Acted>), ApiError> {
    order_with(&console, &caller, Order::Withdraw, item, With::Heir(ItemId::parse(heir)?), said).await
}

async fn order(
    console: &Console,
    caller: &Caller,
    order: Order,
    item: String,
    said: ActQuery,
) -> Result<(StatusCode, Json<Acted>), ApiError> {
    order_with(console, caller, order, item, With::Nothing, said).await
}

async fn order_with(
    console: &Console,
    caller: &Caller,
    order: Order,
    item: String,
    with: With<'_>,
    said: ActQuery,
) -> Result<(StatusCode, Json<Acted>), ApiError> {
    let subject = Subject::from(&ItemId::parse(item)?);
    let ask = Ask { order, subject: &subject, with, said };
    Ok(carry_out(console, caller, ask).await?.answer())
}
