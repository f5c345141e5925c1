//! The calls that Rekey makes.

use crate::Settings;
use crate::auth::Bearer;
use crate::error::{Error, Meaning, refusal};
use domain::json::mend;
use domain::token_list::{ListedTokens, RowStatus};
use domain::{AccountId, Answered, Endpoint, LayerId, ProcessorToken, Provider};
use reqwest::RequestBuilder;
use secrecy::ExposeSecret;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::HashSet;
use std::time::{Duration, Instant};

/// A client for one environment of Layer.
#[derive(Debug)]
pub struct Client {
    settings: Settings,
    base_url: String,
    bearer: Bearer,
    http: web::Client,
}

/// A business at Layer. Everything else in the answer is secret-bearing and is not read.
#[derive(Debug, Clone, Deserialize)]
pub struct Business {
    pub id: String,
    #[serde(default)]
    pub external_id: Option<String>,
}

/// One row of List Plaid Accounts: <https://docs.layerfi.com/api-reference/plaid-account/list-plaid-accounts>.
#[derive(Debug, Clone)]
pub struct ListedAccount {
    pub account: Option<AccountId>,
    /// The full token, as in the documented example. None where Layer masks or omits it: whether its production does is
    /// unconfirmed.
    pub token: Option<ProcessorToken>,
    pub status: RowStatus,
    /// Layer's type of the row names no processor token: the account came through Layer's own Plaid integration.
    pub layer_owned: bool,
    /// The last digits of the account's number, for people.
    pub mask: Option<String>,
    /// The account's name at its bank, for people.
    pub name: Option<String>,
}

/// Both envelopes that are seen: `{data, meta}` and the bare object of older pages.
#[derive(Deserialize)]
#[serde(untagged)]
enum Envelope<T> {
    Wrapped {
        data: T,
        #[serde(default)]
        meta: Option<Meta>,
    },
    Bare(T),
}

#[derive(Deserialize)]
struct Meta {
    #[serde(default)]
    pagination: Option<Pagination>,
}

#[derive(Deserialize)]
struct Pagination {
    #[serde(default)]
    cursor: Option<String>,
    #[serde(default)]
    has_more: bool,
}

/// Each field is read by itself: what can't be read of one is as if it were not there, and the row counts all the same.
#[derive(Deserialize)]
struct WireAccount {
    #[serde(default)]
    id: serde_json::Value,
    #[serde(rename = "type", default)]
    kind: serde_json::Value,
    #[serde(default)]
    plaid_account_id: serde_json::Value,
    #[serde(default)]
    plaid_processor_token: serde_json::Value,
    #[serde(default)]
    status: serde_json::Value,
    #[serde(default)]
    mask: serde_json::Value,
    #[serde(default)]
    name: serde_json::Value,
}

/// Pages of one list that are followed at most; a cursor that never ends must not hold a lease for ever.
const MAX_PAGES: usize = 200;

/// A list at Layer that is being read, page by page; each page is a call, so the caller fetches them. A list that may be
/// incomplete is an error: a part must never pass for the whole.
#[derive(Debug, Default)]
pub struct PagedList {
    rows: Vec<ListedAccount>,
    /// Layer's ids of the rows so far.
    ids: HashSet<String>,
    cursors: Vec<String>,
    complete: bool,
}

impl PagedList {
    /// Whether another page is to be fetched.
    pub fn has_more(&self) -> bool {
        !self.complete
    }

    /// Every row, once there are no more pages.
    pub fn into_rows(self) -> Vec<ListedAccount> {
        self.rows
    }

    fn add(&mut self, page: Vec<(Option<String>, ListedAccount)>, pagination: Option<Pagination>) -> Result<(), Error> {
        let malformed = |field| Error::Malformed { endpoint: LIST, status: 200, field };
        for (id, row) in page {
            if id.is_some_and(|id| !self.ids.insert(id)) {
                return Err(malformed("a row that was on an earlier page already"));
            }
            self.rows.push(row);
        }
        match pagination {
            Some(Pagination { has_more: true, cursor: None }) => Err(malformed("meta.pagination.cursor")),
            Some(Pagination { has_more: true, cursor: Some(next) }) => {
                if self.cursors.contains(&next) || self.cursors.len() >= MAX_PAGES {
                    return Err(malformed("a cursor that leads nowhere"));
                }
                self.cursors.push(next);
                Ok(())
            }
            Some(Pagination { has_more: false, .. }) | None => {
                self.complete = true;
                Ok(())
            }
        }
    }
}

const LIST: Endpoint = Endpoint::ListPlaidAccounts;

