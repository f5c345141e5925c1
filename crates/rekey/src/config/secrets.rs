//! Secrets from files, and the keys they hold.

use super::load::join;
use super::{BadSetting, ConfigError};
use domain::Fingerprinter;
use secrecy::{ExposeSecret, SecretString};
use std::path::PathBuf;
use toml::{Table, Value};

/// Replaces each `<key>` whose twin `<key>_file` names a file by what the file holds. `section`: where the table stands.
pub(super) fn resolve(table: &mut Table, section: &str) -> Result<(), ConfigError> {
    let twins: Vec<(String, PathBuf)> = table
        .iter()
        .filter_map(|(key, value)| Some((key.strip_suffix("_file")?.to_owned(), value.as_str()?)))
        .filter(|(_, path)| !path.is_empty())
        .map(|(key, path)| (key, PathBuf::from(path)))
        .collect();
    for (key, path) in twins {
        let text = read(&join(section, &key), &path)?;
        table.insert(format!("{key}_file"), Value::String(String::new()));
        table.insert(key, Value::String(text));
    }
    for (key, value) in table.iter_mut().filter_map(|(k, v)| Some((k.clone(), v.as_table_mut()?))) {
        resolve(value, &join(section, &key))?;
    }
    properties(table)
}

/// `kafka.property_files`: the same for properties of librdkafka.
fn properties(table: &mut Table) -> Result<(), ConfigError> {
    let Some(files) = table.get("property_files").and_then(Value::as_table).cloned() else { return Ok(()) };
    let Some(properties) = table.get_mut("properties").and_then(Value::as_table_mut) else { return Ok(()) };
    for (name, path) in files {
        let path = PathBuf::from(path.as_str().unwrap_or_default());
        properties.insert(name.clone(), Value::String(read(&name, &path)?));
    }
    Ok(())
}

fn read(key: &str, path: &std::path::Path) -> Result<String, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|why| ConfigError::SecretFile {
        key: key.to_owned(),
        path: path.to_owned(),
        why,
    })?;
    // Editors and `echo` end a file with a line break that is not part of the secret.
    Ok(text.trim_end_matches(['\n', '\r']).to_owned())
}

/// Reads `secrets.fingerprint_key`.
pub fn fingerprinter(key: &SecretString) -> Result<Fingerprinter, BadSetting> {
    let why = "must be `version:base64-of-32-bytes`: make one with `rekey keys new`";
    let bad = || BadSetting::new("secrets.fingerprint_key", why);
    let keys = store::parse_keys(key.expose_secret()).map_err(|_| bad())?;
    let [(version, key)] = keys.as_slice() else { return Err(bad()) };
    Ok(Fingerprinter::new(version.parse().map_err(|_| bad())?, key))
}
