//! From settings as written to settings as the crates take them, and the checks that need more than one of them.

use super::trust::provider_url;
use super::{Config, Span};
use domain::Provider;
use domain::retry::Curve;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use secrecy::ExposeSecret;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;
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
}

fn need(key: &'static str, text: &str) -> Result<(), BadSetting> {
    if text.is_empty() { Err(BadSetting::new(key, "is not set")) } else { Ok(()) }
}

fn positive(key: &'static str, span: Span) -> Result<(), BadSetting> {
    if span.0.is_zero() { Err(BadSetting::new(key, "must be longer than nothing")) } else { Ok(()) }
}

/// The text is not quoted: a URL may hold a password.
pub(crate) fn http_url(key: &'static str, text: &str) -> Result<(), BadSetting> {
    need(key, text)?;
    let parsed = reqwest::Url::parse(text).ok().filter(|u| matches!(u.scheme(), "http" | "https") && u.has_host());
    let url = parsed.ok_or_else(|| BadSetting::new(key, "must be a URL that begins with http:// or https://"))?;
    if url.username().is_empty() && url.password().is_none() {
        return Ok(());
    }
    Err(BadSetting::new(key, "must hold no user and no password: addresses are shown in messages"))
}

/// `name=value,name=value`, as OTEL_EXPORTER_OTLP_HEADERS has them.
fn headers(text: &str) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    for pair in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let (name, value) = pair.split_once('=')?;
        let mut value = HeaderValue::from_str(value.trim()).ok()?;
        // So that nothing prints it.
        value.set_sensitive(true);
        headers.insert(HeaderName::from_str(name.trim()).ok()?, value);
    }
    Some(headers)
}

impl Config {
    /// None: nothing is exported.
    pub fn traces(&self) -> Result<Option<traces::Settings>, BadSetting> {
        let trace = &self.trace;
        if !(0.0..=1.0).contains(&trace.sample) {
            return Err(BadSetting::new("trace.sample", "must be between 0 and 1"));
        }
        if trace.endpoint.is_empty() {
            return Ok(None);
        }
        let headers = headers(trace.headers.expose_secret()).ok_or_else(|| {
            BadSetting::new(
                "trace.headers (or trace.headers_file)",
                "must be `name=value`, several with commas between",
            )
        })?;
        if headers.is_empty() {
            http_url("trace.endpoint", &trace.endpoint)?;
        } else {
            provider_url("trace.endpoint", &trace.endpoint, &self.tls.plain_http)?;
        }
        Ok(Some(traces::Settings {
            endpoint: trace.endpoint.clone(),
            sample: trace.sample,
            headers,
            extra_roots: self.extra_roots()?,
        }))
    }

    pub fn topics(&self) -> bus::Topics {
        let topics = &self.kafka.topics;
        bus::Topics {
            item_events: topics.item_events.clone(),
            other_events: topics.other_events.clone(),
            notices: topics.notices.clone(),
            outcomes: topics.outcomes.clone(),
            dead_letters: topics.dead_letters.clone(),
        }
    }

    pub fn topic_plan(&self) -> bus::TopicPlan {
        let topics = &self.kafka.topics;
        bus::TopicPlan {
            partitions: topics.partitions,
            replication: topics.replication,
            min_insync: topics.min_insync,
            retention: topics.retention.0,
            max_body: self.receiver.max_body,
        }
    }

    pub fn is_embedded(&self) -> bool {
        self.kafka.bootstrap == "embedded"
    }

    /// Refuses a receiver or a consumer alone on the embedded broker: what one of them publishes there, no other process
    /// would ever read.
    pub fn broker_serves(&self, receiver: bool, consumer: bool) -> Result<(), BadSetting> {
        if self.is_embedded() && receiver != consumer {
            return Err(BadSetting::new(
                "kafka.bootstrap",
                "is \"embedded\", a broker that this process alone sees: start `rekey all`, or name a Kafka that all roles reach",
            ));
        }
        Ok(())
    }

    /// Properties of librdkafka that Rekey can't work with, whoever means well with them.
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

    pub fn connection(&self) -> bus::Connection {
        let properties = self.kafka.properties.iter().map(|(k, v)| (k.clone(), v.expose_secret().to_owned()));
        bus::Connection { bootstrap: self.kafka.bootstrap.clone(), properties: properties.collect::<BTreeMap<_, _>>() }
    }

