//! `rekey item`: Items, and what can be ordered of them.

use super::client::{Admin, ListArgs, PageArgs, agreed, list, page, segment, show, table};
use super::order::{Erase, How};
use super::{Ended, Usage, say};
use clap::{Args, Subcommand};
use domain::item::ItemState;
use reqwest::Method;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

#[derive(Subcommand)]
pub(super) enum ItemCommand {
    /// Push an Item. The access token comes from a file or standard input, never from an argument.
    Put(PutItem),
    /// Show one Item; `rekey explain` tells why it stands so.
    #[command(visible_alias = "get")]
    Show {
        /// The Item's id at Plaid.
        item: String,
    },
    /// List Items: all of them, those in a state, or those of a business.
    #[command(visible_alias = "ls", after_help = "Example: rekey item list --state awaiting_token")]
    List {
        #[command(flatten)]
        list: ListArgs,
        /// Only those with an account in this business, or on its way there or from there.
        #[arg(long, conflicts_with = "verdict")]
        business: Option<String>,
    },
    /// Tell Rekey that the platform removed the Item: its accounts leave every list.
    #[command(after_help = "Example: rekey item remove ITEM --dry-run")]
    Remove {
        /// The Item's id at Plaid.
        item: String,
        #[command(flatten)]
        how: How,
        /// Don't ask first.
        #[arg(long, short)]
        yes: bool,
    },
    /// Delete every row about a removed Item, once the lists that it was in were read back without it.
    Erase {
        /// The Item's id at Plaid.
        item: String,
        #[command(flatten)]
        erase: Erase,
    },
    /// Look at the Item now.
    #[command(after_help = "Example: rekey item sync ITEM --wait")]
    Sync {
        /// The Item's id at Plaid.
        item: String,
        #[command(flatten)]
        how: How,
    },
    /// Mint every token of the Item anew, under the access token that it has.
    #[command(after_help = "Example: rekey item mint ITEM --reason 'Layer reads nothing with them' --wait")]
    Mint {
        /// The Item's id at Plaid.
        item: String,
        #[command(flatten)]
        how: How,
    },
    /// Move one account of the Item to another business: out of its list first, then into the other one.
    #[command(after_help = "Example: rekey item move ITEM ACCOUNT --to BUSINESS --dry-run")]
    Move {
        /// The Item's id at Plaid.
        item: String,
        /// The account's id at Plaid.
        account: String,
        /// The business that it goes to. Layer must have it.
        #[arg(long)]
        to: String,
        #[command(flatten)]
        how: How,
    },
    /// Let another Item, which the user has linked anew, take the place of this one, in one list.
    ///
    /// Its accounts are matched by their persistent ids, else by bank, mask and type; never by name. `--dry-run` shows them.
    #[command(after_help = "Example: rekey item replace OLD --by NEW --dry-run")]
    Replace {
        /// The Item that leaves.
        item: String,
        /// The Item that takes its place.
        #[arg(long)]
        by: String,
        /// Take it back, as long as it has not happened.
        #[arg(long)]
        withdraw: bool,
        #[command(flatten)]
        how: How,
    },
    /// Take the Item off the list of missed webhooks: somebody has looked into it.
    Acknowledge {
        /// The Item's id at Plaid.
        item: String,
        #[command(flatten)]
        how: How,
    },
    /// List Items whose last webhook, as Plaid says, never came.
    Missed(PageArgs),
    /// List Items whose webhooks go elsewhere than plaid.webhook_url says.
    Elsewhere(PageArgs),
    /// List Items whose consent ends within 30 days.
    Consents(PageArgs),
    /// List Items that webhooks name and nobody pushed.
    Unknown(PageArgs),
    /// List mints that reached no list: their answers were lost, or came too late.
    Orphans(PageArgs),
}

#[derive(Args)]
pub(super) struct PutItem {
    /// The Item's id at Plaid.
    item: String,
    /// The business its accounts belong to. An Item that is known keeps its own when this is left out.
    #[arg(long)]
    business: Option<String>,
    /// Only this account takes part; may be repeated. ACCOUNT or ACCOUNT=BUSINESS. The filter stays as it is when this is
    /// left out.
    #[arg(long = "account", value_name = "ACCOUNT[=BUSINESS]", conflicts_with = "all_accounts")]
    accounts: Vec<String>,
    /// Every account takes part: takes the account filter away.
    #[arg(long)]
    all_accounts: bool,
    /// The file with the access token; `-` reads standard input. May be left out where only the rest changes.
    #[arg(long, value_name = "FILE", required_unless_present_any = ["business", "accounts", "all_accounts", "replaces"])]
    token_file: Option<PathBuf>,
    /// The Item that leaves when this one's tokens exist.
    #[arg(long)]
    replaces: Option<String>,
    /// What Layer needs to create the business, should it not have it: a JSON object.
    #[arg(long, value_name = "JSON")]
    create: Option<String>,
    /// Wait until Layer accepted every list the Item is in.
    #[arg(long)]
    wait: bool,
}

