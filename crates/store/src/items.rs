//! Items and what the platform says about them.

use crate::access_tokens::News;
use crate::queue::Mark;
use crate::tx::{number, opt_parsed, opt_text, parsed};
use crate::{Error, KeyRing, Tx};
use domain::item::ItemState;
use domain::work::{Block, Class, Kind};
use domain::{AccessToken, AccountId, BusinessId, ItemId, Millis};
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use sqlx::any::AnyRow;
use std::collections::BTreeSet;
use std::time::Duration;

/// Why an Item is removed when the platform said so, as against Plaid's word.
pub const REMOVED_BY_PLATFORM: &str = "removed by the platform";

/// An Item as it is stored.
#[derive(Debug, Clone)]
pub struct ItemRow {
    pub id: ItemId,
    pub state: ItemState,
    pub state_why: Option<String>,
    pub state_since: Millis,
    pub business: Option<BusinessId>,
    /// The push named the accounts that take part; all others stay outside.
    pub only_listed: bool,
    pub generation: i64,
    /// The Item that leaves when this one's tokens exist.
    pub replaces: Option<ItemId>,
    pub created_at: Millis,
}

/// What the push says about one account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    pub account: AccountId,
    /// None: the default business of the Item.
    pub business: Option<BusinessId>,
}

/// What the platform says about an Item besides its token. The whole of it replaces what it said before.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Declaration {
    pub business: Option<BusinessId>,
    /// The account filter: only these take part.
    pub accounts: Option<Vec<Assignment>>,
    /// The Item that this one takes the place of.
    pub replaces: Option<ItemId>,
    /// A JSON object of what Layer needs to create the business.
    pub creation: Option<String>,
}

impl Declaration {
    pub(crate) fn seal(&self, keys: &KeyRing, place: &str) -> Result<String, Error> {
        let text = serde_json::to_string(self).map_err(|e| Error::Corrupt(e.to_string()))?;
        keys.seal(place, &text)
    }
    pub(crate) fn open(keys: &KeyRing, place: &str, sealed: &str) -> Result<Self, Error> {
        let text = keys.open(place, sealed)?;
        serde_json::from_str(text.expose_secret())
            .map_err(|_| Error::Corrupt(format!("the declaration at {place} can't be read")))
    }
}

/// A platform's `PUT /v1/items/{item_id}`.
#[derive(Debug, Clone)]
pub struct Push {
    pub item: ItemId,
    pub access_token: Option<AccessToken>,
    pub declaration: Declaration,
    pub class: Class,
    /// Where the push came from: `push`, `import`.
    pub source: &'static str,
    pub traceparent: Option<String>,
}

impl ItemRow {
    /// The platform took it off its books: no event, retry or sweep may cost a call.
    pub fn is_offboarded(&self) -> bool {
        self.state == ItemState::Removed && self.state_why.as_deref() == Some(REMOVED_BY_PLATFORM)
    }
}

impl Tx {
    pub async fn item(&mut self, id: &ItemId) -> Result<Option<ItemRow>, Error> {
        let query = sqlx::query("SELECT * FROM items WHERE item_id = $1").bind(id.as_str().to_owned());
        self.row(query).await?.map(|r| item_row(&r)).transpose()
    }

    pub async fn assignments(&mut self, id: &ItemId) -> Result<Vec<Assignment>, Error> {
        let sql = "SELECT account_id, business_id FROM assignments WHERE item_id = $1 ORDER BY account_id";
        let rows = self.rows(sqlx::query(sql).bind(id.as_str().to_owned())).await?;
        rows.iter()
            .map(|r| {
                Ok(Assignment {
                    account: parsed(r, "account_id", AccountId::parse)?,
                    business: opt_parsed(r, "business_id", BusinessId::parse)?,
                })
            })
            .collect()
    }