    pub fn producer(&self) -> bus::ProducerSettings {
        bus::ProducerSettings {
            queue_records: self.kafka.queue_records,
            queue_kbytes: self.kafka.queue_kbytes,
            timeout: self.kafka.publish_timeout.0,
            linger: self.kafka.linger.0,
            probe_interval: self.kafka.probe_interval.0.max(Duration::from_millis(10)),
        }
    }

    pub fn intake(&self) -> bus::IntakeSettings {
        bus::IntakeSettings {
            group: self.kafka.group.clone(),
            topics: vec![self.kafka.topics.item_events.clone(), self.kafka.topics.notices.clone()],
            schemas: vec![bus::schema::WEBHOOK, bus::schema::NOTICE],
        }
    }

    /// What these roles do at the brokers.
    pub fn needs(&self, receives: bool, consumes: bool) -> bus::Needs {
        let topics = self.topics();
        let received = [&topics.item_events, &topics.other_events, &topics.dead_letters];
        let told = [&topics.outcomes, &topics.dead_letters];
        let writes = received.into_iter().filter(|_| receives).chain(told.into_iter().filter(|_| consumes));
        let bus::IntakeSettings { group, topics: reads, .. } = self.intake();
        let reads = if consumes { reads } else { Vec::new() };
        bus::Needs { writes: writes.cloned().collect(), reads, group }
    }

    pub fn store(&self) -> Result<store::Settings, BadSetting> {
        let url = self.database.url.expose_secret();
        need("database.url", url)?;
        if !store::is_database_url(url) {
            return Err(BadSetting::new("database.url", "must begin with sqlite:// or postgres://"));
        }
        if let Some(fault) = store::url_fault(url) {
            return Err(BadSetting::new("database.url", fault));
        }
        Ok(store::Settings {
            url: self.database.url.clone(),
            connections: self.database.connections,
            acquire_timeout: self.database.acquire_timeout.0,
            outcomes: self.kafka.topics.outcomes.clone(),
        })
    }

    fn plaid_base(&self) -> Result<String, BadSetting> {
        match self.plaid.environment.as_str() {
            "sandbox" | "production" if !self.plaid.base_url.is_empty() => Ok(self.plaid.base_url.clone()),
            environment @ ("sandbox" | "production") => Ok(format!("https://{environment}.plaid.com")),
            _ => Err(BadSetting::new("plaid.environment", "must be sandbox or production")),
        }
    }

    fn plaid_settings(&self, timeout: Duration) -> Result<plaid::Settings, BadSetting> {
        need("plaid.client_id", &self.plaid.client_id)?;
        need("plaid.secret (or plaid.secret_file)", self.plaid.secret.expose_secret())?;
        let base_url = self.plaid_base()?;
        provider_url("plaid.base_url", &base_url, &self.tls.plain_http)?;
        Ok(plaid::Settings {
            base_url,
            client_id: self.plaid.client_id.clone(),
            secret: self.plaid.secret.clone(),
            processor: self.plaid.processor.clone(),
            http: web::ClientSettings {
                provider: Provider::Plaid,
                timeout,
                connect_timeout: self.plaid.connect_timeout.0,
                extra_roots: self.extra_roots()?,
            },
        })
    }

    pub fn plaid(&self) -> Result<plaid::Settings, BadSetting> {
        self.plaid_settings(self.plaid.timeout.0)
    }

    /// Key look-ups have a client of their own: their budget is the receiver's own.
    pub fn plaid_for_keys(&self) -> Result<plaid::Settings, BadSetting> {
        self.plaid_settings(self.plaid.keys.timeout.0)
    }

    pub fn keys(&self) -> plaid::KeySettings {
        let keys = &self.plaid.keys;
        plaid::KeySettings {
            lookups_per_minute: keys.lookups_per_minute,
            lookup_burst: keys.lookup_burst,
            wait: keys.wait.0,
            max_waiting: keys.max_waiting,
            refresh_after: keys.refresh_after.0,
            absent_for: keys.absent_for.0,
            file: (!keys.file.is_empty()).then(|| PathBuf::from(&keys.file)),
        }
    }

