//! Replaces secrets in a webhook's JSON by fingerprints before it may leave the receiver (I3).
//!
//! [`redact`] works on the text: what nobody reads passes as it came, whatever its depth, the size of its numbers, or the
//! state of its surrogates. A tree of values would limit the depth, round the numbers and refuse the surrogates.

use crate::Fingerprinter;
use std::borrow::Cow;

/// Fields whose whole value is a secret although their names do not end like those of [`is_secret`].
const SECRET_FIELDS: [&str; 2] = ["connection_external_id", "authorization"];

/// Plaid names what is secret by what it is: `access_token`, `public_tokens`, `client_secret`, and what comes next year.
fn is_secret(name: &str) -> bool {
    let ends_with = |end: &str| {
        let start = name.len().checked_sub(end.len());
        start.and_then(|at| name.get(at..)).is_some_and(|tail| tail.eq_ignore_ascii_case(end))
    };
    SECRET_FIELDS.iter().any(|field| name.eq_ignore_ascii_case(field))
        || ["token", "tokens", "secret", "secrets"].into_iter().any(ends_with)
}

/// The JSON text without white space between its parts, in which secret fields, and token-shaped texts at any depth, keys of
/// objects included, are replaced by their fingerprints. The text must be JSON, as a reader has found it to be.
pub fn redact(json: &str, fingerprints: &Fingerprinter) -> String {
    let mut out = String::with_capacity(json.len());
    let mut at = 0;
    // For each open object or array: whether all that is in it is secret.
    let mut open: Vec<bool> = Vec::new();
    // The value that comes next belongs to a secret field.
    let mut secret_value = false;
    while let Some(byte) = json.as_bytes().get(at).copied() {
        let hidden = secret_value || open.last().copied().unwrap_or(false);
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' => at += 1,
            b'{' | b'[' => {
                open.push(hidden);
                secret_value = false;
                out.push(char::from(byte));
                at += 1;
            }
            b'}' | b']' => {
                open.pop();
                out.push(char::from(byte));
                at += 1;
            }
            b',' => {
                secret_value = false;
                out.push(',');
                at += 1;
            }
            b':' => {
                out.push(':');
                at += 1;
            }
            b'"' => {
                let end = end_of_text(json, at);
                let text = &json[at..end];
                at = end;
                let is_key = json[at..].trim_start_matches([' ', '\t', '\r', '\n']).starts_with(':');
                let said = said(text);
                if is_key {
                    secret_value = is_secret(&said);
                    push_shown(&mut out, text, &said, fingerprints);
                } else if hidden {
                    push_text(&mut out, fingerprints.of(&said).as_str());
                    secret_value = false;
                } else {
                    push_shown(&mut out, text, &said, fingerprints);
                }
            }
            // A number, or true, false, null.
            _ => {
                let length = json[at..].find([',', '}', ']', ' ', '\t', '\r', '\n']).unwrap_or(json.len() - at);
                let literal = &json[at..at + length.max(1)];
                at += length.max(1);
                match hidden && byte != b't' && byte != b'f' && byte != b'n' {
                    true => push_text(&mut out, fingerprints.of(literal).as_str()),
                    false => out.push_str(literal),
                }
                secret_value = false;
            }
        }
    }
    out
}

/// Where the text that begins there ends, quotation marks included.
fn end_of_text(json: &str, start: usize) -> usize {
    let bytes = json.as_bytes();
    let mut at = start + 1;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    json.len()
}

/// What a text in quotation marks says.
fn said(quoted: &str) -> Cow<'_, str> {
    if !quoted.contains('\\') {
        return Cow::Borrowed(quoted.trim_matches('"'));
    }
    let mended = crate::json::mend(quoted.as_bytes());
    serde_json::from_slice::<String>(&mended).map_or_else(|_| Cow::Owned(quoted.to_owned()), Cow::Owned)
}

/// As it came, unless it shows a token.
fn push_shown(out: &mut String, quoted: &str, said: &str, fingerprints: &Fingerprinter) {
    if shows_any_token(said) {
        push_text(out, &redact_text(said, fingerprints));
    } else {
        out.push_str(quoted);
    }
}

fn push_text(out: &mut String, text: &str) {
    match serde_json::to_string(text) {
        Ok(quoted) => out.push_str(&quoted),
        Err(_) => out.push_str("\"\""),
    }
}

/// Replaces every token inside a longer text, such as an error message that quotes it.
pub fn redact_text(text: &str, fingerprints: &Fingerprinter) -> String {
    // Once, not for each token: a body may be full of them.
    let lower = text.to_ascii_lowercase();
    let (mut out, mut at) = (String::with_capacity(text.len()), 0);
    while let Some((start, end)) = find_token(&lower, at) {
        out.push_str(&text[at..start]);
        out.push_str(fingerprints.of(&text[start..end]).as_str());
        at = end;
    }
    out.push_str(&text[at..]);
    out
}

