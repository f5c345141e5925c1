//! Fake Plaid: <https://plaid.com/docs/api/>, error bodies and all.

use crate::Sandbox;
use crate::faults::{cut, error_answer};
use crate::switches::LoginRequiredReads;
use crate::world::{Item, ItemStatus, Minted, PLAID_CLIENT_ID, World};
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Response};
use axum::routing::post;
use axum::{Json, Router};
use serde_json::{Value, json};
use std::time::Duration;

pub(crate) fn routes(sandbox: &Sandbox) -> Router {
    Router::new()
        .route("/item/get", post(item_get))
        .route("/accounts/get", post(accounts_get))
        .route("/processor/token/create", post(processor_token_create))
        .route("/processor/token/permissions/get", post(permissions_get))
        .route("/item/access_token/invalidate", post(invalidate))
        .route("/item/remove", post(item_remove))
        .route("/webhook_verification_key/get", post(verification_key_get))
        .with_state(sandbox.clone())
}

type Answer = Response<Body>;

/// Plaid's error schema: <https://plaid.com/docs/errors/#error-schema>.
fn error_body(error_type: &str, error_code: &str) -> Value {
    json!({
        "error_type": error_type, "error_code": error_code, "error_message": "made by the sandbox",
        "display_message": null, "request_id": "sandboxRequest",
    })
}

fn refuse(error_type: &str, error_code: &str) -> Answer {
    error_answer(400, &error_body(error_type, error_code), None)
}

fn limit(code: &str) -> Answer {
    error_answer(429, &error_body("RATE_LIMIT_EXCEEDED", code), None)
}

fn ok(mut body: Value) -> Answer {
    body["request_id"] = "sandboxRequest".into();
    error_answer(200, &body, None)
}

/// Checks what every endpoint checks, lets faults happen, and runs `effect` if nothing speaks against it.
async fn answer(
    sandbox: &Sandbox,
    endpoint: &str,
    headers: &HeaderMap,
    body: &Value,
    fields: &[&str],
    effect: impl FnOnce(&mut World) -> Result<Answer, Answer>,
) -> Answer {
    let about = about(&sandbox.world(), body);
    let about: Vec<&str> = about.iter().map(String::as_str).collect();
    let fate = sandbox.fate(endpoint, &about, error_body).await;
    let answer = effect_of(sandbox, endpoint, headers, body, fields, &about, fate.instead, effect);
    if fate.hang_after {
        sandbox.world().counts.answers_lost += 1;
        sandbox.until_lifted(endpoint).await;
    }
    if fate.lose_answer {
        sandbox.world().counts.answers_lost += 1;
        return cut();
    }
    answer
}

#[allow(clippy::too_many_arguments, reason = "the half of `answer` that must not wait while it holds the world")]
fn effect_of(
    sandbox: &Sandbox,
    endpoint: &str,
    headers: &HeaderMap,
    body: &Value,
    fields: &[&str],
    about: &[&str],
    instead: Option<Answer>,
    effect: impl FnOnce(&mut World) -> Result<Answer, Answer>,
) -> Answer {
    let mut world = sandbox.world();
    let item = about.first().copied().unwrap_or_default();
    world.called(endpoint, item);
    if let Some(instead) = instead {
        return instead;
    }
    let (per_client, per_item, code) = world.switches.plaid_limits(endpoint);
    let minute = Duration::from_mins(1);
    if world.over(per_client, minute, |c| c.endpoint == endpoint)
        || world.over(per_item, minute, |c| c.endpoint == endpoint && c.about == item)
    {
        return limit(code);
    }
    let header = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if header("PLAID-CLIENT-ID") != PLAID_CLIENT_ID || header("PLAID-SECRET") != world.plaid_secret {
        return refuse("INVALID_INPUT", "INVALID_API_KEYS");
    }
    let Value::Object(given) = body else { return refuse("INVALID_REQUEST", "INVALID_BODY") };
    if given.keys().any(|k| !fields.contains(&k.as_str())) {
        return refuse("INVALID_REQUEST", "UNKNOWN_FIELDS");
    }
    if fields.iter().any(|f| !given.get(*f).is_some_and(Value::is_string)) {
        return refuse("INVALID_REQUEST", "MISSING_FIELDS");
    }
    effect(&mut world).unwrap_or_else(|refused| refused)
}

/// The Item and account that a call is about, for faults that single one out.
fn about(world: &World, body: &Value) -> Vec<String> {
    let text = |name: &str| body.get(name).and_then(Value::as_str);
    let item = text("access_token").and_then(|t| world.item_by_token(t)).map(|i| i.id.clone());
    let account = text("account_id").map(str::to_owned);
    item.into_iter().chain(account).collect()
}

fn token_of(body: &Value) -> &str {
    body["access_token"].as_str().unwrap_or_default()
}

/// The Item behind a live access token, or the error that Plaid answers.
fn item_for<'w>(world: &'w World, token: &str) -> Result<&'w Item, Answer> {
    let item = world.item_by_token(token).ok_or_else(|| refuse("INVALID_INPUT", "INVALID_ACCESS_TOKEN"))?;
    match item.status {
        ItemStatus::Good | ItemStatus::LoginRequired => Ok(item),
        ItemStatus::Revoked => Err(refuse("ITEM_ERROR", "USER_PERMISSION_REVOKED")),
        ItemStatus::Removed => Err(refuse("ITEM_ERROR", "ITEM_NOT_FOUND")),
    }
}

fn item_body(item: &Item) -> Value {
    let error = (item.status == ItemStatus::LoginRequired).then(|| error_body("ITEM_ERROR", "ITEM_LOGIN_REQUIRED"));
    json!({"item_id": item.id, "institution_id": "ins_109508", "webhook": item.webhook_url, "error": error})
}

