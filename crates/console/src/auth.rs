//! Admin tokens: stored as hashes, compared in constant time, each with a name for the audit trail and a role.

use crate::Console;
use crate::error::ApiError;
use aws_lc_rs::{constant_time, digest};
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use domain::secret::hex;
use domain::words;
use rand::RngExt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Instant;
use store::Act;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};

words!(
    /// What an admin token may do.
    AdminRole {
        Read => "read",
        /// What *read* may, and change things.
        Operate => "operate",
    }
);

/// One token, as its hash.
#[derive(Debug, Clone)]
pub struct AdminToken {
    pub name: String,
    pub role: AdminRole,
    sha256: String,
}

/// Every token that is let in.
#[derive(Debug, Clone, Default)]
pub struct AdminTokens {
    tokens: Vec<AdminToken>,
}

/// Why an entry of `console.tokens` can't be used.
#[derive(Debug, thiserror::Error)]
#[error(
    "has an entry, number {0}, that is not `name:role:sha256` with role read or operate (make one with `rekey token new`)"
)]
pub struct BadToken(usize);

impl AdminTokens {
    /// Reads `name:role:sha256` entries.
    pub fn parse<'a>(entries: impl IntoIterator<Item = &'a str>) -> Result<Self, BadToken> {
        let mut tokens = Vec::new();
        for (index, entry) in entries.into_iter().enumerate() {
            tokens.push(parse_one(entry).ok_or(BadToken(index + 1))?);
        }
        Ok(Self { tokens })
    }

    /// The token's owner. Every entry is compared, so the time taken does not tell which one came close.
    pub(crate) fn owner(&self, hash: &str) -> Option<&AdminToken> {
        let matching = self
            .tokens
            .iter()
            .filter(|t| constant_time::verify_slices_are_equal(t.sha256.as_bytes(), hash.as_bytes()).is_ok());
        matching.fold(None, |_, token| Some(token))
    }
}

fn parse_one(entry: &str) -> Option<AdminToken> {
    let mut parts = entry.trim().split(':');
    let (name, role, sha256) = (parts.next()?, parts.next()?, parts.next()?);
    let role = AdminRole::from_word(role)?;
    let hash_fits = sha256.len() == 64 && sha256.chars().all(|c| c.is_ascii_hexdigit());
    (parts.next().is_none() && !name.is_empty() && hash_fits).then(|| AdminToken {
        name: name.to_owned(),
        role,
        sha256: sha256.to_ascii_lowercase(),
    })
}

/// A new token and the hash to configure. The token is random, so a plain hash of it is enough.
pub fn new_token() -> (String, String) {
    let token = format!("rekey_{}", hex(&rand::rng().random::<[u8; 24]>()));
    let hash = hash_token(&token);
    (token, hash)
}

/// SHA-256 in hexadecimal, as `console.tokens` holds it.
pub fn hash_token(token: &str) -> String {
    hex(digest::digest(&digest::SHA256, token.as_bytes()).as_ref())
}

/// Who is calling, for the audit trail.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) name: String,
    pub(crate) from: IpAddr,
}

impl Caller {
    pub(crate) fn new(name: String, from: IpAddr) -> Self {
        Self { name, from }
    }

    /// What the caller does; what changes by it is added.
    pub(crate) fn act<'a>(&'a self, action: &'a str, subject: &impl ToString) -> Act<'a> {
        let subject = subject.to_string();
        Act { by: &self.name, from: Some(self.from), action, subject, was: None, became: None }
    }
}

/// Lets in who has a token for what the method does.
pub(crate) async fn admit(State(console): State<Console>, mut request: Request, next: Next) -> Response {
    let presented = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.split_once(' '))
        .and_then(|(scheme, token)| scheme.eq_ignore_ascii_case("bearer").then_some(token));
    let Some(hash) = presented.map(hash_token) else { return ApiError::unauthorized().into_response() };
    let (peer, now) = (address(&request), Instant::now());
    let Some(owner) = console.tokens.owner(&hash) else {
        if let Some(wait) = console.attempts.wait(peer, now) {
            return ApiError::too_many_wrong_tokens(wait);
        }
        tracing::warn!(%peer, "a call to the admin API came with a wrong token");
        if console.attempts.wrong(peer, now) {
            tracing::warn!(%peer, "too many wrong tokens: those that follow are answered 429 for a while, and not logged");
        }
        return ApiError::unauthorized().into_response();
    };
    let needed = if request.method() == Method::GET { AdminRole::Read } else { AdminRole::Operate };
    if owner.role < needed {
        tracing::warn!(%peer, by = owner.name, method = %request.method(), "a call was refused: its token may not do that");
        return ApiError::forbidden(&owner.name).into_response();
    }
    let caller = Caller::new(owner.name.clone(), peer);
    request.extensions_mut().insert(caller);
    next.run(request).await
}

/// Where the connection comes from. What a proxy says about its own callers is not believed: anybody could say it.
pub(crate) fn address(request: &Request) -> IpAddr {
    let from = request.extensions().get::<ConnectInfo<SocketAddr>>();
    from.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |ConnectInfo(address)| address.ip())
}

pub(crate) struct BearerScheme;

impl utoipa::Modify for BearerScheme {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let components = openapi.components.get_or_insert_with(Default::default);
        components.add_security_scheme("admin_token", SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_found_by_its_hash_and_nothing_else() {
        let (token, hash) = new_token();
        let tokens = AdminTokens::parse([format!("ops:operate:{hash}").as_str()]).unwrap();
        assert_eq!(
            tokens.owner(&hash_token(&token)).map(|t| (t.name.as_str(), t.role)),
            Some(("ops", AdminRole::Operate))
        );
        assert!(tokens.owner(&hash_token(&hash)).is_none());
        assert!(tokens.owner(&hash_token("")).is_none());
    }

    #[test]
    fn a_mistyped_entry_is_named_by_its_place() {
        for bad in ["", "ops:admin:00", "ops:read:zz", "ops:read"] {
            assert!(AdminTokens::parse([bad]).unwrap_err().to_string().contains("number 1"), "{bad}");
        }
    }
}
