//! Why a list is as it is, for people: what belongs into it and what Layer shows, side by side, and what somebody can do.
//!
//! Everything here follows from a verdict and the facts that it was made of, so that no surface tells another story.

use crate::token_list::{Listed, RowStatus};
use crate::verdict::{BusinessFacts, ItemFacts, Problem, State, Verdict, Wrong};
use crate::work::{Block, Code, Kind, Subject};
use crate::{AccountId, Fingerprint, ItemId};

/// One account: what belongs into the list, and what Layer shows of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// None: Layer lists an account of an Item that is gone, or of another business.
    pub item: Option<ItemId>,
    pub account: AccountId,
    /// Its newest live token, and the generation that this was minted under.
    pub token: Option<(Fingerprint, i64)>,
    /// The generation of its Item: a token of an earlier one waits for another.
    pub generation: Option<i64>,
    /// The rows about it that Layer showed last; more than one would count its transactions twice.
    pub shown: Vec<ShownRow>,
    pub standing: Standing,
}

/// A row about an account that Layer showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownRow {
    /// None: Layer does not show tokens.
    pub token: Option<Fingerprint>,
    pub status: RowStatus,
}

/// Whether an account is as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It stands in the list with its token.
    Right,
    /// Layer accepted it, and no reading of the list is kept since: there was none, or an earlier release did it.
    Accepted,
    /// It is listed, and Layer does not show with which token.
    Hidden,
    /// It is listed more than once: its transactions count as often.
    Doubled,
    /// Layer accepted it, and did not show it, or showed another token, when the list was read last.
    NotShown,
    Wrong(Wrong),
    /// It is listed and does not belong there: the next PUT leaves it out.
    Leaving,
    /// The same, but nobody proved it gone, so the shrink guard looks first.
    Unproved,
}

impl Standing {
    /// Why, for people.
    pub fn sentence(&self) -> &'static str {
        match self {
            Self::Right => "it stands in the list with its token",
            Self::Accepted => "Layer accepted its token, and no reading of the list is kept since",
            Self::Hidden => "it is listed, and Layer does not show with which token",
            Self::Doubled => "it is listed more than once, so its transactions count more than once",
            Self::NotShown => "Layer accepted its token, and did not show it when the list was read last",
            Self::Wrong(wrong) => wrong.problem.sentence(),
            Self::Leaving => "it does not belong here any more: the next list leaves it out",
            Self::Unproved => {
                "it does not belong here, and nobody proved it gone: the shrink guard looks before it is left out"
            }
        }
    }
}

/// Every account that belongs into the list, or that Layer lists and Rekey knows; by account. `listed`: what Layer showed after
/// it had accepted a list for the last time.
pub fn side_by_side(facts: &BusinessFacts, verdict: &Verdict, listed: Option<&[Listed]>) -> Vec<Line> {
    let rows = |account: &AccountId| -> Vec<ShownRow> {
        let ours = |row: &&Listed| row.ours.as_ref().is_some_and(|ours| ours.account == *account);
        let about = listed.into_iter().flatten().filter(ours);
        about.map(|row| ShownRow { token: row.token.clone(), status: row.status }).collect()
    };
    let line = |item: &ItemFacts, account: &AccountId, token: Option<&(Fingerprint, i64)>| {
        let shown = rows(account);
        let active: Vec<_> = shown.iter().filter(|row| row.status.is_row()).collect();
        let wrong = verdict.wrong.iter().find(|wrong| wrong.account.as_ref() == Some(account));
        let standing = match (wrong, listed) {
            (Some(wrong), _) => Standing::Wrong(wrong.clone()),
            (None, None) => Standing::Accepted,
            (None, Some(_)) => match &active[..] {
                [_, _, ..] => Standing::Doubled,
                [row] if row.token.is_none() => Standing::Hidden,
                [row] if row.token.as_ref() == token.map(|t| &t.0) => Standing::Right,
                _ => Standing::NotShown,
            },
        };
        Line {
            item: Some(item.id.clone()),
            account: account.clone(),
            token: token.cloned(),
            generation: Some(item.generation),
            shown,
            standing,
        }
    };
    let mut lines = Vec::new();
    for item in facts.items.iter().filter(|item| !item.state.is_gone()) {
        let here = item.accounts.iter().filter(|account| account.concerns(&facts.id));
        lines.extend(here.map(|account| line(item, &account.id, account.token.as_ref())));
        // What somebody left out on purpose is no line: the facts don't name it.
        let left_out = item.left_out.iter().filter(|_| item.business.as_ref() == Some(&facts.id));
        lines.extend(left_out.map(|(account, _)| line(item, account, None)));
    }
    for row in listed.into_iter().flatten().filter(|row| row.status.is_row()) {
        let Some(ours) = &row.ours else { continue };
        if lines.iter().all(|line| line.account != ours.account) {
            lines.push(Line {
                item: None,
                account: ours.account.clone(),
                token: None,
                generation: None,
                shown: rows(&ours.account),
                standing: if ours.may_leave { Standing::Leaving } else { Standing::Unproved },
            });
        }
    }
    lines.sort_by(|a, b| a.account.cmp(&b.account));
    lines
}

