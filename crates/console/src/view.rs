//! What callers see. Nothing here has a field that could hold a token.

use crate::error::ApiError;
use domain::Millis;
use domain::queue::Row;
use domain::verdict::State;
use serde::{Deserialize, Serialize};
use store::{AccountRow, BusinessRow, ItemRow, Judged, TokenView};
use utoipa::{IntoParams, ToSchema};

/// A page of a list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct PageQuery {
    /// The `next` of the page before.
    pub(crate) after: Option<String>,
    /// At most this many entries, 1 to 500; 100 when not given.
    pub(crate) limit: Option<u32>,
}

/// Entries of a page.
const MOST_ENTRIES: u32 = 500;

fn not_a_cursor() -> ApiError {
    ApiError::bad_request("`after` is not a cursor: send the `next` of the page before")
}

impl PageQuery {
    /// One more than asked, to know whether there is a next page.
    pub(crate) fn page(&self) -> Result<store::Page, ApiError> {
        if self.after.as_ref().is_some_and(|a| !a.chars().all(|c| c.is_ascii_graphic())) {
            return Err(not_a_cursor());
        }
        if self.limit.is_some_and(|limit| !(1..=MOST_ENTRIES).contains(&limit)) {
            return Err(ApiError::bad_request(format!("`limit` is 1 to {MOST_ENTRIES}")));
        }
        let after = self.after.clone().filter(|after| !after.is_empty());
        Ok(store::Page { after, limit: self.limit() + 1 })
    }
    /// Of entries whose cursor is the id of one. Anything else would be compared with ids all the same, and answer some page.
    pub(crate) fn of_entries(after: Option<String>, limit: Option<u32>) -> Result<Self, ApiError> {
        let is_id = |a: &String| a.len() == 36 && a.chars().all(|c| c.is_ascii_hexdigit() || c == '-');
        if after.as_ref().is_some_and(|a| !is_id(a)) {
            return Err(not_a_cursor());
        }
        Ok(Self { after, limit })
    }
    pub(crate) fn limit(&self) -> u32 {
        self.limit.unwrap_or(100).clamp(1, MOST_ENTRIES)
    }
}

/// A page of the rows in this state.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct StateQuery {
    /// The `next` of the page before.
    pub(crate) after: Option<String>,
    /// At most this many entries, 1 to 500; 100 when not given.
    pub(crate) limit: Option<u32>,
    /// Only those whose verdict is in this state, such as `partly`.
    pub(crate) verdict: Option<String>,
}

/// A page of the Items in this state, or of this business.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ItemsQuery {
    /// The `next` of the page before.
    pub(crate) after: Option<String>,
    /// At most this many entries, 1 to 500; 100 when not given.
    pub(crate) limit: Option<u32>,
    /// Only those whose verdict is in this state, such as `partly`.
    pub(crate) verdict: Option<String>,
    /// Only those with an account in this business, or on its way there or from there.
    pub(crate) business: Option<String>,
}

impl StateQuery {
    pub(crate) fn page_query(&self) -> PageQuery {
        PageQuery { after: self.after.clone(), limit: self.limit }
    }

    pub(crate) fn state(&self) -> Result<Option<State>, ApiError> {
        let Some(word) = &self.verdict else { return Ok(None) };
        let unknown = || ApiError::bad_request(format!("`verdict` is none of {}", State::WORDS.join(", ")));
        State::from_word(word).map(Some).ok_or_else(unknown)
    }
}

/// Entries, and where the next page begins.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Paged<T> {
    pub(crate) data: Vec<T>,
    /// Send it as `after` to get the next page; null on the last one.
    pub(crate) next: Option<String>,
}

impl<T> Paged<T> {
    pub(crate) fn new(mut data: Vec<T>, query: &PageQuery, cursor: impl Fn(&T) -> String) -> Self {
        let limit = query.limit() as usize;
        let more = data.len() > limit;
        data.truncate(limit);
        let next = if more { data.last().map(cursor) } else { None };
        Self { data, next }
    }

    /// Of entries with the newest first, those that are not older than `since`.
    pub(crate) fn since(mut self, since: Option<Millis>, at: impl Fn(&T) -> Millis) -> Self {
        let Some(since) = since else { return self };
        let before = self.data.len();
        self.data.retain(|entry| at(entry) >= since);
        if self.data.len() < before {
            self.next = None;
        }
        self
    }

    pub(crate) fn map<U>(self, of: impl Fn(T) -> U) -> Paged<U> {
        Paged { data: self.data.into_iter().map(of).collect(), next: self.next }
    }
}

