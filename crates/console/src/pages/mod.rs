//! Pages for a browser: what the API says, for people. Made here, shown without a script, and nothing in them comes from
//! elsewhere.

mod acts;
mod frame;
mod lists;
mod live;
mod needs;
mod plan;
mod session;

pub(crate) use live::MOST as MOST_WATCHED;

use crate::at_plaid::{self, AtPlaid};
use crate::audit::{self, AuditQuery, Entry};
use crate::dead_letters::{self, DeadLetter};
use crate::explain::{self, BusinessExplained, ItemExplained};
use crate::find::{self, FindQuery};
use crate::parked::{self, HeldByOperator, UnknownItem};
use crate::providers::Pause;
use crate::status::{self, Alike, Status};
use crate::upkeep::{self, Budget, Orphan};
use crate::view::{ItemsQuery, PageQuery, Paged, StateQuery, VerdictView};
use crate::{Console, businesses, items};
use acts::{ActForm, Offered};
use askama::Template;
use axum::Router;
use axum::extract::{Extension, FromRequestParts, Path, Query, State};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::{from_fn_with_state, map_response};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use domain::verdict::State as VerdictState;
use domain::work::{Kind, Subject};
use domain::{BusinessId, ItemId, Provider};
use frame::{CSS, Frame, ICON, JS, Live, render, shown};
use lists::List;
use live::Of;
use serde::Deserialize;
use session::{Session, encoded};
use std::convert::Infallible;

/// Nothing but what comes from here, no script or style within a page, and no page within another one.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; \
    form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

pub(crate) fn routes(console: &Console) -> Router<Console> {
    let behind_a_door = Router::new()
        .route("/", get(status_page))
        .route("/needs", get(needs::needs))
        .route("/businesses", get(business_list))
        .route("/businesses/{id}", get(business))
        .route("/businesses/{id}/plan", post(plan::plan))
        .route("/items", get(item_list))
        .route("/items/{id}", get(item))
        .route("/flow", get(flow))
        .route("/audit", get(audit_page))
        .route("/search", get(search))
        .route("/live", get(live::live))
        .route("/acts/{act}/{kind}/{id}", get(acts::preview).post(acts::act))
        .route("/providers/{provider}/{order}", get(acts::preview_provider).post(acts::act_on_provider))
        .route("/dead-letters/{id}/dismiss", post(acts::dismiss))
        .route("/items/{id}/put", post(acts::put))
        .route("/needs/release", get(needs::preview_all).post(needs::release_all))
        .route("/batches/{id}/cancel", post(needs::cancel_batch))
        .route("/sign-out", post(session::sign_out))
        .route_layer(from_fn_with_state(console.clone(), session::signed_in));
    Router::new()
        .route("/sign-in", get(session::sign_in_page).post(session::sign_in))
        .route("/assets/console.css", get(|| async { asset("text/css; charset=utf-8", CSS) }))
        .route("/assets/icon.svg", get(|| async { asset("image/svg+xml", ICON) }))
        .route("/assets/console.js", get(|| async { asset("text/javascript; charset=utf-8", JS) }))
        .merge(behind_a_door)
        .route_layer(map_response(guarded))
}

/// What every answer to a browser says about itself.
async fn guarded(mut answer: Response) -> Response {
    let headers = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "same-origin"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ];
    for (name, value) in headers {
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    // A page is about a moment, and of somebody who is signed in.
    answer.headers_mut().entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    answer
}

/// Kept by the browser: what changes has another address.
fn asset(kind: &'static str, text: &'static str) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "public, max-age=31536000, immutable")], text)
}

/// The page of a business or an Item.
fn path_to(kind: &str, id: &str) -> String {
    let pages = if kind == Kind::Item.as_str() { "items" } else { "businesses" };
    format!("/{pages}/{}", encoded(id))
}

#[derive(Deserialize)]
struct ToldQuery {
    told: Option<String>,
}

/// What was done just now, in words. A link from elsewhere could claim anything, so it is told only to whoever comes from a page
/// of ours.
struct Told(Option<&'static str>);

impl<S: Sync> FromRequestParts<S> for Told {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let comes_from_here = parts.headers.get("sec-fetch-site").is_none_or(|site| site == "same-origin");
        let claimed = Query::<ToldQuery>::try_from_uri(&parts.uri).ok().and_then(|query| query.0.told);
        Ok(Self(claimed.filter(|_| comes_from_here).as_deref().and_then(acts::told_of)))
    }
}

