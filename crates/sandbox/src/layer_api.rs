//! Fake Layer: <https://docs.layerfi.com/>, with a switch for each thing those pages leave open.

use crate::Sandbox;
use crate::faults::{Fate, cut, error_answer};
use crate::switches::{BadToken, Shows};
use crate::world::{LAYER_CLIENT_ID, LayerBusiness, Row, World};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, Response, header};
use axum::routing::{get, post, put};
use base64::Engine as _;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::time::{Duration, Instant};

pub(crate) fn routes(sandbox: &Sandbox) -> Router {
    Router::new()
        .route("/oauth2/token", post(token))
        .route("/whoami", get(whoami))
        .route("/v1/businesses", get(find).post(create))
        .route("/v1/businesses/{id}", put(update).get(show))
        .route("/v1/businesses/{id}/plaid/accounts", get(list))
        .with_state(sandbox.clone())
}

type Answer = Response<Body>;

fn error_body(kind: &str, error_enum: &str) -> Value {
    json!({"errors": [{"type": kind, "description": "made by the sandbox", "error_enum": error_enum}]})
}

fn refuse(status: u16, error_enum: &str) -> Answer {
    error_answer(status, &error_body("Sandbox", error_enum), None)
}

fn no_business() -> Answer {
    refuse(404, "SpecifiedIdNotFound")
}

fn ok(world: &World, status: u16, data: &Value, meta: &Value) -> Answer {
    let body = if world.switches.bare_envelope { data.clone() } else { json!({"data": data, "meta": meta}) };
    error_answer(status, &body, None)
}

async fn token(State(sandbox): State<Sandbox>, headers: HeaderMap, body: Bytes) -> Answer {
    let fate = sandbox.fate("POST /oauth2/token", &[], |_, code| json!({"error": code})).await;
    if let Some(instead) = fate.instead {
        return instead;
    }
    let mut world = sandbox.world();
    let expected = format!("{LAYER_CLIENT_ID}:{}", world.layer_secret);
    let expected = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(expected));
    let given = headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let form = String::from_utf8_lossy(&body);
    if given != expected || !form.contains("grant_type=client_credentials") || !form.contains("scope=") {
        return error_answer(401, &json!({"error": "invalid_client"}), None);
    }
    let bearer = world.secret("bearer");
    world.bearers.insert(bearer.clone());
    error_answer(200, &json!({"access_token": bearer, "expires_in": 3600, "token_type": "Bearer"}), None)
}

/// Lets faults happen and checks the bearer token.
async fn admit(sandbox: &Sandbox, call: &str, about: &str, headers: &HeaderMap) -> Result<Fate, Answer> {
    let external = sandbox.world().layer.get(about).map(|b| b.external_id.clone()).unwrap_or_default();
    let mut fate = sandbox.fate(call, &[about, &external], error_body).await;
    let mut world = sandbox.world();
    world.called(call, about);
    if let Some(instead) = fate.instead.take() {
        return Err(instead);
    }
    let allowed = world.switches.layer_per_second;
    let (second, creates) = (Duration::from_secs(1), world.switches.layer_creates_per_second);
    let create = call == "POST /v1/businesses";
    if world.over(allowed, second, |c| c.endpoint.contains(' '))
        || create && world.over(creates, second, |c| c.endpoint == call)
    {
        return Err(error_answer(429, &error_body("RateLimit", "RateLimited"), Some(1)));
    }
    let given = headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let known = given.strip_prefix("Bearer ").is_some_and(|t| world.bearers.contains(t));
    if known { Ok(fate) } else { Err(refuse(401, "Unauthenticated")) }
}

async fn whoami(State(sandbox): State<Sandbox>, headers: HeaderMap) -> Result<Answer, Answer> {
    admit(&sandbox, "GET /whoami", "", &headers).await?;
    Ok(ok(&sandbox.world(), 200, &json!({"type": "Client", "clientId": LAYER_CLIENT_ID}), &json!({})))
}

fn business_body(business: &LayerBusiness) -> Value {
    json!({"type": "Business", "id": business.id, "external_id": business.external_id, "legal_name": "A Business"})
}

