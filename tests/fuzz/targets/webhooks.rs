//! What anybody may send to the receiver, and what stands on Kafka.

use super::{body, clean, head, runtime};
use crate::fuzz;
use bus::{Delivery, Event, schema};
use bytes::Bytes;
use domain::Fingerprinter;
use domain::redact::{redact, shows_any_token};
use domain::webhook::{Webhook, signal};
use rdkafka::message::{Header, OwnedHeaders, OwnedMessage};
use sandbox::{Signer, sha256_hex};
use serde_json::Value;
use tests::verifier;

/// I2: what is let in was signed with the key that it names, within five minutes, over exactly these bytes.
///
/// The first line is `sign HEADER CLAIMS` (two JSON texts, signed here with a key made at run time, in which KID, NOW
/// and HASH stand for the right values) or a `Plaid-Verification` header as it comes.
#[test]
fn webhook_signature() {
    let signer = Signer::new(&mut rand::rng());
    let (verifier, runtime) = (verifier(&signer), runtime());
    fuzz("webhook_signature", vec![vec![b'a'; 100_000]], |input| {
        let (lines, body) = (head(input), body(input));
        let now = jiff::Timestamp::now().as_second();
        let first = lines.first().map_or("", String::as_str);
        let fill = |text: &str| {
            let text = text.replace("KID", &signer.kid).replace("\"NOW\"", &now.to_string());
            serde_json::from_str::<Value>(&text.replace("HASH", &sha256_hex(body))).ok()
        };
        let parts = first.strip_prefix("sign ").and_then(|rest| rest.split_once("} {"));
        let signed = parts.and_then(|(header, claims)| {
            let (header, claims) = (fill(&format!("{header}}}"))?, fill(&format!("{{{claims}"))?);
            Some((signer.sign_raw(&header, &claims), header, claims))
        });
        let token = signed.as_ref().map_or(first, |(token, ..)| token);
        let verified = runtime.block_on(verifier.verify(&[token.as_bytes()], Bytes::copy_from_slice(body), now));
        match (verified, signed) {
            (Err(rejection), _) => clean("a rejection", &rejection.to_string()),
            (Ok(_), None) => Err("I2: let in what was not signed here".into()),
            (Ok(verified), Some((_, header, claims))) => {
                let hash = claims["request_body_sha256"].as_str().unwrap_or_default().to_ascii_lowercase();
                let age = now - claims["iat"].as_f64().map_or(i64::MIN / 2, |at| at.floor() as i64);
                let right = header["alg"] == "ES256"
                    && header["kid"] == signer.kid.as_str()
                    && hash == sha256_hex(body)
                    && (-60..=300).contains(&age)
                    && verified.body() == body;
                if right { Ok(()) } else { Err(format!("I2: let in under {header} {claims}")) }
            }
        }
    });
}

fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["token", "tokens", "secret", "secrets"].iter().any(|end| name.ends_with(end))
        || ["connection_external_id", "authorization"].contains(&name.as_str())
}

/// What holds no secret passes untouched.
fn passes(before: &Value, after: &Value) -> bool {
    match (before, after) {
        (Value::Object(old), Value::Object(new)) => old.iter().all(|(name, value)| {
            is_secret(name) || shows_any_token(name) || new.get(name).is_some_and(|now| passes(value, now))
        }),
        (Value::Array(old), Value::Array(new)) => {
            old.len() == new.len() && old.iter().zip(new).all(|(old, new)| passes(old, new))
        }
        (Value::String(old), new) if shows_any_token(old) => new.is_string(),
        (old, new) => old == new,
    }
}

/// I3: no token survives, what is published is JSON, and what nobody knows passes.
#[test]
fn webhook_body() {
    let fingerprints = Fingerprinter::new(1, &[7; 32]);
    let long = |unit: &str, n: usize| format!("{{\"a\":\"{}\"}}", unit.repeat(n)).into_bytes();
    let built = vec![
        long("access-sandbox-a ", 15_000),
        long("access-", 37_000),
        long("access-sandbox-<", 16_000),
        format!("{}{}", "[".repeat(100_000), "]".repeat(100_000)).into_bytes(),
        format!("[{}]", vec!["{\"access-sandbox-1\":1}"; 3_000].join(",")).into_bytes(),
    ];
    fuzz("webhook_body", built, |input| {
        let Ok(body) = std::str::from_utf8(input) else { return Ok(()) };
        if serde_json::from_str::<&serde_json::value::RawValue>(body).is_err() {
            return Ok(());
        }
        let text = redact(body, &fingerprints);
        clean("the record", &text)?;
        if serde_json::from_str::<&serde_json::value::RawValue>(&text).is_err() {
            return Err("what is published is no JSON".into());
        }
        // Trees of values hold neither every depth nor every number.
        if let Ok(before) = serde_json::from_str::<Value>(body) {
            let after = serde_json::from_str::<Value>(&text).map_err(|e| e.to_string())?;
            // Two names that become one are not worth a rule here: the first one stands for both.
            if !passes(&before, &after) {
                return Err(format!("a field was lost or changed: {text}"));
            }
        }
        let Ok(webhook) = Webhook::read(text.as_bytes()) else { return Ok(()) };
        signal(&webhook.webhook_type, &webhook.webhook_code, webhook.error_code.as_deref());
        clean("the key", webhook.key.as_deref().unwrap_or_default())
    });
}

/// A record of either kind: header lines, an empty line, the value. `topic: notices` chooses the other topic.
#[test]
fn kafka_record() {
    fuzz("kafka_record", vec![], |input| {
        let mut headers = OwnedHeaders::new();
        let mut topic = "item-events".to_owned();
        for line in head(input) {
            match line.split_once(": ") {
                Some(("topic", name)) => topic = name.to_owned(),
                // librdkafka takes C strings; a name with a NUL never arrives.
                Some((key, value)) if !key.contains('\0') => {
                    headers = headers.insert(Header { key, value: Some(value.as_bytes()) });
                }
                _ => {}
            }
        }
        let value = body(input).to_vec();
        let time = rdkafka::Timestamp::NotAvailable;
        let payload = (!value.is_empty()).then(|| value.clone());
        let message = OwnedMessage::new(payload, None, topic.clone(), time, 0, 0, Some(headers));
        let event = Event::decode(&message, &[schema::WEBHOOK, schema::NOTICE]);
        let delivery = Delivery { topic, partition: 0, offset: 0, event, raw: value, gap: false };
        match consumer::judge(&delivery, "notices") {
            Ok(Some(item)) if item.as_str().is_empty() || item.as_str().len() > 256 => Err("an id of no size".into()),
            Ok(_) => Ok(()),
            // Reasons stand in dead letters, which never hold what was sent.
            Err(reason) => clean("the reason", &reason),
        }
    });
}
