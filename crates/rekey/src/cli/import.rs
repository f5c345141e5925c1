//! `rekey import`: many Items from a file, with a progress bar, resumable.

use super::client::{Admin, segment};
use super::{Ended, Usage, say};
use anyhow::{Context, bail, ensure};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::Method;
use serde_json::Value;
use std::collections::HashSet;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// One JSON object a line: `item_id`, and whatever `PUT /v1/items/{item_id}` takes.
#[derive(Args)]
pub(super) struct Import {
    /// The file. What was taken is noted beside it, in FILE.done.
    file: PathBuf,
    /// Pushes under way at once.
    #[arg(long, default_value_t = 8)]
    parallel: usize,
}

/// A line that is ready to be pushed.
struct Entry {
    line: usize,
    item: String,
    body: Value,
    /// What is noted when it was taken: a line that says something else later is pushed again.
    mark: String,
}

/// What became of one.
enum Pushed {
    /// Plaid proved its token, or there was none to prove.
    Taken,
    /// Stored, and Plaid has not answered yet.
    Pending,
    Refused(String),
    Unanswered(String),
}

impl Import {
    /// Items that were taken are noted beside the file, so that a second run goes on where the first one ended.
    pub(super) async fn run(&self, admin: Admin) -> anyhow::Result<Ended> {
        let text = std::fs::read_to_string(&self.file)
            .with_context(|| format!("the file {} can't be read", self.file.display()))?;
        let entries = parse(&text)?;
        let journal_path = PathBuf::from(format!("{}.done", self.file.display()));
        let done: HashSet<String> =
            std::fs::read_to_string(&journal_path).unwrap_or_default().lines().map(str::to_owned).collect();
        let mut journal = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&journal_path)
            .with_context(|| format!("progress can't be noted in {}", journal_path.display()))?;
        let total = entries.len();
        let left: Vec<Entry> = entries.into_iter().filter(|e| !done.contains(&e.mark)).collect();
        let bar = ProgressBar::new(total as u64);
        bar.set_style(ProgressStyle::with_template("{bar:30} {pos}/{len} Items, {per_sec}, {eta} left, {msg}")?);
        bar.set_position((total - left.len()) as u64);

        let before = total - left.len();
        let (mut refused, mut taken, mut pending) = (Vec::new(), 0, 0);
        let mut unanswered = None;
        let admin = Arc::new(admin);
        let mut pushes = JoinSet::new();
        let mut queue = left.into_iter();
        let mut stop = std::pin::pin!(crate::process::signal());
        loop {
            while pushes.len() < self.parallel.max(1) && unanswered.is_none() {
                let Some(entry) = queue.next() else { break };
                pushes.spawn(push(Arc::clone(&admin), entry));
            }
            let ended = tokio::select! {
                ended = pushes.join_next() => ended,
                // What is under way is waited for: it may be taken, and is noted then.
                () = &mut stop, if unanswered.is_none() => {
                    unanswered = Some("stopped by Ctrl-C".to_owned());
                    continue;
                }
            };
            let Some(ended) = ended else { break };
            let (entry, pushed) = ended?;
            match pushed {
                Pushed::Taken => {
                    taken += 1;
                    writeln!(journal, "{}", entry.mark)?;
                }
                Pushed::Pending => pending += 1,
                Pushed::Refused(why) => refused.push((entry.line, format!("Item {}: {why}", entry.item))),
                Pushed::Unanswered(why) => unanswered = Some(why),
            }
            bar.inc(1);
            bar.set_message(format!("{} refused", refused.len()));
        }
        journal.sync_all()?;
        bar.finish_and_clear();
        refused.sort();
        let refused = refused.into_iter().map(|(line, why)| format!("line {line}: {why}")).collect();
        Report { total, before, taken, pending, refused, stopped: unanswered }.show(admin.json)
    }
}

/// What an import came to.
struct Report {
    total: usize,
    /// Taken by an earlier run.
    before: usize,
    taken: usize,
    pending: usize,
    refused: Vec<String>,
    stopped: Option<String>,
}

