//! The calls that Rekey makes. Each is a POST with the credentials in headers, so that a body never holds them.

use crate::Settings;
use crate::error::{Error, Meaning, refusal};
use domain::accounts::{Read, Traits};
use domain::json::{mend, shown};
use domain::{AccessToken, AccountId, Answered, Endpoint, ItemId, Millis, ProcessorToken, Provider};
use secrecy::ExposeSecret;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// A client for one environment of Plaid.
#[derive(Debug)]
pub struct Client {
    settings: Settings,
    base_url: String,
    http: web::Client,
}

/// The `item` of `/item/get` and `/accounts/get`: whose token it is, and how the Item is.
#[derive(Debug, Clone)]
pub struct ItemInfo {
    pub item: ItemId,
    /// `item.error.error_code`.
    pub error_code: Option<String>,
    /// Plaid's id of the bank.
    pub institution: Option<String>,
    /// Where its webhooks go. None: nowhere.
    pub webhook: Option<String>,
    pub consent_until: Option<Millis>,
    /// The last webhook that Plaid sent: when, and its code. Only `/item/get` says it, and not always.
    pub last_webhook: Option<(Millis, String)>,
}

/// `/accounts/get`: the open accounts, and how the Item is.
#[derive(Debug, Clone)]
pub struct Accounts {
    pub item: ItemInfo,
    pub accounts: Vec<Read>,
    /// False: one of them could not be told, so that nothing follows from the absence of another.
    pub complete: bool,
}

impl Accounts {
    /// Plaid's answer that the Item has no accounts.
    pub fn none_of(item: &ItemId) -> Self {
        let item = ItemInfo {
            item: item.clone(),
            error_code: None,
            institution: None,
            webhook: None,
            consent_until: None,
            last_webhook: None,
        };
        Self { item, accounts: Vec::new(), complete: true }
    }
}

/// What a probe of a processor token found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenHealth {
    Alive,
    Dead,
}

/// A webhook verification key: <https://plaid.com/docs/api/webhooks/webhook-verification/>.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Jwk {
    pub(crate) kid: String,
    pub(crate) kty: String,
    pub(crate) crv: String,
    pub(crate) alg: String,
    pub(crate) x: String,
    pub(crate) y: String,
    /// Unix seconds; null while the key lives.
    #[serde(default)]
    pub(crate) expired_at: Option<i64>,
}

#[derive(Deserialize)]
struct WireItem {
    item_id: String,
    #[serde(default)]
    error: serde_json::Value,
    #[serde(default)]
    institution_id: serde_json::Value,
    #[serde(default)]
    webhook: serde_json::Value,
    #[serde(default)]
    consent_expiration_time: serde_json::Value,
}

/// What only people read is taken as it comes, what decides must be right: element by element, so that one odd field costs
/// one account and never the list.
#[derive(Deserialize)]
struct WireAccount {
    #[serde(default)]
    account_id: serde_json::Value,
    #[serde(rename = "type", default)]
    kind: serde_json::Value,
    #[serde(default)]
    subtype: serde_json::Value,
    #[serde(default)]
    mask: serde_json::Value,
    #[serde(default)]
    name: serde_json::Value,
    #[serde(default)]
    persistent_account_id: serde_json::Value,
}

impl WireAccount {
    /// None: nobody can say which account this is.
    fn read(self) -> Option<Read> {
        let text = |value: &serde_json::Value| value.as_str().filter(|t| !t.is_empty()).map(str::to_owned);
        let id = AccountId::parse(text(&self.account_id)?).ok()?;
        let kind = text(&self.kind);
        let unreadable = kind.is_none().then_some("type");
        let traits = Traits {
            kind: kind.unwrap_or_default(),
            subtype: shown(&self.subtype),
            mask: shown(&self.mask),
            name: shown(&self.name),
            persistent_id: text(&self.persistent_account_id),
        };
        Some(Read { id, traits, unreadable })
    }
}

