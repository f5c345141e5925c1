//! Accounts of Items, and which business each one is in or is leaving.

use crate::Claim;
use crate::tx::{built, number, opt_parsed, opt_text, opt_time, parsed, text};
use crate::verdict_facts::{SLICE, places};
use crate::{Error, Tx};
use domain::accounts::{AccountState, Known, MintRefused, Outside, Proof, Traits};
use domain::{AccountId, BusinessId, ItemId, Millis};
use sqlx::Row;
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
    pub again_at: Millis,
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
    /// The business that it was in until now.
    pub before: Option<&'a BusinessId>,
    pub missing_since: Option<Millis>,
    pub proof: Option<Proof>,
    pub outside: Option<Outside>,
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
            .bind(update.proof.map(Proof::as_str))
            .bind(update.outside.map(Outside::as_str))
            .bind(traits.kind.clone())
            .bind(traits.subtype.clone())
            .bind(traits.mask.clone())
            .bind(traits.name.clone())
            .bind(traits.persistent_id.clone());
        self.run(query).await?;
        self.touch_item(update.item.as_str());
        if let Some(before) = update.before {
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
        fault: Option<&MintFault>,
    ) -> Result<(), Error> {
        let sql = "UPDATE accounts SET mint_fault = $3, mint_fault_generation = $4, mint_refused = $5, mint_code = $6,
            mint_tries = $7, mint_again_at = $8 WHERE item_id = $1 AND account_id = $2";
        let query = sqlx::query(sql)
            .bind(item.as_str().to_owned())
            .bind(id.as_str().to_owned())
            .bind(fault.map(|f| f.why.clone()))
            .bind(fault.map(|f| f.generation))
            .bind(fault.map(|f| f.refused.as_str()))
            .bind(fault.map(|f| f.code.clone()))
            .bind(fault.map(|f| i64::from(f.tries)))
            .bind(fault.map(|f| f.again_at.0));
        self.run(query).await?;
        self.touch_item(item.as_str());
        Ok(())
    }

    /// Something happened that may have changed Plaid's mind: what it refused to mint is asked for at the next look.
    pub(crate) async fn ask_refused_again(&mut self, items: &BTreeSet<&str>) -> Result<(), Error> {
        let items: Vec<String> = items.iter().map(ToString::to_string).collect();
        for slice in items.chunks(SLICE) {
            let at = places(slice.len());
            let sql =
                "UPDATE accounts SET mint_again_at = 0, mint_tries = 0 WHERE mint_fault IS NOT NULL AND item_id IN";
            let query = slice.iter().fold(built(format!("{sql} ({at})")), |query, item| query.bind(item.clone()));
            self.run(query).await?;
        }
        Ok(())
    }

    /// How many accounts have no token because Plaid refuses, by reason.
    pub async fn refused_mints(&mut self) -> Result<Vec<(MintRefused, i64)>, Error> {
        let sql = "SELECT COALESCE(mint_refused, 'other') AS refused, COUNT(*) AS n FROM accounts
            WHERE mint_fault IS NOT NULL AND state = 'active' GROUP BY COALESCE(mint_refused, 'other')";
        let rows = self.rows(sqlx::query(sql)).await?;
        rows.iter().map(|r| Ok((parsed(r, "refused", |w| refused(&w))?, number(r, "n")?))).collect()
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
        self.touch_business(business.as_str());
        let mut entered = Vec::new();
        for row in &rows {
            let name = text(row, "b")?;
            if !name.is_empty() {
                entered.push(BusinessId::parse(name).map_err(|e| Error::Corrupt(e.to_string()))?);
            }
        }
        entered.sort();
        entered.dedup();
        for business in &entered {
            self.touch_business(business.as_str());
        }
        Ok(entered)
    }
}

/// Earlier releases wrote the sentence.
pub(crate) fn outside(word: &str) -> Result<Outside, String> {
    let by_sentence = || Outside::ALL.iter().copied().find(|o| o.sentence() == word);
    Outside::from_word(word).or_else(by_sentence).ok_or_else(|| format!("unknown word {word}"))
}

fn refused(word: &str) -> Result<MintRefused, String> {
    MintRefused::from_word(word).ok_or_else(|| format!("unknown refusal {word}"))
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
        proof: opt_parsed(row, "proof", |w| Proof::from_word(&w).ok_or_else(|| format!("unknown proof {w}")))?,
        outside: opt_parsed(row, "outside", |w| outside(&w))?,
        traits: Traits {
            kind: text(row, "kind")?,
            subtype: opt_text(row, "subtype")?,
            mask: opt_text(row, "mask")?,
            name: opt_text(row, "name")?,
            persistent_id: opt_text(row, "persistent_id")?,
        },
        mint_fault: match fault {
            Some(why) => Some(MintFault {
                refused: opt_parsed(row, "mint_refused", |w| refused(&w))?.unwrap_or(MintRefused::Other),
                code: opt_text(row, "mint_code")?.unwrap_or_default(),
                why,
                generation: number(row, "mint_fault_generation")?,
                tries: row.try_get::<Option<i64>, _>("mint_tries")?.and_then(|n| u32::try_from(n).ok()).unwrap_or(0),
                again_at: opt_time(row, "mint_again_at")?.unwrap_or(Millis(0)),
            }),
            None => None,
        },
    })
}
