//! What every part of the consumer shares.

use crate::leases::AtWork;
use crate::rehearsal::Rehearsal;
use crate::{Settings, TokenSource};
use bus::{Producer, Topics};
use domain::Provider;
use domain::budget::Limits;
use domain::fault::chain;
use domain::outage::Outage;
use domain::retry::Curve;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use store::Store;
use tokio_util::sync::CancellationToken;

/// A provider does not answer our credentials.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unreachable(String);

/// The parts that reconciliations are made with.
#[derive(Debug)]
pub struct Context {
    pub store: Store,
    pub plaid: Arc<plaid::Client>,
    pub layer: Arc<layer::Client>,
    pub producer: Producer,
    pub topics: Topics,
    pub source: Arc<TokenSource>,
    pub settings: Settings,
    /// The consumer group that this process belongs to: it names this release to others that share the database.
    pub group: String,
    /// The fleet's part of the providers' limits.
    pub limits: Limits,
    /// Names this process in leases.
    pub owner: String,
    /// For jitter; seeded, so that a run can be repeated.
    pub rng: Mutex<StdRng>,
    /// Events of Items that nobody pushed, for the log.
    pub strangers: Outage,
    /// Another release works on the same database, for the log.
    pub shared_database: Outage,
    /// How long the sweep takes, as counted last.
    sweep_ms: AtomicU64,
    pub(crate) at_work: AtWork,
    /// Reconciliations on a copy: nothing is minted or sent.
    pub(crate) rehearsal: Option<Rehearsal>,
    /// This process is asked to stop: no provider call is begun any more.
    pub stopping: CancellationToken,
}

impl Context {
    /// Puts the parts together. `kafka`: the topics, and the group that shares the work.
    pub fn new(
        store: Store,
        plaid: plaid::Client,
        layer: layer::Client,
        producer: Producer,
        kafka: &bus::Settings,
        source: TokenSource,
        settings: Settings,
    ) -> Self {
        let seed = if settings.seed == 0 { rand::random() } else { settings.seed };
        Self {
            limits: settings.budget(&plaid.settings().limits, &layer.settings().limits),
            store,
            plaid: Arc::new(plaid),
            layer: Arc::new(layer),
            producer,
            topics: kafka.topics.clone(),
            group: kafka.group.clone(),
            source: Arc::new(source),
            settings,
            owner: format!("{}-{}", std::process::id(), uuid::Uuid::new_v4().simple()),
            rng: Mutex::new(StdRng::seed_from_u64(seed)),
            strangers: Outage::default(),
            shared_database: Outage::default(),
            sweep_ms: AtomicU64::new(0),
            at_work: AtWork::default(),
            rehearsal: None,
            stopping: CancellationToken::new(),
        }
    }

    /// The same parts on a copy of the store.
    pub(crate) fn rehearsing(&self, copy: Store, settings: Settings, limits: Limits, rehearsal: Rehearsal) -> Self {
        Self {
            store: copy,
            plaid: Arc::clone(&self.plaid),
            layer: Arc::clone(&self.layer),
            producer: self.producer.clone(),
            topics: self.topics.clone(),
            source: Arc::clone(&self.source),
            group: self.group.clone(),
            limits,
            owner: self.owner.clone(),
            rng: Mutex::new(StdRng::seed_from_u64(rand::random())),
            strangers: Outage::default(),
            shared_database: Outage::default(),
            sweep_ms: AtomicU64::new(self.sweep_ms.load(Ordering::Relaxed)),
            at_work: AtWork::default(),
            rehearsal: Some(rehearsal),
            stopping: self.stopping.clone(),
            settings,
        }
    }

    /// Do our credentials get an answer from this provider?
    pub async fn reach(&self, provider: Provider) -> Result<(), Unreachable> {
        let answer = match provider {
            Provider::Plaid => self.plaid.probe().await.map_err(|e| chain(&e)),
            Provider::Layer => self.layer.probe().await.map_err(|e| chain(&e)),
        };
        answer.map_err(Unreachable)
    }

    /// Where calls are booked.
    pub(crate) fn books(&self) -> &Store {
        self.rehearsal.as_ref().map_or(&self.store, Rehearsal::books)
    }

    pub(crate) fn http(&self, provider: Provider) -> &web::Client {
        match provider {
            Provider::Plaid => self.plaid.http(),
            Provider::Layer => self.layer.http(),
        }
    }

    pub(crate) fn backoff(&self, failures: u32) -> Duration {
        let mut rng = self.rng.lock();
        self.settings.backoff().wait(failures, &mut *rng)
    }

    /// The wait before a refusal of an unknown kind, or a refused mint, is tried again: up to hours.
    pub(crate) fn slow_backoff(&self, failures: u32) -> Duration {
        let mut rng = self.rng.lock();
        let curve = Curve { cap: self.settings.refused_cap, ..self.settings.backoff() };
        curve.wait(failures, &mut *rng)
    }

    /// How long the sweep takes: the configured period, or longer where the providers' limits leave it no other way.
    pub(crate) fn sweep_period(&self) -> Duration {
        Duration::from_millis(self.sweep_ms.load(Ordering::Relaxed)).max(self.settings.sweep_period)
    }

    /// Takes the number of rows into account.
    pub(crate) fn fit_sweep(&self, items: i64, businesses: i64) {
        let (wanted, before) = (self.settings.sweep_period, self.sweep_period());
        let period = self.settings.sweep_period_for(&self.limits, items, businesses);
        self.sweep_ms.store(u64::try_from(period.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
        if period > wanted && before <= wanted {
            tracing::warn!(
                items,
                businesses,
                takes_hours = period.as_secs() / 3600,
                "the sweep takes longer than consumer.sweep_period: the providers' limits and consumer.sweep_share allow no \
                 more"
            );
        }
    }

    /// When to reconcile again although nothing happened: within the sweep period, spread so that rows which were looked
    /// at together do not stay together.
    pub(crate) fn sweep_wait(&self) -> Duration {
        let mut rng = self.rng.lock();
        self.sweep_period().mul_f64(rng.random_range(0.7..=0.95))
    }
}
