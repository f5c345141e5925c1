//! A small world with verbs: build it, link, rotate, break something, heal it, look.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that can't go on panics")]

pub mod answers;
pub mod bare_store;
mod conditions;
pub mod disk;
pub mod explain;
pub mod fleet;
pub mod kafka;
pub mod metrics;
mod pgbouncer;
pub mod postgres;
pub mod process;
pub mod proxy;
mod rows;
pub mod scale;
mod servers;
pub mod tls;
pub mod topics;
mod verifier;
pub mod weather;

pub use conditions::{PATIENCE, holds};
pub use pgbouncer::PgBouncer;
pub use rekey::config::merge;
pub use rows::{is_quiet, ledger, parked, stale_verdicts, unserved};
pub use servers::{fresh_database, kafka_address, role_without_rights};
pub use verifier::verifier;

use answers::Answer;
use bus::{Intake, IntakeSettings, schema};
use domain::ItemId;
use domain::Role;
use domain::queue::Mark;
use domain::work::Class;
use rekey::local::{Databases, Ground, Local};
use rekey::wiring::Running;
use sandbox::{Announce, NewAccount, NewBusiness, NewItem, Sandbox};
use serde_json::{Value, json};
use std::sync::Mutex;
use std::time::{Duration, Instant};
use store::Store;

/// What a world stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parts {
    /// The broker in the process and SQLite.
    Embedded,
    /// Apache Kafka and PostgreSQL.
    Real,
}

/// Everything as fast as it can be; the sweep is far away, so that no story is saved by it unless it asks.
pub const SETTINGS: &str = r#"
[log]
level = "debug"
[ops]
listen = "127.0.0.1:0"
drain = "3s"
[kafka]
publish_timeout = "2s"
linger = "1ms"
probe_interval = "100ms"
[kafka.topics]
partitions = 4
replication = 1
min_insync = 1
[database]
connections = 8
[receiver]
listen = "127.0.0.1:0"
[console]
listen = "127.0.0.1:0"
push_wait = "8s"
wait_poll = "10ms"
[consumer]
workers = 8
poll = "25ms"
lease = "3s"
debounce = "30ms"
quiet = "1h"
backoff_first = "60ms"
backoff_cap = "500ms"
refused_cap = "1h"
gone_after = "400ms"
awaiting_token_poll = "150ms"
sweep_period = "1h"
sweep_share = 1.0
probe_interval = "200ms"
gap_spread = "100ms"
[plaid]
timeout = "1s"
connect_timeout = "500ms"
[plaid.limits]
share = 1.0
item_get = 600000
accounts_get = 600000
processor_token_create = 600000
processor_token_permissions_get = 600000
per_item = 60000
[plaid.keys]
lookups_per_minute = 600
[layer]
timeout = "1s"
connect_timeout = "500ms"
verify_timeout = "700ms"
verify_interval = "20ms"
[layer.limits]
share = 1.0
calls = 600000
create = 600000
[sandbox]
listen = "127.0.0.1:0"
webhook_url = ""
webhook_retry_scale = 0.002
"#;

/// The sandbox, Rekey, and what stands below them.
#[derive(Debug)]
pub struct World {
    pub local: Local,
    pub sandbox: Sandbox,
    /// Rekey's processes, as far as they run inside the test.
    pub rekeys: Vec<Running>,
    pub parts: Parts,
}

impl World {
    /// A world with Rekey running in every role.
    pub async fn start(parts: Parts, extra: &str) -> Self {
        let mut world = Self::without_rekey(parts, extra).await;
        world.start_rekey(Role::ALL_IN_ONE, "").await;
        world
    }

    /// The same before Rekey is started.
    pub async fn without_rekey(parts: Parts, extra: &str) -> Self {
        Self::on((parts == Parts::Real).then(kafka_address), extra).await
    }

    /// A world on a Kafka of the story's own and on PostgreSQL, or on embedded parts.
    pub async fn on(kafka: Option<String>, extra: &str) -> Self {
        Self::made(kafka, extra, Answer::of_this_run()).await
    }

