//! What else calls the admin API: businesses, what is parked, providers, dead letters, the audit trail, budgets, keys.

use super::batch::release_all;
use super::client::{Admin, Answer, ListArgs, PageArgs, escaped, list, page, segment, show, table};
use super::order::{Erase, How};
use super::{Ended, complain, say};
use clap::{Args, Subcommand};
use domain::verdict::Problem;
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

#[derive(Subcommand)]
pub(super) enum BusinessCommand {
    /// Show one business; `rekey explain` tells why it stands so.
    #[command(visible_alias = "get")]
    Show {
        /// Its name on the platform, or `layer:` and Layer's id.
        business: String,
    },
    /// List businesses: all of them, or those in a state.
    #[command(visible_alias = "ls", after_help = "Example: rekey business list --state held")]
    List(ListArgs),
    /// Delete every row about a business that no Item names any more.
    Erase {
        /// Its name on the platform, or `layer:` and Layer's id.
        business: String,
        #[command(flatten)]
        erase: Erase,
    },
    /// Compare the list at Layer with the truth now.
    #[command(after_help = "Example: rekey business sync acme --wait")]
    Sync {
        /// Its name on the platform, or `layer:` and Layer's id.
        business: String,
        #[command(flatten)]
        how: How,
    },
    /// List businesses that operators hold.
    Holds(PageArgs),
    /// Send nothing for the business, whatever changes, until `rekey parked release business` says so.
    #[command(
        after_help = "Example: rekey business hold acme --reason 'they move to another Layer'",
        mut_arg("reason", |reason| reason.required(true).help("Why: shown to whoever meets what is held, and kept in the audit trail"))
    )]
    Hold {
        /// Its name on the platform, or `layer:` and Layer's id.
        business: String,
        #[command(flatten)]
        how: How,
    },
    /// Decide on a token of the list that nobody here knows, for good.
    #[command(after_help = "Example: rekey business token acme fp1_0123abcd remove --dry-run")]
    Token {
        /// Its name on the platform, or `layer:` and Layer's id.
        business: String,
        /// As `rekey explain` names the token.
        fingerprint: String,
        /// keep: every list sends it along; remove: the next list leaves it out; forget: take the decision back.
        #[arg(value_parser = ["keep", "remove", "forget"])]
        word: String,
        #[command(flatten)]
        how: How,
    },
}

#[derive(Subcommand)]
pub(super) enum ParkedCommand {
    /// List what waits for a person.
    #[command(visible_alias = "ls")]
    List(PageArgs),
    /// Let a row go on, on the truth of this moment; or all that are kept for one cause.
    #[command(
        after_help = "Example: rekey parked release business acme --dry-run\n         rekey parked release --all shrink_guard --wait"
    )]
    Release {
        /// Whether it is an Item or a business.
        #[arg(value_parser = ["item", "business"], required_unless_present = "all", requires = "id")]
        kind: Option<String>,
        /// Its id.
        id: Option<String>,
        /// Every row that is kept for this code, as `rekey parked list` shows it. It goes on in the background: `rekey batch` tells
        /// how far it is, and cancels it.
        #[arg(long, value_name = "CODE", conflicts_with = "kind")]
        all: Option<String>,
        #[command(flatten)]
        how: How,
    },
}

#[derive(Subcommand)]
pub(super) enum ProviderCommand {
    /// Stop all work of a provider until it is resumed.
    #[command(
        after_help = "Example: rekey provider pause layer --reason 'their maintenance'",
        mut_arg("reason", |reason| reason.required(true).help("Why: shown to whoever meets the pause, and kept in the audit trail"))
    )]
    Pause(OfProvider),
    /// Let a provider's work go on.
    Resume(OfProvider),
    /// Have a paused provider asked now: its work goes on by itself when it answers.
    Probe(OfProvider),
}

#[derive(Args)]
pub(super) struct OfProvider {
    /// Which one.
    #[arg(value_parser = ["plaid", "layer"])]
    provider: String,
    /// Why, for the audit trail.
    #[arg(long)]
    reason: Option<String>,
}