#[derive(Template)]
#[template(path = "status.html")]
struct StatusPage {
    frame: Frame,
    status: Status,
    /// Title, path, and what is not right.
    parts: Vec<(&'static str, &'static str, Vec<Alike>)>,
    /// Each with its pause, if it is paused, and what can be done about it.
    providers: Vec<(&'static str, Option<Pause>, Offered)>,
    slowed: Vec<String>,
}

async fn status_page(
    State(console): State<Console>,
    Extension(session): Extension<Session>,
    Told(told): Told,
) -> Response {
    let page = async {
        let live = Live::of(&console, Of::Status).await?;
        let axum::Json(mut status) = status::status(State(console.clone())).await?;
        let axum::Json(budgets) = upkeep::budgets(State(console.clone())).await?;
        let slowed = budgets
            .iter()
            .filter_map(|b| Some(format!("{}: slowed to {:.0} % of its rate by a 429", b.call, b.slowed_to? * 100.0)));
        let parts = vec![
            ("Businesses", "/businesses", std::mem::take(&mut status.businesses)),
            ("Items", "/items", std::mem::take(&mut status.items)),
        ];
        let mut pauses = std::mem::take(&mut status.pauses);
        let providers = Provider::ALL.iter().map(|provider| {
            let at = pauses.iter().position(|p| p.provider == provider.as_str());
            let pause = at.map(|at| pauses.swap_remove(at));
            let offered = acts::of_provider(&console, &session, *provider, pause.as_ref());
            (provider.as_str(), pause, offered)
        });
        let providers = providers.collect();
        let frame = Frame { live, told, ..Frame::new(&session, "/") };
        Ok(render(&StatusPage { slowed: slowed.collect(), frame, status, parts, providers }))
    };
    shown(&session, page.await)
}

/// A page of a list begins behind this.
#[derive(Deserialize)]
struct After {
    after: Option<String>,
}

/// A row of a list.
struct Row {
    id: String,
    path: String,
    verdict: Option<VerdictView>,
}

#[derive(Template)]
#[template(path = "list.html")]
struct ListPage {
    frame: Frame,
    title: &'static str,
    path: &'static str,
    /// Each with whether it is chosen.
    states: Vec<(&'static str, bool)>,
    rows: Vec<Row>,
    next: Option<String>,
}

#[derive(Deserialize)]
struct ListQuery {
    #[serde(default)]
    verdict: String,
    after: Option<String>,
}

impl ListQuery {
    fn state(&self) -> Query<StateQuery> {
        let verdict = Some(self.verdict.clone()).filter(|v| !v.is_empty());
        Query(StateQuery { after: self.after.clone(), limit: Some(100), verdict })
    }

