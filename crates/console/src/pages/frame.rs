//! What stands around every page, and how a page becomes an answer.

use super::live::{self, Of};
use super::session::Session;
use crate::Console;
use crate::error::ApiError;
use askama::Template;
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Response};

pub(super) const CSS: &str = include_str!("../../assets/console.css");
pub(super) const JS: &str = include_str!("../../assets/console.js");
pub(super) const ICON: &str = include_str!("../../assets/icon.svg");

/// The menu, the search, who is signed in.
pub(super) struct Frame {
    pub(super) css: String,
    pub(super) js: String,
    pub(super) who: String,
    pub(super) role: &'static str,
    pub(super) here: &'static str,
    /// What was searched for.
    pub(super) asked: String,
    pub(super) live: Option<Live>,
    pub(super) told: Option<&'static str>,
    pub(super) now: jiff::Timestamp,
}

/// What a page shows, which it is told of when it changes.
pub(super) struct Live {
    pub(super) of: String,
    pub(super) seen: String,
}

/// A page in the menu.
pub(super) struct Place {
    pub(super) path: &'static str,
    pub(super) name: &'static str,
    pub(super) here: bool,
}

impl Live {
    /// To be asked before what is shown is read: a change in between is told.
    pub(super) async fn of(console: &Console, of: Of) -> Result<Option<Self>, ApiError> {
        Ok(Some(Self { seen: live::seen(console, &of).await?, of: of.to_string() }))
    }
}

impl Frame {
    /// `here`: the path of the page, if it is one of the menu's.
    pub(super) fn new(session: &Session, here: &'static str) -> Self {
        let (css, js) = Self::assets();
        Self {
            css,
            js,
            who: session.name.clone(),
            role: if session.may_act { "operate" } else { "read" },
            here,
            asked: String::new(),
            live: None,
            told: None,
            now: jiff::Timestamp::now(),
        }
    }

    /// The addresses of the style sheet and of the script. Each has its hash in it, so a release that changes one is not shown
    /// with the file of the release before.
    pub(super) fn assets() -> (String, String) {
        let of = |name: &str, text: &str| format!("/assets/{name}?{}", &crate::hash_token(text)[..12]);
        (of("console.css", CSS), of("console.js", JS))
    }

    pub(super) fn pages(&self) -> Vec<Place> {
        let place = |(path, name): (&'static str, &'static str)| Place { path, name, here: path == self.here };
        let all = [
            ("/", "Status"),
            ("/needs", "Needs a person"),
            ("/businesses", "Businesses"),
            ("/items", "Items"),
            ("/flow", "Flow"),
            ("/audit", "Audit"),
        ];
        all.map(place).into()
    }

    pub(super) fn age(&self, at: &str) -> String {
        domain::time::age(at, self.now).unwrap_or_else(|| at.to_owned())
    }

    /// `in 20s`; what is past is due now.
    pub(super) fn until(&self, at: &str) -> String {
        let told = self.age(at);
        if told.starts_with("in ") { told } else { "now".to_owned() }
    }

    pub(super) fn counted(&self, n: &impl std::fmt::Display, one: &str, many: &str) -> String {
        domain::counted(n, one, many)
    }

    pub(super) fn span(&self, seconds: &u64) -> String {
        domain::time::span(*seconds)
    }
}

pub(super) fn render(page: &impl Template) -> Response {
    match page.render() {
        Ok(html) => Html(html).into_response(),
        Err(error) => {
            tracing::error!(%error, "a page could not be made");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// A page that says why something was not done.
#[derive(Template)]
#[template(path = "refused.html")]
struct Refused {
    frame: Frame,
    title: &'static str,
    why: String,
    back: Option<String>,
}

pub(super) fn refuse(
    session: &Session,
    status: StatusCode,
    title: &'static str,
    why: &str,
    back: Option<String>,
) -> Response {
    let page = Refused { frame: Frame::new(session, ""), title, why: why.to_owned(), back };
    (status, render(&page)).into_response()
}

/// A page, or why there is none.
pub(super) fn shown(session: &Session, page: Result<Response, ApiError>) -> Response {
    page.unwrap_or_else(|error| {
        let (status, why) = error.for_people();
        refuse(session, status, "There is nothing to show", &why, None)
    })
}
