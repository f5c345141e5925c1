//! Businesses: which one at Layer, what Layer accepted last, when it converged.

use crate::accounts::membership;
use crate::sql::{built, get, list, number, opt_text, sql, text};
use crate::{Error, Page, Tx};
use domain::list_membership::ListMembership;
use domain::token_list::{LeaveOut, Listed, OurAccount, Policy, Shown, TokenWord};
use domain::{AccountId, BusinessId, Fingerprint, LayerId, Millis};
use secrecy::ExposeSecret;
use sqlx::any::AnyRow;
use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

/// A business as it is stored.
#[derive(Debug, Clone)]
pub struct BusinessRow {
    pub id: BusinessId,
    /// None: not found at Layer yet.
    pub layer_id: Option<LayerId>,
    /// Layer refused the list while it held tokens of older generations.
    pub leave_out: LeaveOut,
    pub accepted: Accepted,
    /// The last accepted list was read back.
    pub verified: bool,
    /// When the list was last known to be right.
    pub converged_at: Option<Millis>,
    /// When Layer last accepted a list.
    pub put_at: Option<Millis>,
    /// How the last reconciliation ended, for people.
    pub last_outcome: Option<String>,
    /// When the list at Layer was read last.
    pub shown_at: Option<Millis>,
    /// An operator keeps the list from being sent: why, and since when.
    pub kept_back: Option<(String, Millis)>,
    /// Left out of the last list because somebody archived them at Layer.
    pub archived: HashSet<AccountId>,
}

impl BusinessRow {
    /// What its plan depends on besides the settings.
    pub fn policy(&self, settings: &Policy) -> Policy {
        Policy {
            leave_out: self.leave_out,
            kept_back: self.kept_back.clone().map(|(why, _)| why),
            archived_before: self.archived.clone(),
            read_back: self.converged_at >= self.put_at,
            ..settings.clone()
        }
    }
}

/// Fingerprints of the last list that Layer accepted.
pub type Accepted = HashSet<Fingerprint>;

/// What is known of a token or account that Layer lists.
struct TokenOwner {
    /// None: found by its account, not by a token.
    fingerprint: Option<Fingerprint>,
    account: AccountId,
    membership: ListMembership,
}

/// How long a list waits for its Items.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// A new token waits no longer than this for others, and an Item that takes longer is not waited for; nor is one that nobody
    /// has begun, when none of the list was begun within this time.
    pub longest: Duration,
    /// An Item that is due within this time is waited for.
    pub near: Duration,
}

/// Which Items a list may wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coming {
    /// A worker has one of them in its hands.
    AtWork,
    /// One of them is the next, most likely.
    Next,
    Nobody,
}

pub(crate) fn place(id: &str) -> String {
    format!("businesses/{id}/creation")
}

