//! Accounts of Items, and which business each one is in or is leaving.

use crate::Claim;
use crate::tx::{number, opt_parsed, opt_text, opt_time, parsed, text};
use crate::{Error, Tx};
use domain::accounts::{AccountState, Known, Traits};
use domain::{AccountId, BusinessId, ItemId, Millis};
use sqlx::any::AnyRow;

/// An account as it is stored.
#[derive(Debug, Clone)]
pub struct AccountRow {
    pub id: AccountId,
    pub item: ItemId,
    pub state: AccountState,
    pub business: Option<BusinessId>,
    /// The business whose list it must have left, verified, before it enters `business`.
    pub moving_from: Option<BusinessId>,
    pub missing_since: Option<Millis>,
    /// What proved it gone.
    pub proof: Option<String>,
    /// Why it takes no part.
    pub outside: Option<String>,
    pub traits: Traits,
    /// Why no token could be minted for it alone, and under which generation that was.
    pub mint_fault: Option<(String, i64)>,
}

impl AccountRow {
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

/// What a look found out about one account.
#[derive(Debug, Clone)]
pub struct AccountUpdate<'a> {
    pub item: &'a ItemId,
    pub id: &'a AccountId,
    pub traits: &'a Traits,
    pub state: AccountState,
    pub business: Option<&'a BusinessId>,
    pub missing_since: Option<Millis>,
    pub proof: Option<&'a str>,
    pub outside: Option<&'a str>,
}

impl Tx {
    pub async fn accounts(&mut self, item: &ItemId) -> Result<Vec<AccountRow>, Error> {
        let sql = "SELECT * FROM accounts WHERE item_id = $1 ORDER BY account_id";
        let rows = self.rows(sqlx::query(sql).bind(item.as_str().to_owned())).await?;
        rows.iter().map(account_row).collect()
    }

    /// Writes what a look found. A change of business starts a move: the account has to leave the old list, verified,
    /// before it enters the new one; back to where it came from, it never left.
    pub async fn save_account(&mut self, update: &AccountUpdate<'_>) -> Result<(), Error> {
        let sql = "INSERT INTO accounts (item_id, account_id, state, business_id, missing_since, proof, outside, kind,
                subtype, mask, name, persistent_id)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
            ON CONFLICT (item_id, account_id) DO UPDATE SET state = $3, missing_since = $5, proof = $6, outside = $7,
                kind = $8, subtype = $9, mask = $10, name = $11, persistent_id = $12, business_id = $4,
                moving_from = CASE
                    WHEN COALESCE(accounts.business_id, '') = COALESCE($4, '') THEN accounts.moving_from
                    WHEN accounts.moving_from = $4 THEN NULL
                    WHEN accounts.moving_from IS NOT NULL THEN accounts.moving_from
                    -- A business that was never found at Layer has no list that it could be in.
                    WHEN EXISTS (SELECT 1 FROM businesses b WHERE b.business_id = accounts.business_id
                        AND b.layer_id IS NOT NULL) THEN accounts.business_id
                    ELSE NULL END";
        let traits = update.traits;
        let query = sqlx::query(sql)
            .bind(update.item.as_str().to_owned())
            .bind(update.id.as_str().to_owned())
            .bind(update.state.as_str())
            .bind(update.business.map(|b| b.as_str().to_owned()))
            .bind(update.missing_since.map(|t| t.0))
            .bind(update.proof.map(str::to_owned))
            .bind(update.outside.map(str::to_owned))
            .bind(traits.kind.clone())
            .bind(traits.subtype.clone())
            .bind(traits.mask.clone())
            .bind(traits.name.clone())
            .bind(traits.persistent_id.clone());
        self.run(query).await?;
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
        let query = sqlx::query(sql)
            .bind(item.as_str().to_owned())
            .bind(id.as_str().to_owned())
            .bind(business.as_str().to_owned());
        self.run(query).await?;
        Ok(())
    }

    /// One account is parked alone, its siblings go on. None clears it.
    pub async fn set_mint_fault(
        &mut self,
        item: &ItemId,
        id: &AccountId,
        fault: Option<(&str, i64)>,
    ) -> Result<(), Error> {
        let sql =
            "UPDATE accounts SET mint_fault = $3, mint_fault_generation = $4 WHERE item_id = $1 AND account_id = $2";
        let query = sqlx::query(sql)
            .bind(item.as_str().to_owned())
            .bind(id.as_str().to_owned())
            .bind(fault.map(|(why, _)| why.to_owned()))
            .bind(fault.map(|(_, generation)| generation));
        self.run(query).await?;
        Ok(())
    }

    /// The old list was read back without them: accounts that were leaving `business` may enter their new one.
    /// Returns the businesses they enter.
    ///
    /// None while an event has come since the look began: a move may have been ordered that its plan did not know.
    pub async fn moves_done(&mut self, business: &BusinessId, claim: &Claim) -> Result<Vec<BusinessId>, Error> {
        let sql = "UPDATE accounts SET moving_from = NULL WHERE moving_from = $1
            AND EXISTS (SELECT 1 FROM work WHERE kind = 'business' AND id = $1 AND wanted = $2)
            RETURNING COALESCE(business_id, '') AS b";
        let rows = self.rows(sqlx::query(sql).bind(business.as_str().to_owned()).bind(claim.wanted)).await?;
        let mut entered = Vec::new();
        for row in &rows {
            let name = text(row, "b")?;
            if !name.is_empty() {
                entered.push(BusinessId::parse(name).map_err(|e| Error::Corrupt(e.to_string()))?);
            }
        }
        entered.sort();
        entered.dedup();
        Ok(entered)
    }
}

fn account_row(row: &AnyRow) -> Result<AccountRow, Error> {
    let fault = opt_text(row, "mint_fault")?;
    Ok(AccountRow {
        id: parsed(row, "account_id", AccountId::parse)?,
        item: parsed(row, "item_id", ItemId::parse)?,
        state: parsed(row, "state", |w| AccountState::from_word(&w).ok_or_else(|| format!("unknown state {w}")))?,
        business: opt_parsed(row, "business_id", BusinessId::parse)?,
        moving_from: opt_parsed(row, "moving_from", BusinessId::parse)?,
        missing_since: opt_time(row, "missing_since")?,
        proof: opt_text(row, "proof")?,
        outside: opt_text(row, "outside")?,
        traits: Traits {
            kind: text(row, "kind")?,
            subtype: opt_text(row, "subtype")?,
            mask: opt_text(row, "mask")?,
            name: opt_text(row, "name")?,
            persistent_id: opt_text(row, "persistent_id")?,
        },
        mint_fault: match fault {
            Some(why) => Some((why, number(row, "mint_fault_generation")?)),
            None => None,
        },
    })
}
