//! Items: push, look, remove.

use crate::Console;
use crate::auth::Caller;
use crate::error::{ApiError, Body, ErrorBody};
use crate::view::{Account, Item, ItemDetail, PageQuery, Paged, Token, Work};
use axum::extract::{Extension, Path, Query, State};
use axum::http::StatusCode;
use axum::{Json, debug_handler};
use domain::item::{ItemState, TokenStanding};
use domain::trace::TraceParent;
use domain::work::{Class, Kind};
use domain::{AccessToken, AccountId, BusinessId, Fingerprint, ItemId, Millis};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use store::{Assignment, Declaration, Mark, Push};
use tokio::time::Instant;
use tracing::Instrument;
use tracing::field::Empty;
use utoipa::{IntoParams, ToSchema};

/// What the platform says about an Item. The whole of it replaces what it said before.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PutItem {
    /// The Item's current access token. It is stored sealed and never shown again. May be left out when a token
    /// source is configured, or when only the assignment changes.
    #[schema(value_type = Option<String>)]
    access_token: Option<AccessToken>,
    /// The business its accounts belong to: Layer's `external_id`, or `layer:` and Layer's id.
    business: Option<String>,
    /// The account filter: only these take part, each in its own business or in the one above.
    accounts: Option<Vec<PutAccount>>,
    /// The Item that leaves when this one's tokens exist (the user linked the same bank again).
    replaces: Option<String>,
    /// What Layer needs to create the business, should it not have it: `legal_name`, `us_state`, `entity_type`,
    /// `phone_number` and so on, see <https://docs.layerfi.com/api-reference/business/create>.
    #[schema(value_type = Option<Object>)]
    create: Option<serde_json::Map<String, serde_json::Value>>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PutAccount {
    account_id: String,
    business: Option<String>,
}

/// What a caller may wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Wait {
    /// Until Plaid has judged the token.
    Accepted,
    /// Until every list that the Item is in was accepted by Layer.
    Converged,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct PutQuery {
    /// What to wait for; `accepted` when not given.
    #[param(inline)]
    wait: Option<Wait>,
    /// How long at most, in seconds.
    timeout: Option<u32>,
    /// One of many that nobody waits for in front of a screen, like those of an import: persons and changed tokens of
    /// other Items go first.
    #[serde(default)]
    background: bool,
}

/// How far the push came.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PutAnswer {
    item_id: String,
    /// `accepted`: Plaid proved the token. `superseded`: a newer one was proved first, and what came with this one is in
    /// force. `pending`: Plaid has not answered yet. `not_sent`: there was none.
    token: String,
    fingerprint: Option<String>,
    /// Whether every list that the Item is in was accepted by Layer meanwhile. Null when nobody asked to wait for it.
    converged: Option<bool>,
    /// What keeps a list from converging, if something does.
    blocked: Vec<String>,
}

pub(crate) fn item_id(text: &str) -> Result<ItemId, ApiError> {
    ItemId::parse(text).map_err(|e| ApiError::bad_request(e.to_string()))
}

fn business_id(text: &str) -> Result<BusinessId, ApiError> {
    BusinessId::parse(text).map_err(|e| ApiError::bad_request(e.to_string()))
}

pub(crate) fn no_item() -> ApiError {
    ApiError::not_found("Item", "push it with PUT /v1/items/{item_id}; webhooks for it are listed at /v1/unknown-items")
}

