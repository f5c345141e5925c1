//! Processor tokens (I6): the intent is stored before the call, the first saved answer wins, and what nobody saved is
//! an orphan.

use crate::Claim;
use crate::accounts::membership;
use crate::sql::{get, number, sql, text};
use crate::{Error, Tx};
use domain::token_list::Wanted;
use domain::{AccountId, BusinessId, Fingerprint, ItemId, ProcessorToken};
use secrecy::ExposeSecret;
use sqlx::Row;

/// A mint that is about to be asked for.
#[derive(Debug, Clone)]
pub struct Intent {
    pub id: String,
    pub item: ItemId,
    pub account: AccountId,
    /// Of the access token that it is minted under.
    pub generation: i64,
}

/// What became of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Saved {
    Live(Fingerprint),
    /// Another answer was saved first, or the lease was lost meanwhile.
    Orphan(Fingerprint),
    /// It is the token of another account, and none of this one.
    Taken(Fingerprint),
}

/// An account that belongs into a business's list, with its newest live token.
#[derive(Debug, Clone)]
pub struct WantedAccount {
    pub account: AccountId,
    pub item: ItemId,
    pub token: Option<Fingerprint>,
    /// Minted under an earlier access token than the current one, or the current one is not known.
    pub older_generation: bool,
}

pub(crate) fn place(id: &str) -> String {
    format!("processor_tokens/{id}")
}

impl Tx {
    /// Live tokens of an Item: for each account the newest generation.
    pub async fn live_generations(&mut self, item: &ItemId) -> Result<Vec<(AccountId, i64)>, Error> {
        let sql = "SELECT account_id, MAX(generation) AS generation FROM processor_tokens
            WHERE item_id = $1 AND state = 'live' GROUP BY account_id";
        let rows = self.rows(sql!(sql, item)).await?;
        rows.iter().map(|r| Ok((get(r, "account_id")?, number(r, "generation")?))).collect()
    }

    /// Whether intents are open: of mints that are on their way, or whose worker died.
    pub async fn has_open_intents(&mut self, item: &ItemId) -> Result<bool, Error> {
        let sql = "SELECT 1 AS n FROM processor_tokens WHERE item_id = $1 AND state = 'intended' LIMIT 1";
        Ok(self.row(sql!(sql, item)).await?.is_some())
    }

    /// Intents that nobody will settle any more: their answers were lost, so the tokens may exist and never reach a
    /// list. Returns how many.
    pub async fn orphan_intents(&mut self, item: &ItemId) -> Result<u64, Error> {
        let sql =
            "UPDATE processor_tokens SET state = 'orphaned', settled_at = $2 WHERE item_id = $1 AND state = 'intended'";
        let now = self.now().0;
        self.run(sql!(sql, item, now)).await
    }

    /// Stores that a token is about to be minted. Commit before the call.
    pub async fn intend(
        &mut self,
        claim: &Claim,
        item: &ItemId,
        account: &AccountId,
        generation: i64,
    ) -> Result<Intent, Error> {
        let id = uuid::Uuid::now_v7().to_string();
        let sql =
            "INSERT INTO processor_tokens (id, item_id, account_id, generation, state, origin, epoch, intended_at)
            VALUES ($1, $2, $3, $4, 'intended', 'minted', $5, $6)";
        self.run(sql!(sql, id, item, account, generation, claim.epoch, self.now())).await?;
        Ok(Intent { id, item: item.clone(), account: account.clone(), generation })
    }

    /// Plaid answered with a refusal, so no token exists, even if another worker took this intent for an orphan.
    pub async fn drop_intent(&mut self, intent: &Intent) -> Result<(), Error> {
        let sql =
            "DELETE FROM processor_tokens WHERE id = $1 AND state IN ('intended', 'orphaned') AND fingerprint IS NULL";
        self.run(sql!(sql, intent.id)).await?;
        Ok(())
    }

    /// The answer never came: a token may exist that nobody has seen.
    pub async fn orphan_intent(&mut self, intent: &Intent) -> Result<(), Error> {
        let sql =
            "UPDATE processor_tokens SET state = 'orphaned', settled_at = $2 WHERE id = $1 AND state = 'intended'";
        let now = self.now().0;
        self.run(sql!(sql, intent.id, now)).await?;
        Ok(())
    }

    /// Saves a minted token. It goes live unless its intent was settled by somebody else or the generation moved on;
    /// what it replaces is superseded, and erased because nothing may list it again.
    pub async fn save_minted(&mut self, intent: &Intent, token: &ProcessorToken) -> Result<Saved, Error> {
        let fingerprint = self.fingerprints.of_processor(token);
        if self.is_of_another_account(&fingerprint, intent).await? {
            let sql =
                "UPDATE processor_tokens SET state = 'orphaned', settled_at = $2 WHERE id = $1 AND state = 'intended'";
            let now = self.now().0;
            self.run(sql!(sql, intent.id, now)).await?;
            return Ok(Saved::Taken(fingerprint));
        }
        let sealed = self.keys.seal(&place(&intent.id), token.expose())?;
        let sql = "UPDATE processor_tokens SET state = 'live', fingerprint = $2, sealed = $3, settled_at = $4
            WHERE id = $1 AND state = 'intended'
              AND generation = (SELECT generation FROM items WHERE item_id = $5)
              AND NOT EXISTS (SELECT 1 FROM processor_tokens o WHERE o.item_id = $5 AND o.account_id = $6
                  AND o.generation = $7 AND o.state = 'live')";
        let now = self.now().0;
        if self
            .run(sql!(sql, intent.id, fingerprint, sealed, now, intent.item, intent.account, intent.generation))
            .await?
            == 0
        {
            let sql = "UPDATE processor_tokens SET state = 'orphaned', fingerprint = $2, settled_at = $3 WHERE id = $1";
            self.run(sql!(sql, intent.id, fingerprint, now)).await?;
            return Ok(Saved::Orphan(fingerprint));
        }
        self.supersede_before(&intent.item, &intent.account, intent.generation).await?;
        Ok(Saved::Live(fingerprint))
    }

