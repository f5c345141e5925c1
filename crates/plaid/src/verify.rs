//! Proves that a webhook is Plaid's: <https://plaid.com/docs/api/webhooks/webhook-verification/>.

use crate::keys::{Keys, NoKey};
use aws_lc_rs::signature::ParsedPublicKey;
use aws_lc_rs::{constant_time, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use domain::metric;
use domain::outage::{Outage, Over};
use domain::webhook::NotTaken;
use jsonwebtoken::Algorithm;
use parking_lot::Mutex;
use serde::Deserialize;
use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

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
    sha256: String,
    issued_at: i64,
}

impl Verified {
    /// The exact bytes that were signed.
    pub fn body(&self) -> &Bytes {
        &self.body
    }
    /// Its SHA-256, in hexadecimal digits.
    pub fn sha256(&self) -> &str {
        &self.sha256
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
    /// Plaid signs each delivery anew, so this is a header that somebody has caught.
    #[error("the same signature was refused before")]
    Replayed,
    /// About another body or of another time, and too many such came within this second, or the key was never looked up: its
    /// signature is not verified.
    #[error("what is said to be signed is not this body, or not of this time")]
    Unproved,
    /// Not the sender's fault: it shall send again.
    #[error("the signing key can't be looked up at the moment")]
    KeyUnavailable,
}

impl Rejection {
    /// The word for metrics and answers.
    pub fn reason(self) -> NotTaken {
        match self {
            Self::MissingHeader => NotTaken::MissingHeader,
            Self::RepeatedHeader => NotTaken::RepeatedHeader,
            Self::MalformedHeader => NotTaken::MalformedHeader,
            Self::Algorithm => NotTaken::Algorithm,
            Self::UnknownKey => NotTaken::UnknownKey,
            Self::ExpiredKey => NotTaken::ExpiredKey,
            Self::Signature => NotTaken::Signature,
            Self::Stale => NotTaken::Stale,
            Self::Future => NotTaken::Future,
            Self::Body => NotTaken::Body,
            Self::Replayed => NotTaken::Replayed,
            Self::Unproved => NotTaken::Unproved,
            Self::KeyUnavailable => NotTaken::KeyUnavailable,
        }
    }
}

#[derive(Deserialize)]
struct Claims {
    #[serde(deserialize_with = "seconds")]
    iat: i64,
    request_body_sha256: String,
}

/// A NumericDate, which may have a fraction: <https://www.rfc-editor.org/rfc/rfc7519#section-2>.
fn seconds<'de, D: serde::Deserializer<'de>>(number: D) -> Result<i64, D::Error> {
    let number = f64::deserialize(number)?;
    // Beyond what a float holds exactly it can't be a real time.
    let fits = number.is_finite() && number.abs() < 9e15;
    fits.then(|| number.floor() as i64).ok_or_else(|| serde::de::Error::custom("no time"))
}

/// Verifies webhooks of one Plaid environment.
#[derive(Debug, Clone)]
pub struct Verifier {
    keys: Keys,
    wrong_times: Arc<Outage>,
    refused: Arc<Mutex<VecDeque<u64>>>,
    hasher: RandomState,
    wrong_age: Arc<Mutex<Option<Instant>>>,
    examined: Arc<Mutex<(Instant, u32)>>,
}

/// Signatures over another body, or of another time, that are verified in a second, to tell a proxy that rewrites bodies, or a wrong
/// clock, from a forger. To verify one costs ten times what all else costs, so more would let anybody who has seen one header keep a core busy.
const EXAMINED_A_SECOND: u32 = 20;

/// Two signatures of the wrong time in this time tell of a clock.
const WRONG_AGES_WITHIN: Duration = Duration::from_mins(10);

/// Right signatures that are remembered because what came with them was refused.
const MOST_REFUSED: usize = 1024;

impl Verifier {
    /// Verifies by these keys.
    pub fn new(keys: Keys) -> Self {
        Self {
            keys,
            wrong_times: Arc::default(),
            refused: Arc::default(),
            hasher: RandomState::new(),
            wrong_age: Arc::default(),
            examined: Arc::new(Mutex::new((Instant::now(), 0))),
        }
    }

