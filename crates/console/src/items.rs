//! Items: list, show, look, remove.

use crate::Console;
use crate::acts::{ActQuery, Order, carry_out};
use crate::auth::Caller;
use crate::error::{ApiError, ErrorBody};
use crate::view::{Account, Item, ItemDetail, Paged, StateQuery, Token, Work};
use axum::Json;
use axum::extract::{Extension, Path, Query, State};
use axum::http::StatusCode;
use domain::ItemId;
use domain::work::{Class, Kind, Subject};
use store::{Act, BusinessMark};

pub(crate) fn no_item() -> ApiError {
    ApiError::not_found("Item", "push it with PUT /v1/items/{item_id}; webhooks for it are listed at /v1/unknown-items")
}

/// Items, a page at a time.
#[utoipa::path(get, operation_id = "listItems", path = "/v1/items", params(StateQuery),
    responses((status = 200, body = Paged<Item>), (status = 400, body = ErrorBody)))]
pub(crate) async fn list(
    State(console): State<Console>,
    Query(query): Query<StateQuery>,
) -> Result<Json<Paged<Item>>, ApiError> {
    let (pages, state) = (query.page_query(), query.state()?);
    let mut tx = console.store.begin_read().await?;
    let rows = match state {
        None => tx.list_items(&pages.page()?).await?,
        Some(state) => {
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
#[utoipa::path(delete, operation_id = "removeItem", path = "/v1/items/{item_id}", params(("item_id" = String, Path)),
    responses((status = 202, description = "Its accounts are leaving"), (status = 404, body = ErrorBody)))]
pub(crate) async fn remove(
    State(console): State<Console>,
    Extension(caller): Extension<Caller>,
    Path(item): Path<String>,
) -> Result<StatusCode, ApiError> {
    let id = ItemId::parse(item)?;
    let mut tx = console.store.begin().await?;
    tx.lock_row(&id).await?;
    if tx.item(&id).await?.is_none() {
        tx.rollback().await?;
        return Err(no_item());
    }
    let reason = format!("item {id} removed by the platform");
    let act = Act { was: tx.in_force(&id).await?, ..caller.act("item.remove", &Subject::from(&id)) };
    let mark = |business| BusinessMark::changed(business, Class::Rotation);
    let marks: Vec<_> = tx.remove_item(&id).await?.into_iter().map(mark).collect();
    tx.mark_businesses(&marks, &reason, None).await?;
    tx.audit(&act).await?;
    tx.commit().await?;
    tracing::info!(item = %id, by = caller.name, "item removed by the platform");
    Ok(StatusCode::ACCEPTED)
}

/// Look at the Item now, whatever it waits for.
#[utoipa::path(post, operation_id = "syncItem", path = "/v1/items/{item_id}/sync",
    params(("item_id" = String, Path), ActQuery),
    responses((status = 202, description = "It is due"), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub(crate) async fn sync(
    State(console): State<Console>,
    Extension(caller): Extension<Caller>,
    Path(item): Path<String>,
    Query(ActQuery { reason, version }): Query<ActQuery>,
) -> Result<StatusCode, ApiError> {
    let subject = Subject::from(&ItemId::parse(item)?);
    carry_out(&console, &caller, Order::Sync, &subject, reason.as_deref(), version.as_deref()).await?;
    Ok(StatusCode::ACCEPTED)
}
