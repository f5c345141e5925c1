//! What a person can do on a page: each act is a call of the API as well, and a command of the same name. What changes much is
//! shown first: what would be sent, before anything is.

use super::frame::{Frame, refuse, render, shown};
use super::lists::List;
use super::path_to;
use super::session::{Session, encoded};
use crate::acts::{ActQuery, Ask, LIFTS_A_HOLD, Order, With, carry_out, subject_of, version_of};
use crate::auth::Caller;
use crate::error::ApiError;
use crate::explain::{BusinessExplained, ItemExplained};
use crate::providers::{self, Pause, ProviderOrder};
use crate::push::{PutItem, PutQuery};
use crate::{Console, dead_letters, erase};
use askama::Template;
use axum::Form;
use axum::extract::{Extension, Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use domain::item::ItemState;
use domain::work::{Block, Subject};
use domain::{ItemId, Provider, words};
use serde::Deserialize;

words!(
    /// What pages do besides the orders about rows and providers.
    PageAct {
        Erase => "erase",
        Dismiss => "dismiss",
        Put => "put",
        ReleaseAll => "release_all",
        CancelBatch => "cancel_batch",
    }
);

/// What was done just now, for the page that is shown then. A word of ours: no address can put another sentence into a page.
pub(super) fn told_of(word: &str) -> Option<&'static str> {
    let page = |act| match act {
        PageAct::Erase => "Erased: nothing is known of it any more.",
        PageAct::Dismiss => "Dismissed: it is off the list. The record stays where it is.",
        PageAct::Put => "Plaid proved the token: it is the Item's now.",
        PageAct::ReleaseAll => "Ordered: this page shows how far it is.",
        PageAct::CancelBatch => "Cancelled: no further row is released.",
    };
    let of_row = || Order::from_word(word).map(Order::done);
    let of_provider = || ProviderOrder::from_word(word).map(ProviderOrder::done);
    of_row().or_else(of_provider).or_else(|| PageAct::from_word(word).map(page))
}

/// Back to a page, which tells what was done.
pub(super) fn told(path: &str, word: &str) -> Response {
    Redirect::to(&format!("{path}?told={word}")).into_response()
}

/// A form that does something at once.
pub(super) struct ActForm {
    pub(super) path: String,
    pub(super) token: String,
    pub(super) name: &'static str,
    pub(super) effect: &'static str,
    pub(super) needs_reason: bool,
}

/// A link to what would come of something.
pub(super) struct ActLink {
    pub(super) path: String,
    pub(super) name: &'static str,
}

/// What this person can do about a row: nothing for those who may only read.
#[derive(Default)]
pub(super) struct Offered {
    pub(super) forms: Vec<ActForm>,
    pub(super) links: Vec<ActLink>,
    /// The form that takes an access token.
    pub(super) put: Option<ActForm>,
}

/// Somebody decides, and on what.
struct Desk<'a> {
    console: &'a Console,
    session: &'a Session,
    subject: &'a Subject,
    version: &'a str,
}

impl Desk<'_> {
    fn path(&self, act: &str) -> String {
        format!("/acts/{act}/{}/{}", self.subject.kind(), encoded(self.subject.id()))
    }

    fn form(&self, order: Order, name: &'static str) -> ActForm {
        ActForm {
            path: self.path(order.as_str()),
            token: self.session.form(self.console, order.as_str(), &self.subject.to_string(), self.version),
            name,
            effect: order.effect(),
            needs_reason: order.needs_reason(),
        }
    }

    fn link(&self, act: &str, name: &'static str) -> ActLink {
        ActLink { path: self.path(act), name }
    }
}

fn waits_for_a_person(by: Option<&str>) -> bool {
    by.is_some_and(|by| [Block::Hold.as_str(), Block::Parked.as_str()].contains(&by))
}

