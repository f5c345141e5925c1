//! Webhook verification keys: known ones are used even while Plaid's key endpoint is dark, unknown ones cost little.
//!
//! The `kid` of a webhook is chosen by whoever sends it, so looking up each unknown one would make us an amplifier
//! against an endpoint of unknown limits. One worker looks up one key at a time, under two budgets:
//!
//! - *again*, for a `kid` that came in at least two different seconds. Plaid sends a webhook that was not taken again, under
//!   the same key, so a genuine one is seen twice within a minute; forged ones, drawn at random, are not.
//! - *first*, for a `kid` seen once, the newest first, because its caller is still waiting.
//!
//! A flood of forged ones spends the budget *first* and never *again*. To spend that as well, an attacker needs a
//! new `kid` for each look-up, and each is then believed to be absent. What to *ask* needs no trust; what to use
//! comes from Plaid alone. A webhook that has waited longer than [`KeySettings::wait`] gets no verdict, and is answered 503,
//! not 401.

use crate::KeySettings;
use crate::client::{Client, Jwk};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ParsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use domain::metric;
use governor::{Quota, RateLimiter};
use parking_lot::{Mutex, MutexGuard};
use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Unknown `kid`s remembered at once, forged ones included: some minutes of eighty a second.
const MAX_SEEN: usize = 16_384;
/// A `kid` that nobody sent for so long is forgotten.
const SEEN_FOR: Duration = Duration::from_mins(10);
/// How long those who want a key are gathered before the next look-up is chosen.
const GATHER: Duration = Duration::from_millis(20);
const MAX_SETTLED: usize = 1024;
/// How long a failed look-up is not repeated, doubled with each failure.
const FAILED_FOR: Duration = Duration::from_secs(2);

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
    key: Arc<ParsedPublicKey>,
    /// None when it came from the file and has not been confirmed since.
    fetched: Option<Instant>,
}

#[derive(Default)]
struct State {
    known: HashMap<String, Known>,
    /// What Plaid answered about others, and until when that holds.
    settled: HashMap<String, Settled>,
    /// Unknown `kid`s that came, to be looked up.
    seen: HashMap<String, Seen>,
    in_flight: Option<String>,
    waiting: usize,
}

#[derive(Clone, Copy)]
struct Settled {
    until: Instant,
    verdict: NoKey,
    /// Look-ups in a row that failed.
    failures: u32,
}

struct Seen {
    /// Different seconds in which it came.
    times: u32,
    last: Instant,
}

impl Seen {
    fn came_again(&self) -> bool {
        self.times >= 2
    }
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
    /// Begins with the keys of `settings.file`. Look-ups need [`Keys::run`].
    pub fn new(client: Client, settings: KeySettings) -> Self {
        let state = State { known: load(&settings), ..State::default() };
        let inner = Inner { client, settings, state: Mutex::new(state), wanted: Notify::new(), settled: Notify::new() };
        Self { inner: Arc::new(inner) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock()
    }

    /// The key for `kid`, from the cache or, within the budget, from Plaid.
    pub(crate) async fn get(&self, kid: &str, now_unix: i64) -> Result<Arc<ParsedPublicKey>, NoKey> {
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

    fn verdict(&self, kid: &str, now_unix: i64) -> Option<Result<Arc<ParsedPublicKey>, NoKey>> {
        let state = self.state();
        if let Some(known) = state.known.get(kid) {
            let expired = known.jwk.expired_at.is_some_and(|at| at <= now_unix);
            return Some(if expired { Err(NoKey::Expired) } else { Ok(known.key.clone()) });
        }
        let settled = state.settled.get(kid).filter(|s| Instant::now() < s.until)?;
        Some(Err(settled.verdict))
    }

    pub(crate) fn knows(&self, kid: &str) -> bool {
        self.state().known.contains_key(kid)
    }

    /// Notes that an unknown key came. None when enough requests wait already; the note is kept all the same.
    fn want(&self, kid: &str) -> Option<Waiting<'_>> {
        let mut state = self.state();
        let now = Instant::now();
        if state.in_flight.as_deref() != Some(kid) {
            match state.seen.get_mut(kid) {
                // Once a second at the most: who sends one often within a moment proves nothing by it.
                Some(seen) if now.duration_since(seen.last) >= Duration::from_secs(1) => {
                    (seen.times, seen.last) = (seen.times.saturating_add(1), now);
                }
                Some(_) => {}
                None => {
                    if state.seen.len() >= MAX_SEEN {
                        state.seen.retain(|_, seen| now.duration_since(seen.last) < SEEN_FOR);
                    }
                    if state.seen.len() >= MAX_SEEN {
                        // Those that came once are as good as nothing; all of them go, which is cheaper than one at a time.
                        state.seen.retain(|_, seen| seen.came_again());
                    }
                    if state.seen.len() >= MAX_SEEN {
                        // Forged ones that come twice must not keep a genuine one out: it comes again.
                        state.seen.clear();
                    }
                    state.seen.insert(kid.to_owned(), Seen { times: 1, last: now });
                }
            }
            self.inner.wanted.notify_one();
        }
        // A genuine key that comes again must not find every place taken by forged ones.
        let came_again = state.seen.get(kid).is_some_and(Seen::came_again);
        let places = if came_again { 2 } else { 1 } * self.inner.settings.max_waiting;
        if state.waiting >= places {
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
        let (first, again) = (RateLimiter::direct(quota), RateLimiter::direct(quota));
        let mut refresh = tokio::time::interval((self.inner.settings.refresh_after / 4).max(Duration::from_millis(50)));
        refresh.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = refresh.tick() => self.refresh().await,
                // Every look at what was seen goes over all of it, under the lock that each webhook takes: not one for each
                // forged request.
                () = self.inner.wanted.notified() => tokio::time::sleep(GATHER).await,
                // A budget fills up again, and nobody need come for it.
                () = tokio::time::sleep(Duration::from_millis(250)), if !self.state().seen.is_empty() => {}
            }
            while let Some(kid) = self.next(true).filter(|_| again.check().is_ok()) {
                self.look_up(kid).await;
            }
            if let Some(kid) = self.next(false).filter(|_| first.check().is_ok()) {
                self.look_up(kid).await;
                // Others may have come meanwhile.
                self.inner.wanted.notify_one();
            }
        }
    }