async fn find(
    State(sandbox): State<Sandbox>,
    headers: HeaderMap,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Answer, Answer> {
    let wanted = query.get("external_id").cloned().unwrap_or_default();
    admit(&sandbox, "GET /v1/businesses", &wanted, &headers).await?;
    let world = sandbox.world();
    let found: Vec<Value> =
        world.layer.values().filter(|b| b.external_id == wanted && !b.archived).map(business_body).collect();
    Ok(ok(&world, 200, &Value::Array(found), &json!({"pagination": {"cursor": null, "has_more": false}})))
}

async fn show(State(sandbox): State<Sandbox>, headers: HeaderMap, Path(id): Path<String>) -> Result<Answer, Answer> {
    admit(&sandbox, "GET /v1/businesses/{id}", &id, &headers).await?;
    let world = sandbox.world();
    let business = world.layer.get(&id).filter(|b| !b.archived).ok_or_else(no_business)?;
    Ok(ok(&world, 200, &business_body(business), &json!({})))
}

fn tokens_of(body: &Value) -> Option<Vec<String>> {
    let list = body.get("plaid_processor_tokens")?.as_array()?;
    list.iter().map(|e| e.get("processor_token").and_then(Value::as_str).map(str::to_owned)).collect()
}

async fn create(State(sandbox): State<Sandbox>, headers: HeaderMap, body: Bytes) -> Result<Answer, Answer> {
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let external_id = body["external_id"].as_str().unwrap_or_default().to_owned();
    let fate = admit(&sandbox, "POST /v1/businesses", &external_id, &headers).await?;
    let mut world = sandbox.world();
    if ["legal_name", "us_state", "entity_type"].iter().any(|f| !body[*f].is_string()) {
        return Err(refuse(400, "SpecifiedBadRequest"));
    }
    let phone = body["phone_number"].as_str().map(str::to_owned);
    let same_phone = |b: &LayerBusiness| phone.is_some() && b.phone == phone && b.external_id != external_id;
    if world.layer.values().any(|b| same_phone(b) && !b.archived) {
        return Err(refuse(400, "SpecifiedBadRequest"));
    }
    // The trap: an archived business with the same phone number is un-archived and returned, whoever it is.
    if let Some(other) = world.layer.values_mut().find(|b| same_phone(b)) {
        other.archived = false;
        let body = business_body(other);
        return Ok(ok(&world, 200, &body, &json!({})));
    }
    let (id, status) = match world.layer_by_external(&external_id) {
        Some(known) => (known.id.clone(), 200),
        None => (world.add_to_layer(LayerBusiness { external_id, phone, ..LayerBusiness::default() }), 201),
    };
    if status == 201
        && let Some(tokens) = tokens_of(&body)
        && let Err(refused) = replace(&mut world, &id, &tokens)
    {
        world.layer.remove(&id);
        return Err(refused);
    }
    let data = world.layer.get(&id).map(business_body).unwrap_or_default();
    Ok(if fate.lose_answer { cut() } else { ok(&world, status, &data, &json!({})) })
}

async fn update(
    State(sandbox): State<Sandbox>,
    headers: HeaderMap,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Answer, Answer> {
    let fate = admit(&sandbox, "PUT /v1/businesses/{id}", &id, &headers).await?;
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let answer = put_effect(&sandbox, &id, &body, &fate);
    if fate.hang_after {
        sandbox.until_lifted("PUT /v1/businesses/{id}").await;
    }
    answer
}

fn put_effect(sandbox: &Sandbox, id: &str, body: &Value, fate: &Fate) -> Result<Answer, Answer> {
    let mut world = sandbox.world();
    let tokens = tokens_of(body).ok_or_else(|| refuse(400, "SpecifiedBadRequest"))?;
    let before = world.layer.get(id).filter(|b| !b.archived).ok_or_else(no_business)?.rows.clone();
    world.counts.puts += 1;
    world.judge_put(id, &tokens);
    if !fate.not_applied {
        replace(&mut world, id, &tokens)?;
    }
    world.note_change(id, &before);
    if let (Some(lag), Some(business)) = (fate.lag, world.layer.get_mut(id)) {
        business.lagging = Some((Instant::now() + lag, before));
    }
    let data = world.layer.get(id).map(business_body).unwrap_or_default();
    Ok(if fate.lose_answer { cut() } else { ok(&world, 200, &data, &json!({})) })
}

/// The full replace: what the list leaves out is dropped; rows of Layer's own connection are not touched.
fn replace(world: &mut World, id: &str, tokens: &[String]) -> Result<(), Answer> {
    let usable = |w: &World, t: &str| w.minted.contains_key(t) && (!w.switches.layer_checks_tokens || w.is_alive(t));
    let bad = tokens.iter().any(|t| !usable(world, t));
    if bad && world.switches.bad_token == BadToken::FailsAll {
        world.counts.puts_refused += 1;
        if let Some(business) = world.layer.get_mut(id) {
            business.refused = true;
        }
        return Err(refuse(400, "SpecifiedBadRequest"));
    }
    let skips = world.switches.bad_token == BadToken::IsSkipped;
    let kept: Vec<(String, String)> = tokens
        .iter()
        .filter(|t| usable(world, t) || !skips)
        .map(|t| (t.clone(), world.minted.get(t).map_or_else(|| "unknown".to_owned(), |m| m.account.clone())))
        .collect();
    let fresh: Vec<String> = kept.iter().map(|_| world.uuid()).collect();
    let (archives, keeps_row) = (world.switches.removed_rows_stay_archived, world.switches.swap_keeps_row);
    let business = world.layer.get_mut(id).ok_or_else(no_business)?;
    let mut rows: Vec<Row> = business.rows.iter().filter(|r| r.token.is_none()).cloned().collect();
    let before: Vec<Row> = business.rows.iter().filter(|r| r.token.is_some()).cloned().collect();
    for ((token, account), fresh) in kept.into_iter().zip(fresh) {
        let same_token = before.iter().find(|r| r.token.as_ref() == Some(&token) && !r.archived);
        let same_account = before.iter().find(|r| keeps_row && r.account == account);
        let row_id = same_token.or(same_account).map_or(fresh, |r| r.id.clone());
        rows.push(Row { id: row_id, account, token: Some(token), archived: false });
    }
    if archives {
        let gone = before.into_iter().filter(|b| !rows.iter().any(|r| r.id == b.id)).collect::<Vec<_>>();
        rows.extend(gone.into_iter().map(|r| Row { archived: true, ..r }));
    }
    business.rows = rows;
    Ok(())
}

async fn list(
    State(sandbox): State<Sandbox>,
    headers: HeaderMap,
    Path(id): Path<String>,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Answer, Answer> {
    admit(&sandbox, "GET /v1/businesses/{id}/plaid/accounts", &id, &headers).await?;
    let mut world = sandbox.world();
    world.counts.lists += 1;
    let (shows, size) = (world.switches.list_shows, world.switches.list_page_size);
    let business = world.layer.get_mut(&id).filter(|b| !b.archived).ok_or_else(no_business)?;
    business.last_shown = business.shown().iter().filter(|r| !r.archived).filter_map(|r| r.token.clone()).collect();
    let rows: Vec<Value> = business.shown().iter().map(|r| row_body(r, shows)).collect();
    if size == 0 {
        return Ok(ok(&world, 200, &Value::Array(rows), &json!({})));
    }
    let from: usize = query.get("cursor").and_then(|c| c.parse().ok()).unwrap_or(0);
    let page: Vec<Value> = rows.iter().skip(from).take(size).cloned().collect();
    let has_more = from + size < rows.len();
    let cursor = has_more.then(|| (from + size).to_string());
    Ok(ok(&world, 200, &Value::Array(page), &json!({"pagination": {"cursor": cursor, "has_more": has_more}})))
}

fn row_body(row: &Row, shows: Shows) -> Value {
    let mut body = json!({
        "id": row.id, "plaid_account_id": row.account, "status": if row.archived { "ARCHIVED" } else { "ACTIVE" },
        "mask": "0000", "name": "An account", "account_type": "DEPOSITORY", "subtype": "CHECKING",
        "connection_needs_repair_as_of": null, "ledger_account_id": null,
    });
    let Some(token) = &row.token else {
        body["type"] = "Plaid_Account_With_Item".into();
        return body;
    };
    body["type"] = "Plaid_Account_With_Processor_Token".into();
    match shows {
        Shows::Full => body["plaid_processor_token"] = token.as_str().into(),
        Shows::Masked => {
            let tail: String = token.chars().skip(token.len().saturating_sub(4)).collect();
            body["plaid_processor_token"] = format!("****{tail}").into();
        }
        Shows::Omitted => {}
    }
    body
}
