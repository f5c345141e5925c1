//! Commands that call the admin API.

use super::table::{age, aligned, plain};
use super::{Ended, Usage, complain, say};
use crate::config::{BadSetting, Config, provider_url};
use clap::{Args, Subcommand};
use domain::verdict::State;
use reqwest::Method;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The admin API, as the command line sees it.
pub(super) struct Admin {
    url: String,
    token: SecretString,
    http: reqwest::Client,
    pub(super) json: bool,
}

/// A status and the body that came with it.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Value,
}

#[derive(Subcommand)]
pub(super) enum ItemCommand {
    /// Push an Item. The access token comes from a file or standard input, never from an argument.
    Put(PutItem),
    /// Show one Item; `rekey explain` tells why it stands so.
    #[command(visible_alias = "get")]
    Show { item: String },
    /// List Items: all of them, or those in a state.
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Tell Rekey that the platform removed the Item: its accounts leave every list.
    Remove { item: String },
    /// Delete every row about a removed Item, once the lists that it was in were read back without it.
    Erase {
        item: String,
        /// Also where no list could be read back: Layer does not have the business any more, or nothing is sent.
        #[arg(long)]
        unconfirmed: bool,
    },
    /// Look at the Item now.
    Sync {
        item: String,
        #[command(flatten)]
        why: Why,
    },
    /// List Items that webhooks name and nobody pushed.
    Unknown(PageArgs),
    /// List mints that reached no list: their answers were lost, or came too late.
    Orphans(PageArgs),
}

#[derive(Args)]
pub(super) struct PutItem {
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
    /// The file with the access token; `-` reads standard input.
    #[arg(long, value_name = "FILE")]
    token_file: PathBuf,
    /// The Item that leaves when this one's tokens exist.
    #[arg(long)]
    replaces: Option<String>,
    /// Wait until Layer accepted every list the Item is in.
    #[arg(long)]
    wait: bool,
}

#[derive(Subcommand)]
pub(super) enum BusinessCommand {
    /// Show one business; `rekey explain` tells why it stands so.
    #[command(visible_alias = "get")]
    Show { business: String },
    /// List businesses: all of them, or those in a state.
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Delete every row about a business that no Item names any more.
    Erase {
        business: String,
        /// Also where its list could not be read back: Layer does not have it any more, or nothing is sent.
        #[arg(long)]
        unconfirmed: bool,
    },
    /// Compare the list at Layer with the truth now.
    Sync {
        business: String,
        #[command(flatten)]
        why: Why,
    },
}

#[derive(Subcommand)]
pub(super) enum ParkedCommand {
    /// List what waits for a person.
    #[command(visible_alias = "ls")]
    List(PageArgs),
    /// Let a row go on, on the truth of this moment.
    Release {
        #[arg(value_parser = ["item", "business"])]
        kind: String,
        id: String,
        #[command(flatten)]
        why: Why,
    },
}

#[derive(Args)]
pub(super) struct Why {
    /// Why, for the audit trail.
    #[arg(long)]
    reason: Option<String>,
    /// The `version` that an explanation showed: refused if what keeps the row is another thing by now.
    #[arg(long)]
    version: Option<String>,
}

impl Why {
    fn query(&self) -> String {
        let named = [("reason", &self.reason), ("version", &self.version)];
        let given = named.iter().filter_map(|(name, text)| Some(format!("{name}={}", escaped(text.as_deref()?))));
        let query: Vec<String> = given.collect();
        if query.is_empty() { String::new() } else { format!("?{}", query.join("&")) }
    }
}

#[derive(Args)]
pub(super) struct PageArgs {
    /// Continue after this entry.
    #[arg(long)]
    after: Option<String>,
    #[arg(long, default_value_t = 100)]
    limit: u32,
}

#[derive(Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    page: PageArgs,
    /// Only those whose verdict is this.
    #[arg(long, value_name = "STATE", value_parser = clap::builder::PossibleValuesParser::new(State::WORDS))]
    verdict: Option<String>,
}

#[derive(Args)]
pub(super) struct AuditArgs {
    #[command(flatten)]
    page: PageArgs,
    /// Only what was done to this. That of an erased one is found by its id.
    #[arg(long, value_name = "item/ID|business/ID|key/ID")]
    subject: Option<String>,
    /// Only what this admin token did.
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
}