    /// Which key is looked up next of those that came again, or of those that came once: the one that came most often, and of
    /// those the latest.
    fn next(&self, again: bool) -> Option<String> {
        let mut state = self.state();
        let now = Instant::now();
        state.seen.retain(|_, seen| now.duration_since(seen.last) < SEEN_FOR);
        let failed = |kid: &str| state.settled.get(kid).is_some_and(|s| now < s.until);
        let of_lane = state.seen.iter().filter(|(kid, seen)| seen.came_again() == again && !failed(kid));
        of_lane.max_by_key(|(_, seen)| (seen.times, seen.last)).map(|(kid, _)| kid.clone())
    }

    async fn look_up(&self, kid: String) {
        {
            let mut state = self.state();
            state.seen.remove(&kid);
            state.in_flight = Some(kid.clone());
        }
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
            let absent_for = self.inner.settings.absent_for;
            let settled = match answer {
                Ok(Some(jwk)) if jwk.kid == kid => match usable(jwk) {
                    Some(known) => {
                        state.known.insert(kid.to_owned(), known);
                        changed = true;
                        None
                    }
                    None => {
                        tracing::warn!(kid, "Plaid sent a verification key that is not ES256 on P-256");
                        Some((NoKey::Unavailable, absent_for))
                    }
                },
                Ok(Some(_)) => {
                    tracing::warn!(kid, "Plaid answered with another key than the one asked for");
                    Some((NoKey::Unavailable, absent_for))
                }
                Ok(None) => {
                    changed = state.known.remove(kid).is_some();
                    Some((NoKey::Unknown, absent_for))
                }
                Err(error) => {
                    tracing::warn!(%error, kid, "a verification key could not be looked up");
                    let failures = state.settled.get(kid).map_or(0, |s| s.failures).min(5);
                    Some((NoKey::Unavailable, FAILED_FOR * 2u32.pow(failures)))
                }
            };
            match settled {
                None => drop(state.settled.remove(kid)),
                Some((verdict, holds)) => {
                    if state.settled.len() >= MAX_SETTLED {
                        let oldest = state.settled.iter().min_by_key(|(_, s)| s.until).map(|(k, _)| k.clone());
                        oldest.map(|k| state.settled.remove(&k));
                    }
                    let failures = state.settled.get(kid).map_or(0, |s| s.failures) + 1;
                    let until = Instant::now() + holds;
                    state.settled.insert(kid.to_owned(), Settled { until, verdict, failures });
                }
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
        let path = &self.inner.settings.file;
        if path.as_os_str().is_empty() {
            return;
        }
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
fn key(jwk: &Jwk) -> Option<Arc<ParsedPublicKey>> {
    // An uncompressed point: 4, x and y, https://www.rfc-editor.org/rfc/rfc7518#section-6.2.1
    let mut point = vec![4];
    for coordinate in [&jwk.x, &jwk.y] {
        point.extend(URL_SAFE_NO_PAD.decode(coordinate).ok().filter(|bytes| bytes.len() == 32)?);
    }
    let fits = jwk.kty == "EC" && jwk.crv == "P-256" && jwk.alg == "ES256";
    let parsed = fits.then(|| ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).ok()).flatten()?;
    Some(Arc::new(parsed))
}

fn load(settings: &KeySettings) -> HashMap<String, Known> {
    let path = &settings.file;
    if path.as_os_str().is_empty() {
        return HashMap::new();
    }
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
