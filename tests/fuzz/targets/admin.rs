//! The admin API, in process: a request line and header lines, an empty line, the body.

use super::{body, clean, head, runtime};
use crate::fuzz;
use axum::Router;
use axum::body::Body;
use axum::http::Request;
use console::{AdminTokens, new_token};
use domain::Fingerprinter;
use http_body_util::BodyExt;
use rekey::config::load_text;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;
use store::{KeyRing, Store};
use tower::ServiceExt;

async fn api(folder: &std::path::Path) -> (Router, String) {
    let settings = store::Settings {
        url: format!("sqlite://{}", folder.join("store.sqlite").display()).into(),
        connections: 2,
        acquire_timeout: Duration::from_secs(5),
    };
    let keys = KeyRing::parse(&rekey::cli::sealing_key().into()).unwrap();
    let store = Store::open(&settings, "outcomes", keys, Fingerprinter::new(1, &[7; 32])).await.unwrap();
    let (token, hash) = new_token();
    let tokens = AdminTokens::parse([format!("fuzz:operate:{hash}").as_str()]).unwrap();
    let config = load_text("fuzz.toml", "", &BTreeMap::new()).unwrap();
    let settings = console::Settings { push_wait: Duration::ZERO, max_wait: Duration::ZERO, ..config.console };
    let policy = config.layer.policy();
    let stop = tokio_util::sync::CancellationToken::new();
    (console::parts(store, tokens, settings, policy, stop).0, token)
}

/// Never 500; every error is JSON that says what to do; the access token that was sent is in no answer (I3), and neither
/// is what stood in the query.
#[test]
fn admin_request() {
    let (runtime, folder) = (runtime(), tempfile::tempdir().unwrap());
    let (api, token) = runtime.block_on(api(folder.path()));
    let deep = [b"PUT /v1/items/i?timeout=0\n\n".to_vec(), vec![b'['; 200_000]].concat();
    fuzz("admin_request", vec![deep], |input| {
        let lines = head(input);
        let Some((method, path)) = lines.first().and_then(|l| l.split_once(' ')) else { return Ok(()) };
        let (method, path) = (method.to_owned(), path.to_owned());
        let mut request = Request::builder().method(method.as_bytes()).uri(path.as_str());
        for (name, value) in lines.iter().skip(1).filter_map(|l| l.split_once(": ")) {
            request = request.header(name, value);
        }
        if !lines.iter().any(|l| l.starts_with("authorization")) {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let Ok(request) = request.body(Body::from(body(input).to_vec())) else { return Ok(()) };
        let sent = serde_json::from_slice::<Value>(body(input)).ok();
        let secret = sent.as_ref().and_then(|b| b["access_token"].as_str()).filter(|t| t.len() > 8);
        let (status, text) = runtime.block_on(async {
            let answer = api.clone().oneshot(request).await.unwrap();
            let status = answer.status().as_u16();
            (status, String::from_utf8_lossy(&answer.into_body().collect().await.unwrap().to_bytes()).into_owned())
        });
        if status >= 500 {
            return Err(format!("answered {status}: {text}"));
        }
        if secret.is_some_and(|s| text.contains(s)) {
            return Err(format!("I3: the token stands in {text}"));
        }
        if !(200..300).contains(&status) {
            clean("an error", &text)?;
            let said = serde_json::from_str::<Value>(&text).unwrap_or_default();
            if method != "HEAD" && !(said["error"].is_string() && said["message"].is_string()) {
                return Err(format!("{status} does not say what to do: {text}"));
            }
        }
        Ok(())
    });
}
