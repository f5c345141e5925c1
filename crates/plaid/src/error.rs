//! What Plaid's errors mean, written once as a table.
//!
//! Error codes: <https://plaid.com/docs/errors/>. Nearly everything is HTTP 400, a bad API key and a dead access token
//! included, so the code decides and the status is only a fallback. `error_message` may change and is never looked at.
//!
//! What follows is the consumer's: for the state of an Item `item/state.rs`, for its row in the queue `refusals.rs`.

use domain::work::Code;
use domain::{Endpoint, Next};
use serde::Deserialize;
use std::time::Duration;

/// A call to Plaid that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("Plaid's {endpoint} did not answer")]
    Unanswered {
        endpoint: Endpoint,
        #[source]
        source: web::Unanswered,
    },
    #[error("Plaid's {endpoint} answered {status} {error_type}/{error_code} (request {request_id})")]
    Refused {
        endpoint: Endpoint,
        status: u16,
        error_type: String,
        error_code: String,
        request_id: String,
        retry_after: Option<Duration>,
    },
    /// Neither the documented answer nor a documented error.
    #[error("Plaid's {endpoint} answered {status} with a body of an unknown form ({field})")]
    Malformed { endpoint: Endpoint, status: u16, field: &'static str },
}

/// What an error says about the Item, the account or the work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meaning {
    /// The user must log in or consent again; nothing to do until then.
    UserMustAct,
    /// Plaid has not gathered what the call needs: again within minutes.
    NotReady,
    /// The Item has no accounts: the same as an empty list of them.
    NoAccounts,
    /// The bank is no longer supported, or not for us: a person must look, once.
    InstitutionGone,
    /// Proof that the whole Item is gone. `revoked`: by the user's own word.
    ItemGone {
        revoked: bool,
    },
    /// The access token is unknown: rotated elsewhere, of another environment, or mistyped.
    UnknownToken,
    /// The account is closed, revoked, de-selected or re-numbered: read the accounts again.
    UnknownAccount,
    /// The processor token is unknown.
    UnknownProcessorToken,
    /// Plaid's own explicit answer that the verification key does not exist here.
    UnknownKey,
    /// This account can't be handed to this processor.
    AccountNotSupported,
    /// A code that nobody here knows.
    Unknown,
    Other(Next),
}

/// What an error says about the Item as a whole, and about the access token it was asked with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OfItem {
    /// The access token is not one of this environment's any more.
    UnknownToken,
    /// The user must log in or consent again.
    UserMustAct,
    /// Plaid has no such Item any more. `revoked`: the user's own doing.
    Gone { revoked: bool },
    /// Nothing: the call, the account or the moment is to blame.
    Nothing,
}

impl Meaning {
    /// The part of it that concerns the Item. Without a wildcard, so that a new meaning has to be decided here.
    pub fn of_item(&self) -> OfItem {
        match self {
            Self::UnknownToken => OfItem::UnknownToken,
            Self::UserMustAct => OfItem::UserMustAct,
            Self::ItemGone { revoked } => OfItem::Gone { revoked: *revoked },
            Self::NoAccounts
            | Self::UnknownAccount
            | Self::UnknownProcessorToken
            | Self::UnknownKey
            | Self::AccountNotSupported
            | Self::NotReady
            | Self::InstitutionGone
            | Self::Unknown
            | Self::Other(_) => OfItem::Nothing,
        }
    }
}

impl Error {
    /// What follows from it.
    pub fn meaning(&self) -> Meaning {
        let retry = |after| Meaning::Other(Next::Retry { after });
        match self {
            Self::Unanswered { .. } | Self::Malformed { .. } => retry(None),
            Self::Refused { endpoint, status, error_type, error_code, retry_after, .. } => {
                meaning(*endpoint, *status, error_type, error_code, *retry_after)
            }
        }
    }

    /// Whether the call may have had an effect that we do not know of.
    pub fn may_have_happened(&self) -> bool {
        match self {
            Self::Unanswered { source, .. } => source.sent,
            Self::Malformed { .. } => true,
            // An error of the documented form is an answer: nothing was made. Except that a failing server may fail
            // after the deed.
            Self::Refused { status, .. } => *status >= 500,
        }
    }

