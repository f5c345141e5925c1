//! Commands that tell how something stands, and why: `status`, `explain`, `history`, `pauses`.

use super::client::{Admin, segment};
use super::table::{Column, Fit, age, plain, print};
use super::{Ended, complain, say};
use clap::Args;
use domain::counted;
use domain::explain::pasted;
use jiff::Timestamp;
use reqwest::Method;
use serde_json::Value;
use std::io::IsTerminal;
use std::time::Duration;

/// How often what moves is asked for again.
pub(super) const WATCH: Duration = Duration::from_secs(2);

#[derive(Args)]
pub(super) struct Explain {
    /// The id of a business or an Item, Layer's id of a business, the id or the last digits of an account, or the fingerprint of a
    /// token; `business/ID` or `item/ID` where one text is both.
    id: String,
    /// Tell again every two seconds, until Ctrl-C.
    #[arg(long)]
    watch: bool,
}

#[derive(Args)]
pub(super) struct History {
    /// As for `rekey explain`.
    id: String,
    /// Continue after this entry.
    #[arg(long)]
    after: Option<String>,
    /// Entries at most.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=500))]
    limit: u32,
    /// Only what is not older: `2h`, `3d`, or a point in time.
    #[arg(long, value_name = "WHEN", value_parser = super::table::since)]
    since: Option<String>,
}

/// What a text of a person leads to.
pub(super) enum Meant {
    /// `business` or `item`, and its id.
    One(String, String),
    /// None, or several: this was told.
    Told(Ended),
}

pub(super) async fn meant(admin: &Admin, text: &str) -> anyhow::Result<Meant> {
    if let Some((kind @ ("business" | "item"), id)) = text.split_once('/') {
        return Ok(Meant::One(kind.to_owned(), id.to_owned()));
    }
    let answer = admin.call(Method::GET, &format!("/v1/find?q={}", segment(text)?), None).await?;
    let hits = answer.body["data"].as_array().cloned().unwrap_or_default();
    match &hits[..] {
        _ if answer.status != 200 => Ok(Meant::Told(admin.finish(&answer, |_| {}))),
        [] => {
            if admin.json {
                say(&answer.body.to_string());
            } else {
                complain(
                    "nothing is known here by that id, mask or fingerprint: `rekey business list` and `rekey item list` show what \
                     is, `rekey item unknown` what webhooks named and nobody pushed",
                );
            }
            Ok(Meant::Told(Ended::NotFound))
        }
        [one] => Ok(Meant::One(plain(&one["kind"]), plain(&one["id"]))),
        several => {
            let told = admin.finish(&answer, |body| {
                let meant = |hit: &Value| format!("{}/{}", plain(&hit["kind"]), plain(&hit["id"]));
                let rows: Vec<_> = several.iter().map(|hit| vec![meant(hit), plain(&hit["by"])]).collect();
                // Whole: one of them is to be asked for.
                print(&[Column::new("MEANT", Fit::Whole), Column::new("BY", Fit::Whole)], &rows, "");
                say(if body["more"] == true {
                    "# there are more; ask for one of them"
                } else {
                    "# ask for one of them"
                });
            });
            Ok(Meant::Told(told))
        }
    }
}

/// Asks and tells, once or until Ctrl-C.
pub(super) async fn tell(admin: &Admin, path: &str, watch: bool, readable: impl Fn(&Value)) -> anyhow::Result<Ended> {
    loop {
        let answer = admin.call(Method::GET, path, None).await?;
        if watch && std::io::stdout().is_terminal() {
            // Home, and clear what is below.
            say("\u{1b}[H\u{1b}[J");
        }
        let ended = admin.finish(&answer, &readable);
        if !watch || ended != Ended::Well {
            return Ok(ended);
        }
        tokio::select! {
            () = tokio::time::sleep(WATCH) => {}
            () = crate::process::signal() => return Ok(ended),
        }
    }
}

