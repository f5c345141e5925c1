//! `rekey run`: the main job on embedded parts, played for a newcomer to watch.
//!
//! One process: the broker of librdkafka, a SQLite file, the sandbox, and every role, started through the same wiring
//! and the same settings as in production. Credentials are made at run time and gone with the process.

use crate::cli::{Ended, keys, say};
use crate::config::{self, Config, Log};
use crate::wiring::{Given, Roles, Running, start};
use crate::{logs, process};
use sandbox::{Admin, Announce, NewAccount, NewBusiness, NewItem, Sandbox};
use secrecy::SecretString;
use serde_json::json;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The longest that any step of the play may take before the demonstration is called failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// A world on embedded parts, started.
#[derive(Debug)]
pub struct Embedded {
    pub rekey: Running,
    pub sandbox_process: Running,
    pub sandbox: Sandbox,
    pub admin_token: String,
    /// Holds the databases; they go with it.
    pub directory: tempfile::TempDir,
}

/// Settings of the embedded world: short waits, because a person watches.
const SETTINGS: &str = r#"
[ops]
listen = "127.0.0.1:0"
drain = "2s"
[kafka]
bootstrap = "embedded"
[kafka.topics]
replication = 1
[receiver]
listen = "127.0.0.1:0"
[console]
listen = "127.0.0.1:0"
[consumer]
poll = "50ms"
debounce = "150ms"
backoff_first = "300ms"
backoff_cap = "3s"
gone_after = "2s"
awaiting_token_poll = "500ms"
sweep_period = "30s"
sweep_share = 1.0
sweep_at_start = true
quiet = "10s"
probe_interval = "1s"
[layer]
verify_interval = "50ms"
calls_per_minute = 60000
[plaid]
calls_per_minute = 60000
[sandbox]
listen = "127.0.0.1:0"
"#;

impl Embedded {
    /// Starts the sandbox and every role. `extra` is TOML that goes on top.
    pub async fn start(extra: &str) -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("rekey-run-").tempdir()?;
        let (admin_token, admin_hash) = console::new_token();
        let secret = || uuid::Uuid::new_v4().to_string();
        let (plaid_secret, layer_secret) = (secret(), secret());
        let path = |name: &str| directory.path().join(name).display().to_string();
        let platform = format!("sqlite://{}?mode=rwc", path("platform.sqlite"));
        let mut environment = BTreeMap::from(
            [
                ("DATABASE__URL", format!("sqlite://{}", path("rekey.sqlite"))),
                ("SECRETS__KEYS", keys::sealing_key()),
                ("SECRETS__FINGERPRINT_KEY", keys::fingerprint_key()),
                ("PLAID__CLIENT_ID", sandbox::PLAID_CLIENT_ID.to_owned()),
                ("PLAID__SECRET", plaid_secret.clone()),
                ("PLAID__KEYS__FILE", path("webhook-keys.json")),
                ("LAYER__CLIENT_ID", sandbox::LAYER_CLIENT_ID.to_owned()),
                ("LAYER__CLIENT_SECRET", layer_secret.clone()),
                ("TOKEN_SOURCE__URL", platform.clone()),
                ("TOKEN_SOURCE__SQL", "SELECT access_token FROM platform_items WHERE item_id = $1".to_owned()),
                ("CONSOLE__TOKENS", format!("demo:operate:{admin_hash}")),
                ("SANDBOX__PLAID_SECRET", plaid_secret),
                ("SANDBOX__LAYER_SECRET", layer_secret),
                ("SANDBOX__PLATFORM_DATABASE_URL", platform),
            ]
            .map(|(k, v)| (format!("REKEY_{k}"), v)),
        );
        let load = |environment: &BTreeMap<String, String>| -> anyhow::Result<Config> {
            Ok(config::load_text("embedded", &layered(extra), environment)?)
        };
        let sandbox_process =
            start(load(&environment)?, Roles { sandbox: true, ..Roles::default() }, Given::default()).await?;
        let (Some(sandbox), Some(address)) = (sandbox_process.sandbox.clone(), sandbox_process.sandbox_address) else {
            anyhow::bail!("the sandbox did not start");
        };
        let base = format!("http://{address}");
        for key in ["PLAID__BASE_URL", "LAYER__BASE_URL"] {
            environment.insert(format!("REKEY_{key}"), base.clone());
        }
        environment.insert("REKEY_LAYER__TOKEN_URL".into(), format!("{base}/oauth2/token"));
        let rekey = start(load(&environment)?, Roles::ALL, Given::default()).await?;
        rekey.ready().await?;
        if let (Some(receiver), Some(console)) = (rekey.receiver, rekey.console) {
            sandbox.set_webhook_url(format!("http://{receiver}/webhooks/plaid"));
            let token = SecretString::from(admin_token.clone());
            sandbox.set_admin(Admin { url: format!("http://{console}"), token });
        }
        Ok(Self { rekey, sandbox_process, sandbox, admin_token, directory })
    }

    pub async fn stop(self) {
        self.rekey.stop().await;
        self.sandbox_process.stop().await;
    }
}