    /// Takes a push. A token that is not current yet becomes a candidate (I5), and what came with it waits for its
    /// proof, so that a push with a wrong token changes nothing. Returns the `wanted` it raised.
    pub async fn push(&mut self, push: &Push) -> Result<i64, Error> {
        // First of all, and it makes the row where there is none: everybody else waits here, holding nothing.
        let wanted = self
            .mark(&Mark {
                kind: Kind::Item,
                id: push.item.as_str(),
                class: push.class,
                reason: push.source,
                wait: Duration::ZERO,
                quiet: None,
                unblocks: true,
                traceparent: push.traceparent.as_deref(),
            })
            .await?;
        let sql = "INSERT INTO items (item_id, state, state_since, only_listed, generation, created_at)
            VALUES ($1, 'awaiting_token', $2, 0, 0, $2)
            ON CONFLICT (item_id) DO UPDATE SET
                state_why = CASE WHEN items.state = 'removed' THEN NULL ELSE items.state_why END";
        let item = push.item.as_str().to_owned();
        self.run(sqlx::query(sql).bind(item.clone()).bind(self.now().0)).await?;
        let news = match &push.access_token {
            Some(token) => self.add_candidate(&push.item, token, push.source, Some(&push.declaration)).await?,
            None => News::IsCurrent,
        };
        if news == News::IsCurrent {
            // The newest word: what an older push said must not be found to hold later.
            let sql = "UPDATE access_tokens SET declaration = NULL WHERE item_id = $1";
            self.run(sqlx::query(sql).bind(item.clone())).await?;
            self.declare(&push.item, &push.declaration).await?;
        }
        self.run(sqlx::query("DELETE FROM unknown_items WHERE item_id = $1").bind(item)).await?;
        Ok(wanted)
    }

    /// Puts a declaration in force. Accounts follow at the next look at the Item.
    pub(crate) async fn declare(&mut self, id: &ItemId, declaration: &Declaration) -> Result<(), Error> {
        let sql = "UPDATE items SET business_id = $2, only_listed = $3, replaces = $4,
            state = CASE WHEN state = 'removed' THEN 'awaiting_token' ELSE state END WHERE item_id = $1";
        let item = id.as_str().to_owned();
        let query = sqlx::query(sql)
            .bind(item.clone())
            .bind(declaration.business.as_ref().map(|b| b.as_str().to_owned()))
            .bind(i64::from(declaration.accounts.is_some()))
            .bind(declaration.replaces.as_ref().map(|i| i.as_str().to_owned()));
        self.run(query).await?;
        self.run(sqlx::query("DELETE FROM assignments WHERE item_id = $1").bind(item.clone())).await?;
        let named = declaration.accounts.iter().flatten();
        for assignment in named.clone() {
            let sql = "INSERT INTO assignments (item_id, account_id, business_id) VALUES ($1, $2, $3)
                ON CONFLICT (item_id, account_id) DO UPDATE SET business_id = $3";
            let query = sqlx::query(sql)
                .bind(item.clone())
                .bind(assignment.account.as_str().to_owned())
                .bind(assignment.business.as_ref().map(|b| b.as_str().to_owned()));
            self.run(query).await?;
        }
        if let Some(business) = &declaration.business {
            if declaration.creation.is_some() && self.is_parked(business).await? {
                // What it was refused for may be put right now.
                self.mark_business(business, Class::Person, "pushed with `create`", Duration::ZERO, true, None).await?;
            }
            self.ensure_business(business, declaration.creation.as_deref()).await?;
        }
        // In one order, or two pushes that name the same new businesses wait for each other.
        for business in named.filter_map(|a| a.business.as_ref()).collect::<BTreeSet<_>>() {
            self.ensure_business(business, None).await?;
        }
        Ok(())
    }

    async fn is_parked(&mut self, business: &BusinessId) -> Result<bool, Error> {
        let row = self.work(Kind::Business, business.as_str()).await?;
        Ok(row.and_then(|r| r.blocked).is_some_and(|b| b.by == Block::Parked))
    }