pub(super) async fn explain(admin: &Admin, args: &Explain) -> anyhow::Result<Ended> {
    match meant(admin, &args.id).await? {
        Meant::Told(ended) => Ok(ended),
        Meant::One(kind, id) if kind == "item" => {
            tell(admin, &format!("/v1/items/{}/explain", segment(&id)?), args.watch, explain_item).await
        }
        Meant::One(_, id) => {
            tell(admin, &format!("/v1/businesses/{}/explain", segment(&id)?), args.watch, explain_business).await
        }
    }
}

pub(super) async fn history(admin: &Admin, args: &History) -> anyhow::Result<Ended> {
    let (kind, id) = match meant(admin, &args.id).await? {
        Meant::Told(ended) => return Ok(ended),
        Meant::One(kind, id) => (kind, id),
    };
    let after = args.after.as_deref().map(segment).transpose()?.map_or(String::new(), |a| format!("&after={a}"));
    let since = args.since.as_deref().map(segment).transpose()?.map_or(String::new(), |s| format!("&since={s}"));
    let path = format!("/v1/history?subject={}&limit={}{after}{since}", segment(&format!("{kind}/{id}"))?, args.limit);
    tell(admin, &path, false, |body| {
        happened(&body["data"], "");
        if let Some(next) = body["next"].as_str() {
            say(&format!("# more: --after {next}"));
        }
    })
    .await
}

pub(super) fn each(rows: &Value) -> impl Iterator<Item = &Value> {
    rows.as_array().into_iter().flatten()
}

fn explain_business(body: &Value) {
    let now = Timestamp::now();
    headline(&body["business_id"], &body["verdict"], now);
    if body["observes"] == true {
        say(&format!(
            "observe mode: nothing is minted or sent; `rekey plan {}` tells what would be",
            pasted(&plain(&body["business_id"]))
        ));
    }
    let read = match body["list_shown_at"].is_null() {
        true => "no reading of the list at Layer is kept".to_owned(),
        false => format!("the list at Layer was read {} ago", age(&body["list_shown_at"], now)),
    };
    say(&format!("  {read}; Layer's id: {}", plain(&body["layer_id"])));
    accounts_of_list(&body["accounts"], now);
    for wrong in each(&body["verdict"]["wrong"]).filter(|w| w["account_id"].is_null()) {
        say(&format!("  Item {}: {}", plain(&wrong["item_id"]), plain(&wrong["why"])));
    }
    for stranger in each(&body["strangers"]) {
        let [account, mask, name, token] = ["account_id", "mask", "name", "token"].map(|f| plain(&stranger[f]));
        let word = stranger["word"].as_str().map_or(String::new(), |w| format!("; decided: {w} it for good"));
        say(&format!("  at Layer, and unknown here: account {account}, mask {mask}, {name}, token {token}{word}"));
    }
    if let Some(n) = body["layer_owned"].as_u64().filter(|n| *n > 0) {
        let counted = counted(n, "account was", "accounts were");
        say(&format!("  {counted} connected by Layer itself: Rekey never touches what Layer connected"));
    }
    say(&format!("Next list: {}", next_list(&body["next_list"])));
    if body["kept_back"].is_object() {
        let (why, since) = (plain(&body["kept_back"]["why"]), age(&body["kept_back"]["since"], now));
        say(&format!("Held by an operator for {since}: {why}; nothing is sent until it is released"));
    }
    what_keeps_it(&body["blocked"], now);
    what_helps(&body["remedies"]);
    what_happened(&body["history"]);
}