    /// `headers` are the values of every `Plaid-Verification` header of the request; `now` is Unix seconds.
    pub async fn verify(&self, headers: &[&[u8]], body: Bytes, now: i64) -> Result<Verified, Rejection> {
        let token = match headers {
            [] => return Err(Rejection::MissingHeader),
            // A proxy on the way repeats a header now and then; with one value nothing is ambiguous.
            [token, others @ ..] if others.iter().all(|other| other == token) => token,
            [..] => return Err(Rejection::RepeatedHeader),
        };
        let token = std::str::from_utf8(token).map_err(|_| Rejection::MalformedHeader)?.trim();
        if token.len() > MAX_HEADER {
            return Err(Rejection::MalformedHeader);
        }
        let kid = key_id(token)?;
        // Nobody's word yet; Plaid's, once the signature over these very bytes is verified.
        let claims: Claims = jsonwebtoken::dangerous::insecure_decode(token)
            .map(|data| data.claims)
            .map_err(|_| Rejection::MalformedHeader)?;
        let sha256 = domain::secret::hex(digest::digest(&digest::SHA256, &body).as_ref());
        let signed = claims.request_body_sha256.to_ascii_lowercase();
        let fits = constant_time::verify_slices_are_equal(sha256.as_bytes(), signed.as_bytes()).is_ok();
        // What can't be right is refused before anybody is asked for a key or a curve is computed. It is nobody's word yet,
        // so it is counted apart from what a right signature said. A few a second are examined all the same. For those of
        // another time that must not depend on the key: to a process that starts with a wrong clock every webhook seems old, and
        // it would never hear from a right signature that its clock is wrong.
        let age = check_age(claims.iat, now);
        if !fits || age.is_err() {
            if self.was_refused(token) {
                return Err(Rejection::Replayed);
            }
            if !fits && !self.keys.knows(&kid) || !self.may_examine() {
                return Err(Rejection::Unproved);
            }
        }

        let key = self.keys.get(&kid, now).await.map_err(|no_key| match no_key {
            NoKey::Unknown => Rejection::UnknownKey,
            NoKey::Expired => Rejection::ExpiredKey,
            NoKey::Unavailable => Rejection::KeyUnavailable,
        })?;
        if !is_signed(token, &key) {
            return Err(Rejection::Signature);
        }
        if !fits {
            return Err(self.refused_before(token).unwrap_or_else(|| {
                hint_at_proxy(&body, &claims.request_body_sha256);
                Rejection::Body
            }));
        }
        if age.is_err()
            && let Some(again) = self.refused_before(token)
        {
            return Err(again);
        }
        // A clock of ours that is wrong refuses everything, and shall be seen; one old webhook that somebody caught is no
        // clock.
        if age.is_ok() || self.wrong_age_again() {
            metrics::gauge!(metric::WEBHOOK_CLOCK_SKEW).set((now - claims.iat) as f64);
        }
        if let Err(rejection) = age {
            if let Some(times) = self.wrong_times.failed(Instant::now()) {
                let ahead_s = now - claims.iat;
                tracing::warn!(
                    ahead_s,
                    times,
                    "webhooks with a right signature and a wrong time: is this machine's clock right?"
                );
            }
            return Err(rejection);
        }
        if let Some(Over { lasted, times }) = self.wrong_times.went_well(Instant::now()) {
            tracing::info!(lasted_s = lasted.as_secs(), times, "webhooks have the right time again");
        }
        Ok(Verified { body, sha256, issued_at: claims.iat })
    }

    fn was_refused(&self, token: &str) -> bool {
        self.refused.lock().contains(&self.hasher.hash_one(token))
    }

    fn may_examine(&self) -> bool {
        let mut examined = self.examined.lock();
        if examined.0.elapsed() >= Duration::from_secs(1) {
            *examined = (Instant::now(), 0);
        }
        examined.1 = examined.1.saturating_add(1);
        examined.1 <= EXAMINED_A_SECOND
    }

    /// Another signature of the wrong time came a short while ago.
    fn wrong_age_again(&self) -> bool {
        let before = self.wrong_age.lock().replace(Instant::now());
        before.is_some_and(|at| at.elapsed() < WRONG_AGES_WITHIN)
    }

    /// Somebody who has caught one header can send it for ever, with any body. Counted as what it was the first time, it would
    /// call people for a clock or a proxy that is in order.
    fn refused_before(&self, token: &str) -> Option<Rejection> {
        let hash = self.hasher.hash_one(token);
        let mut refused = self.refused.lock();
        if refused.contains(&hash) {
            return Some(Rejection::Replayed);
        }
        if refused.len() >= MOST_REFUSED {
            refused.pop_front();
        }
        refused.push_back(hash);
        None
    }
}

/// Proxies that write JSON anew break the signature, which is over Plaid's own indentation. If the body fits once it is
/// indented, somebody should look at the proxy; there is no mode that accepts it.
fn hint_at_proxy(body: &[u8], signed: &str) {
    let Ok(value) = serde_json::from_slice::<serde_json::Value>(body) else { return };
    let Ok(indented) = serde_json::to_vec_pretty(&value) else { return };
    let hash = domain::secret::hex(digest::digest(&digest::SHA256, &indented).as_ref());
    if hash.eq_ignore_ascii_case(signed) {
        tracing::warn!(
            "a webhook was signed over the indented form of its body and arrived in another: a proxy on the way writes JSON \
             anew, let it pass bodies unchanged"
        );
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
    if header.crit.is_some() {
        // It names extensions that must be understood, and none is: https://www.rfc-editor.org/rfc/rfc7515#section-4.1.11
        return Err(Rejection::MalformedHeader);
    }
    let kid = header.kid.ok_or(Rejection::MalformedHeader)?;
    let fits =
        !kid.is_empty() && kid.len() <= 128 && kid.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    if fits { Ok(kid) } else { Err(Rejection::MalformedHeader) }
}

/// Whether this key signed what stands before the last dot: <https://www.rfc-editor.org/rfc/rfc7515#section-5.2>. The library
/// would parse the key, and decode the claims, once more for each webhook.
fn is_signed(token: &str, key: &ParsedPublicKey) -> bool {
    let Some((message, signature)) = token.rsplit_once('.') else { return false };
    let signature = URL_SAFE_NO_PAD.decode(signature);
    signature.is_ok_and(|signature| key.verify_sig(message.as_bytes(), &signature).is_ok())
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