    pub fn layer(&self) -> Result<layer::Settings, BadSetting> {
        let layer = &self.layer;
        need("layer.client_id", &layer.client_id)?;
        need("layer.client_secret (or layer.client_secret_file)", layer.client_secret.expose_secret())?;
        provider_url("layer.base_url", &layer.base_url, &self.tls.plain_http)?;
        provider_url("layer.token_url", &layer.token_url, &self.tls.plain_http)?;
        Ok(layer::Settings {
            base_url: layer.base_url.clone(),
            token_url: layer.token_url.clone(),
            scope: layer.scope.clone(),
            client_id: layer.client_id.clone(),
            client_secret: layer.client_secret.clone(),
            listed_tokens: layer.listed_tokens,
            http: web::ClientSettings {
                provider: Provider::Layer,
                timeout: layer.timeout.0,
                connect_timeout: layer.connect_timeout.0,
                extra_roots: self.extra_roots()?,
            },
        })
    }

    pub fn token_source(&self) -> Result<consumer::TokenSource, BadSetting> {
        let source = &self.token_source;
        if source.url.expose_secret().is_empty() {
            return Ok(consumer::TokenSource::PushOnly);
        }
        if let Some(fault) = store::url_fault(source.url.expose_secret()) {
            return Err(BadSetting::new("token_source.url", fault));
        }
        let url = store::verified_url(source.url.expose_secret()).into();
        consumer::TokenSource::sql(&url, source.sql.clone(), source.connections, source.timeout.0)
            .map_err(|e| BadSetting::new("token_source.url", e.to_string()))
    }

    pub fn receiver(&self) -> Result<receiver::Settings, BadSetting> {
        let receiver = &self.receiver;
        if !matches!(receiver.unavailable_status, 429 | 503) {
            return Err(BadSetting::new("receiver.unavailable_status", "must be 503 or 429: Plaid sends those again"));
        }
        if receiver.max_body < 1024 {
            return Err(BadSetting::new(
                "receiver.max_body",
                "must be at least 1024 bytes: webhooks are larger than less",
            ));
        }
        if receiver.total_timeout.0 >= Duration::from_secs(10) {
            return Err(BadSetting::new("receiver.total_timeout", "must be below the 10 s that Plaid waits"));
        }
        Ok(receiver::Settings {
            max_body: receiver.max_body,
            body_timeout: receiver.body_timeout.0,
            total_timeout: receiver.total_timeout.0,
            max_concurrent: receiver.max_concurrent,
            unavailable_status: receiver.unavailable_status,
            retry_after: receiver.retry_after.0,
        })
    }

    pub fn limits(&self, connections: usize) -> web::Limits {
        web::Limits { connections, header_read: self.receiver.header_timeout.0, drain: self.ops.drain.0 }
    }

    pub fn console(&self) -> Result<(console::AdminTokens, console::Settings), BadSetting> {
        let tokens = console::AdminTokens::parse(self.console.tokens.iter().map(String::as_str))
            .map_err(|e| BadSetting::new("console.tokens", e.to_string()))?;
        let settings = console::Settings {
            push_wait: self.console.push_wait.0,
            max_wait: self.console.max_wait.0,
            wait_poll: self.console.wait_poll.0.max(Duration::from_millis(1)),
        };
        Ok((tokens, settings))
    }

