//! What operators do to a row, in one place for the API and the pages: audited with its reason, refused where the row is not
//! what they had seen, and tried out by doing it and taking it back.

mod ahead;
mod orders;
mod relocate;
mod waiting;

pub(crate) use orders::{ActQuery, Ask, Order, With};

use crate::Console;
use crate::auth::Caller;
use crate::batches::count_released;
use crate::businesses::no_business;
use crate::error::ApiError;
use crate::explain::NextList;
use crate::items::no_item;
use crate::view::VerdictView;
use axum::Json;
use axum::http::StatusCode;
use domain::explain::pasted;
use domain::item::ItemState;
use domain::queue::{Mark, Row};
use domain::redact::shows_any_token;
use domain::token_list::TokenWord;
use domain::work::{Block, Class, Code, Kind, Subject};
use domain::{BusinessId, Fingerprint, ItemId};
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::time::Duration;
use store::{Act, BusinessMark, TakenBatch, Tx};
use tokio::time::Instant;
use utoipa::ToSchema;

/// An account of an Item, and the one of the other Item that takes its place.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Matched {
    pub(crate) account_id: String,
    pub(crate) heir_id: String,
    pub(crate) business_id: String,
    /// What tells that they are one bank account: `persistent_id`, or `institution_mask_type`.
    pub(crate) by: String,
}

/// The list of a business, as it would be sent next.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ListAhead {
    pub(crate) business_id: String,
    pub(crate) next_list: NextList,
}

/// What came of an act, or would come of it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Acted {
    /// `item` or `business`.
    pub(crate) kind: String,
    pub(crate) id: String,
    pub(crate) act: String,
    /// Nothing was done.
    pub(crate) dry_run: bool,
    pub(crate) effect: String,
    /// Of a dry run: the lists that it concerns, as they would be sent next; ten at most.
    pub(crate) lists: Vec<ListAhead>,
    /// Of a replacement: accounts that are the same bank accounts.
    pub(crate) matched: Vec<Matched>,
    /// Of a replacement: accounts that leave their lists without an heir.
    pub(crate) unmatched: Vec<String>,
    /// What an act on the row rests on, as it is now.
    pub(crate) version: String,
    /// Whether the reconciliation that it caused has ended. Null: nobody waited, or there is none.
    pub(crate) served: Option<bool>,
    pub(crate) verdict: Option<VerdictView>,
}

/// What an act on a row rests on: what keeps it, since when, and in which words: a guard that now objects to forty accounts is
/// not the one that objected to two. With it what else an operator decides on: `beside`. Not how often the row was looked at
/// meanwhile.
pub(crate) fn version(row: Option<&Row>, beside: &str) -> String {
    let Some(blocked) = row.and_then(|r| r.blocked.as_ref()) else { return format!("free.{beside}") };
    let since = row.and_then(|r| r.blocked_at).map_or(0, |at| at.0);
    let words = format!("{}{}", blocked.why, json!(blocked.objection));
    format!("{}.{}.{since}.{}.{beside}", blocked.by, blocked.code, &crate::hash_token(&words)[..12])
}

/// The version of a row: with the generation of an Item, and with what operators decided of a business.
pub(crate) async fn version_of(tx: &mut Tx, subject: &Subject) -> Result<String, store::Error> {
    let beside = match subject {
        Subject::Item(id) => match tx.item(id).await? {
            Some(item) => format!("{}-{}-{}", item.generation, item.state, item.state_since.0),
            None => String::new(),
        },
        Subject::Business(id) => {
            let kept_back = tx.business(id).await?.and_then(|row| row.kept_back).map_or(0, |(_, at)| at.0);
            let words: String =
                tx.token_words(id).await?.iter().map(|(token, word)| format!("{token}={word};")).collect();
            format!("{kept_back}-{}", &crate::hash_token(&words)[..12])
        }
    };
    Ok(version(tx.work(subject).await?.as_ref(), &beside))
}

const LONGEST_REASON: usize = 500;