impl Admin {
    pub(super) fn new(config: &Config, json: bool) -> anyhow::Result<Self> {
        let token = config.admin.token.expose_secret();
        let unset = "is not set: give REKEY_ADMIN__TOKEN or REKEY_ADMIN__TOKEN_FILE";
        BadSetting::refuse(token.is_empty(), "admin.token", unset)?;
        // The admin token goes there, and access tokens: in the clear to this machine at most.
        provider_url("admin.url", &config.admin.url, &config.tls.plain_http)?;
        let more =
            "must be the token alone, which is what stands behind `# token: ` in the output of `rekey token new`";
        let is_more = !token.chars().all(|c| c.is_ascii_graphic());
        BadSetting::refuse(is_more, "admin.token (or admin.token_file)", more)?;
        let roots = reqwest::Certificate::from_pem_bundle(config.extra_roots()?.as_bytes())?;
        let http = web::outgoing().timeout(Duration::from_secs(90)).tls_certs_merge(roots).build()?;
        let url = config.admin.url.trim_end_matches('/').to_owned();
        Ok(Self { url, token: config.admin.token.clone(), http, json })
    }

    pub(super) async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<Answer> {
        let mut request =
            self.http.request(method, format!("{}{path}", self.url)).bearer_auth(self.token.expose_secret());
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await.map_err(|e| {
            anyhow::anyhow!(
                "the admin API at {} does not answer ({}): is `rekey console` running there?",
                self.url,
                e.without_url()
            )
        })?;
        let status = answer.status().as_u16();
        anyhow::ensure!(
            !answer.status().is_redirection(),
            "the admin API at {} points elsewhere ({status}), and the admin token is sent nowhere else: set admin.url to the \
             address itself",
            self.url
        );
        let text = answer.text().await?;
        let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        Ok(Answer { status, body })
    }

    /// Prints an answer and turns its status into an exit code.
    pub(super) fn finish(&self, answer: &Answer, readable: impl FnOnce(&Value)) -> Ended {
        let is_ours = answer.body["error"].is_string();
        let ended = match answer.status {
            200 | 202 | 204 => Ended::Well,
            404 if is_ours => Ended::NotFound,
            422 => Ended::Rejected,
            _ => Ended::Failed,
        };
        if self.json {
            say(&answer.body.to_string());
        } else if ended == Ended::Well {
            readable(&answer.body);
        } else if !is_ours {
            let url = &self.url;
            complain(&format!("{url} answers {} and is not Rekey's admin API: check admin.url", answer.status));
        } else {
            let text = |name: &str| answer.body[name].as_str().unwrap_or_default().to_owned();
            let hint = if answer.status == 401 { " (admin.token or admin.token_file here)" } else { "" };
            complain(&format!("{}: {}{hint}", text("error"), text("message")));
        }
        ended
    }

    async fn get(&self, path: &str, readable: impl FnOnce(&Value)) -> anyhow::Result<Ended> {
        let answer = self.call(Method::GET, path, None).await?;
        Ok(self.finish(&answer, readable))
    }

    async fn sync(&self, what: &str, why: &Why) -> anyhow::Result<Ended> {
        self.simple(Method::POST, &format!("{what}/sync{}", why.query()), "it is due").await
    }

    async fn erase(&self, what: &str, unconfirmed: bool) -> anyhow::Result<Ended> {
        let anyway = if unconfirmed { "?unconfirmed=true" } else { "" };
        self.simple(Method::POST, &format!("{what}/erase{anyway}"), "nothing is known of it any more").await
    }

    async fn simple(&self, method: Method, path: &str, done: &str) -> anyhow::Result<Ended> {
        let answer = self.call(method, path, None).await?;
        Ok(self.finish(&answer, |_| say(done)))
    }
}

/// A path segment as the API expects it.
pub(super) fn segment(text: &str) -> anyhow::Result<String> {
    let is_dots = text.chars().all(|c| c == '.');
    if text.is_empty() || is_dots || !text.chars().all(|c| c.is_ascii_graphic()) {
        return Err(Usage(format!("{text:?} is no id: ids have no spaces and are not empty")).into());
    }
    Ok(escaped(text))
}

fn escaped(text: &str) -> String {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~:".contains(&b);
    let escaped = |b: u8| if is_plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") };
    text.bytes().map(escaped).collect()
}

fn page(path: &str, args: &PageArgs) -> anyhow::Result<String> {
    let after = args.after.as_deref().map(segment).transpose()?;
    Ok(format!("{path}?limit={}{}", args.limit, after.map_or(String::new(), |a| format!("&after={a}"))))
}

fn list(path: &str, args: &ListArgs) -> anyhow::Result<String> {
    let page = page(path, &args.page)?;
    Ok(args.verdict.as_ref().map_or(page.clone(), |verdict| format!("{page}&verdict={verdict}")))
}

fn show(body: &Value) {
    say(&serde_json::to_string_pretty(body).unwrap_or_default());
}

