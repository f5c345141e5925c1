//! `rekey check`, `rekey migrate`, `rekey topics apply`.

use super::{Ended, Usage, say};
use crate::config::{BadSetting, Config, fingerprinter};
use crate::waiting::connect;
use crate::wiring::{layer_client, plaid_client};
use anyhow::Context;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use domain::Role;
use domain::fault::chain;
use std::time::Duration;
use store::KeyRing;

/// Longest wait for one dependency.
const PATIENCE: Duration = Duration::from_secs(10);

/// Rows that are counted at most.
const MOST_COUNTED: u32 = 10_000;
/// Items whose access tokens are looked at.
const SAMPLE: u32 = 20;

/// A role whose settings and connections can be checked.
pub(super) fn role() -> impl TypedValueParser<Value = Role> {
    PossibleValuesParser::new(Role::ALL_IN_ONE.iter().map(|r| r.as_str())).try_map(Role::try_from)
}

/// All of them if none is named.
fn is_wanted(named: &[Role], role: Role) -> bool {
    named.is_empty() || named.contains(&role)
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
        if roles.iter().any(|r| is_wanted(self.roles, *r)) {
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
    let mut warned = config.unverified();
    let wanted = |role: Role| is_wanted(roles, role);
    warned.extend(config.console_in_the_clear().filter(|_| wanted(Console)));
    checks.check("database", &[Consumer, Console], database(config)).await;
    if wanted(Consumer) {
        warned.extend(slow_sweep(config).await);
        warned.extend(shared_database(config).await);
        warned.extend(what_items_say(config).await);
    }
    checks.check("kafka", &[Receiver, Consumer], kafka(config, roles, &mut warned)).await;
    checks.check("plaid", &[Receiver, Consumer], plaid(config)).await;
    checks.check("clock", &[Receiver], clock(config)).await;
    checks.check("layer", &[Consumer], layer(config)).await;
    checks.check("token_source", &[Consumer], source(config)).await;
    let all = checks.found;
    let sound = all.iter().all(|f| f.fault.is_none());
    if json {
        let checks: Vec<serde_json::Value> = all
            .iter()
            .map(|f| serde_json::json!({"check": f.what, "ok": f.fault.is_none(), "fault": f.fault}))
            .collect();
        say(&serde_json::json!({"ok": sound, "checks": checks, "warnings": warned}).to_string());
    } else {
        // The worst first: it is read from the top.
        for Found { what, fault } in &all {
            if let Some(fault) = fault {
                say(&format!("FAIL  {what:<24} {fault}"));
            }
        }
        if no_file {
            say("WARN  no configuration file was given (--config or REKEY_CONFIG), only the environment was read");
        }
        warned.iter().for_each(|told| say(&format!("WARN  {told}")));
        all.iter().filter(|one| one.fault.is_none()).for_each(|one| say(&format!("ok    {}", one.what)));
    }
    Ok(if sound { Ended::Well } else { Ended::Failed })
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

/// Whether another release works on this database.
async fn shared_database(config: &Config) -> Option<String> {
    let store = connect(config).ok().filter(|store| !store.is_new_file())?;
    let asking =
        async { store.begin_read().await.ok()?.others_at_work(&config.kafka.group, store::AT_WORK_WITHIN).await.ok() };
    let others = tokio::time::timeout(PATIENCE, asking).await.ok()??;
    (!others.is_empty()).then(|| {
        let others = others.join(", ");
        format!("another release works on this database (kafka.group {others}): give each a database of its own")
    })
}

/// Whether the sweep will take longer than the settings say, with the rows that there are.
async fn slow_sweep(config: &Config) -> Option<String> {
    let (settings, store) = (config.consumer().ok()?, connect(config).ok()?);
    let limits = settings.budget(&config.plaid.limits, &config.layer.limits);
    if store.is_new_file() {
        return None;
    }
    let counting = async {
        let mut tx = store.begin_read().await.ok()?;
        Some((tx.count_items().await.ok()?, tx.count_businesses().await.ok()?))
    };
    // What keeps it from being counted the check of the database has told.
    let (items, businesses) = tokio::time::timeout(PATIENCE, counting).await.ok()??;
    let takes = settings.sweep_period_for(&limits, items, businesses);
    (takes > settings.sweep_period).then(|| {
        let (wanted, takes) = (settings.sweep_period.as_secs_f64() / 3600.0, takes.as_secs_f64() / 3600.0);
        format!(
            "{items} Items and {businesses} businesses: the sweep takes {takes:.1} h and not consumer.sweep_period, {wanted:.1} h; \
             raise consumer.sweep_share, or the limits if the providers gave you more"
        )
    })
}

async fn kafka(config: &Config, roles: &[Role], warned: &mut Vec<String>) -> anyhow::Result<()> {
    config.check_properties()?;
    let roles: Vec<Role> = Role::ALL_IN_ONE.iter().copied().filter(|role| is_wanted(roles, *role)).collect();
    if config.kafka.is_embedded() {
        return Ok(config.broker_serves(&roles)?);
    }
    let (connection, topics) = (config.kafka.connection(), &config.kafka.topics);
    let mut faults = bus::check(&connection, topics).await.context("check kafka.bootstrap and kafka.properties")?;
    faults.extend(bus::compare(&connection, topics, config.receiver.max_body).await?);
    let mut faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
    match bus::rights(&connection, topics, &config.needs(&roles)).await {
        Ok(rights) => {
            warned.extend(rights.unknown);
            faults.extend(rights.missing);
        }
        Err(error) => faults.push(chain(&error)),
    }
    anyhow::ensure!(faults.is_empty(), "{}", faults.join("; "));
    Ok(())
}

async fn plaid(config: &Config) -> anyhow::Result<()> {
    let place = config.plaid.url();
    plaid_client(config, config.plaid.timeout)?
        .probe()
        .await
        .with_context(|| format!("{place} (plaid.environment, plaid.base_url) with plaid.client_id and plaid.secret"))
}

/// A webhook whose signature is five minutes old by our clock is refused; whole seconds are as exact as a date is.
const CLOCK_MAY_DIFFER: i64 = 30;

/// Our clock against Plaid's, by the date of an answer. What gives none is told by the check of Plaid itself.
async fn clock(config: &Config) -> anyhow::Result<()> {
    let roots = reqwest::Certificate::from_pem_bundle(config.extra_roots()?.as_bytes())?;
    let http = web::outgoing().timeout(PATIENCE).tls_certs_merge(roots).build()?;
    let Ok(answer) = http.get(config.plaid.url()).send().await else { return Ok(()) };
    let date = answer.headers().get(reqwest::header::DATE).and_then(|date| date.to_str().ok());
    let Some(theirs) = date.and_then(|date| jiff::fmt::rfc2822::parse(date).ok()) else { return Ok(()) };
    let ahead = jiff::Timestamp::now().as_second() - theirs.timestamp().as_second();
    anyhow::ensure!(
        ahead.abs() <= CLOCK_MAY_DIFFER,
        "this machine's clock is {} s {} Plaid's: set it (NTP), or webhooks are refused for their age",
        ahead.abs(),
        if ahead > 0 { "ahead of" } else { "behind" }
    );
    Ok(())
}

/// What the database knows that no connection tells: where webhooks go, what Plaid refuses to mint, whose environment tokens are of.
async fn what_items_say(config: &Config) -> Vec<String> {
    let Some(store) = connect(config).ok().filter(|store| !store.is_new_file()) else { return Vec::new() };
    let asking = async {
        let mut tx = store.begin_read().await.ok()?;
        let found = tx.count_attention(domain::item::CONSENT_ENDS_SOON, MOST_COUNTED).await.ok()?;
        let refused = tx.refused_mints().await.ok()?;
        let first = tx.list_items(&store::Page { after: None, limit: SAMPLE }).await.ok()?;
        let mut foreign = None;
        for item in first {
            let token = tx.current(&item.id).await.ok()?.and_then(|current| current.token.ok());
            let theirs = token.as_ref().and_then(|token| token.environment_hint()).map(str::to_owned);
            foreign = foreign.or(theirs.filter(|theirs| *theirs != config.plaid.environment.as_str()));
        }
        Some((found, refused, foreign))
    };
    // What keeps it from being asked the check of the database has told.
    let Some((found, refused, foreign)) = tokio::time::timeout(PATIENCE, asking).await.ok().flatten() else {
        return Vec::new();
    };
    let mut told = Vec::new();
    if let Some(theirs) = foreign {
        let ours = config.plaid.environment;
        told.push(format!(
            "access tokens of {theirs} are stored, and plaid.environment is {ours}: Plaid knows none of them"
        ));
    }
    for (reason, accounts) in refused.into_iter().filter(|(_, accounts)| *accounts > 0) {
        let processor = &config.plaid.processor;
        told.push(format!(
            "{accounts} accounts get no token ({reason}): see `rekey parked list`; if it is all of them, enable {processor} at \
             Plaid (Dashboard, Integrations)"
        ));
    }
    let url = &config.plaid.webhook_url;
    if found.webhooks_elsewhere > 0 {
        told.push(format!(
            "{} Items send their webhooks elsewhere than to {url}: see `rekey item elsewhere`",
            found.webhooks_elsewhere
        ));
    }
    if found.missed_webhooks > 0 {
        told.push(format!("of {} Items the last webhook never came: see `rekey item missed`", found.missed_webhooks));
    }
    if url.is_empty() {
        told.push("plaid.webhook_url is not set: Items whose webhooks go elsewhere are not noticed".into());
    }
    told
}

async fn layer(config: &Config) -> anyhow::Result<()> {
    let (place, auth) = (&config.layer.base_url, &config.layer.token_url);
    layer_client(config)?.probe().await.with_context(|| {
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
    if config.kafka.is_embedded() {
        return Err(Usage("kafka.bootstrap is \"embedded\": its topics are made at start".into()).into());
    }
    let (connection, topics, max_body) = (config.kafka.connection(), &config.kafka.topics, config.receiver.max_body);
    let created = bus::apply(&connection, topics, max_body).await?;
    let faults = bus::compare(&connection, topics, max_body).await?;
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
