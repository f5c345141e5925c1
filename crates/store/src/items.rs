//! Items and what the platform says about them.

use crate::access_tokens::News;
use crate::sql::{built, get, number, sql};
use crate::{BusinessMark, Claim, Error, KeyRing, Tx};
use domain::item::{Cause, ItemState};
use domain::queue::Mark;
use domain::work::{Block, Class};
use domain::{AccessToken, AccountId, BusinessId, ItemId, Millis};
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use sqlx::any::AnyRow;
use std::collections::BTreeSet;
use std::time::Duration;

/// An Item as it is stored.
#[derive(Debug, Clone)]
pub struct ItemRow {
    pub id: ItemId,
    pub state: ItemState,
    /// What decides; `state_why` is for people.
    pub cause: Option<Cause>,
    pub state_why: Option<String>,
    pub state_since: Millis,
    pub business: Option<BusinessId>,
    /// The push named the accounts that take part; all others stay outside.
    pub only_listed: bool,
    /// Grows with each access token that Plaid proved, and when an operator has all tokens minted again; 0: none yet.
    pub generation: i64,
    /// The Item that leaves when this one's tokens exist.
    pub replaces: Option<ItemId>,
    /// When Plaid said for the first time, not gainsaid since, that there is no such Item.
    pub doubted_at: Option<Millis>,
    /// When its accounts were read last.
    pub read_at: Option<Millis>,
}

/// What the push says about one account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    pub account: AccountId,
    /// None: the default business of the Item.
    pub business: Option<BusinessId>,
}

/// Which accounts of an Item take part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Accounts {
    #[serde(rename = "all")]
    All,
    /// The account filter.
    #[serde(untagged)]
    Only(Vec<Assignment>),
}

/// What the platform says about an Item besides its token. What it leaves out stays as it is, so that the everyday push
/// of a new token can't widen, move or drop anything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Declaration {
    pub business: Option<BusinessId>,
    pub accounts: Option<Accounts>,
    /// The Item that this one takes the place of.
    pub replaces: Option<ItemId>,
    /// A JSON object of what Layer needs to create the business.
    pub creation: Option<String>,
}

impl Declaration {
    /// It says nothing besides the token.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// It says no more than what is in force already.
    pub(crate) fn is_so_of(&self, item: &ItemRow) -> bool {
        let Self { business, accounts, replaces, creation } = self;
        let is_same = business.is_none() || *business == item.business;
        is_same && accounts.is_none() && replaces.is_none() && creation.is_none()
    }

    /// This one, and of an earlier one what it leaves out.
    #[must_use]
    pub fn over(self, earlier: Self) -> Self {
        Self {
            business: self.business.or(earlier.business),
            accounts: self.accounts.or(earlier.accounts),
            replaces: self.replaces.or(earlier.replaces),
            creation: self.creation.or(earlier.creation),
        }
    }

    /// Every business that it names.
    pub fn businesses(&self) -> BTreeSet<BusinessId> {
        let named = self.only().iter().flat_map(|a| a.business.clone());
        self.business.iter().cloned().chain(named).collect()
    }

    fn only(&self) -> &[Assignment] {
        match &self.accounts {
            Some(Accounts::Only(named)) => named,
            Some(Accounts::All) | None => &[],
        }
    }

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
        self.state == ItemState::Removed && self.cause == Some(Cause::RemovedByPlatform)
    }
}

impl Tx {
    /// None: it was never pushed.
    pub async fn item(&mut self, id: &ItemId) -> Result<Option<ItemRow>, Error> {
        self.row(sql!("SELECT * FROM items WHERE item_id = $1", id)).await?.map(|r| item_row(&r)).transpose()
    }

    /// Accounts that the platform named, by id.
    pub async fn assignments(&mut self, id: &ItemId) -> Result<Vec<Assignment>, Error> {
        let sql = "SELECT account_id, business_id FROM assignments WHERE item_id = $1 ORDER BY account_id";
        let rows = self.rows(sql!(sql, id)).await?;
        rows.iter()
            .map(|r| Ok(Assignment { account: get(r, "account_id")?, business: get(r, "business_id")? }))
            .collect()
    }

