//! Webhook verification keys: known ones are used even while Plaid's key endpoint is dark, unknown ones cost little.
//!
//! The `kid` of a webhook is chosen by whoever sends it, so looking up each unknown one would make us an amplifier
//! against an endpoint of unknown limits. One worker looks up one key at a time, under a budget a minute, and takes
//! the `kid` that most requests carried: a genuine new key overtakes a flood of forged ones that are each seen once.
//! Whoever waits for a verdict longer than [`KeySettings::wait`] gets none, which is answered 503, not 401: Plaid
//! sends the webhook again.

use crate::client::{Client, Jwk};
use domain::metric;
use governor::{Quota, RateLimiter};
use jsonwebtoken::DecodingKey;
use std::collections::HashMap;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// How keys are looked up and remembered.
#[derive(Debug, Clone)]
pub struct KeySettings {
    /// Look-ups of unknown keys a minute; a few may come at once.
    pub lookups_per_minute: u32,
    pub lookup_burst: u32,
    /// How long a webhook waits for the verdict on its unknown key.
    pub wait: Duration,
    /// How many webhooks may wait at once.
    pub max_waiting: usize,
    /// A key is fetched again after this time, to notice that it expired.
    pub refresh_after: Duration,
    /// How long Plaid's "no such key" is believed.
    pub absent_for: Duration,
    /// Keeps the keys over a restart.
    pub file: Option<PathBuf>,
}

/// Unknown `kid`s remembered at once, forged ones included.
const MAX_WANTED: usize = 1024;
const MAX_ABSENT: usize = 1024;

/// Why there is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoKey {
    /// Plaid says that there is no such key in this environment.
    Unknown,
    /// Plaid retired it.
    Expired,
    /// Nobody could tell in time.
    Unavailable,
}

struct Known {
    jwk: Jwk,
    key: DecodingKey,
    /// None when it came from the file and has not been confirmed since.
    fetched: Option<Instant>,
}

#[derive(Default)]
struct State {
    known: HashMap<String, Known>,
    absent: HashMap<String, Instant>,
    wanted: HashMap<String, Want>,
    in_flight: Option<String>,
    waiting: usize,
}

struct Want {
    requests: u64,
    since: Instant,
}

/// The key cache. Clones share it.
#[derive(Clone)]
pub struct Keys {
    inner: Arc<Inner>,
}

struct Inner {
    client: Client,
    settings: KeySettings,
    state: Mutex<State>,
    /// Somebody wants an unknown key.
    wanted: Notify,
    /// A verdict arrived.
    settled: Notify,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keys({} known)", self.state().known.len())
    }
}