impl Tx {
    /// Whether Items of this list are likely to bring new tokens soon. Only Items count whose events came until `told_by`.
    pub async fn items_are_coming(
        &mut self,
        business: &BusinessId,
        told_by: Millis,
        patience: &Patience,
    ) -> Result<Coming, Error> {
        let (now, Patience { longest, near }) = (self.now(), *patience);
        // Counted, though one would do: asked whether there is one, PostgreSQL begins with everything that is due.
        let sql = "SELECT
                COALESCE(SUM(CASE WHEN w.signal_at <= $3 AND w.blocked_by IS NULL AND w.lease_until > $2 AND w.looked_at > $4
                    THEN 1 ELSE 0 END), 0) AS at_work,
                COALESCE(SUM(CASE WHEN w.signal_at <= $3 AND w.blocked_by IS NULL AND w.due_at <= $5 THEN 1 ELSE 0 END), 0)
                    AS due,
                COALESCE(SUM(CASE WHEN w.looked_at > $4 THEN 1 ELSE 0 END), 0) AS begun
            FROM accounts a JOIN work w ON w.kind = 'item' AND w.id = a.item_id
            WHERE a.business_id = $1 AND a.state = 'active'";
        let query = sql!(sql, business, now, told_by, now.minus(longest), now.plus(near));
        let Some(row) = self.row(query).await? else { return Ok(Coming::Nobody) };
        let (at_work, due, begun) = (number(&row, "at_work")?, number(&row, "due")?, number(&row, "begun")?);
        let coming = match (at_work, due, begun) {
            (1.., ..) => Coming::AtWork,
            (_, 1.., 1..) => Coming::Next,
            _ => return Ok(Coming::Nobody),
        };
        let sql = "SELECT COALESCE(SUM(CASE WHEN t.settled_at > COALESCE(b.put_at, 0) AND t.settled_at <= $2
                THEN 1 ELSE 0 END), 0) AS n
            FROM accounts a JOIN businesses b ON b.business_id = a.business_id
            JOIN processor_tokens t ON t.item_id = a.item_id AND t.account_id = a.account_id AND t.state = 'live'
            WHERE a.business_id = $1";
        let late = self.count(sql!(sql, business, now.minus(longest))).await?;
        Ok(if late > 0 { Coming::Nobody } else { coming })
    }

    /// Makes the business known. `creation` is what Layer needs to create it, sealed because it names people.
    pub async fn ensure_business(&mut self, id: &BusinessId, creation: Option<&str>) -> Result<(), Error> {
        let sealed = creation.map(|c| self.keys.seal(&place(id.as_str()), c)).transpose()?;
        // A row that is there already is locked only to be changed: whoever looks at the business locks its place in the
        // queue first and then the business, and to lock them the other way round would end in a deadlock.
        let sql = "INSERT INTO businesses (business_id, creation, leave_out, accepted, verified, created_at)
            VALUES ($1, $2, 'nothing', '[]', 0, $3) ON CONFLICT (business_id) DO ";
        let sql = match sealed {
            Some(_) => format!("{sql} UPDATE SET creation = $2"),
            None => format!("{sql} NOTHING"),
        };
        if self.run(sql!(built(sql), id, sealed, self.now())).await? > 0 {
            self.touch_business(id.as_str());
        }
        Ok(())
    }

    /// None: it has not been named yet.
    pub async fn business(&mut self, id: &BusinessId) -> Result<Option<BusinessRow>, Error> {
        self.row(sql!("SELECT * FROM businesses WHERE business_id = $1", id))
            .await?
            .map(|r| business_row(&r))
            .transpose()
    }

    /// What Layer needs to create it, as JSON; none once it exists there.
    pub async fn creation_details(&mut self, id: &BusinessId) -> Result<Option<String>, Error> {
        let Some(row) = self.row(sql!("SELECT creation FROM businesses WHERE business_id = $1", id)).await? else {
            return Ok(None);
        };
        let Some(sealed) = opt_text(&row, "creation")? else { return Ok(None) };
        Ok(Some(self.keys.open(&place(id.as_str()), &sealed)?.expose_secret().to_owned()))
    }

    /// Notes Layer's id. Returns the other business that already has it: two names for one business would be two
    /// writers of one list.
    pub async fn set_layer_id(&mut self, id: &BusinessId, layer: &LayerId) -> Result<Option<BusinessId>, Error> {
        let sql = "SELECT business_id FROM businesses WHERE layer_id = $1 AND business_id <> $2";
        if let Some(row) = self.row(sql!(sql, layer, id)).await? {
            return Ok(Some(get(&row, "business_id")?));
        }
        // Once it exists at Layer, what was needed to create it is not kept.
        let sql = "UPDATE businesses SET layer_id = $2, creation = NULL WHERE business_id = $1";
        self.run(sql!(sql, id, layer)).await?;
        Ok(None)
    }

    /// Layer answered that its id does not exist any more: it is looked up again.
    pub async fn forget_layer_id(&mut self, id: &BusinessId) -> Result<(), Error> {
        // Another one may be found by its name: nobody has archived anything there.
        let sql = "UPDATE businesses SET layer_id = NULL, archived = NULL WHERE business_id = $1";
        self.run(sql!(sql, id)).await.map(drop)
    }

    /// Layer accepted a list: `tokens`, with those of accounts that were left out because they are `archived`. What it holds is
    /// remembered before it is verified, because a Layer that hides tokens can be compared with nothing else.
    pub async fn record_accepted(
        &mut self,
        id: &BusinessId,
        tokens: &[Fingerprint],
        archived: &[AccountId],
    ) -> Result<(), Error> {
        // With it, and not when the list was read back: whoever dies in between would bring back what a person had archived.
        let sql =
            "UPDATE businesses SET accepted = $2, put_at = $3, verified = 0, archived = $4 WHERE business_id = $1";
        let list = serde_json::to_string(tokens).map_err(|e| Error::Corrupt(e.to_string()))?;
        let archived = serde_json::to_string(archived).map_err(|e| Error::Corrupt(e.to_string()))?;
        self.run(sql!(sql, id, list, self.now(), archived)).await?;
        self.touch_business(id.as_str());
        Ok(())
    }

    /// Without a PUT of ours, what the list was found to hold counts as accepted, should Layer hide it later.
    pub async fn record_listed(&mut self, id: &BusinessId, tokens: &[Fingerprint]) -> Result<(), Error> {
        let list = serde_json::to_string(tokens).map_err(|e| Error::Corrupt(e.to_string()))?;
        let sql = "UPDATE businesses SET accepted = $2 WHERE business_id = $1";
        self.run(sql!(sql, id, list)).await?;
        self.touch_business(id.as_str());
        Ok(())
    }

    /// The list was read and is what was to be sent, as far as Layer shows it. `archived`: left out because somebody
    /// archived them at Layer.
    pub async fn record_converged(
        &mut self,
        id: &BusinessId,
        verified: bool,
        archived: &[AccountId],
        outcome: &str,
    ) -> Result<(), Error> {
        let sql =
            "UPDATE businesses SET converged_at = $2, listed_at = $2, verified = $3, last_outcome = $4, archived = $5
            WHERE business_id = $1";
        let archived = serde_json::to_string(archived).map_err(|e| Error::Corrupt(e.to_string()))?;
        self.run(sql!(sql, id, self.now(), verified, outcome, archived)).await?;
        self.touch_business(id.as_str());
        Ok(())
    }

    /// How the last reconciliation ended, for people.
    pub async fn record_outcome(&mut self, id: &BusinessId, outcome: &str) -> Result<(), Error> {
        let sql = "UPDATE businesses SET last_outcome = $2 WHERE business_id = $1";
        self.run(sql!(sql, id, outcome)).await.map(drop)
    }

    /// What the list at Layer showed, for people. What they ask is why it is not right, so it is kept whatever the end was.
    pub async fn record_shown(&mut self, id: &BusinessId, shown: &[Shown]) -> Result<(), Error> {
        let shown = serde_json::to_string(shown).map_err(|e| Error::Corrupt(e.to_string()))?;
        let sql = "UPDATE businesses SET shown = $2, shown_at = $3 WHERE business_id = $1";
        self.run(sql!(sql, id, shown, self.now())).await.map(drop)
    }

    /// What it showed when it was read last. None: it was not, or an earlier release did.
    pub async fn shown(&mut self, id: &BusinessId) -> Result<Option<Vec<Shown>>, Error> {
        let row = self.row(sql!("SELECT shown FROM businesses WHERE business_id = $1", id)).await?;
        let Some(shown) = row.map(|r| opt_text(&r, "shown")).transpose()?.flatten() else { return Ok(None) };
        serde_json::from_str(&shown).map_err(|e| Error::Corrupt(format!("businesses.shown: {e}")))
    }

    /// Looks rows of the list up among the tokens and accounts that are known here.
    pub async fn recognise(&mut self, id: &BusinessId, shown: &[Shown]) -> Result<Vec<Listed>, Error> {
        let tokens: Vec<Fingerprint> = shown.iter().filter_map(|row| row.token.clone()).collect();
        let accounts: Vec<AccountId> = shown.iter().filter_map(|row| row.account.clone()).collect();
        let owners = self.owners(&tokens, &accounts).await?;
        let strange = |t: &Fingerprint| owners.iter().all(|o| o.fingerprint.as_ref() != Some(t));
        let words = match tokens.iter().any(strange) {
            true => self.token_words(id).await?,
            false => BTreeMap::new(),
        };
        let listed = shown.iter().map(|row| {
            let by_token = row.token.as_ref().and_then(|t| owners.iter().find(|o| o.fingerprint.as_ref() == Some(t)));
            let by_account = row.account.as_ref().and_then(|a| owners.iter().find(|o| o.account == *a));
            let ours = by_token.or(by_account).and_then(|owner| {
                let may_leave = owner.membership.may_leave(id, by_token.is_some())?;
                Some(OurAccount { account: owner.account.clone(), may_leave })
            });
            let Shown { token, account, status, layer_owned, .. } = row.clone();
            let word = token.as_ref().filter(|_| ours.is_none()).and_then(|t| words.get(t)).copied();
            Listed { token, account, status, layer_owned, ours, word }
        });
        Ok(listed.collect())
    }

    /// What operators decided of tokens in this list that nobody here knows.
    pub async fn token_words(&mut self, id: &BusinessId) -> Result<BTreeMap<Fingerprint, TokenWord>, Error> {
        let rows = self.rows(sql!("SELECT fingerprint, word FROM token_words WHERE business_id = $1", id)).await?;
        rows.iter().map(|r| Ok((get(r, "fingerprint")?, get(r, "word")?))).collect()
    }

    /// An operator decides what becomes of a token that nobody here knows; None takes the word back. Returns what was said before.
    pub async fn say_of_token(
        &mut self,
        id: &BusinessId,
        token: &Fingerprint,
        word: Option<TokenWord>,
        by: &str,
    ) -> Result<Option<TokenWord>, Error> {
        let before = self.token_words(id).await?.get(token).copied();
        match word {
            Some(word) => {
                let sql =
                    "INSERT INTO token_words (business_id, fingerprint, word, at, said_by) VALUES ($1, $2, $3, $4, $5)
                    ON CONFLICT (business_id, fingerprint) DO UPDATE SET word = $3, at = $4, said_by = $5";
                self.run(sql!(sql, id, token, word, self.now(), by)).await?;
            }
            None => {
                let sql = "DELETE FROM token_words WHERE business_id = $1 AND fingerprint = $2";
                self.run(sql!(sql, id, token)).await?;
            }
        }
        Ok(before)
    }

    /// A page of those that an operator keeps from being sent, by id.
    pub async fn list_kept_back(&mut self, page: &Page) -> Result<Vec<BusinessRow>, Error> {
        let sql =
            "SELECT * FROM businesses WHERE kept_back IS NOT NULL AND business_id > $1 ORDER BY business_id LIMIT $2";
        let rows = self.rows(sql!(sql, page.after.clone().unwrap_or_default(), page.limit)).await?;
        rows.iter().map(business_row).collect()
    }

    /// An operator keeps the list from being sent, and says why; None lets it go on.
    pub async fn keep_back(&mut self, id: &BusinessId, why: Option<&str>) -> Result<(), Error> {
        let sql = "UPDATE businesses SET kept_back = $2, kept_back_at = $3 WHERE business_id = $1";
        self.run(sql!(sql, id, why, why.map(|_| self.now()))).await.map(drop)
    }

    /// Which tokens the next list leaves out.
    pub async fn set_leave_out(&mut self, id: &BusinessId, leave_out: LeaveOut) -> Result<(), Error> {
        let sql = "UPDATE businesses SET leave_out = $2 WHERE business_id = $1";
        self.run(sql!(sql, id, leave_out)).await.map(drop)
    }

    /// Who the listed tokens and accounts are, as far as Rekey knows them; tokens of the past included.
    async fn owners(&mut self, tokens: &[Fingerprint], accounts: &[AccountId]) -> Result<Vec<TokenOwner>, Error> {
        const ACCOUNT: &str = "a.account_id, a.business_id, a.moving_from, a.outside, a.state, i.state AS item_state";
        let (named_tokens, named) = (self.dialect.among("t.fingerprint", 1), self.dialect.among("a.account_id", 2));
        let sql = format!(
            "SELECT t.fingerprint, {ACCOUNT} FROM processor_tokens t
                JOIN accounts a ON a.item_id = t.item_id AND a.account_id = t.account_id
                JOIN items i ON i.item_id = a.item_id WHERE {named_tokens}
             UNION ALL SELECT CAST(NULL AS TEXT), {ACCOUNT}
                FROM accounts a JOIN items i ON i.item_id = a.item_id WHERE {named}"
        );
        let rows = self.rows(sql!(built(sql), list(tokens), list(accounts))).await?;
        rows.iter().map(owner).collect()
    }

    /// Counts accounts that are about to leave a list. Some(n): with them more than `limit` would leave all lists within
    /// the window, of which `n` have; nothing is counted then. Counted before the PUT, because its answer may be lost.
    pub async fn book_removals(
        &mut self,
        id: &BusinessId,
        accounts: usize,
        limit: i64,
        window: Duration,
    ) -> Result<Option<i64>, Error> {
        // One at a time: two that look before either has written would both pass.
        self.set_meta("removals_lock", "").await?;
        let since = self.now().minus(window).0;
        self.run(sql!("DELETE FROM removals WHERE at <= $1", since)).await?;
        // The same list once more, after one that was not accepted, takes nobody else off.
        let sql = "DELETE FROM removals WHERE business_id = $1 AND accounts = $2
            AND at > (SELECT COALESCE(MAX(put_at), 0) FROM businesses WHERE business_id = $1)";
        let count = i64::try_from(accounts).unwrap_or(i64::MAX);
        self.run(sql!(sql, id, count)).await?;
        let sql = "SELECT CAST(COALESCE(SUM(accounts), 0) AS BIGINT) AS n FROM removals";
        let lately = self.count(sql!(sql)).await?;
        if lately.saturating_add(count) > limit {
            return Ok(Some(lately));
        }
        let sql = "INSERT INTO removals (id, business_id, accounts, at) VALUES ($1, $2, $3, $4)";
        self.run(sql!(sql, uuid::Uuid::now_v7().to_string(), id, count, self.now())).await?;
        Ok(None)
    }
}

fn owner(row: &AnyRow) -> Result<TokenOwner, Error> {
    Ok(TokenOwner {
        fingerprint: get(row, "fingerprint")?,
        account: get(row, "account_id")?,
        membership: membership(row)?,
    })
}

pub(crate) fn business_row(row: &AnyRow) -> Result<BusinessRow, Error> {
    let accepted = text(row, "accepted")?;
    Ok(BusinessRow {
        id: get(row, "business_id")?,
        layer_id: get(row, "layer_id")?,
        leave_out: get(row, "leave_out")?,
        accepted: serde_json::from_str(&accepted).map_err(|e| Error::Corrupt(format!("businesses.accepted: {e}")))?,
        verified: get::<bool>(row, "verified")?,
        converged_at: get(row, "converged_at")?,
        put_at: get(row, "put_at")?,
        last_outcome: get(row, "last_outcome")?,
        shown_at: get(row, "shown_at")?,
        kept_back: opt_text(row, "kept_back")?.zip(get(row, "kept_back_at")?),
        archived: match opt_text(row, "archived")? {
            Some(text) => {
                serde_json::from_str(&text).map_err(|e| Error::Corrupt(format!("businesses.archived: {e}")))?
            }
            None => HashSet::new(),
        },
    })
}
