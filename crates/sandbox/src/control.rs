//! Routes to drive the sandbox by hand, under `/control`.

use crate::{Announce, Answered, Error, Fault, Load, NewAccount, NewBusiness, NewItem, Sandbox, Switches, Verdict};
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// The longest that a verdict is waited for, in seconds.
const MAX_WAIT: u64 = 60;

pub(crate) fn routes(sandbox: &Sandbox) -> Router {
    Router::new()
        .route("/state", get(state))
        .route("/verdict", get(verdict))
        .route("/webhook-url", put(set_webhook_url))
        .route("/load", post(load))
        .route("/switches", get(switches).put(set_switches))
        .route("/faults", post(add_fault).delete(heal))
        .route("/businesses", post(create_business))
        .route("/businesses/{business}/{verb}", post(business_verb))
        .route("/webhook", post(raw_webhook))
        .route("/items", post(link))
        .route("/items/{item}/token", get(token))
        .route("/items/{item}/{verb}", post(item_verb))
        .route("/accounts/{account}/{verb}", post(account_verb))
        .fallback(no_route)
        .with_state(sandbox.clone())
}

/// JSON for a person at a terminal: indented, and with a line break at its end.
struct Shown<T>(T);

impl<T: Serialize> IntoResponse for Shown<T> {
    fn into_response(self) -> Response {
        let mut text = serde_json::to_string_pretty(&self.0).unwrap_or_default();
        text.push('\n');
        ([(header::CONTENT_TYPE, "application/json")], text).into_response()
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let status = match self {
            Self::Unknown { .. } | Self::NoVerb { .. } => StatusCode::NOT_FOUND,
            Self::NotTaken(_) => StatusCode::BAD_REQUEST,
            Self::Database(_) | Self::Admin(_) | Self::Http(_) => StatusCode::BAD_GATEWAY,
        };
        (status, Shown(json!({"error": self.to_string()}))).into_response()
    }
}

/// Ids and states, no tokens.
async fn state(State(sandbox): State<Sandbox>) -> Shown<Value> {
    let world = sandbox.world();
    let items: Vec<Value> = world
        .items
        .values()
        .map(|i| {
            let accounts: Vec<Value> = i
                .accounts
                .iter()
                .map(|a| json!({"account_id": a.id, "name": a.name, "mask": a.mask, "open": a.open, "business": a.business}))
                .collect();
            json!({
                "item_id": i.id, "business": i.business, "generation": i.generation,
                "status": format!("{:?}", i.status), "accounts": accounts,
            })
        })
        .collect();
    Shown(json!({"businesses": world.businesses, "items": items, "counts": world.counts}))
}

