//! A whole world on this machine: the sandbox and every role, with credentials made at run time.
//!
//! The demonstration and the tests use it, on embedded parts or on a real Apache Kafka and PostgreSQL, through the same
//! configuration and wiring as production.

use crate::cli::keys;
use crate::config::{self, Config};
use crate::wiring::{Given, Running, start};
use anyhow::bail;
use bus::EmbeddedBroker;
use domain::Role;
use sandbox::{Admin, Sandbox};
use secrecy::SecretString;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// What the world stands on.
#[derive(Debug, Clone)]
pub struct Ground {
    /// None: the broker inside the process.
    pub kafka: Option<String>,
    /// None: SQLite files in the world's directory.
    pub databases: Option<Databases>,
    /// TOML with the settings of this world.
    pub settings: String,
}

/// PostgreSQL databases of this world's own.
#[derive(Debug, Clone)]
pub struct Databases {
    pub rekey: String,
    pub platform: String,
}

/// The world, with the sandbox running. Roles are started by [`Local::start`], as often as one likes.
#[derive(Debug)]
pub struct Local {
    pub sandbox: Sandbox,
    pub sandbox_process: Running,
    pub admin_token: String,
    /// Settings beyond the text, as a process would get them from its environment.
    pub environment: BTreeMap<String, String>,
    pub settings: String,
    /// Holds the files; they go with it.
    pub directory: tempfile::TempDir,
    pub broker: Option<Arc<EmbeddedBroker>>,
}

impl Local {
    /// Makes the world and starts its sandbox.
    pub async fn new(ground: Ground) -> anyhow::Result<Self> {
        // Tokens and keys lie in it: for this user alone.
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        let directory = tempfile::Builder::new().prefix("rekey-").permissions(private).tempdir()?;
        let (admin_token, admin_hash) = console::new_token();
        let mut environment = credentials(&ground, directory.path(), &admin_hash);
        let config = load(&ground.settings, &environment)?;
        let broker = match config.kafka.is_embedded() {
            true => Some(Arc::new(EmbeddedBroker::start(&config.kafka.topics, 4)?)),
            false => None,
        };
        let roles = &[Role::Sandbox];
        let sandbox_process = start(config, roles, Given::default()).await?;
        let (Some(sandbox), Some(address)) = (sandbox_process.sandbox.clone(), sandbox_process.sandbox_address) else {
            bail!("the sandbox did not start");
        };
        let base = format!("http://{address}");
        environment.insert("REKEY_LAYER__TOKEN_URL".into(), format!("{base}/oauth2/token"));
        for key in ["REKEY_PLAID__BASE_URL", "REKEY_LAYER__BASE_URL"] {
            environment.insert(key.into(), base.clone());
        }
        let settings = ground.settings;
        Ok(Self { sandbox, sandbox_process, admin_token, environment, settings, directory, broker })
    }

    /// The configuration of this world, with `extra` TOML on top.
    pub fn config(&self, extra: &str) -> anyhow::Result<Config> {
        load(&layered(&self.settings, extra), &self.environment)
    }

    /// Starts roles in this process and, where there are such, points the sandbox at them.
    pub async fn start(&self, roles: &[Role], extra: &str) -> anyhow::Result<Running> {
        let running = start(self.config(extra)?, roles, Given { broker: self.broker.clone() }).await?;
        if let Some(receiver) = running.receiver {
            self.sandbox.set_webhook_url(format!("http://{receiver}/webhooks/plaid"));
        }
        if let Some(console) = running.console {
            let token = SecretString::from(self.admin_token.clone());
            self.sandbox.set_admin(Admin { url: format!("http://{console}"), token });
        }
        Ok(running)
    }

    /// Ends the sandbox and whatever was made for it.
    pub async fn stop(self) {
        self.sandbox_process.stop().await;
    }
}

/// Everything secret, made now.
fn credentials(ground: &Ground, directory: &Path, admin_hash: &str) -> BTreeMap<String, String> {
    let secret = || uuid::Uuid::new_v4().to_string();
    let (plaid_secret, layer_secret) = (secret(), secret());
    let file = |name: &str| directory.join(name).display().to_string();
    let (rekey, platform) = match &ground.databases {
        Some(databases) => (databases.rekey.clone(), databases.platform.clone()),
        None => {
            (format!("sqlite://{}", file("rekey.sqlite")), format!("sqlite://{}?mode=rwc", file("platform.sqlite")))
        }
    };
    let bootstrap = ground.kafka.clone().unwrap_or_else(|| "embedded".into());
    let settings = [
        ("KAFKA__BOOTSTRAP", bootstrap),
        ("DATABASE__URL", rekey),
        ("SECRETS__KEYS", keys::sealing_key()),
        ("SECRETS__FINGERPRINT_KEY", keys::fingerprint_key()),
        ("PLAID__CLIENT_ID", sandbox::PLAID_CLIENT_ID.to_owned()),
        ("PLAID__SECRET", plaid_secret.clone()),
        ("PLAID__KEYS__FILE", file("webhook-keys.json")),
        ("LAYER__CLIENT_ID", sandbox::LAYER_CLIENT_ID.to_owned()),
        ("LAYER__CLIENT_SECRET", layer_secret.clone()),
        ("TOKEN_SOURCE__URL", platform.clone()),
        ("CONSOLE__TOKENS", format!("local:operate:{admin_hash}")),
        ("SANDBOX__PLAID_SECRET", plaid_secret),
        ("SANDBOX__LAYER_SECRET", layer_secret),
        ("SANDBOX__PLATFORM_DATABASE_URL", platform),
    ];
    settings.into_iter().map(|(k, v)| (format!("REKEY_{k}"), v)).collect()
}

fn load(settings: &str, environment: &BTreeMap<String, String>) -> anyhow::Result<Config> {
    Ok(config::load_text("local settings", settings, environment)?)
}

/// Puts `extra` over `base`, section by section.
fn layered(base: &str, extra: &str) -> String {
    let parse = |text: &str| text.parse::<toml::Table>();
    match (parse(base), parse(extra)) {
        (Ok(mut merged), Ok(extra)) => {
            config::merge(&mut merged, extra);
            merged.to_string()
        }
        // Left as it is: the loader names the line.
        _ => format!("{base}\n{extra}"),
    }
}
