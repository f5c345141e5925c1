//! What a webhook asks of Rekey: at most "look at this Item", and how soon. A code that says that the Item is gone
//! is also in the table of errors (`error.rs` of the plaid crate).

use crate::words::words;
use crate::work::{Class, HintKind};
use crate::{AccountId, ItemId};
use serde_json::value::RawValue;
use std::collections::HashMap;

words!(
    /// Why a webhook was not taken.
    NotTaken {
        MissingHeader => "missing_header",
        RepeatedHeader => "repeated_header",
        MalformedHeader => "malformed_header",
        Algorithm => "algorithm",
        UnknownKey => "unknown_key",
        ExpiredKey => "expired_key",
        Signature => "signature",
        Stale => "stale",
        Future => "future",
        Body => "body",
        Replayed => "replayed",
        Unproved => "unproved",
        TooLarge => "too_large",
        TooSlow => "too_slow",
        BrokenOff => "broken_off",
        WrongType => "wrong_type",
        KeyUnavailable => "key_unavailable",
        TooManyRequests => "too_many_requests",
        Memory => "memory",
        TotalTimeout => "total_timeout",
        /// From here on: Kafka did not take the record.
        BrokerAway => "broker_away",
        QueueFull => "queue_full",
        TimedOut => "timed_out",
        Nowhere => "nowhere",
        Unfit => "unfit",
        NotAuthorized => "not_authorized",
        Refused => "refused",
    }
);

/// The little that Rekey reads of a webhook; everything else only passes through.
/// Fields as documented at <https://plaid.com/docs/api/items/#webhooks>.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    pub webhook_type: String,
    pub webhook_code: String,
    pub item: Option<ItemId>,
    pub account: Option<AccountId>,
    pub error_code: Option<String>,
    /// `disconnect_time` or `consent_expiration_time`, as sent.
    pub ends_at: Option<String>,
    /// The best record key there is: webhooks about one thing stay in order.
    pub key: Option<String>,
}

/// Why a JSON value is not a Plaid webhook.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NotAWebhook {
    #[error("the body is not a JSON object")]
    NotAnObject,
    #[error("the field {0} is missing or not a text of reasonable size")]
    Missing(&'static str),
}

impl Webhook {
    /// Reads the JSON text. Each field is read by itself, and what nobody reads here is only passed over: it may be as deep, or
    /// as odd, as it likes.
    pub fn read(json: &[u8]) -> Result<Self, NotAWebhook> {
        let json = crate::json::mend(json);
        let fields: HashMap<String, &RawValue> = serde_json::from_slice(&json).map_err(|_| NotAWebhook::NotAnObject)?;
        let text = |name: &str| serde_json::from_str::<String>(fields.get(name)?.get()).ok();
        let word = |name: &'static str| {
            // Type and code become header values and log fields, so their size and alphabet are bounded.
            let fits = |t: &String| !t.is_empty() && t.len() <= 128 && t.chars().all(|c| c.is_ascii_graphic());
            text(name).filter(fits).ok_or(NotAWebhook::Missing(name))
        };
        let error: Option<HashMap<String, &RawValue>> =
            fields.get("error").and_then(|e| serde_json::from_str(e.get()).ok());
        let error_code = error.and_then(|e| serde_json::from_str::<String>(e.get("error_code")?.get()).ok());
        // Many webhooks name no Item. An id of a strange form counts as none, and the webhook is taken all the same.
        let item = text("item_id").and_then(|t| ItemId::parse(t).ok());
        let other = || ["user_id", "account_id", "link_session_id"].iter().find_map(|n| text(n));
        Ok(Self {
            webhook_type: word("webhook_type")?,
            webhook_code: word("webhook_code")?,
            account: text("account_id").and_then(|t| AccountId::parse(t).ok()),
            error_code,
            ends_at: text("disconnect_time")
                .or_else(|| text("consent_expiration_time"))
                .filter(|t| t.len() <= 64 && t.chars().all(|c| c.is_ascii_graphic())),
            key: item.as_ref().map(ToString::to_string).or_else(other),
            item,
        })
    }
}