    async fn is_of_another_account(&mut self, fingerprint: &Fingerprint, intent: &Intent) -> Result<bool, Error> {
        let sql = "SELECT 1 AS n FROM processor_tokens
            WHERE fingerprint = $1 AND (item_id <> $2 OR account_id <> $3) AND state IN ('live', 'superseded') LIMIT 1";
        Ok(self.row(sql!(sql, fingerprint, intent.item, intent.account)).await?.is_some())
    }

    async fn supersede_before(&mut self, item: &ItemId, account: &AccountId, generation: i64) -> Result<(), Error> {
        let sql = "UPDATE processor_tokens SET state = 'superseded', sealed = NULL, settled_at = $4
            WHERE item_id = $1 AND account_id = $2 AND generation < $3 AND state = 'live'";
        let now = self.now().0;
        self.run(sql!(sql, item, account, generation, now)).await?;
        Ok(())
    }

    /// First contact: a token that Layer had before us and that Plaid says is alive becomes ours.
    pub async fn adopt(
        &mut self,
        item: &ItemId,
        account: &AccountId,
        generation: i64,
        token: &ProcessorToken,
    ) -> Result<(), Error> {
        let id = uuid::Uuid::now_v7().to_string();
        let sealed = self.keys.seal(&place(&id), token.expose())?;
        let sql = "INSERT INTO processor_tokens (id, item_id, account_id, generation, state, origin, fingerprint, sealed, epoch, intended_at, settled_at)
            VALUES ($1, $2, $3, $4, 'live', 'adopted', $5, $6, 0, $7, $7)";
        self.run(sql!(sql, id, item, account, generation, self.fingerprints.of_processor(token), sealed, self.now()))
            .await?;
        self.touch_item(item.as_str());
        Ok(())
    }

    /// Every account that belongs into the list of `business` now.
    pub async fn wanted_accounts(&mut self, business: &BusinessId) -> Result<Vec<WantedAccount>, Error> {
        // An account may have live tokens of two generations, and the last row of it has the newest. A subquery for the newest
        // alone costs three times the pages, and makes PostgreSQL misjudge the whole plan where many accounts are asked for.
        let sql = "SELECT a.account_id, a.item_id, a.state, a.business_id, a.moving_from, a.outside, t.fingerprint,
                t.generation, i.generation AS item_generation, i.state AS item_state
            FROM accounts a
            JOIN items i ON i.item_id = a.item_id
            LEFT JOIN processor_tokens t ON t.item_id = a.item_id AND t.account_id = a.account_id AND t.state = 'live'
            WHERE a.business_id = $1 AND a.state = 'active' ORDER BY a.item_id, a.account_id, t.generation";
        let rows = self.rows(sql!(sql, business)).await?;
        let mut wanted: Vec<WantedAccount> = Vec::with_capacity(rows.len());
        for row in &rows {
            let membership = membership(row)?;
            if membership.list() == Some(business) {
                let generation = row.try_get("generation")?;
                let account = WantedAccount {
                    account: get(row, "account_id")?,
                    item: get(row, "item_id")?,
                    token: get(row, "fingerprint")?,
                    older_generation: Wanted::is_older(generation, number(row, "item_generation")?, membership.item),
                };
                wanted.pop_if(|last| last.item == account.item && last.account == account.account);
                wanted.push(account);
            }
        }
        Ok(wanted)
    }

    /// The tokens themselves, for the PUT.
    pub async fn open_live_tokens(
        &mut self,
        business: &BusinessId,
    ) -> Result<Vec<(Fingerprint, ProcessorToken)>, Error> {
        let sql = "SELECT t.id, t.fingerprint, t.sealed FROM processor_tokens t
            JOIN accounts a ON a.item_id = t.item_id AND a.account_id = t.account_id
            WHERE a.business_id = $1 AND t.state = 'live' AND t.sealed IS NOT NULL";
        let rows = self.rows(sql!(sql, business)).await?;
        let mut found = Vec::with_capacity(rows.len());
        for row in &rows {
            let secret = self.keys.open(&place(&text(row, "id")?), &text(row, "sealed")?)?;
            found.push((get(row, "fingerprint")?, ProcessorToken::new(secret.expose_secret())));
        }
        Ok(found)
    }

    /// Tokens of an Item by state, for operators.
    pub async fn processor_token_counts(&mut self, item: &ItemId) -> Result<Vec<(String, i64)>, Error> {
        let sql = "SELECT state, COUNT(*) AS n FROM processor_tokens WHERE item_id = $1 GROUP BY state ORDER BY state";
        let rows = self.rows(sql!(sql, item)).await?;
        rows.iter().map(|r| Ok((text(r, "state")?, number(r, "n")?))).collect()
    }
}