/// Something that a person can do, and what comes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remedy {
    /// For a terminal.
    pub command: String,
    pub effect: &'static str,
}

/// Remedies that are told at most: a business may have thousands of accounts.
const MOST: usize = 8;
/// Unknown tokens that are told at most: a list may be full of them.
const MOST_TOKENS: usize = 4;

/// What helps, the most useful first. Nothing where all is well.
pub fn remedies(subject: &Subject, verdict: &Verdict) -> Vec<Remedy> {
    let does = |command: String, effect| Remedy { command, effect };
    let mut found = Vec::new();
    if let Some(blocked) = verdict.blocked.as_ref().filter(|b| matches!(b.by, Block::Hold | Block::Parked)) {
        let release = format!("rekey parked release {} {}", subject.kind(), pasted(subject.id()));
        let code = Code::from_word(&blocked.code);
        found.push(does(release, effect_of_release(code)));
        if let (Some(Code::UnknownTokens | Code::ForeignWriter), Kind::Business) = (code, subject.kind()) {
            let named = blocked.objection.tokens.iter().map(Fingerprint::as_str).take(MOST_TOKENS);
            let named: Vec<&str> = named.collect();
            // An earlier release held it without saying which.
            for token in if named.is_empty() { &["FINGERPRINT"][..] } else { &named } {
                let decide = format!("rekey business token {} {token} remove", pasted(subject.id()));
                found.push(does(decide, "decides on a token that nobody here knows, for good: remove it, or keep it"));
            }
        }
    }
    for wrong in &verdict.wrong {
        let remedy = remedy_of(wrong, subject);
        if found.len() < MOST && !found.contains(&remedy) {
            found.push(remedy);
        }
    }
    let sync = || format!("rekey {} sync {}", subject.kind(), pasted(subject.id()));
    match verdict.state {
        State::ProviderPaused => {
            found.insert(
                0,
                does(
                    "rekey pauses".into(),
                    "shows why, and what ends it: a probe that is answered, or whoever ordered it (rekey provider resume)",
                ),
            );
        }
        State::Converging | State::Unverified | State::Unknown if found.is_empty() => {
            found.push(does(sync(), "looks now, before its time comes"));
        }
        _ => {}
    }
    found
}

/// For a shell: ids of a platform may hold anything that can be printed.
pub fn pasted(id: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.:/".contains(c);
    if id.chars().all(is_plain) { id.to_owned() } else { format!("'{}'", id.replace('\'', r"'\''")) }
}

fn effect_of_release(code: Option<Code>) -> &'static str {
    match code {
        Some(Code::ShrinkGuard) => "sends the list without the accounts that nobody proved gone, this once",
        Some(Code::EmptyListGuard) => "sends the empty list, this once",
        Some(Code::FleetRemovalGuard) => "sends this list, although many accounts left lists lately",
        Some(Code::UnknownTokens) => "sends the list with the tokens that Rekey does not know, this once",
        Some(Code::OperatorHold) => "sends the list again, from now on",
        Some(Code::ForeignWriter) => "goes on from the list as it is at Layer then",
        _ => "tries again, once the cause is mended",
    }
}

fn remedy_of(wrong: &Wrong, subject: &Subject) -> Remedy {
    let item = pasted(wrong.item.as_str());
    let does = |command: String, effect| Remedy { command, effect };
    match wrong.problem {
        Problem::AwaitingToken => does(
            format!("rekey item put {item} --token-file -"),
            "takes the Item's new access token from standard input",
        ),
        Problem::Unassigned => does(
            format!("rekey item put {item} --business BUSINESS --token-file -"),
            "names the business of its accounts; the access token comes from standard input",
        ),
        Problem::WaitsForUser => does(
            format!("rekey item sync {item}"),
            "asks Plaid once more, after the customer has logged in by Link's update mode; its webhook does the same",
        ),
        Problem::MintRefused | Problem::Missing => {
            does(format!("rekey item sync {item}"), "asks Plaid once more now, and not only when its time comes")
        }
        Problem::ItemHeld | Problem::ItemParked => {
            does(format!("rekey explain {item}"), "tells what stopped its Item, and what helps")
        }
        Problem::Archived => does(
            format!("rekey item mint {item}"),
            "lists it again, with a new token; an account that is unarchived at Layer is listed by itself",
        ),
        Problem::Unreadable => does(
            format!("rekey item put {item} --account ACCOUNT --token-file -"),
            "leaves it out: name the accounts that take part",
        ),
        Problem::ItemPending | Problem::NotMinted | Problem::NotListed | Problem::Moving => {
            does(format!("rekey {} sync {}", subject.kind(), pasted(subject.id())), "looks now, before its time comes")
        }
    }
}

#[cfg(test)]
#[path = "explain_tests.rs"]
mod tests;