impl Client {
    /// `extra_roots`: authorities (PEM) that are trusted besides the system's.
    pub fn new(settings: Settings, extra_roots: String) -> Result<Self, reqwest::Error> {
        let (timeout, connect_timeout) = (settings.timeout, settings.connect_timeout);
        let http = web::ClientSettings { provider: Provider::Layer, timeout, connect_timeout, extra_roots };
        let http = web::Client::new(&http)?;
        let bearer = Bearer::new(settings.clone());
        let base_url = settings.base_url.trim_end_matches('/').to_owned();
        Ok(Self { settings, base_url, bearer, http })
    }

    /// What it was made from.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The longest that one request can be on its way: what a PUT needs left of its lease.
    pub fn request_timeout(&self) -> Duration {
        self.http.timeout()
    }

    /// `GET /v1/businesses?external_id=`, exact, active businesses only. None: Layer has no such business.
    pub async fn find_business(&self, external_id: &str) -> Result<Option<LayerId>, Error> {
        let endpoint = Endpoint::FindBusiness;
        let url = format!("{}/v1/businesses", self.base_url);
        let answer = self.call(endpoint, || self.http.get(&url).query(&[("external_id", external_id)])).await?;
        let (found, _) = read::<Vec<Business>>(endpoint, &answer)?;
        // An answer that ignores the filter would hand us somebody else's business.
        let found = found.into_iter().find(|b| b.external_id.as_deref() == Some(external_id));
        found.map(|business| layer_id(endpoint, business.id)).transpose()
    }

