//! Who looks at the pages: a sealed cookie, which an admin token buys. Nothing of a session is kept here, so every process of the
//! role knows each of them; it ends with its time, and with the admin token's line in `console.tokens`.

use super::frame::{Frame, refuse, render};
use crate::Console;
use crate::auth::{AdminRole, AdminToken, Caller, address, hash_token};
use askama::Template;
use axum::Form;
use axum::extract::{FromRequest, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};
use domain::secret::hex;
use rand::RngExt;
use serde::{Deserialize, Serialize};
use std::time::Instant;

/// Sent over TLS and to this machine only, to this host and no other, and by no request of another site.
const COOKIE: &str = "__Host-rekey";
const ATTRIBUTES: &str = "Path=/; Secure; HttpOnly; SameSite=Strict";
/// A working day.
const LASTS_SECONDS: i64 = 9 * 3600;
/// What of a page may be sent after so long is asked for again.
const FORM_SECONDS: i64 = 3600;
const PLACE: &str = "console/session";
const FORM_PLACE: &str = "console/form";

/// A person who is signed in.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Session {
    /// Binds forms to it.
    id: String,
    /// Of the admin token.
    hash: String,
    until: i64,
    #[serde(skip)]
    pub(super) name: String,
    #[serde(skip)]
    pub(super) may_act: bool,
}

/// What a form may do, and about what: nobody else can make one, and it fits no other session, act, row or moment.
#[derive(Debug, Serialize, Deserialize)]
struct FormToken {
    session: String,
    act: String,
    subject: String,
    version: String,
    until: i64,
}

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

impl Session {
    fn of(headers: &HeaderMap, console: &Console) -> Option<Self> {
        let cookies = headers.get_all(header::COOKIE).iter().filter_map(|v| v.to_str().ok());
        let mut pairs = cookies.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
        let (_, sealed) = pairs.find(|(name, _)| *name == COOKIE)?;
        let opened = console.store.open_sealed(PLACE, sealed)?;
        let session: Self = serde_json::from_str(&opened).ok().filter(|s: &Self| s.until > now())?;
        let owner = console.tokens.owner(&session.hash)?;
        Some(Self { name: owner.name.clone(), may_act: owner.role == AdminRole::Operate, ..session })
    }

    fn begin(owner: &AdminToken, hash: String) -> Self {
        let id = hex(&rand::rng().random::<[u8; 16]>());
        let may_act = owner.role == AdminRole::Operate;
        Self { id, hash, until: now() + LASTS_SECONDS, name: owner.name.clone(), may_act }
    }

    /// The token of a form.
    pub(super) fn form(&self, console: &Console, act: &str, subject: &str, version: &str) -> String {
        let [session, act, subject, version] = [&*self.id, act, subject, version].map(str::to_owned);
        let token = FormToken { session, act, subject, version, until: now() + FORM_SECONDS };
        let text = serde_json::to_string(&token).unwrap_or_default();
        console.store.seal_text(FORM_PLACE, &text).unwrap_or_default()
    }

    /// The version of the row that the form was made for. None: it is not a form of this session's for this act.
    pub(super) fn version_of(&self, console: &Console, token: &str, act: &str, subject: &str) -> Option<String> {
        let form: FormToken = serde_json::from_str(&console.store.open_sealed(FORM_PLACE, token)?).ok()?;
        let fits = form.session == self.id && form.act == act && form.subject == subject && form.until > now();
        fits.then_some(form.version)
    }
}

/// A request that changes something must come from a page of ours. What is no browser has nothing to do here: it has the API.
fn is_from_here(headers: &HeaderMap) -> bool {
    let text = |name: header::HeaderName| headers.get(name).and_then(|v| v.to_str().ok());
    let origin = || text(header::ORIGIN).and_then(|o| o.split_once("://")).map(|(_, host)| host);
    match headers.get("sec-fetch-site") {
        Some(site) => site == "same-origin",
        None => origin().is_some_and(|origin| Some(origin) == text(header::HOST)),
    }
}

/// Lets in who is signed in, and nobody from elsewhere.
pub(super) async fn signed_in(State(console): State<Console>, mut request: Request, next: Next) -> Response {
    let changes = request.method() != Method::GET && request.method() != Method::HEAD;
    let Some(session) = Session::of(request.headers(), &console) else {
        let path = request.uri().path_and_query().map_or("/", |p| p.as_str());
        let back = if changes { "/" } else { path };
        return Redirect::to(&format!("/sign-in?next={}", encoded(back))).into_response();
    };
    if changes && !is_from_here(request.headers()) {
        let why = "This did not come from a page of this console. Open the page and try again.";
        return refuse(&session, StatusCode::FORBIDDEN, "Refused", why, None);
    }
    let caller = Caller::new(session.name.clone(), address(&request));
    request.extensions_mut().insert(caller);
    request.extensions_mut().insert(session);
    next.run(request).await
}