/// The access token that the platform would push. It is worth nothing outside this sandbox.
async fn token(State(sandbox): State<Sandbox>, Path(item): Path<String>) -> Result<String, Error> {
    sandbox.access_token(&item)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct VerdictQuery {
    /// How long to wait for every list to be exact, in seconds.
    #[serde(default)]
    wait: u64,
}

async fn verdict(State(sandbox): State<Sandbox>, Query(query): Query<VerdictQuery>) -> Shown<Verdict> {
    let deadline = Instant::now() + Duration::from_secs(query.wait.min(MAX_WAIT));
    loop {
        let verdict = sandbox.verdict();
        if verdict.exact || Instant::now() >= deadline {
            return Shown(verdict);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Webhooks of Items linked from now on go there.
async fn set_webhook_url(State(sandbox): State<Sandbox>, url: String) -> Shown<Value> {
    sandbox.set_webhook_url(url);
    Shown(json!({"ok": true}))
}

/// Steady load on a receiver, and who was not answered.
async fn load(State(sandbox): State<Sandbox>, Json(load): Json<Load>) -> Result<Shown<Answered>, Error> {
    sandbox.load(&load).await.map(Shown)
}

async fn switches(State(sandbox): State<Sandbox>) -> Shown<Switches> {
    Shown(sandbox.world().switches.clone())
}

async fn set_switches(State(sandbox): State<Sandbox>, Json(switches): Json<Switches>) -> Shown<Switches> {
    sandbox.switch(|s| *s = switches.clone());
    Shown(switches)
}

async fn add_fault(State(sandbox): State<Sandbox>, Json(sent): Json<Value>) -> Result<Shown<Value>, Error> {
    let fault: Fault = serde_json::from_value(sent.clone()).map_err(|error| Error::NotTaken(error.to_string()))?;
    // A mistyped `times` would be a fault for ever. Serde can't refuse unknown fields where one is flattened.
    let known = json!(fault);
    if let Some(name) = sent.as_object().and_then(|sent| sent.keys().find(|name| known.get(name).is_none())) {
        return Err(Error::NotTaken(format!("a fault of this kind has no field {name:?}: it is {known}")));
    }
    sandbox.fault(fault);
    Ok(Shown(json!({"ok": true})))
}

/// A verb takes what it needs in the query: a body with options would be ignored.
fn no_body(body: &Bytes) -> Result<(), Error> {
    match body.trim_ascii() {
        b"" | b"{}" | b"null" => Ok(()),
        _ => {
            Err(Error::NotTaken("a verb takes its options in the query, such as `?announce=push`, and no body".into()))
        }
    }
}

async fn no_route() -> Response {
    let known = [
        "GET state",
        "GET verdict?wait=SECONDS",
        "POST faults",
        "DELETE faults?call=CALL",
        "GET and PUT switches",
        "POST businesses",
        "POST businesses/ID/VERB",
        "POST items",
        "GET items/ID/token",
        "POST items/ID/VERB",
        "POST accounts/ID/VERB",
        "POST webhook",
        "PUT webhook-url",
        "POST load",
    ];
    (StatusCode::NOT_FOUND, Shown(json!({"error": "there is nothing at this path", "known": known}))).into_response()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HealQuery {
    /// Only faults that were ordered of this call.
    call: Option<String>,
}

async fn heal(State(sandbox): State<Sandbox>, Query(query): Query<HealQuery>) -> Shown<Value> {
    match query.call {
        Some(call) => sandbox.heal_call(&call),
        None => sandbox.heal(),
    }
    Shown(json!({"ok": true}))
}

async fn create_business(State(sandbox): State<Sandbox>, Json(new): Json<NewBusiness>) -> Shown<Value> {
    sandbox.create_business(&new);
    Shown(json!({"business": new.external_id}))
}

async fn link(State(sandbox): State<Sandbox>, Json(new): Json<NewItem>) -> Result<Shown<Value>, Error> {
    let item = sandbox.link(&new).await?;
    Ok(Shown(json!({"item_id": item})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ItemQuery {
    /// How a rotation becomes known.
    announce: Option<Announce>,
    /// Type and code of a webhook.
    #[serde(rename = "type")]
    webhook_type: Option<String>,
    code: Option<String>,
}

async fn item_verb(
    State(sandbox): State<Sandbox>,
    Path((item, verb)): Path<(String, String)>,
    Query(query): Query<ItemQuery>,
    body: Bytes,
) -> Result<Shown<Value>, Error> {
    no_body(&body)?;
    let fire = |kind: &str, code: &str, extra: &Value| sandbox.fire(&item, kind, code, extra);
    match verb.as_str() {
        "rotate" => sandbox.rotate(&item, query.announce.unwrap_or(Announce::Silent)).await?,
        "require-login" => {
            sandbox.require_login(&item)?;
            fire("ITEM", "ERROR", &Sandbox::webhook_error("ITEM_LOGIN_REQUIRED"))?;
        }
        "repair" => {
            sandbox.repair(&item)?;
            fire("ITEM", "LOGIN_REPAIRED", &json!({}))?;
        }
        "revoke" => {
            sandbox.revoke(&item)?;
            fire("ITEM", "USER_PERMISSION_REVOKED", &Sandbox::webhook_error("USER_PERMISSION_REVOKED"))?;
        }
        "offboard" => sandbox.offboard(&item, true).await?,
        "add-account" => {
            let account = sandbox.add_account(&item, &NewAccount::checking("7777"))?;
            fire("ITEM", "NEW_ACCOUNTS_AVAILABLE", &json!({}))?;
            return Ok(Shown(json!({"account_id": account})));
        }
        "webhook" => {
            let kind = query.webhook_type.as_deref().unwrap_or("ITEM");
            fire(kind, query.code.as_deref().unwrap_or("LOGIN_REPAIRED"), &json!({}))?;
        }
        "lose-webhook" => sandbox.lose_webhook(&item, query.code.as_deref().unwrap_or("DEFAULT_UPDATE"))?,
        "end-consent" => sandbox.end_consent(&item, 7)?,
        "order-mints" => sandbox.order_mints(&item)?,
        "redirect-webhooks" => {
            let mut world = sandbox.world();
            world.item(&item)?.webhook_url = Some("https://elsewhere.example/plaid".to_owned());
        }
        _ => {
            let known = "rotate, require-login, repair, revoke, offboard, add-account, webhook, lose-webhook, end-consent, \
                order-mints, redirect-webhooks";
            return Err(Error::NoVerb { verb, known });
        }
    }
    Ok(Shown(json!({"ok": true})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BusinessQuery {
    /// An account of ours.
    account: Option<String>,
}

async fn business_verb(
    State(sandbox): State<Sandbox>,
    Path((business, verb)): Path<(String, String)>,
    Query(query): Query<BusinessQuery>,
    body: Bytes,
) -> Result<Shown<Value>, Error> {
    no_body(&body)?;
    match verb.as_str() {
        "foreign-token" => sandbox.foreign_token(&business, query.account.as_deref()).map(drop)?,
        "archive" => sandbox.archive_business(&business, true)?,
        "unarchive" => sandbox.archive_business(&business, false)?,
        _ => return Err(Error::NoVerb { verb, known: "foreign-token, archive, unarchive" }),
    }
    Ok(Shown(json!({"ok": true})))
}

/// Whatever is sent, signed as Plaid signs, goes to where webhooks go.
async fn raw_webhook(State(sandbox): State<Sandbox>, body: Bytes) -> Result<Shown<Value>, Error> {
    let url = sandbox.world().webhook_url.clone().unwrap_or_default();
    let status = sandbox.send_skewed(&url, &body, 0).await;
    Ok(Shown(json!({"answered": status})))
}

async fn account_verb(
    State(sandbox): State<Sandbox>,
    Path((account, verb)): Path<(String, String)>,
    body: Bytes,
) -> Result<Shown<Value>, Error> {
    no_body(&body)?;
    let item = sandbox.world().account(&account)?.0.to_owned();
    match verb.as_str() {
        "close" => sandbox.close_account(&account)?,
        "reopen" => sandbox.reopen_account(&account)?,
        "renumber" => return Ok(Shown(json!({"account_id": sandbox.renumber_account(&account)?}))),
        "revoke" => {
            sandbox.close_account(&account)?;
            sandbox.fire(&item, "ITEM", "USER_ACCOUNT_REVOKED", &json!({"account_id": account}))?;
        }
        "refuse" => sandbox.refuse_account(&account, true)?,
        "accept" => sandbox.refuse_account(&account, false)?,
        _ => return Err(Error::NoVerb { verb, known: "close, reopen, renumber, revoke, refuse, accept" }),
    }
    Ok(Shown(json!({"ok": true})))
}