fn explain_item(body: &Value) {
    let now = Timestamp::now();
    headline(&body["item_id"], &body["verdict"], now);
    if body["observes"] == true {
        say("observe mode: nothing is minted or sent");
    }
    let why = body["why"].as_str().map_or(String::new(), |why| format!(": {why}"));
    say(&format!(
        "  Item {} for {}{why}; generation {}",
        plain(&body["state"]),
        age(&body["since"], now),
        body["generation"]
    ));
    if body["replaces"].is_string() {
        say(&format!("  It takes the place of {} once each of its accounts has a token", plain(&body["replaces"])));
    }
    for heir in each(&body["heirs"]) {
        let (heir, item) = (plain(heir), plain(&body["item_id"]));
        say(&format!(
            "  {heir} takes its place once each account of that has a token; `rekey item replace {item} --by {heir} --withdraw` takes \
             that back"
        ));
    }
    let rows = each(&body["accounts"]).map(|a| {
        let standing = ["not_minted", "outside", "proof"].iter().find_map(|f| a[*f].as_str()).unwrap_or("").to_owned();
        let moving = a["moving_from"].as_str().map_or(String::new(), |from| format!("leaves {from} first; "));
        let cells = ["account_id", "mask", "state", "business"].map(|f| plain(&a[f]));
        cells.into_iter().chain([format!("{moving}{standing}")]).collect()
    });
    let columns = [
        Column::new("ACCOUNT", Fit::Short),
        Column::new("MASK", Fit::Whole),
        Column::new("STATE", Fit::Whole),
        Column::new("BUSINESS", Fit::Short),
        Column::new("NOTE", Fit::Text),
    ];
    part(&columns, &rows.collect::<Vec<Vec<String>>>());
    let rows = each(&body["access_tokens"]).map(|t| {
        let [fingerprint, standing, source, why] = ["fingerprint", "standing", "source", "why"].map(|f| plain(&t[f]));
        vec![fingerprint, standing, age(&t["seen_at"], now), source, why]
    });
    let columns = [
        Column::new("ACCESS TOKEN", Fit::Short),
        Column::new("STANDING", Fit::Whole),
        Column::new("SEEN", Fit::Whole),
        Column::new("SOURCE", Fit::Whole),
        Column::new("WHY", Fit::Text),
    ];
    part(&columns, &rows.collect::<Vec<_>>());
    for (business, state) in body["businesses"].as_object().into_iter().flatten() {
        say(&format!("  business {business} is {}", plain(state)));
    }
    at_plaid(&body["at_plaid"], now);
    what_keeps_it(&body["work"]["blocked"], now);
    what_helps(&body["remedies"]);
    what_happened(&body["history"]);
}

fn at_plaid(at: &Value, now: Timestamp) {
    if !at.is_object() {
        return;
    }
    let last = |what: &str| match at[what].as_str() {
        Some(told) => format!("{told} {} ago", age(&at[format!("{what}_at")], now)),
        None => "none known".to_owned(),
    };
    let missed = if at["missed"] == true { ": IT NEVER CAME" } else { "" };
    let elsewhere = if at["elsewhere"] == true { ": ELSEWHERE THAN THEY SHOULD" } else { "" };
    say(&format!("  last webhook sent {}{missed}; last that came {}", last("last_sent"), last("last_heard")));
    if !at["read_at"].is_null() {
        let url = at["webhook_url"].as_str().map_or("nowhere".to_owned(), |_| plain(&at["webhook_url"]));
        say(&format!("  webhooks go to {url}{elsewhere}; bank {}", plain(&at["institution"])));
    }
    if !at["consent_ends_at"].is_null() {
        say(&format!("  consent ends {}", age(&at["consent_ends_at"], now)));
    }
}

fn headline(id: &Value, verdict: &Value, now: Timestamp) {
    let (state, why) = (plain(&verdict["state"]), plain(&verdict["why"]));
    say(&format!("{}  {state} for {}: {why}", plain(id), age(&verdict["since"], now)));
    let turn = match verdict["next"].as_str() {
        Some("nobody") | None => return,
        Some("rekey") if !verdict["next_at"].is_null() => format!("Rekey acts, {}", when(&verdict["next_at"], now)),
        Some("rekey") => "Rekey acts".to_owned(),
        Some(who) => format!("waits for the {who}"),
    };
    say(&format!("  {turn}"));
}

/// `in 3min`; what is due already is so now.
fn when(at: &Value, now: Timestamp) -> String {
    let told = age(at, now);
    if told.starts_with("in ") { told } else { "now".to_owned() }
}

