//! `rekey check`, `rekey migrate`, `rekey topics apply`.

use super::{Ended, Usage, say};
use crate::config::{BadSetting, Config, fingerprinter};
use anyhow::Context;
use clap::ValueEnum;
use std::time::Duration;
use store::{KeyRing, Store};

/// Longest wait for one dependency.
const PATIENCE: Duration = Duration::from_secs(10);

/// A role whose settings and connections are checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Role {
    Receiver,
    Consumer,
    Console,
}

/// What one check found.
struct Found {
    what: &'static str,
    /// None: fine. Else what is wrong and what to do.
    fault: Option<String>,
}

/// The checks that were wanted, and what they found.
struct Checks<'a> {
    roles: &'a [Role],
    found: Vec<Found>,
}

impl Checks<'_> {
    /// Notes what was found, if one of the roles needs it.
    async fn check(&mut self, what: &'static str, roles: &[Role], check: impl Future<Output = anyhow::Result<()>>) {
        if self.roles.is_empty() || roles.iter().any(|r| self.roles.contains(r)) {
            self.found.push(Found { what, fault: check.await.err().map(|e| format!("{e:#}")) });
        }
    }
}

/// Validates each section and tries each connection that the roles need, or all of them if none is named; a section nobody
/// filled in is reported like any other fault.
pub(super) async fn check(config: &Config, roles: &[Role], no_file: bool, json: bool) -> anyhow::Result<Ended> {
    use Role::{Console, Consumer, Receiver};
    let every = &[Receiver, Consumer, Console];
    let mut checks = Checks { roles, found: Vec::new() };
    let set = |result: Result<(), BadSetting>| async { Ok(result?) };
    checks.check("log", every, async { crate::logs::filter(&config.log).map(drop).map_err(anyhow::Error::msg) }).await;
    checks
        .check("secrets.keys", &[Consumer, Console], async { Ok(KeyRing::parse(&config.secrets.keys).map(drop)?) })
        .await;
    let fingerprints = async { Ok(fingerprinter(&config.secrets.fingerprint_key).map(drop)?) };
    checks.check("secrets.fingerprint_key", every, fingerprints).await;
    checks.check("receiver", &[Receiver], set(config.receiver().map(drop))).await;
    checks.check("consumer", &[Consumer], set(config.consumer().map(drop))).await;
    checks.check("console", &[Console], set(config.console().map(drop))).await;
    checks.check("trace", every, trace(config)).await;
    checks.check("database", &[Consumer, Console], database(config)).await;
    checks.check("kafka", &[Receiver, Consumer], kafka(config, roles)).await;
    checks.check("plaid", &[Receiver, Consumer], plaid(config)).await;
    checks.check("layer", &[Consumer], layer(config)).await;
    checks.check("token_source", &[Consumer], source(config)).await;
    let all = checks.found;
    let sound = all.iter().all(|f| f.fault.is_none());
    if json {
        let checks: Vec<serde_json::Value> = all
            .iter()
            .map(|f| serde_json::json!({"check": f.what, "ok": f.fault.is_none(), "fault": f.fault}))
            .collect();
        say(&serde_json::json!({"ok": sound, "checks": checks, "unverified": config.unverified()}).to_string());
    } else {
        for one in &all {
            match &one.fault {
                None => say(&format!("ok    {}", one.what)),
                Some(fault) => say(&format!("FAIL  {:<24} {fault}", one.what)),
            }
        }
        if no_file {
            say("WARN  no configuration file was given (--config or REKEY_CONFIG), only the environment was read");
        }
        config.unverified().iter().for_each(|told| say(&format!("WARN  {told}")));
    }
    Ok(if sound { Ended::Well } else { Ended::Failed })
}

fn connect(config: &Config) -> anyhow::Result<Store> {
    let keys = KeyRing::parse(&config.secrets.keys)?;
    Ok(Store::connect(&config.store()?, keys, fingerprinter(&config.secrets.fingerprint_key)?)?)
}

async fn trace(config: &Config) -> anyhow::Result<()> {
    match config.traces()? {
        Some(settings) => traces::probe(&settings).await.context("check trace.endpoint and trace.headers"),
        None => Ok(()),
    }
}

async fn database(config: &Config) -> anyhow::Result<()> {
    let store = connect(config)?;
    match tokio::time::timeout(PATIENCE, store.inspect()).await {
        Ok(Err(error)) if !error.is_passing() => Err(error.into()),
        Ok(Ok(())) => Ok(()),
        _ => anyhow::bail!("{} (see database.url and the network)", store.diagnose(None).await),
    }
}

async fn kafka(config: &Config, roles: &[Role]) -> anyhow::Result<()> {
    if config.is_embedded() {
        let asked = |role| roles.is_empty() || roles.contains(&role);
        return Ok(config.broker_serves(asked(Role::Receiver), asked(Role::Consumer))?);
    }
    let (connection, topics) = (config.connection(), config.topics());
    let mut faults = bus::check(&connection, &topics).await.context("check kafka.bootstrap and kafka.properties")?;
    faults.extend(bus::compare(&connection, &topics, &config.topic_plan()).await?);
    let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
    anyhow::ensure!(faults.is_empty(), "{}", faults.join("; "));
    Ok(())
}

async fn plaid(config: &Config) -> anyhow::Result<()> {
    let settings = config.plaid()?;
    let place = settings.base_url.clone();
    plaid::Client::new(settings)?
        .probe()
        .await
        .with_context(|| format!("{place} (plaid.environment, plaid.base_url) with plaid.client_id and plaid.secret"))
}

async fn layer(config: &Config) -> anyhow::Result<()> {
    let settings = config.layer()?;
    let (place, auth) = (settings.base_url.clone(), settings.token_url.clone());
    layer::Client::new(settings)?.probe().await.with_context(|| {
        format!(
            "{place} (layer.base_url) with tokens of {auth} (layer.token_url) and layer.scope, all of one environment"
        )
    })
}

async fn source(config: &Config) -> anyhow::Result<()> {
    config.token_source()?.probe().await.context("check token_source.url and token_source.sql")
}

pub(super) async fn migrate(config: &Config, json: bool) -> anyhow::Result<Ended> {
    let store = connect(config)?;
    store.prepare().await?;
    say(if json { r#"{"ok":true}"# } else { "the database is at this release's schema" });
    Ok(Ended::Well)
}

pub(super) async fn apply_topics(config: &Config, json: bool) -> anyhow::Result<Ended> {
    if config.is_embedded() {
        return Err(Usage("kafka.bootstrap is \"embedded\": its topics are made at start".into()).into());
    }
    let created = bus::apply(&config.connection(), &config.topics(), &config.topic_plan()).await?;
    let faults = bus::compare(&config.connection(), &config.topics(), &config.topic_plan()).await?;
    let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
    if !json {
        faults.iter().for_each(|told| say(&format!("WARN  {told}")));
    }
    match created.as_slice() {
        names if json => say(&serde_json::json!({"created": names, "differ": faults}).to_string()),
        [] => say("every topic exists already"),
        names => say(&format!("created {}", names.join(", "))),
    }
    Ok(Ended::Well)
}
