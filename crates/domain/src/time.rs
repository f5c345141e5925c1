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

/// How long it has been at `now`, or will be until then, for people: `3min`, `in 20s`. None: that is no point in time.
pub fn age(at: &str, now: jiff::Timestamp) -> Option<String> {
    let then: jiff::Timestamp = at.parse().ok()?;
    let seconds = now.as_second() - then.as_second();
    let told = span(seconds.unsigned_abs());
    Some(if seconds < 0 { format!("in {told}") } else { told })
}

/// Seconds in the largest unit of which there are at least two.
pub fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}min", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
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
    fn ages_are_short() {
        let now = "2026-01-02T00:00:00Z".parse().unwrap();
        for (at, told) in [
            ("2026-01-01T23:59:01Z", Some("59s")),
            ("2026-01-01T23:57:00Z", Some("3min")),
            ("2026-01-01T20:59:00Z", Some("3h")),
            ("2025-12-24T00:00:00Z", Some("9d")),
            ("2026-01-02T00:00:20Z", Some("in 20s")),
            ("soon", None),
        ] {
            assert_eq!(age(at, now).as_deref(), told, "{at}");
        }
    }

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