    /// The provider as a whole seems to be away: nothing came back, or a failing server's word.
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Unanswered { .. } => true,
            Self::Refused { status, .. } => *status >= 500,
            Self::Malformed { .. } => false,
        }
    }

    /// The call that it came from.
    pub fn endpoint(&self) -> Endpoint {
        match self {
            Self::Unanswered { endpoint, .. } | Self::Refused { endpoint, .. } | Self::Malformed { endpoint, .. } => {
                *endpoint
            }
        }
    }

    /// Short words for logs, metrics and parked rows.
    pub fn code(&self) -> &str {
        match self {
            Self::Unanswered { .. } => Code::Unanswered.as_str(),
            Self::Malformed { .. } => Code::Malformed.as_str(),
            Self::Refused { error_code, .. } => error_code,
        }
    }
}

/// Codes that say that the user must do something, in Link's update mode or at the bank, on whatever call they come:
/// <https://plaid.com/docs/errors/item/>, and `ADDITIONAL_CONSENT_REQUIRED` of
/// <https://plaid.com/docs/errors/invalid-input/>. A list and no pattern: most codes of the same type mean something else.
const OF_THE_USER: &[&str] = &[
    "ITEM_LOGIN_REQUIRED",
    "ITEM_LOCKED",
    "PASSWORD_RESET_REQUIRED",
    "USER_SETUP_REQUIRED",
    "INVALID_CREDENTIALS",
    "INVALID_MFA",
    "INVALID_OTP",
    "INVALID_SEND_METHOD",
    "INVALID_PHONE_NUMBER",
    "INVALID_UPDATED_USERNAME",
    "INSUFFICIENT_CREDENTIALS",
    "MFA_NOT_SUPPORTED",
    "USER_INPUT_TIMEOUT",
    "MANUAL_VERIFICATION_REQUIRED",
    "ACCESS_NOT_GRANTED",
    "ADDITIONAL_CONSENT_REQUIRED",
];

/// What a code in `item.error` says, beside an answer that succeeded.
pub fn item_meaning(error_code: &str) -> Meaning {
    meaning(Endpoint::ItemGet, 400, "ITEM_ERROR", error_code, None)
}

const MINT: Endpoint = Endpoint::ProcessorTokenCreate;

fn meaning(
    endpoint: Endpoint,
    status: u16,
    error_type: &str,
    error_code: &str,
    retry_after: Option<Duration>,
) -> Meaning {
    let retry = Meaning::Other(Next::Retry { after: retry_after });
    let slow_down = Meaning::Other(Next::SlowDown { after: retry_after });
    let minting = endpoint == MINT;
    match (error_type, error_code) {
        (_, code) if OF_THE_USER.contains(&code) => Meaning::UserMustAct,
        (_, "ITEM_NO_ERROR") => retry,
        (_, "PRODUCT_NOT_READY") => Meaning::NotReady,
        (_, "NO_ACCOUNTS") => Meaning::NoAccounts,
        (_, "ITEM_NOT_FOUND" | "ITEM_CONCURRENTLY_DELETED") => Meaning::ItemGone { revoked: false },
        (_, "USER_PERMISSION_REVOKED") => Meaning::ItemGone { revoked: true },
        (_, "INVALID_ACCESS_TOKEN") => Meaning::UnknownToken,
        (_, "INVALID_ACCOUNT_ID") => Meaning::UnknownAccount,
        (_, "INVALID_PROCESSOR_TOKEN") => Meaning::UnknownProcessorToken,
        (_, "INVALID_WEBHOOK_VERIFICATION_KEY_ID") => Meaning::UnknownKey,
        // "None for that product": never an empty list of accounts.
        (
            _,
            "ITEM_NOT_SUPPORTED"
            | "COUNTRY_NOT_SUPPORTED"
            | "PRODUCTS_NOT_SUPPORTED"
            | "PRODUCT_NOT_ENABLED"
            | "PRODUCT_UNAVAILABLE"
            | "NO_AUTH_ACCOUNTS"
            | "NO_LIABILITY_ACCOUNTS"
            | "NO_INVESTMENT_ACCOUNTS"
            | "NO_INVESTMENT_AUTH_ACCOUNTS",
        ) if minting => Meaning::AccountNotSupported,
        (_, "ITEM_NOT_SUPPORTED" | "COUNTRY_NOT_SUPPORTED") => Meaning::InstitutionGone,
        (
            _,
            "INSTITUTION_NO_LONGER_SUPPORTED"
            | "UNSUPPORTED_RESPONSE"
            | "UNAUTHORIZED_INSTITUTION"
            | "INSTITUTION_REGISTRATION_REQUIRED"
            | "INSTITUTION_NOT_ENABLED_IN_ENVIRONMENT"
            | "INSTITUTION_NOT_FOUND",
        ) => Meaning::InstitutionGone,
        // Credentials, an integration that is not enabled in the Dashboard, a processor that Plaid retired.
        (
            _,
            "INVALID_PRODUCT"
            | "INVALID_PROCESSOR"
            | "UNAUTHORIZED_ROUTE_ACCESS"
            | "INVALID_API_KEYS"
            | "UNAUTHORIZED_ENVIRONMENT",
        ) => Meaning::Other(Next::Suspect),
        // A quota that a person must raise.
        ("RATE_LIMIT_EXCEEDED", "CREDITS_EXHAUSTED" | "TRIAL_CONNECTION_LIMIT" | "ADDITION_LIMIT") => {
            Meaning::Other(Next::Suspect)
        }
        // The bank's own limit, whatever our rate.
        ("RATE_LIMIT_EXCEEDED", "INSTITUTION_RATE_LIMIT") => retry,
        ("RATE_LIMIT_EXCEEDED", _) => slow_down,
        ("API_ERROR" | "INSTITUTION_ERROR", _) => retry,
        // How we call: the program, the base URL, the processor's name, a proxy. Every row gets it alike.
        ("INVALID_REQUEST", _) => Meaning::Other(Next::Suspect),
        _ => match status {
            401 | 403 => Meaning::Other(Next::Suspect),
            429 => slow_down,
            408 | 425 | 500..=599 => retry,
            _ => Meaning::Unknown,
        },
    }
}

