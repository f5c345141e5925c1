//! What Layer's errors mean, written once as a table.
//!
//! Error bodies are `{errors: [{type, description, error_enum?}]}` (<https://docs.layerfi.com/api-details/json-data>);
//! `error_enum` is the machine key, absent on 5xx. The use of 401, 403, 404, 409 and 422 is undocumented, so a status
//! decides only between trying again, asking whether the provider refuses everybody, and parking this business.

use domain::work::Code;
use domain::{Endpoint, Next};
use serde::Deserialize;
use std::time::Duration;

/// A call to Layer that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("Layer's {endpoint} did not answer")]
    Unanswered {
        endpoint: Endpoint,
        #[source]
        source: web::Unanswered,
    },
    #[error("Layer's {endpoint} answered {status} {error_enum}")]
    Refused { endpoint: Endpoint, status: u16, error_enum: String, retry_after: Option<Duration> },
    #[error("Layer's {endpoint} answered {status} with a body of an unknown form ({field})")]
    Malformed { endpoint: Endpoint, status: u16, field: &'static str },
    /// The token endpoint refused our client id, secret or scope.
    #[error(
        "Layer's token endpoint answered {status} {error}: check {}",
        if *.status == 404 { "layer.token_url" } else { "layer.client_id, layer.client_secret and layer.scope" }
    )]
    Credentials { status: u16, error: String },
}

/// What an error says about the business or the work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meaning {
    /// Layer does not have, or no longer shows, this business.
    NoSuchBusiness,
    /// Layer read the request and refuses its content: for a PUT, one of the tokens.
    RefusedContent,
    Other(Next),
}

impl Error {
    /// What follows from it.
    pub fn meaning(&self) -> Meaning {
        match self {
            Self::Unanswered { .. } | Self::Malformed { .. } => Meaning::Other(Next::Retry { after: None }),
            Self::Credentials { status, .. } if *status >= 500 || *status == 429 => {
                Meaning::Other(Next::Retry { after: None })
            }
            Self::Credentials { .. } => Meaning::Other(Next::Suspect),
            Self::Refused { status, error_enum, retry_after, .. } => meaning(*status, error_enum, *retry_after),
        }
    }

    /// Whether the call may have had an effect that we do not know of.
    pub fn may_have_happened(&self) -> bool {
        match self {
            Self::Unanswered { source, .. } => source.sent,
            Self::Malformed { .. } => true,
            Self::Refused { status, .. } => *status >= 500,
            Self::Credentials { .. } => false,
        }
    }

    /// The provider as a whole seems to be away: nothing came back, or a failing server's word.
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Unanswered { .. } => true,
            Self::Refused { status, .. } | Self::Credentials { status, .. } => *status >= 500,
            Self::Malformed { .. } => false,
        }
    }

    /// The call that it came from.
    pub fn endpoint(&self) -> Endpoint {
        match self {
            Self::Unanswered { endpoint, .. } | Self::Refused { endpoint, .. } | Self::Malformed { endpoint, .. } => {
                *endpoint
            }
            Self::Credentials { .. } => crate::auth::ENDPOINT,
        }
    }

    /// Short words for logs, metrics and parked rows.
    pub fn code(&self) -> &str {
        match self {
            Self::Unanswered { .. } => Code::Unanswered.as_str(),
            Self::Malformed { .. } => Code::Malformed.as_str(),
            Self::Refused { error_enum, .. } => error_enum,
            Self::Credentials { .. } => Code::Credentials.as_str(),
        }
    }
}

fn meaning(status: u16, error_enum: &str, retry_after: Option<Duration>) -> Meaning {
    match (status, error_enum) {
        // A proxy's, or a balancer's whose servers are being replaced.
        (404 | 410, NO_ENVELOPE) => Meaning::Other(Next::Retry { after: retry_after }),
        (404 | 410, _) | (_, "SpecifiedIdNotFound") => Meaning::NoSuchBusiness,
        (401 | 403, _) => Meaning::Other(Next::Suspect),
        (429, _) => Meaning::Other(Next::SlowDown { after: retry_after }),
        (408 | 425 | 500..=599, _) => Meaning::Other(Next::Retry { after: retry_after }),
        (400 | 409 | 422, _) if error_enum != NO_ENVELOPE => Meaning::RefusedContent,
        // A 2xx with an `errors` array: Layer's own client treats it as a failure too.
        (200..=299, _) => Meaning::RefusedContent,
        // A redirect, a method or a size that somebody on the way does not take, a page of a proxy: whether it is this row's
        // fault or everybody's, other rows tell.
        _ => Meaning::Other(Next::Suspect),
    }
}

#[derive(Deserialize)]
struct Body {
    errors: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    error_enum: serde_json::Value,
}

/// Reads an answer that is not a success. Descriptions may quote what we sent, so they are not kept.
pub(crate) fn refusal(endpoint: Endpoint, answer: &web::Answer) -> Error {
    let status = answer.status.as_u16();
    let error_enum = match serde_json::from_slice::<Body>(&domain::json::mend(&answer.body)) {
        Ok(body) => word(body.errors.into_iter().find_map(|e| e.error_enum.as_str().map(str::to_owned))),
        Err(_) => NO_ENVELOPE.into(),
    };
    Error::Refused { endpoint, status, error_enum, retry_after: answer.retry_after }
}

/// Stands for the machine key of an answer that is not of Layer's form.
const NO_ENVELOPE: &str = "not_layers_form";

fn word(text: Option<String>) -> String {
    match text {
        Some(t) if !t.is_empty() && t.len() <= 64 && t.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') => t,
        Some(_) => "Unreadable".into(),
        None => "unnamed".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_status_says_what_next() {
        let retry = || Meaning::Other(Next::Retry { after: None });
        let table = [
            (404, "unnamed", Meaning::NoSuchBusiness),
            (404, NO_ENVELOPE, retry()),
            (400, NO_ENVELOPE, Meaning::Other(Next::Suspect)),
            (302, NO_ENVELOPE, Meaning::Other(Next::Suspect)),
            (413, NO_ENVELOPE, Meaning::Other(Next::Suspect)),
            (400, "SpecifiedIdNotFound", Meaning::NoSuchBusiness),
            (400, "SpecifiedBadRequest", Meaning::RefusedContent),
            (409, "unnamed", Meaning::RefusedContent),
            (422, "unnamed", Meaning::RefusedContent),
            (200, "SpecifiedBadRequest", Meaning::RefusedContent),
            (401, "unnamed", Meaning::Other(Next::Suspect)),
            (403, "unnamed", Meaning::Other(Next::Suspect)),
            (429, "unnamed", Meaning::Other(Next::SlowDown { after: None })),
            (500, "unnamed", retry()),
            (503, "unnamed", retry()),
            (405, "unnamed", Meaning::Other(Next::Suspect)),
        ];
        for (status, error_enum, expected) in table {
            assert_eq!(meaning(status, error_enum, None), expected, "{status} {error_enum}");
        }
        let wait = Some(Duration::from_secs(7));
        assert_eq!(meaning(429, "unnamed", wait), Meaning::Other(Next::SlowDown { after: wait }));
    }

    #[test]
    fn wrong_credentials_are_suspect_and_a_failing_token_endpoint_is_not() {
        let at = |status| Error::Credentials { status, error: "x".into() }.meaning();
        assert_eq!(at(401), Meaning::Other(Next::Suspect));
        assert_eq!(at(503), Meaning::Other(Next::Retry { after: None }));
    }
}
