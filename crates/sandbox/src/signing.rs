//! Signs webhooks as Plaid does, with another library than the one that verifies them.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use p256::ecdsa::signature::Signer as _;
use p256::ecdsa::{Signature, SigningKey};
use rand::{Rng, RngExt};
use serde_json::{Value, json};
use sha2::Digest as _;

/// A signing key with its id.
pub struct Signer {
    pub kid: String,
    key: SigningKey,
    /// Unix seconds.
    pub expired_at: Option<i64>,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Signer({})", self.kid)
    }
}

/// Lower-case hex of SHA-256.
pub fn sha256_hex(bytes: &[u8]) -> String {
    sha2::Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

pub(crate) fn uuid(rng: &mut impl Rng) -> String {
    uuid::Builder::from_random_bytes(rng.random()).into_uuid().to_string()
}

impl Signer {
    /// Makes a key of Plaid's.
    pub fn new(rng: &mut impl Rng) -> Self {
        loop {
            let bytes: [u8; 32] = rng.random();
            // All but a few of 2^256 values are keys.
            if let Ok(key) = SigningKey::from_slice(&bytes) {
                return Self { kid: uuid(rng), key, expired_at: None };
            }
        }
    }

    /// The `Plaid-Verification` header for exactly this body.
    pub fn sign(&self, body: &[u8], issued_at: i64) -> String {
        let header = json!({"alg": "ES256", "kid": self.kid, "typ": "JWT"});
        let claims = json!({"iat": issued_at, "request_body_sha256": sha256_hex(body)});
        self.sign_raw(&header, &claims)
    }

    /// A token with any header and claims, for tests of what must be refused.
    pub fn sign_raw(&self, header: &Value, claims: &Value) -> String {
        let signed = format!("{}.{}", BASE64.encode(header.to_string()), BASE64.encode(claims.to_string()));
        let signature: Signature = self.key.sign(signed.as_bytes());
        format!("{signed}.{}", BASE64.encode(signature.to_bytes()))
    }

    /// The answer of `/webhook_verification_key/get`.
    pub fn jwk(&self) -> Value {
        let point = self.key.verifying_key().to_sec1_point(false);
        let bytes = point.as_bytes();
        json!({
            "alg": "ES256", "crv": "P-256", "kty": "EC", "use": "sig", "kid": self.kid,
            "x": BASE64.encode(&bytes[1..33]), "y": BASE64.encode(&bytes[33..65]),
            "created_at": 1_560_000_000, "expired_at": self.expired_at,
        })
    }
}
