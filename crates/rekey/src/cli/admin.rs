//! Commands that call the admin API.

use super::explain::next_list;
use super::table::{Column, Fit, age, plain, print};
use super::{Ended, Usage, complain, say};
use crate::config::{BadSetting, Config, provider_url};
use clap::{Args, Subcommand};
use domain::explain::pasted;
use domain::verdict::{Problem, State};
use reqwest::Method;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::IsTerminal;
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
    /// The file with the access token; `-` reads standard input.
    #[arg(long, value_name = "FILE")]
    token_file: PathBuf,
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
        after_help = "Example: rekey parked release business acme --dry-run\n         rekey parked release --all shrink_guard"
    )]
    Release {
        /// Whether it is an Item or a business.
        #[arg(value_parser = ["item", "business"], required_unless_present = "all", requires = "id")]
        kind: Option<String>,
        /// Its id.
        id: Option<String>,
        /// Every row that is kept for this code, as `rekey parked list` shows it. Ctrl-C stops.
        #[arg(long, value_name = "CODE", conflicts_with_all = ["kind", "version", "wait"])]
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
    reason: Option<String>,
    /// The `version` that an explanation showed: refused if the row is another one by now.
    #[arg(long)]
    version: Option<String>,
    /// Only say what would be sent.
    #[arg(long)]
    dry_run: bool,
    /// Wait for what comes of it, a minute at most. Ends with 5 if that has not come by then, or if it waits for a person.
    #[arg(long)]
    wait: bool,
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

#[derive(Args)]
pub(super) struct PageArgs {
    /// Continue after this entry.
    #[arg(long)]
    after: Option<String>,
    /// Entries at most, 500 in one go.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=500))]
    limit: u32,
}

#[derive(Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    page: PageArgs,
    /// Only those whose verdict is this.
    #[arg(long, visible_alias = "state", value_name = "STATE", value_parser = clap::builder::PossibleValuesParser::new(State::WORDS))]
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
    /// Only what is not older: `2h`, `3d`, or a point in time.
    #[arg(long, value_name = "WHEN", value_parser = super::table::since)]
    since: Option<String>,
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

    /// Orders something of a row, and tells what comes of it or would come of it.
    async fn order(&self, method: Method, of: &str, act: &str, how: &How) -> anyhow::Result<Ended> {
        let path = format!("{of}{act}{}", how.query());
        let ordered = self.call(method, &path, None);
        let answer = match how.wait && !how.dry_run && !self.json {
            true => self.telling(&format!("{of}/explain"), ordered).await?,
            false => ordered.await?,
        };
        Ok(ended(self, &answer, how))
    }

    /// Tells on standard error how something stands, each time that it changes, until `work` is done.
    async fn telling<T>(&self, explained: &str, work: impl Future<Output = T>) -> T {
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
            let stands = format!("{}: {}", plain(&verdict["state"]), plain(&verdict["why"]));
            if stands != told {
                progress(&format!("{:>5.1} s  {stands}", began.elapsed().as_secs_f64()));
                told = stands;
            }
        }
    }

    async fn erase(&self, what: &str, id: &str, erase: &Erase) -> anyhow::Result<Ended> {
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

    async fn simple(&self, method: Method, path: &str, done: &str) -> anyhow::Result<Ended> {
        let answer = self.call(method, path, None).await?;
        Ok(self.finish(&answer, |_| say(done)))
    }
}

/// Asks a person at a terminal. Who is none says it with `--yes`.
#[allow(
    clippy::print_stderr,
    reason = "a question to the person at the terminal, while the result goes to standard output"
)]
fn agreed(question: &str) -> anyhow::Result<bool> {
    if !std::io::stdin().is_terminal() {
        return Err(Usage(format!("{question} Nobody can be asked here: say --yes")).into());
    }
    eprint!("{question} [y/N] ");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    let yes = matches!(answer.trim(), "y" | "Y" | "yes");
    if !yes {
        complain("nothing was done");
    }
    Ok(yes)
}

