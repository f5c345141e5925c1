//! Fake Plaid: <https://plaid.com/docs/api/>, error bodies and all.

use crate::Sandbox;
use crate::faults::{cut, error_answer};
use crate::switches::LoginRequiredReads;
use crate::world::{Account, Item, ItemStatus, Minted, PLAID_CLIENT_ID, World};
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Response};
use axum::routing::post;
use axum::{Json, Router};
use serde_json::{Value, json};
use std::time::Duration;

/// One of Plaid's calls: the fields of its body, all of them texts, and what it does when nothing speaks against it.
#[derive(Clone, Copy)]
struct Endpoint {
    path: &'static str,
    fields: &'static [&'static str],
    effect: fn(&mut World, &Value) -> Result<Value, Answer>,
}

const ENDPOINTS: [Endpoint; 7] = [
    Endpoint { path: "/item/get", fields: &["access_token"], effect: item_get },
    Endpoint { path: "/accounts/get", fields: &["access_token"], effect: accounts_get },
    Endpoint {
        path: "/processor/token/create",
        fields: &["access_token", "account_id", "processor"],
        effect: processor_token_create,
    },
    Endpoint { path: "/processor/token/permissions/get", fields: &["processor_token"], effect: permissions_get },
    Endpoint { path: "/item/access_token/invalidate", fields: &["access_token"], effect: invalidate },
    Endpoint { path: "/item/remove", fields: &["access_token"], effect: item_remove },
    Endpoint { path: "/webhook_verification_key/get", fields: &["key_id"], effect: verification_key_get },
];

pub(crate) fn routes(sandbox: &Sandbox) -> Router {
    let with = |routes: Router<Sandbox>, endpoint: Endpoint| {
        let handler = async move |State(sandbox): State<Sandbox>, headers: HeaderMap, Json(body): Json<Value>| {
            endpoint.answer(&sandbox, &headers, &body).await
        };
        routes.route(endpoint.path, post(handler))
    };
    ENDPOINTS.into_iter().fold(Router::new(), with).with_state(sandbox.clone())
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

fn ok(mut body: Value) -> Answer {
    body["request_id"] = "sandboxRequest".into();
    error_answer(200, &body, None)
}

impl Endpoint {
    /// Checks what every endpoint checks, and lets faults happen.
    async fn answer(self, sandbox: &Sandbox, headers: &HeaderMap, body: &Value) -> Answer {
        let about = about(&sandbox.world(), body);
        let about: Vec<&str> = about.iter().map(String::as_str).collect();
        let fate = sandbox.fate(self.path, &about, error_body).await;
        let item = about.first().copied().unwrap_or_default();
        let done = self.done(&mut sandbox.world(), headers, body, item, fate.instead);
        if fate.hang_after {
            sandbox.world().counts.answers_lost += 1;
            sandbox.until_lifted(self.path).await;
        }
        if fate.lose_answer {
            sandbox.world().counts.answers_lost += 1;
            return cut();
        }
        done.map_or_else(|refused| refused, ok)
    }

    fn done(
        self,
        world: &mut World,
        headers: &HeaderMap,
        body: &Value,
        item: &str,
        instead: Option<Answer>,
    ) -> Result<Value, Answer> {
        world.called(self.path, item);
        if let Some(instead) = instead {
            return Err(instead);
        }
        let (per_client, per_item, code) = world.switches.plaid_limits(self.path);
        let minute = Duration::from_mins(1);
        if world.over(per_client, minute, |c| c.endpoint == self.path)
            || world.over(per_item, minute, |c| c.endpoint == self.path && c.about == item)
        {
            return Err(error_answer(429, &error_body("RATE_LIMIT_EXCEEDED", code), None));
        }
        let header = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
        if header("PLAID-CLIENT-ID") != PLAID_CLIENT_ID || header("PLAID-SECRET") != world.plaid_secret {
            return Err(refuse("INVALID_INPUT", "INVALID_API_KEYS"));
        }
        let Value::Object(given) = body else { return Err(refuse("INVALID_REQUEST", "INVALID_BODY")) };
        if given.keys().any(|k| !self.fields.contains(&k.as_str())) {
            return Err(refuse("INVALID_REQUEST", "UNKNOWN_FIELDS"));
        }
        if self.fields.iter().any(|f| !given.get(*f).is_some_and(Value::is_string)) {
            return Err(refuse("INVALID_REQUEST", "MISSING_FIELDS"));
        }
        (self.effect)(world, body)
    }
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
    json!({
        "item_id": item.id, "institution_id": "ins_109508", "webhook": item.webhook_url, "error": error,
        "consent_expiration_time": item.consent_until.map(|at| at.to_string()),
    })
}

fn item_get(world: &mut World, body: &Value) -> Result<Value, Answer> {
    let item = item_for(world, token_of(body))?;
    let last = item.last_webhook.as_ref().map(|(at, code)| json!({"sent_at": at.to_string(), "code_sent": code}));
    Ok(json!({"item": item_body(item), "status": {"last_webhook": last}}))
}

fn accounts_get(world: &mut World, body: &Value) -> Result<Value, Answer> {
    let item = item_for(world, token_of(body))?;
    let fails = world.switches.login_required_reads == LoginRequiredReads::Fail;
    if item.status == ItemStatus::LoginRequired && fails {
        return Err(refuse("ITEM_ERROR", "ITEM_LOGIN_REQUIRED"));
    }
    let account = |a: &Account| {
        json!({
            "account_id": a.id, "type": a.kind, "subtype": a.subtype, "mask": a.mask, "name": a.name,
            "official_name": null, "balances": {"current": 100.0, "iso_currency_code": "USD"},
        })
    };
    let accounts: Vec<Value> = item.accounts.iter().filter(|a| a.open).map(account).collect();
    Ok(json!({"item": item_body(item), "accounts": accounts}))
}

fn processor_token_create(world: &mut World, body: &Value) -> Result<Value, Answer> {
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
    Ok(json!({"processor_token": token}))
}

fn permissions_get(world: &mut World, body: &Value) -> Result<Value, Answer> {
    let token = body["processor_token"].as_str().unwrap_or_default();
    let unknown = || refuse("INVALID_INPUT", "INVALID_PROCESSOR_TOKEN");
    world.is_alive(token).then(|| json!({"products": []})).ok_or_else(unknown)
}

fn invalidate(world: &mut World, body: &Value) -> Result<Value, Answer> {
    let id = item_for(world, token_of(body))?.id.clone();
    let token = world.rotate(&id).map_err(|_| refuse("ITEM_ERROR", "ITEM_NOT_FOUND"))?;
    Ok(json!({"new_access_token": token}))
}

fn item_remove(world: &mut World, body: &Value) -> Result<Value, Answer> {
    let id = item_for(world, token_of(body))?.id.clone();
    if let Ok(item) = world.item(&id) {
        item.status = ItemStatus::Removed;
    }
    Ok(json!({}))
}

fn verification_key_get(world: &mut World, body: &Value) -> Result<Value, Answer> {
    let signer = world.signers.iter().find(|s| Some(s.kid.as_str()) == body["key_id"].as_str());
    let unknown = || refuse("INVALID_INPUT", "INVALID_WEBHOOK_VERIFICATION_KEY_ID");
    signer.map(|signer| json!({"key": signer.jwk()})).ok_or_else(unknown)
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
