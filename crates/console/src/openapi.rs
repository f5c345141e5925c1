//! The OpenAPI document: what is made of the handlers, completed by what holds for all of them; and what follows from it.

use crate::Console;
use crate::acts::Order;
use crate::batches::LONGEST_CODE;
use crate::error::ApiError;
use axum::extract::{MatchedPath, Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use domain::Provider;
use domain::accounts::SameBy;
use domain::foreseen::Would;
use domain::item::{ItemState, TokenStanding};
use domain::outcome::Outcome;
use domain::token_list::{RowStatus, TokenWord};
use domain::verdict::{Actor, Problem, State as VerdictState};
use domain::work::{BatchState, Block, Class, Kind};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Query parameters of each operation, by path and method.
pub(crate) type Parameters = BTreeMap<(String, String), BTreeSet<String>>;

/// The document as text, and the query parameters that it names.
pub(crate) fn describe(document: &utoipa::openapi::OpenApi) -> (String, Parameters) {
    let mut document = serde_json::to_value(document).unwrap_or_default();
    let mut parameters = Parameters::new();
    for (path, operations) in document.get_mut("paths").and_then(Value::as_object_mut).into_iter().flatten() {
        for (method, operation) in operations.as_object_mut().into_iter().flatten() {
            complete(operation, method);
            let named = operation["parameters"].as_array().into_iter().flatten().filter(|p| p["in"] == "query");
            let named = named.filter_map(|p| p["name"].as_str()).map(str::to_owned);
            parameters.insert((path.clone(), method.to_ascii_uppercase()), named.collect());
        }
    }
    for (schema, property, words) in CLOSED {
        if let Some(described) = document.pointer_mut(&format!("/components/schemas/{schema}/properties/{property}")) {
            let may_be_null = described["type"].as_array().is_some_and(|types| types.contains(&json!("null")));
            let words = words.iter().map(|word| json!(word)).chain(may_be_null.then_some(Value::Null));
            described["enum"] = words.collect();
        }
    }
    (serde_json::to_string_pretty(&document).unwrap_or_default(), parameters)
}

/// The document of this release, for whoever makes a client from it.
pub fn document() -> String {
    describe(&crate::api().into_openapi()).0
}

/// Properties that hold one of a few words.
const CLOSED: &[(&str, &str, &[&str])] = &[
    ("AccountLine", "problem", Problem::WORDS),
    ("Acted", "act", Order::WORDS),
    ("Acted", "kind", Kind::WORDS),
    ("Alike", "state", VerdictState::WORDS),
    ("Batch", "state", BatchState::WORDS),
    ("Blocked", "by", Block::WORDS),
    ("Due", "class", Class::WORDS),
    ("Due", "kind", Kind::WORDS),
    ("Hit", "by", &["access_token", "account_id", "id", "layer_id", "mask", "processor_token"]),
    ("Hit", "kind", Kind::WORDS),
    ("Item", "state", ItemState::WORDS),
    ("LayerRow", "status", RowStatus::WORDS),
    ("ItemAhead", "state", ItemState::WORDS),
    ("ItemAhead", "was", ItemState::WORDS),
    ("Matched", "by", SameBy::WORDS),
    ("NextList", "would", Would::WORDS),
    ("OutcomeView", "type", Outcome::WORDS),
    ("Parked", "kind", Kind::WORDS),
    ("Pause", "provider", Provider::WORDS),
    ("PlanView", "state", &["asked", "taken", "answered"]),
    ("PutAnswer", "token", &["accepted", "superseded", "pending", "not_sent"]),
    ("Stranger", "word", TokenWord::WORDS),
    ("Token", "standing", TokenStanding::WORDS),
    ("VerdictView", "next", Actor::WORDS),
    ("VerdictView", "state", VerdictState::WORDS),
    ("Waiting", "kind", Kind::WORDS),
    ("Work", "class", Class::WORDS),
    ("WrongView", "problem", Problem::WORDS),
];

/// Refusals that any call may meet.
const ALWAYS: &[u16] = &[400, 401, 429, 500, 503];
/// Refusals of calls that change something.
const WRITING: &[u16] = &[403];
/// Refusals of calls with a body.
const WITH_BODY: &[u16] = &[408, 413];

/// Lists whose cursors are ids of entries.
const BY_ID: &[&str] = &["listAudit", "listBatches", "listHistory", "listOutcomes"];
/// Acts that are shown to whoever meets what comes of them.
const WITH_REASON: &[&str] = &["holdBusiness", "pauseProvider"];

fn complete(operation: &mut Value, method: &str) {
    let name = operation["operationId"].as_str().unwrap_or_default().to_owned();
    // Not by `operation["parameters"]`, which makes a null of what is not there.
    for parameter in operation.get_mut("parameters").and_then(Value::as_array_mut).into_iter().flatten() {
        bound(parameter, &name);
    }
    let has_body = operation["requestBody"].is_object();
    let Some(responses) = operation.get_mut("responses").and_then(Value::as_object_mut) else { return };
    let writing = if method == "get" { &[][..] } else { WRITING };
    let with_body = if has_body { WITH_BODY } else { &[][..] };
    for status in ALWAYS.iter().chain(writing).chain(with_body) {
        let refusal = json!({"content": {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorBody"}}}});
        responses.entry(status.to_string()).or_insert(refusal);
    }
    for (status, response) in responses.iter_mut() {
        describe_response(status, response);
    }
}

/// Every response must say what it is.
fn describe_response(status: &str, response: &mut Value) {
    let Some(response) = response.as_object_mut() else { return };
    let is_described =
        |r: &Map<String, Value>| r.get("description").and_then(Value::as_str).is_some_and(|d| !d.is_empty());
    if !is_described(response) {
        let status = status.parse().ok().and_then(|code: u16| StatusCode::from_u16(code).ok());
        let reason = status.and_then(|status| status.canonical_reason()).unwrap_or("See the body");
        response.insert("description".into(), reason.into());
    }
}

/// What a parameter may be, as it is checked.
fn bound(parameter: &mut Value, operation: &str) {
    let limits = match parameter["name"].as_str() {
        Some("limit") => json!({"minimum": 1, "maximum": 500, "default": 100}),
        Some("after") if BY_ID.contains(&operation) => json!({"pattern": "^[0-9a-fA-F-]{36}$"}),
        Some("after") => json!({"pattern": "^[!-~]*$"}),
        Some("business") => json!({"minLength": 1, "maxLength": 256, "pattern": "^[!-~]+$"}),
        Some("by") => json!({"pattern": "^[^\\x00]*$"}),
        Some("item_id" | "business_id" | "account_id" | "heir_id" | "plan_id" | "batch_id" | "id") => {
            json!({"minLength": 1, "maxLength": 256, "pattern": "^[!-~]+$"})
        }
        Some("code") => json!({"minLength": 1, "maxLength": LONGEST_CODE, "pattern": "^[!-~]+$"}),
        Some("version") if operation == "releaseAll" => json!({"pattern": "^[0-9]{1,15}$"}),
        Some("kind") => json!({"enum": Kind::WORDS}),
        Some("verdict") => json!({"enum": VerdictState::WORDS}),
        Some("type") => json!({"enum": Outcome::WORDS}),
        Some("order") => json!({"enum": ["newest", "oldest"], "default": "newest"}),
        Some("subject") if ["listHistory", "listOutcomes"].contains(&operation) => {
            json!({"pattern": "^(item|business)/[!-~]+$"})
        }
        Some("subject") => json!({"pattern": "^(item|business|key|provider|dead-letter|batch)/[!-~]+$"}),
        Some("since") => json!({"format": "date-time"}),
        Some("fingerprint") => json!({"minLength": 1, "maxLength": 256, "pattern": "^[!-~]+$"}),
        Some("word") => json!({"enum": ["keep", "remove", "forget"]}),
        Some("provider") => json!({"enum": Provider::WORDS}),
        Some("timeout") => json!({"minimum": 0, "maximum": u32::MAX}),
        Some("reason") if WITH_REASON.contains(&operation) => {
            parameter["required"] = true.into();
            let line = r"^[^\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]*[^\s\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff][^\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]*$";
            json!({"type": "string", "minLength": 1, "maxLength": 500, "pattern": line})
        }
        Some("reason") => {
            json!({"maxLength": 500, "pattern": r"^[^\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]*$"})
        }
        Some("q") => json!({"maxLength": 256, "pattern": "^[^\\x00]*[^\\x00\\s][^\\x00]*$"}),
        _ => return,
    };
    let Some(schema) = parameter.get_mut("schema").and_then(Value::as_object_mut) else { return };
    for (name, limit) in limits.as_object().into_iter().flatten() {
        schema.insert(name.clone(), limit.clone());
    }
}

/// A query parameter that does not exist would be ignored, and the caller believe that it had an effect: `?verdcit=held` lists
/// everything.
pub(crate) async fn refuse_unknown_parameters(
    State(console): State<Console>,
    request: Request,
    next: Next,
) -> Response {
    let path = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let known = path.and_then(|path| console.parameters.get(&(path, request.method().to_string())));
    if let (Some(known), Some(query)) = (known, request.uri().query()) {
        let names = query.split('&').filter(|part| !part.is_empty()).map(|part| part.split('=').next().unwrap_or(part));
        // Not quoted: it may be a token in the wrong place.
        if names.into_iter().any(|name| !known.contains(name)) {
            let known: Vec<&str> = known.iter().map(String::as_str).collect();
            let takes = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return ApiError::bad_request(format!(
                "the query has a parameter that this call does not take: it takes {takes}"
            ))
            .into_response();
        }
    }
    next.run(request).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document() -> Value {
        serde_json::from_str(&describe(&crate::api().into_openapi()).0).unwrap()
    }

    #[test]
    fn each_operation_has_a_name_of_its_own_and_says_how_it_may_end() {
        let document = document();
        let mut names = BTreeSet::new();
        for (path, operations) in document["paths"].as_object().unwrap() {
            for (method, operation) in operations.as_object().unwrap() {
                let name = operation["operationId"].as_str().unwrap();
                assert!(names.insert(name.to_owned()), "{name} is the name of two operations");
                let responses = operation["responses"].as_object().unwrap();
                assert!(responses.contains_key("401") && responses.contains_key("429"), "{method} {path}");
                assert_eq!(responses.contains_key("403"), method != "get", "{method} {path}");
                for (status, response) in responses {
                    assert!(
                        response["description"].as_str().is_some_and(|d| !d.is_empty()),
                        "{method} {path} {status}"
                    );
                }
            }
        }
    }

    #[test]
    fn closed_sets_are_told_where_they_are() {
        let document = document();
        for (schema, property, words) in CLOSED {
            let told = &document["components"]["schemas"][schema]["properties"][property]["enum"];
            let told: Vec<&str> = told.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            assert_eq!(told, *words, "{schema}.{property}");
        }
    }
}
