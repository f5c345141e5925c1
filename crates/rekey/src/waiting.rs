//! What a process waits for at its start: one line when it begins to wait, one when it is over, and a true readiness
//! report in between.

use crate::config::{Config, fingerprinter};
use domain::retry::{Curve, Retries};
use std::future::Future;
use std::time::Duration;
use store::{KeyRing, Store};
use tokio_util::sync::CancellationToken;
use web::Readiness;

/// Tries until it works, says so once per change, and keeps the readiness report true. None: stopped first.
pub(crate) async fn until_it_works<T, E, F>(
    part: &'static str,
    readiness: &Readiness,
    stop: &CancellationToken,
    mut attempt: impl FnMut() -> F,
) -> Option<T>
where
    F: Future<Output = Result<T, E>>,
    E: std::error::Error + 'static,
{
    let mut retries = Retries::new(Curve { first: Duration::from_millis(50), cap: Duration::from_secs(2) });
    loop {
        match attempt().await {
            Ok(value) => {
                if retries.failures() > 0 {
                    tracing::info!(part, "answers now");
                }
                readiness.started(part);
                return Some(value);
            }
            Err(error) => {
                if retries.failures() == 0 {
                    tracing::warn!(
                        part,
                        error = &error as &dyn std::error::Error,
                        "not there yet; trying again until it is"
                    );
                }
                readiness.waiting(part, error.to_string());
            }
        }
        let wait = retries.next_wait(&mut rand::rng());
        tokio::select! {
            () = stop.cancelled() => return None,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// A store that is about to be opened.
pub(crate) struct Opening {
    store: Store,
}

impl Opening {
    pub(crate) fn new(config: &Config) -> anyhow::Result<Self> {
        let keys = KeyRing::parse(&config.secrets.keys)?;
        let fingerprints = fingerprinter(&config.secrets.fingerprint_key)?;
        Ok(Self { store: Store::connect(&config.store()?, keys, fingerprints)? })
    }

    /// Waits for the database; what is wrong with it beyond being away is an error.
    pub(crate) async fn open(self, readiness: &Readiness, stop: &CancellationToken) -> anyhow::Result<Option<Store>> {
        let mut retries = Retries::new(Curve { first: Duration::from_millis(50), cap: Duration::from_secs(2) });
        loop {
            match self.store.prepare().await {
                Ok(()) => return Ok(Some(self.store)),
                Err(error) if error.is_passing() => {
                    if retries.failures() == 0 {
                        let why = self.store.diagnose().await;
                        tracing::warn!(
                            error = &error as &dyn std::error::Error,
                            why,
                            "the database is not there yet; trying again until it is"
                        );
                        readiness.waiting("database", why);
                    }
                }
                Err(error) => return Err(error.into()),
            }
            let wait = retries.next_wait(&mut rand::rng());
            tokio::select! {
                () = stop.cancelled() => return Ok(None),
                () = tokio::time::sleep(wait) => {}
            }
        }
    }
}
