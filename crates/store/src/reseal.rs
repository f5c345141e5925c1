//! Moving every sealed value under the key that seals now, while everything runs.
//!
//! A row that somebody is writing is left for the next pass. Waiting for it, with other rows locked already, could be a circle:
//! a reconciliation writes several tokens in an order of its own, and PostgreSQL would give one of the two up. What a process with
//! an older key ring seals meanwhile is found by the next pass as well, and by the count that ends it.

use crate::sql::{built, sql};
use crate::{Error, Store, Tx, access_tokens, businesses, minting, open};
use secrecy::ExposeSecret;
use sqlx::Row;
use std::collections::BTreeMap;

/// A sealed column: where it stands, which row it is in, and the place its values are bound to.
struct Column {
    table: &'static str,
    column: &'static str,
    /// Two columns that name the row; the second may repeat the first.
    keys: [&'static str; 2],
    place: fn(&str, &str) -> String,
}

const COLUMNS: [Column; 5] = [
    Column {
        table: "access_tokens",
        column: "sealed",
        keys: ["item_id", "fingerprint"],
        place: |item, token| access_tokens::place(item, token),
    },
    Column {
        table: "access_tokens",
        column: "declaration",
        keys: ["item_id", "fingerprint"],
        place: |item, token| access_tokens::declared_at(item, token),
    },
    Column { table: "processor_tokens", column: "sealed", keys: ["id", "id"], place: |id, _| minting::place(id) },
    Column {
        table: "businesses",
        column: "creation",
        keys: ["business_id", "business_id"],
        place: |id, _| businesses::place(id),
    },
    // The value that tells a start whether its keys are the database's.
    Column { table: "meta", column: "value", keys: ["name", "name"], place: |_, _| open::KEY_CHECK.to_owned() },
];

impl Column {
    /// Only one row of `meta` is sealed.
    fn filter(&self) -> &'static str {
        if self.table == "meta" { "name = 'key_check'" } else { "1 = 1" }
    }
}

/// How far a re-sealing is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resealed {
    /// Moved by this call.
    pub moved: u64,
    /// The key that seals.
    pub under: String,
    /// Values that are still sealed under other keys of the ring, and under keys that are not in it (`?`).
    pub left: BTreeMap<String, i64>,
}

impl Store {
    /// Moves up to `batch` values of each column under the first key of the ring, and counts what is left.
    pub async fn reseal(&self, batch: u32) -> Result<Resealed, Error> {
        let under = self.keys.first()?.to_owned();
        let mut moved = 0;
        for column in &COLUMNS {
            let mut tx = self.begin().await?;
            moved += tx.reseal_column(column, &under, batch).await?;
            tx.commit().await?;
        }
        let mut tx = self.begin_read().await?;
        let mut left = BTreeMap::new();
        for column in &COLUMNS {
            let mut others = tx.count_sealed(column, "").await?;
            for key in self.keys.ids() {
                let values = tx.count_sealed(column, &format!("1.{key}.")).await?;
                others -= values;
                if key != under && values > 0 {
                    *left.entry(key.to_owned()).or_insert(0) += values;
                }
            }
            if others > 0 {
                *left.entry("?".into()).or_insert(0) += others;
            }
        }
        Ok(Resealed { moved, under, left })
    }
}

impl Tx {
    async fn reseal_column(&mut self, place: &Column, under: &str, batch: u32) -> Result<u64, Error> {
        let Column { table, column, keys: [one, two], .. } = place;
        let sql = format!(
            "SELECT {one}, {two}, {column} FROM {table} WHERE {column} IS NOT NULL AND {} AND {column} NOT LIKE $1
             ORDER BY {one}, {two} LIMIT $2 {}",
            place.filter(),
            self.dialect.skip_locked(),
        );
        let rows = self.rows(sql!(built(sql), format!("1.{under}.%"), batch)).await?;
        let replace = format!("UPDATE {table} SET {column} = $1 WHERE {one} = $2 AND {two} = $3 AND {column} = $4");
        let mut moved = 0;
        for row in &rows {
            let (first, second, sealed): (String, String, String) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
            let at = (place.place)(&first, &second);
            let again = self.keys.seal(&at, self.keys.open(&at, &sealed)?.expose_secret())?;
            moved += self.run(sql!(built(&replace), again, first, second, sealed)).await?;
        }
        Ok(moved)
    }

    /// How many values of a column begin like that.
    async fn count_sealed(&mut self, place: &Column, head: &str) -> Result<i64, Error> {
        let Column { table, column, .. } = place;
        let filter = place.filter();
        let sql =
            format!("SELECT COUNT(*) AS n FROM {table} WHERE {column} IS NOT NULL AND {filter} AND {column} LIKE $1");
        self.count(sql!(built(sql), format!("{head}%"))).await
    }
}
