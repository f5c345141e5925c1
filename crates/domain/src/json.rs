//! JSON as it really comes.

use std::borrow::Cow;

/// The same text, with escaped surrogates that stand alone replaced by the replacement character. Some writers cut a text
/// in the middle of a pair (`"Caf\ud83d"`), which no JSON reader for Rust's strings takes, and one odd name would cost the
/// whole document.
pub fn mend(text: &[u8]) -> Cow<'_, [u8]> {
    let mut mended: Option<Vec<u8>> = None;
    let (mut at, mut copied) = (0, 0);
    while let Some(slash) = text[at..].iter().position(|b| *b == b'\\').map(|n| at + n) {
        let Some(unit) = escaped_unit(text, slash) else {
            // The character behind the backslash belongs to it, another backslash above all.
            at = (slash + 2).min(text.len());
            continue;
        };
        let is_low = |unit: u16| (0xdc00..=0xdfff).contains(&unit);
        let paired = (0xd800..=0xdbff).contains(&unit) && escaped_unit(text, slash + 6).is_some_and(is_low);
        at = slash + if paired { 12 } else { 6 };
        if !paired && (0xd800..=0xdfff).contains(&unit) {
            let out = mended.get_or_insert_with(|| Vec::with_capacity(text.len()));
            out.extend_from_slice(&text[copied..slash]);
            out.extend_from_slice(b"\\ufffd");
            copied = at;
        }
    }
    match mended {
        None => Cow::Borrowed(text),
        Some(mut out) => {
            out.extend_from_slice(&text[copied..]);
            Cow::Owned(out)
        }
    }
}

/// The UTF-16 unit of an escape `\uXXXX` that begins there.
fn escaped_unit(text: &[u8], at: usize) -> Option<u16> {
    let digits = text.get(at..at + 6)?.strip_prefix(b"\\u")?;
    // `from_str_radix` would take a sign.
    let digits = std::str::from_utf8(digits).ok().filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()))?;
    u16::from_str_radix(digits, 16).ok()
}

/// What people read of a provider: a text without what databases refuse, or a number as it is written.
pub fn shown(value: &serde_json::Value) -> Option<String> {
    /// Longer than any name of an account that we know.
    const LONGEST: usize = 512;
    match value {
        serde_json::Value::String(text) => {
            let clean = text.chars().take(LONGEST).map(|c| if c.is_control() { '\u{fffd}' } else { c });
            Some(clean.collect())
        }
        serde_json::Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn only_surrogates_that_stand_alone_are_replaced() {
        let table = [
            (r#""Caf\ud83d""#, Some("Caf\u{fffd}")),
            (r#""\ud83d\ude00""#, Some("😀")),
            (r#""\ude00\ud83d""#, Some("\u{fffd}\u{fffd}")),
            (r#""\ud83d\ud83d\ude00""#, Some("\u{fffd}😀")),
            (r#""\\ud83d""#, Some(r"\ud83d")),
            (r#""\\\ud83d""#, Some("\\\u{fffd}")),
            (r#""plain""#, Some("plain")),
            (r#""\ud8""#, None),
            (r#""\u+d83""#, None),
            (r#""\"#, None),
        ];
        for (text, expected) in table {
            let read = serde_json::from_slice::<String>(&mend(text.as_bytes())).ok();
            assert_eq!(read.as_deref(), expected, "{text}");
        }
        assert!(matches!(mend(br#"{"a": "\u00e9"}"#), Cow::Borrowed(_)));
    }

    #[test]
    fn what_people_read_is_taken_as_it_comes() {
        let table = [
            (json!("Joint\u{0}Checking"), Some("Joint\u{fffd}Checking")),
            (json!(4321), Some("4321")),
            (json!(null), None),
            (json!(["x"]), None),
        ];
        for (value, expected) in table {
            assert_eq!(shown(&value).as_deref(), expected, "{value}");
        }
    }

    proptest! {
        #[test]
        fn what_can_be_read_is_left_alone(text in "\\PC*") {
            let written = serde_json::to_vec(&text).unwrap();
            prop_assert_eq!(mend(&written), Cow::Borrowed(&written[..]));
        }
        #[test]
        fn any_bytes_are_mended_without_a_panic(text in proptest::collection::vec(any::<u8>(), 0..64)) {
            mend(&text);
        }
    }
}