impl PutItem {
    fn push(self, item: ItemId, trace: &TraceParent) -> Result<Push, ApiError> {
        if self.access_token.as_ref().is_some_and(|t| !plausible(t.expose())) {
            return Err(ApiError::rejected(
                "the access token is malformed: it is empty, too long, or has spaces in it",
            ));
        }
        let business = self.business.as_deref().map(business_id).transpose()?;
        if self.accounts.as_ref().is_some_and(Vec::is_empty) {
            return Err(ApiError::bad_request(
                "`accounts` is empty: leave it out for all accounts, or DELETE the Item if none shall take part",
            ));
        }
        let mut accounts = None;
        for account in self.accounts.into_iter().flatten() {
            let named = Assignment {
                account: AccountId::parse(account.account_id).map_err(|e| ApiError::bad_request(e.to_string()))?,
                business: account.business.as_deref().map(business_id).transpose()?,
            };
            if named.business.is_none() && business.is_none() {
                return Err(ApiError::bad_request(
                    "each account needs a `business`, or the Item needs one for all of them",
                ));
            }
            let accounts = accounts.get_or_insert_with(Vec::new);
            if accounts.iter().any(|a: &Assignment| a.account == named.account) {
                return Err(ApiError::bad_request("`accounts` names one account twice"));
            }
            accounts.push(named);
        }
        if business.is_none() && accounts.is_none() {
            return Err(ApiError::bad_request("say which `business` the Item's accounts belong to"));
        }
        let replaces = self.replaces.as_deref().map(item_id).transpose()?;
        if replaces.as_ref() == Some(&item) {
            return Err(ApiError::bad_request("an Item can't replace itself: name the old Item in `replaces`"));
        }
        let creation = self.create.map(|c| serde_json::Value::Object(c).to_string());
        Ok(Push {
            item,
            access_token: self.access_token,
            declaration: Declaration { business, accounts, replaces, creation },
            class: Class::Person,
            source: "push",
            traceparent: Some(trace.to_string()),
        })
    }
}

/// A token's form is Plaid's to change, so only what can't be a token at all is refused without asking.
fn plausible(token: &str) -> bool {
    !token.is_empty() && token.len() <= 512 && token.chars().all(|c| c.is_ascii_graphic())
}

/// Push an Item: its access token and what it belongs to.
#[utoipa::path(put, path = "/v1/items/{item_id}", params(("item_id" = String, Path), PutQuery), request_body = PutItem,
    responses(
        (status = 200, description = "Plaid proved the token, or there was nothing to prove", body = PutAnswer),
        (status = 202, description = "Stored; Plaid or Layer have not answered yet", body = PutAnswer),
        (status = 400, body = ErrorBody),
        (status = 422, description = "The token is not this Item's; the current one stays", body = ErrorBody)))]
#[debug_handler(state = Console)]
pub(crate) async fn put(
    State(console): State<Console>,
    Extension(caller): Extension<Caller>,
    Path(item): Path<String>,
    Query(query): Query<PutQuery>,
    Body(body): Body<PutItem>,
) -> Result<(StatusCode, Json<PutAnswer>), ApiError> {
    let item = item_id(&item)?;
    let span = tracing::info_span!("push", %item, by = caller.name, trace = Empty);
    let mut push = body.push(item, &traces::begin(&span))?;
    if query.background {
        push.source = "import";
        push.class = if console.knows(&push.item).await? { Class::Rotation } else { Class::NewAccount };
    }
    console.take_push(&push, &caller, &query).instrument(span).await
}

impl Console {
    async fn knows(&self, item: &ItemId) -> Result<bool, store::Error> {
        Ok(self.store.begin_read().await?.item(item).await?.is_some())
    }

    async fn take_push(
        &self,
        push: &Push,
        caller: &Caller,
        query: &PutQuery,
    ) -> Result<(StatusCode, Json<PutAnswer>), ApiError> {
        let fingerprint = push.access_token.as_ref().map(|t| self.store.fingerprints().of_access(t));
        let detail = format!("token {}", fingerprint.as_ref().map_or("not sent", Fingerprint::as_str));
        let pushed = self.store_push(push, caller, &detail).await?;
        tracing::info!(item = %push.item, token = fingerprint.as_ref().map(Fingerprint::as_str), by = caller.name, "item pushed");
        self.wake();
        self.await_push(&push.item, fingerprint, pushed, query).await
    }

    async fn store_push(&self, push: &Push, caller: &Caller, detail: &str) -> Result<Pushed, store::Error> {
        let mut tx = self.store.begin().await?;
        let pushed = Pushed { at: tx.now(), wanted: tx.push(push).await? };
        tx.audit(&caller.name, "item.put", push.item.as_str(), detail).await?;
        tx.commit().await?;
        Ok(pushed)
    }

