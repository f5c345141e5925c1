//! What needs a person, grouped by cause; and the order for all of one cause: counted, given, watched, cancelled.

use super::acts::{About, ActForm, ActPage, PageAct, Sent, admitted, allowed, not_done, told};
use super::frame::{Frame, Live, refuse, render, shown};
use super::live::Of;
use super::session::{Session, encoded};
use super::{After, Told, path_to};
use crate::acts::Order;
use crate::auth::Caller;
use crate::batches::{self, AllQuery, Batch};
use crate::status::{self, Alike, Status};
use crate::view::{PageQuery, Parked};
use crate::{Console, parked};
use askama::Template;
use axum::Form;
use axum::extract::{Extension, Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use domain::{Millis, counted};
use std::collections::BTreeMap;
use std::time::Duration;

/// Rows that wait for a person for one reason.
struct Group {
    code: String,
    /// Some of them can be released. Otherwise there is nothing that could be done to the rows themselves.
    releasable: bool,
    why: String,
    since: String,
    rows: Vec<Named>,
    more: bool,
}

struct Named {
    path: String,
    name: String,
}

#[derive(Template)]
#[template(path = "needs.html")]
struct NeedsPage {
    frame: Frame,
    may_act: bool,
    /// What else wants a look: a path, and what is there.
    more: Vec<(&'static str, String)>,
    groups: Vec<Group>,
    waiting: Vec<Alike>,
    next: Option<String>,
    /// Orders for all of a cause that run, or have just ended; each with what cancels it.
    batches: Vec<(Batch, Option<ActForm>)>,
}

/// What wants a look beside rows that are kept.
fn more_of(status: &Status) -> Vec<(&'static str, String)> {
    let paused = status.pauses.iter().map(|p| ("/", format!("{} is paused: {}", p.provider, p.reason)));
    let counted = [
        (status.missed_webhooks, "/flow#missed", ["Item whose", "Items whose"], "last webhook never came"),
        (status.webhooks_elsewhere, "/flow#elsewhere", ["Item whose", "Items whose"], "webhooks go elsewhere"),
        (status.consents_ending, "/flow#consents", ["Item whose", "Items whose"], "consent ends within 30 days"),
        (
            status.dead_letters,
            "/flow#dead-letters",
            ["webhook or record", "webhooks or records"],
            "that nobody could read",
        ),
        (status.held_by_operators, "/flow#holds", ["business", "businesses"], "held by operators"),
    ];
    let counted = counted.into_iter().filter(|(n, ..)| *n > 0);
    let told = counted.map(|(n, path, [one, many], what)| (path, format!("{} {what}", domain::counted(n, one, many))));
    paused.chain(told).collect()
}

/// Orders for all of a cause are shown for so long after their end.
const SHOWN_FOR: Duration = Duration::from_hours(1);
/// Rows of a page that are grouped by cause.
const GROUPED: u32 = 500;

pub(super) async fn needs(
    State(console): State<Console>,
    Extension(session): Extension<Session>,
    Told(told): Told,
    Query(After { after }): Query<After>,
) -> Response {
    let page = async {
        let live = Live::of(&console, Of::Needs).await?;
        let mut tx = console.store.begin_read().await?;
        let query = PageQuery { after, limit: Some(GROUPED) };
        let mut rows = parked::kept(&mut tx, &query.page()?).await?;
        let more = rows.len() > GROUPED as usize;
        rows.truncate(GROUPED as usize);
        let next =
            rows.last().filter(|_| more).map(|kept| format!("/needs?after={}", encoded(&kept.row.subject.to_string())));
        let recent = tx.now().minus(SHOWN_FOR);
        let batches = tx.recent_batches(recent).await?.into_iter();
        drop(tx);
        let batches = batches.map(|batch| {
            let cancel = batch.ended_at.is_none().then(|| of_batch(&console, &session, &batch.id)).flatten();
            (Batch::from(batch), cancel)
        });
        let axum::Json(status) = status::status(State(console.clone())).await?;
        let mut groups: BTreeMap<String, Group> = BTreeMap::new();
        for kept in rows {
            let (code, releasable) = (kept.cause().to_owned(), kept.release_code().is_some());
            let (row, since) = (Parked::from(&kept), kept.since().map(Millis::rfc3339).unwrap_or_default());
            let why = row.work.blocked.map(|b| b.why).or(row.verdict.map(|v| v.why)).unwrap_or_default();
            let named = Named { path: path_to(&row.kind, &row.id), name: format!("{} {}", row.kind, row.id) };
            let first = Group { code: code.clone(), releasable, why, since: since.clone(), rows: Vec::new(), more };
            let group = groups.entry(code).or_insert(first);
            group.since = group.since.clone().min(since);
            group.releasable |= releasable;
            group.rows.push(named);
        }
        // Rekey is at work on these, or they are told above.
        let waits = |a: &Alike| !["converging", "provider_paused", "held", "parked"].contains(&a.state.as_str());
        let frame = Frame { live, told, ..Frame::new(&session, "/needs") };
        let mut groups: Vec<Group> = groups.into_values().collect();
        groups.sort_by_key(|group| std::cmp::Reverse(group.rows.len()));
        Ok(render(&NeedsPage {
            frame,
            may_act: session.may_act,
            more: more_of(&status),
            groups,
            waiting: status.businesses.into_iter().filter(waits).collect(),
            next,
            batches: batches.collect(),
        }))
    };
    shown(&session, page.await)
}

pub(super) async fn preview_all(
    State(console): State<Console>,
    Extension(session): Extension<Session>,
    Query(About { about, .. }): Query<About>,
) -> Response {
    if let Err(refused) = allowed(&session, "/needs") {
        return refused;
    }
    let page = async {
        let plan = batches::plan(&console, &about, None).await?;
        let left = [(plan.paused, "provider paused"), (plan.held, "held by an operator")];
        let left = left.iter().filter(|(n, _)| *n > 0).map(|(n, why)| format!(" {n} would be left alone ({why})."));
        let left: String = left.collect();
        if plan.eligible == 0 {
            let why = format!("No row can be released for {about}.{left}");
            return Ok(refuse(&session, StatusCode::OK, "Nothing to release", &why, Some("/needs".into())));
        }
        let effect = format!(
            "Releases {} for {about}.{left} {} Each is one of many: what people wait for goes first. It goes on in the background: \
             the page Needs a person shows how far it is, and cancels it.",
            counted(plan.eligible, "row that is kept", "rows that are kept"),
            Order::Release.effect(),
        );
        let form = ActForm {
            path: "/needs/release".into(),
            token: session.form(&console, PageAct::ReleaseAll.as_str(), &about, &plan.version),
            name: "Release all",
            effect: "",
            needs_reason: false,
        };
        let (title, frame) = (format!("release all of {about}"), Frame::new(&session, "/needs"));
        Ok(render(&ActPage {
            frame,
            title,
            effect,
            facts: Vec::new(),
            lists: Vec::new(),
            form,
            about,
            back: "/needs".into(),
        }))
    };
    shown(&session, page.await)
}

pub(super) async fn release_all(
    State(console): State<Console>,
    Extension(session): Extension<Session>,
    Extension(caller): Extension<Caller>,
    Form(sent): Form<Sent>,
) -> Response {
    let back = "/needs".to_owned();
    let word = PageAct::ReleaseAll.as_str();
    let version = match admitted(&console, &session, &sent.token, [word, &sent.about], &back) {
        Ok(version) => version,
        Err(refused) => return refused,
    };
    let (reason, code) = (sent.reason(), sent.about);
    let query = AllQuery { code, reason, dry_run: false, version: Some(version) };
    let ordered = batches::order(&console, &caller, &query).await;
    ordered.map_or_else(|error| not_done(&session, error, back.clone()), |_| told(&back, word))
}

/// The form that cancels a batch.
pub(super) fn of_batch(console: &Console, session: &Session, id: &str) -> Option<ActForm> {
    session.may_act.then(|| ActForm {
        path: format!("/batches/{}/cancel", encoded(id)),
        token: session.form(console, PageAct::CancelBatch.as_str(), &format!("batch/{id}"), ""),
        name: "Cancel",
        effect: "",
        needs_reason: false,
    })
}

pub(super) async fn cancel_batch(
    State(console): State<Console>,
    Extension(session): Extension<Session>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    Form(sent): Form<Sent>,
) -> Response {
    let back = "/needs".to_owned();
    let word = PageAct::CancelBatch.as_str();
    if let Err(refused) = admitted(&console, &session, &sent.token, [word, &format!("batch/{id}")], &back) {
        return refused;
    }
    let done = batches::cancelled(&console, &caller, &id).await;
    done.map_or_else(|error| not_done(&session, error, back.clone()), |_| told(&back, word))
}
