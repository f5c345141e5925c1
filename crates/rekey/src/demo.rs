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
use std::io::{IsTerminal, Write};
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
max_wait = "15s"
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
missed_webhook_after = "3s"
quiet = "10s"
probe_interval = "1s"
[layer]
verify_interval = "50ms"
[plaid.limits]
per_item = 1000
[sandbox]
listen = "127.0.0.1:0"
"#;

/// Plays the demonstration and, unless `once`, stays up until Ctrl-C. `verbose`: with the log of every role in between.
pub(crate) async fn run(log: &logs::Settings, once: bool, verbose: bool) -> anyhow::Result<Ended> {
    if verbose {
        // For a person to read, also through a pipe.
        logs::start(log, Clock::Uptime, None).map_err(anyhow::Error::msg)?;
    }
    let local = Local::new(Ground { kafka: None, databases: None, settings: SETTINGS.into() }).await?;
    let rekey = local.start(Role::ALL_IN_ONE, "").await?;
    rekey.ready().await?;
    let play = Play::new(local.sandbox.clone());
    let played = tokio::select! {
        played = play.perform() => played,
        () = process::signal() => {
            say("\nstopping in the middle of the play: Ctrl-C");
            rekey.stop().await;
            local.stop().await;
            return Ok(Ended::Well);
        }
    };
    if let Ok((_, items)) = &played
        && !once
    {
        // In a file, not on the command line, where every process of this machine could read it.
        let token_file = local.directory.path().join("admin-token");
        std::fs::write(&token_file, &local.admin_token)?;
        hints(&local, &rekey, &token_file.display().to_string(), &local.admin_token, items);
        process::signal().await;
        say("\nstopping: Ctrl-C");
    }
    rekey.stop().await;
    local.stop().await;
    played.map(|(exact, _)| if exact { Ended::Well } else { Ended::Failed })
}

/// The token is of this run and ends with it. Behind the # of an address it stays in the browser.
fn hints(local: &Local, rekey: &Running, token_file: &str, token: &str, [item, other]: &[String; 2]) {
    let (Some(console), Some(receiver)) = (rekey.console, rekey.receiver) else { return };
    let Some(sandbox) = local.sandbox_process.sandbox_address else { return };
    let broker = rekey.connection.as_ref().map_or("none", |c| c.bootstrap.as_str());
    let account = local.sandbox.accounts_of(item).ok().and_then(|a| a.first().cloned()).unwrap_or_default();
    let program = std::env::current_exe().map_or_else(|_| "rekey".to_owned(), |p| p.display().to_string());
    say("");
    say("It stays up. Look at it in a browser, signed in:");
    say(&format!("  http://{console}/sign-in#{token}"));
    say("Other addresses:");
    say(&format!("  receiver  http://{receiver}/webhooks/plaid"));
    say(&format!("  admin API http://{console}/openapi.json"));
    say(&format!("  metrics   http://{}/metrics", rekey.ops));
    say(&format!("  sandbox   http://{sandbox}/control/state"));
    say(&format!("  Kafka     {broker} (in this process, in memory)"));
    say("");
    say("Try, in another terminal:");
    say(&format!("  export REKEY_ADMIN__URL=http://{console} REKEY_ADMIN__TOKEN_FILE={token_file}"));
    say(&format!("  {program} status"));
    say(&format!("  {program} explain acme"));
    say(&format!("  {program} history {item}"));
    say("  # rotate an Item behind Rekey's back: only the platform's database knows the new token");
    say(&format!("  curl -X POST 'http://{sandbox}/control/items/{item}/rotate?announce=database'"));
    say("  # close an account at the bank, revoke another Item, ask the oracle, then explain acme again");
    say(&format!("  curl -X POST http://{sandbox}/control/accounts/{account}/close"));
    say(&format!("  curl -X POST http://{sandbox}/control/items/{other}/revoke"));
    say(&format!("  curl 'http://{sandbox}/control/verdict?wait=20'"));
    say("");
    say("Ctrl-C drains and ends it.");
}

/// The demonstration, scene by scene.
struct Play {
    sandbox: Sandbox,
    began: Instant,
    style: Style,
}

/// How the demonstration looks: colours and pauses are for a person at a terminal.
struct Style {
    is_terminal: bool,
    has_colours: bool,
}

/// What a person needs to see that something is dead, before it is mended.
const TO_SEE: Duration = Duration::from_millis(700);

const DEAD: &str = "1;31";
const ALIVE: &str = "32";
const TITLE: &str = "1";