fn accounts_of_list(accounts: &Value, now: Timestamp) {
    let rows = each(accounts).map(|a| {
        let wanted = match a["generation"].as_i64() {
            Some(generation) => {
                let now = a["item_generation"].as_i64().filter(|now| *now != generation);
                let of = now.map_or(String::new(), |now| format!(" of {now}"));
                format!("{} (generation {generation}{of})", plain(&a["wanted"]))
            }
            None => "-".to_owned(),
        };
        let shown: Vec<String> = each(&a["at_layer"])
            .map(|row| match row["token"].as_str() {
                Some(token) => format!("{token} {}", plain(&row["status"])),
                None => format!("hidden {}", plain(&row["status"])),
            })
            .collect();
        let shown = if shown.is_empty() { "-".to_owned() } else { shown.join(", ") };
        let again =
            if a["again_at"].is_null() { String::new() } else { format!("; again {}", when(&a["again_at"], now)) };
        let code = a["code"].as_str().map_or(String::new(), |code| format!(" ({code})"));
        let standing = match a["problem"].as_str() {
            Some(problem) => format!("{problem}{code}: {}{again}", plain(&a["why"])),
            None if a["right"] == true => "right".to_owned(),
            None => plain(&a["why"]),
        };
        vec![plain(&a["account_id"]), plain(&a["mask"]), plain(&a["item_id"]), wanted, shown, standing]
    });
    let columns = [
        Column::new("ACCOUNT", Fit::Short),
        Column::new("MASK", Fit::Whole),
        Column::new("ITEM", Fit::Short),
        Column::new("WANTED", Fit::Text),
        Column::new("AT LAYER", Fit::Text),
        Column::new("STANDING", Fit::Text),
    ];
    part(&columns, &rows.collect::<Vec<_>>());
}

/// The list as it would be sent next, in one line.
pub(super) fn next_list(next: &Value) -> String {
    let ids = |name: &str| each(&next[name]).map(plain).collect::<Vec<_>>().join(", ");
    let parts: Vec<String> = ["added", "replaced", "removed", "discarded", "left_out", "archived"]
        .iter()
        .filter(|name| each(&next[**name]).next().is_some())
        .map(|name| format!("{} {}", name.replace('_', " "), ids(name)))
        .collect();
    let diff = if parts.is_empty() { String::new() } else { format!(": {}", parts.join("; ")) };
    match next["would"].as_str() {
        Some("nothing") if next["why"].is_string() => {
            format!("the one that Layer has, nothing would be sent{diff}; {}", plain(&next["why"]))
        }
        Some("nothing") => format!("the one that Layer has, nothing would be sent{diff}"),
        Some("put") => format!("{} would be sent{diff}", counted(plain(&next["tokens"]), "token", "tokens")),
        Some("wait") => format!("waits{diff}; {}", plain(&next["why"])),
        Some("hold") => format!("would be held: {}", plain(&next["why"])),
        Some("create") => plain(&next["why"]),
        Some("parked") => format!("would need a person: {}", plain(&next["why"])),
        Some("retry") => format!("would be tried again: {}", plain(&next["why"])),
        _ => format!("not known: {}", plain(&next["why"])),
    }
}

fn what_keeps_it(blocked: &Value, now: Timestamp) {
    if blocked.is_object() {
        let [by, code, why] = ["by", "code", "why"].map(|f| plain(&blocked[f]));
        say(&format!("Kept by {by} ({code}) for {}: {why}", age(&blocked["since"], now)));
    }
}

fn what_helps(remedies: &Value) {
    if each(remedies).next().is_some() {
        say("What helps:");
    }
    for remedy in each(remedies) {
        say(&format!("  {}\n      {}", plain(&remedy["command"]), plain(&remedy["effect"])));
    }
}

fn what_happened(history: &Value) {
    if each(history).next().is_some() {
        say("What happened:");
        happened(history, "  ");
    }
}

fn happened(history: &Value, indent: &str) {
    let now = Timestamp::now();
    let rows: Vec<Vec<String>> = each(history)
        .map(|entry| vec![format!("{} ago", age(&entry["at"], now)), plain(&entry["subject"]), plain(&entry["text"])])
        .collect();
    let columns = [Column::new("WHEN", Fit::Whole), Column::new("TO", Fit::Short), Column::new("WHAT", Fit::Text)];
    print(&columns, &rows, indent);
}

/// A table within an explanation.
fn part(columns: &[Column], rows: &[Vec<String>]) {
    if !rows.is_empty() {
        print(columns, rows, "  ");
    }
}
