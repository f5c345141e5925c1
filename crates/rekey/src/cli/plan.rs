//! `rekey plan`: what a reconciliation would do now, of one business or of all.

use super::client::{Admin, Answer, progress, segment};
use super::explain::{Meant, WATCH, each, meant, next_list};
use super::table::{age, plain};
use super::{Ended, complain, say};
use clap::Args;
use domain::counted;
use domain::item::ItemState;
use futures::StreamExt as _;
use jiff::Timestamp;
use reqwest::Method;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

#[derive(Args)]
pub(super) struct Plan {
    /// As for `rekey explain`, of a business. Without it: all businesses, those that differ by name.
    id: Option<String>,
    /// From what was read last, as `rekey explain` tells it: Plaid and Layer are not asked.
    #[arg(long)]
    stored: bool,
}

/// Plans that are asked for at once: a consumer makes as many.
const AT_ONCE: usize = 4;

/// Longest wait for a plan: a consumer gives it up before that.
const PLAN_WAIT: Duration = Duration::from_secs(75);
/// Between two lines about how far it is.
const PROGRESS: Duration = Duration::from_secs(5);
/// One call of those that wait for it.
const PLAN_POLL: u32 = 15;

/// What a reconciliation would do now: of one business, or of all.
pub(super) async fn plan(admin: &Admin, args: &Plan) -> anyhow::Result<Ended> {
    let Some(id) = &args.id else { return plan_of_all(admin, args.stored).await };
    match meant(admin, id).await? {
        Meant::Told(ended) => Ok(ended),
        Meant::One(kind, id) if kind == "item" => {
            complain(&format!(
                "{id} is an Item: a list is a business's; `rekey explain {id}` names those that it is in"
            ));
            Ok(Ended::Failed)
        }
        Meant::One(_, id) => {
            let answer = plan_of(admin, &id, args.stored, false).await?;
            let answered = answer.status == 200;
            let ended = admin.finish(&answer, |body| planned(body, Timestamp::now()));
            if answer.status == 202 {
                complain("no plan was made in time: is a consumer running? `--stored` tells from what was read last");
            }
            Ok(if ended == Ended::Well && !answered { Ended::Pending } else { ended })
        }
    }
}

/// The plan of one business. 202: nobody has made it in time.
async fn plan_of(admin: &Admin, id: &str, stored: bool, background: bool) -> anyhow::Result<Answer> {
    let of = segment(id)?;
    if stored {
        return admin.call(Method::GET, &format!("/v1/businesses/{of}/explain"), None).await;
    }
    let deadline = Instant::now() + PLAN_WAIT;
    let one_of_many = if background { "&background=true" } else { "" };
    let path = format!("/v1/businesses/{of}/plan?timeout={PLAN_POLL}{one_of_many}");
    let mut answer = admin.call(Method::POST, &path, None).await?;
    // Too many wait already, of others too.
    while answer.status == 503 && Instant::now() < deadline {
        tokio::time::sleep(WATCH).await;
        answer = admin.call(Method::POST, &path, None).await?;
    }
    if answer.status == 403 {
        complain("a plan spends calls of the providers' limits: `--stored` tells from what was read last");
    }
    while answer.status == 202 && Instant::now() < deadline {
        let path = format!("/v1/plans/{}?timeout={PLAN_POLL}", segment(&plain(&answer.body["plan_id"]))?);
        answer = admin.call(Method::GET, &path, None).await?;
    }
    Ok(answer)
}

fn planned(body: &Value, now: Timestamp) {
    let id = plain(&body["business_id"]);
    if body["plan_id"].is_null() {
        let read = match body["list_shown_at"].is_null() {
            true => String::new(),
            false => format!(" (its list was read {} ago)", age(&body["list_shown_at"], now)),
        };
        return say(&format!("{id}: {}{read}", next_list(&body["next_list"])));
    }
    if body["next_list"].is_null() {
        return say(&format!("{id}: no plan was made in time"));
    }
    let observes = if body["observes"] == true { " (observe mode: nothing of it is done)" } else { "" };
    say(&format!("{id}: {}{observes}", next_list(&body["next_list"])));
    let mints: Vec<String> = each(&body["mints"]).map(plain).collect();
    if !mints.is_empty() {
        say(&format!("  minted first: {}", mints.join(", ")));
    }
    for item in each(&body["items"]) {
        let [name, was, state] = ["item_id", "was", "state"].map(|f| plain(&item[f]));
        let state = if was == state { state } else { format!("from {was} to {state}") };
        let code = item["code"].as_str().map_or(String::new(), |_| format!(" ({})", plain(&item["code"])));
        let why = item["why"].as_str().map_or(String::new(), |_| format!(": {}", plain(&item["why"])));
        say(&format!("  Item {name}: {state}{code}{why}"));
    }
}