    pub fn consumer(&self) -> Result<consumer::Settings, BadSetting> {
        need("kafka.group", &self.kafka.group)?;
        let (consumer, layer) = (&self.consumer, &self.layer);
        positive("consumer.poll", consumer.poll)?;
        if consumer.workers == 0 {
            return Err(BadSetting::new("consumer.workers", "must be at least 1"));
        }
        if !(consumer.sweep_share > 0.0 && consumer.sweep_share <= 1.0) {
            return Err(BadSetting::new("consumer.sweep_share", "must be more than 0 and at most 1"));
        }
        positive("consumer.sweep_period", consumer.sweep_period)?;
        positive("consumer.backoff_first", consumer.backoff_first)?;
        positive("consumer.probe_interval", consumer.probe_interval)?;
        // A call waits for its slot in the budget and then for its answer; the lease must outlive both.
        let longest = self.plaid.timeout.0.max(layer.timeout.0) * 2;
        if consumer.lease.0 <= longest {
            let why = format!("must be longer than the longest provider call ({longest:?} with these timeouts)");
            return Err(BadSetting::new("consumer.lease", why));
        }
        Ok(consumer::Settings {
            mode: consumer.mode,
            group: self.kafka.group.clone(),
            workers: consumer.workers,
            poll: consumer.poll.0,
            lease: consumer.lease.0,
            backoff: Curve { first: consumer.backoff_first.0, cap: consumer.backoff_cap.0 },
            refused_cap: consumer.refused_cap.0,
            item_gone_proof: consumer.item_gone_proof,
            debounce: consumer.debounce.0,
            quiet: consumer.quiet.0,
            hint_ttl: consumer.hint_ttl.0,
            sweep_period: consumer.sweep_period.0,
            sweep_share: consumer.sweep_share,
            awaiting_token_poll: consumer.awaiting_token_poll.0,
            gone_after: consumer.gone_after.0,
            audit_kept: consumer.audit_kept.0,
            unknown_items_kept: consumer.unknown_items_kept.0,
            max_unknown_items: consumer.max_unknown_items,
            new_accounts_join: consumer.new_accounts_join,
            account_types: self.account_types()?,
            first_contact: consumer.first_contact,
            environment: self.plaid.environment.clone(),
            unknown_tokens: layer.unknown_tokens,
            archived: layer.archived,
            max_unproved_removals: layer.max_unproved_removals,
            max_fleet_removals: layer.max_fleet_removals,
            removal_window: layer.removal_window.0,
            verify_timeout: layer.verify_timeout.0,
            verify_interval: layer.verify_interval.0,
            agree: consumer.agree,
            dark_after: consumer.dark_after,
            limits: self.budget()?,
            agree_window: consumer.agree_window.0,
            probe_interval: consumer.probe_interval.0,
            gap_spread: consumer.gap_spread.0,
        })
    }

    /// A type that Plaid does not have would leave every list without its accounts, and nobody would be told.
    fn account_types(&self) -> Result<Vec<String>, BadSetting> {
        // <https://plaid.com/docs/api/accounts/#account-type-schema>
        const TYPES: [&str; 6] = ["depository", "credit", "loan", "investment", "brokerage", "other"];
        let types = &self.plaid.account_types;
        match types.is_empty() || types.iter().any(|t| !TYPES.contains(&t.as_str())) {
            true => Err(BadSetting::new(
                "plaid.account_types",
                "must name one or more of depository, credit, loan, investment, brokerage, other",
            )),
            false => Ok(types.clone()),
        }
    }

    /// The fleet's part of the documented limits.
    fn budget(&self) -> Result<domain::budget::Limits, BadSetting> {
        let (plaid, layer) = (&self.plaid.limits, &self.layer.limits);
        for (name, share) in [("plaid.limits.share", plaid.share), ("layer.limits.share", layer.share)] {
            if !(share > 0.0 && share <= 1.0) {
                return Err(BadSetting::new(name, "must be more than 0 and at most 1"));
            }
        }
        let of = |share: f64, limit: u32| ((f64::from(limit) * share) as u32).max(1);
        Ok(domain::budget::Limits {
            item_get: of(plaid.share, plaid.item_get),
            accounts_get: of(plaid.share, plaid.accounts_get),
            mint: of(plaid.share, plaid.processor_token_create),
            token_probe: of(plaid.share, plaid.processor_token_permissions_get),
            layer: of(layer.share, layer.calls),
            layer_create: of(layer.share, layer.create),
            per_item: of(plaid.share, plaid.per_item),
            recovery: self.consumer.slow_recovery.0,
        })
    }

    pub fn sandbox(&self) -> Result<sandbox::Settings, BadSetting> {
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
        let database = sandbox.platform_database_url.clone();
        let admin = (!self.admin.token.expose_secret().is_empty())
            .then(|| sandbox::Admin { url: self.admin.url.clone(), token: self.admin.token.clone() });
        Ok(sandbox::Settings {
            seed: sandbox.seed,
            plaid_secret: sandbox.plaid_secret.expose_secret().to_owned(),
            layer_secret: sandbox.layer_secret.expose_secret().to_owned(),
            webhook_url: (!sandbox.webhook_url.is_empty()).then(|| sandbox.webhook_url.clone()),
            webhook_retry_scale: sandbox.webhook_retry_scale,
            scenario,
            platform: sandbox::PlatformSettings {
                database_url: (!database.expose_secret().is_empty()).then_some(database),
                admin,
            },
        })
    }
}
