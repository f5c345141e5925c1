//! The platform during the storm: it rotates, announces in each of the ways there are, and remembers what it was told.

use crate::run::Limits;
use crate::stage::{Brokers, Stage};
use domain::Fingerprinter;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use sandbox::{Announce, NewAccount, NewItem};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::MissedTickBehavior;

/// Platforms that rotate at the same time, each its own Items: the platform's own store is no part of this.
const DRIVERS: usize = 64;

/// Webhooks that are nobody's rotation.
const OTHERS: [(&str, &str); 4] = [
    ("TRANSACTIONS", "SYNC_UPDATES_AVAILABLE"),
    ("AUTH", "DEFAULT_UPDATE"),
    ("ITEM", "NEW_ACCOUNTS_AVAILABLE"),
    ("ITEM", "LOGIN_REPAIRED"),
];

/// What the platform did and what it was answered.
pub(crate) struct Platform {
    /// Item and business.
    pub(crate) items: Vec<(String, String)>,
    pub(crate) rotations: AtomicUsize,
    pub(crate) pushes: AtomicUsize,
    pub(crate) notices: AtomicUsize,
    markers: AtomicUsize,
    /// Marker of each webhook that Plaid was made to send.
    sent: Mutex<BTreeSet<String>>,
    /// Fingerprint of the last push of an Item that was answered 200 or 202.
    pushed: Mutex<BTreeMap<String, String>>,
    fingerprints: Fingerprinter,
    /// The platform's own, not Rekey's. Not idempotent: such a one may give up for good, and a notice may come twice.
    producer: FutureProducer,
    notice_topic: String,
    pub(crate) over: AtomicBool,
}

fn producer(brokers: &Brokers) -> FutureProducer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &brokers.address).set("acks", "all").set("message.timeout.ms", "5000");
    config.set("reconnect.backoff.max.ms", "500").create().unwrap()
}

impl Platform {
    pub(crate) fn new(stage: &Stage, brokers: &Brokers) -> Self {
        let config = stage.world.local.config("").unwrap();
        Self {
            items: Vec::new(),
            rotations: AtomicUsize::new(0),
            pushes: AtomicUsize::new(0),
            notices: AtomicUsize::new(0),
            markers: AtomicUsize::new(0),
            sent: Mutex::default(),
            pushed: Mutex::default(),
            fingerprints: rekey::config::fingerprinter(&config.secrets.fingerprint_key).unwrap(),
            producer: producer(brokers),
            notice_topic: config.kafka.topics.notices,
            over: AtomicBool::new(false),
        }
    }

    /// Links one Item for each business and a second one for every fourth, and pushes them.
    pub(crate) async fn link(&mut self, stage: &Stage, businesses: usize) {
        for n in 0..businesses {
            let business = format!("b{n}");
            stage.world.business(&business);
            self.link_one(stage, &business, 1 + n % 3).await;
            if n % 4 == 0 {
                self.link_one(stage, &business, 1).await;
            }
        }
    }

    async fn link_one(&mut self, stage: &Stage, business: &str, accounts: usize) {
        let accounts = (0..accounts).map(|n| NewAccount::checking(&format!("{:04}", 1000 + n))).collect();
        let new = NewItem { business: business.into(), accounts, announce: Announce::Silent };
        let item = stage.world.sandbox.link(&new).await.unwrap();
        self.write(stage, &item).await;
        self.push(stage, &item).await;
        self.items.push((item, business.to_owned()));
    }

    pub(crate) fn sent(&self) -> BTreeSet<String> {
        self.sent.lock().clone()
    }
    pub(crate) fn pushed(&self) -> BTreeMap<String, String> {
        self.pushed.lock().clone()
    }
    pub(crate) fn fingerprint(&self, token: &str) -> String {
        self.fingerprints.of(token).to_string()
    }

    pub(crate) fn drivers(&self) -> usize {
        self.items.len().min(DRIVERS)
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    /// Into the platform's own database, again until it is there. Never given up half-way: a statement that was left
    /// behind might run after a later one.
    async fn write(&self, stage: &Stage, item: &str) {
        while stage.world.sandbox.announce(item, Announce::Database).await.is_err() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Again until Rekey has taken it.
    async fn push(&self, stage: &Stage, item: &str) {
        let sandbox = &stage.world.sandbox;
        loop {
            let body = sandbox.push_body(item, &json!({})).unwrap();
            let path = format!("/v1/items/{item}?timeout=0");
            let answer = sandbox.admin_call(reqwest::Method::PUT, &path, Some(&body)).await;
            match answer {
                Ok((200 | 202, _)) => {
                    let fingerprint = self.fingerprint(body["access_token"].as_str().unwrap());
                    self.pushed.lock().insert(item.to_owned(), fingerprint);
                    self.pushes.fetch_add(1, Ordering::Relaxed);
                    return;
                }
                refused => tracing::info!(item, ?refused, "the push was not taken"),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn fire(&self, stage: &Stage, item: &str, kind: &str, code: &str) {
        let marker = format!("storm-{}", self.markers.fetch_add(1, Ordering::Relaxed));
        self.sent.lock().insert(marker.clone());
        stage.world.sandbox.fire(item, kind, code, &json!({"error": null, "storm": marker})).unwrap();
    }

    async fn notice(&self, item: &str) {
        let data = json!({"item_id": item}).to_string();
        let attributes = [
            ("ce_specversion", "1.0"),
            ("ce_id", item),
            ("ce_type", "rekey.notice"),
            ("ce_source", "/platform"),
            ("ce_time", "2026-11-21T00:00:00Z"),
            ("ce_dataschema", bus::schema::NOTICE),
        ];
        let with =
            |headers: OwnedHeaders, (key, value): &(&str, &str)| headers.insert(Header { key, value: Some(*value) });
        let headers = attributes.iter().fold(OwnedHeaders::new(), with);
        loop {
            let record = FutureRecord::to(&self.notice_topic).key(item).payload(&data).headers(headers.clone());
            if self.producer.send(record, Duration::from_secs(2)).await.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.notices.fetch_add(1, Ordering::Relaxed);
    }

    async fn rotate(&self, stage: &Stage, rng: &mut StdRng, item: &str) {
        stage.world.sandbox.rotate(item, Announce::Silent).await.unwrap();
        self.write(stage, item).await;
        match rng.random_range(0..10) {
            0..3 => self.push(stage, item).await,
            3..7 => self.fire(stage, item, "ITEM", "ERROR"),
            7..9 => self.notice(item).await,
            // Nobody is told: the sweep finds it in the platform's database.
            _ => {}
        }
        if rng.random_bool(0.3) {
            let (kind, code) = OTHERS.choose(rng).unwrap();
            self.fire(stage, item, kind, code);
        }
        self.rotations.fetch_add(1, Ordering::Relaxed);
    }
}

/// One platform, until the storm is over.
pub(crate) async fn driver(stage: Arc<Stage>, platform: Arc<Platform>, number: usize, limits: Limits) {
    let mut rng = StdRng::seed_from_u64(limits.seed.wrapping_mul(1000).wrapping_add(number as u64));
    let drivers = platform.drivers();
    let own: Vec<&String> = platform.items.iter().skip(number).step_by(drivers).map(|(item, _)| item).collect();
    let mut pace = tokio::time::interval(Duration::from_secs_f64(drivers as f64 / limits.rate.max(1) as f64));
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !platform.is_over() {
        pace.tick().await;
        let Some(item) = own.choose(&mut rng) else { return };
        platform.rotate(&stage, &mut rng, item).await;
    }
}
