//! Faithful simulators of Plaid and Layer over HTTP, the platform that uses both, and the oracle that knows the truth.
//!
//! Of Rekey's own code only the listener of `web` is used here, so that a mistake there can't hide itself: signatures are made with
//! another library, and the oracle judges from the truth of the simulated world alone.

mod control;
mod events;
mod faults;
mod layer_api;
mod load;
mod oracle;
mod plaid_api;
mod platform;
mod queries;
#[cfg(feature = "scenarios")]
mod scenarios;
mod signing;
mod switches;
mod webhooks;
mod world;

pub use faults::{Fault, FaultKind, Scenario};
pub use load::{Answered, Load};
pub use oracle::{BusinessVerdict, Counts, Verdict};
pub use platform::{Admin, Announce, NewAccount, NewBusiness, NewItem};
#[cfg(feature = "scenarios")]
pub use scenarios::{Listed, Moment};
pub use signing::{Signer, sha256_hex};
pub use switches::{BadToken, LoginRequiredReads, Shows, Switches};
pub use webhooks::SignedWebhook;
pub use world::{LAYER_CLIENT_ID, PLAID_CLIENT_ID};

use axum::Router;
use parking_lot::{Mutex, MutexGuard};
use schemars::JsonSchema;
use secrecy::SecretString;
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use world::World;

/// The settings of the section `sandbox`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct Settings {
    #[schemars(skip)]
    pub listen: SocketAddr,
    /// Everything random follows from it.
    pub seed: u64,
    /// Credentials that the fake Plaid and the fake Layer demand.
    #[schemars(skip)]
    pub plaid_secret: SecretString,
    #[schemars(skip)]
    pub layer_secret: SecretString,
    /// Where webhooks go. Empty: nowhere.
    #[schemars(skip)]
    pub webhook_url: String,
    /// 1.0 keeps Plaid's documented schedule of retries (30 s, 2 min, …); smaller is faster.
    #[schemars(range(min = 0))]
    pub webhook_retry_scale: f64,
    /// A file with misbehaviour and switches from the start: a [`Scenario`]. Empty: none.
    pub scenario: PathBuf,
    /// The platform's own database, with a table `plaid_items (item_id, access_token)`. Empty: it has none.
    #[schemars(skip)]
    pub platform_database_url: SecretString,
}

/// A running sandbox. Clones share one world.
#[derive(Clone)]
pub struct Sandbox {
    world: Arc<Mutex<World>>,
    settings: Arc<Settings>,
    http: reqwest::Client,
    platform_db: Option<sqlx::AnyPool>,
    admin: Arc<Mutex<Option<platform::Admin>>>,
}

impl std::fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sandbox")
    }
}

/// Why the sandbox could not do something.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the sandbox knows no {what} {id}")]
    Unknown { what: &'static str, id: String },
    #[error("the platform's database does not answer")]
    Database(#[from] sqlx::Error),
    #[error("Rekey's admin API does not answer as expected: {0}")]
    Admin(String),
    #[error("the sandbox's HTTP client could not be made")]
    Http(#[from] reqwest::Error),
    #[error("no verb {verb:?}; there are {known}")]
    NoVerb { verb: String, known: &'static str },
    #[error("{0}")]
    NotTaken(String),
}

impl Sandbox {
    /// `scenario`: misbehaviour and switches from the start. `admin`: how the platform reaches Rekey.
    pub async fn new(settings: Settings, scenario: &Scenario, admin: Option<Admin>) -> Result<Self, Error> {
        let platform_db = platform::open(&settings.platform_database_url).await?;
        // A redirect would carry a token to a place that nobody named.
        let http = reqwest::Client::builder()
            .timeout(Duration::from_secs(10))
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()?;
        Ok(Self {
            world: Arc::new(Mutex::new(World::new(&settings, scenario))),
            settings: Arc::new(settings),
            http,
            platform_db,
            admin: Arc::new(Mutex::new(admin)),
        })
    }

    /// Plaid's, Layer's and the control routes, on one port.
    pub fn routes(&self) -> Router {
        plaid_api::routes(self).merge(layer_api::routes(self)).nest("/control", control::routes(self))
    }

    /// Serves until `stop`.
    pub async fn serve(&self, listener: TcpListener, stop: CancellationToken) {
        let limits =
            web::Limits { connections: 1024, header_read: Duration::from_secs(30), drain: Duration::from_millis(500) };
        web::serve(listener, self.routes(), limits, web::Readiness::default(), stop).await;
    }

    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock()
    }

    /// Changes how the unconfirmed facts are answered.
    pub fn switch(&self, change: impl FnOnce(&mut Switches)) {
        change(&mut self.world().switches);
    }

    /// Makes the next matching calls misbehave.
    pub fn fault(&self, fault: Fault) {
        self.world().faults.push(fault);
    }

    /// Ends all misbehaviour.
    pub fn heal(&self) {
        self.world().faults.clear();
    }

    /// Ends the faults that were ordered of this call.
    pub fn heal_call(&self, call: &str) {
        self.world().faults.clear_of(call);
    }
}