    /// Takes a push. A token that is not current yet becomes a candidate (I5), and what came with it waits for its
    /// proof, so that a push with a wrong token changes nothing. Returns the `wanted` it raised.
    pub async fn push(&mut self, push: &Push) -> Result<i64, Error> {
        // First of all, and it makes the row where there is none: everybody else waits here, holding nothing.
        let mark = Mark::new(&push.item, push.class, push.source);
        let wanted = self.mark(&Mark { unblocks: true, traceparent: push.traceparent.as_deref(), ..mark }).await?;
        let sql = "INSERT INTO items (item_id, state, state_since, only_listed, generation, created_at)
            VALUES ($1, 'awaiting_token', $2, 0, 0, $2)
            ON CONFLICT (item_id) DO UPDATE SET
                cause = CASE WHEN items.state = 'removed' THEN NULL ELSE items.cause END,
                state_why = CASE WHEN items.state = 'removed' THEN NULL ELSE items.state_why END";
        let item = push.item.as_str().to_owned();
        self.run(sql!(sql, item, self.now())).await?;
        self.touch_item(&item);
        let news = match &push.access_token {
            Some(token) => self.add_candidate(&push.item, token, push.source, Some(&push.declaration)).await?,
            None => News::IsCurrent,
        };
        if news == News::IsCurrent && !push.declaration.is_empty() {
            self.say_of_current(&push.item, &push.declaration).await?;
        }
        self.run(sql!("DELETE FROM unknown_items WHERE item_id = $1", item)).await?;
        Ok(wanted)
    }

