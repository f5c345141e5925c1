//! Orders, and what they have in common: tried out, with a reason, waited for, told.

use super::client::{Admin, Answer, agreed, escaped, progress};
use super::explain::next_list;
use super::table::plain;
use super::{Ended, complain, say};
use clap::Args;
use domain::explain::pasted;
use reqwest::Method;
use serde_json::Value;
use std::time::{Duration, Instant};

#[derive(Args)]
#[group(id = "erasing")]
pub(super) struct Erase {
    /// Also where a list could not be read back: Layer does not have the business any more, or nothing is sent.
    #[arg(long)]
    unconfirmed: bool,
    /// Only say whether it can be done.
    #[arg(long)]
    dry_run: bool,
    /// Don't ask first.
    #[arg(long, short)]
    yes: bool,
}

/// How an act is ordered.
#[derive(Args)]
pub(super) struct How {
    /// Why, for the audit trail.
    #[arg(long)]
    pub(super) reason: Option<String>,
    /// The `version` that an explanation showed: refused if the row is another one by now.
    #[arg(long)]
    pub(super) version: Option<String>,
    /// Only say what would be sent.
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Wait for what comes of it, a minute at most. Ends with 5 if that has not come by then, or if it waits for a person.
    #[arg(long)]
    pub(super) wait: bool,
}

impl How {
    fn query(&self) -> String {
        let mut query: Vec<String> = Vec::new();
        for (name, text) in [("reason", &self.reason), ("version", &self.version)] {
            query.extend(text.as_deref().map(|text| format!("{name}={}", escaped(text))));
        }
        if self.dry_run {
            query.push("dry_run=true".into());
        }
        if self.wait {
            query.push("timeout=60".into());
        }
        if query.is_empty() { String::new() } else { format!("?{}", query.join("&")) }
    }
}

impl Admin {
    /// Orders something of a row, and tells what comes of it or would come of it.
    pub(super) async fn order(&self, method: Method, of: &str, act: &str, how: &How) -> anyhow::Result<Ended> {
        self.order_at(method, &format!("{of}{act}"), of, how).await
    }

    /// The same, at a path that is not the row's. `of`: where that is explained.
    pub(super) async fn order_at(&self, method: Method, path: &str, of: &str, how: &How) -> anyhow::Result<Ended> {
        let path = format!("{path}{}", how.query());
        let ordered = self.call(method, &path, None);
        let answer = match how.wait && !how.dry_run && !self.json {
            true => self.telling(&format!("{of}/explain"), ordered).await?,
            false => ordered.await?,
        };
        Ok(ended(self, &answer, how))
    }

    /// Tells on standard error how something stands, each time that it changes, until `work` is done.
    pub(super) async fn telling<T>(&self, explained: &str, work: impl Future<Output = T>) -> T {
        const EACH: Duration = Duration::from_millis(400);
        let (mut told, began) = (String::new(), Instant::now());
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                () = tokio::time::sleep(EACH) => {}
            }
            let Ok(answer) = self.call(Method::GET, explained, None).await else { continue };
            let verdict = &answer.body["verdict"];
            if !verdict.is_object() {
                continue;
            }
            let of = match answer.body["business_id"].as_str() {
                Some(id) => format!("business {id}"),
                None => format!("item {}", plain(&answer.body["item_id"])),
            };
            let stands = format!("{of} {}: {}", plain(&verdict["state"]), plain(&verdict["why"]));
            if stands != told {
                progress(&format!("{:>5.1} s  {stands}", began.elapsed().as_secs_f64()));
                told = stands;
            }
        }
    }

    pub(super) async fn erase(&self, what: &str, id: &str, erase: &Erase) -> anyhow::Result<Ended> {
        if !erase.dry_run && !erase.yes && !agreed(&format!("Delete every row about {id}?"))? {
            return Ok(Ended::Failed);
        }
        let mut query = vec![];
        query.extend(erase.unconfirmed.then_some("unconfirmed=true"));
        query.extend(erase.dry_run.then_some("dry_run=true"));
        let done = match erase.dry_run {
            true => "it can be erased: nothing stands in the way",
            false => "nothing is known of it any more",
        };
        self.simple(Method::POST, &format!("{what}/erase?{}", query.join("&")), done).await
    }
}

/// What came of an act, or would come of it.
fn acted(body: &Value) {
    say(&plain(&body["effect"]));
    for pair in body["matched"].as_array().into_iter().flatten() {
        let [account, heir, business, by] = ["account_id", "heir_id", "business_id", "by"].map(|f| plain(&pair[f]));
        say(&format!("  {heir} takes the place of {account} in {business} (by {})", by.replace('_', " ")));
    }
    for alone in body["unmatched"].as_array().into_iter().flatten() {
        say(&format!("  {} leaves its list without an heir", plain(alone)));
    }
    for list in body["lists"].as_array().into_iter().flatten() {
        say(&format!("{}: {}", plain(&list["business_id"]), next_list(&list["next_list"])));
    }
    match (body["dry_run"] == true, body["served"].as_bool(), &body["verdict"]) {
        (true, ..) => say("# nothing was done"),
        (_, None, _) => say(&format!(
            "# done; `rekey explain {}` tells what comes of it",
            pasted(&format!("{}/{}", plain(&body["kind"]), plain(&body["id"])))
        )),
        (_, Some(true), Value::Null) => say("# done"),
        (_, Some(false), Value::Null) => {
            say("# ordered; what was under way has not ended yet: a list that is being sent may still arrive");
        }
        (_, Some(served), verdict) => {
            let stands = format!("{}: {}", plain(&verdict["state"]), plain(&verdict["why"]));
            say(&if served { stands } else { format!("not yet done; {stands}") });
        }
    }
}

/// What was waited for in vain is told by the exit code: it has not come, or will not come by itself.
fn ended(admin: &Admin, answer: &Answer, how: &How) -> Ended {
    let ended = admin.finish(answer, acted);
    if ended != Ended::Well || how.dry_run {
        return ended;
    }
    let waits_for =
        answer.body["verdict"]["next"].as_str().filter(|who| ["operator", "customer", "platform"].contains(who));
    match (answer.body["served"].as_bool(), waits_for) {
        // A hold waits unasked.
        (Some(false), _) => Ended::Pending,
        (Some(true), Some(who)) => {
            let [kind, id] = ["kind", "id"].map(|name| plain(&answer.body[name]));
            complain(&format!(
                "it waits for the {who}: `rekey explain {}` tells what helps",
                pasted(&format!("{kind}/{id}"))
            ));
            Ended::Pending
        }
        _ => ended,
    }
}
