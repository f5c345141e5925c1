//! `rekey outcomes`: what changed, once or as it comes.

use super::client::{Admin, Answer, PageArgs, page, progress, segment};
use super::table::{Column, Fit, age, plain, print};
use super::{Ended, complain, say};
use clap::Args;
use domain::outcome::Outcome;
use jiff::{SignedDuration, Timestamp};
use reqwest::Method;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

/// How often it is asked for more, and how long it waits for an API that is away.
const POLL: Duration = Duration::from_secs(1);

/// What appears this much later than what is newer was being written when that was read, or by a machine whose clock is behind.
const OVERLAP: SignedDuration = SignedDuration::from_secs(30);

#[derive(Args)]
pub(super) struct Outcomes {
    #[command(flatten)]
    page: PageArgs,
    /// Tell each as it comes, the oldest first, until Ctrl-C; without --since from now on.
    #[arg(long, short, conflicts_with_all = ["after", "limit", "oldest_first"])]
    follow: bool,
    /// Only those of this business and its Items; of more than 50 Items, the first 50.
    #[arg(long, conflicts_with = "item")]
    business: Option<String>,
    /// Only those of this Item.
    #[arg(long)]
    item: Option<String>,
    /// Only those of this type, as the topic names it.
    #[arg(long = "type", value_name = "TYPE", value_parser = clap::builder::PossibleValuesParser::new(Outcome::WORDS), hide_possible_values = true)]
    kind: Option<String>,
    /// Only what is not older: `2h`, `3d`, or a point in time.
    #[arg(long, value_name = "WHEN", value_parser = super::table::since)]
    since: Option<String>,
    /// The oldest first.
    #[arg(long)]
    oldest_first: bool,
}

impl Outcomes {
    /// What narrows them, as the API takes it.
    fn narrowed(&self) -> anyhow::Result<String> {
        let subject = self.business.as_ref().map(|id| ("business", id)).or(self.item.as_ref().map(|id| ("item", id)));
        let subject = subject.map(|(kind, id)| segment(&format!("{kind}/{id}"))).transpose()?;
        let subject = subject.map_or(String::new(), |subject| format!("&subject={subject}"));
        Ok(format!("{subject}{}", self.kind.as_ref().map_or(String::new(), |kind| format!("&type={kind}"))))
    }
}

pub(super) async fn outcomes(admin: &Admin, args: &Outcomes) -> anyhow::Result<Ended> {
    if args.follow {
        let stop = crate::process::signal();
        return tokio::select! {
            ended = follow(admin, args) => ended,
            () = stop => Ok(Ended::Well),
        };
    }
    let since =
        args.since.as_deref().map(segment).transpose()?.map_or(String::new(), |since| format!("&since={since}"));
    let order = if args.oldest_first { "&order=oldest" } else { "" };
    let path = format!("{}{}{since}{order}", page("/v1/outcomes", &args.page)?, args.narrowed()?);
    let answer = admin.call(Method::GET, &path, None).await?;
    if admin.json && answer.status == 200 {
        each(&answer).for_each(|outcome| say(&outcome.to_string()));
        return Ok(Ended::Well);
    }
    Ok(admin.finish(&answer, |body| {
        let now = Timestamp::now();
        let cells =
            |o: &Value| [age(&o["at"], now), plain(&o["subject"]), plain(&o["type"]), plain(&o["text"])].to_vec();
        let columns = [
            Column::new("AT", Fit::Whole),
            Column::new("SUBJECT", Fit::Short),
            Column::new("TYPE", Fit::Whole),
            Column::new("TEXT", Fit::Text),
        ];
        print(&columns, &each(&answer).map(cells).collect::<Vec<_>>(), "");
        if let Some(next) = body["next"].as_str() {
            say(&format!("# more: --after {next}"));
        }
    }))
}

fn each(answer: &Answer) -> impl Iterator<Item = &Value> {
    answer.body["data"].as_array().into_iter().flatten()
}

/// Where somebody who follows stands.
#[derive(Default)]
struct Place {
    /// Outcomes of the last while, by their ids: each is told once.
    seen: BTreeMap<String, Timestamp>,
    newest: Option<Timestamp>,
}

impl Place {
    /// Whether it was not seen before.
    fn takes(&mut self, outcome: &Value) -> bool {
        let at = outcome["at"].as_str().and_then(|at| at.parse().ok()).unwrap_or(Timestamp::UNIX_EPOCH);
        self.newest = self.newest.max(Some(at));
        self.seen.insert(plain(&outcome["id"]), at).is_none()
    }