/// Puts `extra` over the settings, section by section.
fn layered(extra: &str) -> String {
    let parse = |text: &str| text.parse::<toml::Table>().unwrap_or_default();
    let mut merged = parse(SETTINGS);
    for (section, values) in parse(extra) {
        match (merged.get_mut(&section).and_then(toml::Value::as_table_mut), values) {
            (Some(into), toml::Value::Table(values)) => into.extend(values),
            (_, values) => drop(merged.insert(section, values)),
        }
    }
    merged.to_string()
}

/// Plays the demonstration and, unless `once`, stays up until Ctrl-C.
pub(crate) async fn run(log: &Log, once: bool) -> anyhow::Result<Ended> {
    let began = Instant::now();
    logs::start(log).map_err(anyhow::Error::msg)?;
    let embedded = Embedded::start("").await?;
    let mut play = Play { sandbox: embedded.sandbox.clone(), began };
    let ended = tokio::select! {
        ended = play.perform() => ended,
        () = process::signal() => Ok(true),
    };
    let exact = match ended {
        Ok(exact) => exact,
        Err(error) => {
            embedded.stop().await;
            return Err(error);
        }
    };
    if !once {
        // In a file, not on the command line, where every process of this machine could read it.
        let token_file = embedded.directory.path().join("admin-token");
        std::fs::write(&token_file, &embedded.admin_token)?;
        hints(&embedded, &token_file.display().to_string());
        process::signal().await;
        say("");
        say("stopping: Ctrl-C");
    }
    embedded.stop().await;
    Ok(if exact { Ended::Well } else { Ended::Failed })
}

fn hints(embedded: &Embedded, token_file: &str) {
    let (Some(console), Some(receiver)) = (embedded.rekey.console, embedded.rekey.receiver) else { return };
    let Some(sandbox) = embedded.sandbox_process.sandbox_address else { return };
    let broker = embedded.rekey.connection.as_ref().map_or("none", |c| c.bootstrap.as_str());
    let items = embedded.sandbox.items();
    let item = items.last().map_or("", String::as_str);
    let account = embedded.sandbox.accounts_of(item).ok().and_then(|a| a.first().cloned()).unwrap_or_default();
    let program = std::env::current_exe().map_or_else(|_| "rekey".to_owned(), |p| p.display().to_string());
    say("");
    say("It stays up. Addresses:");
    say(&format!("  receiver  http://{receiver}/webhooks/plaid"));
    say(&format!("  admin API http://{console}/openapi.json"));
    say(&format!("  metrics   http://{}/metrics", embedded.rekey.ops));
    say(&format!("  sandbox   http://{sandbox}/control/state"));
    say(&format!("  Kafka     {broker} (in this process, in memory)"));
    say("");
    say("Try, in another terminal:");
    say(&format!("  export REKEY_ADMIN__URL=http://{console} REKEY_ADMIN__TOKEN_FILE={token_file}"));
    say(&format!("  {program} business show acme"));
    say(&format!("  {program} item show {item}"));
    say("  # rotate an Item behind Rekey's back: only the platform's database knows the new token");
    say(&format!("  curl -X POST 'http://{sandbox}/control/items/{item}/rotate?announce=database'"));
    say("  # close an account at the bank, revoke a whole Item, then ask the oracle");
    say(&format!("  curl -X POST http://{sandbox}/control/accounts/{account}/close"));
    say(&format!("  curl -X POST http://{sandbox}/control/items/{item}/revoke"));
    say(&format!("  curl http://{sandbox}/control/verdict"));
    say("");
    say("Ctrl-C drains and ends it.");
}

