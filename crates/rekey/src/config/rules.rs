//! Rules between settings, and those that only a role that runs has to keep.

use super::trust::provider_url;
use super::{Admin, Config};
use domain::Role;
use secrecy::ExposeSecret;
use std::num::NonZeroUsize;
use std::time::Duration;

/// A setting that is missing or contradicts another one.
#[derive(Debug, thiserror::Error)]
#[error("{key} {why}")]
pub struct BadSetting {
    key: &'static str,
    why: String,
}

impl BadSetting {
    pub(crate) fn new(key: &'static str, why: impl Into<String>) -> Self {
        Self { key, why: why.into() }
    }

    /// What is wrong with the setting, if it is.
    pub(crate) fn refuse(is_wrong: bool, key: &'static str, why: impl Into<String>) -> Result<(), Self> {
        if is_wrong { Err(Self::new(key, why)) } else { Ok(()) }
    }
}

fn need(key: &'static str, text: &str) -> Result<(), BadSetting> {
    BadSetting::refuse(text.is_empty(), key, "is not set")
}

/// The text is not quoted: a URL may hold a password.
pub(crate) fn http_url(key: &'static str, text: &str) -> Result<(), BadSetting> {
    need(key, text)?;
    let parsed = reqwest::Url::parse(text).ok().filter(|u| matches!(u.scheme(), "http" | "https") && u.has_host());
    let url = parsed.ok_or_else(|| BadSetting::new(key, "must be a URL that begins with http:// or https://"))?;
    let tells = !url.username().is_empty() || url.password().is_some();
    BadSetting::refuse(tells, key, "must hold no user and no password: addresses are shown in messages")
}

impl Config {
    /// Where traces go. None: nothing is exported.
    pub fn traces(&self) -> Result<Option<traces::Target>, BadSetting> {
        let trace = &self.trace;
        if trace.endpoint.is_empty() {
            return Ok(None);
        }
        let (key, why) = ("trace.headers (or trace.headers_file)", "must be `name=value`, several with commas between");
        let headers = trace.headers().ok_or_else(|| BadSetting::new(key, why))?;
        if headers.is_empty() {
            http_url("trace.endpoint", &trace.endpoint)?;
        } else {
            provider_url("trace.endpoint", &trace.endpoint, &self.tls.plain_http)?;
        }
        let (endpoint, extra_roots) = (trace.endpoint.clone(), self.extra_roots()?);
        Ok(Some(traces::Target { endpoint, sample: trace.sample, headers, extra_roots }))
    }

    /// Refuses a receiver or a consumer alone on the embedded broker: what one of them publishes there, no other process
    /// would ever read.
    pub fn broker_serves(&self, roles: &[Role]) -> Result<(), BadSetting> {
        let alone = roles.contains(&Role::Receiver) != roles.contains(&Role::Consumer);
        BadSetting::refuse(
            self.kafka.is_embedded() && alone,
            "kafka.bootstrap",
            "is \"embedded\", a broker that this process alone sees: start `rekey all`, or name a Kafka that all roles reach",
        )
    }

    /// Properties of librdkafka that Rekey can't work with.
    pub fn check_properties(&self) -> Result<(), BadSetting> {
        const REFUSED: [(&str, &str); 4] = [
            (
                "group.instance.id",
                "would be the same in every process that reads this configuration, and each would throw the others out of the \
                 group: leave it out",
            ),
            (
                "transactional.id",
                "would make every record wait for a transaction that Rekey never begins: leave it out",
            ),
            (
                "auto.offset.reset",
                "is earliest: with latest, events that came before the first start would be skipped: leave it out",
            ),
            (
                "enable.auto.offset.store",
                "is false: an offset is stored once its event is in the database: leave it out",
            ),
        ];
        let set = REFUSED.iter().find(|(name, _)| self.kafka.properties.contains_key(*name));
        set.map_or(Ok(()), |(name, why)| Err(BadSetting::new("kafka.properties", format!("has {name}, which {why}"))))
    }

    /// What these roles do at the brokers.
    pub fn needs(&self, roles: &[Role]) -> bus::Needs {
        let (receives, consumes) = (roles.contains(&Role::Receiver), roles.contains(&Role::Consumer));
        let topics = &self.kafka.topics;
        let received = [&topics.item_events, &topics.other_events, &topics.dead_letters];
        let told = [&topics.outcomes, &topics.dead_letters];
        let writes = received.into_iter().filter(|_| receives).chain(told.into_iter().filter(|_| consumes));
        let bus::IntakeSettings { group, topics: reads, .. } = self.kafka.intake();
        let reads = reads.into_iter().chain([topics.dead_letters.clone()]).filter(|_| consumes).collect();
        bus::Needs { writes: writes.cloned().collect(), reads, group }
    }

    /// Err: no URL, or one that no database of Rekey's has.
    pub fn store(&self) -> Result<&store::Settings, BadSetting> {
        let url = self.database.url.expose_secret();
        need("database.url", url)?;
        let other = !store::is_database_url(url);
        BadSetting::refuse(other, "database.url", "must begin with sqlite:// or postgres://")?;
        match store::url_fault(url) {
            Some(fault) => Err(BadSetting::new("database.url", fault)),
            None => Ok(&self.database),
        }
    }

