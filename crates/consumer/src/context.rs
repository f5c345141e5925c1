//! What every part of the consumer shares.

use crate::{Settings, TokenSource};
use bus::{Producer, Topics};
use domain::Provider;
use domain::fault::chain;
use domain::work::Kind;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use store::Store;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// A provider does not answer our credentials.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unreachable(String);

/// The parts that looks are made with.
#[derive(Debug)]
pub struct Context {
    pub store: Store,
    pub plaid: plaid::Client,
    pub layer: layer::Client,
    pub producer: Producer,
    pub topics: Topics,
    pub source: TokenSource,
    pub settings: Settings,
    /// Names this process in leases.
    pub owner: String,
    /// For jitter; seeded, so that a run can be repeated.
    pub rng: Mutex<StdRng>,
    pub items_due: Arc<Notify>,
    pub businesses_due: Arc<Notify>,
    pub outbox_filled: Notify,
    /// This process is asked to stop: no provider call is begun any more.
    pub stopping: CancellationToken,
}

impl Context {
    #[allow(clippy::too_many_arguments, reason = "one constructor for what the wiring puts together once")]
    pub fn new(
        store: Store,
        plaid: plaid::Client,
        layer: layer::Client,
        producer: Producer,
        topics: Topics,
        source: TokenSource,
        settings: Settings,
        seed: u64,
    ) -> Self {
        Self {
            store,
            plaid,
            layer,
            producer,
            topics,
            source,
            settings,
            owner: format!("{}-{}", std::process::id(), uuid::Uuid::new_v4().simple()),
            rng: Mutex::new(StdRng::seed_from_u64(seed)),
            items_due: Arc::default(),
            businesses_due: Arc::default(),
            outbox_filled: Notify::new(),
            stopping: CancellationToken::new(),
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

    pub(crate) fn due(&self, kind: Kind) -> &Notify {
        match kind {
            Kind::Item => &self.items_due,
            Kind::Business => &self.businesses_due,
        }
    }

    pub(crate) fn backoff(&self, failures: u32) -> Duration {
        let mut rng = self.rng.lock().unwrap_or_else(PoisonError::into_inner);
        self.settings.backoff.wait(failures, &mut *rng)
    }

    /// When to look again although nothing happened: within the sweep period, spread so that rows which were looked
    /// at together do not stay together.
    pub(crate) fn sweep_wait(&self) -> Duration {
        let mut rng = self.rng.lock().unwrap_or_else(PoisonError::into_inner);
        self.settings.sweep_period.mul_f64(rng.random_range(0.7..=0.95))
    }
}
