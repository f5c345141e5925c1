//! The command line. It acts through the admin API, never on the database file of a running process.

mod admin;
mod batch;
mod check;
mod client;
mod explain;
mod import;
mod item;
pub(crate) mod keys;
mod order;
mod outcomes;
mod plan;
mod status;
mod table;

pub use import::check_import;
pub use keys::sealing_key;

use crate::config::{self, BadSetting, Config};
use crate::logs::Clock;
use crate::{demo, logs, process};
use clap::{CommandFactory, Parser, Subcommand};
use domain::fault::chain;
use domain::{Role, metric};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// What a command came to, for scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    Well,
    /// 1: it failed.
    Failed,
    /// 3: not found.
    NotFound,
    /// 4: a push was refused: it can't be stored as it is, or its access token is not the Item's.
    Rejected,
    /// 5: stored or ordered, but Plaid or Layer have not answered yet, or a person must act first.
    Pending,
}

impl From<Ended> for ExitCode {
    fn from(ended: Ended) -> Self {
        Self::from(match ended {
            Ended::Well => 0,
            Ended::Failed => 1,
            Ended::NotFound => 3,
            Ended::Rejected => 4,
            Ended::Pending => 5,
        })
    }
}

/// The command was used in a way that can't work: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) String);

/// Keeps Layer's view of bank accounts alive when Plaid access tokens change.
///
/// Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 no such thing, 4 push refused, 5 not answered yet, or it
/// waits for a person.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Cli {
    /// The TOML file; rekey.example.toml lists every setting.
    #[arg(long, short, global = true, env = "REKEY_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Answer in JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show the main job on embedded parts and stay up: no services, no credentials.
    Run {
        /// End after the demonstration instead of staying up.
        #[arg(long)]
        once: bool,
        /// Show the log of every role in between.
        #[arg(long)]
        verbose: bool,
    },
    /// Receive Plaid's webhooks and publish them to Kafka.
    Receiver,
    /// Take events in, mint processor tokens, keep Layer's lists true.
    Consumer,
    /// Serve the admin API.
    Console,
    /// Receiver, consumer and console in one process.
    All,
    /// Serve simulators of Plaid and Layer.
    Sandbox,
    /// Bring the database to this release's schema.
    Migrate,
    /// Validate the configuration and each connection, and say what to fix.
    Check {
        /// Only what this role needs; may be given several times. All of them if none is named. In a pod it is the pod's.
        #[arg(long, value_parser = check::role(), env = "REKEY_ROLE", value_delimiter = ',')]
        role: Vec<Role>,
    },
    /// Kafka topics.
    #[command(subcommand)]
    Topics(TopicsCommand),
    /// Make and rotate keys.
    #[command(subcommand)]
    Keys(KeysCommand),
    /// Make admin tokens.
    #[command(subcommand)]
    Token(TokenCommand),
    /// How everything stands: whether every list is right, and what is not, since when.
    Status(status::Status),
    /// Why a business or an Item stands as it does, what comes next, what somebody can do, what happened.
    #[command(
        after_help = "Example: rekey explain acme\n         rekey explain 0000   (the last digits of an account)"
    )]
    Explain(explain::Explain),
    /// What a reconciliation would do now: mint, send, hold. By live reads, and without a write.
    ///
    /// A consumer runs the reconcilers on a copy of what is stored: it reads the accounts at Plaid and the list at Layer, within the
    /// budgets, and notes what would be minted and sent. What Plaid would say to a mint, or Layer to the list, is not known before.
    #[command(
        after_help = "Example: rekey plan acme\n         rekey plan acme --stored   (from what was read last: nobody is asked)\n         rekey plan   (all businesses: those that differ, and a summary)"
    )]
    Plan(plan::Plan),
    /// What happened to a business or an Item, and what operators did to it; the newest first.
    #[command(after_help = "Example: rekey history acme --limit 20")]
    History(explain::History),
    /// What changed, as the platform reads it from the topic of outcomes; the newest first, or as it comes.
    ///
    /// It is read from what is kept of every business and Item (`consumer.history_kept`), not from Kafka. An outcome about an Item is
    /// told once, and not once for each of its businesses; where the topic lists accounts of a business, this has their number.
    #[command(
        after_help = "Example: rekey outcomes --business acme --since 2h\n         rekey outcomes --follow --json   (an object a line)"
    )]
    Outcomes(outcomes::Outcomes),
    /// Providers whose work is stopped: because they refuse everybody, or because somebody ordered it.
    Pauses,
    /// Stop a provider's work, let it go on, or have it asked now.
    #[command(subcommand)]
    Provider(admin::ProviderCommand),
    /// Webhooks and records that nobody could read.
    #[command(subcommand, name = "dead-letters")]
    DeadLetters(admin::DeadLettersCommand),
    /// Items.
    #[command(subcommand)]
    Item(item::ItemCommand),
    /// Businesses.
    #[command(subcommand)]
    Business(admin::BusinessCommand),
    /// What waits for a person.
    #[command(subcommand)]
    Parked(admin::ParkedCommand),
    /// Orders for all that are kept for one cause (`rekey parked release --all`): how far they are.
    #[command(subcommand)]
    Batch(batch::BatchCommand),
    /// What was done through the admin API: by whom, from where, what was so before and after; the newest first.
    Audit(admin::AuditArgs),
    /// The providers' limits, and what is booked of them.
    Budget,
    /// Every metric: what it counts, its labels, the question it answers; as the table of deploy/README.md, or in JSON.
    Metrics,
    /// The JSON schema of the settings, as the chart's values take them under `config`.
    ConfigSchema,
    /// The admin API as an OpenAPI document, to make clients from.
    Openapi,
    /// Print what a shell needs to complete commands.
    #[command(after_help = "Example: rekey completions bash > /etc/bash_completion.d/rekey")]
    Completions {
        /// For which shell.
        shell: clap_complete::Shell,
    },
    /// Write the manual pages of every command into a directory.
    #[command(after_help = "Example: rekey man /usr/local/share/man/man1")]
    Man {
        /// Where to. It must exist.
        directory: PathBuf,
    },
    /// Push many Items from a file of JSON lines, each `{"item_id": …, "access_token": …, "business": …}`.
    Import(import::Import),
}

