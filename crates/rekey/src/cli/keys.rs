//! New keys and tokens, made here and shown once.

use super::{Ended, say};
use crate::config::BadSetting;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rand::RngExt;
use serde_json::json;

fn random_key() -> String {
    BASE64.encode(rand::rng().random::<[u8; 32]>())
}

/// A key id that sorts by day and is not used twice.
fn key_id() -> String {
    let day = jiff::ZonedDateTime::now().strftime("%Y%m%d").to_string();
    format!("k{day}{:04x}", rand::rng().random::<u16>())
}

/// A new key for `secrets.keys`.
pub fn sealing_key() -> String {
    format!("{}:{}", key_id(), random_key())
}

pub(crate) fn fingerprint_key() -> String {
    format!("1:{}", random_key())
}

pub(super) fn new_keys(json: bool) -> anyhow::Result<Ended> {
    let (keys, fingerprint_key) = (sealing_key(), fingerprint_key());
    if json {
        say(&json!({"keys": keys, "fingerprint_key": fingerprint_key}).to_string());
        return Ok(Ended::Well);
    }
    say("# Keep these secret, and keep a copy: without the first one, the tokens in the database can't be read.");
    say("# A file that `keys_file` or `fingerprint_key_file` names holds the value alone, without quotes.");
    say("[secrets]");
    say(&format!("keys = \"{keys}\""));
    say(&format!("fingerprint_key = \"{fingerprint_key}\""));
    Ok(Ended::Well)
}

pub(super) fn new_token(name: &str, role: &str, json: bool) -> anyhow::Result<Ended> {
    let (token, hash) = console::new_token();
    let entry = format!("{name}:{role}:{hash}");
    console::AdminTokens::parse([entry.as_str()]).map_err(|_| {
        BadSetting::new("the role", "must be read or operate, and the name not be empty or hold a colon")
    })?;
    if json {
        say(&json!({"token": token, "entry": entry}).to_string());
        return Ok(Ended::Well);
    }
    say("# The token, shown this once; only its hash is configured.");
    say(&format!("# token: {token}"));
    say("[console]");
    say(&format!("tokens = [\"{entry}\"]"));
    Ok(Ended::Well)
}