#[derive(Template)]
#[template(path = "sign_in.html")]
struct SignIn {
    css: String,
    js: String,
    next: String,
    why: Option<&'static str>,
}

#[derive(Deserialize)]
pub(super) struct NextQuery {
    #[serde(default)]
    next: String,
}

pub(super) async fn sign_in_page(Query(query): Query<NextQuery>) -> Response {
    page(StatusCode::OK, &query.next, None)
}

fn page(status: StatusCode, next: &str, why: Option<&'static str>) -> Response {
    let (css, js) = Frame::assets();
    let page = SignIn { css, js, next: ours(next).to_owned(), why };
    (status, render(&page)).into_response()
}

/// Not to another site: `//elsewhere` is one, and so is `/\elsewhere` to a browser.
fn ours(path: &str) -> &str {
    let is_path = path.starts_with('/') && !path[1..].starts_with(['/', '\\']) && !path.contains(char::is_control);
    if is_path { path } else { "/" }
}

/// A segment of a path, or what stands in a query. A business may be called `org/42`.
pub(super) fn encoded(text: &str) -> String {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    let escaped = |b: u8| if is_plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") };
    text.bytes().map(escaped).collect()
}

#[derive(Deserialize)]
pub(super) struct Presented {
    token: String,
    #[serde(default)]
    next: String,
}

pub(super) async fn sign_in(State(console): State<Console>, request: Request) -> Response {
    let (peer, at) = (address(&request), Instant::now());
    if !is_from_here(request.headers()) {
        return page(
            StatusCode::FORBIDDEN,
            "/",
            Some(
                "That did not come from this page. Open it by https, or on this machine by http://localhost, and try again.",
            ),
        );
    }
    let Ok(Form(Presented { token, next })) = Form::from_request(request, &()).await else {
        return page(StatusCode::BAD_REQUEST, "/", Some("Give an admin token."));
    };
    let hash = hash_token(token.trim());
    let Some(owner) = console.tokens.owner(&hash) else {
        if console.attempts.wait(peer, at).is_some() {
            let why = "Too many wrong tokens came from this address: wait a minute.";
            return page(StatusCode::TOO_MANY_REQUESTS, &next, Some(why));
        }
        console.attempts.wrong(peer, at);
        tracing::warn!(%peer, "somebody tried to sign in with a wrong token");
        let why = "No line of console.tokens is that token's. What `rekey token new` prints behind `# token: ` is one.";
        return page(StatusCode::FORBIDDEN, &next, Some(why));
    };
    let session = Session::begin(owner, hash);
    tracing::info!(%peer, by = owner.name, "signed in at the console");
    let text = serde_json::to_string(&session).unwrap_or_default();
    let Ok(sealed) = console.store.seal_text(PLACE, &text) else {
        return page(StatusCode::INTERNAL_SERVER_ERROR, &next, Some("That did not work: see the log of this process."));
    };
    with_cookie(&format!("{COOKIE}={sealed}; Max-Age={LASTS_SECONDS}; {ATTRIBUTES}"), ours(&next))
}

pub(super) async fn sign_out() -> Response {
    with_cookie(&format!("{COOKIE}=; Max-Age=0; {ATTRIBUTES}"), "/sign-in")
}

fn with_cookie(cookie: &str, to: &str) -> Response {
    let mut answer = Redirect::to(to).into_response();
    if let Ok(cookie) = HeaderValue::from_str(cookie) {
        answer.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_goes_on_to_a_page_of_ours_only() {
        for (next, goes) in [
            ("/businesses/acme?x=1", "/businesses/acme?x=1"),
            ("//elsewhere.example", "/"),
            ("/\\elsewhere.example", "/"),
            ("https://elsewhere.example", "/"),
            ("/a\r\nset-cookie: x", "/"),
            ("", "/"),
        ] {
            assert_eq!(ours(next), goes, "{next:?}");
        }
    }

    #[test]
    fn what_another_site_sends_is_refused() {
        let headers = |named: &[(&'static str, &str)]| -> HeaderMap {
            let header = |(name, value): &(&'static str, &str)| {
                (header::HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
            };
            named.iter().map(header).collect()
        };
        let table: &[(&[(&'static str, &str)], bool)] = &[
            (&[("sec-fetch-site", "same-origin"), ("host", "a")], true),
            (&[("sec-fetch-site", "cross-site"), ("origin", "https://a"), ("host", "a")], false),
            (&[("sec-fetch-site", "same-site"), ("host", "a")], false),
            (&[("sec-fetch-site", "none"), ("host", "a")], false),
            (&[("origin", "https://a:8081"), ("host", "a:8081")], true),
            (&[("origin", "https://b"), ("host", "a")], false),
            (&[("origin", "null"), ("host", "a")], false),
            (&[("host", "a")], false),
        ];
        for (named, from_here) in table {
            assert_eq!(is_from_here(&headers(named)), *from_here, "{named:?}");
        }
    }
}
