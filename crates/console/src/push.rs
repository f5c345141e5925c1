//! The platform says something about an Item: its access token, where its accounts belong. A caller may wait for what
//! becomes of it.

use crate::Console;
use crate::auth::Caller;
use crate::error::{ApiError, Body, ErrorBody};
use crate::stand::Stand;
use crate::view::VerdictView;
use axum::extract::{Extension, Path, Query, State};
use axum::http::StatusCode;
use axum::{Json, debug_handler};
use domain::item::{ItemState, TokenCause, TokenStanding};
use domain::trace::TraceParent;
use domain::work::{Class, Kind, Subject};
use domain::{AccessToken, AccountId, BusinessId, Fingerprint, ItemId, Millis};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use store::{Accounts, Act, Assignment, Declaration, ItemRow, Judged, Push, Tx, said};
use tokio::time::Instant;
use tracing::Instrument;
use tracing::field::Empty;
use utoipa::{IntoParams, ToSchema};

/// What the platform says about an Item. What it leaves out stays as it is: a new access token of a known Item needs
/// nothing but the token.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PutItem {
    /// The Item's current access token. It is stored sealed and never shown again. May be left out when a token
    /// source is configured, or when only the assignment changes.
    #[schema(value_type = Option<String>)]
    access_token: Option<AccessToken>,
    /// The business its accounts belong to: Layer's `external_id`, or `layer:` and Layer's id. The first push of an Item
    /// has to say it. Accounts leave another business's list for it once Layer has it; else the push is refused.
    business: Option<String>,
    /// The account filter: only these take part, each in its own business or in the one above. `"all"` takes the filter
    /// away.
    #[schema(inline)]
    accounts: Option<PutAccounts>,
    /// The Item that leaves when this one's tokens exist (the user linked the same bank again).
    replaces: Option<String>,
    /// What Layer needs to create the business, should it not have it: `legal_name`, `us_state`, `entity_type`,
    /// `phone_number` and so on, see <https://docs.layerfi.com/api-reference/business/create>.
    #[schema(value_type = Option<Object>)]
    create: Option<serde_json::Map<String, serde_json::Value>>,
}

/// Which accounts take part.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "`accounts` must be a list of {account_id, business}, or \"all\"")]
pub(crate) enum PutAccounts {
    Only(Vec<PutAccount>),
    All(PutAll),
}

#[derive(Debug, Deserialize, ToSchema)]
pub(crate) enum PutAll {
    #[serde(rename = "all")]
    All,
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
    /// What keeps a list from converging and does not pass by itself, if something does.
    blocked: Vec<String>,
    /// How the Item and its businesses stand, where the call waited in vain: what it waits for.
    verdicts: Vec<Waiting>,
}

/// What a call waits for.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Waiting {
    /// `item` or `business`.
    kind: String,
    id: String,
    verdict: VerdictView,
}

impl PutAnswer {
    /// Plaid proved the token, and no newer one took its place.
    pub(crate) fn is_current(&self) -> bool {
        self.token == "accepted"
    }
}

impl PutQuery {
    /// Waits so many seconds for Plaid's word on the token.
    pub(crate) fn patient(seconds: u32) -> Self {
        Self { wait: None, timeout: Some(seconds), background: false }
    }
}

impl PutItem {
    /// A token, and where the accounts belong if nobody has said so yet.
    pub(crate) fn of_token(access_token: &str, business: Option<String>) -> Self {
        let access_token = Some(AccessToken::new(access_token));
        Self { access_token, business, accounts: None, replaces: None, create: None }
    }