    async fn await_push(
        &self,
        item: &ItemId,
        fingerprint: Option<Fingerprint>,
        pushed: Pushed,
        query: &PutQuery,
    ) -> Result<(StatusCode, Json<PutAnswer>), ApiError> {
        let asked = query.timeout.map(|s| Duration::from_secs(s.into()));
        let deadline = Instant::now() + asked.unwrap_or(self.settings.push_wait).min(self.settings.max_wait);
        loop {
            let late = Instant::now() >= deadline || self.stop.is_cancelled();
            let standing = match &fingerprint {
                Some(fingerprint) => self.standing(item, fingerprint, &pushed).await?,
                None => Standing::NotSent,
            };
            match standing {
                Standing::Rejected(why) => return Err(ApiError::rejected(&why)),
                Standing::Pending if !late => {}
                Standing::Pending => return Ok(answer(item, fingerprint, "pending", None, Vec::new())),
                Standing::Current | Standing::Superseded | Standing::NotSent => {
                    let token = match standing {
                        Standing::Current => "accepted",
                        Standing::Superseded => "superseded",
                        _ => "not_sent",
                    };
                    if query.wait != Some(Wait::Converged) {
                        return Ok(answer(item, fingerprint, token, None, Vec::new()));
                    }
                    let (converged, blocked) = self.converged(item, pushed.wanted).await?;
                    if converged || late || !blocked.is_empty() {
                        return Ok(answer(item, fingerprint, token, Some(converged), blocked));
                    }
                }
            }
            tokio::time::sleep(self.settings.wait_poll).await;
        }
    }

    async fn standing(&self, item: &ItemId, fingerprint: &Fingerprint, pushed: &Pushed) -> Result<Standing, ApiError> {
        let mut tx = self.store.begin_read().await?;
        let token = tx.token_views(item).await?.into_iter().find(|t| t.fingerprint == *fingerprint);
        let Some(token) = token else {
            return Ok(Standing::Rejected("a newer push took its place before it was judged".into()));
        };
        match token.standing {
            TokenStanding::Candidate => Ok(Standing::Pending),
            TokenStanding::Superseded if token.why.as_deref() == Some(store::WORD_HOLDS) => Ok(Standing::Superseded),
            TokenStanding::Rejected | TokenStanding::Superseded => {
                Ok(Standing::Rejected(token.why.unwrap_or_default()))
            }
            TokenStanding::Current if token.judged_at.is_some_and(|at| at >= pushed.at) => Ok(Standing::Current),
            // Proved some time ago; whether it still lives, the look that this push caused finds out.
            TokenStanding::Current => {
                let ended =
                    |w: &store::WorkRow| w.leased_until.is_none() && w.looked_at.is_some_and(|at| at >= pushed.at);
                let work = tx.work(Kind::Item, item.as_str()).await?;
                let looked = work.is_none_or(|w| w.done >= pushed.wanted || ended(&w));
                let row = tx.item(item).await?.filter(|i| i.state == ItemState::AwaitingToken);
                Ok(match row {
                    _ if !looked => Standing::Pending,
                    Some(item) => Standing::Rejected(item.state_why.unwrap_or_default()),
                    None => Standing::Current,
                })
            }
        }
    }

    /// Whether the look that saw this push has ended, and every list it made due has been accepted.
    async fn converged(&self, item: &ItemId, wanted: i64) -> Result<(bool, Vec<String>), ApiError> {
        let mut tx = self.store.begin_read().await?;
        let mut blocked = Vec::new();
        let mut note = |row: &store::WorkRow| {
            let stuck = row.blocked.as_ref().filter(|b| b.by != domain::work::Block::Backoff);
            blocked.extend(stuck.map(|b| format!("{} {}: {}", row.kind, row.id, b.why)));
        };
        let Some(work) = tx.work(Kind::Item, item.as_str()).await? else { return Ok((false, blocked)) };
        note(&work);
        let mut all = work.done >= wanted;
        if all {
            for business in tx.businesses_of_item(item).await? {
                let Some(row) = tx.work(Kind::Business, business.as_str()).await? else { continue };
                note(&row);
                all &= row.done >= row.wanted;
                // Looked at is not yet accepted: nothing of this Item may be missing from the accepted list.
                let list = tx.business(&business).await?.map(|b| b.accepted).unwrap_or_default();
                let mut wanted = tx.wanted_accounts(&business).await?.into_iter().filter(|w| w.item == *item);
                all &= wanted.all(|w| w.token.is_some_and(|t| list.contains(&t)));
            }
        }
        Ok((all, blocked))
    }
}

/// When a push was stored, and the `wanted` that it raised.
struct Pushed {
    at: Millis,
    wanted: i64,
}

enum Standing {
    NotSent,
    Pending,
    Current,
    /// A newer token was proved first; what came with this one is in force.
    Superseded,
    Rejected(String),
}