    /// A world whose providers give this answer, with Rekey running in every role.
    pub async fn answering(answer: &Answer, parts: Parts) -> Self {
        let mut world = Self::made((parts == Parts::Real).then(kafka_address), "", Some(answer)).await;
        world.start_rekey(Role::ALL_IN_ONE, "").await;
        world
    }

    /// For a story that is about the likely answers, whatever the run's is.
    pub async fn likely(parts: Parts, extra: &str) -> Self {
        let mut world = Self::made((parts == Parts::Real).then(kafka_address), extra, None).await;
        world.start_rekey(Role::ALL_IN_ONE, "").await;
        world
    }

    async fn made(kafka: Option<String>, extra: &str, answer: Option<&Answer>) -> Self {
        logs();
        let parts = if kafka.is_some() { Parts::Real } else { Parts::Embedded };
        let mut settings: toml::Table = SETTINGS.parse().unwrap();
        merge(&mut settings, answer.map_or("", |a| a.settings).parse().unwrap());
        merge(&mut settings, extra.parse().unwrap());
        let databases = match parts {
            Parts::Embedded => None,
            Parts::Real => {
                merge(&mut settings, topics_of_its_own());
                Some(Databases { rekey: fresh_database().await, platform: fresh_database().await })
            }
        };
        let world = Self::over(Ground { kafka, databases, settings: settings.to_string() }).await;
        if let Some(answer) = answer {
            world.sandbox.switch(answer.switch);
        }
        world
    }

    /// A world on parts of the caller's own.
    pub async fn over(ground: Ground) -> Self {
        let parts = if ground.kafka.is_some() { Parts::Real } else { Parts::Embedded };
        let local = Local::new(ground).await.unwrap();
        if parts == Parts::Real {
            let config = local.config("").unwrap();
            let refused = Mutex::new(None);
            let made = || async {
                let applied =
                    bus::apply(&config.kafka.connection(), &config.kafka.topics, config.receiver.max_body).await;
                *refused.lock().unwrap() = applied.err();
                refused.lock().unwrap().is_none()
            };
            assert!(holds(made).await, "the topics could not be created: {:?}", refused.lock().unwrap());
        }
        Self { sandbox: local.sandbox.clone(), local, rekeys: Vec::new(), parts }
    }

    /// Starts roles in this process. Returns which of [`World::rekeys`] they are.
    pub async fn start_rekey(&mut self, roles: &[Role], extra: &str) -> usize {
        let running = self.local.start(roles, extra).await.unwrap();
        running.ready().await.unwrap();
        self.rekeys.push(running);
        self.rekeys.len() - 1
    }

    pub fn rekey(&self) -> &Running {
        self.rekeys.first().expect("Rekey was not started in this process")
    }

    pub fn store(&self) -> Store {
        self.rekeys.iter().find_map(|r| r.store.get()).expect("no store is open").clone()
    }

    pub fn receiver_url(&self) -> String {
        let address = self.rekeys.iter().find_map(|r| r.receiver).expect("no receiver runs");
        format!("http://{address}/webhooks/plaid")
    }

    // Verbs of the platform.

    pub fn business(&self, external_id: &str) {
        let new = NewBusiness { external_id: external_id.into(), at_layer: true, phone: None, archived: false };
        self.sandbox.create_business(&new);
    }

    /// Links an Item with that many accounts and pushes it, to a business that Layer knows.
    pub async fn link(&self, business: &str, accounts: usize) -> String {
        self.business(business);
        self.link_as(business, accounts, Announce::Push).await
    }

    pub async fn link_as(&self, business: &str, accounts: usize, announce: Announce) -> String {
        let accounts = (0..accounts).map(|n| NewAccount::checking(&format!("{:04}", 1000 + n))).collect();
        self.sandbox.link(&NewItem { business: business.into(), accounts, announce }).await.unwrap()
    }

    pub async fn rotate(&self, item: &str, announce: Announce) {
        self.sandbox.rotate(item, announce).await.unwrap();
    }

    pub fn webhook(&self, item: &str, code: &str, extra: &Value) {
        self.sandbox.fire(item, "ITEM", code, extra).unwrap();
    }