/// Why, as the audit trail keeps it.
pub(crate) fn checked_reason(reason: Option<&str>) -> Result<Option<&str>, ApiError> {
    // Before it is trimmed, which would take away some of them.
    if reason.is_some_and(|r| r.chars().count() > LONGEST_REASON || r.contains(is_not_shown)) {
        return Err(ApiError::bad_request("a reason is one line of 500 characters at most"));
    }
    let reason = reason.map(str::trim).filter(|r| !r.is_empty());
    if reason.is_some_and(shows_any_token) {
        return Err(ApiError::bad_request("the reason has a token in it: it would stand in the audit trail"));
    }
    Ok(reason)
}

pub(crate) fn no_reason() -> ApiError {
    ApiError::bad_request("say why (`reason`): it is shown to whoever meets what is held")
}

/// Controls, and what turns the direction of a line or can't be seen: it would not read as it was written.
fn is_not_shown(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// What was done, for the audit trail, and what there is to wait for.
struct Did {
    action: &'static str,
    was: Option<Value>,
    became: Map<String, Value>,
    wanted: Option<i64>,
    /// A reconciliation that has begun may still do what this forbids: it is waited for.
    forbids: bool,
    /// Where it does another thing than such an order usually does.
    effect: Option<&'static str>,
    matched: Vec<Matched>,
    unmatched: Vec<String>,
    /// The row whose reconciliation does it, where that is not the one that the order is about.
    waits_for: Option<Subject>,
    /// What has to happen first.
    beside: Option<String>,
}

/// What a release does to a business that an operator holds.
pub(crate) const LIFTS_A_HOLD: &str =
    "Lifts the operator's hold, and nothing else: what a guard has to say of the list is still to be heard.";

impl Did {
    fn of(action: &'static str) -> Self {
        let (matched, unmatched) = (Vec::new(), Vec::new());
        Self {
            action,
            was: None,
            became: Map::new(),
            wanted: None,
            forbids: false,
            effect: None,
            matched,
            unmatched,
            waits_for: None,
            beside: None,
        }
    }
}

/// Carries it out, or tries it out.
pub(crate) async fn carry_out(console: &Console, caller: &Caller, ask: Ask<'_>) -> Result<Acted, ApiError> {
    let Ask { order, subject, said, .. } = &ask;
    let reason = checked_reason(said.reason.as_deref())?;
    if order.needs_reason() && reason.is_none() && !said.dry_run {
        return Err(no_reason());
    }
    let mut tx = console.store.begin().await?;
    let before = version_of(&mut tx, subject).await?;
    let did = match within(&mut tx, caller, &ask, reason).await {
        Ok(did) => did,
        Err(refused) => {
            tx.rollback().await?;
            return Err(refused);
        }
    };
    let mut acted = Acted {
        kind: subject.kind().to_string(),
        id: subject.id().to_owned(),
        act: order.to_string(),
        dry_run: said.dry_run,
        effect: did.effect.unwrap_or(order.effect()).to_owned() + did.beside.as_deref().unwrap_or_default(),
        lists: match said.dry_run {
            true => ahead::lists_ahead(console, &mut tx, &ask, &did).await?,
            // Not while others wait for what this has locked.
            false => Vec::new(),
        },
        matched: did.matched.clone(),
        unmatched: did.unmatched.clone(),
        version: if said.dry_run { before } else { version_of(&mut tx, subject).await? },
        served: None,
        verdict: None,
    };
    if said.dry_run {
        for pause in tx.pauses().await? {
            acted.effect.push_str(&format!(" {} is paused: its part waits until that ends.", pause.provider));
        }
        tx.rollback().await?;
        return Ok(acted);
    }
    let Did { action, was, mut became, wanted, forbids, waits_for, .. } = did;
    if let Some(reason) = reason {
        became.insert("reason".into(), reason.into());
    }
    let became = Some(Value::Object(became)).filter(|b| b.as_object().is_some_and(|b| !b.is_empty()));
    tx.audit(&Act { was, became, ..caller.act(action, *subject) }).await?;
    let at = tx.now();
    tx.commit().await?;
    tracing::info!(kind = %subject.kind(), id = subject.id(), by = caller.name, order = %order, "ordered by an operator");
    if forbids {
        acted.served = Some(console.has_let_go(subject).await?);
    }
    if let (Some(timeout), Some(wanted)) = (said.timeout, wanted) {
        let patience = Duration::from_secs(timeout.into()).min(console.settings.max_wait);
        let deadline = Instant::now() + patience;
        let row = waits_for.as_ref().unwrap_or(subject);
        let served = console.is_served(row, at, wanted, patience).await?;
        acted.served = Some(served && console.has_arrived(subject, &ask.with, deadline).await?);
        // Where it goes, not where it comes from: that one is right long before.
        let told = match &ask.with {
            With::Move(_, to) => Subject::from(to),
            With::Heir(heir) => Subject::from(heir),
            With::Nothing | With::Token(_) | With::Batch(_) => (*subject).clone(),
        };
        let mut tx = console.store.begin_read().await?;
        let verdict = match &told {
            Subject::Item(id) => tx.verdict(id).await?,
            Subject::Business(id) => tx.verdict(id).await?,
        };
        acted.verdict = verdict.as_ref().map(VerdictView::from);
    }
    Ok(acted)
}

impl Acted {
    /// 200 where all has happened, 202 where something is still to come.
    pub(crate) fn answer(self) -> (StatusCode, Json<Self>) {
        let has_happened = self.dry_run || self.served == Some(true);
        (if has_happened { StatusCode::OK } else { StatusCode::ACCEPTED }, Json(self))
    }
}

async fn within(tx: &mut Tx, caller: &Caller, ask: &Ask<'_>, reason: Option<&str>) -> Result<Did, ApiError> {
    let Ask { order, subject, with, said } = ask;
    // A sync of a business locks its Items first.
    match (order, with) {
        (Order::Sync, _) => {}
        (_, With::Heir(heir)) => tx.lock_rows(&[(*subject).clone(), heir.into()]).await?,
        _ => tx.lock_row(*subject).await?,
    }
    match subject {
        Subject::Item(id) => tx.item(id).await?.map(drop).ok_or_else(no_item)?,
        Subject::Business(id) => tx.business(id).await?.map(drop).ok_or_else(no_business)?,
    }
    if said.version.is_some() && said.version.as_deref() != Some(&version_of(tx, subject).await?) {
        return Err(ApiError::conflict("it is not what it was when this was decided: look again"));
    }
    match (order, subject) {
        (Order::Sync, Subject::Item(_)) => {
            let wanted = tx.mark(&looked_at(subject, "an operator asked")).await?;
            Ok(Did { wanted: Some(wanted), ..Did::of("item.sync") })
        }
        (Order::Sync, Subject::Business(id)) => {
            tx.mark_unminted(id, "an operator asked").await?;
            let wanted = tx.mark(&looked_at(subject, "an operator asked")).await?;
            Ok(Did { wanted: Some(wanted), ..Did::of("business.sync") })
        }
        (Order::Release, _) => match with {
            With::Batch(taken) => release_of_batch(tx, subject, taken).await,
            _ => release(tx, subject, Class::Person).await,
        },
        (Order::Hold, Subject::Business(id)) => {
            let before = tx.business(id).await?.and_then(|row| row.kept_back);
            tx.keep_back(id, Some(reason.unwrap_or("no reason was given"))).await?;
            let was = before.map(|(why, _)| json!({"kept_back": why}));
            Ok(Did { was, forbids: true, ..Did::of("business.hold") })
        }
        (Order::Mint, Subject::Item(id)) => mint(tx, id, subject).await,
        (Order::Acknowledge, Subject::Item(id)) => match tx.acknowledge_missed(id).await? {
            true => Ok(Did::of("item.acknowledge")),
            false => Err(ApiError::not_found("missed webhook", "`rekey item missed` lists them")),
        },
        (Order::Remove, Subject::Item(id)) => {
            let was = tx.in_force(id).await?;
            let mark = |business| BusinessMark::changed(business, Class::Rotation);
            let marks: Vec<_> = tx.remove_item(id).await?.into_iter().map(mark).collect();
            tx.mark_businesses(&marks, &format!("item {id} removed by the platform"), None).await?;
            Ok(Did { was, ..Did::of("item.remove") })
        }
        (Order::KeepToken | Order::RemoveToken | Order::ForgetToken, Subject::Business(id)) => {
            let word = order.of_token().flatten();
            let token = match with {
                With::Token(token) => Some(token),
                _ => None,
            };
            decide(tx, caller, id, token, word).await
        }
        (Order::Move, Subject::Item(id)) => match with {
            With::Move(account, to) => relocate::move_account(tx, id, account, to).await,
            _ => Err(ApiError::bad_request("say which account moves, and where")),
        },
        (Order::Replace, Subject::Item(id)) => match with {
            With::Heir(heir) => relocate::replace(tx, caller, id, heir).await,
            _ => Err(ApiError::bad_request("say which Item takes its place")),
        },
        (Order::Withdraw, Subject::Item(id)) => match with {
            With::Heir(heir) => relocate::withdraw(tx, id, heir).await,
            _ => Err(ApiError::bad_request("say which Item was to take its place")),
        },
        (
            Order::Mint | Order::Acknowledge | Order::Remove | Order::Move | Order::Replace | Order::Withdraw,
            Subject::Business(_),
        ) => Err(ApiError::bad_request(format!("{order} is for an Item"))),
        (Order::Hold | Order::KeepToken | Order::RemoveToken | Order::ForgetToken, Subject::Item(_)) => {
            Err(ApiError::bad_request(format!("{order} is for a business")))
        }
    }
}

fn looked_at<'a>(subject: &Subject, why: &'a str) -> Mark<'a> {
    Mark { unblocks: true, ..Mark::new(subject, Class::Person, why) }
}

