//! The admin API, as the command line sees it: its calls, pages and answers.

use super::table::{Column, Fit, age, plain, print};
use super::{Ended, Usage, complain, say};
use crate::config::{BadSetting, Config, provider_url};
use clap::Args;
use domain::verdict::State;
use reqwest::Method;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use std::io::IsTerminal;
use std::time::Duration;

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

    pub(super) async fn get(&self, path: &str, readable: impl FnOnce(&Value)) -> anyhow::Result<Ended> {
        let answer = self.call(Method::GET, path, None).await?;
        Ok(self.finish(&answer, readable))
    }

    pub(super) async fn simple(&self, method: Method, path: &str, done: &str) -> anyhow::Result<Ended> {
        let answer = self.call(method, path, None).await?;
        Ok(self.finish(&answer, |_| say(done)))
    }
}

/// Asks a person at a terminal. Who is none says it with `--yes`.
#[allow(
    clippy::print_stderr,
    reason = "a question to the person at the terminal, while the result goes to standard output"
)]
pub(super) fn agreed(question: &str) -> anyhow::Result<bool> {
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

/// A path segment as the API expects it.
pub(super) fn segment(text: &str) -> anyhow::Result<String> {
    let is_dots = text.chars().all(|c| c == '.');
    if text.is_empty() || is_dots || !text.chars().all(|c| c.is_ascii_graphic()) {
        return Err(Usage(format!("{text:?} is no id: ids have no spaces and are not empty")).into());
    }
    Ok(escaped(text))
}

pub(super) fn escaped(text: &str) -> String {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~:".contains(&b);
    let escaped = |b: u8| if is_plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") };
    text.bytes().map(escaped).collect()
}

pub(super) fn page(path: &str, args: &PageArgs) -> anyhow::Result<String> {
    let after = args.after.as_deref().map(segment).transpose()?;
    Ok(format!("{path}?limit={}{}", args.limit, after.map_or(String::new(), |a| format!("&after={a}"))))
}

pub(super) fn list(path: &str, args: &ListArgs) -> anyhow::Result<String> {
    let page = page(path, &args.page)?;
    Ok(args.verdict.as_ref().map_or(page.clone(), |verdict| format!("{page}&verdict={verdict}")))
}

pub(super) fn show(body: &Value) {
    say(&serde_json::to_string_pretty(body).unwrap_or_default());
}

/// Points in time are shown as ages.
pub(super) fn table(body: &Value, columns: &[&str]) {
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