    pub fn accounts(&self, item: &str) -> Vec<String> {
        self.sandbox.accounts_of(item).unwrap()
    }

    /// What says that these accounts belong somewhere is lost, as a fault of Rekey's or of its database would lose it.
    pub async fn lose_accounts(&self, accounts: &[String]) {
        sqlx::any::install_default_drivers();
        let pool = sqlx::AnyPool::connect(&self.local.environment["REKEY_DATABASE__URL"]).await.unwrap();
        for account in accounts {
            let sql =
                "UPDATE accounts SET business_id = NULL, moving_from = NULL, outside = NULL WHERE account_id = $1";
            sqlx::query(sql).bind(account.clone()).execute(&pool).await.unwrap();
        }
        pool.close().await;
    }

    /// What spoke against a provider is past: the window in which it counts has gone by.
    pub async fn forget_suspicions(&self) {
        self.sql("DELETE FROM suspicions").await;
    }

    /// Changes the store past Rekey.
    pub async fn sql(&self, text: &'static str) {
        sqlx::any::install_default_drivers();
        let pool = sqlx::AnyPool::connect(&self.local.environment["REKEY_DATABASE__URL"]).await.unwrap();
        sqlx::query(text).execute(&pool).await.unwrap();
        pool.close().await;
    }

    pub async fn sync_item(&self, item: &str) {
        self.admin("POST", &format!("/v1/items/{item}/sync"), None).await;
    }
    pub async fn sync_business(&self, business: &str) {
        self.admin("POST", &format!("/v1/businesses/{business}/sync"), None).await;
    }

    /// What notices about these Items come to, all at the same moment.
    pub async fn make_due(&self, items: &[String]) {
        let mut tx = self.store().begin().await.unwrap();
        let mark = |item: &String| Mark::new(&ItemId::parse(item).unwrap(), Class::Rotation, "notice");
        let marks: Vec<Mark<'_>> = items.iter().map(mark).collect();
        tx.mark_each(&marks).await.unwrap();
        tx.commit().await.unwrap();
    }

    /// PUTs that Layer has taken.
    pub fn puts(&self) -> u64 {
        self.sandbox.verdict().counts.puts
    }

    /// The Item as the admin API shows it.
    pub async fn item(&self, item: &str) -> Value {
        self.admin("GET", &format!("/v1/items/{item}"), None).await.1
    }

    /// The business as the admin API shows it.
    pub async fn business_at(&self, business: &str) -> Value {
        self.admin("GET", &format!("/v1/businesses/{business}"), None).await.1
    }

    /// Calls the admin API; the status and the body.
    pub async fn admin(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        self.sandbox.admin_call(method.parse().unwrap(), path, body).await.unwrap()
    }

    /// A notice as the platform publishes it.
    pub async fn notice(&self, item: &str) {
        Self::publish_notice(&self.local, item).await;
    }

    /// The same for a world that is not one of a story's.
    pub async fn publish_notice(local: &Local, item: &str) {
        let event = bus::Event {
            id: uuid::Uuid::new_v4().to_string(),
            kind: "rekey.notice".into(),
            source: "/platform".into(),
            subject: Some(item.into()),
            time: "2026-11-21T00:00:00Z".parse().unwrap(),
            schema: schema::NOTICE.into(),
            traceparent: None,
            data: json!({"item_id": item}).to_string().into_bytes(),
        };
        let config = local.config("").unwrap();
        let topics = &config.kafka.topics;
        let producer = bus::Producer::new(&connection(local), &config.kafka).unwrap();
        let published = || async { producer.publish(&topics.notices, Some(item), &event).await.is_ok() };
        assert!(holds(published).await, "the notice was not published");
    }

    pub fn producer(&self) -> bus::Producer {
        bus::Producer::new(&self.connection(), &self.local.config("").unwrap().kafka).unwrap()
    }

    pub fn connection(&self) -> bus::Connection {
        connection(&self.local)
    }

