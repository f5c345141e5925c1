//! Points in time as the database counts them.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Milliseconds since the Unix epoch, in database time unless a name says otherwise.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Millis(pub i64);

impl Millis {
    /// Later; the end of time at most.
    pub fn plus(self, wait: Duration) -> Self {
        Self(self.0.saturating_add(millis(wait)))
    }
    /// Earlier; the beginning of time at least.
    pub fn minus(self, wait: Duration) -> Self {
        Self(self.0.saturating_sub(millis(wait)))
    }
    /// Time from `earlier` until `self`, zero when `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
    /// For people and for JSON.
    pub fn rfc3339(self) -> String {
        jiff::Timestamp::from_millisecond(self.0).map_or_else(|_| "out-of-range".into(), |t| t.to_string())
    }
}

/// A duration in whole milliseconds, as the databases store it.
pub fn millis(wait: Duration) -> i64 {
    i64::try_from(wait.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_ends_at_its_edges_instead_of_wrapping() {
        let (second, now) = (Duration::from_secs(1), Millis(1_700_000_000_000));
        assert_eq!((now.plus(second).0 - now.0, now.0 - now.minus(second).0), (1000, 1000));
        assert_eq!((now.plus(second).since(now), now.since(now.plus(second))), (second, Duration::ZERO));
        assert_eq!(
            (Millis(0).plus(Duration::MAX), Millis(i64::MIN).minus(second)),
            (Millis(i64::MAX), Millis(i64::MIN))
        );
        assert_eq!(now.rfc3339(), "2023-11-14T22:13:20Z");
        assert_eq!(Millis(i64::MAX).rfc3339(), "out-of-range");
    }
}