impl Client {
    /// `timeout`: of one call. `extra_roots`: authorities (PEM) that are trusted besides the system's.
    pub fn new(settings: &Settings, timeout: Duration, extra_roots: String) -> Result<Self, reqwest::Error> {
        let connect_timeout = settings.connect_timeout;
        let http = web::ClientSettings { provider: Provider::Plaid, timeout, connect_timeout, extra_roots };
        Ok(Self { base_url: settings.url(), settings: settings.clone(), http: web::Client::new(&http)? })
    }

    /// What it was made from.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// `/item/get`: <https://plaid.com/docs/api/items/#itemget>.
    pub async fn item_get(&self, token: &AccessToken) -> Result<ItemInfo, Error> {
        #[derive(Deserialize)]
        struct Wire {
            item: WireItem,
            #[serde(default)]
            status: serde_json::Value,
        }
        let endpoint = Endpoint::ItemGet;
        let wire: Wire = self.call(endpoint, &serde_json::json!({"access_token": token.expose()})).await?;
        let last = &wire.status["last_webhook"];
        let last_webhook = time(&last["sent_at"]).zip(text(&last["code_sent"]));
        Ok(ItemInfo { last_webhook, ..item_info(endpoint, wire.item)? })
    }

    /// `/accounts/get`: <https://plaid.com/docs/api/accounts/#accountsget>. Free, cached, without closed accounts.
    pub async fn accounts_get(&self, token: &AccessToken) -> Result<Accounts, Error> {
        #[derive(Deserialize)]
        struct Wire {
            item: WireItem,
            accounts: Vec<serde_json::Value>,
        }
        let endpoint = Endpoint::AccountsGet;
        let wire: Wire = self.call(endpoint, &serde_json::json!({"access_token": token.expose()})).await?;
        let mut accounts: Vec<Read> = Vec::with_capacity(wire.accounts.len());
        let mut complete = true;
        for account in wire.accounts {
            match serde_json::from_value::<WireAccount>(account).ok().and_then(WireAccount::read) {
                // Named twice it is one account all the same.
                Some(read) if accounts.iter().any(|a| a.id == read.id) => {}
                Some(read) => {
                    if let Some(field) = read.unreadable {
                        tracing::warn!(account = %read.id, field, "Plaid shows an account with a field that can't be read");
                    }
                    accounts.push(read);
                }
                None => {
                    tracing::warn!(
                        "Plaid shows an account whose account_id can't be read: no other is taken for missing"
                    );
                    complete = false;
                }
            }
        }
        Ok(Accounts { item: item_info(endpoint, wire.item)?, accounts, complete })
    }

    /// `/processor/token/create`: <https://plaid.com/docs/api/processors/#processortokencreate>. No idempotency key:
    /// after a lost answer a token may exist that nobody has seen.
    pub async fn processor_token_create(
        &self,
        token: &AccessToken,
        account: &AccountId,
    ) -> Result<ProcessorToken, Error> {
        #[derive(Deserialize)]
        struct Wire {
            processor_token: ProcessorToken,
        }
        let body = serde_json::json!({
            "access_token": token.expose(),
            "account_id": account.as_str(),
            "processor": self.settings.processor,
        });
        let endpoint = Endpoint::ProcessorTokenCreate;
        let wire: Wire = self.call(endpoint, &body).await?;
        let text = wire.processor_token.expose();
        if text.is_empty() || text.len() > 512 || !text.chars().all(|c| c.is_ascii_graphic()) {
            // A list with such a token would be refused as a whole.
            return Err(Error::Malformed { endpoint, status: 200, field: "processor_token" });
        }
        Ok(wire.processor_token)
    }

    /// `/processor/token/permissions/get`, the only read that takes a processor token with our own keys: a liveness
    /// probe. <https://plaid.com/docs/api/processors/#processortokenpermissionsget>
    pub async fn processor_token_health(&self, token: &ProcessorToken) -> Result<TokenHealth, Error> {
        let body = serde_json::json!({"processor_token": token.expose()});
        match self.call::<serde_json::Value>(Endpoint::ProcessorTokenPermissionsGet, &body).await {
            Ok(_) => Ok(TokenHealth::Alive),
            Err(error) if error.meaning() == Meaning::UnknownProcessorToken => Ok(TokenHealth::Dead),
            Err(error) => Err(error),
        }
    }