    /// Reads a topic from its beginning until `enough` says so. Returns the records: kind, key-less JSON data, raw text.
    pub async fn read_topic(
        &self,
        topic: &str,
        schema: &'static str,
        enough: impl Fn(&[bus::Delivery]) -> bool,
    ) -> Vec<bus::Delivery> {
        let settings = IntakeSettings {
            group: format!("reader-{}", uuid::Uuid::new_v4()),
            topics: vec![topic.to_owned()],
            schemas: vec![schema],
        };
        let reader = Intake::new(&self.connection(), &settings).unwrap();
        let mut seen = Vec::new();
        let deadline = Instant::now() + PATIENCE;
        while !enough(&seen) {
            assert!(Instant::now() < deadline, "the topic {topic} has only {} records", seen.len());
            if let Ok(Ok(delivery)) = tokio::time::timeout(Duration::from_millis(500), reader.next()).await {
                seen.push(delivery);
            }
        }
        reader.close().await;
        seen
    }

    /// Ends the story: every list exact, nothing violated, no needless PUT, nothing left waiting for a person.
    pub async fn end(self) {
        self.until_exact().await;
        let parked = self.parked().await;
        assert!(parked.is_empty(), "left parked: {parked:?}");
        self.end_with_parked().await;
    }

    /// The same for a story in which somebody still has to look.
    pub async fn end_with_parked(self) {
        let verdict = self.sandbox.verdict();
        assert!(verdict.violations.is_empty(), "violated: {:?}", verdict.violations);
        let ledger = match self.rekeys.iter().find_map(|r| r.store.get()) {
            Some(store) => ledger(store, &self.sandbox.items()).await,
            None => None,
        };
        if let Some(store) = self.rekeys.iter().find_map(|r| r.store.get()) {
            let stale = stale_verdicts(store).await;
            assert!(stale.is_empty(), "I11: stored verdicts that are not so: {stale:?}");
        }
        // Mints whose answers died with a process are known to nobody else.
        let orphans = ledger.as_ref().and_then(|l| l.get("orphaned")).copied().unwrap_or_default();
        assert!(verdict.counts.mints <= verdict.mints_allowed + orphans, "I6: {orphans} orphans, {verdict:?}");
        if let Some(ledger) = ledger {
            let known: u64 = ledger.values().sum();
            assert!(verdict.counts.mints <= known, "I6: a mint without an intent: {ledger:?}, {verdict:?}");
            assert_eq!(ledger.get("intended"), None, "I6: an intent was never settled: {ledger:?}");
        }
        // A list that nobody could read back is sent again by the sweep, which most stories never see.
        let resent = self.sandbox.hides_tokens() && !self.local.settings.contains("sweep_period = \"1h\"");
        assert!(resent || verdict.counts.needless_puts == 0, "I9: a PUT changed nothing");
        if let Some(rekey) = self.rekeys.first() {
            // What all stories of this process have shown until now.
            metrics::read(&metrics::scrape(rekey.ops).await);
        }
        for rekey in self.rekeys {
            rekey.stop().await;
        }
        self.local.stop().await;
    }
}

fn connection(local: &Local) -> bus::Connection {
    match &local.broker {
        Some(broker) => broker.connection().unwrap(),
        None => local.config("").unwrap().kafka.connection(),
    }
}

/// Stories share one Kafka, so each has its own topics and group.
fn topics_of_its_own() -> toml::Table {
    let name = uuid::Uuid::new_v4().simple().to_string();
    format!(
        "[kafka]\ngroup = \"g-{name}\"\n[kafka.topics]\nitem_events = \"{name}.item-events\"\nother_events = \
         \"{name}.other-events\"\nnotices = \"{name}.notices\"\noutcomes = \"{name}.outcomes\"\ndead_letters = \
         \"{name}.dead-letters\"\n"
    )
    .parse()
    .unwrap()
}

/// What happened is printed when a test fails. TEST_LOG chooses how much.
fn logs() {
    let level = std::env::var("TEST_LOG").unwrap_or_else(|_| "info,librdkafka=off,rdkafka=off,sqlx=off".into());
    let _ = tracing_subscriber::fmt().with_env_filter(level).with_test_writer().with_target(false).compact().try_init();
}
