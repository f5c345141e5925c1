//! Layers the compiled-in example, the file and the environment, and explains what is wrong with them.

use super::Config;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use toml::de::{DeTable, DeValue};
use toml::{Spanned, Table, Value};

/// The defaults: `rekey.example.toml` itself, so that it can't go stale.
pub const EXAMPLE: &str = include_str!("../../../../rekey.example.toml");

/// Prefix of environment variables.
const PREFIX: &str = "REKEY_";
/// Variables with the prefix that are none of the settings.
const OTHER: [&str; 2] = ["REKEY_CONFIG", "REKEY_ROLE"];
/// Tables whose keys are the user's own.
const OPEN: [&str; 2] = ["kafka.properties", "kafka.property_files"];

/// What is wrong with the configuration. No message quotes a value: it may be a secret.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("the configuration file {path} can't be read: {why}")]
    Unreadable { path: String, why: std::io::Error },
    #[error("{place}: this is not TOML ({why})")]
    Syntax { place: String, why: String },
    #[error("{place}: there is no setting `{key}`{hint}")]
    UnknownKey { place: String, key: String, hint: String },
    #[error("{place}: `{key}` {why}")]
    BadValue { place: String, key: String, why: String },
    #[error("the file {path} that {key}_file names can't be read: {why}")]
    SecretFile { key: String, path: PathBuf, why: std::io::Error },
}

/// Loads the file, if one is given, under the environment.
pub fn load(file: Option<&Path>, environment: &BTreeMap<String, String>) -> Result<Config, ConfigError> {
    let text = match file {
        Some(path) => std::fs::read_to_string(path)
            .map_err(|why| ConfigError::Unreadable { path: path.display().to_string(), why })?,
        None => String::new(),
    };
    let name = file.map_or_else(|| "configuration".to_owned(), |p| p.display().to_string());
    load_text(&name, &text, environment)
}

/// The same from a text, for tests and for the demonstration.
pub fn load_text(name: &str, text: &str, environment: &BTreeMap<String, String>) -> Result<Config, ConfigError> {
    let defaults: Table = parse(EXAMPLE, "rekey.example.toml")?;
    let spanned = DeTable::parse(text).map_err(|e| syntax(name, text, &e))?;
    refuse_unknown(spanned.get_ref(), &defaults, "", name, text)?;
    refuse_twins(spanned.get_ref(), "", name, text)?;
    let mut merged = defaults.clone();
    merge(&mut merged, parse(text, name)?);
    // Before the environment, so that a plain value there wins over a file that the file names.
    super::secrets::resolve(&mut merged, "")?;
    apply_environment(&mut merged, &defaults, environment)?;
    super::secrets::resolve(&mut merged, "")?;
    serde_path_to_error::deserialize(Value::Table(merged)).map_err(|error| {
        let key = error.path().to_string();
        let place = match variable_of(&key, environment) {
            Some(variable) => format!("environment variable {variable}"),
            None => line_of(spanned.get_ref(), &key, name, text),
        };
        ConfigError::BadValue { place, why: why(&error.inner().to_string()), key }
    })
}

fn parse(text: &str, name: &str) -> Result<Table, ConfigError> {
    text.parse::<Table>().map_err(|e| syntax(name, text, &e))
}

fn syntax(name: &str, text: &str, error: &toml::de::Error) -> ConfigError {
    let line = error.span().map_or(1, |s| line_at(text, s.start));
    ConfigError::Syntax { place: format!("{name} line {line}"), why: error.message().to_owned() }
}

fn line_at(text: &str, offset: usize) -> usize {
    text[..offset.min(text.len())].matches('\n').count() + 1
}

pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// Every key of the file must be one of the example's; a misspelt one is told with its line and the nearest name.
fn refuse_unknown(given: &DeTable<'_>, known: &Table, path: &str, name: &str, text: &str) -> Result<(), ConfigError> {
    if OPEN.contains(&path) {
        return Ok(());
    }
    for (key, value) in given {
        let full = join(path, key.get_ref());
        let place = || format!("{name} line {}", line_at(text, key.span().start));
        match (known.get(key.get_ref().as_ref()), value.get_ref()) {
            (Some(Value::Table(inner)), DeValue::Table(table)) => refuse_unknown(table, inner, &full, name, text)?,
            (Some(Value::Table(_)), _) => {
                let why = format!("is a section: write [{full}]");
                return Err(ConfigError::BadValue { place: place(), key: full, why });
            }
            (Some(_), DeValue::Table(_)) => {
                let why = "is a value, not a section".into();
                return Err(ConfigError::BadValue { place: place(), key: full, why });
            }
            (Some(_), _) => {}
            (None, _) => {
                let hint = nearest(key.get_ref(), path, known);
                return Err(ConfigError::UnknownKey { place: place(), key: full, hint });
            }
        }
    }
    Ok(())
}

/// A secret and the file that holds it, both in one place: one of them is not what its author believes to be in force.
fn refuse_twins(given: &DeTable<'_>, path: &str, name: &str, text: &str) -> Result<(), ConfigError> {
    let is_set = |value: &DeValue<'_>| value.as_str().is_none_or(|s| !s.is_empty());
    for (key, value) in given {
        let full = join(path, key.get_ref());
        if let Some(inner) = value.get_ref().as_table() {
            refuse_twins(inner, &full, name, text)?;
        }
        let twin = key.get_ref().strip_suffix("_file").and_then(|twin| given.get(twin));
        if twin.is_some_and(|t| is_set(t.get_ref())) && is_set(value.get_ref()) {
            let place = format!("{name} line {}", line_at(text, key.span().start));
            let why = "stands beside the value itself: keep one of the two".into();
            return Err(ConfigError::BadValue { place, key: full, why });
        }
    }
    Ok(())
}

