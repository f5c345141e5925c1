//! Routes to drive the sandbox by hand, under `/control`.

use crate::{Announce, Error, Fault, NewAccount, NewBusiness, NewItem, Sandbox, Switches, Verdict};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

pub(crate) fn routes(sandbox: &Sandbox) -> Router {
    Router::new()
        .route("/state", get(state))
        .route("/verdict", get(verdict))
        .route("/switches", get(switches).put(set_switches))
        .route("/faults", post(add_fault).delete(heal))
        .route("/businesses", post(create_business))
        .route("/items", post(link))
        .route("/items/{item}/token", get(token))
        .route("/items/{item}/{verb}", post(item_verb))
        .route("/accounts/{account}/{verb}", post(account_verb))
        .with_state(sandbox.clone())
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let status = match self {
            Self::Unknown { .. } => StatusCode::NOT_FOUND,
            Self::Database(_) | Self::Admin(_) | Self::Http(_) => StatusCode::BAD_GATEWAY,
        };
        (status, Json(json!({"error": self.to_string()}))).into_response()
    }
}

/// Ids and states, no tokens.
async fn state(State(sandbox): State<Sandbox>) -> Json<Value> {
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
    Json(json!({"businesses": world.businesses, "items": items, "counts": world.counts}))
}

/// The access token that the platform would push. It is worth nothing outside this sandbox.
async fn token(State(sandbox): State<Sandbox>, Path(item): Path<String>) -> Result<String, Error> {
    sandbox.access_token(&item)
}

async fn verdict(State(sandbox): State<Sandbox>) -> Json<Verdict> {
    Json(sandbox.verdict())
}

async fn switches(State(sandbox): State<Sandbox>) -> Json<Switches> {
    Json(sandbox.world().switches.clone())
}

async fn set_switches(State(sandbox): State<Sandbox>, Json(switches): Json<Switches>) -> Json<Switches> {
    sandbox.switch(|s| *s = switches.clone());
    Json(switches)
}

async fn add_fault(State(sandbox): State<Sandbox>, Json(fault): Json<Fault>) -> Json<Value> {
    sandbox.fault(fault);
    Json(json!({"ok": true}))
}

async fn heal(State(sandbox): State<Sandbox>) -> Json<Value> {
    sandbox.heal();
    Json(json!({"ok": true}))
}

async fn create_business(State(sandbox): State<Sandbox>, Json(new): Json<NewBusiness>) -> Json<Value> {
    sandbox.create_business(&new);
    Json(json!({"business": new.external_id}))
}

async fn link(State(sandbox): State<Sandbox>, Json(new): Json<NewItem>) -> Result<Json<Value>, Error> {
    let item = sandbox.link(&new).await?;
    Ok(Json(json!({"item_id": item})))
}

#[derive(Deserialize)]
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
) -> Result<Json<Value>, Response> {
    let said = |result: Result<(), Error>| result.map_err(IntoResponse::into_response);
    let fire = |kind: &str, code: &str, extra: &Value| said(sandbox.fire(&item, kind, code, extra));
    match verb.as_str() {
        "rotate" => said(sandbox.rotate(&item, query.announce.unwrap_or(Announce::Silent)).await)?,
        "require-login" => {
            said(sandbox.require_login(&item))?;
            fire("ITEM", "ERROR", &Sandbox::webhook_error("ITEM_LOGIN_REQUIRED"))?;
        }
        "repair" => {
            said(sandbox.repair(&item))?;
            fire("ITEM", "LOGIN_REPAIRED", &json!({}))?;
        }
        "revoke" => {
            said(sandbox.revoke(&item))?;
            fire("ITEM", "USER_PERMISSION_REVOKED", &Sandbox::webhook_error("USER_PERMISSION_REVOKED"))?;
        }
        "offboard" => said(sandbox.offboard(&item, true).await)?,
        "add-account" => {
            let added = sandbox.add_account(&item, &NewAccount::checking("7777"));
            let account = added.map_err(IntoResponse::into_response)?;
            fire("ITEM", "NEW_ACCOUNTS_AVAILABLE", &json!({}))?;
            return Ok(Json(json!({"account_id": account})));
        }
        "webhook" => {
            let kind = query.webhook_type.as_deref().unwrap_or("ITEM");
            fire(kind, query.code.as_deref().unwrap_or("LOGIN_REPAIRED"), &json!({}))?;
        }
        _ => return Err(no_verb(&verb, "rotate, require-login, repair, revoke, offboard, add-account, webhook")),
    }
    Ok(Json(json!({"ok": true})))
}

async fn account_verb(
    State(sandbox): State<Sandbox>,
    Path((account, verb)): Path<(String, String)>,
) -> Result<Json<Value>, Response> {
    let item =
        sandbox.world().account(&account).map(|(item, _)| item.to_owned()).map_err(IntoResponse::into_response)?;
    let said = |result: Result<(), Error>| result.map_err(IntoResponse::into_response);
    match verb.as_str() {
        "close" => said(sandbox.close_account(&account))?,
        "reopen" => said(sandbox.reopen_account(&account))?,
        "renumber" => {
            let renumbered = sandbox.renumber_account(&account).map_err(IntoResponse::into_response)?;
            return Ok(Json(json!({"account_id": renumbered})));
        }
        "revoke" => {
            said(sandbox.close_account(&account))?;
            said(sandbox.fire(&item, "ITEM", "USER_ACCOUNT_REVOKED", &json!({"account_id": account})))?;
        }
        _ => return Err(no_verb(&verb, "close, reopen, renumber, revoke")),
    }
    Ok(Json(json!({"ok": true})))
}

fn no_verb(verb: &str, known: &str) -> Response {
    (StatusCode::NOT_FOUND, Json(json!({"error": format!("no verb {verb:?}; there are {known}")}))).into_response()
}