impl Keys {
    pub fn new(client: Client, settings: KeySettings) -> Self {
        let state = State { known: load(&settings), ..State::default() };
        let inner = Inner { client, settings, state: Mutex::new(state), wanted: Notify::new(), settled: Notify::new() };
        Self { inner: Arc::new(inner) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The key for `kid`, from the cache or, within the budget, from Plaid.
    pub(crate) async fn get(&self, kid: &str, now_unix: i64) -> Result<DecodingKey, NoKey> {
        // Listening before looking: a verdict between the two would otherwise be missed.
        let mut settled = Box::pin(self.inner.settled.notified());
        settled.as_mut().enable();
        if let Some(verdict) = self.verdict(kid, now_unix) {
            return verdict;
        }
        let Some(_slot) = self.want(kid) else { return Err(NoKey::Unavailable) };
        let deadline = tokio::time::sleep(self.inner.settings.wait);
        tokio::pin!(deadline);
        loop {
            tokio::select! {
                () = &mut deadline => return Err(NoKey::Unavailable),
                () = &mut settled => {}
            }
            settled.set(self.inner.settled.notified());
            settled.as_mut().enable();
            if let Some(verdict) = self.verdict(kid, now_unix) {
                return verdict;
            }
        }
    }

    fn verdict(&self, kid: &str, now_unix: i64) -> Option<Result<DecodingKey, NoKey>> {
        let state = self.state();
        if let Some(known) = state.known.get(kid) {
            let expired = known.jwk.expired_at.is_some_and(|at| at <= now_unix);
            return Some(if expired { Err(NoKey::Expired) } else { Ok(known.key.clone()) });
        }
        let absent = state.absent.get(kid).is_some_and(|since| since.elapsed() < self.inner.settings.absent_for);
        absent.then_some(Err(NoKey::Unknown))
    }

    /// Counts a request for an unknown key. None when enough requests wait already; the count is kept all the same.
    fn want(&self, kid: &str) -> Option<Waiting<'_>> {
        let mut state = self.state();
        if state.in_flight.as_deref() != Some(kid) {
            if !state.wanted.contains_key(kid) && state.wanted.len() >= MAX_WANTED {
                let least = state.wanted.iter().min_by_key(|(_, w)| (w.requests, w.since)).map(|(k, _)| k.clone());
                if let Some(least) = least {
                    state.wanted.remove(&least);
                }
            }
            let want = state.wanted.entry(kid.to_owned()).or_insert(Want { requests: 0, since: Instant::now() });
            want.requests += 1;
            self.inner.wanted.notify_one();
        }
        if state.waiting >= self.inner.settings.max_waiting {
            return None;
        }
        state.waiting += 1;
        Some(Waiting { keys: self })
    }

    /// Looks up what is wanted and refreshes what grows old, until `stop`.
    pub async fn run(&self, stop: CancellationToken) {
        let one = NonZeroU32::MIN;
        let quota = Quota::per_minute(NonZeroU32::new(self.inner.settings.lookups_per_minute).unwrap_or(one))
            .allow_burst(NonZeroU32::new(self.inner.settings.lookup_burst).unwrap_or(one));
        let budget = RateLimiter::direct(quota);
        let mut refresh = tokio::time::interval((self.inner.settings.refresh_after / 4).max(Duration::from_millis(50)));
        refresh.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = refresh.tick() => self.refresh().await,
                () = self.inner.wanted.notified() => {
                    while !self.state().wanted.is_empty() {
                        tokio::select! {
                            () = stop.cancelled() => return,
                            // In here too: a flood must not keep a retired key trusted.
                            _ = refresh.tick() => self.refresh().await,
                            () = budget.until_ready() => self.look_up_most_wanted().await,
                        }
                    }
                }
            }
        }
    }

    /// Chosen only now that the budget allows it, so that a key that became popular meanwhile goes first.
    async fn look_up_most_wanted(&self) {
        let kid = {
            let mut state = self.state();
            let most = state.wanted.iter().max_by_key(|(_, w)| (w.requests, std::cmp::Reverse(w.since)));
            let Some(kid) = most.map(|(k, _)| k.clone()) else { return };
            state.wanted.remove(&kid);
            state.in_flight = Some(kid.clone());
            kid
        };
        let answer = self.ask(&kid).await;
        self.settle(&kid, answer);
        self.report();
    }

    async fn ask(&self, kid: &str) -> Result<Option<Jwk>, crate::Error> {
        let answer = self.inner.client.verification_key(kid).await;
        let result = match &answer {
            Ok(Some(jwk)) if jwk.kid == kid && key(jwk).is_some() => "found",
            Ok(Some(_)) => "unusable",
            Ok(None) => "absent",
            Err(_) => "failed",
        };
        metrics::counter!(metric::WEBHOOK_KEY_LOOKUPS, "result" => result).increment(1);
        answer
    }

    fn is_stale(&self, known: &Known) -> bool {
        known.fetched.is_none_or(|at| at.elapsed() >= self.inner.settings.refresh_after)
    }

    fn report(&self) {
        let state = self.state();
        let stale = state.known.values().filter(|k| self.is_stale(k)).count();
        metrics::gauge!(metric::WEBHOOK_KEYS, "state" => "stale").set(stale as f64);
        metrics::gauge!(metric::WEBHOOK_KEYS, "state" => "fresh").set((state.known.len() - stale) as f64);
    }

    fn settle(&self, kid: &str, answer: Result<Option<Jwk>, crate::Error>) {
        let mut changed = false;
        {
            let mut state = self.state();
            state.in_flight = None;
            match answer {
                Ok(Some(jwk)) if jwk.kid == kid => match usable(jwk) {
                    Some(known) => {
                        state.known.insert(kid.to_owned(), known);
                        changed = true;
                    }
                    None => tracing::warn!(kid, "Plaid sent a verification key that is not ES256 on P-256"),
                },
                Ok(Some(_)) => tracing::warn!(kid, "Plaid answered with another key than the one asked for"),
                Ok(None) => {
                    if state.absent.len() >= MAX_ABSENT {
                        let oldest = state.absent.iter().min_by_key(|(_, since)| **since).map(|(k, _)| k.clone());
                        oldest.map(|k| state.absent.remove(&k));
                    }
                    changed = state.known.remove(kid).is_some();
                    state.absent.insert(kid.to_owned(), Instant::now());
                }
                Err(error) => tracing::warn!(%error, kid, "a verification key could not be looked up"),
            }
        }
        self.inner.settled.notify_waiters();
        if changed {
            self.save();
        }
    }

    async fn refresh(&self) {
        let old: Vec<String> =
            self.state().known.iter().filter(|(_, k)| self.is_stale(k)).map(|(kid, _)| kid.clone()).collect();
        for kid in old {
            match self.ask(&kid).await {
                // Still used while the endpoint is dark: an outage there must not stop webhooks.
                Err(error) => tracing::warn!(%error, kid, "a verification key could not be refreshed and stays in use"),
                answer => self.settle(&kid, answer),
            }
        }
        self.report();
    }

    fn save(&self) {
        let Some(path) = &self.inner.settings.file else { return };
        let keys: Vec<Jwk> = self.state().known.values().map(|k| k.jwk.clone()).collect();
        let written = serde_json::to_vec_pretty(&keys).map_err(std::io::Error::other).and_then(|bytes| {
            // Renamed into place: a crash leaves the old file or the new one, never half of one.
            let part = path.with_extension("part");
            std::fs::write(&part, bytes)?;
            std::fs::rename(&part, path)
        });
        if let Err(error) = written {
            tracing::warn!(%error, path = %path.display(), "verification keys could not be saved");
        }
    }
}

struct Waiting<'a> {
    keys: &'a Keys,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.keys.state().waiting -= 1;
    }
}

fn usable(jwk: Jwk) -> Option<Known> {
    let key = key(&jwk)?;
    Some(Known { jwk, key, fetched: Some(Instant::now()) })
}

/// None unless it is ES256 on P-256.
fn key(jwk: &Jwk) -> Option<DecodingKey> {
    let fits = jwk.kty == "EC" && jwk.crv == "P-256" && jwk.alg == "ES256";
    fits.then(|| DecodingKey::from_ec_components(&jwk.x, &jwk.y).ok()).flatten()
}

fn load(settings: &KeySettings) -> HashMap<String, Known> {
    let Some(path) = &settings.file else { return HashMap::new() };
    let keys: Vec<Jwk> = match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
            tracing::warn!(%error, path = %path.display(), "the file of verification keys can't be read and is ignored");
            Vec::new()
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => {
            tracing::warn!(%error, path = %path.display(), "the file of verification keys can't be opened");
            Vec::new()
        }
    };
    let known = keys.into_iter().filter_map(|jwk| {
        let kid = jwk.kid.clone();
        usable(jwk).map(|k| (kid, Known { fetched: None, ..k }))
    });
    known.collect()
}
