//! What a person can do on a page: each act is a call of the API as well, and a command of the same name.

use super::frame::refuse;
use super::session::Session;
use super::{path_to, told};
use crate::Console;
use crate::acts::{Order, carry_out};
use crate::auth::Caller;
use axum::Form;
use axum::extract::{Extension, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use domain::work::{Block, Kind, Subject};
use serde::Deserialize;

/// A form.
pub(super) struct ActForm {
    pub(super) path: String,
    pub(super) token: String,
    pub(super) name: &'static str,
    pub(super) effect: &'static str,
}

/// What this person can do about a row that was explained: nothing for those who may only read. `by`: what keeps it.
pub(super) fn offered(
    console: &Console,
    session: &Session,
    subject: &Subject,
    version: &str,
    by: Option<&str>,
) -> Vec<ActForm> {
    if !session.may_act {
        return Vec::new();
    }
    let form = |act: &'static str, name, effect| ActForm {
        path: format!("/acts/{act}/{}/{}", subject.kind(), super::session::encoded(subject.id())),
        token: session.form(console, act, &subject.to_string(), version),
        name,
        effect,
    };
    let sync = form("sync", "Look now", "Asks Plaid and Layer now, and sends what is not right. Nothing is forced.");
    let effect = "Lets it go on, on the truth of that moment. What a guard held back is permitted once.";
    let waits_for_person = by.is_some_and(|by| [Block::Hold.as_str(), Block::Parked.as_str()].contains(&by));
    let release = waits_for_person.then(|| form("release", "Release", effect));
    release.into_iter().chain([sync]).collect()
}

#[derive(Deserialize)]
pub(super) struct Sent {
    token: String,
    #[serde(default)]
    reason: String,
}

pub(super) async fn act(
    State(console): State<Console>,
    Extension(session): Extension<Session>,
    Extension(caller): Extension<Caller>,
    Path((act, kind, id)): Path<(String, String, String)>,
    Form(sent): Form<Sent>,
) -> Response {
    let order = Order::from_word(&act);
    let subject = Kind::from_word(&kind).map(|kind| Subject::parse(kind, id));
    let (Some(order), Some(Ok(subject))) = (order, subject) else {
        return refuse(&session, StatusCode::NOT_FOUND, "Not found", "There is no such act.", None);
    };
    let back = path_to(subject.kind().as_str(), subject.id());
    if !session.may_act {
        let why = "This admin token may only read: sign in with one of the role operate.";
        return refuse(&session, StatusCode::FORBIDDEN, "Refused", why, Some(back));
    }
    let Some(version) = session.version_of(&console, &sent.token, &act, &subject.to_string()) else {
        let why = "That form is too old, or not of this session: look again, then decide.";
        return refuse(&session, StatusCode::FORBIDDEN, "Not done", why, Some(back));
    };
    let reason = Some(sent.reason).filter(|r| !r.trim().is_empty());
    match carry_out(&console, &caller, order, &subject, reason.as_deref(), Some(&version)).await {
        Ok(()) => told(&back, order).into_response(),
        Err(error) => {
            let (status, why) = error.for_people();
            refuse(&session, status, "Not done", &why, Some(back))
        }
    }
}
