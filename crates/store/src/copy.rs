//! A copy, in memory, of what the reconciliations of one business and of its Items read: they can be rehearsed on it.
//!
//! It has the same tables and the same keys, so that what is sealed opens there as well. It holds nothing of other businesses but
//! what an Item that is in several of them needs, and it is gone with the last of its handles.

use crate::migrate::schema;
use crate::sql::{Of, Query, built, list, sql, text};
use crate::tx::Dialect;
use crate::{Claim, Error, Store, Tx};
use domain::budget::Limits;
use domain::queue::Mark;
use domain::work::{Class, Kind, Subject};
use domain::{AccountId, BusinessId, Fingerprint, ItemId};
use sqlx::Row as _;
use sqlx::any::AnyPoolOptions;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Longest wait for the one connection that it has.
const PATIENCE: Duration = Duration::from_secs(5);
/// Removals of the whole fleet that are copied: the guard over it allows far fewer.
const MOST_REMOVALS: u32 = 10_000;

/// The copy, and the Items that the business has accounts of, or may get one of.
#[derive(Debug)]
pub struct Copied {
    pub store: Store,
    pub items: Vec<ItemId>,
}

impl Store {
    /// Copies what is known about a business as of one moment. `tokens` and `accounts`: those that Layer lists for it, which may be
    /// of other Items.
    pub async fn copy_of(
        &self,
        business: &BusinessId,
        tokens: &[Fingerprint],
        accounts: &[AccountId],
    ) -> Result<Copied, Error> {
        let store = self.empty_copy().await?;
        let mut from = self.begin_read().await?;
        let mut to = store.begin().await?;
        let items = from.items_in(business, usize::MAX).await?;
        let mut with: BTreeSet<String> = items.iter().map(ToString::to_string).collect();
        for (table, column, ids) in
            [("processor_tokens", "fingerprint", list(tokens)), ("accounts", "account_id", list(accounts))]
        {
            let sql = format!("SELECT item_id FROM {table} WHERE {}", from.dialect.among(column, 1));
            with.extend(from.texts(sql!(built(sql), ids), "item_id").await?);
        }
        copy(&mut from, &mut to, business, with).await?;
        drop(from);
        // Nothing but what is rehearsed is due there, and nobody is at work on it.
        let idle = "UPDATE work SET due_at = NULL, lease_owner = NULL, lease_until = NULL, held = 0, taken_over = NULL,
            next_look = NULL, next_proof = NULL, needs = NULL";
        to.run(sql!(idle)).await?;
        to.commit().await?;
        Ok(Copied { store, items })
    }

    async fn empty_copy(&self) -> Result<Self, Error> {
        // One connection that stays: the next one would open another database.
        let options = AnyPoolOptions::new().max_connections(1).acquire_timeout(PATIENCE);
        let options = options.idle_timeout(None).max_lifetime(None).test_before_acquire(false);
        let pool = options.connect_lazy("sqlite::memory:")?;
        for text in schema() {
            sqlx::raw_sql(text).execute(&pool).await?;
        }
        let (keys, fingerprints) = (Arc::clone(&self.keys), self.fingerprints.clone());
        let (wake, turns, distrust) = Default::default();
        let (dialect, outcomes) = (Dialect::Sqlite, Arc::clone(&self.outcomes));
        let together = None;
        Ok(Self { pool, dialect, keys, fingerprints, distrust, outcomes, wake, turns, together })
    }
}

impl Copied {
    /// Makes this row due in the copy, as an operator's sync does, and takes it. None: its provider is paused there by now.
    pub async fn claim(
        &self,
        subject: &Subject,
        owner: &str,
        lease: Duration,
        limits: &Limits,
    ) -> Result<Option<Claim>, Error> {
        let mut tx = self.store.begin().await?;
        // Of a copy, which nobody else works on: what came due meanwhile has its turn.
        tx.run(sql!("UPDATE work SET due_at = NULL")).await?;
        tx.mark(&Mark { unblocks: true, ..Mark::new(subject, Class::Person, "a plan was asked for") }).await?;
        tx.commit().await?;
        Ok(self.store.claim(subject.kind(), owner, lease, 1, limits).await?.pop())
    }
}

impl Tx {
    async fn texts(&mut self, query: Query, column: &str) -> Result<BTreeSet<String>, Error> {
        self.rows(query).await?.iter().map(|row| text(row, column)).collect()
    }
}

async fn copy(from: &mut Tx, to: &mut Tx, business: &BusinessId, mut items: BTreeSet<String>) -> Result<(), Error> {
    let replaced =
        format!("SELECT replaces FROM items WHERE replaces IS NOT NULL AND {}", from.dialect.among("item_id", 1));
    items.extend(from.texts(sql!(built(replaced), list(&items)), "replaces").await?);
    let mut businesses = from.businesses_of(&items.iter().cloned().collect::<Vec<_>>()).await?;
    let named =
        format!("SELECT business_id FROM items WHERE business_id IS NOT NULL AND {}", from.dialect.among("item_id", 1));
    businesses.extend(from.texts(sql!(built(named), list(&items)), "business_id").await?);
    businesses.insert(business.to_string());

    let (items, businesses) = (list(&items), list(&businesses));
    let by_item = from.dialect.among("item_id", 1);
    for table in ["items", "assignments", "access_tokens", "accounts", "processor_tokens", "hints", "plaid_views"] {
        rows(from, to, table, &by_item, |sql| sql!(built(sql), items)).await?;
    }
    let by_business = from.dialect.among("business_id", 1);
    for table in ["businesses", "token_words"] {
        rows(from, to, table, &by_business, |sql| sql!(built(sql), businesses)).await?;
    }
    for table in ["work", "verdicts"] {
        for (kind, ids) in [(Kind::Item, &items), (Kind::Business, &businesses)] {
            let by_id = format!("kind = $2 AND {}", from.dialect.among("id", 1));
            rows(from, to, table, &by_id, |sql| sql!(built(sql), ids, kind)).await?;
        }
    }
    let recent = format!("TRUE ORDER BY at DESC LIMIT {MOST_REMOVALS}");
    rows(from, to, "removals", &recent, |sql| sql!(built(sql))).await
}

/// Copies the rows of a table that `condition` is true of.
async fn rows(
    from: &mut Tx,
    to: &mut Tx,
    table: &str,
    condition: &str,
    bound: impl FnOnce(String) -> Query,
) -> Result<(), Error> {
    // By name: a newer release may have added a column that this one knows nothing of.
    let columns = format!("SELECT name, type FROM pragma_table_info('{table}')");
    let columns = to.rows(sql!(built(columns))).await?;
    let columns: Vec<(String, Of)> = columns
        .iter()
        .map(|row| Ok((text(row, "name")?, if text(row, "type")? == "TEXT" { Of::Text } else { Of::Number })))
        .collect::<Result<_, Error>>()?;
    let names = columns.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
    let values = (1..=columns.len()).map(|n| format!("${n}")).collect::<Vec<_>>().join(", ");
    let insert = format!("INSERT INTO {table} ({names}) VALUES ({values})");
    for row in from.rows(bound(format!("SELECT {names} FROM {table} WHERE {condition}"))).await? {
        let mut query: Query = sqlx::query(built(insert.clone()));
        for (n, (_, of)) in columns.iter().enumerate() {
            query = match of {
                Of::Text => query.bind(row.try_get::<Option<String>, _>(n)?),
                Of::Number => query.bind(row.try_get::<Option<i64>, _>(n)?),
            };
        }
        to.run(query).await?;
    }
    Ok(())
}