    pub async fn set_item_state(&mut self, id: &ItemId, state: ItemState, why: Option<&str>) -> Result<(), Error> {
        let sql = "UPDATE items SET state_since = CASE WHEN state = $2 THEN state_since ELSE $4 END, state = $2, state_why = $3
            WHERE item_id = $1";
        let query = sqlx::query(sql)
            .bind(id.as_str().to_owned())
            .bind(state.as_str())
            .bind(why.map(str::to_owned))
            .bind(self.now().0);
        self.run(query).await?;
        Ok(())
    }

    /// The platform removed the Item: its accounts leave every list by the platform's word, and its tokens are erased.
    /// Returns the businesses that are due for it.
    pub async fn remove_item(&mut self, id: &ItemId, why: &str) -> Result<Vec<BusinessId>, Error> {
        let item = id.as_str().to_owned();
        // A removed Item is not looked at any more: no event, retry or sweep may cost a call.
        let sql = "UPDATE work SET due_at = NULL, blocked_by = NULL, blocked_code = NULL, blocked_why = NULL,
            blocked_at = NULL, done = wanted, epoch = epoch + 1, held = 0, lease_owner = NULL, lease_until = NULL
            WHERE kind = 'item' AND id = $1";
        self.run(sqlx::query(sql).bind(item.clone())).await?;
        self.set_item_state(id, ItemState::Removed, Some(why)).await?;
        // Nothing of it may come back by itself; a push starts from nothing, as for an Item nobody knows.
        let sql = "DELETE FROM access_tokens WHERE item_id = $1";
        self.run(sqlx::query(sql).bind(item.clone())).await?;
        // No later look settles what a look that died, or is on its way, has begun. Before the live ones: whatever is saved
        // meanwhile is an orphan, or is seen below.
        self.orphan_intents(id).await?;
        let sql = "UPDATE processor_tokens SET state = 'superseded', sealed = NULL, settled_at = $2
            WHERE item_id = $1 AND state = 'live'";
        let now = self.now().0;
        self.run(sqlx::query(sql).bind(item).bind(now)).await?;
        self.businesses_of_item(id).await
    }

    /// Every business that an account of the Item is in, or is leaving.
    pub async fn businesses_of_item(&mut self, id: &ItemId) -> Result<Vec<BusinessId>, Error> {
        let sql = "SELECT business_id AS b FROM accounts WHERE item_id = $1 AND business_id IS NOT NULL
            UNION SELECT moving_from FROM accounts WHERE item_id = $1 AND moving_from IS NOT NULL ORDER BY 1";
        let rows = self.rows(sqlx::query(sql).bind(id.as_str().to_owned())).await?;
        rows.iter().map(|r| parsed(r, "b", BusinessId::parse)).collect()
    }

    pub async fn replaced(&mut self, id: &ItemId) -> Result<(), Error> {
        self.run(sqlx::query("UPDATE items SET replaces = NULL WHERE item_id = $1").bind(id.as_str().to_owned()))
            .await?;
        Ok(())
    }

    pub async fn count_businesses(&mut self) -> Result<i64, Error> {
        let row = self.row(sqlx::query("SELECT COUNT(*) AS n FROM businesses")).await?;
        row.map_or(Ok(0), |r| number(&r, "n"))
    }

    pub async fn count_items(&mut self) -> Result<i64, Error> {
        let row = self.row(sqlx::query("SELECT COUNT(*) AS n FROM items WHERE state <> 'removed'")).await?;
        row.map_or(Ok(0), |r| number(&r, "n"))
    }
}

pub(crate) fn item_row(row: &AnyRow) -> Result<ItemRow, Error> {
    Ok(ItemRow {
        id: parsed(row, "item_id", ItemId::parse)?,
        state: parsed(row, "state", |w| ItemState::from_word(&w).ok_or_else(|| format!("unknown state {w}")))?,
        state_why: opt_text(row, "state_why")?,
        state_since: Millis(number(row, "state_since")?),
        business: opt_parsed(row, "business_id", BusinessId::parse)?,
        only_listed: number(row, "only_listed")? == 1,
        generation: number(row, "generation")?,
        replaces: opt_parsed(row, "replaces", ItemId::parse)?,
        created_at: Millis(number(row, "created_at")?),
    })
}
