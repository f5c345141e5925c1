//! `rekey run`: the main job on embedded parts, played for a newcomer to watch.
//!
//! One process: the broker of librdkafka, a SQLite file, the sandbox, and every role, started through the same wiring
//! and the same settings as in production. Credentials are made at run time and gone with the process.

use crate::cli::{Ended, say};
use crate::local::{Ground, Local};
use crate::logs::Clock;
use crate::wiring::Running;
use crate::{logs, process};
use domain::Role;
use sandbox::{Announce, NewAccount, NewBusiness, NewItem, Sandbox};
use serde_json::json;
use std::time::{Duration, Instant};

/// The longest that any step of the play may take before the demonstration is called failed.
const PATIENCE: Duration = Duration::from_secs(30);

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
sweep_period = "8s"
sweep_share = 1.0
sweep_at_start = true
quiet = "10s"
probe_interval = "1s"
[layer]
verify_interval = "50ms"
[plaid.limits]
per_item = 1000
[sandbox]
listen = "127.0.0.1:0"
"#;

/// Plays the demonstration and, unless `once`, stays up until Ctrl-C.
pub(crate) async fn run(log: &logs::Settings, once: bool) -> anyhow::Result<Ended> {
    let began = Instant::now();
    // For a person to read, also through a pipe.
    logs::start(log, Clock::Uptime, None).map_err(anyhow::Error::msg)?;
    let local = Local::new(Ground { kafka: None, databases: None, settings: SETTINGS.into() }).await?;
    let rekey = local.start(Role::ALL_IN_ONE, "").await?;
    rekey.ready().await?;
    let mut play = Play { sandbox: local.sandbox.clone(), began };
    let played = tokio::select! {
        played = play.perform() => played.map(|exact| if exact { Ended::Well } else { Ended::Failed }),
        () = process::signal() => {
            say("\nstopping in the middle of the play: Ctrl-C");
            rekey.stop().await;
            local.stop().await;
            return Ok(Ended::Well);
        }
    };
    if played.is_ok() && !once {
        // In a file, not on the command line, where every process of this machine could read it.
        let token_file = local.directory.path().join("admin-token");
        std::fs::write(&token_file, &local.admin_token)?;
        hints(&local, &rekey, &token_file.display().to_string());
        process::signal().await;
        say("\nstopping: Ctrl-C");
    }
    rekey.stop().await;
    local.stop().await;
    played
}

fn hints(local: &Local, rekey: &Running, token_file: &str) {
    let (Some(console), Some(receiver)) = (rekey.console, rekey.receiver) else { return };
    let Some(sandbox) = local.sandbox_process.sandbox_address else { return };
    let broker = rekey.connection.as_ref().map_or("none", |c| c.bootstrap.as_str());
    let items = local.sandbox.items();
    let item = items.last().map_or("", String::as_str);
    let account = local.sandbox.accounts_of(item).ok().and_then(|a| a.first().cloned()).unwrap_or_default();
    let program = std::env::current_exe().map_or_else(|_| "rekey".to_owned(), |p| p.display().to_string());
    say("");
    say("It stays up. Addresses:");
    say(&format!("  receiver  http://{receiver}/webhooks/plaid"));
    say(&format!("  admin API http://{console}/openapi.json"));
    say(&format!("  metrics   http://{}/metrics", rekey.ops));
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
    say(&format!("  curl 'http://{sandbox}/control/verdict?wait=10'"));
    say("");
    say("Ctrl-C drains and ends it.");
}

async fn until(what: &str, began: Instant, is_exact: impl Fn() -> bool) -> anyhow::Result<()> {
    while !is_exact() {
        anyhow::ensure!(began.elapsed() < PATIENCE, "{what} did not converge within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// The demonstration, scene by scene.
struct Play {
    sandbox: Sandbox,
    began: Instant,
}

impl Play {
    fn scene(&self, text: &str) -> Instant {
        say(&format!("\n[{:>6.2}s] {text}", self.began.elapsed().as_secs_f64()));
        Instant::now()
    }

    /// Waits until the oracle finds every list exact again.
    async fn until_exact(&self, what: &str, began: Instant) -> anyhow::Result<()> {
        until(what, began, || self.sandbox.verdict().exact).await?;
        let took = began.elapsed().as_millis();
        say(&format!(
            "[{:>6.2}s]   -> {what}: every list at Layer is exact, {took} ms",
            self.began.elapsed().as_secs_f64()
        ));
        Ok(())
    }

    async fn link(&self, business: &str, masks: &[&str]) -> anyhow::Result<String> {
        let accounts = masks.iter().map(|m| NewAccount::checking(m)).collect();
        let item = NewItem { business: business.into(), accounts, announce: Announce::Push };
        Ok(self.sandbox.link(&item).await?)
    }

    async fn perform(&mut self) -> anyhow::Result<bool> {
        for external_id in ["acme", "globex"] {
            let external_id = external_id.into();
            self.sandbox.create_business(&NewBusiness { external_id, at_layer: true, ..NewBusiness::default() });
        }
        self.scene("acme links a bank with two accounts; the platform pushes the Item");
        let first = self.link("acme", &["1001", "1002"]).await?;
        until("acme", Instant::now(), || self.sandbox.business_verdict("acme").exact).await?;
        say(&format!("[{:>6.2}s]   -> first business converged", self.began.elapsed().as_secs_f64()));

        let scene = self.scene("a second bank for acme, and two banks for globex");
        self.link("acme", &["2001"]).await?;
        let globex = self.link("globex", &["3001", "3002"]).await?;
        let third = self.link("globex", &["4001"]).await?;
        self.until_exact("linking", scene).await?;

        let scene = self
            .scene(&format!("the access token of {first} is rotated; every processor token of it is dead at Layer"));
        say("           the platform pushes the new access token");
        self.sandbox.rotate(&first, Announce::Push).await?;
        self.until_exact("pushed rotation", scene).await?;

        let scene = self.scene(&format!("{globex} is rotated, and only the platform's own database knows"));
        self.sandbox.rotate(&globex, Announce::Database).await?;
        say("           a signed webhook about it arrives, and Rekey looks");
        let transactions = json!({"new_transactions": 3});
        self.sandbox.fire(&globex, "ITEM", "WEBHOOK_UPDATE_ACKNOWLEDGED", &transactions)?;
        self.until_exact("rotation found by lookup", scene).await?;

        let scene = self
            .scene(&format!("a user revokes one account of {globex} at the bank; Plaid sends USER_ACCOUNT_REVOKED"));
        let account = self.sandbox.accounts_of(&globex)?.remove(0);
        self.sandbox.close_account(&account)?;
        self.sandbox.fire(&globex, "ITEM", "USER_ACCOUNT_REVOKED", &json!({"account_id": account}))?;
        self.until_exact("revoked account", scene).await?;

        let scene =
            self.scene(&format!("{third} is rotated and nobody says anything; the sweep finds it, or you push it"));
        self.sandbox.rotate(&third, Announce::Database).await?;
        self.until_exact("silent rotation", scene).await?;

        let verdict = self.sandbox.verdict();
        self.scene("the oracle's verdict");
        let (counts, good) = (&verdict.counts, verdict.exact && verdict.violations.is_empty());
        say(&format!(
            "           {}; {} rotations, {} mints of {} allowed, {} PUTs, {} of them needless, {} webhooks answered 200",
            if good { "every list at Layer is exactly right, nothing was violated" } else { "NOT exact" },
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
        Ok(good)
    }
}