#[derive(Subcommand)]
pub(super) enum DeadLettersCommand {
    /// List webhooks and records that nobody could read, as far as nobody has looked.
    #[command(visible_alias = "ls")]
    List(PageArgs),
    /// Take one off the list: somebody has looked. The record stays where it is.
    Dismiss {
        /// As the list names it.
        id: String,
        /// Why, for the audit trail.
        #[arg(long)]
        reason: Option<String>,
    },
}

#[derive(Args)]
pub(super) struct AuditArgs {
    #[command(flatten)]
    page: PageArgs,
    /// Only what was done to this. That of an erased one is found by its id.
    #[arg(long, value_name = "item/ID|business/ID|key/ID|batch/ID")]
    subject: Option<String>,
    /// Only what this admin token did.
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
    /// Only what is not older: `2h`, `3d`, or a point in time.
    #[arg(long, value_name = "WHEN", value_parser = super::table::since)]
    since: Option<String>,
}

pub(super) async fn business(admin: &Admin, command: BusinessCommand) -> anyhow::Result<Ended> {
    let path = |business: &str| segment(business).map(|business| format!("/v1/businesses/{business}"));
    match command {
        BusinessCommand::Show { business } => admin.get(&path(&business)?, show).await,
        BusinessCommand::List(args) => {
            let columns = &["business_id", "verdict/state", "verdict/since", "verdict/next", "verdict/why"];
            admin.get(&list("/v1/businesses", &args)?, |b| table(b, columns)).await
        }
        BusinessCommand::Erase { business, erase } => admin.erase(&path(&business)?, &business, &erase).await,
        BusinessCommand::Sync { business, how } => admin.order(Method::POST, &path(&business)?, "/sync", &how).await,
        BusinessCommand::Holds(args) => {
            admin.get(&page("/v1/holds", &args)?, |b| table(b, &["business_id", "since", "why"])).await
        }
        BusinessCommand::Hold { business, how } => admin.order(Method::POST, &path(&business)?, "/hold", &how).await,
        BusinessCommand::Token { business, fingerprint, word, how } => {
            let act = format!("/tokens/{}/{word}", segment(&fingerprint)?);
            admin.order(Method::POST, &path(&business)?, &act, &how).await
        }
    }
}

pub(super) async fn parked(admin: &Admin, command: ParkedCommand) -> anyhow::Result<Ended> {
    match command {
        ParkedCommand::List(args) => {
            let columns =
                &["kind", "id", "verdict/state", "verdict/since", "work/blocked/code", "refused", "verdict/why"];
            admin.get(&page("/v1/parked", &args)?, |b| table(&with_refusals(b.clone()), columns)).await
        }
        ParkedCommand::Release { all: Some(code), how, .. } => release_all(admin, &code, &how).await,
        ParkedCommand::Release { kind, id, how, .. } => {
            let (kind, id) = (kind.unwrap_or_default(), segment(&id.unwrap_or_default())?);
            let rows = if kind == "item" { "items" } else { "businesses" };
            let path = format!("/v1/parked/{kind}/{id}/release");
            admin.order_at(Method::POST, &path, &format!("/v1/{rows}/{id}"), &how).await
        }
    }
}

/// With the provider's codes for the mints that it refuses: the row itself need not be kept by anything.
fn with_refusals(mut body: Value) -> Value {
    for row in body["data"].as_array_mut().into_iter().flatten() {
        let wrong = row["verdict"]["wrong"].as_array().into_iter().flatten();
        let refused = wrong.filter(|w| w["problem"] == Problem::MintRefused.as_str());
        let codes: BTreeSet<&str> = refused.filter_map(|w| w["code"].as_str()).collect();
        row["refused"] = match codes.is_empty() {
            true => Value::Null,
            false => codes.into_iter().collect::<Vec<_>>().join(", ").into(),
        };
    }
    body
}

