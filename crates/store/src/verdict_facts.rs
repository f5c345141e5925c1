//! What verdicts are made from, read for many rows in a few statements.

use crate::accounts::outside;
use crate::queue::blocked;
use crate::tx::{built, number, opt_parsed, opt_text, opt_time, parsed, text};
use crate::{Error, Tx};
use domain::accounts::Outside;
use domain::item::ItemState;
use domain::queue::Blocked;
use domain::verdict::{AccountFacts, BlockFacts, BusinessFacts, ItemFacts, MintRefusal, WorkFacts};
use domain::{AccountId, BusinessId, Fingerprint, ItemId, Millis};
use sqlx::any::AnyRow;
use std::collections::{BTreeMap, BTreeSet};

/// Ids in one statement.
pub(crate) const SLICE: usize = 400;

/// `$1, $2, …` for so many values.
pub(crate) fn places(count: usize) -> String {
    places_from(0, count)
}

pub(crate) fn places_from(bound: usize, count: usize) -> String {
    (bound + 1..=bound + count).map(|n| format!("${n}")).collect::<Vec<_>>().join(", ")
}

impl Tx {
    async fn ids(&mut self, sql: String, ids: &[String]) -> Result<BTreeSet<String>, Error> {
        let mut query = built(sql);
        for id in ids {
            query = query.bind(id.clone());
        }
        self.rows(query).await?.iter().map(|r| text(r, "id")).collect()
    }

    pub(crate) async fn businesses_of(&mut self, items: &[String]) -> Result<BTreeSet<String>, Error> {
        let mut found = BTreeSet::new();
        for slice in items.chunks(SLICE) {
            let at = places(slice.len());
            let sql = format!(
                "SELECT business_id AS id FROM accounts WHERE item_id IN ({at}) AND business_id IS NOT NULL
                 UNION SELECT moving_from FROM accounts WHERE item_id IN ({at}) AND moving_from IS NOT NULL
                 UNION SELECT business_id FROM items WHERE item_id IN ({at}) AND business_id IS NOT NULL"
            );
            found.extend(self.ids(sql, slice).await?);
        }
        Ok(found)
    }

    pub(crate) async fn items_of(&mut self, businesses: &[String]) -> Result<BTreeSet<String>, Error> {
        let at = places(businesses.len());
        let sql = format!(
            "SELECT item_id AS id FROM accounts WHERE business_id IN ({at})
             UNION SELECT item_id FROM accounts WHERE moving_from IN ({at})
             UNION SELECT item_id FROM items WHERE business_id IN ({at})"
        );
        self.ids(sql, businesses).await
    }

    pub(crate) async fn item_facts(&mut self, ids: &[String]) -> Result<Vec<ItemFacts>, Error> {
        let mut facts: BTreeMap<String, ItemFacts> = BTreeMap::new();
        for slice in ids.chunks(SLICE) {
            let at = places(slice.len());
            let mut query = built(format!(
                "SELECT i.item_id, i.state, i.generation, i.business_id, i.doubted_at, i.read_at, w.signal_at, w.due_at,
                     w.blocked_by, w.blocked_code, w.blocked_why
                 FROM items i LEFT JOIN work w ON w.kind = 'item' AND w.id = i.item_id WHERE i.item_id IN ({at})"
            ));
            for id in slice {
                query = query.bind(id.clone());
            }
            for row in self.rows(query).await? {
                facts.insert(text(&row, "item_id")?, item_of(&row)?);
            }
            let mut query = built(format!(
                "SELECT a.item_id, a.account_id, a.business_id, a.moving_from, a.missing_since, a.mint_fault, a.mint_code,
                     a.mint_fault_generation, a.mint_again_at, a.outside, t.fingerprint, t.generation
                 FROM accounts a
                 LEFT JOIN processor_tokens t ON t.item_id = a.item_id AND t.account_id = a.account_id
                     AND t.state = 'live' AND t.generation = (SELECT MAX(x.generation) FROM processor_tokens x
                         WHERE x.item_id = a.item_id AND x.account_id = a.account_id AND x.state = 'live')
                 WHERE a.item_id IN ({at}) AND a.state = 'active'
                     AND (a.business_id IS NOT NULL OR a.moving_from IS NOT NULL OR a.outside IS NOT NULL)
                 ORDER BY a.item_id, a.account_id"
            ));
            for id in slice {
                query = query.bind(id.clone());
            }
            for row in self.rows(query).await? {
                let Some(item) = facts.get_mut(&text(&row, "item_id")?) else { continue };
                let account = account_of(&row)?;
                let takes_part = account.business.is_some() || account.moving_from.is_some();
                match opt_parsed(&row, "outside", |w| outside(&w))? {
                    _ if takes_part => item.accounts.push(account),
                    Some(why @ (Outside::Nowhere | Outside::Unreadable)) => item.left_out.push((account.id, why)),
                    _ => {}
                }
            }
        }
        Ok(facts.into_values().collect())
    }