pub(super) fn of_business(console: &Console, session: &Session, subject: &Subject, it: &BusinessExplained) -> Offered {
    if !session.may_act {
        return Offered::default();
    }
    let desk = Desk { console, session, subject, version: &it.version };
    let by = it.blocked.as_ref().map(|b| b.by.as_str());
    let releases = waits_for_a_person(by) || it.kept_back.is_some();
    let mut release = releases.then(|| desk.form(Order::Release, "Release"));
    if let Some(release) = release.as_mut().filter(|_| it.kept_back.is_some()) {
        release.effect = LIFTS_A_HOLD;
    }
    let hold = it.kept_back.is_none().then(|| desk.link(Order::Hold.as_str(), "Hold it"));
    let erase = it.accounts.is_empty().then(|| desk.link(PageAct::Erase.as_str(), "Erase it"));
    let forms = release.into_iter().chain([desk.form(Order::Sync, "Look now")]).collect();
    Offered { forms, links: hold.into_iter().chain(erase).collect(), put: None }
}

pub(super) fn of_item(console: &Console, session: &Session, subject: &Subject, it: &ItemExplained) -> Offered {
    if !session.may_act {
        return Offered::default();
    }
    let desk = Desk { console, session, subject, version: &it.version };
    let by = it.work.as_ref().and_then(|w| w.blocked.as_ref()).map(|b| b.by.as_str());
    let is = |state: ItemState| it.item.state == state.as_str();
    let missed = it.at_plaid.as_ref().is_some_and(|at| at.missed);
    let mut forms = Vec::new();
    if waits_for_a_person(by) {
        forms.push(desk.form(Order::Release, "Release"));
    }
    forms.push(desk.form(Order::Sync, "Look now"));
    if missed {
        forms.push(desk.form(Order::Acknowledge, "Acknowledge the missed webhook"));
    }
    let mut links = Vec::new();
    if is(ItemState::Active) {
        links.push(desk.link(Order::Mint.as_str(), "Mint its tokens again"));
    }
    match is(ItemState::Removed) {
        true => links.push(desk.link(PageAct::Erase.as_str(), "Erase it")),
        false => links.push(desk.link(Order::Remove.as_str(), "Remove it")),
    }
    let put = (!is(ItemState::Active)).then(|| ActForm {
        path: format!("/items/{}/put", encoded(subject.id())),
        token: session.form(console, PageAct::Put.as_str(), &subject.to_string(), &it.version),
        name: "Give its access token",
        effect: "Plaid is asked whose token it is: only one of this Item is taken.",
        needs_reason: false,
    });
    Offered { forms, links, put }
}

/// A page that shows what would come of something, and does it.
#[derive(Template)]
#[template(path = "act.html")]
pub(super) struct ActPage {
    pub(super) frame: Frame,
    pub(super) title: String,
    pub(super) effect: String,
    /// What is known beside the lists.
    pub(super) facts: Vec<String>,
    pub(super) lists: Vec<List>,
    pub(super) form: ActForm,
    /// Of a token, a code or the like, which the form sends along.
    pub(super) about: String,
    pub(super) back: String,
}

#[derive(Deserialize)]
pub(super) struct About {
    #[serde(default)]
    pub(super) about: String,
    /// Where an account goes.
    #[serde(default)]
    pub(super) to: String,
}

/// What a form is bound to, besides its act.
fn bound(subject: &Subject, about: &str) -> String {
    if about.is_empty() { subject.to_string() } else { format!("{subject} {about}") }
}

/// Nobody who may only read, or comes with a form of another session, gets past this.
pub(super) fn allowed(session: &Session, back: &str) -> Result<(), Response> {
    if session.may_act {
        return Ok(());
    }
    let why = "This admin token may only read: sign in with one of the role operate.";
    Err(refuse(session, StatusCode::FORBIDDEN, "Refused", why, Some(back.to_owned())))
}

pub(super) fn not_of_this_session(session: &Session, back: String) -> Response {
    let why = "That form is too old, or not of this session: look again, then decide.";
    refuse(session, StatusCode::FORBIDDEN, "Not done", why, Some(back))
}