    /// `row`: the id of an entry, and how it stands.
    fn page<T>(
        &self,
        session: &Session,
        kind: Kind,
        page: Paged<T>,
        row: fn(T) -> (String, Option<VerdictView>),
    ) -> Response {
        let (title, path) = match kind {
            Kind::Item => ("Items", "/items"),
            Kind::Business => ("Businesses", "/businesses"),
        };
        let rows = page.data.into_iter().map(row);
        let rows = rows.map(|(id, verdict)| Row { path: path_to(kind.as_str(), &id), id, verdict }).collect();
        let states = VerdictState::WORDS.iter().map(|word| (*word, *word == self.verdict)).collect();
        let next = page.next.map(|n| format!("{path}?verdict={}&after={}", encoded(&self.verdict), encoded(&n)));
        render(&ListPage { frame: Frame::new(session, path), title, path, states, rows, next })
    }
}

async fn business_list(
    State(console): State<Console>,
    Extension(session): Extension<Session>,
    Query(query): Query<ListQuery>,
) -> Response {
    let page = businesses::list(State(console), query.state()).await;
    let page = page.map(|p| query.page(&session, Kind::Business, p.0, |b| (b.business_id, b.verdict)));
    shown(&session, page)
}

async fn item_list(
    State(console): State<Console>,
    Extension(session): Extension<Session>,
    Query(query): Query<ListQuery>,
) -> Response {
    let Query(StateQuery { after, limit, verdict }) = query.state();
    let page = items::list(State(console), Query(ItemsQuery { after, limit, verdict, business: None })).await;
    let page = page.map(|p| query.page(&session, Kind::Item, p.0, |i| (i.item_id, i.verdict)));
    shown(&session, page)
}

#[derive(Template)]
#[template(path = "business.html")]
struct BusinessPage {
    frame: Frame,
    it: BusinessExplained,
    offered: Offered,
    list: List,
    /// Asks for a plan with live reads.
    plan: Option<ActForm>,
    may_act: bool,
    /// Where acts about its tokens begin and end.
    path: &'static str,
    of: String,
}

async fn business(
    State(console): State<Console>,
    Extension(session): Extension<Session>,
    Path(id): Path<String>,
    Told(told): Told,
) -> Response {
    let page = async {
        let subject = Subject::from(&BusinessId::parse(id.clone())?);
        let live = Live::of(&console, Of::Row(subject.clone())).await?;
        let axum::Json(it) = explain::business(State(console.clone()), Path(id)).await?;
        let offered = acts::of_business(&console, &session, &subject, &it);
        let frame = Frame { live, told, ..Frame::new(&session, "") };
        let list = List::of(&it.business_id, String::new(), &it.next_list);
        let plan = plan::plan_of(&console, &session, &subject, &it.version);
        let of = format!("/business/{}", encoded(&it.business_id));
        Ok(render(&BusinessPage { frame, offered, list, plan, may_act: session.may_act, path: "/acts/", of, it }))
    };
    shown(&session, page.await)
}

#[derive(Template)]
#[template(path = "item.html")]
struct ItemPage {
    frame: Frame,
    it: ItemExplained,
    offered: Offered,
    may_act: bool,
    /// Where acts about it begin and end.
    path: &'static str,
    of: String,
}

async fn item(
    State(console): State<Console>,
    Extension(session): Extension<Session>,
    Path(id): Path<String>,
    Told(told): Told,
) -> Response {
    let page = async {
        let subject = Subject::from(&ItemId::parse(id.clone())?);
        let live = Live::of(&console, Of::Row(subject.clone())).await?;
        let axum::Json(it) = explain::item(State(console.clone()), Path(id)).await?;
        let offered = acts::of_item(&console, &session, &subject, &it);
        let frame = Frame { live, told, ..Frame::new(&session, "") };
        let of = format!("/item/{}", encoded(&it.item.item_id));
        Ok(render(&ItemPage { frame, it, offered, may_act: session.may_act, path: "/acts/", of }))
    };
    shown(&session, page.await)
}

#[derive(Template)]
#[template(path = "flow.html")]
struct FlowPage {
    frame: Frame,
    budgets: Vec<Budget>,
    /// Commands that list more than stands here.
    longer: Vec<&'static str>,
    missed: Vec<AtPlaid>,
    elsewhere: Vec<AtPlaid>,
    consents: Vec<AtPlaid>,
    letters: Vec<(DeadLetter, Option<ActForm>)>,
    holds: Vec<HeldByOperator>,
    unknown: Vec<UnknownItem>,
    orphans: Vec<Orphan>,
}

async fn flow(State(console): State<Console>, Extension(session): Extension<Session>, Told(told): Told) -> Response {
    let page = async {
        let first = || Query(PageQuery { after: None, limit: Some(100) });
        let axum::Json(budgets) = upkeep::budgets(State(console.clone())).await?;
        let axum::Json(unknown) = parked::unknown_items(State(console.clone()), first()).await?;
        let axum::Json(orphans) = upkeep::orphans(State(console.clone()), first()).await?;
        let letters = dead_letters::list(State(console.clone()), first()).await?.0;
        let missed = at_plaid::missed(State(console.clone()), first()).await?.0;
        let elsewhere = at_plaid::elsewhere(State(console.clone()), first()).await?.0;
        let consents = at_plaid::consents(State(console.clone()), first()).await?.0;
        let holds = parked::holds(State(console.clone()), first()).await?.0;
        let nexts = [
            (&holds.next, "rekey business holds"),
            (&missed.next, "rekey item missed"),
            (&elsewhere.next, "rekey item elsewhere"),
            (&consents.next, "rekey item consents"),
            (&letters.next, "rekey dead-letters list"),
            (&unknown.next, "rekey item unknown"),
            (&orphans.next, "rekey item orphans"),
        ];
        let longer = nexts.into_iter().filter(|(next, _)| next.is_some()).map(|(_, command)| command).collect();
        let letters = letters.data.into_iter().map(|l| {
            let form = acts::of_dead_letter(&console, &session, &l.id);
            (l, form)
        });
        Ok(render(&FlowPage {
            frame: Frame { told, ..Frame::new(&session, "/flow") },
            budgets,
            longer,
            missed: missed.data,
            elsewhere: elsewhere.data,
            consents: consents.data,
            letters: letters.collect(),
            holds: holds.data,
            unknown: unknown.data,
            orphans: orphans.data,
        }))
    };
    shown(&session, page.await)
}

#[derive(Template)]
#[template(path = "audit.html")]
struct AuditPage {
    frame: Frame,
    entries: Vec<Entry>,
    next: Option<String>,
}

async fn audit_page(
    State(console): State<Console>,
    Extension(session): Extension<Session>,
    Query(After { after, .. }): Query<After>,
) -> Response {
    let page = async {
        let query = AuditQuery { after, limit: Some(100), subject: None, by: None, since: None };
        let axum::Json(page) = audit::list(State(console.clone()), Query(query)).await?;
        let frame = Frame::new(&session, "/audit");
        let next = page.next.map(|next| format!("/audit?after={}", encoded(&next)));
        Ok(render(&AuditPage { frame, entries: page.data, next }))
    };
    shown(&session, page.await)
}

#[derive(Template)]
#[template(path = "found.html")]
struct FoundPage {
    frame: Frame,
    /// Path, name, and by what it was found.
    hits: Vec<(String, String, String)>,
    more: bool,
}

async fn search(
    State(console): State<Console>,
    Extension(session): Extension<Session>,
    Query(query): Query<FindQuery>,
) -> Response {
    let asked = query.q.clone();
    let page = async {
        let axum::Json(found) = find::find(State(console.clone()), Query(query)).await?;
        let hit = |h: find::Hit| (path_to(&h.kind, &h.id), format!("{} {}", h.kind, h.id), h.by.replace('_', " "));
        let hits: Vec<_> = found.data.into_iter().map(hit).collect();
        if let [(path, ..)] = &hits[..] {
            return Ok(Redirect::to(path).into_response());
        }
        let frame = Frame { asked, ..Frame::new(&session, "") };
        Ok(render(&FoundPage { frame, hits, more: found.more }))
    };
    shown(&session, page.await)
}
