//! One module for each place that reads bytes from outside.

mod admin;
mod answers;
mod settings;
mod webhooks;

use crate::mutate::body_at;

/// The lines before the body.
fn head(input: &[u8]) -> Vec<String> {
    String::from_utf8_lossy(&input[..body_at(input)]).lines().map(str::to_owned).collect()
}

fn body(input: &[u8]) -> &[u8] {
    &input[body_at(input)..]
}

/// What a token looks like, told in other words than the code under test.
fn tokens(text: &str) -> Vec<String> {
    let lower = text.to_ascii_lowercase();
    let mut found = Vec::new();
    for kind in ["access", "processor", "public", "link", "hosted", "update"] {
        for environment in ["sandbox", "production", "development"] {
            let start = format!("{kind}-{environment}-");
            for (at, _) in lower.match_indices(&start) {
                // A few characters of it: a text may be one long token that begins again and again.
                let id: String = lower[at + start.len()..]
                    .chars()
                    .take(24)
                    .take_while(|c| c.is_ascii_alphanumeric() || *c == '-')
                    .collect();
                if !id.is_empty() {
                    found.push(format!("{start}{id}"));
                }
            }
        }
    }
    found
}

/// I3: a text that leaves its place shows no token.
fn clean(what: &str, text: &str) -> Result<(), String> {
    match tokens(text).first() {
        Some(token) => Err(format!("I3: {what} shows {token}")),
        None => Ok(()),
    }
}

/// What the targets that are asynchronous run on: this thread alone.
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}
