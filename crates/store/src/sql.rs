//! Statements with their values, and columns with their types: both databases are reached through `sqlx::Any`, which knows
//! text and numbers only.

use crate::Error;
use crate::tx::Dialect;
use domain::accounts::{AccountState, MintRefused, Outside, Proof};
use domain::budget::Call;
use domain::item::{Cause, ItemState, TokenCause, TokenStanding};
use domain::token_list::{LeaveOut, TokenWord};
use domain::verdict::{Actor, State, WaitsOn};
use domain::work::{BatchState, Block, Class, HintKind, Kind};
use domain::{AccountId, BusinessId, Fingerprint, ItemId, LayerId, Millis, Provider};
use serde_json::Value as Json;
use sqlx::any::AnyRow;
use sqlx::{Any, AssertSqlSafe, Decode, Encode, Row, Type, ValueRef};
use std::net::IpAddr;

/// A statement and the values that are bound to it.
pub(crate) type Query = sqlx::query::Query<'static, Any, sqlx::any::AnyArguments>;

/// `sql!("DELETE FROM hints WHERE item_id = $1", item)`: a statement and the values of `$1`, `$2`, ….
macro_rules! sql {
    ($text:expr $(, $value:expr)* $(,)?) => {$crate::sql::and!(sqlx::query($text) $(, $value)*)};
}
pub(crate) use sql;

/// A statement and the values that come next.
macro_rules! and {
    ($query:expr $(, $value:expr)* $(,)?) => {{
        let query: $crate::sql::Query = $query;
        $(let query = $crate::sql::Value::bind_to(&$value, query);)*
        query
    }};
}
pub(crate) use and;

/// Marks a text that is put together from constants of this crate: no value from outside is part of it.
pub(crate) fn built(text: impl Into<String>) -> AssertSqlSafe<String> {
    AssertSqlSafe(text.into())
}

/// Binds a value for each of `values`, after those that are bound already.
pub(crate) fn with_each<V: Value>(query: Query, values: impl IntoIterator<Item = V>) -> Query {
    values.into_iter().fold(query, |query, value| value.bind_to(query))
}

/// Ids as one value, for [`Dialect::among`].
pub(crate) fn list(ids: impl IntoIterator<Item = impl ToString>) -> String {
    Json::from_iter(ids.into_iter().map(|id| id.to_string())).to_string()
}

/// Rows as one value, for [`Dialect::records`].
pub(crate) fn records<const N: usize>(columns: &[(&str, Of); N], rows: impl IntoIterator<Item = [Json; N]>) -> String {
    let names = || columns.iter().map(|(name, _)| (*name).to_owned());
    Json::from_iter(rows.into_iter().map(|row| Json::from_iter(names().zip(row)))).to_string()
}

/// What a column of [`Dialect::records`] holds.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Of {
    Text,
    Number,
}

impl Dialect {
    /// Whether `column` is one of the ids that are bound to `$n` as one [`list`]. So a statement about any number of rows is one
    /// text: for each text the databases make a plan, and sqlx keeps it.
    pub(crate) fn among(self, column: &str, n: usize) -> String {
        self.within(column, &self.ids(n))
    }

    /// The ids that are bound to `$n` as one [`list`].
    pub(crate) fn ids(self, n: usize) -> String {
        match self {
            Self::Sqlite => format!("SELECT value FROM json_each(${n})"),
            Self::Postgres => format!("SELECT json_array_elements_text(${n}::json)"),
        }
    }

    /// Whether `column` is one of what `select` finds.
    pub(crate) fn within(self, column: &str, select: &str) -> String {
        match self {
            Self::Sqlite => format!("{column} IN ({select})"),
            // Not IN, which would be planned as a join and then reads a table of moderate size from end to end.
            Self::Postgres => format!("{column} = ANY(ARRAY({select}))"),
        }
    }

    /// A table `r` of the [`records`] that are bound to `$n`.
    pub(crate) fn records(self, columns: &[(&str, Of)], n: usize) -> String {
        let each = |of: fn(&(&str, Of)) -> String| columns.iter().map(of).collect::<Vec<_>>().join(", ");
        match self {
            Self::Sqlite => {
                let columns = each(|(name, _)| format!("value ->> '{name}' AS {name}"));
                format!("(SELECT {columns} FROM json_each(${n})) AS r")
            }
            Self::Postgres => {
                let columns = each(|(name, of)| match of {
                    Of::Text => format!("{name} text"),
                    Of::Number => format!("{name} bigint"),
                });
                format!("json_to_recordset(${n}::json) AS r({columns})")
            }
        }
    }
}