/// It was gone before, and is still: nothing of it belongs into a list.
fn stays_gone(item: &Value) -> bool {
    let state = item["state"].as_str().and_then(ItemState::from_word);
    item["was"] == item["state"] && state.is_some_and(ItemState::is_gone)
}

/// Ctrl-C tells what is known until then.
async fn plan_of_all(admin: &Admin, stored: bool) -> anyhow::Result<Ended> {
    let (mut after, mut counts, mut seen) = (String::new(), BTreeMap::<String, u64>::new(), 0u64);
    let mut stop = std::pin::pin!(crate::process::signal());
    let (mut stopped, mut told_at) = (false, Instant::now());
    'pages: loop {
        let page = admin.call(Method::GET, &format!("/v1/businesses?limit=500{after}"), None).await?;
        if page.status != 200 {
            return Ok(admin.finish(&page, |_| {}));
        }
        let ids: Vec<String> = each(&page.body["data"]).map(|row| plain(&row["business_id"])).collect();
        // In their order, and the next is asked for as soon as one is answered.
        let mut answers = futures::stream::iter(&ids).map(|id| plan_of(admin, id, stored, true)).buffered(AT_ONCE);
        loop {
            let answer = tokio::select! {
                answer = answers.next() => answer,
                () = &mut stop => {
                    stopped = true;
                    break 'pages;
                }
            };
            let Some(answer) = answer.transpose()? else { break };
            match answer.status {
                200 => {}
                // Nobody makes plans at this moment, and the others would wait for as long.
                202 => {
                    complain(
                        "a plan was not made in time: is a consumer running? `--stored` tells from what was read last",
                    );
                    return Ok(Ended::Pending);
                }
                // Erased meanwhile.
                404 => continue,
                _ => return Ok(admin.finish(&answer, |_| {})),
            }
            let would = answer.body["next_list"]["would"].as_str().unwrap_or("unknown");
            // Nothing would be sent, and not because all is well.
            let is_wrong =
                !answer.body["next_list"]["why"].is_null() || each(&answer.body["items"]).any(|item| !stays_gone(item));
            let would = if would == "nothing" && is_wrong { "wrong" } else { would }.to_owned();
            if would != "nothing" && !admin.json {
                planned(&answer.body, Timestamp::now());
            }
            *counts.entry(would).or_default() += 1;
            seen += 1;
            if std::io::stderr().is_terminal() && !admin.json && told_at.elapsed() >= PROGRESS {
                progress(&format!("{seen} so far"));
                told_at = Instant::now();
            }
        }
        match page.body["next"].as_str() {
            Some(next) => after = format!("&after={}", segment(next)?),
            None => break,
        }
    }
    let told = serde_json::json!({"businesses": seen, "would": counts, "complete": !stopped});
    let answer = Answer { status: 200, body: told };
    let ended = admin.finish(&answer, |_| {
        let told = [
            ("nothing", "needs nothing", "need nothing"),
            ("wrong", "is not right, and nothing would be sent", "are not right, and nothing would be sent"),
            ("put", "would be sent", "would be sent"),
            ("create", "would be created", "would be created"),
            ("hold", "would be held", "would be held"),
            ("parked", "needs a person", "need a person"),
            ("wait", "waits for tokens", "wait for tokens"),
            ("retry", "would be tried again", "would be tried again"),
            ("unknown", "could not be told", "could not be told"),
        ];
        let told = told.iter().filter_map(|(word, one, many)| Some(counted(counts.get(*word)?, one, many)));
        let told: Vec<String> = told.collect();
        let told = if told.is_empty() { "nothing is known yet".to_owned() } else { told.join(", ") };
        say(&format!("{}: {told}", counted(seen, "business", "businesses")));
    });
    if stopped {
        complain("stopped: these are not all");
        return Ok(Ended::Failed);
    }
    Ok(ended)
}