    /// `known`: the Item as it is.
    fn push(self, item: ItemId, known: Option<&ItemRow>, trace: &TraceParent) -> Result<Push, ApiError> {
        if self.access_token.as_ref().is_some_and(|t| !plausible(t.expose())) {
            let why = "the access token is malformed: it is empty, too long, or has spaces in it";
            return Err(ApiError::rejected(why));
        }
        let business = self.business.map(BusinessId::parse).transpose()?;
        let default = business.as_ref().or(known.and_then(|i| i.business.as_ref()));
        let accounts = self.accounts.map(|accounts| filter(accounts, default.is_some())).transpose()?;
        if known.is_none() && business.is_none() && accounts.is_none() {
            let why = "Rekey does not know this Item: say which `business` its accounts belong to";
            return Err(ApiError::bad_request(why));
        }
        let replaces = self.replaces.map(ItemId::parse).transpose()?;
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

fn filter(accounts: PutAccounts, has_default: bool) -> Result<Accounts, ApiError> {
    let named = match accounts {
        PutAccounts::All(PutAll::All) => return Ok(Accounts::All),
        PutAccounts::Only(named) => named,
    };
    if named.is_empty() {
        return Err(ApiError::bad_request(
            "`accounts` is empty: leave it out to keep the filter, send \"all\" for all accounts, or DELETE the Item if none \
             shall take part",
        ));
    }
    let mut only: Vec<Assignment> = Vec::with_capacity(named.len());
    for account in named {
        let one = Assignment {
            account: AccountId::parse(account.account_id)?,
            business: account.business.map(BusinessId::parse).transpose()?,
        };
        if one.business.is_none() && !has_default {
            let why = "each account needs a `business`, or the Item needs one for all of them";
            return Err(ApiError::bad_request(why));
        }
        if only.iter().any(|a| a.account == one.account) {
            return Err(ApiError::bad_request("`accounts` names one account twice"));
        }
        only.push(one);
    }
    Ok(Accounts::Only(only))
}

/// A token's form is Plaid's to change, so only what can't be a token at all is refused without asking.
fn plausible(token: &str) -> bool {
    !token.is_empty() && token.len() <= 512 && token.chars().all(|c| c.is_ascii_graphic())
}

/// Push an Item: its access token and what it belongs to.
#[utoipa::path(put, operation_id = "putItem", path = "/v1/items/{item_id}", params(("item_id" = String, Path), PutQuery), request_body = PutItem,
    responses(
        (status = 200, description = "Plaid proved the token, or there was nothing to prove", body = PutAnswer),
        (status = 202, description = "Stored; Plaid or Layer have not answered yet", body = PutAnswer),
        (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody),
        (status = 422, description = "`token_rejected`: the token is not this Item's, and the current one stays. \
            `push_refused`: Layer does not know the business, or Plaid does not know the accounts; a proved token is \
            kept all the same", body = ErrorBody),
        (status = 429, body = ErrorBody),
        (status = 503, body = ErrorBody)))]
#[debug_handler(state = Console)]
pub(crate) async fn put(
    State(console): State<Console>,
    Extension(caller): Extension<Caller>,
    Path(item): Path<String>,
    Query(query): Query<PutQuery>,
    Body(body): Body<PutItem>,
) -> Result<(StatusCode, Json<PutAnswer>), ApiError> {
    console.push(&caller, ItemId::parse(item)?, &query, body).await
}

impl Console {
    /// Takes what the platform, or a person in its place, says of an Item.
    pub(crate) async fn push(
        &self,
        caller: &Caller,
        item: ItemId,
        query: &PutQuery,
        body: PutItem,
    ) -> Result<(StatusCode, Json<PutAnswer>), ApiError> {
        let span = tracing::info_span!("push", %item, by = caller.name, trace = Empty);
        let known = self.store.begin_read().await?.item(&item).await?;
        // A removed Item begins anew.
        let known = known.filter(|i| i.state != ItemState::Removed);
        let mut push = body.push(item, known.as_ref(), &traces::begin(&span))?;
        if query.background {
            push.source = "import";
            push.class = if known.is_some() { Class::Rotation } else { Class::NewAccount };
        }
        self.take_push(&push, caller, query).instrument(span).await
    }