/// `row![item, now]`: values of one of the [`records`].
macro_rules! row {
    ($($value:expr),* $(,)?) => {[$(serde_json::Value::from($crate::sql::Value::raw(&$value))),*]};
}
pub(crate) use row;

/// What can be bound to a statement.
pub(crate) trait Value {
    type Raw: for<'q> Encode<'q, Any> + Type<Any> + Into<Json> + Send + 'static;
    fn raw(&self) -> Self::Raw;
    fn bind_to(&self, query: Query) -> Query {
        query.bind(self.raw())
    }
}

/// What can be read from a column. Err: what it holds is nonsense, and why.
pub(crate) trait Column: Sized {
    type Raw: for<'r> Decode<'r, Any> + Type<Any>;
    fn read(raw: Self::Raw) -> Result<Self, String>;
}

pub(crate) fn get<T: Column>(row: &AnyRow, column: &str) -> Result<T, Error> {
    T::read(row.try_get(column)?).map_err(|e| Error::Corrupt(format!("the column {column} holds nonsense: {e}")))
}

/// Whether the column holds anything.
pub(crate) fn is_set(row: &AnyRow, column: &str) -> Result<bool, Error> {
    Ok(!row.try_get_raw(column)?.is_null())
}
pub(crate) fn opt_text(row: &AnyRow, column: &str) -> Result<Option<String>, Error> {
    get(row, column)
}
pub(crate) fn text(row: &AnyRow, column: &str) -> Result<String, Error> {
    get(row, column)
}
pub(crate) fn number(row: &AnyRow, column: &str) -> Result<i64, Error> {
    get(row, column)
}

impl<V: Value + ?Sized> Value for &V {
    type Raw = V::Raw;
    fn raw(&self) -> V::Raw {
        (*self).raw()
    }
}
impl<V: Value> Value for Option<V> {
    type Raw = Option<V::Raw>;
    fn raw(&self) -> Option<V::Raw> {
        self.as_ref().map(V::raw)
    }
}
impl<T: Column> Column for Option<T> {
    type Raw = Option<T::Raw>;
    fn read(raw: Self::Raw) -> Result<Self, String> {
        raw.map(T::read).transpose()
    }
}
impl Value for str {
    type Raw = String;
    fn raw(&self) -> String {
        self.to_owned()
    }
}

macro_rules! stored {
    ($($type:ty: $raw:ty, |$value:ident| $write:expr, |$stored:ident| $read:expr;)+) => {$(
        impl Value for $type {
            type Raw = $raw;
            fn raw(&self) -> $raw {
                let $value = self;
                $write
            }
        }
        impl Column for $type {
            type Raw = $raw;
            fn read($stored: $raw) -> Result<Self, String> {
                $read
            }
        }
    )+};
}

stored!(
    String: String, |v| v.clone(), |s| Ok(s);
    i64: i64, |v| *v, |s| Ok(s);
    u32: i64, |v| i64::from(*v), |s| u32::try_from(s).map_err(|e| e.to_string());
    bool: i64, |v| i64::from(*v), |s| if matches!(s, 0 | 1) { Ok(s == 1) } else { Err(format!("{s} is neither 0 nor 1")) };
    Millis: i64, |v| v.0, |s| Ok(Millis(s));
    IpAddr: String, |v| v.to_string(), |s| s.parse().map_err(|_| "it is no address".to_owned());
    Fingerprint: String, |v| v.to_string(), |s| Ok(Fingerprint::from_stored(s));
);

macro_rules! texts {
    ($read:ident: $($type:ty),+ $(,)?) => {stored!($(
        $type: String, |v| v.as_str().to_owned(), |s| <$type>::$read(s).map_err(|e| e.to_string());
    )+);};
}

texts!(parse: AccountId, BusinessId, ItemId, LayerId);
texts!(
    try_from: AccountState, Actor, BatchState, Block, Call, Cause, HintKind, ItemState, Kind, LeaveOut, MintRefused, Proof,
    Provider, State, TokenCause, TokenStanding, TokenWord, WaitsOn,
);

// Earlier releases wrote the sentence.
stored!(Outside: String, |v| v.to_string(), |s| {
    let by_sentence = || Outside::ALL.iter().copied().find(|o| o.sentence() == s);
    Outside::from_word(&s).or_else(by_sentence).ok_or_else(|| format!("unknown word {s}"))
};);

/// Stored by its rank, so that the database can sort by it.
impl Value for Class {
    type Raw = i64;
    fn raw(&self) -> i64 {
        self.rank()
    }
}
