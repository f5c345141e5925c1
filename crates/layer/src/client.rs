//! The calls that Rekey makes.

use crate::auth::{Bearer, Credentials};
use crate::error::{Error, Meaning, refusal};
use domain::token_list::{ListedTokens, RowStatus};
use domain::{AccountId, LayerId, ProcessorToken};
use reqwest::RequestBuilder;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::time::{Duration, Instant};

/// How to reach Layer. The three addresses are separate settings, because a right base URL with the scope of another
/// environment is the likeliest mistake.
#[derive(Debug, Clone)]
pub struct Settings {
    pub base_url: String,
    pub token_url: String,
    pub scope: String,
    pub client_id: String,
    pub client_secret: SecretString,
    /// Unless it is the full token, what a list shows of one is no token and must never be sent back as one.
    pub listed_tokens: ListedTokens,
    pub http: web::ClientSettings,
}

/// A client for one environment of Layer.
#[derive(Debug)]
pub struct Client {
    base_url: String,
    listed_tokens: ListedTokens,
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

/// The look-up of a business by `external_id`.
#[derive(Debug, Clone)]
pub enum Found {
    One(LayerId),
    None,
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
    pub needs_repair: bool,
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

#[derive(Deserialize)]
struct WireAccount {
    #[serde(rename = "type", default)]
    kind: Option<String>,
    #[serde(default)]
    plaid_account_id: Option<String>,
    #[serde(default)]
    plaid_processor_token: Option<ProcessorToken>,
    #[serde(default)]
    status: Option<String>,
    #[serde(default)]
    connection_needs_repair_as_of: Option<String>,
}

/// Pages of one list that are followed at most; a cursor that never ends must not hold a lease for ever.
const MAX_PAGES: usize = 200;

impl Client {
    pub fn new(settings: Settings) -> Result<Self, reqwest::Error> {
        let http = web::Client::new(&settings.http)?;
        let bearer = Bearer::new(Credentials {
            token_url: settings.token_url,
            client_id: settings.client_id,
            client_secret: settings.client_secret,
            scope: settings.scope,
        });
        let base_url = settings.base_url.trim_end_matches('/').to_owned();
        Ok(Self { base_url, listed_tokens: settings.listed_tokens, bearer, http })
    }

    /// The longest that one request can be on its way: what a PUT needs left of its lease.
    pub fn request_timeout(&self) -> Duration {
        self.http.timeout()
    }

    /// `GET /v1/businesses?external_id=`, exact, active businesses only.
    pub async fn find_business(&self, external_id: &str) -> Result<Found, Error> {
        let endpoint = "GET /v1/businesses";
        let url = format!("{}/v1/businesses", self.base_url);
        let answer = self.call(endpoint, || self.http.get(&url).query(&[("external_id", external_id)])).await?;
        let (found, _) = read::<Vec<Business>>(endpoint, &answer)?;
        // An answer that ignores the filter would hand us somebody else's business.
        match found.into_iter().find(|b| b.external_id.as_deref() == Some(external_id)) {
            Some(business) => Ok(Found::One(layer_id(endpoint, business.id)?)),
            None => Ok(Found::None),
        }
    }

    /// `GET /v1/businesses/{id}`.
    pub async fn business_exists(&self, id: &LayerId) -> Result<bool, Error> {
        let endpoint = "GET /v1/businesses/{id}";
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
        let endpoint = "POST /v1/businesses";
        let url = format!("{}/v1/businesses", self.base_url);
        let mut body = details.clone();
        body.insert("external_id".into(), external_id.into());
        body.insert("plaid_processor_tokens".into(), token_list(tokens));
        let answer = self.call(endpoint, || self.http.post(&url).json(&body)).await?;
        Ok(read::<Business>(endpoint, &answer)?.0)
    }

    /// `GET /v1/businesses/{id}/plaid/accounts`, every page.
    pub async fn list_plaid_accounts(&self, id: &LayerId) -> Result<Vec<ListedAccount>, Error> {
        let endpoint = "GET /v1/businesses/{id}/plaid/accounts";
        let url = format!("{}/v1/businesses/{id}/plaid/accounts", self.base_url);
        let (mut rows, mut cursor) = (Vec::new(), None::<String>);
        for _ in 0..MAX_PAGES {
            let page = || {
                let request = self.http.get(&url);
                match &cursor {
                    Some(cursor) => request.query(&[("cursor", cursor)]),
                    None => request,
                }
            };
            let answer = self.call(endpoint, page).await?;
            let (found, pagination) = read::<Vec<WireAccount>>(endpoint, &answer)?;
            rows.extend(found.into_iter().map(listed).map(|row| match self.listed_tokens {
                ListedTokens::Full => row,
                ListedTokens::Masked | ListedTokens::Omitted => ListedAccount { token: None, ..row },
            }));
            match pagination {
                Some(Pagination { cursor: Some(next), has_more: true }) => cursor = Some(next),
                _ => return Ok(rows),
            }
        }
        // A part of a list must never pass for the whole.
        Err(Error::Malformed { endpoint, status: 200 })
    }

