//! What Plaid and Layer answer, through the clients themselves: the input is the answer of every endpoint.

use super::{body, clean, head, runtime};
use crate::{Verdict, fuzz};
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::Response;
use axum::response::IntoResponse;
use domain::fault::chain;
use domain::{AccessToken, LayerId, ProcessorToken};
use rekey::config::{Config, load_text};
use rekey::wiring::{layer_client, plaid_client};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// What is answered next: `status: 400` and other header lines, an empty line, the body.
#[derive(Clone, Default)]
struct Provider {
    input: Arc<Mutex<Vec<u8>>>,
    pages: Arc<Mutex<u32>>,
}

impl Provider {
    fn start(runtime: &tokio::runtime::Runtime) -> (Self, String) {
        let provider = Self::default();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let limits =
            web::Limits { connections: 16, header_read: Duration::from_secs(5), drain: Duration::from_millis(10) };
        let routes = Router::new().fallback(answer).with_state(provider.clone());
        runtime.spawn(web::serve(listener, routes, limits, web::Readiness::default(), CancellationToken::new()));
        (provider, base)
    }

    fn will_answer(&self, input: &[u8]) {
        *self.input.lock().unwrap() = input.to_vec();
        *self.pages.lock().unwrap() = 0;
    }
}

async fn answer(State(provider): State<Provider>, request: Request) -> Response<Body> {
    let input = provider.input.lock().unwrap().clone();
    let lines = head(&input);
    let fuzzed_login = lines.iter().any(|l| l == "login");
    if request.uri().path() == "/oauth2/token" && !fuzzed_login {
        return r#"{"access_token":"bearer","expires_in":3600}"#.into_response();
    }
    if request.uri().query().is_some_and(|q| q.starts_with("cursor=")) {
        // A list that never ends is bounded by its pages, not by time.
        let mut pages = provider.pages.lock().unwrap();
        *pages += 1;
        if *pages > 3 {
            return "[]".into_response();
        }
    }
    let mut answer = Response::builder();
    for line in &lines {
        answer = match line.split_once(": ") {
            Some(("status", code)) => answer.status(code.parse().unwrap_or(200).clamp(200, 599)),
            // The length is the server's to say.
            Some((name, value)) if !name.eq_ignore_ascii_case("content-length") && is_header(name, value) => {
                answer.header(name, value)
            }
            _ => answer,
        };
    }
    answer.body(Body::from(body(&input).to_vec())).unwrap_or_default()
}

fn is_header(name: &str, value: &str) -> bool {
    let known = ["retry-after", "x-ratelimit-remaining", "content-type"];
    known.contains(&name.to_ascii_lowercase().as_str()) && axum::http::HeaderValue::from_str(value).is_ok()
}

/// Both providers at one address.
fn config(base: &str) -> Config {
    let text = format!(
        "[plaid]\nbase_url = \"{base}\"\nclient_id = \"c\"\nsecret = \"s\"\ntimeout = \"2s\"\n\
         [layer]\nbase_url = \"{base}\"\ntoken_url = \"{base}/oauth2/token\"\nclient_id = \"c\"\n\
         client_secret = \"s\"\ntimeout = \"2s\"\n"
    );
    load_text("fuzz.toml", &text, &BTreeMap::new()).unwrap()
}

/// I3: whatever a provider says, an error tells where and what code, and shows nothing of the body.
fn judge<T, E: std::error::Error + 'static>(code: impl Fn(&E) -> String, outcome: Result<T, E>) -> Verdict {
    let Err(error) = outcome else { return Ok(()) };
    clean("an error", &chain(&error))?;
    clean("an error", &format!("{error:?}"))?;
    clean("a code", &code(&error))
}

#[test]
fn plaid_answer() {
    let runtime = runtime();
    let (provider, base) = Provider::start(&runtime);
    let client = plaid_client(&config(&base), Duration::from_secs(2)).unwrap();
    let (token, account) = (AccessToken::new("t"), "account-1".parse().unwrap());
    let code = |e: &plaid::Error| format!("{} {:?} {}", e.code(), e.meaning(), e.may_have_happened());
    fuzz("plaid_answer", vec![[b"{\"item\":".to_vec(), vec![b'['; 200_000]].concat()], |input| {
        provider.will_answer(input);
        runtime.block_on(async {
            judge(code, client.item_get(&token).await)?;
            judge(code, client.accounts_get(&token).await)?;
            judge(code, client.processor_token_create(&token, &account).await)?;
            judge(code, client.processor_token_health(&ProcessorToken::new("p")).await)?;
            judge(code, client.probe().await)
        })
    });
}

#[test]
fn layer_answer() {
    let runtime = runtime();
    let (provider, base) = Provider::start(&runtime);
    let new = || layer_client(&config(&base)).unwrap();
    let id: LayerId = "11111111-2222-4333-8444-555555555555".parse().unwrap();
    let (tokens, details) = (vec![ProcessorToken::new("p")], serde_json::Map::new());
    let code = |e: &layer::Error| format!("{} {:?} {}", e.code(), e.meaning(), e.may_have_happened());
    let known = new();
    fuzz("layer_answer", vec![[b"{\"data\":".to_vec(), vec![b'['; 200_000]].concat()], |input| {
        provider.will_answer(input);
        // A new client has no bearer token yet, so that the login is answered with the input as well.
        let fresh = head(input).iter().any(|l| l == "login").then(new);
        let client = fresh.as_ref().unwrap_or(&known);
        runtime.block_on(async {
            judge(code, client.find_business("acme").await)?;
            judge(code, client.business_exists(&id).await)?;
            judge(code, client.create_business(&details, "acme", &tokens).await)?;
            let end = Instant::now() + Duration::from_secs(60);
            judge(code, client.put_tokens(&id, &tokens, end).await)?;
            judge(code, client.probe().await)?;
            judge(code, client.next_page(&id, &mut layer::PagedList::default()).await)
        })
    });
}