    /// Puts a declaration in force. Accounts follow at the next reconciliation of the Item.
    pub(crate) async fn declare(&mut self, id: &ItemId, declaration: &Declaration) -> Result<(), Error> {
        let sql = "UPDATE items SET business_id = COALESCE($2, business_id), only_listed = COALESCE($3, only_listed),
            replaces = COALESCE($4, replaces), state = CASE WHEN state = 'removed' THEN 'awaiting_token' ELSE state END WHERE item_id = $1";
        let item = id.as_str().to_owned();
        // It may leave a business in which nobody has read it yet.
        self.touch_businesses_of(id).await?;
        self.touch_item(id.as_str());
        self.run(sql!(
            sql,
            item,
            declaration.business,
            declaration.accounts.as_ref().map(|a| i64::from(matches!(a, Accounts::Only(_)))),
            declaration.replaces
        ))
        .await?;
        if declaration.accounts.is_some() {
            self.run(sql!("DELETE FROM assignments WHERE item_id = $1", item)).await?;
        }
        let named = declaration.only().iter();
        for assignment in named.clone() {
            let sql = "INSERT INTO assignments (item_id, account_id, business_id) VALUES ($1, $2, $3)
                ON CONFLICT (item_id, account_id) DO UPDATE SET business_id = $3";
            self.run(sql!(sql, item, assignment.account, assignment.business)).await?;
        }
        if let Some(business) = &declaration.business {
            if declaration.creation.is_some() && self.is_parked(business).await? {
                // What it was refused for may be put right now.
                let mark = BusinessMark::changed(business.clone(), Class::Person);
                self.mark_businesses(&[mark], "pushed with `create`", None).await?;
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
        let row = self.work(business).await?;
        Ok(row.and_then(|r| r.blocked).is_some_and(|b| b.by == Block::Parked))
    }

    /// `why` is for people, and says more than the cause where there is more to say.
    pub async fn set_item_state(
        &mut self,
        id: &ItemId,
        state: ItemState,
        cause: Option<Cause>,
        why: Option<&str>,
    ) -> Result<(), Error> {
        let sql = "UPDATE items SET state_since = CASE WHEN state = $2 THEN state_since ELSE $4 END, state = $2, state_why = $3,
            cause = $5 WHERE item_id = $1";
        self.run(sql!(sql, id, state, why.or(cause.map(Cause::sentence)), self.now(), cause)).await?;
        if state.is_gone() {
            // Nobody waits for its webhooks any more, nor for a new consent.
            self.run(sql!("DELETE FROM plaid_views WHERE item_id = $1", id)).await?;
        }
        self.touch_item(id.as_str());
        Ok(())
    }

    /// The first push of an Item was refused and nothing else is known of it: it leaves no Item behind. What stays for an
    /// hour is the fingerprint and the reason, for whoever waits for them. False: something else is known.
    pub async fn forget_unproved(&mut self, claim: &Claim, id: &ItemId) -> Result<bool, Error> {
        let sql = "DELETE FROM items WHERE item_id = $1 AND generation = 0 AND business_id IS NULL AND only_listed = 0
            AND NOT EXISTS (SELECT 1 FROM access_tokens t WHERE t.item_id = $1 AND t.standing <> 'rejected')
            AND NOT EXISTS (SELECT 1 FROM accounts a WHERE a.item_id = $1)
            AND NOT EXISTS (SELECT 1 FROM work w WHERE w.kind = 'item' AND w.id = $1 AND w.wanted > $2)";
        if self.run(sql!(sql, id, claim.wanted)).await? == 0 {
            return Ok(false);
        }
        for table in ["assignments", "hints"] {
            let sql = format!("DELETE FROM {table} WHERE item_id = $1");
            self.run(sql!(built(sql), id)).await?;
        }
        self.forget(claim).await?;
        Ok(true)
    }

    /// Deletes what stayed of such pushes.
    pub async fn forget_refused_pushes(&mut self, after: Duration) -> Result<u64, Error> {
        let sql = "DELETE FROM access_tokens WHERE standing = 'rejected' AND judged_at < $1
            AND NOT EXISTS (SELECT 1 FROM items i WHERE i.item_id = access_tokens.item_id)";
        self.run(sql!(sql, self.now().minus(after))).await
    }

    /// Plaid says that there is no such Item. Returns since when it has said so without having shown it meanwhile.
    pub async fn doubt_item(&mut self, id: &ItemId) -> Result<Millis, Error> {
        let sql = "UPDATE items SET doubted_at = COALESCE(doubted_at, $2) WHERE item_id = $1 RETURNING doubted_at";
        let row = self.row(sql!(sql, id, self.now())).await?;
        self.touch_item(id.as_str());
        row.map_or(Ok(self.now()), |r| get(&r, "doubted_at"))
    }

    /// Its accounts were read.
    pub async fn item_was_read(&mut self, id: &ItemId) -> Result<(), Error> {
        let sql = "UPDATE items SET read_at = $2, doubted_at = NULL WHERE item_id = $1";
        self.run(sql!(sql, id, self.now())).await?;
        self.touch_item(id.as_str());
        Ok(())
    }

    /// The platform removed the Item: its accounts leave every list by the platform's word, and its tokens are erased.
    /// Returns the businesses that are due for it.
    pub async fn remove_item(&mut self, id: &ItemId) -> Result<Vec<BusinessId>, Error> {
        let item = id.as_str().to_owned();
        // A removed Item is not looked at any more: no event, retry or sweep may cost a call.
        let sql = "UPDATE work SET due_at = NULL, blocked_by = NULL, blocked_code = NULL, blocked_why = NULL, blocked_objection = NULL,
            blocked_at = NULL, said_at = NULL, done = wanted, epoch = epoch + 1, held = 0, lease_owner = NULL, lease_until = NULL
            WHERE kind = 'item' AND id = $1";
        self.run(sql!(sql, item)).await?;
        self.set_item_state(id, ItemState::Removed, Some(Cause::RemovedByPlatform), None).await?;
        // Whichever of the two leaves, nothing is left of the order: a push long after must not carry it out.
        self.run(sql!("UPDATE items SET replaces = NULL WHERE item_id = $1", item)).await?;
        self.run(sql!("UPDATE items SET replaces = NULL WHERE replaces = $1", item)).await?;
        // Nothing of it may come back by itself; a push starts from nothing, as for an Item nobody knows.
        let sql = "DELETE FROM access_tokens WHERE item_id = $1";
        self.run(sql!(sql, item)).await?;
        // No later reconciliation settles what a reconciliation that died, or is on its way, has begun. Before the live ones:
        // whatever is saved meanwhile is an orphan, or is seen below.
        self.orphan_intents(id).await?;
        let sql = "UPDATE processor_tokens SET state = 'superseded', sealed = NULL, settled_at = $2
            WHERE item_id = $1 AND state = 'live'";
        self.run(sql!(sql, item, self.now())).await?;
        self.businesses_of_item(id).await
    }

    /// Every business that an account of the Item is in, or is leaving.
    pub async fn businesses_of_item(&mut self, id: &ItemId) -> Result<Vec<BusinessId>, Error> {
        let sql = "SELECT business_id AS b FROM accounts WHERE item_id = $1 AND business_id IS NOT NULL
            UNION SELECT moving_from FROM accounts WHERE item_id = $1 AND moving_from IS NOT NULL ORDER BY 1";
        let rows = self.rows(sql!(sql, id)).await?;
        rows.iter().map(|r| get(r, "b")).collect()
    }

    /// Every token of the Item is minted anew: it begins one more generation under the same access token.
    pub async fn mint_again(&mut self, id: &ItemId) -> Result<(), Error> {
        self.run(sql!("UPDATE items SET generation = generation + 1 WHERE item_id = $1", id)).await?;
        self.touch_item(id.as_str());
        Ok(())
    }

    /// From the next reconciliation of its Item on, the account belongs into this business.
    pub async fn assign(&mut self, id: &ItemId, account: &AccountId, business: &BusinessId) -> Result<(), Error> {
        let sql = "INSERT INTO assignments (item_id, account_id, business_id) VALUES ($1, $2, $3)
            ON CONFLICT (item_id, account_id) DO UPDATE SET business_id = $3";
        self.run(sql!(sql, id, account, business)).await?;
        self.touch_item(id.as_str());
        Ok(())
    }

    /// As if a reconciliation had moved the account already: to see what would come of it, and be undone.
    pub async fn place_account(
        &mut self,
        id: &ItemId,
        account: &AccountId,
        business: &BusinessId,
        moving_from: Option<&BusinessId>,
    ) -> Result<(), Error> {
        let sql = "UPDATE accounts SET business_id = $3, moving_from = $4, outside = NULL
            WHERE item_id = $1 AND account_id = $2";
        self.run(sql!(sql, id, account, business, moving_from)).await.map(drop)
    }

    /// Items that are about to take this one's place.
    pub async fn heirs_of(&mut self, id: &ItemId) -> Result<Vec<ItemId>, Error> {
        let rows = self.rows(sql!("SELECT item_id FROM items WHERE replaces = $1 ORDER BY item_id", id)).await?;
        rows.iter().map(|row| get(row, "item_id")).collect()
    }

    /// It takes nobody's place, after all.
    pub async fn withdraw_heir(&mut self, heir: &ItemId) -> Result<(), Error> {
        self.run(sql!("UPDATE items SET replaces = NULL WHERE item_id = $1", heir)).await?;
        self.touch_item(heir.as_str());
        Ok(())
    }

    /// This one leaves once every account of `heir` has its token.
    pub async fn replace_by(&mut self, id: &ItemId, heir: &ItemId) -> Result<(), Error> {
        self.run(sql!("UPDATE items SET replaces = $2 WHERE item_id = $1", heir, id)).await?;
        self.touch_item(heir.as_str());
        Ok(())
    }

    /// How many there are.
    pub async fn count_businesses(&mut self) -> Result<i64, Error> {
        self.count(sql!("SELECT COUNT(*) AS n FROM businesses")).await
    }

    /// How many there are, removed ones aside.
    pub async fn count_items(&mut self) -> Result<i64, Error> {
        self.count(sql!("SELECT COUNT(*) AS n FROM items WHERE state <> 'removed'")).await
    }
}

pub(crate) fn item_row(row: &AnyRow) -> Result<ItemRow, Error> {
    Ok(ItemRow {
        id: get(row, "item_id")?,
        state: get(row, "state")?,
        cause: get(row, "cause")?,
        state_why: get(row, "state_why")?,
        state_since: get(row, "state_since")?,
        business: get(row, "business_id")?,
        only_listed: get::<bool>(row, "only_listed")?,
        generation: number(row, "generation")?,
        replaces: get(row, "replaces")?,
        doubted_at: get(row, "doubted_at")?,
        read_at: get(row, "read_at")?,
    })
}