    pub(crate) async fn business_facts(
        &mut self,
        ids: &[String],
        items: &[ItemFacts],
    ) -> Result<Vec<BusinessFacts>, Error> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut query = built(format!(
            "SELECT b.business_id, b.accepted, b.archived, b.verified, b.converged_at, b.put_at, w.signal_at, w.due_at,
                 w.blocked_by, w.blocked_code, w.blocked_why
             FROM businesses b LEFT JOIN work w ON w.kind = 'business' AND w.id = b.business_id
             WHERE b.business_id IN ({})",
            places(ids.len())
        ));
        for id in ids {
            query = query.bind(id.clone());
        }
        let rows = self.rows(query).await?;
        let mut found = Vec::with_capacity(rows.len());
        for row in &rows {
            let id = parsed(row, "business_id", BusinessId::parse)?;
            let concerns = |i: &&ItemFacts| {
                i.business.as_ref() == Some(&id)
                    || i.accounts
                        .iter()
                        .any(|a| a.business.as_ref() == Some(&id) || a.moving_from.as_ref() == Some(&id))
            };
            found.push(BusinessFacts {
                items: items.iter().filter(concerns).cloned().collect(),
                work: work_of(row)?,
                was_listed: opt_time(row, "converged_at")?.is_some() || opt_time(row, "put_at")?.is_some(),
                read_back: number(row, "verified")? == 1 && opt_time(row, "converged_at")?.is_some(),
                accepted: json(row, "accepted")?,
                archived: json(row, "archived")?,
                id,
            });
        }
        Ok(found)
    }
}

fn json<T: serde::de::DeserializeOwned + Default>(row: &AnyRow, column: &str) -> Result<T, Error> {
    let Some(text) = opt_text(row, column)? else { return Ok(T::default()) };
    serde_json::from_str(&text).map_err(|e| Error::Corrupt(format!("businesses.{column}: {e}")))
}

fn work_of(row: &AnyRow) -> Result<WorkFacts, Error> {
    let blocked = blocked(row)?.map(|Blocked { by, code, why }| BlockFacts { by, code, why });
    Ok(WorkFacts { signalled: opt_time(row, "signal_at")?.is_some(), blocked, due_at: opt_time(row, "due_at")? })
}

fn item_of(row: &AnyRow) -> Result<ItemFacts, Error> {
    Ok(ItemFacts {
        id: parsed(row, "item_id", ItemId::parse)?,
        state: parsed(row, "state", |w| ItemState::from_word(&w).ok_or_else(|| format!("unknown state {w}")))?,
        generation: number(row, "generation")?,
        business: opt_parsed(row, "business_id", BusinessId::parse)?,
        doubted: opt_time(row, "doubted_at")?.is_some(),
        work: work_of(row)?,
        accounts: Vec::new(),
        left_out: Vec::new(),
        was_read: opt_time(row, "read_at")?.is_some(),
    })
}

fn account_of(row: &AnyRow) -> Result<AccountFacts, Error> {
    let token = match opt_text(row, "fingerprint")? {
        Some(fingerprint) => Some((Fingerprint::from_stored(fingerprint), number(row, "generation")?)),
        None => None,
    };
    let refusal = match opt_text(row, "mint_fault")? {
        Some(_) => Some(MintRefusal {
            code: opt_text(row, "mint_code")?.unwrap_or_default(),
            generation: number(row, "mint_fault_generation")?,
            again_at: opt_time(row, "mint_again_at")?.unwrap_or(Millis(0)),
        }),
        None => None,
    };
    Ok(AccountFacts {
        id: parsed(row, "account_id", AccountId::parse)?,
        business: opt_parsed(row, "business_id", BusinessId::parse)?,
        moving_from: opt_parsed(row, "moving_from", BusinessId::parse)?,
        missing: opt_time(row, "missing_since")?.is_some(),
        token,
        refusal,
    })
}