    /// From where to read again.
    fn since(&self) -> Option<Timestamp> {
        self.newest.and_then(|newest| newest.checked_sub(OVERLAP).ok())
    }

    /// What is not read again need not be remembered. Twice as long, for ids and times are of different clocks.
    fn forget(&mut self) {
        if let Some(before) = self.since().and_then(|since| since.checked_sub(OVERLAP).ok()) {
            self.seen.retain(|_, at| *at >= before);
        }
    }
}

/// Reads from the last seconds on, again and again, and tells what it has not told.
async fn follow(admin: &Admin, args: &Outcomes) -> anyhow::Result<Ended> {
    let narrowed = args.narrowed()?;
    let (mut place, mut is_away, mut is_silent) = (Place::default(), false, args.since.is_none());
    let mut since = args.since.clone();
    if is_silent {
        let newest = admin.call(Method::GET, &format!("/v1/outcomes?limit=1{narrowed}"), None).await?;
        if newest.status != 200 {
            return Ok(admin.finish(&newest, |_| {}));
        }
        each(&newest).for_each(|outcome| _ = place.takes(outcome));
        since = place.since().map(|since| since.to_string());
        // Of nothing there is nothing to leave out.
        is_silent = since.is_some();
    }
    let (mut has_answered, mut is_told) = (args.since.is_none(), false);
    loop {
        let mut after: Option<String> = None;
        loop {
            let mut path = format!("/v1/outcomes?order=oldest&limit=500{narrowed}");
            for (name, value) in [("since", &since), ("after", &after)] {
                if let Some(value) = value {
                    path = format!("{path}&{name}={}", segment(value)?);
                }
            }
            let answer = match admin.call(Method::GET, &path, None).await {
                Ok(answer) if answer.status < 500 && answer.status != 429 => answer,
                Ok(answer) if !has_answered => return Ok(admin.finish(&answer, |_| {})),
                Err(error) if !has_answered => return Err(error),
                failed => {
                    if !is_away {
                        let why = match failed {
                            Ok(answer) => format!("{}: {}", answer.status, plain(&answer.body["message"])),
                            Err(error) => format!("{error:#}"),
                        };
                        complain(&why);
                        complain("asking again until it answers: nothing is left out");
                    }
                    is_away = true;
                    tokio::time::sleep(POLL).await;
                    continue;
                }
            };
            if answer.status != 200 {
                return Ok(admin.finish(&answer, |_| {}));
            }
            has_answered = true;
            if is_away {
                complain("the admin API answers again");
                is_away = false;
            }
            for outcome in each(&answer) {
                // The reader may have gone away (`| head`): then nobody is told any more.
                if place.takes(outcome) && !is_silent && !tell(admin, outcome) {
                    return Ok(Ended::Well);
                }
            }
            after = answer.body["next"].as_str().map(str::to_owned);
            if after.is_none() {
                break;
            }
        }
        if !is_told {
            is_told = true;
            is_silent = false;
            if args.since.is_none() && !admin.json {
                progress("# from now on; Ctrl-C ends it");
            }
        }
        place.forget();
        since = place.since().map(|since| since.to_string()).or(since);
        tokio::time::sleep(POLL).await;
    }
}

/// False: nobody reads it.
fn tell(admin: &Admin, outcome: &Value) -> bool {
    let line = match admin.json {
        true => outcome.to_string(),
        false => format!("{}  {}  {}", plain(&outcome["at"]), plain(&outcome["subject"]), plain(&outcome["text"])),
    };
    writeln!(std::io::stdout(), "{line}").is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_is_told_once_though_the_last_seconds_are_read_again() {
        let mut place = Place::default();
        let outcome = |id: &str, at: &str| json!({"id": id, "at": format!("2026-01-31T09:{at}Z")});
        assert!(place.takes(&outcome("b", "00:10")));
        assert!(!place.takes(&outcome("b", "00:10")));
        assert!(place.takes(&outcome("a", "00:09")), "it was being written when that was read");
        assert_eq!(place.since().unwrap().to_string(), "2026-01-31T08:59:40Z");
        place.forget();
        assert_eq!(place.seen.len(), 2);
        assert!(place.takes(&outcome("c", "02:00")));
        place.forget();
        assert_eq!(place.seen.len(), 1, "what is not read again is forgotten");
    }
}
