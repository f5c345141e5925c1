//! OAuth client credentials: <https://docs.layerfi.com/api-details/authentication>. The scope chooses the environment.

use crate::Settings;
use crate::client::answered;
use crate::error::Error;
use domain::Endpoint;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

pub(crate) const ENDPOINT: Endpoint = Endpoint::Oauth2Token;

#[derive(Debug)]
struct Held {
    token: SecretString,
    refresh_at: Instant,
}

/// The bearer token, asked for once at a time and replaced early.
#[derive(Debug)]
pub(crate) struct Bearer {
    settings: Settings,
    held: Mutex<Option<Held>>,
}

#[derive(Deserialize)]
struct Wire {
    access_token: SecretString,
    #[serde(default)]
    expires_in: Option<u64>,
}

/// RFC 6749, not Layer's `errors` array.
#[derive(Deserialize)]
struct OAuthError {
    error: String,
}

impl Bearer {
    pub(crate) fn new(settings: Settings) -> Self {
        Self { settings, held: Mutex::new(None) }
    }

    /// The token in force; `refused` is the one Layer just answered 401 to.
    pub(crate) async fn token(
        &self,
        http: &web::Client,
        refused: Option<&SecretString>,
    ) -> Result<SecretString, Error> {
        // Held across the request on purpose: callers that come meanwhile wait for this answer instead of asking as well.
        let mut held = self.held.lock().await;
        if let Some(current) = held.as_ref() {
            let is_refused = refused.is_some_and(|r| r.expose_secret() == current.token.expose_secret());
            if !is_refused && Instant::now() < current.refresh_at {
                return Ok(current.token.clone());
            }
        }
        *held = None;
        let began = Instant::now();
        let answer = self.ask(http).await;
        http.count(ENDPOINT, answered(&answer), began);
        let (token, lifetime) = answer?;
        // Half of its life is what Layer's own client waits; a token that dies on the way costs a 401 and a retry.
        *held = Some(Held { token: token.clone(), refresh_at: Instant::now() + lifetime / 2 });
        Ok(token)
    }

    async fn ask(&self, http: &web::Client) -> Result<(SecretString, Duration), Error> {
        let Settings { token_url, client_id, client_secret, scope, .. } = &self.settings;
        let form = [("grant_type", "client_credentials"), ("scope", scope), ("client_id", client_id)];
        let request = http.post(token_url).basic_auth(client_id, Some(client_secret.expose_secret())).form(&form);
        let answer = http.send(request).await.map_err(|source| Error::Unanswered { endpoint: ENDPOINT, source })?;
        let status = answer.status.as_u16();
        if !answer.status.is_success() {
            let error =
                serde_json::from_slice::<OAuthError>(&answer.body).map_or_else(|_| "unnamed".into(), |e| e.error);
            let error: String = error.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').take(64).collect();
            return Err(Error::Credentials { status, error });
        }
        let malformed = |field| Error::Malformed { endpoint: ENDPOINT, status, field };
        let wire: Wire = serde_json::from_slice(&answer.body).map_err(|_| malformed("the body"))?;
        let token = wire.access_token.expose_secret();
        if token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic()) {
            // It fits no header: kept, it would fail every call until it expires.
            return Err(malformed("access_token"));
        }
        Ok((wire.access_token, Duration::from_secs(wire.expires_in.unwrap_or(3600).min(86_400))))
    }
}