    /// `/webhook_verification_key/get`. None when Plaid says there is no such key in this environment.
    pub(crate) async fn verification_key(&self, kid: &str) -> Result<Option<Jwk>, Error> {
        #[derive(Deserialize)]
        struct Wire {
            key: Jwk,
        }
        match self.call::<Wire>(Endpoint::WebhookVerificationKeyGet, &serde_json::json!({"key_id": kid})).await {
            Ok(wire) => Ok(Some(wire.key)),
            Err(error) if error.meaning() == Meaning::UnknownKey => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What this process knows of how its calls went.
    pub fn http(&self) -> &web::Client {
        &self.http
    }

    /// Are our credentials accepted at all? Asks for a key that can't exist: that it is unknown is the good answer.
    pub async fn probe(&self) -> Result<(), Error> {
        self.verification_key("00000000-0000-4000-8000-000000000000").await.map(|_| ())
    }

    async fn call<T: DeserializeOwned>(&self, endpoint: Endpoint, body: &serde_json::Value) -> Result<T, Error> {
        let url = format!("{}{endpoint}", self.base_url);
        let request = self
            .http
            .post(&url)
            .header("PLAID-CLIENT-ID", &self.settings.client_id)
            .header("PLAID-SECRET", self.settings.secret.expose_secret())
            .header("Plaid-Version", "2020-09-14")
            .json(body);
        let began = Instant::now();
        let outcome = match self.http.send(request).await {
            Err(source) => Err(Error::Unanswered { endpoint, source }),
            Ok(answer) if answer.status.as_u16() == 200 => {
                let read = serde_json::from_slice(&mend(&answer.body));
                read.map_err(|_| Error::Malformed { endpoint, status: 200, field: "the body" })
            }
            Ok(answer) => Err(refusal(endpoint, &answer)),
        };
        self.http.count(endpoint, outcome.as_ref().err().map_or(Answered::Ok, answered), began);
        outcome
    }
}

fn answered(error: &Error) -> Answered {
    match error.meaning() {
        Meaning::UserMustAct => Answered::UserMustAct,
        Meaning::NotReady => Answered::NotReady,
        Meaning::NoAccounts => Answered::NoAccounts,
        Meaning::InstitutionGone => Answered::InstitutionGone,
        Meaning::Unknown => Answered::Unknown,
        Meaning::ItemGone { .. } => Answered::ItemGone,
        Meaning::UnknownToken => Answered::UnknownToken,
        Meaning::UnknownAccount => Answered::UnknownAccount,
        Meaning::UnknownProcessorToken => Answered::UnknownProcessorToken,
        Meaning::UnknownKey => Answered::UnknownKey,
        Meaning::AccountNotSupported => Answered::NotSupported,
        Meaning::Other(next) => next.answered(),
    }
}

fn item_info(endpoint: Endpoint, wire: WireItem) -> Result<ItemInfo, Error> {
    let item =
        ItemId::parse(wire.item_id).map_err(|_| Error::Malformed { endpoint, status: 200, field: "item.item_id" })?;
    Ok(ItemInfo {
        item,
        error_code: wire.error.get("error_code").and_then(|c| c.as_str()).map(str::to_owned),
        institution: text(&wire.institution_id),
        webhook: text(&wire.webhook),
        consent_until: time(&wire.consent_expiration_time),
        last_webhook: None,
    })
}

/// What only people read: too long, or none at all, counts as not said.
fn text(value: &serde_json::Value) -> Option<String> {
    value.as_str().filter(|t| !t.is_empty() && t.len() <= 2048 && !t.contains('\0')).map(str::to_owned)
}

fn time(value: &serde_json::Value) -> Option<Millis> {
    value.as_str()?.parse::<jiff::Timestamp>().ok().map(|at| Millis(at.as_millisecond()))
}