    /// Err: something is missing, or credentials would go in the clear.
    pub fn plaid(&self) -> Result<&plaid::Settings, BadSetting> {
        need("plaid.client_id", &self.plaid.client_id)?;
        need("plaid.secret (or plaid.secret_file)", self.plaid.secret.expose_secret())?;
        provider_url("plaid.base_url", &self.plaid.url(), &self.tls.plain_http)?;
        // Without a type every list would lose its accounts, and nobody would be told.
        let types = domain::setting::AccountType::WORDS.join(", ");
        let none = self.plaid.account_types.is_empty();
        BadSetting::refuse(none, "plaid.account_types", format!("must name one or more of {types}"))?;
        Ok(&self.plaid)
    }

    /// Err: something is missing, or credentials would go in the clear.
    pub fn layer(&self) -> Result<&layer::Settings, BadSetting> {
        let layer = &self.layer;
        need("layer.client_id", &layer.client_id)?;
        need("layer.client_secret (or layer.client_secret_file)", layer.client_secret.expose_secret())?;
        provider_url("layer.base_url", &layer.base_url, &self.tls.plain_http)?;
        provider_url("layer.token_url", &layer.token_url, &self.tls.plain_http)?;
        Ok(layer)
    }

    /// The platform's database, or none.
    pub fn token_source(&self) -> Result<consumer::TokenSource, BadSetting> {
        if let Some(fault) = store::url_fault(self.token_source.url.expose_secret()) {
            return Err(BadSetting::new("token_source.url", fault));
        }
        consumer::TokenSource::new(&self.token_source).map_err(|e| BadSetting::new("token_source.url", e.to_string()))
    }

    /// Err: a bound that Plaid's webhooks don't fit in.
    pub fn receiver(&self) -> Result<&receiver::Settings, BadSetting> {
        let receiver = &self.receiver;
        let other = !matches!(receiver.unavailable_status, 429 | 503);
        BadSetting::refuse(other, "receiver.unavailable_status", "must be 503 or 429: Plaid sends those again")?;
        let small = receiver.max_body < 1024;
        BadSetting::refuse(small, "receiver.max_body", "must be at least 1024 bytes: webhooks are larger than less")?;
        let long = receiver.total_timeout >= Duration::from_secs(10);
        BadSetting::refuse(long, "receiver.total_timeout", "must be below the 10 s that Plaid waits")?;
        Ok(receiver)
    }

    /// Bounds of a listener that takes so many connections.
    pub fn limits(&self, connections: NonZeroUsize) -> web::Limits {
        let (header_read, drain) = (self.receiver.header_timeout, self.ops.drain);
        web::Limits { connections: connections.get(), header_read, drain }
    }

    /// Err: an entry that is not the hash of an admin token.
    pub fn console(&self) -> Result<console::AdminTokens, BadSetting> {
        console::AdminTokens::parse(self.console.tokens.iter().map(String::as_str))
            .map_err(|e| BadSetting::new("console.tokens", e.to_string()))
    }

    /// Err: a lease that a living worker could lose.
    pub fn consumer(&self) -> Result<&consumer::Settings, BadSetting> {
        const LEAST: Duration = Duration::from_secs(2);
        need("kafka.group", &self.kafka.group)?;
        let why = format!(
            "must be at least {LEAST:?}: it is renewed four times in that time, by a database that may be busy"
        );
        BadSetting::refuse(self.consumer.lease < LEAST, "consumer.lease", why)?;
        // What comes during a reconciliation is due before the lease ends, or it could not be told from the lease's own end.
        let why = format!("must be at most half of consumer.lease ({:?})", self.consumer.lease);
        BadSetting::refuse(self.consumer.debounce > self.consumer.lease / 2, "consumer.debounce", why)?;
        Ok(&self.consumer)
    }

    /// The sandbox, with its misbehaviour from the start, and the way to Rekey if the platform it plays knows one.
    pub fn sandbox(&self) -> Result<(&sandbox::Settings, sandbox::Scenario, Option<sandbox::Admin>), BadSetting> {
        let sandbox = &self.sandbox;
        need("sandbox.plaid_secret", sandbox.plaid_secret.expose_secret())?;
        need("sandbox.layer_secret", sandbox.layer_secret.expose_secret())?;
        let scenario = match sandbox.scenario.as_os_str().is_empty() {
            true => sandbox::Scenario::default(),
            false => std::fs::read_to_string(&sandbox.scenario)
                .map_err(|e| e.to_string())
                .and_then(|text| toml::from_str(&text).map_err(|e| e.to_string()))
                .map_err(|why| {
                    let path = sandbox.scenario.display();
                    BadSetting::new("sandbox.scenario", format!("names {path}, which can't be used: {why}"))
                })?,
        };
        let Admin { url, token } = self.admin.clone();
        let admin = (!token.expose_secret().is_empty()).then_some(sandbox::Admin { url, token });
        Ok((sandbox, scenario, admin))
    }
}