#[derive(Subcommand)]
enum TopicsCommand {
    /// Create the topics that are missing.
    Apply,
}

#[derive(Subcommand)]
enum KeysCommand {
    /// Print a new key for secrets.keys and one for secrets.fingerprint_key.
    New,
    /// Move every sealed value under the first key of secrets.keys, while everything runs, and prove that none is left
    /// under another. Before: give all processes the new key as the second one, then as the first one.
    Rotate,
}

#[derive(Subcommand)]
enum TokenCommand {
    /// Print a new admin token and the line for console.tokens.
    #[command(after_help = "Example: rekey token new on-call operate")]
    New {
        /// Who it is for: the audit trail names it.
        name: String,
        /// read sees, operate also changes.
        #[arg(value_parser = ["read", "operate"])]
        role: String,
    },
}

/// Runs the command line.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    // A variable that is not UTF-8 is none of ours.
    let environment: BTreeMap<String, String> =
        std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))).collect();
    let loaded = match cli.command.reads_settings() {
        true => config::load(cli.config.as_deref(), &environment),
        false => config::load(None, &BTreeMap::new()),
    };
    let config = match loaded {
        Ok(config) => config,
        Err(error) => return failed(2, &error),
    };
    let (no_file, json) = (cli.config.is_none() && cli.command.reads_settings(), cli.json);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(1, &error),
    };
    match runtime.block_on(dispatch(cli, config)) {
        Ok(ended) => ended.into(),
        Err(error) => {
            let is_configuration = error.is::<Usage>()
                || error.is::<BadSetting>()
                || error.is::<store::BadKeyRing>()
                || error.downcast_ref::<bus::Error>().is_some_and(|e| matches!(e, bus::Error::Config(_)));
            if is_configuration && no_file {
                complain("no configuration file was given (--config or REKEY_CONFIG), only the environment was read");
            }
            if json {
                // A script reads one form, whether the API was reached or not.
                let word = if is_configuration { "usage" } else { "failed" };
                say(&serde_json::json!({"error": word, "message": chain(error.as_ref())}).to_string());
            }
            failed(if is_configuration { 2 } else { 1 }, error.as_ref())
        }
    }
}

impl Command {
    /// A file that a setting names and nobody has made yet must not stop the command that makes it.
    fn reads_settings(&self) -> bool {
        !matches!(
            self,
            Self::Keys(KeysCommand::New)
                | Self::Token(_)
                | Self::Metrics
                | Self::ConfigSchema
                | Self::Openapi
                | Self::Completions { .. }
                | Self::Man { .. }
        )
    }
}

/// One line on standard error: what is wrong and what to do.
#[allow(clippy::print_stderr, reason = "the last word of a command is for the terminal, not for the log")]
pub(crate) fn complain(text: &str) {
    eprintln!("rekey: {text}");
}

