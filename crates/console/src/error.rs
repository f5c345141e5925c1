//! Errors of the admin API: what is wrong and what to do, never what was sent.

use axum::Json;
use axum::extract::{FromRequest, Request};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use domain::fault::chain;
use domain::ids::BadId;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::time::Duration;
use utoipa::ToSchema;

/// The body of every answer that is not a success.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ErrorBody {
    /// A word for programs.
    pub(crate) error: String,
    /// What is wrong, and what to do about it.
    pub(crate) message: String,
}

#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    body: ErrorBody,
}

impl ApiError {
    fn new(status: StatusCode, error: &str, message: impl Into<String>) -> Self {
        Self { status, body: ErrorBody { error: error.into(), message: message.into() } }
    }
    pub(crate) fn unauthorized() -> Self {
        let message = "send `Authorization: Bearer <admin token>` with a token whose hash is in console.tokens";
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
    }
    pub(crate) fn too_many_wrong_tokens(wait: Duration) -> Response {
        let message = "too many wrong tokens came from this address: wait, and check the token that is sent";
        let error = Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_wrong_tokens", message);
        ([(header::RETRY_AFTER, wait.as_secs().max(1).to_string())], error).into_response()
    }
    pub(crate) fn forbidden(name: &str) -> Self {
        let message = format!("the token {name} may only read: use one with the role operate");
        Self::new(StatusCode::FORBIDDEN, "forbidden", message)
    }
    pub(crate) fn not_found(what: &str, hint: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", format!("there is no such {what} here: {hint}"))
    }
    /// There is such a thing, and nothing of it that could be acted on.
    pub(crate) fn nothing_to_do(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", message)
    }
    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }
    pub(crate) fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", message)
    }
    pub(crate) fn busy(message: &str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", message)
    }
    /// It says something of the one row that was asked about.
    pub(crate) fn is_of_the_row(&self) -> bool {
        matches!(self.status, StatusCode::NOT_FOUND | StatusCode::CONFLICT)
    }
    /// It may work a moment later.
    pub(crate) fn is_passing(&self) -> bool {
        self.status == StatusCode::SERVICE_UNAVAILABLE
    }
    /// What is wrong, and what to do about it.
    pub(crate) fn message(&self) -> &str {
        &self.body.message
    }
    /// For a page.
    pub(crate) fn for_people(self) -> (StatusCode, String) {
        (self.status, self.body.message)
    }
    pub(crate) fn rejected(why: &str) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "token_rejected", why)
    }
    pub(crate) fn refused(why: &str) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "push_refused", why)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.status, Json(self.body)).into_response()
    }
}

impl From<BadId> for ApiError {
    fn from(error: BadId) -> Self {
        Self::bad_request(error.to_string())
    }
}

impl From<store::Error> for ApiError {
    fn from(error: store::Error) -> Self {
        if error.is_passing() {
            tracing::warn!(error = chain(&error), "the admin API has no database");
            let message = "the database does not answer: try again";
            return Self::new(StatusCode::SERVICE_UNAVAILABLE, "database_away", message);
        }
        tracing::error!(error = chain(&error), "the admin API failed");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "this should not happen: see the log of this process")
    }
}

/// What the framework refuses by itself (no such route or method, a path or query of the wrong form) gets the body that
/// every error has. Its own texts are dropped: they quote what was sent.
pub(crate) async fn explain_refusals(refused: Response) -> Response {
    let status = refused.status();
    let is_ours =
        |v: &header::HeaderValue| [&b"application/json"[..], b"text/html"].iter().any(|t| v.as_bytes().starts_with(t));
    if !status.is_client_error() || refused.headers().get(header::CONTENT_TYPE).is_some_and(is_ours) {
        return refused;
    }
    let (error, message) = match status {
        StatusCode::NOT_FOUND => ("no_route", "there is nothing at this path: see /openapi.json"),
        StatusCode::METHOD_NOT_ALLOWED => ("no_method", "this path does not take that method: see /openapi.json"),
        _ => ("bad_request", "the path or the query is not of the documented form: see /openapi.json"),
    };
    let mut answer = ApiError::new(status, error, message).into_response();
    if let Some(allow) = refused.headers().get(header::ALLOW) {
        answer.headers_mut().insert(header::ALLOW, allow.clone());
    }
    answer
}

/// A body that does not come holds a connection, of which there are so many.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// A JSON body. Its errors name the field and never quote a value: the value may be a token.
#[derive(Debug)]
pub(crate) struct Body<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let read = tokio::time::timeout(BODY_TIMEOUT, axum::body::Bytes::from_request(request, state));
        let late = |_| ApiError::new(StatusCode::REQUEST_TIMEOUT, "too_slow", "the body did not come within 10 s");
        let bytes = read.await.map_err(late)?.map_err(|error| match error.into_response().status() {
            StatusCode::PAYLOAD_TOO_LARGE => {
                ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", "the body is larger than 256 KiB")
            }
            _ => ApiError::bad_request("the body broke off"),
        })?;
        let mut json = serde_json::Deserializer::from_slice(&bytes);
        let body = serde_path_to_error::deserialize(&mut json).map_err(|error| {
            let path = error.path().to_string();
            ApiError::bad_request(explain(&path, error.inner()))
        })?;
        json.end().map_err(|_| ApiError::bad_request("there is something behind the JSON value of the body"))?;
        Ok(Self(body))
    }
}

fn explain(path: &str, error: &serde_json::Error) -> String {
    let place = format!("line {}, column {}", error.line(), error.column());
    // A name of the caller's own: a token may stand where its field should.
    let path = if domain::redact::shows_token(path) { "(not shown)" } else { path };
    let text = error.to_string();
    // These messages of serde name fields of ours; the others may quote what was sent.
    let named = ["missing field `", "unknown field `"].iter().find(|p| text.starts_with(**p));
    match named {
        Some(prefix) if prefix.starts_with("missing") => {
            let field: String = text[prefix.len()..].chars().take_while(|c| *c != '`').collect();
            format!("the field `{field}` is missing ({place})")
        }
        Some(_) => format!("there is an unknown field at `{path}` ({place}): see /openapi.json for the known ones"),
        None if error.is_data() => format!("the field `{path}` has the wrong type or form ({place})"),
        None => format!("the body is not JSON ({place})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "only its form matters")]
    struct Sample {
        access_token: String,
        business: String,
    }

    #[test]
    fn i3_an_error_names_the_field_and_never_quotes_the_body() {
        let explained = |text: &str| {
            let mut json = serde_json::Deserializer::from_str(text);
            let error = serde_path_to_error::deserialize::<_, Sample>(&mut json).unwrap_err();
            explain(&error.path().to_string(), error.inner())
        };
        let missing = explained(r#"{"access_token": "marked-secret"}"#);
        assert!(missing.contains("`business`") && !missing.contains("marked"), "{missing}");
        let wrong = explained(r#"{"access_token": ["marked-secret"], "business": "x"}"#);
        assert!(wrong.contains("access_token") && !wrong.contains("marked"), "{wrong}");
        let misplaced = explained(r#"{"access-sandbox-marked": 1}"#);
        assert!(misplaced.contains("unknown field") && !misplaced.contains("marked"), "{misplaced}");
        let garbage = explained("marked-secret");
        assert!(garbage.contains("not JSON") && !garbage.contains("marked"), "{garbage}");
    }
}
