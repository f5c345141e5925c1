//! Proves that a webhook is Plaid's: <https://plaid.com/docs/api/webhooks/webhook-verification/>.

use crate::keys::{Keys, NoKey};
use aws_lc_rs::{constant_time, digest};
use bytes::Bytes;
use domain::metric;
use jsonwebtoken::{Algorithm, Validation};
use serde::Deserialize;
use std::time::Duration;

/// How old a signature may be: Plaid's own rule.
const MAX_AGE: Duration = Duration::from_secs(5 * 60);
/// How far ahead of ours Plaid's clock may be.
const MAX_AHEAD: Duration = Duration::from_secs(60);
/// A longer header is not Plaid's; a real one has about 400 bytes.
const MAX_HEADER: usize = 4096;

/// A webhook that Plaid signed, over exactly these bytes. Only [`Verifier::verify`] makes one, and only this can be
/// published (I2).
#[derive(Debug, Clone)]
pub struct Verified {
    body: Bytes,
    signature: String,
    issued_at: i64,
}

impl Verified {
    /// The exact bytes that were signed.
    pub fn body(&self) -> &Bytes {
        &self.body
    }
    /// The `Plaid-Verification` header, for forwarding the untouched request.
    pub fn signature(&self) -> &str {
        &self.signature
    }
    /// Plaid's `iat`, Unix seconds.
    pub fn issued_at(&self) -> i64 {
        self.issued_at
    }
}

/// Why a webhook is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    #[error("the Plaid-Verification header is missing")]
    MissingHeader,
    #[error("the Plaid-Verification header stands there more than once")]
    RepeatedHeader,
    #[error("the Plaid-Verification header is not a signed token")]
    MalformedHeader,
    #[error("the signature algorithm is not ES256")]
    Algorithm,
    #[error("the signing key is unknown in this environment")]
    UnknownKey,
    #[error("the signing key has expired")]
    ExpiredKey,
    #[error("the signature is wrong")]
    Signature,
    #[error("the signature is more than five minutes old")]
    Stale,
    #[error("the signature is from the future")]
    Future,
    #[error("the body is not the one that was signed")]
    Body,
    /// Not the sender's fault: it shall send again.
    #[error("the signing key can't be looked up at the moment")]
    KeyUnavailable,
}

impl Rejection {
    /// The word for metrics and answers.
    pub fn word(self) -> &'static str {
        match self {
            Self::MissingHeader => "missing_header",
            Self::RepeatedHeader => "repeated_header",
            Self::MalformedHeader => "malformed_header",
            Self::Algorithm => "algorithm",
            Self::UnknownKey => "unknown_key",
            Self::ExpiredKey => "expired_key",
            Self::Signature => "signature",
            Self::Stale => "stale",
            Self::Future => "future",
            Self::Body => "body",
            Self::KeyUnavailable => "key_unavailable",
        }
    }
}

#[derive(Deserialize)]
struct Claims {
    iat: i64,
    request_body_sha256: String,
}

/// Verifies webhooks of one Plaid environment.
#[derive(Debug, Clone)]
pub struct Verifier {
    keys: Keys,
}

impl Verifier {
    pub fn new(keys: Keys) -> Self {
        Self { keys }
    }

    /// `headers` are the values of every `Plaid-Verification` header of the request; `now` is Unix seconds.
    pub async fn verify(&self, headers: &[&[u8]], body: Bytes, now: i64) -> Result<Verified, Rejection> {
        let token = match headers {
            [] => return Err(Rejection::MissingHeader),
            [token] => token,
            [_, _, ..] => return Err(Rejection::RepeatedHeader),
        };
        let token = std::str::from_utf8(token).map_err(|_| Rejection::MalformedHeader)?.trim();
        if token.len() > MAX_HEADER {
            return Err(Rejection::MalformedHeader);
        }
        let kid = key_id(token)?;
        // The claims are not trusted yet; a look at `iat` only spares the key look-up for what is stale anyway.
        let early: Claims = jsonwebtoken::dangerous::insecure_decode(token)
            .map(|data| data.claims)
            .map_err(|_| Rejection::MalformedHeader)?;
        check_age(early.iat, now)?;

        let key = self.keys.get(&kid, now).await.map_err(|no_key| match no_key {
            NoKey::Unknown => Rejection::UnknownKey,
            NoKey::Expired => Rejection::ExpiredKey,
            NoKey::Unavailable => Rejection::KeyUnavailable,
        })?;
        let claims =
            jsonwebtoken::decode::<Claims>(token, &key, &validation()).map_err(|_| Rejection::Signature)?.claims;
        check_age(claims.iat, now)?;
        metrics::gauge!(metric::WEBHOOK_CLOCK_SKEW).set((now - claims.iat) as f64);
        let actual = domain::secret::hex(digest::digest(&digest::SHA256, &body).as_ref());
        let signed = claims.request_body_sha256.to_ascii_lowercase();
        constant_time::verify_slices_are_equal(actual.as_bytes(), signed.as_bytes()).map_err(|_| Rejection::Body)?;
        Ok(Verified { body, signature: token.to_owned(), issued_at: claims.iat })
    }
}

fn key_id(token: &str) -> Result<String, Rejection> {
    // The library refuses algorithms it does not know while it parses; to the caller that is a wrong algorithm too.
    let header = jsonwebtoken::decode_header(token).map_err(|error| match error.kind() {
        jsonwebtoken::errors::ErrorKind::InvalidAlgorithm | jsonwebtoken::errors::ErrorKind::InvalidAlgorithmName => {
            Rejection::Algorithm
        }
        _ => Rejection::MalformedHeader,
    })?;
    if header.alg != Algorithm::ES256 {
        return Err(Rejection::Algorithm);
    }
    let kid = header.kid.ok_or(Rejection::MalformedHeader)?;
    let fits =
        !kid.is_empty() && kid.len() <= 128 && kid.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    if fits { Ok(kid) } else { Err(Rejection::MalformedHeader) }
}

/// ES256 and nothing else. Plaid's token has no `exp`, which the library would demand; `iat` is checked by us.
fn validation() -> Validation {
    let mut validation = Validation::new(Algorithm::ES256);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_aud = false;
    validation
}

fn check_age(issued_at: i64, now: i64) -> Result<(), Rejection> {
    let seconds = |d: Duration| i64::try_from(d.as_secs()).unwrap_or(i64::MAX);
    if issued_at < now.saturating_sub(seconds(MAX_AGE)) {
        Err(Rejection::Stale)
    } else if issued_at > now.saturating_add(seconds(MAX_AHEAD)) {
        Err(Rejection::Future)
    } else {
        Ok(())
    }
}