/// As one of many: if it is still kept for the cause, in the words of the moment that the order rests on, and nobody has cancelled
/// that.
async fn release_of_batch(tx: &mut Tx, subject: &Subject, taken: &TakenBatch) -> Result<Did, ApiError> {
    let kept = tx.work(subject).await?.and_then(|row| row.blocked.zip(row.said_at));
    let kept = kept.filter(|(blocked, _)| matches!(blocked.by, Block::Hold | Block::Parked));
    let is_meant = match (&kept, subject) {
        (Some((blocked, said_at)), _) => blocked.code == taken.code && *said_at <= taken.seen_at,
        // What Plaid refuses to mint is asked for again: nothing is permitted by that.
        (None, Subject::Item(id)) => tx.is_refused_mint(id, &taken.code, taken.seen_at).await?,
        (None, Subject::Business(_)) => false,
    };
    let held = match subject {
        Subject::Business(id) => tx.business(id).await?.and_then(|row| row.kept_back),
        Subject::Item(_) => None,
    };
    // By somebody who may know more than whoever ordered this.
    let is_held = held.is_some_and(|(_, at)| taken.code != Code::OperatorHold.as_str() || at > taken.seen_at);
    if !is_meant || is_held {
        return Err(ApiError::conflict("it is kept by another thing by now"));
    }
    let mut did = release(tx, subject, Class::Retry).await?;
    count_released(tx, taken).await?;
    did.became.insert("batch".into(), json!(taken.id));
    Ok(did)
}