/// The version that a form was made on. Err: this person may only read, or it is not a form of this session's for this act.
pub(super) fn admitted(
    console: &Console,
    session: &Session,
    token: &str,
    [act, subject]: [&str; 2],
    back: &str,
) -> Result<String, Response> {
    allowed(session, back)?;
    let version = session.version_of(console, token, act, subject);
    version.ok_or_else(|| not_of_this_session(session, back.to_owned()))
}

pub(super) fn not_done(session: &Session, error: ApiError, back: String) -> Response {
    let (status, why) = error.for_people();
    refuse(session, status, "Not done", &why, Some(back))
}

pub(super) fn no_such_act(session: &Session) -> Response {
    refuse(session, StatusCode::NOT_FOUND, "Not found", "There is no such act.", None)
}

/// What would come of it.
pub(super) async fn preview(
    State(console): State<Console>,
    Extension(session): Extension<Session>,
    Extension(caller): Extension<Caller>,
    Path((act, kind, id)): Path<(String, String, String)>,
    Query(About { about, to }): Query<About>,
) -> Response {
    let about = if to.is_empty() { about } else { format!("{about} {}", to.trim()) };
    let Ok(subject) = subject_of(&kind, id) else { return no_such_act(&session) };
    let back = path_to(subject.kind().as_str(), subject.id());
    if let Err(refused) = allowed(&session, &back) {
        return refused;
    }
    let page = async {
        let version = version_of(&mut console.store.begin_read().await?, &subject).await?;
        let mut facts = Vec::new();
        let (effect, lists, needs_reason) = match (Order::from_word(&act), &*act) {
            (Some(order), _) => {
                let said = ActQuery { dry_run: true, ..ActQuery::default() };
                let ask = Ask { order, subject: &subject, with: With::of_page(order, &about)?, said };
                let acted = carry_out(&console, &caller, ask).await?;
                let heirs = acted.matched.iter().map(|m| {
                    format!(
                        "{} takes the place of {} in {} (by {})",
                        m.heir_id,
                        m.account_id,
                        m.business_id,
                        m.by.replace('_', " ")
                    )
                });
                let alone = acted.unmatched.iter().map(|id| format!("{id} leaves its list without an heir"));
                facts.extend(heirs.chain(alone));
                (acted.effect, acted.lists.iter().map(List::ahead).collect(), order.needs_reason())
            }
            (None, "erase") => {
                let said = ActQuery { dry_run: true, ..ActQuery::default() };
                erase::carry_out(&console, &caller, &subject, false, &said).await?;
                (
                    "Deletes every row about it. The audit trail keeps that it was, under a pseudonym.".into(),
                    vec![],
                    false,
                )
            }
            _ => return Err(ApiError::not_found("act", "go back, and look what can be done")),
        };
        let form = ActForm {
            path: format!("/acts/{act}/{}/{}", subject.kind(), encoded(subject.id())),
            token: session.form(&console, &act, &bound(&subject, &about), &version),
            name: "Do it",
            effect: "",
            needs_reason,
        };
        let title = format!("{}: {}", act.replace('_', " "), subject.id());
        let frame = Frame::new(&session, "");
        Ok(render(&ActPage { frame, title, effect, facts, lists, form, about, back }))
    };
    shown(&session, page.await)
}

#[derive(Deserialize)]
pub(super) struct Sent {
    pub(super) token: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    pub(super) about: String,
}

impl Sent {
    pub(super) fn reason(&self) -> Option<String> {
        Some(self.reason.clone()).filter(|r| !r.trim().is_empty())
    }
}