    /// `PUT /v1/businesses/{id}` with the complete list: what it leaves out, Layer drops. No other field is sent, so
    /// none is touched; `null` is undocumented and never sent.
    ///
    /// Nothing is sent unless a whole request timeout is left before `lease_end` (I7).
    pub async fn put_tokens(&self, id: &LayerId, tokens: &[ProcessorToken], lease_end: Instant) -> Result<(), Error> {
        let endpoint = "PUT /v1/businesses/{id}";
        let url = format!("{}/v1/businesses/{id}", self.base_url);
        let body = serde_json::json!({"plaid_processor_tokens": token_list(tokens)});
        self.call_within(endpoint, || self.http.put(&url).json(&body), Some(lease_end)).await.map(drop)
    }

    /// Whether this many calls in a row found nobody at home. Said once per such row of calls.
    pub fn is_dark(&self, calls: u32) -> bool {
        self.http.is_dark(calls)
    }

    /// `GET /whoami`: are our credentials accepted at all?
    pub async fn probe(&self) -> Result<(), Error> {
        let url = format!("{}/whoami", self.base_url);
        self.call("GET /whoami", || self.http.get(&url)).await.map(drop)
    }

    /// Gets a bearer token without calling anything, so that the time is not spent under a lease.
    pub async fn warm_up(&self) -> Result<(), Error> {
        self.bearer.token(&self.http, None).await.map(drop)
    }

    /// Sends with a bearer token; a 401 may be a token that was revoked early, so it is tried once with a new one.
    async fn call(&self, endpoint: &'static str, request: impl Fn() -> RequestBuilder) -> Result<web::Answer, Error> {
        self.call_within(endpoint, request, None).await
    }

    async fn call_within(
        &self,
        endpoint: &'static str,
        request: impl Fn() -> RequestBuilder,
        end: Option<Instant>,
    ) -> Result<web::Answer, Error> {
        let began = Instant::now();
        let outcome = self.try_call(endpoint, &request, end).await;
        self.http.count(endpoint, result_of(&outcome), began);
        outcome
    }

    async fn try_call(
        &self,
        endpoint: &'static str,
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

fn read<T: DeserializeOwned>(endpoint: &'static str, answer: &web::Answer) -> Result<(T, Option<Pagination>), Error> {
    match serde_json::from_slice::<Envelope<T>>(&answer.body) {
        Ok(Envelope::Wrapped { data, meta }) => Ok((data, meta.and_then(|m| m.pagination))),
        Ok(Envelope::Bare(data)) => Ok((data, None)),
        Err(_) => Err(Error::Malformed { endpoint, status: answer.status.as_u16() }),
    }
}

fn layer_id(endpoint: &'static str, id: String) -> Result<LayerId, Error> {
    LayerId::parse(id).map_err(|_| Error::Malformed { endpoint, status: 200 })
}

fn listed(wire: WireAccount) -> ListedAccount {
    let names_processor_token = wire.kind.as_deref().is_none_or(|k| k.to_ascii_lowercase().contains("processor_token"));
    ListedAccount {
        // Layer's own Items have no token of ours; without a type, a row without a token is taken for one of theirs
        // only if the account is unknown here, which the plan decides.
        layer_owned: !names_processor_token && wire.plaid_processor_token.is_none(),
        account: wire.plaid_account_id.and_then(|id| AccountId::parse(id).ok()),
        token: wire.plaid_processor_token,
        status: match wire.status.as_deref() {
            Some("ACTIVE") | None => RowStatus::Active,
            Some("ARCHIVED") => RowStatus::Archived,
            Some(_) => RowStatus::Other,
        },
        needs_repair: wire.connection_needs_repair_as_of.is_some(),
    }
}

pub(crate) fn result_of<T>(outcome: &Result<T, Error>) -> &'static str {
    outcome.as_ref().err().map_or("ok", |error| match error.meaning() {
        Meaning::NoSuchBusiness => "no_such_business",
        Meaning::RefusedContent => "refused_content",
        Meaning::Other(next) => next.as_str(),
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
            read::<Vec<WireAccount>>("list", &answer(body)).unwrap().0.into_iter().map(listed).collect()
        };
        let one = &rows(wrapped)[0];
        assert!(one.token.is_some() && !one.layer_owned && one.status == RowStatus::Active);
        let two = rows(bare);
        assert_eq!((two[0].status, two[0].layer_owned, two[1].layer_owned), (RowStatus::Archived, false, true));
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