/// The variable that sets this key, if there is one.
fn variable_of<'a>(key: &str, environment: &'a BTreeMap<String, String>) -> Option<&'a str> {
    let name = format!("{PREFIX}{}", key.replace('.', "__").to_ascii_uppercase());
    environment.keys().map(String::as_str).find(|k| k.eq_ignore_ascii_case(&name))
}

fn nearest(key: &str, path: &str, known: &Table) -> String {
    let close = known.keys().map(|k| (strsim::damerau_levenshtein(k, key), k)).min();
    match close {
        Some((distance, name)) if distance <= 3 => format!("; did you mean `{}`?", join(path, name)),
        _ => "; rekey.example.toml lists them all".into(),
    }
}

/// Puts `from` over `into`, section by section.
pub fn merge(into: &mut Table, from: Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(Value::Table(inner)), Value::Table(table)) => merge(inner, table),
            (_, value) => drop(into.insert(key, value)),
        }
    }
}

fn apply_environment(
    merged: &mut Table,
    defaults: &Table,
    environment: &BTreeMap<String, String>,
) -> Result<(), ConfigError> {
    for variable in environment.keys().filter(|k| k.starts_with(PREFIX)) {
        let twin = variable.strip_suffix("_FILE").filter(|t| environment.get(*t).is_some_and(|v| !v.is_empty()));
        if let Some(twin) = twin {
            return Err(ConfigError::BadValue {
                place: format!("environment variable {variable}"),
                key: twin.to_owned(),
                why: "is set as well: keep one of the two".into(),
            });
        }
    }
    let ours = environment.iter().filter(|(k, _)| k.starts_with(PREFIX) && !OTHER.contains(&k.as_str()));
    for (variable, text) in ours {
        let lower = variable[PREFIX.len()..].to_ascii_lowercase();
        let path: Vec<&str> = lower.split("__").collect();
        let unknown = || ConfigError::UnknownKey {
            place: format!("environment variable {variable}"),
            key: path.join("."),
            hint: nearest_variable(&path, defaults),
        };
        let (last, sections) = path.split_last().ok_or_else(unknown)?;
        let (mut target, mut known) = (&mut *merged, defaults);
        for section in sections {
            target = target.get_mut(*section).and_then(Value::as_table_mut).ok_or_else(unknown)?;
            known = known.get(*section).and_then(Value::as_table).ok_or_else(unknown)?;
        }
        let default = known.get(*last).ok_or_else(unknown)?;
        let value = typed(text, default).ok_or_else(|| ConfigError::BadValue {
            place: format!("environment variable {variable}"),
            key: path.join("."),
            why: format!("must be of the type {}", default.type_str()),
        })?;
        target.insert((*last).to_owned(), value);
    }
    Ok(())
}

fn nearest_variable(path: &[&str], defaults: &Table) -> String {
    let mut known = Vec::new();
    leaves(defaults, "", &mut known);
    let written = path.join(".");
    let close = known.iter().map(|k| (strsim::damerau_levenshtein(k, &written), k)).min();
    match close {
        Some((distance, key)) if distance <= 3 => {
            format!("; did you mean {PREFIX}{}?", key.replace('.', "__").to_ascii_uppercase())
        }
        _ => format!("; the form is {PREFIX}SECTION__KEY, and rekey.example.toml lists the settings"),
    }
}

fn leaves(table: &Table, path: &str, into: &mut Vec<String>) {
    for (key, value) in table {
        let full = join(path, key);
        match value {
            Value::Table(inner) => leaves(inner, &full, into),
            _ => into.push(full),
        }
    }
}

/// A variable is text; the default says what it is meant to be.
fn typed(text: &str, default: &Value) -> Option<Value> {
    match default {
        Value::String(_) => Some(Value::String(text.to_owned())),
        Value::Integer(_) => text.trim().parse().ok().map(Value::Integer),
        Value::Float(_) => text.trim().parse().ok().map(Value::Float),
        Value::Boolean(_) => text.trim().parse().ok().map(Value::Boolean),
        Value::Array(_) => {
            let parts = text.split(',').map(str::trim).filter(|p| !p.is_empty());
            Some(Value::Array(parts.map(|p| Value::String(p.to_owned())).collect()))
        }
        Value::Datetime(_) | Value::Table(_) => None,
    }
}

/// Where a bad value stands: its line if the file has it, else the environment or the defaults have it.
fn line_of(given: &DeTable<'_>, key: &str, name: &str, text: &str) -> String {
    let mut table = Some(given);
    let mut at: Option<usize> = None;
    for part in key.split('.') {
        let found = table.and_then(|t| t.iter().find(|(k, _)| k.get_ref().as_ref() == part));
        let Some((found_key, value)) = found else { return format!("{name} or the environment") };
        at = Some(Spanned::span(found_key).start);
        table = value.get_ref().as_table();
    }
    format!("{name} line {}", at.map_or(1, |offset| line_at(text, offset)))
}

/// Serde's messages quote the value; everything from the quotation on is dropped except what was expected.
fn why(message: &str) -> String {
    let first = message.lines().next().unwrap_or_default().trim();
    match first.split_once("expected ") {
        Some((_, expected)) => format!("is wrong: expected {expected}"),
        None if first.contains("none of") => {
            format!("must be one of{}", first.split_once("none of").map_or("", |(_, r)| r))
        }
        None => "has a value of the wrong type or form".into(),
    }
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
