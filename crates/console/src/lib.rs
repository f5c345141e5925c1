//! The admin API: what the platform pushes, what operators see and do. Every write is audited, every list is paginated,
//! every error says what to do, and an access token goes in but never comes out.

mod acts;
mod at_plaid;
mod attempts;
mod audit;
mod auth;
mod batches;
mod businesses;
mod dead_letters;
mod erase;
mod error;
mod explain;
mod find;
mod history;
mod items;
mod openapi;
mod outcomes;
mod pages;
mod parked;
mod plans;
mod providers;
mod push;
mod stand;
mod status;
mod upkeep;
mod view;

pub use auth::{AdminRole, AdminToken, AdminTokens, BadToken, hash_token, new_token};
pub use openapi::document as openapi_document;

use auth::BearerScheme;
use axum::Router;
use axum::routing::get;
use domain::setting::{Interval, Span};
use domain::token_list::Policy;
use schemars::JsonSchema;
use serde::Deserialize;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;
use store::Store;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// What the routes work with.
#[derive(Debug, Clone)]
pub(crate) struct Console {
    store: Store,
    tokens: Arc<AdminTokens>,
    attempts: Arc<attempts::Attempts>,
    settings: Settings,
    /// What the reconciler plans by, with what a business itself adds left at its beginning.
    policy: Policy,
    parameters: Arc<openapi::Parameters>,
    /// One for each page that is watched.
    watched: Arc<Semaphore>,
    /// This process stops: who waits for a reconciliation is told that it goes on without being waited for.
    stop: CancellationToken,
    /// A batch was ordered from this process.
    ordered: Arc<Notify>,
}

/// The settings of the section `console`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct Settings {
    #[schemars(skip)]
    pub listen: SocketAddr,
    /// `name:role:sha256` each.
    #[schemars(inner(regex(pattern = r"^[^:]+:(read|operate):[0-9a-f]{64}$")))]
    pub tokens: Vec<String>,
    /// How long a push waits for Plaid's verdict on its token before it answers 202.
    #[serde(with = "Span")]
    pub push_wait: Duration,
    /// The longest a caller may ask to wait.
    #[serde(with = "Span")]
    pub max_wait: Duration,
    /// How often a waiting call looks.
    #[serde(with = "Interval")]
    pub wait_poll: Duration,
    pub max_connections: NonZeroUsize,
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Rekey admin API",
        description = "Send `Authorization: Bearer <admin token>`. Roles: *read* sees, *operate* also changes.\n\nPaths begin \
            with the version. Within `/v1` fields, query parameters, words of closed sets and paths are added, and none is taken \
            away or changes its meaning: a client must ignore fields and take words that it does not know.",
        license(name = "Apache-2.0")
    ),
    modifiers(&BearerScheme),
    security(("admin_token" = []))
)]
struct Document;

/// The routes with the OpenAPI document, made from the same declarations; and the work that is ordered by them and done beside
/// them, until `stop`.
pub fn parts(
    store: Store,
    tokens: AdminTokens,
    settings: Settings,
    policy: Policy,
    stop: CancellationToken,
) -> (Router, impl Future<Output = ()> + Send) {
    let (router, document) = api().split_for_parts();
    let (text, parameters) = openapi::describe(&document);
    let (tokens, parameters) = (Arc::new(tokens), Arc::new(parameters));
    let watched = Arc::new(Semaphore::new(pages::MOST_WATCHED));
    let (attempts, ordered) = (Arc::default(), Arc::default());
    let console = Console { store, tokens, attempts, settings, policy, parameters, watched, stop, ordered };
    let routes = router
        .layer(axum::middleware::from_fn_with_state(console.clone(), openapi::refuse_unknown_parameters))
        .layer(axum::middleware::from_fn_with_state(console.clone(), auth::admit))
        .merge(pages::routes(&console))
        .route("/openapi.json", get(move || async move { ([("content-type", "application/json")], text) }))
        .layer(axum::extract::DefaultBodyLimit::max(256 * 1024))
        .layer(axum::middleware::map_response(error::explain_refusals))
        .with_state(console.clone());
    (routes, batches::run(console))
}

fn api() -> OpenApiRouter<Console> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(items::list))
        .routes(routes!(items::show, push::put, items::remove))
        .routes(routes!(items::sync))
        .routes(routes!(items::mint))
        .routes(routes!(items::move_account))
        .routes(routes!(items::replace, items::withdraw))
        .routes(routes!(items::acknowledge))
        .routes(routes!(explain::item))
        .routes(routes!(businesses::list))
        .routes(routes!(businesses::show))
        .routes(routes!(businesses::sync))
        .routes(routes!(businesses::hold))
        .routes(routes!(businesses::token))
        .routes(routes!(explain::business))
        .routes(routes!(plans::ask))
        .routes(routes!(plans::show))
        .routes(routes!(status::status))
        .routes(routes!(find::find))
        .routes(routes!(history::list))
        .routes(routes!(outcomes::list))
        .routes(routes!(erase::item))
        .routes(routes!(erase::business))
        .routes(routes!(parked::parked))
        .routes(routes!(parked::release))
        .routes(routes!(batches::release_all))
        .routes(routes!(batches::list))
        .routes(routes!(batches::show))
        .routes(routes!(batches::cancel))
        .routes(routes!(parked::holds))
        .routes(routes!(providers::pauses))
        .routes(routes!(providers::pause))
        .routes(routes!(providers::resume))
        .routes(routes!(providers::probe))
        .routes(routes!(at_plaid::missed))
        .routes(routes!(at_plaid::elsewhere))
        .routes(routes!(at_plaid::consents))
        .routes(routes!(dead_letters::list))
        .routes(routes!(dead_letters::dismiss))
        .routes(routes!(parked::unknown_items))
        .routes(routes!(audit::list))
        .routes(routes!(upkeep::rotate_keys))
        .routes(routes!(upkeep::orphans))
        .routes(routes!(upkeep::budgets))
}
