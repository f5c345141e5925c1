//! How long to wait before the next try: the curve. Which curve a row is on is decided in the consumer (`context.rs`), and what a
//! provider's `Retry-After` adds in its `refusals.rs`.
//!
//! The curve comes from the `backoff` crate. It is no longer maintained (RUSTSEC-2025-0012) but was a requirement; this
//! module is its only user, so replacing it is one file. Its own jitter and clock are not used: jitter comes from the
//! injected generator, so that a seed repeats a run.

use backoff::backoff::Backoff as _;
use backoff::{ExponentialBackoff, ExponentialBackoffBuilder};
use rand::{Rng, RngExt};
use std::time::Duration;

/// The shape of a backoff: first wait, longest wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Curve {
    pub first: Duration,
    pub cap: Duration,
}

impl Curve {
    /// The wait after `failures` failures in a row, doubled each time up to the cap, with "equal" jitter:
    /// between half of it and all of it, so that rows which failed together do not come back together.
    pub fn wait(&self, failures: u32, rng: &mut impl Rng) -> Duration {
        let mut curve = self.exponential();
        let mut wait = self.first;
        // The curve has reached any sensible cap long before 64 doublings.
        for _ in 0..failures.clamp(1, 64) {
            wait = curve.next_backoff().unwrap_or(self.cap).min(self.cap);
        }
        wait.mul_f64(rng.random_range(0.5..=1.0))
    }

    fn exponential(&self) -> ExponentialBackoff {
        ExponentialBackoffBuilder::new()
            .with_initial_interval(self.first)
            .with_multiplier(2.0)
            .with_randomization_factor(0.0)
            .with_max_interval(self.cap)
            .with_max_elapsed_time(None)
            .build()
    }
}

/// Waits for in-process retries (a broker or database that is away): one step per call, reset on success.
#[derive(Debug)]
pub struct Retries {
    curve: Curve,
    failures: u32,
}

impl Retries {
    /// No failure yet.
    pub fn new(curve: Curve) -> Self {
        Self { curve, failures: 0 }
    }
    /// It went well: the next wait is the first again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
    /// How many in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }
    /// Counts one more failure, and says how long to wait after it.
    pub fn next_wait(&mut self, rng: &mut impl Rng) -> Duration {
        self.failures = self.failures.saturating_add(1);
        self.curve.wait(self.failures, rng)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng;

    proptest! {
        #[test]
        fn a_wait_grows_is_capped_and_repeats_under_a_seed(failures in 1u32..200, seed: u64) {
            let curve = Curve { first: Duration::from_millis(100), cap: Duration::from_secs(60) };
            let wait = |s| curve.wait(failures, &mut rand::rngs::StdRng::seed_from_u64(s));
            let full = Duration::from_millis(100).mul_f64(2f64.powi(failures.min(30) as i32 - 1)).min(curve.cap);
            prop_assert!(wait(seed) <= full && wait(seed) >= full.mul_f64(0.49));
            prop_assert_eq!(wait(seed), wait(seed));
        }
    }

    #[test]
    fn success_starts_the_curve_again() {
        let mut rng = rand::rng();
        let mut retries = Retries::new(Curve { first: Duration::from_secs(1), cap: Duration::from_secs(64) });
        for _ in 0..5 {
            retries.next_wait(&mut rng);
        }
        assert!(retries.next_wait(&mut rng) > Duration::from_secs(10));
        assert_eq!(retries.failures(), 6);
        retries.reset();
        assert_eq!(retries.failures(), 0);
        assert!(retries.next_wait(&mut rng) <= Duration::from_secs(1));
    }
}