/// A point in time as a caller writes it.
pub(crate) fn point_in_time(text: &str) -> Result<Millis, ApiError> {
    let parsed = text.parse::<jiff::Timestamp>();
    let at = parsed.map_err(|_| ApiError::bad_request("`since` is a point in time, such as 2026-01-31T09:00:00Z"))?;
    Ok(Millis(at.as_millisecond()))
}

/// When a row is looked at next, and what keeps it from going on.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Work {
    pub(crate) due_at: Option<String>,
    pub(crate) class: String,
    /// Why it was made due last.
    pub(crate) reason: String,
    /// Events so far, and how many of them the last finished reconciliation had seen.
    pub(crate) wanted: i64,
    pub(crate) done: i64,
    pub(crate) failures_in_a_row: u32,
    pub(crate) looked_at: Option<String>,
    pub(crate) being_looked_at: bool,
    pub(crate) blocked: Option<Blocked>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Blocked {
    /// `backoff`, `pause`, `hold` or `parked`.
    pub(crate) by: String,
    pub(crate) code: String,
    /// What happened, and what a person can do.
    pub(crate) why: String,
    pub(crate) since: Option<String>,
}

/// How a business or an Item stands: what every other surface shows as well.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct VerdictView {
    /// `converged`, `empty` and `gone` are good; the others are `converging`, `partly`, `refused`, `awaiting_token`,
    /// `waiting_for_user`, `unassigned`, `provider_paused`, `held`, `parked`, `unverified` and `unknown`.
    pub(crate) state: String,
    /// Since when it is in this state.
    pub(crate) since: String,
    /// One line for a person.
    pub(crate) why: String,
    /// Who acts next: `nobody`, `rekey`, `platform`, `customer` or `operator`.
    pub(crate) next: String,
    /// When Rekey acts, if it is Rekey's turn.
    pub(crate) next_at: Option<String>,
    /// Accounts that belong here, and how many of them are right.
    pub(crate) accounts: usize,
    pub(crate) right: usize,
    /// Those that are not.
    pub(crate) wrong: Vec<WrongView>,
}

/// An account that is not right, or an Item whose accounts nobody has read.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WrongView {
    pub(crate) item_id: String,
    pub(crate) account_id: Option<String>,
    /// `item_pending`, `not_minted`, `not_listed`, `moving`, `missing`, `archived`, `mint_refused`, `awaiting_token`,
    /// `waits_for_user`, `item_held` or `item_parked`.
    pub(crate) problem: String,
    /// The provider's code for it, or a word of Rekey's.
    pub(crate) code: Option<String>,
    pub(crate) why: String,
    pub(crate) again_at: Option<String>,
}

