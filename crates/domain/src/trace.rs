//! W3C trace context: one id from the webhook through Kafka to the PUT, so that logs of several processes join up.

use rand::{Rng, RngExt};

/// A `traceparent` header value: version 00, trace id, parent id, flags.
/// See <https://www.w3.org/TR/trace-context/#traceparent-header>.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceParent {
    trace: u128,
    span: u64,
}

impl TraceParent {
    pub fn new(rng: &mut impl Rng) -> Self {
        // All-zero ids are invalid in the standard.
        Self { trace: rng.random_range(1..=u128::MAX), span: rng.random_range(1..=u64::MAX) }
    }

    /// Anything unreadable starts a new trace instead of failing the work it only labels.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        if version != "00" || trace.len() != 32 || span.len() != 16 || flags.len() != 2 || parts.next().is_some() {
            return None;
        }
        let (trace, span) = (u128::from_str_radix(trace, 16).ok()?, u64::from_str_radix(span, 16).ok()?);
        (trace != 0 && span != 0).then_some(Self { trace, span })
    }

    pub fn trace_id(&self) -> String {
        format!("{:032x}", self.trace)
    }
}

impl std::fmt::Display for TraceParent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "00-{:032x}-{:016x}-01", self.trace, self.span)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_survives_the_trip_and_garbage_does_not() {
        let made = TraceParent::new(&mut rand::rng());
        assert_eq!(TraceParent::parse(&made.to_string()), Some(made));
        for bad in ["", "00-0-0-01", "00-00000000000000000000000000000000-0000000000000001-01", "zz"] {
            assert_eq!(TraceParent::parse(bad), None, "{bad}");
        }
    }
}
