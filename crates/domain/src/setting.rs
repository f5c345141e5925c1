//! Types of settings: deserialised as they are written, and described for the schema of the chart.
//!
//! A field keeps its plain type and names one of these: `#[serde(with = "Span")] lease: Duration`. Errors say what is expected
//! and never quote what was written, for that may be a secret.

use crate::words::words;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error;
use serde::{Deserialize, Deserializer};
use std::borrow::Cow;
use std::time::Duration;

words!(
    /// One of Plaid's environments. Keys, tokens and webhooks of one never work in the other.
    Environment { Sandbox => "sandbox", Production => "production" }
);

words!(
    /// Plaid's types of accounts: <https://plaid.com/docs/api/accounts/#account-type-schema>.
    AccountType {
        Depository => "depository",
        Credit => "credit",
        Loan => "loan",
        Investment => "investment",
        Brokerage => "brokerage",
        Other => "other",
    }
);

/// A duration with its unit, such as `"500ms"` or `"10min"`.
#[derive(Debug)]
pub struct Span;

/// The same, greater than zero.
#[derive(Debug)]
pub struct Interval;

/// A number from 0 to 1.
#[derive(Debug)]
pub struct Ratio;

/// The same, more than 0: a share of nothing would stop everything.
#[derive(Debug)]
pub struct Share;

/// A count, at least 1.
#[derive(Debug)]
pub struct Count;

impl Span {
    /// Err: no duration with a unit.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(deserializer)?;
        let span: jiff::Span = text
            .parse()
            .map_err(|_| D::Error::custom("expected a duration with a unit, such as \"500ms\" or \"10min\""))?;
        let days = jiff::SpanRelativeTo::days_are_24_hours();
        let wait = span.to_duration(days).ok().and_then(|d| Duration::try_from(d).ok());
        wait.ok_or_else(|| D::Error::custom("the duration must not be negative, and its units no longer than weeks"))
    }
}

impl Interval {
    /// Err: no duration, or one of nothing.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let expected = "expected a duration that is longer than nothing, such as \"500ms\"";
        checked(Span::deserialize(deserializer), |wait| !wait.is_zero(), expected)
    }
}

impl Ratio {
    /// Err: no number from 0 to 1.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        checked(f64::deserialize(deserializer), |n| (0.0..=1.0).contains(n), "expected a number between 0 and 1")
    }
}

impl Share {
    /// Err: no number above 0 and up to 1.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        let expected = "expected a number that is more than 0 and at most 1";
        checked(f64::deserialize(deserializer), |n| *n > 0.0 && *n <= 1.0, expected)
    }
}

impl Count {
    /// Err: no number from 1 on.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
        checked(u32::deserialize(deserializer), |n| *n > 0, "expected a number that is at least 1")
    }
}

fn checked<T, E: Error>(read: Result<T, E>, fits: impl Fn(&T) -> bool, expected: &str) -> Result<T, E> {
    read.and_then(|value| if fits(&value) { Ok(value) } else { Err(E::custom(expected)) })
}

macro_rules! described {
    ($($name:ident: $schema:tt;)+) => {$(
        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }
            fn inline_schema() -> bool {
                true
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    )+};
}

// Helm renders what a values file says, so the patterns are those of one number and one unit.
described!(
    Span: {"type": "string", "pattern": "^[0-9]+(ms|s|min|h|d)$", "description": "one number and a unit: 500ms, 5s, 10min, 6h, 7d"};
    Interval: {"type": "string", "pattern": "^0*[1-9][0-9]*(ms|s|min|h|d)$", "description": "one number and a unit: 500ms, 5s, 10min, 6h, 7d"};
    Ratio: {"type": "number", "minimum": 0, "maximum": 1};
    Share: {"type": "number", "exclusiveMinimum": 0, "maximum": 1};
    Count: {"type": "integer", "minimum": 1};
);

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_setting_says_what_it_expects_and_quotes_nothing() {
        let said = |outcome: Result<(), serde_json::Error>| outcome.map_err(|e| e.to_string());
        let table = [
            (said(Span::deserialize(json!("1d")).map(drop)), None),
            (said(Span::deserialize(json!("0s")).map(drop)), None),
            (said(Span::deserialize(json!("marked")).map(drop)), Some("a duration with a unit")),
            (said(Span::deserialize(json!("-1s")).map(drop)), Some("must not be negative")),
            (said(Interval::deserialize(json!("0s")).map(drop)), Some("longer than nothing")),
            (said(Interval::deserialize(json!("1ms")).map(drop)), None),
            (said(Ratio::deserialize(json!(0.0)).map(drop)), None),
            (said(Ratio::deserialize(json!(1.1)).map(drop)), Some("between 0 and 1")),
            (said(Share::deserialize(json!(0.0)).map(drop)), Some("more than 0")),
            (said(Share::deserialize(json!(1.0)).map(drop)), None),
            (said(Count::deserialize(json!(0)).map(drop)), Some("at least 1")),
            (said(Count::deserialize(json!(1)).map(drop)), None),
        ];
        for (n, (said, expected)) in table.into_iter().enumerate() {
            match (said, expected) {
                (Ok(()), None) => {}
                (Err(said), Some(part)) => assert!(said.contains(part) && !said.contains("marked"), "{n}: {said}"),
                other => panic!("{n}: {other:?}"),
            }
        }
    }
}
