//! The one registry of id types: two ids never swap silently.

use serde::{Deserialize, Serialize};

/// Why a text is not an id.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{what} must be 1 to {max} printable characters without spaces, got {got}")]
pub struct BadId {
    what: &'static str,
    max: usize,
    got: String,
}

const MAX: usize = 256;

fn check(what: &'static str, text: &str) -> Result<(), BadId> {
    // `.` and `..` name no resource in a URL: what they stand for is somewhere else.
    let dots = matches!(text, "." | "..");
    if text.is_empty() || dots || text.len() > MAX || !text.chars().all(|c| c.is_ascii_graphic()) {
        // The text itself may be a pasted secret, so the error tells only its length.
        return Err(BadId { what, max: MAX, got: format!("{} bytes", text.len()) });
    }
    Ok(())
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Takes any printable text: providers may change the form of their ids at any time.
            pub fn parse(text: impl Into<String>) -> Result<Self, BadId> {
                let text = text.into();
                check($what, &text)?;
                Ok(Self(text))
            }
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
    ItemId, "item_id"
);
id!(
    /// Plaid's `account_id`. A re-linked or re-numbered account gets a new one.
    AccountId, "account_id"
);
id!(
    /// How the platform names a business: Layer's `external_id`, or `layer:` and Layer's own UUID.
    BusinessId, "business_id"
);
id!(
    /// Layer's own id of a business, the one in its URLs.
    LayerId, "Layer business id"
);

/// What a [`BusinessId`] points at.
#[derive(Debug, PartialEq, Eq)]
pub enum BusinessRef<'a> {
    External(&'a str),
    Layer(&'a str),
}

impl BusinessId {
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