    /// `GET /v1/businesses/{id}`.
    pub async fn business_exists(&self, id: &LayerId) -> Result<bool, Error> {
        let endpoint = Endpoint::GetBusiness;
        let url = format!("{}/v1/businesses/{id}", self.base_url);
        match self.call(endpoint, || self.http.get(&url)).await {
            Ok(_) => Ok(true),
            Err(error) if error.meaning() == Meaning::NoSuchBusiness => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// `POST /v1/businesses` with its tokens, idempotent on `external_id`. The answer may be **another** business: an
    /// archived one with the same phone number is un-archived and returned. The caller compares `external_id`.
    pub async fn create_business(
        &self,
        details: &serde_json::Map<String, serde_json::Value>,
        external_id: &str,
        tokens: &[ProcessorToken],
    ) -> Result<Business, Error> {
        let endpoint = Endpoint::CreateBusiness;
        let url = format!("{}/v1/businesses", self.base_url);
        let mut body = details.clone();
        body.insert("external_id".into(), external_id.into());
        body.insert("plaid_processor_tokens".into(), token_list(tokens));
        let answer = self.call(endpoint, || self.http.post(&url).json(&body)).await?;
        Ok(read::<Business>(endpoint, &answer)?.0)
    }

    /// `GET /v1/businesses/{id}/plaid/accounts`: the next page of the list.
    pub async fn next_page(&self, id: &LayerId, list: &mut PagedList) -> Result<(), Error> {
        let url = format!("{}/v1/businesses/{id}/plaid/accounts", self.base_url);
        let cursor = list.cursors.last().cloned();
        let page = || {
            let request = self.http.get(&url);
            match &cursor {
                Some(cursor) => request.query(&[("cursor", cursor)]),
                None => request,
            }
        };
        let answer = self.call(LIST, page).await?;
        let (found, pagination) = read::<Vec<WireAccount>>(LIST, &answer)?;
        let rows = found.into_iter().map(|wire| {
            let (id, row) = listed(&wire);
            match self.settings.listed_tokens {
                ListedTokens::Full => (id, row),
                ListedTokens::Masked | ListedTokens::Omitted => (id, ListedAccount { token: None, ..row }),
            }
        });
        list.add(rows.collect(), pagination)
    }

    /// `PUT /v1/businesses/{id}` with the complete list: what it leaves out, Layer drops. No other field is sent, so
    /// none is touched; `null` is undocumented and never sent.
    ///
    /// Nothing is sent unless a whole request timeout is left before `lease_end` (I7).
    pub async fn put_tokens(&self, id: &LayerId, tokens: &[ProcessorToken], lease_end: Instant) -> Result<(), Error> {
        let endpoint = Endpoint::UpdateBusiness;
        let url = format!("{}/v1/businesses/{id}", self.base_url);
        let body = serde_json::json!({"plaid_processor_tokens": token_list(tokens)});
        self.call_within(endpoint, || self.http.put(&url).json(&body), Some(lease_end)).await.map(drop)
    }

    /// What this process knows of how its calls went.
    pub fn http(&self) -> &web::Client {
        &self.http
    }

    /// `GET /whoami`: are our credentials accepted at all?
    pub async fn probe(&self) -> Result<(), Error> {
        let url = format!("{}/whoami", self.base_url);
        self.call(Endpoint::Whoami, || self.http.get(&url)).await.map(drop)
    }

    /// Gets a bearer token without calling anything, so that the time is not spent under a lease.
    pub async fn warm_up(&self) -> Result<(), Error> {
        self.bearer.token(&self.http, None).await.map(drop)
    }

    /// Sends with a bearer token; a 401 may be a token that was revoked early, so it is tried once with a new one.
    async fn call(&self, endpoint: Endpoint, request: impl Fn() -> RequestBuilder) -> Result<web::Answer, Error> {
        self.call_within(endpoint, request, None).await
    }

    async fn call_within(
        &self,
        endpoint: Endpoint,
        request: impl Fn() -> RequestBuilder,
        end: Option<Instant>,
    ) -> Result<web::Answer, Error> {
        let began = Instant::now();
        let outcome = self.try_call(endpoint, &request, end).await;
        self.http.count(endpoint, answered(&outcome), began);
        outcome
    }

    async fn try_call(
        &self,
        endpoint: Endpoint,
        request: &impl Fn() -> RequestBuilder,
        end: Option<Instant>,
    ) -> Result<web::Answer, Error> {
        let mut refused = None;
        loop {
            let token = self.bearer.token(&self.http, refused.as_ref()).await?;
            let sent = request().bearer_auth(token.expose_secret());
            let answer =
                self.http.send_within(sent, end).await.map_err(|source| Error::Unanswered { endpoint, source })?;
            match answer.status.as_u16() {
                401 if refused.is_none() => refused = Some(token),
                200..=299 if !has_errors(&answer) => return Ok(answer),
                _ => return Err(refusal(endpoint, &answer)),
            }
        }
    }
}

fn token_list(tokens: &[ProcessorToken]) -> serde_json::Value {
    tokens.iter().map(|t| serde_json::json!({"processor_token": t.expose()})).collect()
}

/// Layer's own client treats a 2xx body with `errors` as a failure.
fn has_errors(answer: &web::Answer) -> bool {
    #[derive(Deserialize)]
    struct Errors {
        errors: Vec<serde::de::IgnoredAny>,
    }
    serde_json::from_slice::<Errors>(&answer.body).is_ok_and(|e| !e.errors.is_empty())
}

fn read<T: DeserializeOwned>(endpoint: Endpoint, answer: &web::Answer) -> Result<(T, Option<Pagination>), Error> {
    match serde_json::from_slice::<Envelope<T>>(&mend(&answer.body)) {
        Ok(Envelope::Wrapped { data, meta }) => Ok((data, meta.and_then(|m| m.pagination))),
        Ok(Envelope::Bare(data)) => Ok((data, None)),
        Err(_) => Err(Error::Malformed { endpoint, status: answer.status.as_u16(), field: "the body" }),
    }
}

fn layer_id(endpoint: Endpoint, id: String) -> Result<LayerId, Error> {
    LayerId::parse(id).map_err(|_| Error::Malformed { endpoint, status: 200, field: "id" })
}

/// A text that is kept to be shown: what a bank says, and not more of it than a person reads.
fn for_people(text: &serde_json::Value) -> Option<String> {
    const LONGEST: usize = 80;
    let text = text.as_str().filter(|text| !domain::redact::shows_any_token(text))?;
    Some(text.chars().filter(|c| !c.is_control()).take(LONGEST).collect())
}

/// Layer's id of the row, and the row.
fn listed(wire: &WireAccount) -> (Option<String>, ListedAccount) {
    let kind = wire.kind.as_str();
    let names_processor_token = kind.is_none_or(|k| k.to_ascii_lowercase().contains("processor_token"));
    let shown = wire.plaid_processor_token.as_str();
    let row = ListedAccount {
        // Layer's own Items have no token of ours; without a type, a row without a token is taken for one of theirs
        // only if the account is unknown here, which the plan decides.
        layer_owned: !names_processor_token && shown.is_none(),
        account: wire.plaid_account_id.as_str().and_then(|id| AccountId::parse(id).ok()),
        token: shown.filter(|t| is_whole_token(t)).map(ProcessorToken::new),
        status: match &wire.status {
            serde_json::Value::Null => RowStatus::Active,
            status => match status.as_str() {
                Some("ACTIVE") => RowStatus::Active,
                Some("ARCHIVED") => RowStatus::Archived,
                _ => RowStatus::Other,
            },
        },
        mask: for_people(&wire.mask),
        name: for_people(&wire.name),
    };
    (wire.id.as_str().map(str::to_owned), row)
}

/// What Layer shows is a token, and not a part of one: `****1234`, `processor-production-xxxxxxxx1234`, or nothing. Sent
/// back, such a thing would take the place of the account's token.
fn is_whole_token(text: &str) -> bool {
    let is_of_token = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let crossed_out = text.to_ascii_lowercase().contains("xxxx");
    !text.is_empty() && text.len() <= 512 && text.chars().all(is_of_token) && !crossed_out
}

pub(crate) fn answered<T>(outcome: &Result<T, Error>) -> Answered {
    outcome.as_ref().err().map_or(Answered::Ok, |error| match error.meaning() {
        Meaning::NoSuchBusiness => Answered::NoSuchBusiness,
        Meaning::RefusedContent => Answered::RefusedContent,
        Meaning::Other(next) => next.answered(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_envelopes_and_missing_fields_are_read() {
        let wrapped = br#"{"data":[{"type":"Plaid_Account_With_Processor_Token","plaid_account_id":"a","plaid_processor_token":"t","status":"ACTIVE","new_field":1}],"meta":{}}"#;
        let bare =
            br#"[{"plaid_account_id":"a","status":"ARCHIVED"},{"type":"Plaid_Account","plaid_account_id":"own"}]"#;
        let answer =
            |body: &[u8]| web::Answer { status: reqwest::StatusCode::OK, retry_after: None, body: body.to_vec() };
        let rows = |body: &[u8]| -> Vec<ListedAccount> {
            read::<Vec<WireAccount>>(LIST, &answer(body)).unwrap().0.into_iter().map(|w| listed(&w).1).collect()
        };
        let one = &rows(wrapped)[0];
        assert!(one.token.is_some() && !one.layer_owned && one.status == RowStatus::Active);
        let two = rows(bare);
        assert_eq!((two[0].status, two[0].layer_owned, two[1].layer_owned), (RowStatus::Archived, false, true));
    }

    #[test]
    fn what_layer_masks_is_no_token_and_an_odd_row_is_a_row() {
        let row = |wire: serde_json::Value| listed(&serde_json::from_value(wire).unwrap()).1;
        let token = "processor-production-8f1c0000-0000-4000-8000-000000000000";
        assert!(row(serde_json::json!({"plaid_processor_token": token})).token.is_some());
        for masked in ["", "****1234", "processor-…1234", "processor-production-xxxxxxxx1234", "a b", "t.1"] {
            let row = row(serde_json::json!({"plaid_account_id": "a", "plaid_processor_token": masked}));
            assert!(row.token.is_none() && row.account.is_some() && !row.layer_owned, "{masked}");
        }
        for odd in [serde_json::json!("SLEEPING"), serde_json::json!(7), serde_json::json!({})] {
            let row = row(serde_json::json!({"plaid_processor_token": token, "status": odd, "plaid_account_id": 7}));
            assert!(row.status.is_row() && row.token.is_some() && row.account.is_none(), "{odd}");
        }
    }

    #[test]
    fn a_list_that_may_be_incomplete_is_no_list() {
        let page = |rows: &[&str], cursor: Option<&str>, has_more: bool| {
            let wire = |id: &&str| listed(&serde_json::from_value(serde_json::json!({"id": id})).unwrap());
            let rows = rows.iter().map(wire).collect::<Vec<_>>();
            (rows, Some(Pagination { cursor: cursor.map(str::to_owned), has_more }))
        };
        let table = [
            ("two pages", vec![page(&["1"], Some("c"), true), page(&["2"], None, false)], Some(2)),
            ("more, and no cursor", vec![page(&["1"], None, true)], None),
            ("a cursor to itself", vec![page(&["1"], Some("c"), true), page(&["2"], Some("c"), true)], None),
            ("a page that repeats", vec![page(&["1"], Some("c"), true), page(&["1"], None, false)], None),
            ("a last page with a cursor", vec![page(&["1"], Some("c"), false)], Some(1)),
        ];
        for (claim, pages, rows) in table {
            let mut list = PagedList::default();
            let read = pages.into_iter().try_for_each(|(rows, pagination)| list.add(rows, pagination));
            assert_eq!(read.is_ok().then(|| list.into_rows().len()), rows, "{claim}");
        }
    }

    #[test]
    fn success_with_errors_is_no_success() {
        let answer =
            |body: &[u8]| web::Answer { status: reqwest::StatusCode::OK, retry_after: None, body: body.to_vec() };
        assert!(has_errors(&answer(br#"{"errors":[{"type":"x"}]}"#)));
        assert!(!has_errors(&answer(b"")));
        assert!(!has_errors(&answer(br#"{"data":{},"errors":[]}"#)));
    }
}