async fn release(tx: &mut Tx, subject: &Subject, class: Class) -> Result<Did, ApiError> {
    if let Subject::Business(id) = subject
        && let Some((why, _)) = tx.business(id).await?.and_then(|row| row.kept_back)
    {
        // The hold alone: what a guard has to say of the list is still to be heard, and nobody has seen it.
        tx.keep_back(id, None).await?;
        let mark = Mark { class, ..looked_at(subject, "released by an operator") };
        let wanted = tx.mark(&mark).await?;
        let was = Some(json!({"kept_back": why}));
        return Ok(Did { was, wanted: Some(wanted), effect: Some(LIFTS_A_HOLD), ..Did::of("parked.release") });
    }
    let blocked = tx.work(subject).await?.and_then(|r| r.blocked);
    if let Some(waits) = blocked.as_ref().filter(|b| !matches!(b.by, Block::Hold | Block::Parked)) {
        // No guard has spoken, so nobody knows what a permit would permit.
        let why = format!("it is neither held nor parked, it waits by itself ({}): a sync looks now", waits.code);
        return Err(ApiError::conflict(why));
    }
    let was = blocked.map(|b| json!({"blocked_by": b.by.as_str(), "code": b.code}));
    if !tx.release(subject, class).await? {
        return Err(ApiError::not_found("blocked row", "`rekey parked list` shows those that wait for a person"));
    }
    let wanted = tx.work(subject).await?.map(|row| row.wanted);
    Ok(Did { was, wanted, ..Did::of("parked.release") })
}