impl Report {
    fn show(self, json: bool) -> anyhow::Result<Ended> {
        let Self { total, before, taken, pending, refused, stopped } = self;
        if json {
            let report = serde_json::json!({
                "items": total, "taken_before": before, "taken": taken, "pending": pending, "refused": refused, "stopped": stopped,
            });
            say(&report.to_string());
        } else {
            refused.iter().for_each(|line| say(line));
            let lines = refused.len();
            say(&format!(
                "{total} Items: {before} taken before, {taken} taken now, {pending} not proved yet, {lines} refused"
            ));
            if pending > 0 {
                say("what is not proved yet is stored, and may still be refused: run the same command again to see");
            }
        }
        if let Some(why) = stopped {
            bail!("{why}; run the same command again to go on");
        }
        Ok(match (refused.is_empty(), pending) {
            (false, _) => Ended::Rejected,
            (true, 0) => Ended::Well,
            (true, _) => Ended::Pending,
        })
    }
}

/// How many Items an import file names, or which line is wrong. Nothing is sent.
pub fn check_import(text: &str) -> anyhow::Result<usize> {
    parse(text).map(|entries| entries.len())
}

/// Every line is checked before the first one is sent: a broken file changes nothing.
fn parse(text: &str) -> anyhow::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    let mut seen = HashSet::new();
    for (index, line) in text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
        let number = index + 1;
        // The parser's message may quote the line, which holds a token.
        let Ok(Value::Object(mut fields)) = serde_json::from_str::<Value>(line) else {
            bail!(Usage(format!("line {number} is not a JSON object; nothing was sent")));
        };
        let Some(Value::String(item)) = fields.remove("item_id") else {
            bail!(Usage(format!("line {number} has no item_id; nothing was sent")));
        };
        let is_new = seen.insert(item.clone());
        ensure!(is_new, Usage(format!("line {number} names an Item for the second time; nothing was sent")));
        let mark = format!("{item} {}", console::hash_token(line));
        entries.push(Entry { line: number, item, body: Value::Object(fields), mark });
    }
    Ok(entries)
}

async fn push(admin: Arc<Admin>, entry: Entry) -> (Entry, Pushed) {
    let pushed = push_one(&admin, &entry).await;
    (entry, pushed)
}

/// An admin API that restarts is waited for a little.
async fn push_one(admin: &Admin, entry: &Entry) -> Pushed {
    let path = match segment(&entry.item) {
        Ok(item) => format!("/v1/items/{item}?background=true"),
        Err(error) => return Pushed::Refused(error.to_string()),
    };
    let mut last = String::new();
    for wait in [0u64, 200, 1000, 3000] {
        tokio::time::sleep(Duration::from_millis(wait)).await;
        match admin.call(Method::PUT, &path, Some(&entry.body)).await {
            Ok(answer) if answer.status == 200 => return Pushed::Taken,
            Ok(answer) if answer.status == 202 => return Pushed::Pending,
            Ok(answer) if matches!(answer.status, 401 | 403 | 429) => {
                let why = "the admin API refuses the admin token: check admin.token and its role";
                return Pushed::Unanswered(why.into());
            }
            Ok(answer) if answer.status >= 500 => last = format!("the admin API answers {}", answer.status),
            Ok(answer) => {
                let why = answer.body["message"].as_str().unwrap_or("refused without a reason");
                return Pushed::Refused(why.to_owned());
            }
            Err(error) => last = error.to_string(),
        }
    }
    Pushed::Unanswered(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_says_something_else_is_pushed_again() {
        let marks = |text: &str| parse(text).unwrap().remove(0).mark;
        let old = r#"{"item_id":"a","access_token":"old"}"#;
        assert_eq!(marks(old), marks(old));
        assert_ne!(marks(old), marks(r#"{"item_id":"a","access_token":"new"}"#));
        assert!(!marks(old).contains("old"));
    }

    #[test]
    fn a_broken_file_is_refused_as_a_whole_and_never_quoted() {
        let broken = "{\"item_id\":\"a\"}\n{\"access_token\": \"marked";
        let error = parse(broken).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("line 2") && !error.contains("marked"), "{error}");
        assert!(parse("{\"item_id\":\"a\"}\n{\"item_id\":\"a\"}").is_err());
        assert_eq!(parse("\n{\"item_id\":\"a\",\"business\":\"b\"}\n").unwrap().len(), 1);
    }
}
