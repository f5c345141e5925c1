//! The next list of a business, in words.

use super::path_to;
use crate::acts::ListAhead;
use crate::explain::NextList;
use domain::counted;
use domain::work::Kind;

/// The next list of a business, in words.
pub(super) struct List {
    pub(super) business: String,
    pub(super) path: String,
    pub(super) sentence: String,
    pub(super) diff: Vec<(&'static str, Vec<String>)>,
}

impl List {
    /// `path`: where the business is shown; empty on that page itself.
    pub(super) fn of(business: &str, path: String, next: &NextList) -> Self {
        let (sentence, diff) = told(next);
        Self { business: business.to_owned(), path, sentence, diff }
    }

    pub(super) fn ahead(list: &ListAhead) -> Self {
        Self::of(&list.business_id, path_to(Kind::Business.as_str(), &list.business_id), &list.next_list)
    }
}

fn told(next: &NextList) -> (String, Vec<(&'static str, Vec<String>)>) {
    let why = next.why.clone().unwrap_or_default();
    let sentence = match next.would.as_str() {
        "nothing" if next.why.is_some() => format!("It is the one that Layer has: nothing would be sent. {why}."),
        "nothing" => "It is the one that Layer has: nothing would be sent.".to_owned(),
        "put" => format!("{} would be sent.", counted(next.tokens.unwrap_or_default(), "token", "tokens")),
        "wait" => format!("It waits: {why}."),
        "hold" => format!("A guard would hold it: {why}."),
        // What only a plan with live reads can say.
        "create" => format!("The business would be created: {why}."),
        "parked" => format!("It would need a person: {why}."),
        "retry" => format!("It would be tried again: {why}."),
        _ => format!("It is not known: {why}."),
    };
    let parts = [
        ("added", &next.added),
        ("replaced", &next.replaced),
        ("removed", &next.removed),
        ("removed by an operator's word", &next.discarded),
        ("left out until new tokens are minted", &next.left_out),
        ("left out because somebody archived them at Layer", &next.archived),
    ];
    (sentence, parts.into_iter().filter(|(_, ids)| !ids.is_empty()).map(|(word, ids)| (word, ids.clone())).collect())
}