async fn mint(tx: &mut Tx, id: &ItemId, subject: &Subject) -> Result<Did, ApiError> {
    let item = tx.item(id).await?.ok_or_else(no_item)?;
    if item.generation == 0 || !matches!(item.state, ItemState::Active) {
        let why = format!("nothing can be minted for it: the Item is {}", item.state);
        return Err(ApiError::conflict(why));
    }
    tx.mint_again(id).await?;
    let wanted = tx.mark(&looked_at(subject, "an operator has its tokens minted again")).await?;
    let became = Map::from_iter([("generation".to_owned(), json!(item.generation + 1))]);
    let was = Some(json!({"generation": item.generation}));
    Ok(Did { was, became, wanted: Some(wanted), ..Did::of("item.mint") })
}

/// About a token that the list showed when it was read last, and that nobody here knows.
async fn decide(
    tx: &mut Tx,
    caller: &Caller,
    id: &BusinessId,
    token: Option<&Fingerprint>,
    word: Option<TokenWord>,
) -> Result<Did, ApiError> {
    let unknown = || {
        let hint = format!("`rekey explain {}` names those that there are", pasted(id.as_str()));
        ApiError::not_found("unknown token in the list", &hint)
    };
    let token = token.ok_or_else(unknown)?;
    let shown = tx.shown(id).await?.unwrap_or_default();
    let listed = tx.recognise(id, &shown).await?;
    let is_stranger = listed.iter().any(|row| row.ours.is_none() && row.token.as_ref() == Some(token));
    if word.is_some() && !is_stranger {
        return Err(unknown());
    }
    let before = tx.say_of_token(id, token, word, &caller.name).await?;
    if word.is_none() && before.is_none() {
        return Err(unknown());
    }
    let wanted = tx.mark(&looked_at(&id.into(), "an operator decided on a token")).await?;
    let became = Map::from_iter([("token".to_owned(), json!(token)), ("word".to_owned(), json!(word))]);
    let was = before.map(|w| json!({"word": w}));
    Ok(Did { was, became, wanted: Some(wanted), ..Did::of("business.token") })
}

/// The subject of a path.
pub(crate) fn subject_of(kind: &str, id: String) -> Result<Subject, ApiError> {
    let kind = Kind::from_word(kind).ok_or_else(|| ApiError::bad_request("the kind is `item` or `business`"))?;
    Ok(Subject::parse(kind, id)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::queue::Blocked;
    use domain::work::Block;

    #[test]
    fn i8_a_release_is_for_the_words_that_were_seen() {
        let free = Row::new(Subject::Item(domain::ItemId::parse("item").unwrap()), domain::Millis(0));
        let held = |why: &str| {
            let blocked = Blocked::new(Block::Hold, "shrink_guard", why);
            Row { blocked: Some(blocked), blocked_at: Some(domain::Millis(1)), ..free.clone() }
        };
        let of = |row: &Row| version(Some(row), "1");
        assert_eq!(of(&held("it would lose 2 accounts")), of(&held("it would lose 2 accounts")));
        assert_ne!(of(&held("it would lose 2 accounts")), of(&held("it would lose 40 accounts")));
        assert_eq!((version(None, "1"), of(&free)), ("free.1".to_owned(), "free.1".to_owned()));
        assert_ne!(version(None, "1"), version(None, "2"));
    }
}
