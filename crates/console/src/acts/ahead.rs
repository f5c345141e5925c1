//! What would come of an order: it is carried out, looked at, and taken back by whoever asked.

use super::{Did, ListAhead, Matched, Order, With};
use crate::Console;
use crate::acts::Ask;
use crate::explain::{NextList, next_list};
use domain::work::Subject;
use domain::{AccountId, BusinessId};
use store::Tx;

/// Lists that an answer tells of: an Item may be in more.
const MOST_LISTS: usize = 10;

pub(super) async fn lists_ahead(
    console: &Console,
    tx: &mut Tx,
    ask: &Ask<'_>,
    did: &Did,
) -> Result<Vec<ListAhead>, store::Error> {
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