#[allow(clippy::print_stderr, reason = "what is waited for, while the result goes to standard output")]
pub(super) fn progress(line: &str) {
    eprintln!("{line}");
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

pub(super) fn page(path: &str, args: &PageArgs) -> anyhow::Result<String> {
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
    let titles = columns.iter().map(|c| c.rsplit('/').next().unwrap_or(c));
    let titles: Vec<Column> = titles.map(|title| Column::new(title.to_uppercase(), fit(title))).collect();
    let rows = body["data"].as_array().into_iter().flatten();
    let rows: Vec<Vec<String>> = rows.map(|row| columns.iter().map(|c| cell(row, c)).collect()).collect();
    print(&titles, &rows, "");
    if let Some(next) = body["next"].as_str() {
        say(&format!("# more: --after {next}"));
    }
}

/// What may be done to a column of this name in a narrow terminal.
fn fit(name: &str) -> Fit {
    match name {
        "why" | "reason" | "was" | "became" | "webhook_url" => Fit::Text,
        "id" | "subject" | "business" | "fingerprint" | "institution" | "by" | "from" | "action" => Fit::Short,
        name if name.ends_with("_id") => Fit::Short,
        _ => Fit::Whole,
    }
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
    if let Some(create) = put.create {
        let create: Value = serde_json::from_str(&create).map_err(|e| Usage(format!("--create is no JSON: {e}")))?;
        body["create"] = create;
    }
    if let Some(old) = put.replaces {
        body["replaces"] = old.into();
    }
    let wait = if put.wait { "?wait=converged&timeout=60" } else { "" };
    let of = format!("/v1/items/{}", segment(&put.item)?);
    let path = format!("{of}{wait}");
    let pushed = admin.call(Method::PUT, &path, Some(&body));
    let answer = match put.wait && !admin.json {
        true => admin.telling(&format!("{of}/explain"), pushed).await?,
        false => pushed.await?,
    };
    let ended = admin.finish(&answer, |b| {
        let text = |name: &str| b[name].as_str().unwrap_or("-").to_owned();
        say(&format!("{} token {} ({})", text("item_id"), text("token"), text("fingerprint")));
        for why in b["blocked"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            say(&format!("waits: {why}"));
        }
        if answer.status == 202 {
            say("not answered yet: `rekey explain` tells what it waits for");
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
            let explained = if kind == "item" { "items" } else { "businesses" };
            let path = format!("/v1/parked/{kind}/{id}/release{}", how.query());
            let released = admin.call(Method::POST, &path, None);
            let answer = match how.wait && !how.dry_run && !admin.json {
                true => admin.telling(&format!("/v1/{explained}/{id}/explain"), released).await?,
                false => released.await?,
            };
            Ok(ended(admin, &answer, &how))
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

/// A slice in each call, with what was done until then. Ctrl-C stops between two of them.
async fn release_all(admin: &Admin, code: &str, how: &How) -> anyhow::Result<Ended> {
    let (mut released, mut left, mut after) = (0, 0, None::<String>);
    loop {
        let mut path = format!("/v1/parked/release?code={}&dry_run={}", segment(code)?, how.dry_run);
        for (name, text) in [("reason", &how.reason), ("after", &after)] {
            if let Some(text) = text {
                path = format!("{path}&{name}={}", escaped(text));
            }
        }
        let answer = tokio::select! {
            answer = admin.call(Method::POST, &path, None) => answer?,
            () = crate::process::signal() => {
                complain(&format!("stopped: {released} were released; run the same command again to go on"));
                return Ok(Ended::Failed);
            }
        };
        if answer.status != 200 {
            return Ok(admin.finish(&answer, show));
        }
        released += answer.body["released"].as_u64().unwrap_or_default();
        left += ["paused", "held"].iter().filter_map(|why| answer.body[*why].as_u64()).sum::<u64>();
        after = answer.body["next"].as_str().map(str::to_owned);
        if after.is_none() {
            let body = json!({"code": code, "dry_run": how.dry_run, "released": released, "left_alone": left});
            return Ok(admin.finish(&Answer { status: 200, body }, |_| {
                let would = if how.dry_run { "would be released" } else { "released: they are due" };
                say(&format!("{released} {would}"));
                if left > 0 {
                    say(&format!(
                        "{left} were left alone: their provider is paused (`rekey pauses`), or an operator holds them"
                    ));
                }
            }));
        }
        if !admin.json {
            progress(&format!("{released} so far"));
        }
    }
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