fn answer(
    item: &ItemId,
    fingerprint: Option<Fingerprint>,
    token: &str,
    converged: Option<bool>,
    blocked: Vec<String>,
) -> (StatusCode, Json<PutAnswer>) {
    let finished = token != "pending" && converged != Some(false);
    let status = if finished { StatusCode::OK } else { StatusCode::ACCEPTED };
    let fingerprint = fingerprint.map(|f| f.to_string());
    (status, Json(PutAnswer { item_id: item.to_string(), token: token.into(), fingerprint, converged, blocked }))
}

/// Items, a page at a time.
#[utoipa::path(get, path = "/v1/items", params(PageQuery), responses((status = 200, body = Paged<Item>)))]
pub(crate) async fn list(
    State(console): State<Console>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Paged<Item>>, ApiError> {
    let mut tx = console.store.begin_read().await?;
    let rows = tx.list_items(&query.page()?).await?;
    let items: Vec<Item> = rows.iter().map(Item::from).collect();
    Ok(Json(Paged::new(items, &query, |i| i.item_id.clone())))
}

/// One Item: its state, its tokens by fingerprint, its accounts, its place in the queue.
#[utoipa::path(get, path = "/v1/items/{item_id}", params(("item_id" = String, Path)),
    responses((status = 200, body = ItemDetail), (status = 404, body = ErrorBody)))]
pub(crate) async fn show(
    State(console): State<Console>,
    Path(item): Path<String>,
) -> Result<Json<ItemDetail>, ApiError> {
    let id = item_id(&item)?;
    let mut tx = console.store.begin_read().await?;
    let row = tx.item(&id).await?.ok_or_else(no_item)?;
    Ok(Json(ItemDetail {
        item: Item::from(&row),
        access_tokens: tx.token_views(&id).await?.iter().map(Token::from).collect(),
        accounts: tx.accounts(&id).await?.iter().map(Account::from).collect(),
        processor_tokens: tx.processor_token_counts(&id).await?.into_iter().collect(),
        work: tx.work(Kind::Item, id.as_str()).await?.as_ref().map(Work::from),
    }))
}

/// The platform removed the Item: its accounts leave every list, its tokens are erased here.
#[utoipa::path(delete, path = "/v1/items/{item_id}", params(("item_id" = String, Path)),
    responses((status = 202, description = "Its accounts are leaving"), (status = 404, body = ErrorBody)))]
pub(crate) async fn remove(
    State(console): State<Console>,
    Extension(caller): Extension<Caller>,
    Path(item): Path<String>,
) -> Result<StatusCode, ApiError> {
    let id = item_id(&item)?;
    let mut tx = console.store.begin().await?;
    tx.item(&id).await?.ok_or_else(no_item)?;
    let reason = format!("item {id} removed by the platform");
    for business in tx.remove_item(&id, store::REMOVED_BY_PLATFORM).await? {
        tx.mark_business(&business, Class::Rotation, &reason, Duration::ZERO, true, None).await?;
    }
    tx.audit(&caller.name, "item.remove", id.as_str(), "").await?;
    tx.commit().await?;
    console.wake();
    tracing::info!(item = %id, by = caller.name, "item removed by the platform");
    Ok(StatusCode::ACCEPTED)
}

/// Look at the Item now, whatever it waits for.
#[utoipa::path(post, path = "/v1/items/{item_id}/sync", params(("item_id" = String, Path)),
    responses((status = 202, description = "It is due"), (status = 404, body = ErrorBody)))]
pub(crate) async fn sync(
    State(console): State<Console>,
    Extension(caller): Extension<Caller>,
    Path(item): Path<String>,
) -> Result<StatusCode, ApiError> {
    let id = item_id(&item)?;
    let mut tx = console.store.begin().await?;
    tx.item(&id).await?.ok_or_else(no_item)?;
    tx.mark(&sync_mark(Kind::Item, id.as_str())).await?;
    tx.audit(&caller.name, "item.sync", id.as_str(), "").await?;
    tx.commit().await?;
    console.wake();
    Ok(StatusCode::ACCEPTED)
}

pub(crate) fn sync_mark(kind: Kind, id: &str) -> Mark<'_> {
    Mark {
        kind,
        id,
        class: Class::Person,
        reason: "an operator asked",
        wait: Duration::ZERO,
        quiet: None,
        unblocks: true,
        traceparent: None,
    }
}