/// Whether something in the text has the shape of a token of a kind that we know. What refuses ids asks this: a platform may
/// well name a business `customer-production-` and a UUID.
pub fn shows_token(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    let mut at = 0;
    while let Some((start, end)) = find_token(&lower, at) {
        let found = &lower[start..end];
        let is_known = |before: &str| KINDS.iter().any(|kind| before.ends_with(kind));
        // Each of them: a name before the token may have one as well.
        let shows = |environment: &&str| found.match_indices(*environment).any(|(i, _)| is_known(&found[..i]));
        if ENVIRONMENTS.iter().any(shows) {
            return true;
        }
        at = end;
    }
    false
}

/// Whether something in the text has the shape of a token of whatever kind.
pub fn shows_any_token(text: &str) -> bool {
    // Most texts have no dash, and a token has one on each side of its environment.
    shows_admin_token(text) || text.contains('-') && find_token(&text.to_ascii_lowercase(), 0).is_some()
}

/// As `rekey token new` makes them.
fn shows_admin_token(text: &str) -> bool {
    let is_token = |rest: &str| rest.bytes().take_while(u8::is_ascii_hexdigit).count() >= 48;
    text.match_indices("rekey_").any(|(at, prefix)| is_token(&text[at + prefix.len()..]))
}

/// Kinds whose tokens are recognised however short they are.
const KINDS: [&str; 6] = ["access", "processor", "public", "link", "hosted", "update"];
const ENVIRONMENTS: [&str; 3] = ["-sandbox-", "-production-", "-development-"];
/// Letters and digits that a token of an unknown kind has at least: ids are as long as that, and words are not.
const LONG: usize = 16;
/// Longer than any kind that we know: `third-party-user`, `payment-profile`.
const LONGEST_KIND: usize = 64;

