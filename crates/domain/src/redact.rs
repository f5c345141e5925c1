//! Replaces secrets in a webhook's JSON by fingerprints before it may leave the receiver (I3).

use crate::Fingerprinter;
use serde_json::Value;

/// Fields whose whole string value is a secret, in Plaid's webhooks and in Layer's answers.
const SECRET_FIELDS: [&str; 12] = [
    "access_token",
    "accesstoken",
    "new_access_token",
    "public_token",
    "public_tokens",
    "link_token",
    "processor_token",
    "plaid_processor_token",
    "connection_external_id",
    "client_secret",
    "secret",
    "authorization",
];

/// What Plaid's tokens start with; each is followed by the environment and an identifier.
const TOKEN_PREFIXES: [&str; 6] = ["access-", "processor-", "public-", "link-", "hosted-", "update-"];
const ENVIRONMENTS: [&str; 3] = ["sandbox-", "production-", "development-"];

/// Replaces secret fields, and token-shaped strings at any depth, keys of objects included, by their fingerprints.
/// Everything else passes untouched, so that fields nobody knows yet still reach the readers of the topic.
pub fn redact(value: &mut Value, fingerprints: &Fingerprinter) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields.iter_mut() {
                if SECRET_FIELDS.contains(&name.to_ascii_lowercase().as_str()) {
                    redact_whole(field, fingerprints);
                } else {
                    redact(field, fingerprints);
                }
            }
            if fields.keys().any(|k| shows_token(k)) {
                *fields = std::mem::take(fields).into_iter().map(|(k, v)| (redact_text(&k, fingerprints), v)).collect();
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|v| redact(v, fingerprints)),
        Value::String(text) => {
            if shows_token(text) {
                *text = redact_text(text, fingerprints);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn redact_whole(field: &mut Value, fingerprints: &Fingerprinter) {
    match field {
        Value::String(text) => *text = fingerprints.of(text).to_string(),
        Value::Array(values) => values.iter_mut().for_each(|v| redact_whole(v, fingerprints)),
        Value::Object(fields) => fields.values_mut().for_each(|v| redact_whole(v, fingerprints)),
        Value::Number(number) => *field = Value::String(fingerprints.of(&number.to_string()).to_string()),
        Value::Null | Value::Bool(_) => {}
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

/// Whether something in the text has the shape of a token.
pub fn shows_token(text: &str) -> bool {
    find_token(&text.to_ascii_lowercase(), 0).is_some()
}

/// The first token from there on, in one pass over a text in lower case.
fn find_token(lower: &str, from: usize) -> Option<(usize, usize)> {
    let bytes = lower.as_bytes();
    (from..bytes.len()).find_map(|start| {
        let rest = &bytes[start..];
        let prefix = TOKEN_PREFIXES.iter().find(|p| rest.starts_with(p.as_bytes()))?.len();
        let environment = ENVIRONMENTS.iter().find(|e| rest[prefix..].starts_with(e.as_bytes()))?.len();
        let body = &rest[prefix + environment..];
        let length = body.iter().take_while(|b| b.is_ascii_alphanumeric() || **b == b'-').count();
        (length > 0).then_some((start, start + prefix + environment + length))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn fp() -> Fingerprinter {
        Fingerprinter::new(1, &[7; 32])
    }

    #[test]
    fn i3_secret_fields_and_token_shapes_at_any_depth_become_fingerprints() {
        let mut value = json!({
            "webhook_type": "LINK", "link_token": "opaque", "public_tokens": ["a", {"b": "c"}],
            "deep": [{"note": "saw access-sandbox-1-2, and public-production-9."}],
            "access-production-key": 1, "Access_Token": 42,
        });
        redact(&mut value, &fp());
        let text = value.to_string();
        for secret in ["opaque", "access-sandbox", "public-production", "access-production", "42"] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
        assert!(text.contains(fp().of("access-sandbox-1-2").as_str()), "{text}");
        assert_eq!(value["webhook_type"], "LINK");
    }

    #[test]
    fn i3_a_token_behind_an_empty_prefix_is_found() {
        let out = redact_text("expected access-sandbox-<id>, got access-sandbox-1234", &fp());
        assert!(!out.contains("1234") && out.contains("access-sandbox-<id>"), "{out}");
    }

    #[test]
    fn i3_all_of_a_token_and_nothing_around_it_is_replaced() {
        let fps = |a: &str, b: &str| (fp().of(a).to_string(), fp().of(b).to_string());
        let (one, two) = fps("public-development-b", "Processor-PRODUCTION-a-1");
        let table = [
            ("public-development-b", one.clone(), true),
            ("é public-development-b.", format!("é {one}."), true),
            ("(public-development-b,Processor-PRODUCTION-a-1)", format!("({one},{two})"), true),
            ("link-sandbox-", "link-sandbox-".into(), false),
            ("link-up sandbox-1", "link-up sandbox-1".into(), false),
            ("", String::new(), false),
        ];
        for (text, expected, shows) in table {
            assert_eq!((redact_text(text, &fp()), shows_token(text)), (expected, shows), "{text}");
        }
    }

    #[test]
    fn what_is_no_secret_passes_untouched() {
        let before =
            json!({"item_id": "qA7", "reason": "update-mode", "n": [1, null, true, "link-up"], "x": {"y": 1.5}});
        let mut after = before.clone();
        redact(&mut after, &fp());
        assert_eq!(before, after);
    }

    proptest! {
        #[test]
        fn i3_a_token_inside_any_text_is_found(before in "\\PC{0,20}", after in "[^a-zA-Z0-9-]{0,20}", id in "[a-f0-9-]{1,36}") {
            let token = format!("access-sandbox-{id}");
            let out = redact_text(&format!("{before}{token}{after}"), &fp());
            prop_assert!(!out.contains(&token));
        }
    }
}
