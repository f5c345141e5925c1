//! Accounts of Items, and which business each one is in or is leaving.

use crate::Claim;
use crate::sql::{built, get, is_set, list, number, opt_text, sql, text};
use crate::{Error, Tx};
use domain::accounts::{AccountState, Known, MintRefused, Outside, Proof, Traits};
use domain::item::ItemState;
use domain::list_membership::ListMembership;
use domain::work::Subject;
use domain::{AccountId, BusinessId, ItemId, Millis};
use sqlx::any::AnyRow;
use std::collections::BTreeSet;

/// An account as it is stored.
#[derive(Debug, Clone)]
pub struct AccountRow {
    pub id: AccountId,
    pub item: ItemId,
    pub state: AccountState,
    pub business: Option<BusinessId>,
    /// The business whose list it must have left, verified, before it enters `business`.
    pub moving_from: Option<BusinessId>,
    /// The first read that did not show it.
    pub missing_since: Option<Millis>,
    /// What proved it gone.
    pub proof: Option<Proof>,
    /// Why it takes no part.
    pub outside: Option<Outside>,
    pub traits: Traits,
    /// Why no token could be minted for it alone, and under which generation that was.
    pub mint_fault: Option<MintFault>,
}

/// Why no token could be minted for one account alone. It is asked for again, ever more slowly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MintFault {
    pub refused: MintRefused,
    /// Plaid's code, or our word where there is none.
    pub code: String,
    /// For people.
    pub why: String,
    pub generation: i64,
    /// How often in a row.
    pub tries: u32,
    /// Not asked for before this time, unless something happens.
    pub again_at: Millis,
}

impl AccountRow {
    /// Where it stands, in an Item of that state.
    pub fn membership(&self, item: ItemState) -> ListMembership {
        let (business, moving_from) = (self.business.clone(), self.moving_from.clone());
        ListMembership { state: self.state, item, business, moving_from, outside: self.outside.is_some() }
    }

    /// What a read of the accounts is compared with.
    pub fn known(&self) -> Known {
        Known {
            id: self.id.clone(),
            state: self.state,
            business: self.business.clone(),
            missing_since: self.missing_since,
            traits: self.traits.clone(),
        }
    }
}

/// What is written of one account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountUpdate {
    pub item: ItemId,
    pub id: AccountId,
    pub traits: Traits,
    pub state: AccountState,
    pub business: Option<BusinessId>,
    pub moving_from: Option<BusinessId>,
    /// The business that it was in until now.
    pub before: Option<BusinessId>,
    /// The first read that did not show it.
    pub missing_since: Option<Millis>,
    pub proof: Option<Proof>,
    pub outside: Option<Outside>,
}

impl Tx {
    /// Every account of the Item, by id.
    pub async fn accounts(&mut self, item: &ItemId) -> Result<Vec<AccountRow>, Error> {
        let sql = "SELECT * FROM accounts WHERE item_id = $1 ORDER BY account_id";
        let rows = self.rows(sql!(sql, item)).await?;
        rows.iter().map(account_row).collect()
    }

    /// Every account of these Items, by Item and id.
    pub async fn accounts_of(&mut self, items: &[ItemId]) -> Result<Vec<AccountRow>, Error> {
        let of = self.dialect.among("item_id", 1);
        let sql = format!("SELECT * FROM accounts WHERE {of} ORDER BY item_id, account_id");
        let rows = self.rows(sql!(built(sql), list(items))).await?;
        rows.iter().map(account_row).collect()
    }

    /// The same of one Item, so that no other transaction changes them until this one ends: a list that is read back ends moves.
    pub async fn lock_accounts(&mut self, item: &ItemId) -> Result<Vec<AccountRow>, Error> {
        let lock = self.dialect.for_update();
        let sql = format!("SELECT * FROM accounts WHERE item_id = $1 ORDER BY account_id {lock}");
        let rows = self.rows(sql!(built(sql), item)).await?;
        rows.iter().map(account_row).collect()
    }

