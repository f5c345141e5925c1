//! What operators do to a row, in one place for the API and the pages: audited with its reason, refused where the row is not
//! what they had seen, and tried out by doing it and taking it back.

use crate::Console;
use crate::auth::Caller;
use crate::businesses::no_business;
use crate::error::ApiError;
use crate::explain::{NextList, next_list};
use crate::items::no_item;
use crate::view::VerdictView;
use axum::Json;
use axum::http::StatusCode;
use domain::accounts::{AccountState, same_accounts};
use domain::explain::pasted;
use domain::item::ItemState;
use domain::queue::{Mark, Row};
use domain::redact::shows_any_token;
use domain::token_list::TokenWord;
use domain::work::{Block, Class, Kind, Subject};
use domain::{AccountId, BusinessId, Fingerprint, ItemId, Millis, words};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::time::Duration;
use store::{Act, BusinessMark, Tx};
use tokio::time::Instant;
use utoipa::{IntoParams, ToSchema};

words!(
    /// What an operator can order.
    Order {
        /// Look at it now, whatever it waits for.
        Sync => "sync",
        /// Let a held or parked row go on, with a permit for once.
        Release => "release",
        /// Send nothing for a business until it is released.
        Hold => "hold",
        /// Mint every token of an Item anew.
        Mint => "mint",
        /// One account of an Item goes to another business.
        Move => "move",
        /// Another Item, linked anew, takes the place of one.
        Replace => "replace",
        /// It does not, after all.
        Withdraw => "withdraw",
        /// The webhook that never came was looked into.
        Acknowledge => "acknowledge",
        /// The platform removed the Item.
        Remove => "remove",
        /// A token at Layer that nobody here knows stays in the list for good.
        KeepToken => "keep_token",
        /// It leaves the list for good.
        RemoveToken => "remove_token",
        /// What was decided of it is taken back.
        ForgetToken => "forget_token",
    }
);

impl Order {
    /// What comes of it, for whoever is about to order it.
    pub(crate) fn effect(self) -> &'static str {
        match self {
            Self::Sync => "Asks Plaid and Layer now, and sends what is not right. Nothing is forced.",
            Self::Release => "Lets it go on, on the truth of that moment. What a guard held back is permitted once.",
            Self::Hold => {
                "Sends nothing for this business, whatever changes, until somebody releases it. A list that is being sent at this \
                 moment is waited for."
            }
            Self::Mint => {
                "Mints every token of the Item anew and sends them; the ones of now stay in the lists until then."
            }
            Self::Move => {
                "Takes the account off its list, and puts it into the other one once the first was read back without it. A later push \
                 that names accounts overrules it."
            }
            Self::Replace => {
                "Gives its accounts' places to those of the other Item. Once each of these has its token, both happen in one list, \
                 and this Item is removed."
            }
            Self::Withdraw => "Takes back that the other Item is to take its place. Both stay as they are.",
            Self::Acknowledge => "Takes the Item off the list of missed webhooks: somebody has looked into it.",
            Self::Remove => {
                "Takes its accounts off every list and erases its tokens here. Only a new push brings it back."
            }
            Self::KeepToken => "Sends this token along with every list, although nobody here knows it.",
            Self::RemoveToken => "Leaves this token out of the next list, and of every one after it.",
            Self::ForgetToken => "Takes back what was decided of this token: layer.unknown_tokens holds for it again.",
        }
    }

    /// What a page tells afterwards.
    pub(crate) fn done(self) -> &'static str {
        match self {
            Self::Sync => "It is due now: this page shows what comes of it.",
            Self::Release => "Released: it is due now, and this page shows what comes of it.",
            Self::Hold => "Held: nothing is sent for it until somebody releases it.",
            Self::Mint => "Its tokens are being minted again: this page shows what comes of it.",
            Self::Move => "The account is on its way: this page shows what comes of it.",
            Self::Replace => "The other Item takes its place once it has its tokens.",
            Self::Withdraw => "Withdrawn: both Items stay as they are.",
            Self::Acknowledge => "Acknowledged: it is off the list of missed webhooks.",
            Self::Remove => "Removed: its accounts are leaving every list.",
            Self::KeepToken | Self::RemoveToken | Self::ForgetToken => "Decided: the list is compared anew now.",
        }
    }

    /// It is shown to whoever meets what comes of it.
    pub(crate) fn needs_reason(self) -> bool {
        self == Self::Hold
    }

    fn of_token(self) -> Option<Option<TokenWord>> {
        match self {
            Self::KeepToken => Some(Some(TokenWord::Keep)),
            Self::RemoveToken => Some(Some(TokenWord::Remove)),
            Self::ForgetToken => Some(None),
            _ => None,
        }
    }
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ActQuery {
    /// Why, for the audit trail.
    pub(crate) reason: Option<String>,
    /// The `version` of the row that an explanation showed: refused with 409 if the row is another one by now.
    pub(crate) version: Option<String>,
    /// Only say what would come of it.
    #[serde(default)]
    pub(crate) dry_run: bool,
    /// Wait for the reconciliation that this causes, so many seconds at most.
    pub(crate) timeout: Option<u32>,
}