pub(super) async fn act(
    State(console): State<Console>,
    Extension(session): Extension<Session>,
    Extension(caller): Extension<Caller>,
    Path((act, kind, id)): Path<(String, String, String)>,
    Form(sent): Form<Sent>,
) -> Response {
    let Ok(subject) = subject_of(&kind, id) else { return no_such_act(&session) };
    let back = path_to(subject.kind().as_str(), subject.id());
    if let Err(refused) = allowed(&session, &back) {
        return refused;
    }
    let Some(version) = session.version_of(&console, &sent.token, &act, &bound(&subject, &sent.about)) else {
        return not_of_this_session(&session, back);
    };
    let reason = sent.reason();
    let done = match (Order::from_word(&act), &*act) {
        (Some(order), _) => {
            let said = ActQuery { reason, version: Some(version), ..ActQuery::default() };
            match With::of_page(order, &sent.about) {
                Ok(with) => {
                    let ask = Ask { order, subject: &subject, with, said };
                    carry_out(&console, &caller, ask).await.map(|_| told(&back, &act))
                }
                Err(error) => Err(error),
            }
        }
        (None, "erase") => {
            let said = ActQuery { reason, version: Some(version), ..ActQuery::default() };
            let erased = erase::carry_out(&console, &caller, &subject, false, &said).await;
            erased.map(|()| told("/", &act))
        }
        _ => return no_such_act(&session),
    };
    done.unwrap_or_else(|error| not_done(&session, error, back))
}

/// What this person can do about a provider.
pub(super) fn of_provider(console: &Console, session: &Session, provider: Provider, pause: Option<&Pause>) -> Offered {
    if !session.may_act {
        return Offered::default();
    }
    let path = |order: ProviderOrder| format!("/providers/{provider}/{order}");
    let form = |order: ProviderOrder, name| ActForm {
        path: path(order),
        token: session.form(console, order.as_str(), &format!("provider/{provider}"), &version_of_pause(pause)),
        name,
        effect: order.effect(),
        needs_reason: false,
    };
    let probe = || form(ProviderOrder::Probe, "Probe now");
    let resume = || form(ProviderOrder::Resume, "Resume");
    match pause {
        None => {
            let pause = ActLink { path: path(ProviderOrder::Pause), name: "Pause it" };
            Offered { links: vec![pause], ..Offered::default() }
        }
        Some(pause) => {
            let forms = pause.ordered_by.is_none().then(probe).into_iter().chain([resume()]).collect();
            Offered { forms, ..Offered::default() }
        }
    }
}

/// What an act on a provider rests on: a pause that a colleague has ordered since is none that was seen.
fn version_of_pause(pause: Option<&Pause>) -> String {
    pause.map_or_else(
        || "free".to_owned(),
        |p| {
            let by = p.ordered_by.as_deref().unwrap_or_default();
            format!("{}.{by}.{}", p.since, if by.is_empty() { "" } else { &p.reason })
        },
    )
}

async fn version_of_provider(console: &Console, provider: Provider) -> Result<String, ApiError> {
    let pauses = providers::paused(&mut console.store.begin_read().await?).await?;
    Ok(version_of_pause(pauses.iter().find(|p| p.provider == provider.as_str())))
}

pub(super) async fn preview_provider(
    State(console): State<Console>,
    Extension(session): Extension<Session>,
    Path((provider, order)): Path<(String, String)>,
) -> Response {
    if let Err(refused) = allowed(&session, "/") {
        return refused;
    }
    let (Some(provider), Some(order)) = (Provider::from_word(&provider), ProviderOrder::from_word(&order)) else {
        return no_such_act(&session);
    };
    let version = match version_of_provider(&console, provider).await {
        Ok(version) => version,
        Err(error) => return not_done(&session, error, "/".into()),
    };
    let form = ActForm {
        path: format!("/providers/{provider}/{order}"),
        token: session.form(&console, order.as_str(), &format!("provider/{provider}"), &version),
        name: "Do it",
        effect: "",
        needs_reason: order == ProviderOrder::Pause,
    };
    render(&ActPage {
        frame: Frame::new(&session, ""),
        title: format!("{order}: {provider}"),
        effect: order.effect().to_owned(),
        facts: Vec::new(),
        lists: Vec::new(),
        form,
        about: String::new(),
        back: "/".into(),
    })
}