    /// Writes what a reconciliation found.
    pub async fn save_account(&mut self, update: &AccountUpdate) -> Result<(), Error> {
        let sql = "INSERT INTO accounts (item_id, account_id, state, business_id, missing_since, proof, outside, kind,
                subtype, mask, name, persistent_id, moving_from)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
            ON CONFLICT (item_id, account_id) DO UPDATE SET state = $3, missing_since = $5, proof = $6, outside = $7,
                kind = $8, subtype = $9, mask = $10, name = $11, persistent_id = $12, business_id = $4, moving_from = $13";
        let traits = &update.traits;
        self.run(sql!(
            sql,
            update.item,
            update.id,
            update.state,
            update.business,
            update.missing_since,
            update.proof,
            update.outside,
            traits.kind,
            traits.subtype,
            traits.mask,
            traits.name,
            traits.persistent_id,
            update.moving_from
        ))
        .await?;
        self.touch_item(update.item.as_str());
        if let Some(before) = &update.before {
            self.touch_business(before.as_str());
        }
        Ok(())
    }

    /// A re-numbered account keeps its business even where the push named the old id.
    pub async fn inherit_assignment(
        &mut self,
        item: &ItemId,
        id: &AccountId,
        business: &BusinessId,
    ) -> Result<(), Error> {
        let sql = "INSERT INTO assignments (item_id, account_id, business_id) VALUES ($1, $2, $3)
            ON CONFLICT (item_id, account_id) DO NOTHING";
        self.run(sql!(sql, item, id, business)).await.map(drop)
    }

    /// One account is parked alone, its siblings go on. None clears it.
    pub async fn set_mint_fault(
        &mut self,
        item: &ItemId,
        id: &AccountId,
        fault: Option<&MintFault>,
    ) -> Result<(), Error> {
        let sql = "UPDATE accounts SET mint_fault = $3, mint_fault_generation = $4, mint_refused = $5, mint_code = $6,
            mint_tries = $7, mint_again_at = $8,
            mint_refused_at = CASE WHEN mint_code = $6 THEN COALESCE(mint_refused_at, $9) ELSE $9 END
            WHERE item_id = $1 AND account_id = $2";
        self.run(sql!(
            sql,
            item,
            id,
            fault.map(|f| f.why.clone()),
            fault.map(|f| f.generation),
            fault.map(|f| f.refused.as_str()),
            fault.map(|f| f.code.clone()),
            fault.map(|f| i64::from(f.tries)),
            fault.map(|f| f.again_at.0),
            fault.map(|_| self.now())
        ))
        .await?;
        self.touch_item(item.as_str());
        Ok(())
    }

    /// Something happened that may have changed Plaid's mind: what it refused to mint is asked for at the next
    /// reconciliation. Returns for how many accounts.
    pub(crate) async fn ask_refused_again(&mut self, items: &BTreeSet<&ItemId>) -> Result<u64, Error> {
        if items.is_empty() {
            return Ok(0);
        }
        let named = self.dialect.among("item_id", 1);
        let sql =
            format!("UPDATE accounts SET mint_again_at = 0, mint_tries = 0 WHERE mint_fault IS NOT NULL AND {named}");
        self.run(sql!(built(sql), list(items))).await
    }

    /// How many accounts have no token because Plaid refuses, by reason.
    pub async fn refused_mints(&mut self) -> Result<Vec<(MintRefused, i64)>, Error> {
        let sql = "SELECT COALESCE(mint_refused, 'other') AS refused, COUNT(*) AS n FROM accounts
            WHERE mint_fault IS NOT NULL AND state = 'active' GROUP BY COALESCE(mint_refused, 'other')";
        let rows = self.rows(sql!(sql)).await?;
        rows.iter().map(|r| Ok((get(r, "refused")?, number(r, "n")?))).collect()
    }

    /// Whose rows are written when accounts have left the list of `business`: their Items', those of the businesses that they enter,
    /// and its own. None while no account leaves.
    pub async fn leaving(&mut self, business: &BusinessId) -> Result<Vec<Subject>, Error> {
        let sql = "SELECT item_id, business_id FROM accounts WHERE moving_from = $1";
        let mut rows = BTreeSet::new();
        for row in self.rows(sql!(sql, business)).await? {
            rows.insert(Subject::Item(get(&row, "item_id")?));
            rows.extend(get::<Option<_>>(&row, "business_id")?.map(Subject::Business));
            rows.insert(Subject::from(business));
        }
        Ok(rows.into_iter().collect())
    }

    /// The old list was read back without them: accounts that were leaving `business` may enter their new one.
    /// Returns the businesses they enter.
    ///
    /// None while an event has come since the reconciliation began: a move may have been ordered that its plan did not know.
    pub async fn moves_done(&mut self, business: &BusinessId, claim: &Claim) -> Result<Vec<BusinessId>, Error> {
        let sql = "UPDATE accounts SET moving_from = NULL WHERE moving_from = $1
            AND EXISTS (SELECT 1 FROM work WHERE kind = 'business' AND id = $1 AND wanted = $2)
            RETURNING business_id";
        let rows = self.rows(sql!(sql, business, claim.wanted)).await?;
        self.touch_business(business.as_str());
        // None: it leaves for no other.
        let entered: Result<BTreeSet<Option<BusinessId>>, Error> = rows.iter().map(|r| get(r, "business_id")).collect();
        let entered: Vec<BusinessId> = entered?.into_iter().flatten().collect();
        entered.iter().for_each(|business| self.touch_business(business.as_str()));
        Ok(entered)
    }
}

/// Of a row that joins an account with its Item's state, `item_state`.
pub(crate) fn membership(row: &AnyRow) -> Result<ListMembership, Error> {
    Ok(ListMembership {
        // A word of a later release means at least that it is not active; one account must not keep its business's list from
        // being read.
        state: AccountState::from_word(&text(row, "state")?).unwrap_or(AccountState::Closed),
        item: get(row, "item_state")?,
        business: get(row, "business_id")?,
        moving_from: get(row, "moving_from")?,
        outside: is_set(row, "outside")?,
    })
}

fn account_row(row: &AnyRow) -> Result<AccountRow, Error> {
    let fault = opt_text(row, "mint_fault")?;
    Ok(AccountRow {
        id: get(row, "account_id")?,
        item: get(row, "item_id")?,
        state: get(row, "state")?,
        business: get(row, "business_id")?,
        moving_from: get(row, "moving_from")?,
        missing_since: get(row, "missing_since")?,
        proof: get(row, "proof")?,
        outside: get(row, "outside")?,
        traits: Traits {
            kind: text(row, "kind")?,
            subtype: get(row, "subtype")?,
            mask: get(row, "mask")?,
            name: get(row, "name")?,
            persistent_id: get(row, "persistent_id")?,
        },
        mint_fault: match fault {
            Some(why) => Some(MintFault {
                refused: get::<Option<_>>(row, "mint_refused")?.unwrap_or(MintRefused::Other),
                code: opt_text(row, "mint_code")?.unwrap_or_default(),
                why,
                generation: number(row, "mint_fault_generation")?,
                tries: get::<Option<_>>(row, "mint_tries")?.unwrap_or(0),
                again_at: get::<Option<_>>(row, "mint_again_at")?.unwrap_or(Millis(0)),
            }),
            None => None,
        },
    })
}