    async fn take_push(
        &self,
        push: &Push,
        caller: &Caller,
        query: &PutQuery,
    ) -> Result<(StatusCode, Json<PutAnswer>), ApiError> {
        let fingerprint = push.access_token.as_ref().map(|t| self.store.fingerprints().of_access(t));
        let pushed = self.store_push(push, caller, fingerprint.as_ref()).await?;
        tracing::info!(item = %push.item, token = fingerprint.as_ref().map(Fingerprint::as_str), by = caller.name, "item pushed");
        self.await_push(&push.item, fingerprint, pushed, query).await
    }

    async fn store_push(
        &self,
        push: &Push,
        caller: &Caller,
        token: Option<&Fingerprint>,
    ) -> Result<Pushed, store::Error> {
        let mut tx = self.store.begin().await?;
        let act = caller.act("item.put", &Subject::from(&push.item));
        tx.lock_row(&push.item).await?;
        let (was, became) = (tx.in_force(&push.item).await?, Some(said(push, token)));
        let pushed = Pushed { at: tx.now(), wanted: tx.push(push).await? };
        tx.audit(&Act { was, became, ..act }).await?;
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
        let mut poll = self.settings.wait_poll.max(Duration::from_millis(1));
        let most = poll * 10;
        loop {
            let late = Instant::now() >= deadline || self.stop.is_cancelled();
            let standing = match &fingerprint {
                Some(fingerprint) => self.standing(item, fingerprint, &pushed).await?,
                None => self.word(item, &pushed).await?,
            };
            match standing {
                Standing::Rejected(why) => return Err(ApiError::rejected(&why)),
                Standing::Refused(why) => return Err(ApiError::refused(&why)),
                Standing::Pending if !late => {}
                Standing::Pending | Standing::WaitsForItem => {
                    let stand = self.stand(item, pushed.wanted).await?;
                    return Ok(answer(item, fingerprint, "pending", Some(&stand), query.wait));
                }
                Standing::Settled(token) => {
                    if query.wait != Some(Wait::Converged) {
                        return Ok(answer(item, fingerprint, token, None, None));
                    }
                    let stand = self.stand(item, pushed.wanted).await?;
                    if late || !stand.is_under_way() {
                        return Ok(answer(item, fingerprint, token, Some(&stand), query.wait));
                    }
                }
            }
            tokio::time::sleep(poll.min(deadline.saturating_duration_since(Instant::now()))).await;
            // The longer it takes, the less often: hundreds of waiting calls must not take the database from the work that
            // they wait for.
            poll = (poll * 2).min(most);
        }
    }

    /// What became of a push without a token.
    async fn word(&self, item: &ItemId, pushed: &Pushed) -> Result<Standing, ApiError> {
        let mut tx = self.store.begin_read().await?;
        let tokens = tx.token_views(item).await?;
        let current = tokens.into_iter().find(|t| t.standing == TokenStanding::Current);
        Ok(match current {
            Some(token) if token.declaration_waits => match reconciled(&mut tx, item, pushed).await? {
                Some(ItemRow { state, .. }) if state != ItemState::Active => Standing::WaitsForItem,
                _ => Standing::Pending,
            },
            Some(token) if token.refused_at.is_some_and(|at| at >= pushed.at) => {
                Standing::Refused(token.why.unwrap_or_default())
            }
            _ => Standing::Settled("not_sent"),
        })
    }

