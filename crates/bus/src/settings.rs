//! The settings of the section `kafka`.

use crate::{Connection, IntakeSettings, Topics, schema};
use domain::setting::{Interval, Span};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// How to reach the brokers, and how to publish.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct Settings {
    /// `host:port,…`, or `embedded`: a broker in the process.
    #[schemars(regex(pattern = r"^(embedded|[^:,\s]+:[0-9]+(,[^:,\s]+:[0-9]+)*)$"))]
    pub bootstrap: String,
    /// The consumer group, which names this release to others that share its database.
    pub group: String,
    /// From publishing to the acknowledgement, retries included.
    #[serde(with = "Span")]
    pub publish_timeout: Duration,
    /// Records that wait to be sent, at most; kilobytes of them, at most.
    pub queue_records: u32,
    pub queue_kbytes: u32,
    /// How long a record may wait for others to share its request.
    #[serde(with = "Span")]
    pub linger: Duration,
    /// While the brokers are away, how often their return is looked for.
    #[serde(with = "Interval")]
    pub probe_interval: Duration,
    /// Any other property of librdkafka; values may be secret.
    #[serde(deserialize_with = "as_texts")]
    #[schemars(schema_with = "scalars")]
    pub properties: BTreeMap<String, SecretString>,
    /// Properties that are read from files.
    #[schemars(skip)]
    pub property_files: BTreeMap<String, PathBuf>,
    pub topics: Topics,
}

impl Settings {
    /// The broker is one in this process.
    pub fn is_embedded(&self) -> bool {
        self.bootstrap == "embedded"
    }

    /// How to reach the brokers.
    pub fn connection(&self) -> Connection {
        let properties = self.properties.iter().map(|(k, v)| (k.clone(), v.expose_secret().to_owned()));
        Connection { bootstrap: self.bootstrap.clone(), properties: properties.collect() }
    }

    /// What the consumer reads.
    pub fn intake(&self) -> IntakeSettings {
        IntakeSettings {
            group: self.group.clone(),
            topics: vec![self.topics.item_events.clone(), self.topics.notices.clone()],
            schemas: vec![schema::WEBHOOK, schema::NOTICE],
        }
    }
}

/// librdkafka takes texts. A number or a boolean in TOML means its text.
fn as_texts<'de, D: Deserializer<'de>>(table: D) -> Result<BTreeMap<String, SecretString>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a text, a number, true or false")]
    enum Scalar {
        Text(String),
        Switch(bool),
        Integer(i64),
        Number(f64),
    }
    let scalars = BTreeMap::<String, Scalar>::deserialize(table)?.into_iter();
    let text = |scalar| match scalar {
        Scalar::Text(text) => text,
        Scalar::Switch(switch) => switch.to_string(),
        Scalar::Integer(number) => number.to_string(),
        Scalar::Number(number) => number.to_string(),
    };
    Ok(scalars.map(|(name, scalar)| (name, SecretString::from(text(scalar)))).collect())
}

fn scalars(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "additionalProperties": {"type": ["string", "integer", "boolean"]}})
}