pub(super) async fn item(admin: &Admin, command: ItemCommand) -> anyhow::Result<Ended> {
    let path = |item: &str| segment(item).map(|item| format!("/v1/items/{item}"));
    match command {
        ItemCommand::Put(put) => put_item(admin, put).await,
        ItemCommand::Show { item } => admin.get(&path(&item)?, show).await,
        ItemCommand::List { list: args, business } => {
            let columns =
                &["item_id", "state", "business", "verdict/state", "verdict/since", "verdict/next", "verdict/why"];
            let mut path = list("/v1/items", &args)?;
            if let Some(business) = business {
                path = format!("{path}&business={}", segment(&business)?);
            }
            admin.get(&path, |b| table(b, columns)).await
        }
        ItemCommand::Remove { item, how, yes } => {
            let of = path(&item)?;
            if !how.dry_run && !yes && !agreed(&format!("Take the accounts of {item} off every list?"))? {
                return Ok(Ended::Failed);
            }
            admin.order(Method::DELETE, &of, "", &how).await
        }
        ItemCommand::Erase { item, erase } => admin.erase(&path(&item)?, &item, &erase).await,
        ItemCommand::Sync { item, how } => admin.order(Method::POST, &path(&item)?, "/sync", &how).await,
        ItemCommand::Mint { item, how } => admin.order(Method::POST, &path(&item)?, "/mint", &how).await,
        ItemCommand::Move { item, account, to, how } => {
            let act = format!("/accounts/{}/move/{}", segment(&account)?, segment(&to)?);
            admin.order(Method::POST, &path(&item)?, &act, &how).await
        }
        ItemCommand::Replace { item, by, withdraw, how } => {
            let method = if withdraw { Method::DELETE } else { Method::POST };
            admin.order(method, &path(&item)?, &format!("/replace/{}", segment(&by)?), &how).await
        }
        ItemCommand::Acknowledge { item, how } => admin.order(Method::POST, &path(&item)?, "/acknowledge", &how).await,
        ItemCommand::Missed(args) => {
            let columns = &["item_id", "last_sent", "last_sent_at", "last_heard", "last_heard_at", "webhook_url"];
            admin.get(&page("/v1/webhooks/missed", &args)?, |b| table(b, columns)).await
        }
        ItemCommand::Elsewhere(args) => {
            let columns = &["item_id", "institution", "read_at", "webhook_url"];
            admin.get(&page("/v1/webhooks/elsewhere", &args)?, |b| table(b, columns)).await
        }
        ItemCommand::Consents(args) => {
            let columns = &["item_id", "institution", "consent_ends_at"];
            admin.get(&page("/v1/consents", &args)?, |b| table(b, columns)).await
        }
        ItemCommand::Unknown(args) => {
            let columns = &["item_id", "events", "first_seen", "last_seen"];
            admin.get(&page("/v1/unknown-items", &args)?, |b| table(b, columns)).await
        }
        ItemCommand::Orphans(args) => {
            let columns = &["item_id", "account_id", "generation", "asked_at", "fingerprint"];
            admin.get(&page("/v1/orphans", &args)?, |b| table(b, columns)).await
        }
    }
}

fn token_in(file: &Path) -> anyhow::Result<String> {
    if file.as_os_str() == "-" {
        return Ok(std::io::read_to_string(std::io::stdin())?);
    }
    let name = file.display().to_string();
    if domain::redact::shows_token(&name) {
        return Err(Usage("--token-file takes the name of a file, and this looks like a token".into()).into());
    }
    std::fs::read_to_string(file).map_err(|e| Usage(format!("the token file {name} can't be read: {e}")).into())
}

async fn put_item(admin: &Admin, put: PutItem) -> anyhow::Result<Ended> {
    let mut body = json!({});
    if let Some(file) = &put.token_file {
        body["access_token"] = token_in(file)?.trim().into();
    }
    if let Some(business) = put.business {
        body["business"] = business.into();
    }
    if put.all_accounts {
        body["accounts"] = "all".into();
    }
    if !put.accounts.is_empty() {
        let named = put.accounts.iter().map(|a| match a.split_once('=') {
            Some((account, business)) => json!({"account_id": account, "business": business}),
            None => json!({"account_id": a}),
        });
        body["accounts"] = named.collect();
    }
    if let Some(create) = put.create {
        let create: Value = serde_json::from_str(&create).map_err(|e| Usage(format!("--create is no JSON: {e}")))?;
        body["create"] = create;
    }
    if let Some(old) = put.replaces {
        body["replaces"] = old.into();
    }
    let wait = if put.wait { "?wait=converged&timeout=60" } else { "" };
    let of = format!("/v1/items/{}", segment(&put.item)?);
    if put.token_file.is_none() {
        // A mistyped id would make an Item that waits for a token for ever, and its business with it.
        let known = admin.call(Method::GET, &of, None).await?;
        if known.status != 200 {
            return Ok(admin.finish(&known, |_| {}));
        }
        if known.body["state"] == ItemState::Removed.as_str() {
            return Err(
                Usage("the Item was removed, and only its access token brings it back: --token-file".into()).into()
            );
        }
    }
    let path = format!("{of}{wait}");
    let pushed = admin.call(Method::PUT, &path, Some(&body));
    let answer = match put.wait && !admin.json {
        true => admin.telling(&format!("{of}/explain"), pushed).await?,
        false => pushed.await?,
    };
    let ended = admin.finish(&answer, |b| {
        let text = |name: &str| b[name].as_str().unwrap_or("-").to_owned();
        match &put.token_file {
            None => say(&format!("{}: pushed; its access token stays as it is", text("item_id"))),
            Some(_) => say(&format!("{} token {} ({})", text("item_id"), text("token"), text("fingerprint"))),
        }
        for why in b["blocked"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            say(&format!("waits: {why}"));
        }
        if answer.status == 202 {
            say("not answered yet: `rekey explain` tells what it waits for");
        }
    });
    Ok(if answer.status == 202 { Ended::Pending } else { ended })
}
