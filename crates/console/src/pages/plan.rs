//! The page of a plan: what a reconciliation would do now, by live reads.

use super::acts::{ActForm, Sent, admitted, no_such_act, not_done};
use super::frame::{Frame, render};
use super::lists::List;
use super::path_to;
use super::session::{Session, encoded};
use crate::Console;
use crate::acts::subject_of;
use crate::plans::{self, PlanView};
use askama::Template;
use axum::Form;
use axum::extract::{Extension, Path, State};
use axum::response::Response;
use domain::work::{Class, Subject};
use std::time::Duration;

const PLAN: &str = "plan";
/// How long a page waits for a plan: a business with many Items takes longer, and is asked for once more.
const PLAN_WAIT: Duration = Duration::from_secs(25);

/// The form that asks what a reconciliation would do now.
pub(super) fn plan_of(console: &Console, session: &Session, subject: &Subject, version: &str) -> Option<ActForm> {
    session.may_act.then(|| ActForm {
        path: format!("/businesses/{}/plan", encoded(subject.id())),
        token: session.form(console, PLAN, &subject.to_string(), version),
        name: "Plan with live reads",
        effect: "Asks Plaid and Layer now what a reconciliation would find, and shows what it would mint and send. Nothing is changed.",
        needs_reason: false,
    })
}

#[derive(Template)]
#[template(path = "plan.html")]
struct PlanPage {
    frame: Frame,
    it: PlanView,
    list: Option<List>,
    back: String,
}

/// What a reconciliation would do now.
pub(super) async fn plan(
    State(console): State<Console>,
    Extension(session): Extension<Session>,
    Path(id): Path<String>,
    Form(sent): Form<Sent>,
) -> Response {
    let Ok(subject) = subject_of("business", id) else { return no_such_act(&session) };
    let Subject::Business(business) = &subject else { return no_such_act(&session) };
    let back = path_to(subject.kind().as_str(), subject.id());
    if let Err(refused) = admitted(&console, &session, &sent.token, [PLAN, &subject.to_string()], &back) {
        return refused;
    }
    let made = async {
        let id = plans::begin(&console, business, Class::Person).await?;
        plans::wait(&console, &id, PLAN_WAIT).await
    };
    let it = match made.await {
        Ok(it) => it,
        Err(error) => return not_done(&session, error, back),
    };
    let list = it.next_list.as_ref().map(|next| List::of(&it.business_id, back.clone(), next));
    render(&PlanPage { frame: Frame::new(&session, ""), it, list, back })
}