/// What an order names besides its subject.
pub(crate) enum With {
    Nothing,
    /// A token of the list.
    Token(Fingerprint),
    /// An account of the Item, and where it goes.
    Move(AccountId, BusinessId),
    /// The Item that takes its place.
    Heir(ItemId),
}

impl With {
    /// As a page's form says it: a fingerprint, an account and a business, an Item.
    pub(crate) fn of_page(order: Order, about: &str) -> Result<Self, ApiError> {
        Ok(match (order, about.split_once(' ')) {
            (Order::Move, Some((account, to))) => Self::Move(AccountId::parse(account)?, BusinessId::parse(to.trim())?),
            (Order::Move, None) => return Err(ApiError::bad_request("say which business the account goes to")),
            (Order::Replace | Order::Withdraw, _) => Self::Heir(ItemId::parse(about.trim())?),
            _ if about.is_empty() => Self::Nothing,
            _ => Self::Token(Fingerprint::from_stored(about.to_owned())),
        })
    }
}

/// An order, and about what.
pub(crate) struct Ask<'a> {
    pub(crate) order: Order,
    pub(crate) subject: &'a Subject,
    pub(crate) with: With,
    pub(crate) said: ActQuery,
}

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
/// Lists that an answer tells of: an Item may be in more.
const MOST_LISTS: usize = 10;

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
        return Err(ApiError::bad_request("say why (`reason`): it is shown to whoever meets what is held"));
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
            true => lists_ahead(console, &mut tx, &ask, &did).await?,
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
            With::Nothing | With::Token(_) => (*subject).clone(),
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
        (Order::Release, _) => release(tx, subject).await,
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
            With::Move(account, to) => move_account(tx, id, account, to).await,
            _ => Err(ApiError::bad_request("say which account moves, and where")),
        },
        (Order::Replace, Subject::Item(id)) => match with {
            With::Heir(heir) => replace(tx, caller, id, heir).await,
            _ => Err(ApiError::bad_request("say which Item takes its place")),
        },
        (Order::Withdraw, Subject::Item(id)) => match with {
            With::Heir(heir) if tx.heirs_of(id).await?.contains(heir) => {
                tx.withdraw_heir(heir).await?;
                let was = Some(json!({"replaced_by": heir}));
                Ok(Did { was, ..Did::of("item.withdraw") })
            }
            _ => Err(ApiError::not_found(
                "replacement",
                "`rekey explain ITEM` names the Item that is about to take its place",
            )),
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

async fn release(tx: &mut Tx, subject: &Subject) -> Result<Did, ApiError> {
    if let Subject::Business(id) = subject
        && let Some((why, _)) = tx.business(id).await?.and_then(|row| row.kept_back)
    {
        // The hold alone: what a guard has to say of the list is still to be heard, and nobody has seen it.
        tx.keep_back(id, None).await?;
        let wanted = tx.mark(&looked_at(subject, "released by an operator")).await?;
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
    if !tx.release(subject).await? {
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

async fn move_account(tx: &mut Tx, id: &ItemId, account: &AccountId, to: &BusinessId) -> Result<Did, ApiError> {
    let item = tx.item(id).await?.ok_or_else(no_item)?;
    if item.state.is_gone() {
        return Err(ApiError::conflict(format!("nothing of it is in a list any more: the Item is {}", item.state)));
    }
    let known = tx.accounts(id).await?.into_iter().find(|known| known.id == *account);
    let no_account =
        || ApiError::not_found("account of this Item", "`rekey explain ITEM` lists those that Plaid has shown");
    let known = known.ok_or_else(no_account)?;
    let Some(from) = known.business else {
        return Err(ApiError::conflict("the account is in no list: push the Item with a business for it"));
    };
    if let Some(leaving) = known.moving_from {
        return Err(ApiError::conflict(format!("it is on its way from {leaving} to {from}: wait until it is there")));
    }
    if from == *to {
        return Err(ApiError::conflict(format!("it belongs to {to} already")));
    }
    // Out of one list and into none: neither a name that is mistyped nor a list that can't be sent may do that.
    let Some(goes_to) = tx.business(to).await?.filter(|row| row.layer_id.is_some()) else {
        return Err(ApiError::conflict(format!(
            "Layer does not have {to}, as far as is known here: correct the name, or push an Item of it first; `rekey explain {to}` \
             tells more"
        )));
    };
    let kept = goes_to.kept_back.map(|(why, _)| why);
    let blocked = tx.work(to).await?.and_then(|row| row.blocked);
    let blocked = blocked.filter(|b| matches!(b.by, Block::Hold | Block::Parked)).map(|b| b.why);
    if let Some(why) = kept.or(blocked) {
        return Err(ApiError::conflict(format!(
            "the list of {to} can't be sent ({why}), and the account would be in none: see to that first"
        )));
    }
    tx.assign(id, account, to).await?;
    let wanted = tx.mark(&looked_at(&id.into(), "an operator moves an account")).await?;
    let became = Map::from_iter([("account_id".to_owned(), json!(account)), ("business".to_owned(), json!(to))]);
    let beside = waits_for_token(&item);
    Ok(Did { was: Some(json!({"business": from})), became, wanted: Some(wanted), beside, ..Did::of("item.move") })
}

/// Nothing happens to an Item's accounts while they can't be read.
fn waits_for_token(item: &store::ItemRow) -> Option<String> {
    (item.state != ItemState::Active)
        .then(|| format!(" Not yet: {} is {}, and nothing happens before that is over.", item.id, item.state))
}

/// The Item's accounts give their places to those of `heir`: matched by their persistent ids, else by bank, mask and type. Never by
/// name.
async fn replace(tx: &mut Tx, caller: &Caller, id: &ItemId, heir: &ItemId) -> Result<Did, ApiError> {
    if id == heir {
        return Err(ApiError::bad_request("an Item can't replace itself"));
    }
    let (old, new) = (tx.item(id).await?.ok_or_else(no_item)?, tx.item(heir).await?.ok_or_else(no_item)?);
    if old.is_offboarded() {
        return Err(ApiError::conflict("it is removed already: nothing of it is in a list"));
    }
    if new.state.is_gone() || new.read_at.is_none() {
        let why = format!("the accounts of {heir} are not known ({}): it can't take a place", new.state);
        return Err(ApiError::conflict(why));
    }
    // One order at a time about either of them: of two, the second would undo or outlive the first.
    let pending = |one: &ItemId, other: &ItemId| {
        ApiError::conflict(format!(
            "{one} is about to take the place of {other}: wait for that, or take it back (`rekey item replace {other} --by {one} \
             --withdraw`)"
        ))
    };
    if let Some(other) = new.replaces.as_ref().filter(|other| *other != id) {
        return Err(pending(heir, other));
    }
    if let Some(other) = &old.replaces {
        return Err(pending(id, other));
    }
    if let Some(other) = tx.heirs_of(id).await?.iter().find(|other| *other != heir) {
        return Err(pending(other, id));
    }
    if let Some(other) = tx.heirs_of(heir).await?.first() {
        return Err(pending(other, heir));
    }
    let bank = |view: Option<store::PlaidView>| view.and_then(|view| view.said.institution);
    let (was_at, is_at) = (bank(tx.plaid_view(id).await?), bank(tx.plaid_view(heir).await?));
    if was_at.is_some() && is_at.is_some() && was_at != is_at {
        return Err(ApiError::conflict(format!("{heir} is at another bank than {id}")));
    }
    let leaving: Vec<_> = tx.accounts(id).await?.into_iter().filter(|a| a.business.is_some()).collect();
    if leaving.is_empty() {
        return Err(ApiError::conflict(format!("nothing of it is in a list any more: the Item is {}", old.state)));
    }
    let present = |a: &store::AccountRow| a.state == AccountState::Active && a.missing_since.is_none();
    let entering: Vec<_> = tx.accounts(heir).await?.into_iter().filter(present).collect();
    let before: Vec<_> = leaving.iter().map(|row| &row.traits).collect();
    let after: Vec<_> = entering.iter().map(|row| &row.traits).collect();
    let same = same_accounts(&before, &after, was_at.is_some() && was_at == is_at);
    let (mut matched, mut has_heir) = (Vec::new(), vec![false; leaving.len()]);
    for (from, to, by) in same {
        let (from_row, to_row) = (&leaving[from], &entering[to]);
        let Some(business) = &from_row.business else { continue };
        if let Some(other) = to_row.business.as_ref().filter(|other| *other != business) {
            // It would leave that list first, and the account be in none for a while.
            let account = &to_row.id;
            return Err(ApiError::conflict(format!(
                "account {account} of {heir} is in the list of {other}, and its place is in that of {business}: move it first \
                 (`rekey item move`)"
            )));
        }
        tx.assign(heir, &to_row.id, business).await?;
        has_heir[from] = true;
        matched.push(Matched {
            account_id: from_row.id.to_string(),
            heir_id: to_row.id.to_string(),
            business_id: business.to_string(),
            by: by.to_string(),
        });
    }
    let unmatched: Vec<String> =
        leaving.iter().zip(&has_heir).filter(|(_, has)| !**has).map(|(row, _)| row.id.to_string()).collect();
    if matched.is_empty() {
        return Err(ApiError::conflict(format!(
            "no account of {heir} is surely one of {id}: they are matched by persistent id, else by bank, mask and type; if it is right \
             all the same, push {heir} with `replaces`"
        )));
    }
    tx.replace_by(id, heir).await?;
    let wanted = tx.mark(&looked_at(&heir.into(), "an operator lets it replace another Item")).await?;
    // Each Item's entry names its own accounts alone, in the same order, and under the key by which an erasure finds them.
    let named = |ids: &mut dyn Iterator<Item = &String>| ids.map(|id| json!({"account_id": id})).collect::<Vec<_>>();
    let became = Map::from_iter([
        ("replaced_by".to_owned(), json!(heir)),
        ("matched".to_owned(), named(&mut matched.iter().map(|m| &m.account_id)).into()),
        ("unmatched".to_owned(), named(&mut unmatched.iter()).into()),
    ]);
    let of_heir = json!({"replaces": id, "matched": named(&mut matched.iter().map(|m| &m.heir_id))});
    tx.audit(&Act { became: Some(of_heir), ..caller.act("item.replace", &Subject::from(heir)) }).await?;
    let beside = waits_for_token(&new);
    // The heir's row is waited for: its reconciliation is the one that does it.
    Ok(Did {
        beside,
        became,
        wanted: Some(wanted),
        waits_for: Some(heir.into()),
        matched,
        unmatched,
        ..Did::of("item.replace")
    })
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

async fn lists_ahead(console: &Console, tx: &mut Tx, ask: &Ask<'_>, did: &Did) -> Result<Vec<ListAhead>, store::Error> {
    let subject = ask.subject;
    let mut businesses = match subject {
        Subject::Business(id) => vec![id.clone()],
        Subject::Item(id) => tx.businesses_of_item(id).await?,
    };
    match (&ask.with, subject) {
        (With::Move(account, to), Subject::Item(item)) => {
            let row = tx.accounts(item).await?.into_iter().find(|row| row.id == *account);
            let from = row.and_then(|row| row.business);
            tx.place_account(item, account, to, from.as_ref()).await?;
            let mut lists = Vec::new();
            if let Some(from) = &from {
                lists.extend(list_ahead(console, tx, from).await?);
            }
            tx.place_account(item, account, to, None).await?;
            lists.extend(list_ahead(console, tx, to).await?);
            return Ok(lists);
        }
        (With::Heir(heir), Subject::Item(item)) => {
            for Matched { heir_id, business_id, .. } in &did.matched {
                let (account, to) =
                    (AccountId::from_stored(heir_id.clone()), BusinessId::from_stored(business_id.clone()));
                tx.place_account(heir, &account, &to, None).await?;
            }
            tx.remove_item(item).await?;
            businesses.extend(tx.businesses_of_item(heir).await?);
            businesses.sort();
            businesses.dedup();
        }
        _ => {}
    }
    let mut lists = Vec::new();
    for id in businesses.into_iter().take(MOST_LISTS) {
        let Some(row) = tx.business(&id).await? else { continue };
        let next_list = match (ask.order, subject) {
            (Order::Mint, Subject::Item(item)) if row.kept_back.is_none() => {
                let wanted = tx.wanted_accounts(&id).await?;
                let of_item = wanted.iter().filter(|w| w.item == *item).map(|w| w.account.to_string()).collect();
                NextList::once_minted(wanted.len(), of_item)
            }
            _ => next_list(console, tx, &row).await?.0,
        };
        lists.push(ListAhead { business_id: id.to_string(), next_list });
    }
    Ok(lists)
}

async fn list_ahead(console: &Console, tx: &mut Tx, id: &BusinessId) -> Result<Option<ListAhead>, store::Error> {
    let Some(row) = tx.business(id).await? else { return Ok(None) };
    let next_list = next_list(console, tx, &row).await?.0;
    Ok(Some(ListAhead { business_id: id.to_string(), next_list }))
}

/// No reconciliation goes on for longer in front of a caller who waits.
const LETS_GO_WITHIN: Duration = Duration::from_secs(15);

impl Console {
    /// Whether nobody works on the row any more, as it was when an act forbade something.
    async fn has_let_go(&self, subject: &Subject) -> Result<bool, ApiError> {
        let epoch = |row: &Row| row.lease.is_some().then_some(row.epoch);
        let begun = self.store.begin_read().await?.work(subject).await?.as_ref().and_then(epoch);
        let deadline = Instant::now() + LETS_GO_WITHIN.min(self.settings.max_wait);
        loop {
            let now = self.store.begin_read().await?.work(subject).await?.as_ref().and_then(epoch);
            if begun.is_none() || now != begun {
                return Ok(true);
            }
            if Instant::now() >= deadline || self.stop.is_cancelled() {
                return Ok(false);
            }
            tokio::time::sleep(self.settings.wait_poll.max(Duration::from_millis(5))).await;
        }
    }

    /// Whether a moved account stands in its new list, or an Item has left for its heir, by then. Other orders are done with their
    /// reconciliation.
    async fn has_arrived(&self, subject: &Subject, with: &With, deadline: Instant) -> Result<bool, ApiError> {
        let (Subject::Item(item), With::Move(..) | With::Heir(_)) = (subject, with) else { return Ok(true) };
        loop {
            let mut tx = self.store.begin_read().await?;
            let arrived = match with {
                With::Move(account, to) => {
                    let row = tx.accounts(item).await?.into_iter().find(|row| row.id == *account);
                    let is_there =
                        row.is_some_and(|row| row.moving_from.is_none() && row.business.as_ref() == Some(to));
                    let wanted = tx.wanted_accounts(to).await?.into_iter().find(|wanted| wanted.account == *account);
                    let accepted = tx.business(to).await?.map(|row| row.accepted).unwrap_or_default();
                    is_there && wanted.is_some_and(|w| w.token.is_some_and(|token| accepted.contains(&token)))
                }
                _ => {
                    let has_left = tx.item(item).await?.is_none_or(|row| row.state == ItemState::Removed);
                    let mut settled = true;
                    for business in tx.businesses_of_item(item).await? {
                        settled &=
                            tx.work(&business).await?.is_none_or(|row| row.done >= row.wanted && row.blocked.is_none());
                    }
                    has_left && settled
                }
            };
            drop(tx);
            if arrived || Instant::now() >= deadline || self.stop.is_cancelled() {
                return Ok(arrived);
            }
            tokio::time::sleep(self.settings.wait_poll.max(Duration::from_millis(5)) * 5).await;
        }
    }

    /// Whether the reconciliation that an act caused ends within `patience`.
    async fn is_served(
        &self,
        subject: &Subject,
        at: Millis,
        wanted: i64,
        patience: Duration,
    ) -> Result<bool, ApiError> {
        let deadline = Instant::now() + patience.min(self.settings.max_wait);
        let mut poll = self.settings.wait_poll.max(Duration::from_millis(1));
        let most = poll * 10;
        loop {
            let work = self.store.begin_read().await?.work(subject).await?;
            let ended = |row: &Row| row.lease.is_none() && row.looked_at.is_some_and(|seen| seen >= at);
            if work.is_none_or(|row| row.done >= wanted || ended(&row)) {
                return Ok(true);
            }
            if Instant::now() >= deadline || self.stop.is_cancelled() {
                return Ok(false);
            }
            tokio::time::sleep(poll.min(deadline.saturating_duration_since(Instant::now()))).await;
            poll = (poll * 2).min(most);
        }
    }
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
