//! A fault that may repeat ten thousand times, in few log lines: one when it begins, one now and then with a count, one when
//! it is over.

use parking_lot::Mutex;
use std::time::{Duration, Instant};

/// Between two lines of one outage.
const EVERY: Duration = Duration::from_mins(1);
/// Over after this long without a failure. If shorter, a fault that hits every other call would begin and end all the time.
const OVER_AFTER: Duration = Duration::from_secs(5);

/// One kind of fault.
#[derive(Debug, Default)]
pub struct Outage {
    going_on: Mutex<Option<GoingOn>>,
}

#[derive(Debug)]
struct GoingOn {
    began: Instant,
    last: Instant,
    told: Instant,
    untold: u64,
    times: u64,
}

/// An outage that is over.
#[derive(Debug, PartialEq, Eq)]
pub struct Over {
    pub lasted: Duration,
    pub times: u64,
}

impl Outage {
    /// Once more. Some: write a line, which stands for so many failures.
    pub fn failed(&self, now: Instant) -> Option<u64> {
        let mut going_on = self.going_on.lock();
        let Some(on) = going_on.as_mut() else {
            *going_on = Some(GoingOn { began: now, last: now, told: now, untold: 0, times: 1 });
            return Some(1);
        };
        on.last = now;
        on.times += 1;
        on.untold += 1;
        if now.duration_since(on.told) < EVERY {
            return None;
        }
        on.told = now;
        Some(std::mem::take(&mut on.untold))
    }

    /// It went well. Some: an outage ended with that.
    pub fn went_well(&self, now: Instant) -> Option<Over> {
        let mut going_on = self.going_on.lock();
        let over = going_on.take_if(|on| now.duration_since(on.last) >= OVER_AFTER)?;
        Some(Over { lasted: over.last.duration_since(over.began), times: over.times })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_thousand_failures_are_few_lines() {
        let (outage, began) = (Outage::default(), Instant::now());
        let at = |seconds: u64| began + Duration::from_secs(seconds);
        assert_eq!(outage.went_well(at(0)), None, "nothing had begun");
        let lines: Vec<u64> = (0..10_000).filter_map(|n| outage.failed(at(n / 50))).collect();
        assert_eq!(lines, [1, 3000, 3000, 3000], "200 seconds");
        assert_eq!(outage.went_well(at(203)), None, "every other call fails");
        assert_eq!(outage.failed(at(203)), None);
        let over = Over { lasted: Duration::from_secs(203), times: 10_001 };
        assert_eq!(outage.went_well(at(208)), Some(over));
        assert_eq!(outage.went_well(at(209)), None, "said once");
        assert_eq!(outage.failed(at(210)), Some(1), "a new one");
    }
}