/// The demonstration, scene by scene.
struct Play {
    sandbox: Sandbox,
    began: Instant,
}

impl Play {
    fn scene(&self, text: &str) {
        say(&format!("\n[{:>6.2}s] {text}", self.began.elapsed().as_secs_f64()));
    }

    /// Waits until the oracle finds every list exact again.
    async fn until_exact(&self, what: &str) -> anyhow::Result<()> {
        let began = Instant::now();
        while !self.sandbox.verdict().exact {
            anyhow::ensure!(began.elapsed() < PATIENCE, "{what} did not converge within {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let took = began.elapsed().as_millis();
        say(&format!(
            "[{:>6.2}s]   -> {what}: every list at Layer is exact, {took} ms",
            self.began.elapsed().as_secs_f64()
        ));
        Ok(())
    }

    async fn until_business(&self, business: &str) -> anyhow::Result<()> {
        let began = Instant::now();
        while !self.sandbox.business_verdict(business).exact {
            anyhow::ensure!(began.elapsed() < PATIENCE, "{business} did not converge within {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    async fn link(&self, business: &str, masks: &[&str]) -> anyhow::Result<String> {
        let accounts = masks.iter().map(|m| NewAccount::checking(m)).collect();
        let item = NewItem { business: business.into(), accounts, announce: Announce::Push };
        Ok(self.sandbox.link(&item).await?)
    }

    async fn perform(&mut self) -> anyhow::Result<bool> {
        for external_id in ["acme", "globex"] {
            self.sandbox.create_business(&NewBusiness {
                external_id: external_id.into(),
                at_layer: true,
                phone: None,
                archived: false,
            });
        }
        self.scene("acme links a bank with two accounts; the platform pushes the Item");
        let first = self.link("acme", &["1001", "1002"]).await?;
        self.until_business("acme").await?;
        say(&format!("[{:>6.2}s]   -> first business converged", self.began.elapsed().as_secs_f64()));

        self.scene("a second bank for acme, and two banks for globex");
        self.link("acme", &["2001"]).await?;
        let globex = self.link("globex", &["3001", "3002"]).await?;
        let third = self.link("globex", &["4001"]).await?;
        self.until_exact("linking").await?;

        self.scene(&format!("the access token of {first} is rotated; every processor token of it is dead at Layer"));
        say("           the platform pushes the new access token");
        self.sandbox.rotate(&first, Announce::Push).await?;
        self.until_exact("pushed rotation").await?;

        self.scene(&format!("{globex} is rotated, and only the platform's own database knows"));
        self.sandbox.rotate(&globex, Announce::Database).await?;
        say("           a signed webhook about it arrives, and Rekey looks");
        let transactions = json!({"new_transactions": 3});
        self.sandbox.fire(&globex, "ITEM", "WEBHOOK_UPDATE_ACKNOWLEDGED", &transactions)?;
        self.until_exact("rotation found by lookup").await?;

        self.scene(&format!("a user revokes one account of {globex} at the bank; Plaid sends USER_ACCOUNT_REVOKED"));
        let account = self.sandbox.accounts_of(&globex)?.remove(0);
        self.sandbox.close_account(&account)?;
        self.sandbox.fire(&globex, "ITEM", "USER_ACCOUNT_REVOKED", &json!({"account_id": account}))?;
        self.until_exact("revoked account").await?;

        self.scene(&format!("{third} is rotated and nobody says anything; the sweep finds it, or you push it"));
        self.sandbox.rotate(&third, Announce::Database).await?;
        self.until_exact("silent rotation").await?;

        let verdict = self.sandbox.verdict();
        self.scene("the oracle's verdict");
        let counts = &verdict.counts;
        say(&format!(
            "           {}; {} rotations, {} mints of {} allowed, {} PUTs, {} of them needless, {} webhooks answered 200",
            if verdict.exact && verdict.violations.is_empty() {
                "every list at Layer is exactly right, nothing was violated"
            } else {
                "NOT exact"
            },
            counts.rotations,
            counts.mints,
            verdict.mints_allowed,
            counts.puts,
            counts.needless_puts,
            counts.webhooks_answered_200,
        ));
        for violation in &verdict.violations {
            say(&format!("           violated: {violation}"));
        }
        Ok(verdict.exact && verdict.violations.is_empty())
    }
}
