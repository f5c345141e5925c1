//! `rekey check`, `rekey migrate`, `rekey topics apply`.

use super::{Ended, Usage, say};
use crate::config::{Config, fingerprinter};
use anyhow::Context;
use domain::fault::chain;
use std::time::Duration;
use store::{KeyRing, Store};

/// Longest wait for one dependency.
const PATIENCE: Duration = Duration::from_secs(10);

/// What one check found.
struct Found {
    what: &'static str,
    /// None: fine. Else what is wrong and what to do.
    fault: Option<String>,
}

fn found<E: std::error::Error + 'static>(what: &'static str, result: Result<(), E>) -> Found {
    Found { what, fault: result.err().map(|e| chain(&e)) }
}

/// Validates every section and tries every connection; a section nobody filled in is reported like any other fault.
pub(super) async fn check(config: &Config, json: bool) -> anyhow::Result<Ended> {
    let all = vec![
        Found { what: "log", fault: crate::logs::filter(&config.log).err() },
        found("secrets.keys", KeyRing::parse(&config.secrets.keys).map(drop)),
        found("secrets.fingerprint_key", fingerprinter(&config.secrets.fingerprint_key).map(drop)),
        found("receiver", config.receiver().map(drop)),
        found("consumer", config.consumer().map(drop)),
        found("console", config.console().map(drop)),
        found("trace", config.traces().map(drop)),
        Found { what: "database", fault: database(config).await.err().map(|e| format!("{e:#}")) },
        Found { what: "kafka", fault: kafka(config).await.err().map(|e| format!("{e:#}")) },
        Found { what: "plaid", fault: plaid(config).await.err().map(|e| format!("{e:#}")) },
        Found { what: "layer", fault: layer(config).await.err().map(|e| format!("{e:#}")) },
        Found { what: "token_source", fault: source(config).await.err().map(|e| format!("{e:#}")) },
    ];
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
        config.unverified().iter().for_each(|told| say(&format!("WARN  {told}")));
    }
    Ok(if sound { Ended::Well } else { Ended::Failed })
}

fn connect(config: &Config) -> anyhow::Result<Store> {
    let keys = KeyRing::parse(&config.secrets.keys)?;
    Ok(Store::connect(&config.store()?, keys, fingerprinter(&config.secrets.fingerprint_key)?)?)
}

async fn database(config: &Config) -> anyhow::Result<()> {
    let store = connect(config)?;
    match tokio::time::timeout(PATIENCE, store.inspect()).await {
        Ok(Err(error)) if !error.is_passing() => Err(error.into()),
        Ok(Ok(())) => Ok(()),
        _ => anyhow::bail!("{}: check database.url and the network", store.diagnose().await),
    }
}

async fn kafka(config: &Config) -> anyhow::Result<()> {
    if config.is_embedded() {
        return Ok(());
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
