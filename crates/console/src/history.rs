//! What happened to a business or an Item, with what operators did to it: the timeline.

use crate::Console;
use crate::error::{ApiError, ErrorBody};
use crate::view::{PageQuery, Paged, point_in_time};
use axum::Json;
use axum::extract::{Query, State};
use domain::work::{Kind, Subject};
use domain::{Millis, counted};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use store::{AuditEntry, AuditFilter, HistoryEntry, Page, Tx};
use utoipa::{IntoParams, ToSchema};

/// Something that happened.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Happened {
    pub(crate) id: String,
    pub(crate) at: String,
    /// `item/ID` or `business/ID`.
    pub(crate) subject: String,
    /// The type of the outcome, `rekey.reconciled`, or the act of an operator such as `parked.release`.
    pub(crate) what: String,
    /// The admin token of whoever did it; null where Rekey did.
    pub(crate) by: Option<String>,
    /// One line for a person.
    pub(crate) text: String,
    #[schema(value_type = Object)]
    pub(crate) detail: Value,
    /// The trace that it is part of: log lines name it.
    pub(crate) trace: Option<String>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct HistoryQuery {
    /// The `next` of the page before.
    after: Option<String>,
    /// At most this many entries, 1 to 500; 100 when not given.
    limit: Option<u32>,
    /// What it happened to: `item/ID` or `business/ID`. That of an erased one is found by its id.
    subject: String,
    /// Only what is not older than this point in time (RFC 3339).
    since: Option<String>,
}

/// What happened to a business, with its Items (the first 50 by id), or to an Item, and what operators did to it; the newest first.
#[utoipa::path(get, operation_id = "listHistory", path = "/v1/history", params(HistoryQuery),
    responses((status = 200, body = Paged<Happened>), (status = 400, body = ErrorBody)))]
pub(crate) async fn list(
    State(console): State<Console>,
    Query(query): Query<HistoryQuery>,
) -> Result<Json<Paged<Happened>>, ApiError> {
    let HistoryQuery { after, limit, subject, since } = query;
    let since = since.as_deref().map(point_in_time).transpose()?;
    let subject = named(&subject)?;
    let pages = PageQuery::of_entries(after, limit)?;
    let mut tx = console.store.begin_read().await?;
    let happened = timeline(&mut tx, &subject, &pages.page()?).await?;
    let at = |h: &Happened| point_in_time(&h.at).unwrap_or(Millis(i64::MAX));
    Ok(Json(Paged::new(happened, &pages, |h| h.id.clone()).since(since, at)))
}

/// A subject as a caller names it.
pub(crate) fn named(subject: &str) -> Result<Subject, ApiError> {
    let named = subject.split_once('/').and_then(|(kind, id)| Some((Kind::from_word(kind)?, id)));
    let (kind, id) = named.ok_or_else(|| ApiError::bad_request("`subject` is `item/ID` or `business/ID`"))?;
    Ok(Subject::parse(kind, id)?)
}

/// Items of a business whose history is told with its own.
pub(crate) const ITEMS: usize = 50;

/// The newest first. Ids of both kinds of entries begin with their time, so they are one order.
pub(crate) async fn timeline(tx: &mut Tx, subject: &Subject, page: &Page) -> Result<Vec<Happened>, store::Error> {
    let mut subjects = vec![subject.clone()];
    if let Subject::Business(business) = subject {
        subjects.extend(tx.items_in(business, ITEMS).await?.iter().map(Subject::from));
    }
    let mut told: Vec<Happened> = tx.history(&subjects, page).await?.into_iter().map(Happened::from).collect();
    let filter = AuditFilter { subject: Some(subject.to_string()), by: None };
    for act in tx.audit_page(&filter, page).await? {
        let json = |text: Option<String>| text.and_then(|t| serde_json::from_str(&t).ok()).unwrap_or(Value::Null);
        told.push(Happened {
            text: act_in_words(&act),
            id: act.id,
            at: act.at.rfc3339(),
            subject: act.subject,
            what: act.action,
            by: Some(act.by),
            detail: serde_json::json!({"was": json(act.was), "became": json(act.became)}),
            trace: None,
        });
    }
    told.sort_by(|a, b| b.id.cmp(&a.id));
    told.truncate(page.limit as usize);
    Ok(told)
}

/// With what was decided, and why.
fn act_in_words(act: &AuditEntry) -> String {
    let became: Value = act.became.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let said = ["word", "token", "reason"].iter().filter_map(|name| became.get(name)?.as_str());
    let said: Vec<&str> = said.collect();
    let told = format!("{} by {}", act.action, act.by);
    if said.is_empty() { told } else { format!("{told}: {}", said.join(", ")) }
}