fn failed(code: u8, error: &(dyn std::error::Error + 'static)) -> ExitCode {
    complain(&chain(error));
    ExitCode::from(code)
}

/// `service` is what traces call the process.
async fn serve(config: Config, service: &'static str, roles: &[Role]) -> anyhow::Result<Ended> {
    config.broker_serves(roles)?;
    let traces = config.traces()?.map(|to| traces::Exporter::new(&to, service)).transpose()?;
    logs::start(&config.log, Clock::Wall, traces.as_ref()).map_err(Usage)?;
    let ended = process::run(config, roles).await;
    if let Some(traces) = traces {
        traces.stop().await;
    }
    ended.map(|()| Ended::Well)
}

async fn dispatch(cli: Cli, config: Config) -> anyhow::Result<Ended> {
    match cli.command {
        Command::Run { once, verbose } => demo::run(&config.log, once, verbose).await,
        Command::Receiver => serve(config, "rekey-receiver", &[Role::Receiver]).await,
        Command::Consumer => serve(config, "rekey-consumer", &[Role::Consumer]).await,
        Command::Console => serve(config, "rekey-console", &[Role::Console]).await,
        Command::All => serve(config, "rekey", Role::ALL_IN_ONE).await,
        Command::Sandbox => serve(config, "rekey-sandbox", &[Role::Sandbox]).await,
        Command::Migrate => check::migrate(&config, cli.json).await,
        Command::Check { role } => check::check(&config, &role, cli.config.is_none(), cli.json).await,
        Command::Topics(TopicsCommand::Apply) => check::apply_topics(&config, cli.json).await,
        Command::Keys(KeysCommand::New) => keys::new_keys(cli.json),
        Command::Keys(KeysCommand::Rotate) => admin::rotate_keys(&client::Admin::new(&config, cli.json)?).await,
        Command::Token(TokenCommand::New { name, role }) => keys::new_token(&name, &role, cli.json),
        Command::Status(args) => status::status(&client::Admin::new(&config, cli.json)?, &args).await,
        Command::Explain(args) => explain::explain(&client::Admin::new(&config, cli.json)?, &args).await,
        Command::Plan(args) => plan::plan(&client::Admin::new(&config, cli.json)?, &args).await,
        Command::History(args) => explain::history(&client::Admin::new(&config, cli.json)?, &args).await,
        Command::Outcomes(args) => outcomes::outcomes(&client::Admin::new(&config, cli.json)?, &args).await,
        Command::Pauses => status::pauses(&client::Admin::new(&config, cli.json)?).await,
        Command::Provider(command) => admin::provider(&client::Admin::new(&config, cli.json)?, command).await,
        Command::DeadLetters(command) => admin::dead_letters(&client::Admin::new(&config, cli.json)?, command).await,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "rekey", &mut script);
            say(String::from_utf8_lossy(&script).trim_end());
            Ok(Ended::Well)
        }
        Command::Man { directory } => {
            clap_mangen::generate_to(Cli::command(), &directory)
                .map_err(|e| Usage(format!("the manual can't be written into {}: {e}", directory.display())))?;
            Ok(Ended::Well)
        }
        Command::Item(command) => item::item(&client::Admin::new(&config, cli.json)?, command).await,
        Command::Business(command) => admin::business(&client::Admin::new(&config, cli.json)?, command).await,
        Command::Parked(command) => admin::parked(&client::Admin::new(&config, cli.json)?, command).await,
        Command::Batch(command) => batch::batch(&client::Admin::new(&config, cli.json)?, command).await,
        Command::Audit(args) => admin::audit(&client::Admin::new(&config, cli.json)?, &args).await,
        Command::Budget => admin::budget(&client::Admin::new(&config, cli.json)?).await,
        Command::Metrics => metrics(cli.json),
        Command::Openapi => {
            say(&console::openapi_document());
            Ok(Ended::Well)
        }
        Command::ConfigSchema => {
            say(&serde_json::to_string_pretty(&config::chart_schema())?);
            Ok(Ended::Well)
        }
        Command::Import(import) => import.run(client::Admin::new(&config, cli.json)?).await,
    }
}

fn metrics(json: bool) -> anyhow::Result<Ended> {
    match json {
        true => say(&serde_json::to_string_pretty(metric::ALL)?),
        false => say(metric::markdown().trim_end()),
    }
    Ok(Ended::Well)
}

/// A line of a command's result.
pub(crate) fn say(line: &str) {
    // The reader may have gone away (`| head`).
    let _ = writeln!(std::io::stdout(), "{line}");
}