impl Style {
    fn of_terminal() -> Self {
        let is_terminal = std::io::stdout().is_terminal();
        Self { is_terminal, has_colours: is_terminal && logs::may_colour() }
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        if self.has_colours { format!("\u{1b}[{colour}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

impl Play {
    fn new(sandbox: Sandbox) -> Self {
        Self { sandbox, began: Instant::now(), style: Style::of_terminal() }
    }

    fn scene(&self, title: &str) {
        say(&format!("\n[{:>6.2}s] {}", self.began.elapsed().as_secs_f64(), self.style.paint(TITLE, title)));
    }

    /// A part of a line that goes on.
    fn show(text: &str) {
        let mut out = std::io::stdout();
        // The reader may have gone away (`| head`).
        let _ = write!(out, "{text}").and_then(|()| out.flush());
    }

    /// How many accounts of a business Layer can read, and in which colour that is told.
    fn alive(&self, business: &str) -> String {
        let verdict = self.sandbox.business_verdict(business);
        let (alive, all, extra) = (verdict.alive, verdict.accounts, verdict.extra.len());
        match (alive, extra) {
            (0, _) => self.style.paint(DEAD, &format!("0 of {all} DEAD")),
            (_, 1..) => self.style.paint(DEAD, &format!("{alive} of {all} alive, {extra} too many")),
            _ if alive < all => self.style.paint(DEAD, &format!("{alive} of {all} alive")),
            _ => self.style.paint(ALIVE, &format!("{alive} of {all} alive")),
        }
    }

    async fn pause(&self) {
        if self.style.is_terminal {
            tokio::time::sleep(TO_SEE).await;
        }
    }

    /// Waits until the oracle finds the list of this business, or of all, exact.
    async fn until_exact(&self, what: &str, business: Option<&str>) -> anyhow::Result<Duration> {
        let began = Instant::now();
        let is_exact = || match business {
            Some(business) => self.sandbox.business_verdict(business).exact,
            None => self.sandbox.verdict().exact,
        };
        while !is_exact() {
            anyhow::ensure!(began.elapsed() < PATIENCE, "{what} did not converge within {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(began.elapsed())
    }

    /// Something kills tokens, or takes an account away; then word comes, and Rekey mends it: one line.
    async fn heals(
        &self,
        business: &str,
        breaks: impl AsyncFnOnce() -> Result<(), sandbox::Error>,
        word: impl AsyncFnOnce() -> Result<(), sandbox::Error>,
    ) -> anyhow::Result<()> {
        Self::show(&format!("           {business:<7} {}", self.alive(business)));
        breaks().await?;
        Self::show(&format!(" -> {}", self.alive(business)));
        self.pause().await;
        let began = Instant::now();
        word().await?;
        self.until_exact(business, Some(business)).await?;
        say(&format!(" -> {}, {:.1} s", self.alive(business), began.elapsed().as_secs_f64()));
        self.pause().await;
        Ok(())
    }

    async fn link(&self, business: &str, masks: &[&str]) -> anyhow::Result<String> {
        let accounts = masks.iter().map(|m| NewAccount::checking(m)).collect();
        let item = NewItem { business: business.into(), accounts, announce: Announce::Push };
        Ok(self.sandbox.link(&item).await?)
    }

    /// Whether every list is right in the end, and the two Items of acme: all of their accounts are still open.
    async fn perform(&self) -> anyhow::Result<(bool, [String; 2])> {
        for external_id in ["acme", "globex"] {
            let external_id = external_id.into();
            self.sandbox.create_business(&NewBusiness { external_id, at_layer: true, ..NewBusiness::default() });
        }
        self.scene("two businesses link their banks, and the platform pushes the Items");
        let first = self.link("acme", &["1001", "1002"]).await?;
        let second = self.link("acme", &["2001"]).await?;
        let globex = self.link("globex", &["3001", "3002"]).await?;
        let third = self.link("globex", &["4001"]).await?;
        let took = self.until_exact("linking", None).await?;
        for business in ["acme", "globex"] {
            say(&format!("           {business:<7} {} at Layer, {:.1} s", self.alive(business), took.as_secs_f64()));
        }
        self.pause().await;
        let sandbox = &self.sandbox;

        self.scene(
            "both Items of acme get new access tokens: every processor token of theirs dies, and Layer says nothing",
        );
        let breaks = async || {
            sandbox.rotate(&first, Announce::Silent).await?;
            sandbox.rotate(&second, Announce::Silent).await
        };
        let word = async || {
            sandbox.announce(&first, Announce::Push).await?;
            sandbox.announce(&second, Announce::Push).await
        };
        self.heals("acme", breaks, word).await?;
        say("           the platform pushed the new access tokens; Rekey proved them, minted, and sent the list");

        self.scene(&format!("{globex} is rotated, and only the platform's own database knows the new token"));
        let breaks = async || sandbox.rotate(&globex, Announce::Silent).await;
        let word = async || {
            sandbox.announce(&globex, Announce::Database).await?;
            let transactions = json!({"new_transactions": 3});
            sandbox.fire(&globex, "ITEM", "WEBHOOK_UPDATE_ACKNOWLEDGED", &transactions)
        };
        self.heals("globex", breaks, word).await?;
        say("           a signed webhook about something else came; Rekey looked, and found the token there");

        self.scene(&format!(
            "a user revokes one account of {globex} at the bank, and Plaid sends USER_ACCOUNT_REVOKED"
        ));
        let account = sandbox.accounts_of(&globex)?.remove(0);
        let breaks = async || sandbox.close_account(&account);
        let word = async || sandbox.fire(&globex, "ITEM", "USER_ACCOUNT_REVOKED", &json!({"account_id": account}));
        self.heals("globex", breaks, word).await?;
        say("           Rekey read the accounts, and took the proved one off the list");

        self.scene(&format!("{third} is rotated, and nobody says anything: the sweep finds it"));
        let breaks = async || sandbox.rotate(&third, Announce::Silent).await;
        let word = async || sandbox.announce(&third, Announce::Database).await;
        self.heals("globex", breaks, word).await?;

        let verdict = sandbox.verdict();
        self.scene("the oracle, which knows the truth");
        let (counts, good) = (&verdict.counts, verdict.exact && verdict.violations.is_empty());
        let told = if good { "every list at Layer is exactly right, nothing was violated" } else { "NOT exact" };
        say(&format!("           {told}"));
        say(&format!(
            "           {} rotations; {} mints of {} needed, one for each account and access token; {} PUTs, {} needless",
            counts.rotations, counts.mints, verdict.mints_allowed, counts.puts, counts.needless_puts,
        ));
        for violation in &verdict.violations {
            say(&format!("           violated: {violation}"));
        }
        Ok((good, [first, second]))
    }
}
