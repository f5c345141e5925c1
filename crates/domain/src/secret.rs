//! Secrets that cannot print themselves, and the fingerprint that may be shown instead.

use aws_lc_rs::hmac;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! token {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone)]
        pub struct $name(SecretString);

        impl $name {
            /// Takes the token as it came.
            pub fn new(text: impl Into<String>) -> Self {
                Self(SecretString::from(text.into()))
            }
            /// The token itself. Call it only where the token leaves for the provider or is sealed.
            pub fn expose(&self) -> &str {
                self.0.expose_secret()
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(hidden)"))
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                String::deserialize(d).map(Self::new)
            }
        }
    };
}

token!(
    /// Plaid's access token of an Item.
    AccessToken
);
token!(
    /// A token minted for one account with `/processor/token/create`; what Layer reads the account with.
    ProcessorToken
);

impl AccessToken {
    /// The environment a token names in its own text (`access-sandbox-…`), for a clearer refusal only:
    /// Plaid may change the form of its tokens, so nothing else may depend on it.
    pub fn environment_hint(&self) -> Option<&str> {
        let rest = self.expose().strip_prefix("access-")?;
        let (environment, _) = rest.split_once('-')?;
        matches!(environment, "sandbox" | "production" | "development").then_some(environment)
    }
}

/// Hash of a token under a versioned key of its own: the only form of a token that may be shown or compared.
///
/// Written `fp<version>_<24 hex digits>`. Two fingerprints of different versions say nothing about each other.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fingerprint(String);

impl Fingerprint {
    /// Reads back what [`fmt::Display`] wrote, as stored in the database.
    pub fn from_stored(text: String) -> Self {
        Self(text)
    }
    /// As it is stored and shown.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Makes fingerprints under the current version of the key.
#[derive(Clone)]
pub struct Fingerprinter {
    version: u32,
    key: hmac::Key,
}

impl fmt::Debug for Fingerprinter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprinter(version {})", self.version)
    }
}

impl Fingerprinter {
    /// Fingerprints under this key; `version` tells them from those of another one.
    pub fn new(version: u32, key: &[u8; 32]) -> Self {
        Self { version, key: hmac::Key::new(hmac::HMAC_SHA256, key) }
    }
    /// HMAC-SHA-256 of the text.
    pub fn of(&self, token: &str) -> Fingerprint {
        let tag = hmac::sign(&self.key, token.as_bytes());
        // 96 bits: no two of a fleet's tokens collide, and the text stays short enough for a log line.
        Fingerprint(format!("fp{}_{}", self.version, hex(&tag.as_ref()[..12])))
    }
    /// Of an access token.
    pub fn of_access(&self, token: &AccessToken) -> Fingerprint {
        self.of(token.expose())
    }
    /// Of a processor token.
    pub fn of_processor(&self, token: &ProcessorToken) -> Fingerprint {
        self.of(token.expose())
    }
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    let digit = |half: u8| char::from_digit(half.into(), 16).unwrap_or_default();
    bytes.iter().flat_map(|b| [digit(b >> 4), digit(b & 15)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i3_no_token_prints_itself() {
        let token = AccessToken::new("access-sandbox-marked");
        assert!(!format!("{token:?}").contains("marked"));
        assert!(!format!("{:?}", ProcessorToken::new("marked")).contains("marked"));
        assert_eq!(format!("{:?}", Fingerprinter::new(1, &[109; 32])), "Fingerprinter(version 1)");
    }

    #[test]
    fn a_fingerprint_depends_on_key_and_token_and_carries_its_version() {
        let one = Fingerprinter::new(1, &[1; 32]);
        let two = Fingerprinter::new(2, &[2; 32]);
        assert_eq!(one.of("t"), one.of("t"));
        assert_ne!(one.of("t"), one.of("u"));
        assert_ne!(one.of("t").as_str()[4..], two.of("t").as_str()[4..]);
        assert!(two.of("t").as_str().starts_with("fp2_"));
    }

    #[test]
    fn a_fingerprint_is_written_as_it_is_stored() {
        let stored = format!("fp7_{}", hex(&[0x00, 0x0f, 0xf0]));
        assert_eq!(stored, "fp7_000ff0");
        assert_eq!(Fingerprint::from_stored(stored.clone()).to_string(), stored);
    }

    #[test]
    fn a_token_of_another_environment_is_recognised_for_the_message() {
        assert_eq!(AccessToken::new("access-production-1").environment_hint(), Some("production"));
        assert_eq!(AccessToken::new("anything").environment_hint(), None);
    }
}