pub(super) async fn act_on_provider(
    State(console): State<Console>,
    Extension(session): Extension<Session>,
    Extension(caller): Extension<Caller>,
    Path((provider, order)): Path<(String, String)>,
    Form(sent): Form<Sent>,
) -> Response {
    let (Some(provider), Some(order)) = (Provider::from_word(&provider), ProviderOrder::from_word(&order)) else {
        return no_such_act(&session);
    };
    let about = [order.as_str(), &format!("provider/{provider}")];
    let seen = match admitted(&console, &session, &sent.token, about, "/") {
        Ok(seen) => seen,
        Err(refused) => return refused,
    };
    match version_of_provider(&console, provider).await {
        Ok(version) if version == seen => {}
        Ok(_) => {
            let why = ApiError::conflict("somebody else has paused or resumed it since this page was made: look again");
            return not_done(&session, why, "/".into());
        }
        Err(error) => return not_done(&session, error, "/".into()),
    }
    let done = providers::carry_out(&console, &caller, provider, order, sent.reason().as_deref()).await;
    done.map_or_else(|error| not_done(&session, error, "/".into()), |()| told("/", order.as_str()))
}

/// The form that takes a dead letter off the list.
pub(super) fn of_dead_letter(console: &Console, session: &Session, id: &str) -> Option<ActForm> {
    session.may_act.then(|| ActForm {
        path: format!("/dead-letters/{}/dismiss", encoded(id)),
        token: session.form(console, PageAct::Dismiss.as_str(), &format!("dead-letter/{id}"), ""),
        name: "Dismiss",
        effect: "",
        needs_reason: false,
    })
}

pub(super) async fn dismiss(
    State(console): State<Console>,
    Extension(session): Extension<Session>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    Form(sent): Form<Sent>,
) -> Response {
    let back = "/flow".to_owned();
    let word = PageAct::Dismiss.as_str();
    if let Err(refused) = admitted(&console, &session, &sent.token, [word, &format!("dead-letter/{id}")], &back) {
        return refused;
    }
    let done = dead_letters::carry_out(&console, &caller, &id, sent.reason().as_deref()).await;
    done.map_or_else(|error| not_done(&session, error, back.clone()), |()| told(&back, word))
}

/// A form with an access token in it, which no page ever shows.
#[derive(Deserialize)]
pub(super) struct SentToken {
    token: String,
    access_token: String,
    #[serde(default)]
    business: String,
}

/// How long a page waits for Plaid's word on a token.
const PATIENCE: u32 = 8;

pub(super) async fn put(
    State(console): State<Console>,
    Extension(session): Extension<Session>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    Form(sent): Form<SentToken>,
) -> Response {
    let Ok(item) = ItemId::parse(id) else { return no_such_act(&session) };
    let subject = Subject::from(&item);
    let back = path_to(subject.kind().as_str(), subject.id());
    let word = PageAct::Put.as_str();
    if let Err(refused) = admitted(&console, &session, &sent.token, [word, &subject.to_string()], &back) {
        return refused;
    }
    let business = Some(sent.business.trim().to_owned()).filter(|b| !b.is_empty());
    let body = PutItem::of_token(sent.access_token.trim(), business);
    match console.push(&caller, item, &PutQuery::patient(PATIENCE), body).await {
        Ok((StatusCode::OK, answer)) if answer.is_current() => told(&back, word),
        Ok((StatusCode::OK, _)) => {
            let why = "A newer token is the Item's already: this one is not needed.";
            refuse(&session, StatusCode::OK, "Nothing to do", why, Some(back))
        }
        Ok(_) => {
            let why = "It is stored, and Plaid has not said yet whose token it is: the page of the Item tells.";
            refuse(&session, StatusCode::ACCEPTED, "Not known yet", why, Some(back))
        }
        Err(error) => not_done(&session, error, back),
    }
}