impl From<HistoryEntry> for Happened {
    fn from(entry: HistoryEntry) -> Self {
        let HistoryEntry { id, at, subject, what, detail, trace } = entry;
        Self { text: sentence(&what, &detail), id, at: at.rfc3339(), subject, what, by: None, detail, trace }
    }
}

/// One line for a person.
pub(crate) fn sentence(what: &str, detail: &Value) -> String {
    let text = |name: &str| detail[name].as_str().unwrap_or_default();
    let number = |name: &str| detail[name].as_u64().unwrap_or_default();
    let because = |told: String| match text("why") {
        "" => told,
        why => format!("{told}: {why}"),
    };
    match what {
        "rekey.reconciled" => {
            let step = |step: &Value| {
                let times = step["times"].as_u64().filter(|n| *n > 1).map_or(String::new(), |n| format!(" {n} times"));
                let outcome =
                    step["outcome"].as_str().filter(|o| *o != "ok").map_or(String::new(), |o| format!(" ({o})"));
                format!("{}{times}{outcome}", step["step"].as_str().unwrap_or_default())
            };
            let steps: Vec<String> = detail["steps"].as_array().into_iter().flatten().map(step).collect();
            let did = if steps.is_empty() { "no call".to_owned() } else { steps.join(", ") };
            let ended = match text("ended") {
                "done" => String::new(),
                ended => because(format!("; {ended}")),
            };
            format!("reconciled in {} ms because of {}: {did}{ended}", number("took_ms"), text("because"))
        }
        "rekey.business.list_accepted" => {
            let read =
                if detail["verified"] == true { "and showed it" } else { "and does not show enough to read it back" };
            let listed = counted(number("listed"), "token", "tokens");
            let (added, replaced) = (number("added"), number("replaced"));
            let (removed, left_out) = (number("removed"), number("left_out"));
            // Before there was such a word, nothing could be.
            let discarded = match detail["discarded"].as_u64() {
                Some(n) if n > 0 => format!(", {n} removed by an operator's word"),
                _ => String::new(),
            };
            format!(
                "Layer took a list of {listed} {read}: {added} added, {replaced} replaced, {removed} removed, {left_out} left \
                 out{discarded}"
            )
        }
        "rekey.business.verdict_changed" => {
            because(format!("{} -> {}", detail["was"].as_str().unwrap_or("new"), text("state")))
        }
        "rekey.item.state_changed" => because(format!("{} -> {}", text("from"), text("to"))),
        "rekey.item.token_changed" => "a new access token was proved and taken".to_owned(),
        "rekey.item.token_rejected" => because("an access token was refused".to_owned()),
        "rekey.item.push_refused" => because("a push was refused".to_owned()),
        "rekey.account.changed" => because(format!("account {} {}", text("account_id"), text("change"))),
        "rekey.item.access_ends" => format!("Plaid announced that access ends ({})", text("kind")),
        "rekey.business.plan" => match (detail["would_mint"].as_array(), detail["would_list"].as_u64()) {
            (Some(accounts), _) => {
                format!("observe mode: {} would be minted", counted(accounts.len(), "token", "tokens"))
            }
            (_, Some(listed)) => {
                format!("observe mode: a list of {} would be sent", counted(listed, "token", "tokens"))
            }
            _ => "observe mode: something would be done".to_owned(),
        },
        "rekey.business.held" => because("held".to_owned()),
        "rekey.parked" => because("parked".to_owned()),
        "rekey.business.drift" => because("the list at Layer is another one than it was to be".to_owned()),
        other => because(other.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::sentence;
    use serde_json::json;

    #[test]
    fn what_happened_is_one_line() {
        let steps = json!([{"step": "read accounts", "outcome": "ok", "times": 1}, {"step": "mint", "outcome": "X", "times": 3}]);
        let reconciled =
            |ended: &str| json!({"because": "a push", "took_ms": 7, "ended": ended, "why": "Y", "steps": steps});
        let table = [
            (
                "rekey.reconciled",
                reconciled("done"),
                "reconciled in 7 ms because of a push: read accounts, mint 3 times (X)",
            ),
            (
                "rekey.reconciled",
                reconciled("backoff"),
                "reconciled in 7 ms because of a push: read accounts, mint 3 times (X); backoff: Y",
            ),
            ("rekey.business.verdict_changed", json!({"was": null, "state": "partly", "why": "Z"}), "new -> partly: Z"),
            ("rekey.of.a.newer.release", json!({}), "rekey.of.a.newer.release"),
            ("rekey.of.a.newer.release", json!(null), "rekey.of.a.newer.release"),
        ];
        for (what, detail, expected) in table {
            assert_eq!(sentence(what, &detail), expected);
        }
    }
}
