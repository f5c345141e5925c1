//! How everything stands, and who is paused.

use super::client::Admin;
use super::explain::{each, tell};
use super::table::{age, plain};
use super::{Ended, say};
use clap::Args;
use domain::counted;
use domain::time::span;
use jiff::Timestamp;
use reqwest::Method;
use serde_json::Value;

#[derive(Args)]
pub(super) struct Status {
    /// Tell again every two seconds, until Ctrl-C.
    #[arg(long)]
    watch: bool,
    /// End with 1 unless every list is known to be right.
    #[arg(long, conflicts_with = "watch")]
    exit_code: bool,
}

pub(super) async fn status(admin: &Admin, args: &Status) -> anyhow::Result<Ended> {
    if !args.exit_code {
        return tell(admin, "/v1/status", args.watch, stands).await;
    }
    let answer = admin.call(Method::GET, "/v1/status", None).await?;
    let ended = admin.finish(&answer, stands);
    Ok(if ended == Ended::Well && answer.body["right"] != true { Ended::Failed } else { ended })
}

/// How everything stands.
fn stands(body: &Value) {
    let now = Timestamp::now();
    say(&plain(&body["sentence"]));
    for (name, rows) in [("businesses", &body["businesses"]), ("Items", &body["items"])] {
        let told: Vec<String> = each(rows)
            .map(|r| format!("{} {} (the first for {})", plain(&r["rows"]), plain(&r["state"]), age(&r["since"], now)))
            .collect();
        if !told.is_empty() {
            say(&format!("  {name:<11} {}", told.join(", ")));
        }
    }
    each(&body["pauses"]).for_each(|pause| say(&format!("  {:<11} {}", "paused", paused(pause, now))));
    let due: Vec<String> = each(&body["due"])
        .map(|d| {
            let oldest = span(d["oldest_seconds"].as_u64().unwrap_or_default());
            format!("{} {} {} (the first for {oldest})", plain(&d["rows"]), plain(&d["class"]), plain(&d["kind"]))
        })
        .collect();
    if !due.is_empty() {
        say(&format!("  {:<11} {}", "due", due.join(", ")));
    }
    for (name, [one, many], command) in [
        (
            "missed_webhooks",
            ["Item whose last webhook never came", "Items whose last webhooks never came"],
            "rekey item missed",
        ),
        (
            "webhooks_elsewhere",
            ["Item sends its webhooks elsewhere", "Items send their webhooks elsewhere"],
            "rekey item elsewhere",
        ),
        (
            "consents_ending",
            ["Item whose consent ends within 30 days", "Items whose consent ends within 30 days"],
            "rekey item consents",
        ),
        (
            "held_by_operators",
            ["business is held by an operator", "businesses are held by operators"],
            "rekey business holds",
        ),
        (
            "dead_letters",
            ["webhook or record that nobody could read", "webhooks or records that nobody could read"],
            "rekey dead-letters list",
        ),
    ] {
        if let Some(n) = body[name].as_u64().filter(|n| *n > 0) {
            say(&format!("  {:<11} {}: `{command}`", "", counted(n, one, many)));
        }
    }
    if body["owes_sweep"] == true {
        say("  gap         records were lost before they were read: every Item is being looked at");
    }
    for (name, what) in [("outcomes_waiting", "outcomes wait to be published"), ("orphans", "mints were not answered")]
    {
        if body[name].as_i64().is_some_and(|n| n > 0) {
            say(&format!("  {:<11} {} {what}", "", plain(&body[name])));
        }
    }
    if body["right"] == false {
        let (rows, list) = match each(&body["businesses"]).next() {
            None => (&body["items"], "item"),
            Some(_) => (&body["businesses"], "business"),
        };
        if let Some(first) = each(rows).next() {
            let state = plain(&first["state"]);
            say(&format!("why: `rekey {list} list --verdict {state}`, then `rekey explain` with an id of these"));
        }
    }
}

pub(super) async fn pauses(admin: &Admin) -> anyhow::Result<Ended> {
    tell(admin, "/v1/pauses", false, |body| {
        let now = Timestamp::now();
        if each(body).next().is_none() {
            say("no provider is paused");
        }
        each(body).for_each(|pause| say(&paused(pause, now)));
    })
    .await
}

fn paused(pause: &Value, now: Timestamp) -> String {
    let (provider, reason) = (plain(&pause["provider"]), plain(&pause["reason"]));
    let since = age(&pause["since"], now);
    match pause["ordered_by"].as_str() {
        Some(_) => format!(
            "{provider} for {since} by {}: {reason}; until `rekey provider resume {provider}`",
            plain(&pause["ordered_by"])
        ),
        None => format!("{provider} for {since}: {reason}; next probe {}", age(&pause["next_probe_at"], now)),
    }
}
