//! What a provider's refusal means for the work at hand.

use crate::words::words;
use std::time::Duration;

words!(
    /// The two providers whose work can be paused.
    Provider { Plaid => "plaid", Layer => "layer" }
);

/// The answer to the only question a caller has about a fault: what next?
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Passing: try again, not before `after` when the provider named a time.
    Retry { after: Option<Duration> },
    /// More calls than the provider allows: everybody calls less often, and this row tries again.
    SlowDown { after: Option<Duration> },
    /// Credentials or configuration are refused. Whether that is the provider or this row alone is decided by a
    /// probe and by how many unrelated rows agree (I4).
    Suspect,
    /// Nobody knows what it means: tried again ever more slowly, up to hours.
    Slowly,
    /// This row alone can't be done, and trying again would change nothing.
    Park,
}

impl Next {
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Retry { .. } => "retry",
            Self::SlowDown { .. } => "slow_down",
            Self::Suspect => "suspect",
            Self::Slowly => "unknown",
            Self::Park => "park",
        }
    }
}

/// Several unrelated rows agree that the provider, not the row, is refused.
///
/// `distinct_rows` counts the rows refused for the same fault within the window, this one included.
pub fn provider_is_at_fault(probe_refused: Option<bool>, distinct_rows: u64, agree: u64) -> bool {
    probe_refused == Some(true) || distinct_rows >= agree
}

/// An error with its causes, for one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let said = inner.to_string();
        // Some errors say their cause themselves.
        if !text.ends_with(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i4_one_row_never_pauses_the_fleet_and_one_broken_credential_never_parks_it() {
        let table = [
            ("probe refused: the provider", Some(true), 1, true),
            ("probe answered: the row alone", Some(false), 1, false),
            ("no probe: the row alone", None, 2, false),
            ("several rows agree against the probe", Some(false), 3, true),
            ("several rows agree", None, 3, true),
        ];
        for (claim, probe, rows, paused) in table {
            assert_eq!(provider_is_at_fault(probe, rows, 3), paused, "{claim}");
        }
    }

    #[test]
    fn an_error_names_its_causes_down_to_the_first() {
        #[derive(Debug, thiserror::Error)]
        #[error("{0}")]
        struct Layered(&'static str, #[source] Option<Box<Layered>>);
        let error = Layered("no list", Some(Box::new(Layered("no answer", Some(Box::new(Layered("no route", None)))))));
        assert_eq!(chain(&error), "no list: no answer: no route");
        let repeated = Layered("no list: no answer", Some(Box::new(Layered("no answer", None))));
        assert_eq!(chain(&repeated), "no list: no answer");
    }
}
