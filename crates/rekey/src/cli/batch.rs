//! Orders for all of one cause: given, watched, listed, cancelled.

use super::client::{Admin, Answer, PageArgs, escaped, page, progress, segment, table};
use super::order::How;
use super::table::plain;
use super::{Ended, complain, say};
use clap::Subcommand;
use domain::counted;
use domain::explain::pasted;
use reqwest::Method;
use serde_json::Value;
use std::time::{Duration, Instant};

#[derive(Subcommand)]
pub(super) enum BatchCommand {
    /// List them, the newest first: those that run, and those that ended.
    #[command(visible_alias = "ls")]
    List(PageArgs),
    /// Show how far one is.
    #[command(visible_alias = "get")]
    Show {
        /// As the list names it.
        id: String,
    },
    /// Release no further row. Those that were released stay so.
    #[command(after_help = "Example: rekey batch cancel 019a…")]
    Cancel {
        /// As the list names it.
        id: String,
    },
}

pub(super) async fn batch(admin: &Admin, command: BatchCommand) -> anyhow::Result<Ended> {
    match command {
        BatchCommand::List(args) => {
            let columns = &["batch_id", "code", "ordered_at", "ordered_by", "reason", "sentence"];
            admin.get(&page("/v1/batches", &args)?, |b| table(b, columns)).await
        }
        BatchCommand::Show { id } => {
            admin.get(&format!("/v1/batches/{}", segment(&id)?), |b| say(&plain(&b["sentence"]))).await
        }
        BatchCommand::Cancel { id } => {
            let answer = admin.call(Method::POST, &format!("/v1/batches/{}/cancel", segment(&id)?), None).await?;
            Ok(admin.finish(&answer, |b| say(&plain(&b["sentence"]))))
        }
    }
}

/// Whoever waits does so for a minute at most, and looks so often.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(400);

/// Orders the release of every row that is kept for this code.
pub(super) async fn release_all(admin: &Admin, code: &str, how: &How) -> anyhow::Result<Ended> {
    let mut path = format!("/v1/parked/release?code={}&dry_run={}", escaped(code), how.dry_run);
    for (name, text) in [("reason", &how.reason), ("version", &how.version)] {
        if let Some(text) = text {
            path = format!("{path}&{name}={}", escaped(text));
        }
    }
    let ordered = admin.call(Method::POST, &path, None).await?;
    if how.dry_run {
        return Ok(admin.finish(&ordered, |plan| would(code, plan)));
    }
    let id = plain(&ordered.body["batch_id"]);
    let answer = match how.wait && ordered.status == 202 {
        false => ordered,
        true => tokio::select! {
            answer = watch(admin, ordered, &id) => answer?,
            () = crate::process::signal() => {
                let (show, cancel) = (format!("`rekey batch show {id}`"), format!("`rekey batch cancel {id}`"));
                complain(&format!("it goes on: {show} tells how far it is, {cancel} ends it"));
                return Ok(Ended::Pending);
            }
        },
    };
    let state = plain(&answer.body["state"]);
    let ended = admin.finish(&answer, |batch| {
        say(&plain(&batch["sentence"]));
        if state == "running" {
            say(&format!("# `rekey batch show {id}` tells how far it is, `rekey batch cancel {id}` ends it"));
        }
    });
    let number = |name: &str| answer.body[name].as_u64().unwrap_or_default();
    let is_left = ["paused", "held", "failed"].iter().any(|name| number(name) > 0);
    Ok(match (ended, how.wait, &*state) {
        (Ended::Well, true, "cancelled") => Ended::Failed,
        (Ended::Well, true, "running") => Ended::Pending,
        (Ended::Well, true, _) if is_left => Ended::Pending,
        _ => ended,
    })
}

/// Tells how far it is each time that this changes, until it ends. A console that restarts is waited for: another one goes on.
async fn watch(admin: &Admin, mut answer: Answer, id: &str) -> anyhow::Result<Answer> {
    let (began, mut told) = (Instant::now(), String::new());
    while answer.body["state"] == "running" && began.elapsed() < PATIENCE {
        let sentence = plain(&answer.body["sentence"]);
        if !admin.json && sentence != told {
            progress(&format!("{:>5.1} s  {sentence}", began.elapsed().as_secs_f64()));
            told = sentence;
        }
        tokio::time::sleep(LOOK).await;
        if let Ok(now) = admin.call(Method::GET, &format!("/v1/batches/{id}"), None).await
            && now.status == 200
        {
            answer = now;
        }
    }
    Ok(answer)
}

/// What an order would do, and how it is given for what was counted.
fn would(code: &str, plan: &Value) {
    let number = |name: &str| plan[name].as_u64().unwrap_or_default();
    let rows = counted(number("eligible"), "row that is kept", "rows that are kept");
    say(&format!("{rows} for {code} would be released"));
    for (name, why) in
        [("paused", "provider paused: `rekey pauses`"), ("held", "held by an operator: `rekey business holds`")]
    {
        if number(name) > 0 {
            say(&format!("{} would be left alone ({why})", number(name)));
        }
    }
    say("# nothing was done");
    if number("eligible") > 0 {
        let version = plain(&plan["version"]);
        say(&format!(
            "# for these, and none that come later: rekey parked release --all {} --version {version}",
            pasted(code)
        ));
    }
}
