//! The one registry of id types: two ids never swap silently.

use serde::{Deserialize, Serialize};

/// Why a text is not an id. The text itself may be a pasted secret, so only its length is told.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{what} must be {form}, got {length} bytes")]
pub struct BadId {
    what: &'static str,
    form: &'static str,
    length: usize,
}

const MAX: usize = 256;

fn is_printable(text: &str) -> bool {
    // `.` and `..` name no resource in a URL: what they stand for is somewhere else.
    let dots = matches!(text, "." | "..");
    !text.is_empty() && !dots && text.len() <= MAX && text.chars().all(|c| c.is_ascii_graphic())
}

/// It stands in paths of URLs, where `x/../y` would be another business's `y`.
fn is_path_segment(text: &str) -> bool {
    is_printable(text) && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
}

/// One business has one name: Layer's UUIDs are in lower case.
fn is_business(text: &str) -> bool {
    let is_layers = |id: &str| is_path_segment(id) && !id.chars().any(|c| c.is_ascii_uppercase());
    is_printable(text) && text.strip_prefix("layer:").is_none_or(is_layers)
}

fn check(what: &'static str, text: &str, fits: fn(&str) -> bool, form: &'static str) -> Result<(), BadId> {
    let refused = |form| Err(BadId { what, form, length: text.len() });
    match text {
        text if crate::redact::shows_token(text) => refused("an id, and not a token"),
        text if !fits(text) => refused(form),
        _ => Ok(()),
    }
}

const PRINTABLE: &str = "1 to 256 printable characters without spaces";

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $fits:expr, $form:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Takes what can do no harm: providers may change the form of their ids at any time.
            pub fn parse(text: impl Into<String>) -> Result<Self, BadId> {
                let text = text.into();
                check($what, &text, $fits, $form)?;
                Ok(Self(text))
            }
            /// As it stands in our own store, which it entered by [`Self::parse`]: should that become stricter, what is there
            /// already can still be worked on.
            pub fn from_stored(text: String) -> Self {
                Self(text)
            }
            /// As it is written.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl TryFrom<String> for $name {
            type Error = BadId;
            fn try_from(text: String) -> Result<Self, BadId> {
                Self::parse(text)
            }
        }
        impl std::str::FromStr for $name {
            type Err = BadId;
            fn from_str(text: &str) -> Result<Self, BadId> {
                Self::parse(text)
            }
        }
        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id!(
    /// Plaid's `item_id`: opaque and case-sensitive.
    ItemId, "item_id", is_printable, PRINTABLE
);
id!(
    /// Plaid's `account_id`. A re-linked or re-numbered account gets a new one.
    AccountId, "account_id", is_printable, PRINTABLE
);
id!(
    /// How the platform names a business: Layer's `external_id`, or `layer:` and Layer's own UUID.
    BusinessId, "business_id", is_business,
    "1 to 256 printable characters without spaces, and behind `layer:` lower-case letters, digits, - and _ alone"
);
id!(
    /// Layer's own id of a business, the one in its URLs.
    LayerId, "Layer business id", is_path_segment, "1 to 256 letters, digits, - and _"
);

/// What a [`BusinessId`] points at.
#[derive(Debug, PartialEq, Eq)]
pub enum BusinessRef<'a> {
    External(&'a str),
    Layer(&'a str),
}

impl BusinessId {
    /// How Layer is asked for it.
    pub fn reference(&self) -> BusinessRef<'_> {
        match self.0.strip_prefix("layer:") {
            Some(id) => BusinessRef::Layer(id),
            None => BusinessRef::External(&self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_refuse_what_could_break_a_log_line_or_a_url_and_never_echo_it() {
        for bad in ["", "a b", "a\nb", "ä"] {
            assert!(ItemId::parse(bad).is_err(), "{bad:?}");
        }
        for (length, fits) in [(1, true), (MAX, true), (MAX + 1, false)] {
            assert_eq!(ItemId::parse("i".repeat(length)).is_ok(), fits, "{length}");
        }
        for bad in ["layer:", "layer:x/../y", "layer:x?y", "layer:x#y", "layer:..", "layer:8F1C", "layer:%2e"] {
            assert!(BusinessId::parse(bad).is_err(), "{bad}: it would stand in a URL");
        }
        assert!(LayerId::parse("x/../y").is_err());
        assert!(BusinessId::parse("acme/../globex").is_ok(), "an external_id stands in a query, encoded");
        let token = "access-sandbox-8f1c0000-0000-0000-0000-000000000000";
        let refused = BusinessId::parse(token).map(|_| ()).unwrap_err().to_string();
        assert!(refused.contains("not a token") && !refused.contains("8f1c"), "{refused}");
        let secret = "access sandbox secret";
        assert!(!ItemId::parse(secret).map(|_| ()).unwrap_err().to_string().contains("secret"));
    }

    #[test]
    fn a_business_is_named_by_external_id_or_by_layer_id() {
        let named = |t: &str| BusinessId::parse(t).unwrap();
        assert_eq!(named("acme").reference(), BusinessRef::External("acme"));
        assert_eq!(named("layer:8f1c").reference(), BusinessRef::Layer("8f1c"));
    }
}
