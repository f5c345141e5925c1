//! What a process waits for at its start: one line when it begins to wait, one when it is over, and a true readiness
//! report in between.

use crate::config::{Config, fingerprinter};
use domain::fault::chain;
use domain::retry::{Curve, Retries};
use std::collections::HashSet;
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
                    tracing::warn!(part, error = chain(&error), "not there yet; trying again until it is");
                }
                readiness.waiting(part, error.to_string());
            }
        }
        let wait = retries.next_wait(&mut rand::rng());
        stop.run_until_cancelled(tokio::time::sleep(wait)).await?;
    }
}

/// A store that is about to be opened: nothing was asked of the database yet.
pub(crate) fn connect(config: &Config) -> anyhow::Result<Store> {
    let keys = KeyRing::parse(&config.secrets.keys)?;
    let fingerprints = fingerprinter(&config.secrets.fingerprint_key)?;
    Ok(Store::connect(config.store()?, &config.kafka.topics.outcomes, keys, fingerprints)?)
}

/// Most reasons that are logged of one wait; `/readyz` tells the last one in any case.
const REASONS: usize = 5;

/// Tries what a start needs of the database until it is done, and says why it is not, each reason once. None: stopped first.
pub(crate) async fn until_the_database_does<T, F>(
    store: &Store,
    readiness: &Readiness,
    stop: &CancellationToken,
    attempt: impl Fn() -> F,
) -> anyhow::Result<Option<T>>
where
    F: Future<Output = Result<T, store::Error>>,
{
    let mut retries = Retries::new(Curve { first: Duration::from_millis(50), cap: Duration::from_secs(2) });
    let mut told = HashSet::new();
    loop {
        // A database may be slow to fail, and a process that is told to stop must not wait for it.
        let Some(done) = stop.run_until_cancelled(attempt()).await else { return Ok(None) };
        match done {
            Ok(value) => {
                if retries.failures() > 0 {
                    tracing::info!("the database answers now");
                }
                return Ok(Some(value));
            }
            Err(error) if error.is_passing() => {
                let why = store.diagnose(Some(&error)).await;
                // Two reasons may take turns.
                if told.len() < REASONS && told.insert(why.clone()) {
                    tracing::warn!(error = chain(&error), why, "the database is not ready; trying again until it is");
                }
                readiness.waiting("database", why);
            }
            Err(error) => return Err(error.into()),
        }
        let wait = retries.next_wait(&mut rand::rng());
        let Some(()) = stop.run_until_cancelled(tokio::time::sleep(wait)).await else { return Ok(None) };
    }
}

/// How often a database that is in use is asked whether it still serves, and how many answers in a row must be missing.
const ASK_EVERY: Duration = Duration::from_secs(2);
const MISSING: u32 = 3;

/// Keeps the readiness report true of a database that was opened, if there is one: while it is away, or can't be written any
/// more, this process is not ready. The log says so in any case.
pub(crate) async fn watch_the_database(store: Store, readiness: Option<Readiness>, stop: CancellationToken) {
    let mut missing = 0;
    let asked = async || {
        tokio::time::sleep(ASK_EVERY).await;
        store.serves().await
    };
    while let Some(serves) = stop.run_until_cancelled(asked()).await {
        match serves {
            Ok(()) => {
                if missing >= MISSING {
                    tracing::info!("the database serves again");
                }
                missing = 0;
                if let Some(readiness) = &readiness {
                    readiness.started("database");
                }
            }
            Err(error) => {
                missing += 1;
                if missing < MISSING {
                    continue;
                }
                let why = store.diagnose(Some(&error)).await;
                if missing == MISSING {
                    tracing::error!(
                        error = chain(&error),
                        why,
                        "the database does not serve any more: work waits for it"
                    );
                }
                if let Some(readiness) = &readiness {
                    readiness.waiting("database", why);
                }
            }
        }
    }
}