/// What intake does with a webhook about an Item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signal {
    pub class: Class,
    pub pace: Pace,
    /// Clears backoff and parking: the event says that the cause may be gone.
    pub unblocks: bool,
    pub hint: Option<HintKind>,
}

/// How soon the Item is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// At once, or with others of a burst.
    Soon,
    /// At most once per Item in the configured quiet time: the event can't have touched a token.
    Quiet,
}

/// Routes on type **and** code: `ERROR` and `DEFAULT_UPDATE` repeat across types.
pub fn signal(webhook_type: &str, webhook_code: &str, error_code: Option<&str>) -> Signal {
    let soon = |class, hint| Signal { class, pace: Pace::Soon, unblocks: false, hint };
    match (webhook_type, webhook_code) {
        ("ITEM", "LOGIN_REPAIRED") => Signal { unblocks: true, ..soon(Class::Rotation, None) },
        ("ITEM", "NEW_ACCOUNTS_AVAILABLE") => soon(Class::NewAccount, None),
        ("ITEM", "USER_PERMISSION_REVOKED") => soon(Class::Rotation, Some(HintKind::PermissionRevoked)),
        ("ITEM", "USER_ACCOUNT_REVOKED") => soon(Class::Rotation, Some(HintKind::AccountRevoked)),
        ("ITEM", "PENDING_DISCONNECT") => soon(Class::Rotation, Some(HintKind::PendingDisconnect)),
        ("ITEM", "PENDING_EXPIRATION") => soon(Class::Rotation, Some(HintKind::PendingExpiration)),
        // A reconciliation has to prove that the whole Item is gone, for whatever reason. The codes are those that are read as
        // `ItemGone` in answers, too.
        ("ITEM", "ERROR")
            if matches!(
                error_code,
                Some("ITEM_NOT_FOUND" | "ITEM_CONCURRENTLY_DELETED" | "USER_PERMISSION_REVOKED")
            ) =>
        {
            soon(Class::Rotation, Some(HintKind::PermissionRevoked))
        }
        // Codes that Plaid adds later are looked at as well: a reconciliation is cheap, a missed change is not.
        ("ITEM", _) => soon(Class::Rotation, None),
        // Seldom, and the first thing heard of an Item whose update mode added an account, or that was not ready:
        // https://plaid.com/docs/api/products/transactions/#initial_update
        ("TRANSACTIONS", "INITIAL_UPDATE" | "HISTORICAL_UPDATE") => soon(Class::NewAccount, None),
        (_, _) => Signal { class: Class::Sweep, pace: Pace::Quiet, unblocks: false, hint: None },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_webhook_asks_for_what_it_should() {
        use HintKind::*;
        use Pace::{Quiet, Soon};
        let table = [
            ("ITEM", "ERROR", Some("ITEM_LOGIN_REQUIRED"), Class::Rotation, Soon, false, None),
            ("ITEM", "ERROR", Some("USER_PERMISSION_REVOKED"), Class::Rotation, Soon, false, Some(PermissionRevoked)),
            ("ITEM", "LOGIN_REPAIRED", None, Class::Rotation, Soon, true, None),
            ("ITEM", "NEW_ACCOUNTS_AVAILABLE", None, Class::NewAccount, Soon, false, None),
            ("ITEM", "PENDING_DISCONNECT", None, Class::Rotation, Soon, false, Some(PendingDisconnect)),
            ("ITEM", "PENDING_EXPIRATION", None, Class::Rotation, Soon, false, Some(PendingExpiration)),
            ("ITEM", "USER_PERMISSION_REVOKED", None, Class::Rotation, Soon, false, Some(PermissionRevoked)),
            ("ITEM", "USER_ACCOUNT_REVOKED", None, Class::Rotation, Soon, false, Some(AccountRevoked)),
            ("ITEM", "A_CODE_OF_2031", None, Class::Rotation, Soon, false, None),
            ("ITEM", "ERROR", Some("ITEM_NOT_FOUND"), Class::Rotation, Soon, false, Some(PermissionRevoked)),
            ("TRANSACTIONS", "INITIAL_UPDATE", None, Class::NewAccount, Soon, false, None),
            ("TRANSACTIONS", "SYNC_UPDATES_AVAILABLE", None, Class::Sweep, Quiet, false, None),
            ("ASSETS", "ERROR", None, Class::Sweep, Quiet, false, None),
            ("A_TYPE_OF_2031", "ERROR", None, Class::Sweep, Quiet, false, None),
        ];
        for (kind, code, error, class, pace, unblocks, hint) in table {
            let got = signal(kind, code, error);
            assert_eq!(got, Signal { class, pace, unblocks, hint }, "{kind}/{code}");
        }
    }

    fn read(value: &serde_json::Value) -> Result<Webhook, NotAWebhook> {
        Webhook::read(value.to_string().as_bytes())
    }

    #[test]
    fn unknown_types_and_missing_items_are_webhooks_all_the_same() {
        let read = read(&json!({"webhook_type": "NEW", "webhook_code": "THING", "link_session_id": "s1"})).unwrap();
        assert_eq!((read.item, read.key.as_deref()), (None, Some("s1")));
    }

    #[test]
    fn what_is_no_webhook_is_named() {
        assert_eq!(read(&json!([1])), Err(NotAWebhook::NotAnObject));
        assert_eq!(read(&json!({"webhook_type": "ITEM"})), Err(NotAWebhook::Missing("webhook_code")));
        assert_eq!(
            read(&json!({"webhook_type": "a\nb", "webhook_code": "X"})),
            Err(NotAWebhook::Missing("webhook_type"))
        );
    }

    #[test]
    fn webhooks_about_one_thing_share_a_record_key() {
        let table = [
            (json!({"item_id": "i1", "user_id": "u1"}), Some("i1")),
            (json!({"item_id": "not an id", "user_id": "u1", "account_id": "a1"}), Some("u1")),
            (json!({"user_id": 7, "account_id": "a1"}), Some("a1")),
            (json!({}), None),
        ];
        for (mut value, key) in table {
            value["webhook_type"] = "NEW".into();
            value["webhook_code"] = "THING".into();
            assert_eq!(read(&value).unwrap().key.as_deref(), key, "{value}");
        }
    }

    #[test]
    fn what_nobody_reads_may_be_as_odd_as_it_likes() {
        let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
        let odd = [&*deep, "1e400", "123456789012345678901234567890", r#""Caf\ud83d""#, r#"{"a":{"b":null}}"#];
        for odd in odd {
            let body = format!(
                r#"{{"webhook_type":"ITEM","webhook_code":"ERROR","later":{odd},"item_id":"i1","error":{odd}}}"#
            );
            let read = Webhook::read(body.as_bytes()).unwrap();
            assert_eq!((read.item.map(String::from).as_deref(), read.error_code), (Some("i1"), None));
        }
    }

    #[test]
    fn only_what_fits_a_header_or_a_log_line_is_taken_over() {
        for (word, fits) in [("w".repeat(128), true), ("w".repeat(129), false), (String::new(), false)] {
            let read = read(&json!({"webhook_type": word, "webhook_code": "X"}));
            assert_eq!(read.is_ok(), fits, "{word:?}");
        }
        for (name, ends_at, fits) in [
            ("disconnect_time", "t".repeat(64), true),
            ("consent_expiration_time", "2031-01-01T00:00:00Z".into(), true),
            ("consent_expiration_time", "t".repeat(65), false),
            ("disconnect_time", "to morrow".into(), false),
        ] {
            let value =
                json!({"webhook_type": "ITEM", "webhook_code": "X", name: ends_at, "error": {"error_code": "E"}});
            let read = read(&value).unwrap();
            assert_eq!((read.ends_at, read.error_code), (fits.then_some(ends_at), Some("E".into())), "{name}");
        }
    }
}