impl From<&Judged> for VerdictView {
    fn from(judged: &Judged) -> Self {
        let verdict = &judged.verdict;
        let wrong = verdict.wrong.iter().map(|w| WrongView {
            item_id: w.item.to_string(),
            account_id: w.account.as_ref().map(ToString::to_string),
            problem: w.problem.to_string(),
            code: w.code.clone(),
            why: w.problem.sentence().to_owned(),
            again_at: time(w.again_at),
        });
        Self {
            state: verdict.state.to_string(),
            since: judged.since.rfc3339(),
            why: verdict.sentence(),
            next: verdict.next.to_string(),
            next_at: time(verdict.next_at),
            accounts: verdict.accounts,
            right: verdict.right,
            wrong: wrong.collect(),
        }
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Item {
    pub(crate) item_id: String,
    /// `active`, `awaiting_token`, `login_required`, `revoked` or `removed`.
    pub(crate) state: String,
    pub(crate) why: Option<String>,
    pub(crate) since: String,
    pub(crate) business: Option<String>,
    /// Grows with every new access token.
    pub(crate) generation: i64,
    /// The Item whose place it takes once each of its accounts has a token.
    pub(crate) replaces: Option<String>,
    pub(crate) verdict: Option<VerdictView>,
}

/// An access token by its fingerprint.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Token {
    pub(crate) fingerprint: String,
    /// `candidate`, `current`, `rejected` or `superseded`.
    pub(crate) standing: String,
    pub(crate) source: String,
    pub(crate) why: Option<String>,
    pub(crate) seen_at: String,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Account {
    pub(crate) account_id: String,
    /// `active`, `revoked` or `closed`.
    pub(crate) state: String,
    pub(crate) business: Option<String>,
    /// The list it has to leave first.
    pub(crate) moving_from: Option<String>,
    pub(crate) missing_since: Option<String>,
    pub(crate) proof: Option<String>,
    /// Why it takes no part.
    pub(crate) outside: Option<String>,
    /// Why it alone has no token.
    pub(crate) not_minted: Option<String>,
    pub(crate) kind: String,
    pub(crate) mask: Option<String>,
    pub(crate) name: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ItemDetail {
    #[serde(flatten)]
    pub(crate) item: Item,
    pub(crate) access_tokens: Vec<Token>,
    pub(crate) accounts: Vec<Account>,
    /// Processor tokens by state: `intended`, `live`, `superseded`, `orphaned`.
    pub(crate) processor_tokens: std::collections::BTreeMap<String, i64>,
    pub(crate) work: Option<Work>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Business {
    pub(crate) business_id: String,
    pub(crate) layer_id: Option<String>,
    pub(crate) verdict: Option<VerdictView>,
    /// What the last reconciliation did.
    pub(crate) last_outcome: Option<String>,
    /// When the list at Layer was last found to be what it was to be.
    pub(crate) converged_at: Option<String>,
    /// The verdict is `converged`: every account stands in the list with its live token, read back.
    pub(crate) verified: bool,
    pub(crate) last_put_at: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BusinessDetail {
    #[serde(flatten)]
    pub(crate) business: Business,
    pub(crate) accounts: Vec<WantedAccount>,
    /// Accounts whose token is not in the list that Layer accepted last.
    pub(crate) differs: Vec<String>,
    pub(crate) work: Option<Work>,
}

/// An account that belongs into the list.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WantedAccount {
    pub(crate) account_id: String,
    pub(crate) item_id: String,
    /// Fingerprint of its newest live token.
    pub(crate) token: Option<String>,
    /// Its token was minted under an earlier access token.
    pub(crate) older_generation: bool,
    /// Layer accepted this token.
    pub(crate) accepted: bool,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Parked {
    /// `item` or `business`.
    pub(crate) kind: String,
    pub(crate) id: String,
    pub(crate) verdict: Option<VerdictView>,
    pub(crate) work: Work,
}

fn time(at: Option<Millis>) -> Option<String> {
    at.map(Millis::rfc3339)
}

impl From<&Row> for Work {
    fn from(row: &Row) -> Self {
        Self {
            due_at: time(row.due_at),
            class: row.class.to_string(),
            reason: row.reason.clone(),
            wanted: row.wanted,
            done: row.done,
            failures_in_a_row: row.attempts,
            looked_at: time(row.looked_at),
            being_looked_at: row.lease.is_some(),
            blocked: row.blocked.as_ref().map(|b| Blocked {
                by: b.by.to_string(),
                code: b.code.clone(),
                why: b.why.clone(),
                since: time(row.blocked_at),
            }),
        }
    }
}

impl Item {
    pub(crate) fn new(row: &ItemRow, judged: Option<&Judged>) -> Self {
        Self {
            verdict: judged.map(VerdictView::from),
            item_id: row.id.to_string(),
            state: row.state.to_string(),
            why: row.state_why.clone(),
            since: row.state_since.rfc3339(),
            business: row.business.as_ref().map(ToString::to_string),
            generation: row.generation,
            replaces: row.replaces.as_ref().map(ToString::to_string),
        }
    }
}

impl From<&TokenView> for Token {
    fn from(token: &TokenView) -> Self {
        Self {
            fingerprint: token.fingerprint.to_string(),
            standing: token.standing.to_string(),
            source: token.source.clone(),
            why: token.why.clone(),
            seen_at: token.seen_at.rfc3339(),
        }
    }
}

impl From<&AccountRow> for Account {
    fn from(row: &AccountRow) -> Self {
        Self {
            account_id: row.id.to_string(),
            state: row.state.to_string(),
            business: row.business.as_ref().map(ToString::to_string),
            moving_from: row.moving_from.as_ref().map(ToString::to_string),
            missing_since: time(row.missing_since),
            proof: row.proof.map(|p| p.to_string()),
            outside: row.outside.map(|o| o.sentence().to_owned()),
            not_minted: row.mint_fault.as_ref().map(|f| f.why.clone()),
            kind: row.traits.kind.clone(),
            mask: row.traits.mask.clone(),
            name: row.traits.name.clone(),
        }
    }
}

impl Business {
    pub(crate) fn new(row: &BusinessRow, judged: Option<&Judged>) -> Self {
        Self {
            verdict: judged.map(VerdictView::from),
            business_id: row.id.to_string(),
            layer_id: row.layer_id.as_ref().map(ToString::to_string),
            last_outcome: row.last_outcome.clone(),
            converged_at: time(row.converged_at),
            verified: judged.is_some_and(|j| j.verdict.state == State::Converged),
            last_put_at: time(row.put_at),
        }
    }
}