pub(super) async fn provider(admin: &Admin, command: ProviderCommand) -> anyhow::Result<Ended> {
    let (order, of, done) = match command {
        ProviderCommand::Pause(of) => {
            let until = format!("paused: its work waits until `rekey provider resume {}`", of.provider);
            ("pause", of, until)
        }
        ProviderCommand::Resume(of) => ("resume", of, "resumed: what was waiting is due now".to_owned()),
        ProviderCommand::Probe(of) => ("probe", of, "it is asked within seconds: see `rekey pauses`".to_owned()),
    };
    let reason = of.reason.as_deref().map_or(String::new(), |r| format!("?reason={}", escaped(r)));
    admin.simple(Method::POST, &format!("/v1/providers/{}/{order}{reason}", of.provider), &done).await
}

pub(super) async fn dead_letters(admin: &Admin, command: DeadLettersCommand) -> anyhow::Result<Ended> {
    match command {
        DeadLettersCommand::List(args) => {
            let columns = &["id", "from", "at", "bytes", "reason"];
            admin.get(&page("/v1/dead-letters", &args)?, |b| table(b, columns)).await
        }
        DeadLettersCommand::Dismiss { id, reason } => {
            let reason = reason.as_deref().map_or(String::new(), |r| format!("?reason={}", escaped(r)));
            let path = format!("/v1/dead-letters/{}/dismiss{reason}", segment(&id)?);
            admin.simple(Method::POST, &path, "it is off the list; the record stays where it is").await
        }
    }
}

pub(super) async fn audit(admin: &Admin, args: &AuditArgs) -> anyhow::Result<Ended> {
    let mut path = page("/v1/audit", &args.page)?;
    for (name, wanted) in [("subject", &args.subject), ("by", &args.by), ("since", &args.since)] {
        if let Some(wanted) = wanted {
            path = format!("{path}&{name}={}", segment(wanted)?);
        }
    }
    admin.get(&path, |b| table(b, &["at", "by", "from", "action", "subject", "was", "became"])).await
}

pub(super) async fn budget(admin: &Admin) -> anyhow::Result<Ended> {
    let columns = &["call", "booked_ahead_ms", "rests_until", "slowed_at", "slowed_to"];
    admin.get("/v1/budgets", |b| table(&json!({"data": b}), columns)).await
}

/// Without progress for so long, somebody else must be sealing under an old key. Longer than a statement may hold a row.
const PATIENCE: Duration = Duration::from_secs(25);

/// A pass leaves out what is being written at that moment; this is longer than such a write.
const BETWEEN_IDLE_PASSES: Duration = Duration::from_millis(500);

/// Asks for one batch after the other until nothing is left under another key.
pub(super) async fn rotate_keys(admin: &Admin) -> anyhow::Result<Ended> {
    let (mut moved, mut progress) = (0, Instant::now());
    loop {
        let answer = admin.call(Method::POST, "/v1/keys/rotate", None).await?;
        if answer.status != 200 {
            return Ok(admin.finish(&answer, show));
        }
        let (now, left) = (answer.body["moved"].as_u64().unwrap_or(0), answer.body["left"].clone());
        let under = answer.body["under"].as_str().unwrap_or_default().to_owned();
        moved += now;
        if left.as_object().is_some_and(serde_json::Map::is_empty) {
            let done = json!({"moved": moved, "under": under, "left": {}});
            return Ok(admin.finish(&Answer { status: 200, body: done }, |_| {
                say(&format!("{moved} values sealed again; all are under {under}, and none is left under another key"));
            }));
        }
        if now > 0 {
            progress = Instant::now();
        } else if progress.elapsed() > PATIENCE {
            complain(&format!(
                "values are left under other keys ({left}): a process that has another first key in secrets.keys still \
                 seals under it, so restart that one, then run this again"
            ));
            return Ok(Ended::Failed);
        }
        if now == 0 {
            tokio::time::sleep(BETWEEN_IDLE_PASSES).await;
        }
    }
}