/// The first token from there on, in one pass over a text in lower case: words, an environment, an id. Ids of things that
/// are no secrets have the same shape and say so: `payment-id-production-…`.
fn find_token(lower: &str, from: usize) -> Option<(usize, usize)> {
    let bytes = lower.as_bytes();
    let mut at = from;
    loop {
        let dash = at + bytes.get(at..)?.iter().position(|b| *b == b'-')?;
        let Some(environment) = ENVIRONMENTS.iter().find(|e| bytes[dash..].starts_with(e.as_bytes())) else {
            at = dash + 1;
            continue;
        };
        let body = dash + environment.len();
        let of_id = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        let end = body + bytes[body..].iter().take_while(|b| of_id(b)).count();
        let before = &bytes[from.max(dash.saturating_sub(LONGEST_KIND))..dash];
        let start = dash - before.iter().rev().take_while(|b| of_id(b)).count();
        let kind = &lower[start..dash];
        let last = kind.rsplit(['-', '_']).next().unwrap_or_default();
        let known = KINDS.iter().any(|known| kind.ends_with(known)) && end > body;
        let id = &bytes[body..end];
        let is_long = id.iter().filter(|b| b.is_ascii_alphanumeric()).count() >= LONG;
        let is_word = last.bytes().any(|b| b.is_ascii_lowercase());
        if known || last != "id" && is_word && is_long && id.iter().any(u8::is_ascii_digit) {
            return Some((start, end));
        }
        // `link-sandbox-` and then a real one.
        at = body - 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn fp() -> Fingerprinter {
        Fingerprinter::new(1, &[7; 32])
    }
    fn redacted(value: &Value) -> Value {
        serde_json::from_str(&redact(&serde_json::to_string_pretty(value).unwrap(), &fp())).unwrap()
    }

    #[test]
    fn an_admin_token_is_seen_wherever_it_stands() {
        let token = format!("rekey_{}", "0a".repeat(24));
        assert!(shows_any_token(&token) && shows_any_token(&format!("because {token}.")));
        assert!(!shows_any_token("rekey_reason") && !shows_any_token("rekey_0a0a0a"));
    }

    #[test]
    fn i3_secret_fields_and_token_shapes_at_any_depth_become_fingerprints() {
        let value = json!({
            "webhook_type": "LINK", "link_token": "opaque", "public_tokens": ["a-secret", {"b": "c-secret", "n": [42.5]}],
            "deep": [{"note": "saw access-sandbox-1-2, and public-production-9."}],
            "access-production-key": 1, "Access_Token": 4711, "user_token": "opaque too", "is_token": true,
            "quoted \"token\\": "kept", "escaped_token": "a\"b,}]", "after": "kept",
        });
        let text = redacted(&value).to_string();
        for secret in [
            "opaque",
            "a-secret",
            "c-secret",
            "42.5",
            "access-sandbox",
            "public-production",
            "access-production",
            "4711",
            "a\\\"b",
        ] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
        assert!(text.contains(fp().of("access-sandbox-1-2").as_str()), "{text}");
        assert!(text.contains(fp().of("a\"b,}]").as_str()), "{text}");
        let out = redacted(&value);
        assert_eq!(
            (&out["webhook_type"], &out["after"], &out["is_token"]),
            (&json!("LINK"), &json!("kept"), &json!(true))
        );
    }

    #[test]
    fn i3_tokens_are_recognised_by_shape_whatever_their_kind() {
        let id = "00000000-0000-4000-8000-000000000003";
        for kind in
            ["user", "assets", "a", "credit-relay", "third-party-user", "payment-profile", "asset-report", "next_years"]
        {
            let token = format!("{kind}-sandbox-{id}");
            let out = redact_text(&format!("saw {token}, twice"), &fp());
            assert_eq!(out, format!("saw {}, twice", fp().of(&token)), "{kind}");
        }
        let plain = [
            id,
            "ins_109508",
            "update-mode",
            "link-up sandbox-1",
            "link-sandbox-",
            "https://hooks-production-eu.example.com",
            "payment-id-sandbox-00000000-0000-4000-8000-000000000003",
            "consent-id-production-3tau2c00000000000000000000",
        ];
        for text in plain {
            assert_eq!(redact_text(text, &fp()), text);
        }
        assert!(!shows_token(&format!("customer-production-{id}")), "a business may be named so");
        assert!(shows_token(&format!("access-production-{id}")));
    }

    #[test]
    fn i3_a_token_behind_an_empty_prefix_is_found() {
        let out = redact_text("expected access-sandbox-<id>, got access-sandbox-1234", &fp());
        assert!(!out.contains("1234") && out.contains("access-sandbox-<id>"), "{out}");
        assert!(!redact_text("foo-sandbox-access-sandbox-1234", &fp()).contains("1234"));
    }

    #[test]
    fn i3_all_of_a_token_and_nothing_around_it_is_replaced() {
        let fps = |a: &str, b: &str| (fp().of(a).to_string(), fp().of(b).to_string());
        let (one, two) = fps("public-development-b", "Processor-PRODUCTION-a-1");
        let table = [
            ("public-development-b", one.clone(), true),
            ("é public-development-b.", format!("é {one}."), true),
            ("(public-development-b,Processor-PRODUCTION-a-1)", format!("({one},{two})"), true),
            ("", String::new(), false),
        ];
        for (text, expected, shows) in table {
            assert_eq!((redact_text(text, &fp()), shows_token(text)), (expected, shows), "{text}");
        }
    }

    #[test]
    fn what_is_no_secret_passes_untouched_whatever_it_is() {
        let table = [
            r#"{"item_id":"qA7","reason":"update-mode","n":[1,null,true,"link-up"],"x":{"y":1.5}}"#.to_owned(),
            r#"{"n":123456789012345678901234567890,"big":1e400,"small":-0.00000000000000000001}"#.to_owned(),
            r#"{"name":"Caf\ud83d","other":"\u00e9\n"}"#.to_owned(),
            format!(r#"{{"deep":{}{}}}"#, "[".repeat(50_000), "]".repeat(50_000)),
        ];
        for text in table {
            assert_eq!(redact(&text, &fp()), text);
        }
        assert_eq!(redact("{\n  \"a\": [ 1 , 2 ]\n}", &fp()), r#"{"a":[1,2]}"#);
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "\\PC{0,12}".prop_map(Value::from),
            Just(json!("access-sandbox-00000000-0000-4000-8000-000000000003")),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            let name = prop_oneof!["\\PC{0,8}", Just("access_token".to_owned()), Just("x\"y".to_owned())];
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::vec((name, inner), 0..4).prop_map(|f| Value::Object(f.into_iter().collect())),
            ]
        })
    }

    /// The same on a tree of values, to hold the one on texts against.
    fn on_values(value: &mut Value, secret: bool) {
        match value {
            Value::Object(fields) => {
                let old = std::mem::take(fields);
                for (name, mut field) in old {
                    on_values(&mut field, secret || is_secret(&name));
                    fields.insert(redact_text(&name, &fp()), field);
                }
            }
            Value::Array(values) => values.iter_mut().for_each(|v| on_values(v, secret)),
            Value::String(text) if secret => *text = fp().of(text).to_string(),
            Value::String(text) => *text = redact_text(text, &fp()),
            Value::Number(n) if secret => *value = fp().of(&n.to_string()).to_string().into(),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    proptest! {
        #[test]
        fn i3_a_token_inside_any_text_is_found(before in "\\PC{0,20}", after in "[^a-zA-Z0-9_-]{0,20}", id in "[a-f0-9-]{1,36}") {
            let token = format!("access-sandbox-{id}");
            let out = redact_text(&format!("{before}{token}{after}"), &fp());
            prop_assert!(!out.contains(&token));
        }

        #[test]
        fn the_text_says_what_the_values_would(mut value in any_json(), pretty: bool) {
            let text = if pretty { serde_json::to_string_pretty(&value).unwrap() } else { value.to_string() };
            let out: Value = serde_json::from_str(&redact(&text, &fp())).unwrap();
            on_values(&mut value, false);
            prop_assert_eq!(out, value);
        }

        #[test]
        fn any_text_is_survived(text in "\\PC{0,60}") {
            redact(&text, &fp());
        }
    }
}
