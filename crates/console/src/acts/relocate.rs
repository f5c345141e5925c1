//! Where accounts belong: one is moved to another business, or a whole Item gives its place to another.

use super::{Did, Matched, looked_at};
use crate::auth::Caller;
use crate::error::ApiError;
use crate::items::no_item;
use domain::accounts::{AccountState, same_accounts};
use domain::item::ItemState;
use domain::work::{Block, Subject};
use domain::{AccountId, BusinessId, ItemId};
use serde_json::{Map, json};
use store::{Act, Tx};

pub(super) async fn move_account(
    tx: &mut Tx,
    id: &ItemId,
    account: &AccountId,
    to: &BusinessId,
) -> Result<Did, ApiError> {
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
pub(super) async fn replace(tx: &mut Tx, caller: &Caller, id: &ItemId, heir: &ItemId) -> Result<Did, ApiError> {
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

/// As long as it has not happened: a reconciliation that is on its way looks once more before it carries it out.
pub(super) async fn withdraw(tx: &mut Tx, id: &ItemId, heir: &ItemId) -> Result<Did, ApiError> {
    if !tx.heirs_of(id).await?.contains(heir) {
        let hint = "`rekey explain ITEM` names the Item that is about to take its place";
        return Err(ApiError::not_found("replacement", hint));
    }
    tx.withdraw_heir(heir).await?;
    Ok(Did { was: Some(json!({"replaced_by": heir})), ..Did::of("item.withdraw") })
}
