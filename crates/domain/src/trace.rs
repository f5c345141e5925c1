//! W3C trace context: one id from the webhook through Kafka to the PUT, so that logs of several processes join up.

use rand::{Rng, RngExt};

/// A `traceparent` header value: version 00, trace id, parent id, flags.
/// See <https://www.w3.org/TR/trace-context/#traceparent-header>.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceParent {
    trace: u128,
    span: u64,
    sampled: bool,
}

impl TraceParent {
    /// Names a trace that nobody records: it joins log lines up and nothing else.
    pub fn new(rng: &mut impl Rng) -> Self {
        // All-zero ids are invalid in the standard.
        Self { trace: rng.random_range(1..=u128::MAX), span: rng.random_range(1..=u64::MAX), sampled: false }
    }

    /// Trace id, parent id, and whether the parent is recorded. None: an id of zeros is invalid.
    pub fn from_parts(trace: u128, span: u64, sampled: bool) -> Option<Self> {
        (trace != 0 && span != 0).then_some(Self { trace, span, sampled })
    }

    /// The trace's id, the parent span's id, and whether it is sampled.
    pub fn parts(&self) -> (u128, u64, bool) {
        (self.trace, self.span, self.sampled)
    }

    /// Anything unreadable starts a new trace instead of failing the work it only labels.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        if version != "00" || trace.len() != 32 || span.len() != 16 || flags.len() != 2 || parts.next().is_some() {
            return None;
        }
        let (trace, span) = (u128::from_str_radix(trace, 16).ok()?, u64::from_str_radix(span, 16).ok()?);
        // The other flags are reserved, and a reader must not mind them.
        Self::from_parts(trace, span, u8::from_str_radix(flags, 16).ok()? & 1 == 1)
    }

    /// 32 hexadecimal digits.
    pub fn trace_id(&self) -> String {
        format!("{:032x}", self.trace)
    }
}

impl std::fmt::Display for TraceParent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace, self.span, u8::from(self.sampled))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_survives_the_trip_and_garbage_does_not() {
        let made = TraceParent::new(&mut rand::rng());
        assert_eq!(TraceParent::parse(&made.to_string()), Some(made));
        let parse = |version, trace, span, rest| TraceParent::parse(&format!("{version}-{trace}-{span}-{rest}"));
        let (t, s) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
        assert_eq!(parse("00", t, s, "01").unwrap().trace_id(), t);
        for (flags, sampled) in [("00", false), ("01", true), ("02", false), ("ff", true)] {
            let parsed = parse("00", t, s, flags).unwrap();
            assert_eq!(parsed.parts().2, sampled, "{flags}");
            assert_eq!(parsed.to_string(), format!("00-{t}-{s}-0{}", u8::from(sampled)), "{flags}");
        }
        let table = [
            ("another version", "01", t, s, "01"),
            ("a short trace", "00", &t[1..], s, "01"),
            ("a short span", "00", t, &s[1..], "01"),
            ("short flags", "00", t, s, "1"),
            ("no flags", "00", t, s, "0z"),
            ("a fifth part", "00", t, s, "01-01"),
            ("no trace", "00", "00000000000000000000000000000000", s, "01"),
            ("no span", "00", t, "0000000000000000", "01"),
            ("no number", "00", t, "b7ad6b716920333z", "01"),
        ];
        for (claim, version, trace, span, rest) in table {
            assert_eq!(parse(version, trace, span, rest), None, "{claim}");
        }
        assert_eq!(TraceParent::parse("zz"), None);
    }
}
