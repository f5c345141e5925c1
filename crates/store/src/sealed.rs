//! Secrets at rest: AES-256-GCM-SIV under a key ring, each box bound to its place.

use crate::Error;
use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rand::Rng;
use secrecy::{ExposeSecret, SecretString};

/// Keys that open boxes; the first one seals.
pub struct KeyRing {
    keys: Vec<(String, LessSafeKey)>,
}

impl std::fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.keys.iter().map(|(id, _)| id)).finish()
    }
}

/// Why a key ring can't be used.
#[derive(Debug, thiserror::Error)]
pub enum BadKeyRing {
    #[error("the key ring is empty: set secrets.keys to `id:base64-of-32-bytes` (make one with `rekey keys new`)")]
    Empty,
    #[error(
        "key {0} of the ring is not `id:base64-of-32-bytes` (make one with `rekey keys new`, and give its value alone, without \
         quotes)"
    )]
    Malformed(usize),
    #[error("the key ring names the key id {0} twice")]
    Twice(String),
}

/// Reads `id:base64` entries separated by commas, spaces or line ends, as a secret file holds them.
pub fn parse_keys(text: &str) -> Result<Vec<(String, [u8; 32])>, BadKeyRing> {
    let mut keys: Vec<(String, [u8; 32])> = Vec::new();
    let entries = text.split([',', '\n', ' ', '\r']).map(str::trim).filter(|e| !e.is_empty());
    for (index, entry) in entries.enumerate() {
        let parsed = entry.split_once(':').and_then(|(id, key)| {
            let id_fits = !id.is_empty() && id.len() <= 32 && id.chars().all(|c| c.is_ascii_alphanumeric());
            let key: [u8; 32] = BASE64.decode(key).ok()?.try_into().ok()?;
            id_fits.then(|| (id.to_owned(), key))
        });
        let (id, key) = parsed.ok_or(BadKeyRing::Malformed(index + 1))?;
        if keys.iter().any(|(known, _)| *known == id) {
            return Err(BadKeyRing::Twice(id));
        }
        keys.push((id, key));
    }
    if keys.is_empty() { Err(BadKeyRing::Empty) } else { Ok(keys) }
}

impl KeyRing {
    /// The id of the key that seals.
    pub(crate) fn first(&self) -> Result<&str, Error> {
        self.ids().next().ok_or(Error::Sealing)
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().map(|(id, _)| id.as_str())
    }

    /// Reads `id:base64-of-32-bytes`, several with commas between; the first one seals.
    pub fn parse(text: &SecretString) -> Result<Self, BadKeyRing> {
        let keys = parse_keys(text.expose_secret())?;
        let mut ring = Vec::with_capacity(keys.len());
        for (index, (id, key)) in keys.into_iter().enumerate() {
            let key = UnboundKey::new(&AES_256_GCM_SIV, &key).map_err(|_| BadKeyRing::Malformed(index + 1))?;
            ring.push((id, LessSafeKey::new(key)));
        }
        Ok(Self { keys: ring })
    }

    /// Seals `secret` for one place, such as `access_tokens/item-1/fp1_ab`. Moved to another row it does not open.
    pub fn seal(&self, place: &str, secret: &str) -> Result<String, Error> {
        let (id, key) = self.keys.first().ok_or(Error::Sealing)?;
        // GCM-SIV stays safe if a nonce ever repeats, so a random one needs no counter shared by all processes.
        let mut nonce = [0u8; NONCE_LEN];
        rand::rng().fill_bytes(&mut nonce);
        let mut boxed = secret.as_bytes().to_vec();
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(place.as_bytes()), &mut boxed)
            .map_err(|_| Error::Sealing)?;
        Ok(format!("1.{id}.{}.{}", BASE64.encode(nonce), BASE64.encode(boxed)))
    }

    /// Err: no key of the ring has sealed it, or not for this place.
    pub fn open(&self, place: &str, sealed: &str) -> Result<SecretString, Error> {
        let broken = || Error::Corrupt(format!("the sealed value at {place} can't be opened: it was changed or moved"));
        let parts: Vec<&str> = sealed.split('.').collect();
        let ["1", id, nonce, boxed] = parts[..] else { return Err(broken()) };
        let Some((_, key)) = self.keys.iter().find(|(known, _)| known == id) else {
            return Err(Error::MissingKey { id: id.to_owned() });
        };
        let nonce: [u8; NONCE_LEN] = BASE64.decode(nonce).ok().and_then(|n| n.try_into().ok()).ok_or_else(broken)?;
        let mut boxed = BASE64.decode(boxed).map_err(|_| broken())?;
        let plain = key
            .open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(place.as_bytes()), &mut boxed)
            .map_err(|_| broken())?;
        String::from_utf8(plain.to_vec()).map(SecretString::from).map_err(|_| broken())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(keys: &[(&str, u8)]) -> KeyRing {
        let text: Vec<String> = keys.iter().map(|(id, b)| format!("{id}:{}", BASE64.encode([*b; 32]))).collect();
        KeyRing::parse(&SecretString::from(text.join(","))).unwrap()
    }

    #[test]
    fn i3_a_box_opens_only_at_its_place_under_its_key() {
        let sealed = ring(&[("a", 1)]).seal("t/row1", "secret").unwrap();
        assert!(!sealed.contains("secret"));
        assert_eq!(ring(&[("b", 2), ("a", 1)]).open("t/row1", &sealed).unwrap().expose_secret(), "secret");
        assert!(matches!(ring(&[("a", 1)]).open("t/row2", &sealed), Err(Error::Corrupt(_))));
        assert!(matches!(ring(&[("a", 2)]).open("t/row1", &sealed), Err(Error::Corrupt(_))));
        assert!(matches!(ring(&[("b", 2)]).open("t/row1", &sealed), Err(Error::MissingKey { .. })));
    }

    #[test]
    fn a_mistyped_key_ring_is_refused_without_echoing_it() {
        for bad in ["", "a:short", "no-colon", "a b:AAAA"] {
            assert!(KeyRing::parse(&SecretString::from(bad)).is_err(), "{bad}");
        }
        let key = BASE64.encode([9; 32]);
        let twice = KeyRing::parse(&SecretString::from(format!("a:{key},a:{key}"))).unwrap_err().to_string();
        assert!(!twice.contains(&key));
    }
}