    async fn standing(&self, item: &ItemId, fingerprint: &Fingerprint, pushed: &Pushed) -> Result<Standing, ApiError> {
        let mut tx = self.store.begin_read().await?;
        let token = tx.token_views(item).await?.into_iter().find(|t| t.fingerprint == *fingerprint);
        let Some(token) = token else {
            return Ok(Standing::Rejected("a newer push took its place before it was judged".into()));
        };
        match token.standing {
            TokenStanding::Candidate => Ok(Standing::Pending),
            TokenStanding::Superseded if token.cause == Some(TokenCause::DeclarationHolds) => {
                Ok(Standing::Settled("superseded"))
            }
            TokenStanding::Rejected | TokenStanding::Superseded => {
                Ok(Standing::Rejected(token.why.unwrap_or_default()))
            }
            TokenStanding::Current => {
                if token.refused_at.is_some_and(|at| at >= pushed.at) {
                    return Ok(Standing::Refused(token.why.unwrap_or_default()));
                }
                if !token.declaration_waits && token.judged_at.is_some_and(|at| at >= pushed.at) {
                    return Ok(Standing::Settled("accepted"));
                }
                // Proved some time ago; whether it still lives, the reconciliation that this push caused finds out, and
                // judges what came with it.
                let Some(row) = reconciled(&mut tx, item, pushed).await? else { return Ok(Standing::Pending) };
                Ok(match row.state {
                    ItemState::AwaitingToken | ItemState::Revoked | ItemState::Removed => {
                        Standing::Rejected(row.state_why.unwrap_or_default())
                    }
                    ItemState::LoginRequired if token.declaration_waits => Standing::WaitsForItem,
                    ItemState::Active if token.declaration_waits => Standing::Pending,
                    ItemState::Active | ItemState::LoginRequired => Standing::Settled("accepted"),
                })
            }
        }
    }

    /// How the Item and its businesses stand, and whether the reconciliation that saw this push has ended.
    async fn stand(&self, item: &ItemId, wanted: i64) -> Result<Stand, ApiError> {
        let mut tx = self.store.begin_read().await?;
        let served = tx.work(item).await?.is_none_or(|w| w.done >= wanted);
        let of_item = tx.verdict(item).await?;
        let businesses: Vec<String> = tx.businesses_of_item(item).await?.iter().map(ToString::to_string).collect();
        let of_businesses = tx.verdicts(Kind::Business, &businesses).await?;
        let judged = of_item.into_iter().chain(of_businesses).collect();
        Ok(Stand { served, judged })
    }
}

/// The Item, once the reconciliation that this push caused has ended.
async fn reconciled(tx: &mut Tx, item: &ItemId, pushed: &Pushed) -> Result<Option<ItemRow>, ApiError> {
    let ended = |w: &domain::queue::Row| w.lease.is_none() && w.looked_at.is_some_and(|at| at >= pushed.at);
    let work = tx.work(item).await?;
    let has = work.is_none_or(|w| w.done >= pushed.wanted || ended(&w));
    Ok(if has { tx.item(item).await? } else { None })
}

/// When a push was stored, and the `wanted` that it raised.
struct Pushed {
    at: Millis,
    wanted: i64,
}

enum Standing {
    /// With this word for the token: `not_sent`, `accepted`, or `superseded` by a newer one, which was proved first, while what
    /// came with this one is in force.
    Settled(&'static str),
    Pending,
    /// What was said with the token is judged when the Item can be read again. To wait for that does not bring it about.
    WaitsForItem,
    Rejected(String),
    /// What was said with the token can't be so. The token itself, if any, was proved and is current.
    Refused(String),
}

fn answer(
    item: &ItemId,
    fingerprint: Option<Fingerprint>,
    token: &str,
    stand: Option<&Stand>,
    asked: Option<Wait>,
) -> (StatusCode, Json<PutAnswer>) {
    let finished = token != "pending" && stand.is_none_or(Stand::is_accepted);
    let status = if finished { StatusCode::OK } else { StatusCode::ACCEPTED };
    let waiting = |judged: &Judged| Waiting {
        kind: judged.subject.kind().to_string(),
        id: judged.subject.id().to_owned(),
        verdict: VerdictView::from(judged),
    };
    let answer = PutAnswer {
        item_id: item.to_string(),
        token: token.into(),
        fingerprint: fingerprint.map(|f| f.to_string()),
        converged: stand.filter(|_| asked == Some(Wait::Converged)).map(Stand::converged),
        blocked: stand.map(Stand::blocked).unwrap_or_default(),
        verdicts: stand.into_iter().flat_map(|s| s.judged.iter().map(waiting)).collect(),
    };
    (status, Json(answer))
}