/// Plaid's error body: <https://plaid.com/docs/errors/#error-schema>.
#[derive(Debug, Deserialize)]
struct Body {
    #[serde(default)]
    error_type: String,
    error_code: String,
    #[serde(default)]
    request_id: serde_json::Value,
}

/// Reads an answer that was not 200.
pub(crate) fn refusal(endpoint: Endpoint, answer: &web::Answer) -> Error {
    let status = answer.status.as_u16();
    let (error_type, error_code, request_id) = match serde_json::from_slice(&domain::json::mend(&answer.body)) {
        Ok(Body { error_type, error_code, request_id }) => {
            let request_id = request_id.as_str().map_or_else(|| "none".into(), |id| word(id.to_owned()));
            (word(error_type), word(error_code), request_id)
        }
        // A proxy on the way answers without Plaid's body; the status is all there is.
        Err(_) if matches!(status, 401 | 403 | 408 | 429 | 500..=599) => {
            (String::new(), format!("HTTP_{status}"), "none".into())
        }
        Err(_) => return Error::Malformed { endpoint, status, field: "error_code" },
    };
    Error::Refused { endpoint, status, error_type, error_code, request_id, retry_after: answer.retry_after }
}

/// Codes are open enums, but they are words: anything else, a token above all, is not put into a log line.
fn word(text: String) -> String {
    let fits = !text.is_empty()
        && text.len() <= 64
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))
        && !domain::redact::shows_token(&text);
    if fits { text } else { "UNREADABLE".into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_documented_error_says_what_next() {
        let retry = || Meaning::Other(Next::Retry { after: None });
        let slow_down = || Meaning::Other(Next::SlowDown { after: None });
        let suspect = || Meaning::Other(Next::Suspect);
        let gone = |revoked| Meaning::ItemGone { revoked };
        const GET: Endpoint = Endpoint::AccountsGet;
        let table = [
            (GET, 500, "API_ERROR", "INTERNAL_SERVER_ERROR", retry()),
            (GET, 503, "API_ERROR", "PLANNED_MAINTENANCE", retry()),
            (GET, 429, "RATE_LIMIT_EXCEEDED", "ITEM_GET_LIMIT", slow_down()),
            (GET, 429, "RATE_LIMIT_EXCEEDED", "A_LIMIT_OF_2031", slow_down()),
            (GET, 429, "RATE_LIMIT_EXCEEDED", "INSTITUTION_RATE_LIMIT", retry()),
            (GET, 429, "RATE_LIMIT_EXCEEDED", "CREDITS_EXHAUSTED", suspect()),
            (GET, 400, "INSTITUTION_ERROR", "INSTITUTION_DOWN", retry()),
            (GET, 400, "INSTITUTION_ERROR", "INSTITUTION_NO_LONGER_SUPPORTED", Meaning::InstitutionGone),
            (GET, 400, "ITEM_ERROR", "ITEM_LOGIN_REQUIRED", Meaning::UserMustAct),
            (GET, 400, "ITEM_ERROR", "ITEM_LOCKED", Meaning::UserMustAct),
            (MINT, 400, "ITEM_ERROR", "INVALID_CREDENTIALS", Meaning::UserMustAct),
            (MINT, 400, "INVALID_INPUT", "ADDITIONAL_CONSENT_REQUIRED", Meaning::UserMustAct),
            (GET, 400, "ITEM_ERROR", "ITEM_NO_ERROR", retry()),
            (GET, 400, "ITEM_ERROR", "PRODUCT_NOT_READY", Meaning::NotReady),
            (GET, 400, "ITEM_ERROR", "NO_ACCOUNTS", Meaning::NoAccounts),
            (MINT, 400, "ITEM_ERROR", "NO_AUTH_ACCOUNTS", Meaning::AccountNotSupported),
            (GET, 400, "ITEM_ERROR", "NO_AUTH_ACCOUNTS", Meaning::Unknown),
            (MINT, 400, "ITEM_ERROR", "PRODUCTS_NOT_SUPPORTED", Meaning::AccountNotSupported),
            (GET, 400, "ITEM_ERROR", "ITEM_NOT_FOUND", gone(false)),
            (GET, 400, "ITEM_ERROR", "ITEM_CONCURRENTLY_DELETED", gone(false)),
            (GET, 400, "INVALID_INPUT", "USER_PERMISSION_REVOKED", gone(true)),
            (GET, 400, "ITEM_ERROR", "USER_PERMISSION_REVOKED", gone(true)),
            (MINT, 400, "ITEM_ERROR", "ITEM_NOT_SUPPORTED", Meaning::AccountNotSupported),
            (GET, 400, "ITEM_ERROR", "ITEM_NOT_SUPPORTED", Meaning::InstitutionGone),
            (GET, 400, "INVALID_INPUT", "INVALID_ACCESS_TOKEN", Meaning::UnknownToken),
            (MINT, 400, "INVALID_INPUT", "INVALID_ACCOUNT_ID", Meaning::UnknownAccount),
            (MINT, 400, "INVALID_INPUT", "INVALID_PRODUCT", suspect()),
            (MINT, 400, "INVALID_INPUT", "INVALID_PROCESSOR", suspect()),
            (MINT, 400, "INVALID_REQUEST", "INVALID_FIELD", suspect()),
            (GET, 400, "INVALID_INPUT", "INVALID_API_KEYS", suspect()),
            (GET, 400, "INVALID_INPUT", "UNAUTHORIZED_ENVIRONMENT", suspect()),
            (GET, 400, "INVALID_REQUEST", "UNKNOWN_FIELDS", suspect()),
            (GET, 404, "INVALID_REQUEST", "NOT_FOUND", suspect()),
            (GET, 400, "NEW_ERROR_OF_2031", "SOMETHING", Meaning::Unknown),
            (MINT, 400, "ITEM_ERROR", "A_CODE_OF_2031", Meaning::Unknown),
            (GET, 403, "NEW_ERROR_OF_2031", "SOMETHING", suspect()),
            (GET, 502, "", "HTTP_502", retry()),
            (GET, 429, "", "HTTP_429", slow_down()),
        ];
        for (endpoint, status, kind, code, expected) in table {
            assert_eq!(meaning(endpoint, status, kind, code, None), expected, "{status} {kind}/{code}");
        }
    }

    #[test]
    fn a_body_cannot_write_into_our_logs() {
        assert_eq!(word("line\nbreak".into()), "UNREADABLE");
        assert_eq!(word("access-sandbox-1234".into()), "UNREADABLE");
        assert_eq!(word("ITEM_GET_LIMIT".into()), "ITEM_GET_LIMIT");
    }
}
