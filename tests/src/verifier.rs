//! A verifier of webhooks without anybody to ask for keys.

use plaid::{Keys, Verifier};
use rekey::config::load_text;
use rekey::wiring::plaid_client;
use sandbox::Signer;
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;

/// A verifier that knows one key and looks up none.
pub fn verifier(signer: &Signer) -> Verifier {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.json");
    std::fs::write(&file, json!([signer.jwk()]).to_string()).unwrap();
    let text = format!(
        "[plaid]\nbase_url = \"http://127.0.0.1:9\"\nclient_id = \"c\"\nsecret = \"s\"\n\
         [plaid.keys]\nwait = \"0s\"\nmax_waiting = 0\nfile = \"{}\"\n",
        file.display()
    );
    let config = load_text("fuzz.toml", &text, &BTreeMap::new()).unwrap();
    Verifier::new(Keys::new(plaid_client(&config, Duration::from_secs(1)).unwrap(), config.plaid.keys))
}