async fn item_get(State(sandbox): State<Sandbox>, headers: HeaderMap, Json(body): Json<Value>) -> Answer {
    answer(&sandbox, "/item/get", &headers, &body, &["access_token"], |world| {
        let item = item_for(world, token_of(&body))?;
        Ok(ok(json!({"item": item_body(item), "status": null})))
    })
    .await
}

async fn accounts_get(State(sandbox): State<Sandbox>, headers: HeaderMap, Json(body): Json<Value>) -> Answer {
    answer(&sandbox, "/accounts/get", &headers, &body, &["access_token"], |world| {
        let item = item_for(world, token_of(&body))?;
        let fails = world.switches.login_required_reads == LoginRequiredReads::Fail;
        if item.status == ItemStatus::LoginRequired && fails {
            return Err(refuse("ITEM_ERROR", "ITEM_LOGIN_REQUIRED"));
        }
        let accounts: Vec<Value> = item
            .accounts
            .iter()
            .filter(|a| a.open)
            .map(|a| {
                json!({
                    "account_id": a.id, "type": a.kind, "subtype": a.subtype, "mask": a.mask, "name": a.name,
                    "official_name": null, "balances": {"current": 100.0, "iso_currency_code": "USD"},
                })
            })
            .collect();
        Ok(ok(json!({"item": item_body(item), "accounts": accounts})))
    })
    .await
}

async fn processor_token_create(State(sandbox): State<Sandbox>, headers: HeaderMap, Json(body): Json<Value>) -> Answer {
    let fields = ["access_token", "account_id", "processor"];
    answer(&sandbox, "/processor/token/create", &headers, &body, &fields, |world| mint(world, &body)).await
}

fn mint(world: &mut World, body: &Value) -> Result<Answer, Answer> {
    if body["processor"] != "layer" {
        return Err(refuse("INVALID_REQUEST", "INVALID_FIELD"));
    }
    let account = body["account_id"].as_str().unwrap_or_default().to_owned();
    let item = item_for(world, token_of(body))?.clone();
    if item.status == ItemStatus::LoginRequired && !world.switches.mint_while_login_required {
        return Err(refuse("ITEM_ERROR", "ITEM_LOGIN_REQUIRED"));
    }
    match item.accounts.iter().find(|a| a.id == account) {
        Some(a) if a.unsupported => return Err(refuse("ITEM_ERROR", "ITEM_NOT_SUPPORTED")),
        Some(a) if a.open => {}
        _ => return Err(refuse("INVALID_INPUT", "INVALID_ACCOUNT_ID")),
    }
    world.counts.mints += 1;
    let same = |m: &Minted| m.account == account && m.access_token == item.access_token && !m.dead;
    // Looked for only where it matters: a long storm mints hundreds of thousands.
    let before = match world.switches.repeated_create_gives_same_token {
        true => world.minted.iter().find(|(_, m)| same(m)).map(|(t, _)| t.clone()),
        false => None,
    };
    let token = before.unwrap_or_else(|| world.secret("processor-sandbox"));
    let minted = Minted { item: item.id.clone(), account, access_token: item.access_token, dead: false };
    world.minted.insert(token.clone(), minted);
    Ok(ok(json!({"processor_token": token})))
}

async fn permissions_get(State(sandbox): State<Sandbox>, headers: HeaderMap, Json(body): Json<Value>) -> Answer {
    answer(&sandbox, "/processor/token/permissions/get", &headers, &body, &["processor_token"], |world| {
        let token = body["processor_token"].as_str().unwrap_or_default();
        let unknown = || refuse("INVALID_INPUT", "INVALID_PROCESSOR_TOKEN");
        world.is_alive(token).then(|| ok(json!({"products": []}))).ok_or_else(unknown)
    })
    .await
}

async fn invalidate(State(sandbox): State<Sandbox>, headers: HeaderMap, Json(body): Json<Value>) -> Answer {
    answer(&sandbox, "/item/access_token/invalidate", &headers, &body, &["access_token"], |world| {
        let id = item_for(world, token_of(&body))?.id.clone();
        let token = world.rotate(&id).map_err(|_| refuse("ITEM_ERROR", "ITEM_NOT_FOUND"))?;
        Ok(ok(json!({"new_access_token": token})))
    })
    .await
}

async fn item_remove(State(sandbox): State<Sandbox>, headers: HeaderMap, Json(body): Json<Value>) -> Answer {
    answer(&sandbox, "/item/remove", &headers, &body, &["access_token"], |world| {
        let id = item_for(world, token_of(&body))?.id.clone();
        if let Ok(item) = world.item(&id) {
            item.status = ItemStatus::Removed;
        }
        Ok(ok(json!({})))
    })
    .await
}

async fn verification_key_get(State(sandbox): State<Sandbox>, headers: HeaderMap, Json(body): Json<Value>) -> Answer {
    answer(&sandbox, "/webhook_verification_key/get", &headers, &body, &["key_id"], |world| {
        let kid = body["key_id"].as_str().unwrap_or_default();
        let signer = world.signers.iter().find(|s| s.kid == kid);
        let unknown = || refuse("INVALID_INPUT", "INVALID_WEBHOOK_VERIFICATION_KEY_ID");
        signer.map(|signer| ok(json!({"key": signer.jwk()}))).ok_or_else(unknown)
    })
    .await
}

impl World {
    /// The old access token dies at once, without grace: <https://plaid.com/docs/api/items/#itemaccess_tokeninvalidate>.
    pub(crate) fn rotate(&mut self, item: &str) -> Result<String, crate::Error> {
        let token = self.secret("access-sandbox");
        let item = self.item(item)?;
        item.access_token.clone_from(&token);
        item.generation += 1;
        Ok(token)
    }
}
