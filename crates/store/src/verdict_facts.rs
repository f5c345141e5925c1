//! What verdicts are made from, read for many rows in a few statements.

use crate::sql::{built, get, is_set, list, number, opt_text, sql, text};
use crate::work::blocked_with_objection;
use crate::{Error, Tx};
use domain::accounts::Outside;
use domain::verdict::{AccountFacts, BusinessFacts, ItemFacts, MintRefusal, WorkFacts};
use domain::{BusinessId, Millis};
use sqlx::any::AnyRow;
use std::collections::{BTreeMap, BTreeSet};

impl Tx {
    /// What the verdict of a business is made of. None: there is no such business.
    pub async fn facts_of(&mut self, business: &BusinessId) -> Result<Option<BusinessFacts>, Error> {
        let id = [business.to_string()];
        let items = self.items_of(&id).await?;
        let items = self.item_facts(&items).await?;
        Ok(self.business_facts(&id, &items).await?.pop())
    }

    pub(crate) async fn ids(&mut self, sql: String, ids: &[String]) -> Result<BTreeSet<String>, Error> {
        self.rows(sql!(built(sql), list(ids))).await?.iter().map(|r| text(r, "id")).collect()
    }

    pub(crate) async fn businesses_of(&mut self, items: &[String]) -> Result<BTreeSet<String>, Error> {
        if items.is_empty() {
            return Ok(BTreeSet::new());
        }
        let named = self.dialect.among("item_id", 1);
        let sql = format!(
            "SELECT business_id AS id FROM accounts WHERE {named} AND business_id IS NOT NULL
             UNION SELECT moving_from FROM accounts WHERE {named} AND moving_from IS NOT NULL
             UNION SELECT business_id FROM items WHERE {named} AND business_id IS NOT NULL"
        );
        self.ids(sql, items).await
    }

    /// With an account in these businesses or leaving them, or that belong to them.
    pub(crate) async fn items_of(&mut self, businesses: &[String]) -> Result<BTreeSet<String>, Error> {
        if businesses.is_empty() {
            return Ok(BTreeSet::new());
        }
        let (here, leaving) = (self.dialect.among("business_id", 1), self.dialect.among("moving_from", 1));
        let sql = format!(
            "SELECT item_id AS id FROM accounts WHERE {here}
             UNION SELECT item_id FROM accounts WHERE {leaving}
             UNION SELECT item_id FROM items WHERE {here}"
        );
        self.ids(sql, businesses).await
    }

    /// In two statements: PostgreSQL keeps a plan that it made while the tables were small, and one join of all four would go on
    /// to read them from end to end.
    pub(crate) async fn item_facts(&mut self, ids: &BTreeSet<String>) -> Result<Vec<ItemFacts>, Error> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut facts: BTreeMap<String, ItemFacts> = BTreeMap::new();
        let ids = list(ids);
        let sql = format!(
            "SELECT i.item_id, i.state, i.generation, i.business_id, i.doubted_at, i.read_at, w.signal_at, w.due_at,
                 w.blocked_by, w.blocked_code, w.blocked_why, w.blocked_objection
             FROM items i LEFT JOIN work w ON w.kind = 'item' AND w.id = i.item_id WHERE {}",
            self.dialect.among("i.item_id", 1)
        );
        for row in self.rows(sql!(built(sql), &*ids)).await? {
            facts.insert(text(&row, "item_id")?, item_of(&row)?);
        }
        let sql = format!(
            "SELECT a.item_id, a.account_id, a.business_id, a.moving_from, a.missing_since, a.mint_fault, a.mint_code,
                 a.mint_fault_generation, a.mint_again_at, a.outside, t.fingerprint, t.generation
             FROM accounts a
             LEFT JOIN processor_tokens t ON t.item_id = a.item_id AND t.account_id = a.account_id AND t.state = 'live'
             WHERE {} AND a.state = 'active'
                 AND (a.business_id IS NOT NULL OR a.moving_from IS NOT NULL OR a.outside IS NOT NULL)
             ORDER BY a.item_id, a.account_id, t.generation",
            self.dialect.among("a.item_id", 1)
        );
        for row in self.rows(sql!(built(sql), &*ids)).await? {
            if let Some(item) = facts.get_mut(&text(&row, "item_id")?) {
                add_account(item, &row)?;
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
        let sql = format!(
            "SELECT b.business_id, b.accepted, b.archived, b.verified, b.converged_at, b.put_at, w.signal_at, w.due_at,
                 w.blocked_by, w.blocked_code, w.blocked_why, w.blocked_objection
             FROM businesses b LEFT JOIN work w ON w.kind = 'business' AND w.id = b.business_id
             WHERE {}",
            self.dialect.among("b.business_id", 1)
        );
        let rows = self.rows(sql!(built(sql), list(ids))).await?;
        // Not a search among all of them for each business: a batch of events concerns hundreds of either.
        let mut concern: BTreeMap<&BusinessId, Vec<&ItemFacts>> = BTreeMap::new();
        for item in items {
            item.businesses().into_iter().for_each(|business| concern.entry(business).or_default().push(item));
        }
        let mut found = Vec::with_capacity(rows.len());
        for row in &rows {
            let id = get(row, "business_id")?;
            found.push(BusinessFacts {
                items: concern.get(&id).into_iter().flatten().copied().cloned().collect(),
                work: work_of(row)?,
                was_listed: is_set(row, "converged_at")? || is_set(row, "put_at")?,
                read_back: get::<bool>(row, "verified")? && is_set(row, "converged_at")?,
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
    let blocked = blocked_with_objection(row)?;
    Ok(WorkFacts { signalled: is_set(row, "signal_at")?, blocked, due_at: get(row, "due_at")? })
}

fn item_of(row: &AnyRow) -> Result<ItemFacts, Error> {
    Ok(ItemFacts {
        id: get(row, "item_id")?,
        state: get(row, "state")?,
        generation: number(row, "generation")?,
        business: get(row, "business_id")?,
        doubted: is_set(row, "doubted_at")?,
        work: work_of(row)?,
        accounts: Vec::new(),
        left_out: Vec::new(),
        was_read: is_set(row, "read_at")?,
    })
}

fn add_account(item: &mut ItemFacts, row: &AnyRow) -> Result<(), Error> {
    let account = account_of(row)?;
    let takes_part = account.business.is_some() || account.moving_from.is_some();
    match get(row, "outside")? {
        // Of two live tokens the last row has the newest, as in `Tx::wanted_accounts`.
        _ if takes_part => {
            item.accounts.pop_if(|last| last.id == account.id);
            item.accounts.push(account);
        }
        Some(why @ (Outside::Nowhere | Outside::Unreadable)) => {
            item.left_out.pop_if(|last| last.0 == account.id);
            item.left_out.push((account.id, why));
        }
        _ => {}
    }
    Ok(())
}

fn account_of(row: &AnyRow) -> Result<AccountFacts, Error> {
    let token = match get(row, "fingerprint")? {
        Some(fingerprint) => Some((fingerprint, number(row, "generation")?)),
        None => None,
    };
    let refusal = match is_set(row, "mint_fault")? {
        true => Some(MintRefusal {
            code: opt_text(row, "mint_code")?.unwrap_or_default(),
            generation: number(row, "mint_fault_generation")?,
            again_at: get::<Option<_>>(row, "mint_again_at")?.unwrap_or(Millis(0)),
        }),
        false => None,
    };
    Ok(AccountFacts {
        id: get(row, "account_id")?,
        business: get(row, "business_id")?,
        moving_from: get(row, "moving_from")?,
        missing: is_set(row, "missing_since")?,
        token,
        refusal,
    })
}
