//! What an operator writes: settings, keys, scenarios, lines of an import.

use super::runtime;
use crate::{Verdict, fuzz};
use rekey::config::{Config, ConfigError, fingerprinter, load_text};
use secrecy::SecretString;
use std::collections::BTreeMap;
use store::KeyRing;

/// I3: an error message quotes no value. Values that must not be seen have this in them.
const MARK: &str = "marked";

fn hidden(what: &str, message: &str) -> Verdict {
    if message.contains(MARK) { Err(format!("I3: {what} quotes a value: {message}")) } else { Ok(()) }
}

/// Whether a name, and not only a value, has the mark: names are quoted. So are files that settings name.
fn names_are_marked(table: &toml::Table) -> bool {
    table.iter().any(|(name, value)| {
        name.contains(MARK)
            || match value {
                toml::Value::Table(inner) => names_are_marked(inner),
                value => {
                    let is_path = name.ends_with("_file") || name == "scenario" || table.contains_key("property_files");
                    is_path && value.to_string().contains(MARK)
                }
            }
    })
}

/// Every conversion, whether the parts before it succeed or not.
fn use_all(config: &Config) -> Vec<String> {
    let mut said = Vec::new();
    let mut note = |outcome: Result<(), rekey::config::BadSetting>| said.extend(outcome.err().map(|e| e.to_string()));
    note(config.plaid().map(drop));
    note(config.layer().map(drop));
    note(config.store().map(drop));
    note(config.token_source().map(drop));
    note(config.receiver().map(drop));
    note(config.consumer().map(drop));
    note(config.console().map(drop));
    note(fingerprinter(&config.secrets.fingerprint_key).map(drop));
    said.extend(config.unverified());
    said.extend(KeyRing::parse(&config.secrets.keys).err().map(|e| e.to_string()));
    said.push(format!("{config:?} {:?}", config.kafka.connection()));
    said
}

/// TOML; behind a line `--- environment`, variables.
#[test]
fn configuration() {
    let runtime = runtime();
    let _inside = runtime.enter();
    let deep = format!("a = {}", "[".repeat(50_000)).into_bytes();
    fuzz("configuration", vec![deep], |input| {
        let text = String::from_utf8_lossy(input);
        let (toml, variables) = text.split_once("--- environment\n").unwrap_or((&text, ""));
        let environment: BTreeMap<String, String> =
            variables.lines().filter_map(|l| l.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        let marked_file = |(k, v): (&String, &String)| {
            let path = k.to_ascii_uppercase().ends_with("_FILE") || k.eq_ignore_ascii_case("REKEY_SANDBOX__SCENARIO");
            k.to_ascii_lowercase().contains(MARK) || (path && v.contains(MARK))
        };
        if toml.parse::<toml::Table>().is_ok_and(|t| names_are_marked(&t)) || environment.iter().any(marked_file) {
            return Ok(());
        }
        match load_text("my.toml", toml, &environment) {
            // They name the key and the path, which are no secrets.
            Err(ConfigError::UnknownKey { .. } | ConfigError::SecretFile { .. }) => Ok(()),
            Err(error) => hidden("an error", &error.to_string()),
            // What is no secret may be shown; what stands in these texts are secrets and errors.
            Ok(config) => {
                use_all(&config).iter().take_while(|t| !t.starts_with("Config")).try_for_each(|t| hidden("an error", t))
            }
        }
    });
}

#[test]
fn keys() {
    fuzz("keys", vec![b"k1:".repeat(50_000)], |input| {
        let text = SecretString::from(String::from_utf8_lossy(input).into_owned());
        let ring = KeyRing::parse(&text);
        let fingerprints = fingerprinter(&text);
        for message in [ring.as_ref().err().map(ToString::to_string), fingerprints.err().map(|e| e.to_string())] {
            // An id that stands there twice is named; a key never.
            let key =
                String::from_utf8_lossy(input).split([':', ',', '\n', ' ']).find(|p| p.len() > 40).map(str::to_owned);
            if let (Some(message), Some(key)) = (message, key)
                && message.contains(&key)
            {
                return Err(format!("I3: the message quotes a key: {message}"));
            }
        }
        let Ok(ring) = ring else { return Ok(()) };
        let sealed = ring.seal("t/1", "x").map_err(|e| e.to_string())?;
        ring.open("t/1", &sealed).map(drop).map_err(|e| e.to_string())?;
        if ring.open("t/2", &sealed).is_ok() { Err("a box opened at another place".into()) } else { Ok(()) }
    });
}

#[test]
fn scenario() {
    fuzz("scenario", vec![format!("fault = {}", "[".repeat(50_000)).into_bytes()], |input| {
        let text = String::from_utf8_lossy(input);
        let Ok(scenario) = toml::from_str::<sandbox::Scenario>(&text) else { return Ok(()) };
        toml::to_string(&scenario).map(drop).map_err(|e| e.to_string())
    });
}

/// A file is taken whole or refused with the number of a line, and never quoted.
#[test]
fn import() {
    fuzz("import", vec![b"{\"item_id\":\"a\"}\n".repeat(10_000)], |input| {
        let text = String::from_utf8_lossy(input);
        match rekey::cli::check_import(&text) {
            Ok(items) if items > text.lines().count() => Err("more Items than lines".into()),
            Ok(_) => Ok(()),
            Err(error) => {
                let message = format!("{error:#}");
                hidden("an error", &message)?;
                if message.contains("line ") { Ok(()) } else { Err(format!("no line is named: {message}")) }
            }
        }
    });
}