/// Points in time are shown as ages.
fn table(body: &Value, columns: &[&str]) {
    let now = jiff::Timestamp::now();
    let cell = |row: &Value, column: &&str| {
        let value = row.pointer(&format!("/{column}")).unwrap_or(&Value::Null);
        let is_time = ["since", "_at", "_seen", "_until"].iter().any(|end| column.ends_with(end)) || *column == "at";
        if is_time { age(value, now) } else { plain(value) }
    };
    let titles: Vec<String> = columns.iter().map(|c| c.rsplit('/').next().unwrap_or(c).to_uppercase()).collect();
    let titles: Vec<&str> = titles.iter().map(String::as_str).collect();
    let rows = body["data"].as_array().into_iter().flatten();
    let rows: Vec<Vec<String>> = rows.map(|row| columns.iter().map(|c| cell(row, c)).collect()).collect();
    aligned(&titles, &rows).iter().for_each(|line| say(line));
    if let Some(next) = body["next"].as_str() {
        say(&format!("# more: --after {next}"));
    }
}

pub(super) async fn item(admin: &Admin, command: ItemCommand) -> anyhow::Result<Ended> {
    let path = |item: &str| segment(item).map(|item| format!("/v1/items/{item}"));
    match command {
        ItemCommand::Put(put) => put_item(admin, put).await,
        ItemCommand::Show { item } => admin.get(&path(&item)?, show).await,
        ItemCommand::List(args) => {
            let columns =
                &["item_id", "state", "business", "verdict/state", "verdict/since", "verdict/next", "verdict/why"];
            admin.get(&list("/v1/items", &args)?, |b| table(b, columns)).await
        }
        ItemCommand::Remove { item } => {
            admin.simple(Method::DELETE, &path(&item)?, "its accounts are leaving every list").await
        }
        ItemCommand::Erase { item, unconfirmed } => admin.erase(&path(&item)?, unconfirmed).await,
        ItemCommand::Sync { item, why } => admin.sync(&path(&item)?, &why).await,
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

async fn put_item(admin: &Admin, put: PutItem) -> anyhow::Result<Ended> {
    let token = if put.token_file.as_os_str() == "-" {
        std::io::read_to_string(std::io::stdin())?
    } else {
        let name = put.token_file.display().to_string();
        if domain::redact::shows_token(&name) {
            return Err(Usage("--token-file takes the name of a file, and this looks like a token".into()).into());
        }
        std::fs::read_to_string(&put.token_file)
            .map_err(|e| Usage(format!("the token file {name} can't be read: {e}")))?
    };
    let mut body = json!({"access_token": token.trim()});
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
    if let Some(old) = put.replaces {
        body["replaces"] = old.into();
    }
    let wait = if put.wait { "?wait=converged&timeout=60" } else { "" };
    let answer = admin.call(Method::PUT, &format!("/v1/items/{}{wait}", segment(&put.item)?), Some(&body)).await?;
    let ended = admin.finish(&answer, |b| {
        let text = |name: &str| b[name].as_str().unwrap_or("-").to_owned();
        say(&format!("{} token {} ({})", text("item_id"), text("token"), text("fingerprint")));
        for why in b["blocked"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            say(&format!("waits: {why}"));
        }
        if answer.status == 202 {
            say("not answered yet: `rekey item show` and `rekey business show` tell what it waits for");
        }
    });
    Ok(if answer.status == 202 { Ended::Pending } else { ended })
}

pub(super) async fn business(admin: &Admin, command: BusinessCommand) -> anyhow::Result<Ended> {
    let path = |business: &str| segment(business).map(|business| format!("/v1/businesses/{business}"));
    match command {
        BusinessCommand::Show { business } => admin.get(&path(&business)?, show).await,
        BusinessCommand::List(args) => {
            let columns = &["business_id", "verdict/state", "verdict/since", "verdict/next", "verdict/why"];
            admin.get(&list("/v1/businesses", &args)?, |b| table(b, columns)).await
        }
        BusinessCommand::Erase { business, unconfirmed } => admin.erase(&path(&business)?, unconfirmed).await,
        BusinessCommand::Sync { business, why } => admin.sync(&path(&business)?, &why).await,
    }
}

pub(super) async fn parked(admin: &Admin, command: ParkedCommand) -> anyhow::Result<Ended> {
    match command {
        ParkedCommand::List(args) => {
            let columns = &["kind", "id", "verdict/state", "verdict/since", "work/blocked/code", "verdict/why"];
            admin.get(&page("/v1/parked", &args)?, |b| table(b, columns)).await
        }
        ParkedCommand::Release { kind, id, why } => {
            let path = format!("/v1/parked/{}/{}/release{}", segment(&kind)?, segment(&id)?, why.query());
            admin.simple(Method::POST, &path, "released: it is due").await
        }
    }
}

pub(super) async fn audit(admin: &Admin, args: &AuditArgs) -> anyhow::Result<Ended> {
    let mut path = page("/v1/audit", &args.page)?;
    for (name, wanted) in [("subject", &args.subject), ("by", &args.by)] {
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
