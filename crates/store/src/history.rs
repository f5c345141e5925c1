//! What happened to a business or an Item, for people: noted in the transaction that does it, the newest first, bounded by time
//! and by count. What operators did stands in the audit trail.

use crate::sql::{Of, built, get, list, opt_text, records, row, sql, text, with_each};
use crate::{Error, Page, Tx};
use domain::outcome::Outcome;
use domain::trace::TraceParent;
use domain::work::Subject;
use domain::{AccountId, BusinessId, ItemId, Millis};
use serde_json::Value;
use sqlx::any::AnyRow;
use std::time::Duration;

/// Something that a transaction will have done once it is committed.
#[derive(Debug)]
pub(crate) struct Happened {
    subject: String,
    what: String,
    detail: Value,
    trace: Option<String>,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryEntry {
    pub id: String,
    pub at: Millis,
    /// `item/ID` or `business/ID`.
    pub subject: String,
    /// The type of an outcome, or `rekey.reconciled`.
    pub what: String,
    pub detail: Value,
    /// The trace that it is part of, as log lines name it.
    pub trace: Option<String>,
}

/// Which outcomes; what is not given does not narrow.
#[derive(Debug, Clone, Default)]
pub struct OutcomeFilter {
    /// What happened to one of these.
    pub subjects: Option<Vec<Subject>>,
    pub kind: Option<Outcome>,
    pub since: Option<Millis>,
    /// The newest first otherwise.
    pub oldest_first: bool,
}

const COLUMNS: [(&str, Of); 6] = [
    ("id", Of::Text),
    ("subject", Of::Text),
    ("at", Of::Number),
    ("what", Of::Text),
    ("detail", Of::Text),
    ("trace", Of::Text),
];

impl Tx {
    /// Notes what this transaction does, if it is committed. `traceparent`: of the work that it is part of.
    pub fn note(&mut self, subject: &Subject, what: &str, detail: Value, traceparent: Option<&str>) {
        let trace = traceparent.and_then(TraceParent::parse).map(|t| t.trace_id());
        self.happened.push(Happened { subject: subject.to_string(), what: what.to_owned(), detail, trace });
    }

    /// Writes what was noted, in one statement.
    pub(crate) async fn write_history(&mut self) -> Result<(), Error> {
        let happened = std::mem::take(&mut self.happened);
        if happened.is_empty() {
            return Ok(());
        }
        let from = self.dialect.records(&COLUMNS, 1);
        let sql = format!(
            "INSERT INTO history (id, subject, at, what, detail, trace)
            SELECT id, subject, at, what, detail, trace FROM {from} WHERE 1 = 1"
        );
        let at = self.now();
        let rows = happened.into_iter().map(|Happened { subject, what, detail, trace }| {
            row![uuid::Uuid::now_v7().to_string(), subject, at, what, detail.to_string(), trace]
        });
        self.run(sql!(built(sql), records(&COLUMNS, rows))).await.map(drop)
    }

    /// What happened to these, the newest first; the cursor is an entry's id. An erased subject is found by its id.
    pub async fn history(&mut self, subjects: &[Subject], page: &Page) -> Result<Vec<HistoryEntry>, Error> {
        let pseudonyms = subjects.iter().map(|s| self.pseudonym_of(s.kind().as_str(), s.id()));
        let named = list(subjects.iter().map(Subject::to_string).chain(pseudonyms));
        let subject = self.dialect.among("subject", 1);
        // Sorted by an expression: by the id itself PostgreSQL may read the newest entries of everybody, in the hope to meet some of
        // these soon, and of a quiet subject it never does.
        let sql = format!("SELECT * FROM history WHERE {subject} AND id < $2 ORDER BY id || '' DESC LIMIT $3");
        // Ids are hexadecimal.
        let before = page.after.clone().unwrap_or_else(|| "g".into());
        let rows = self.rows(sql!(built(sql), named, before, page.limit)).await?;
        rows.iter().map(entry).collect()
    }

    /// What became of reconciliations, without the reconciliations themselves; the cursor is an entry's id.
    ///
    /// Ids are in the order of the clocks of those who wrote them, just before they committed. So an entry may appear behind one
    /// that was read already: whoever follows reads the last seconds again.
    pub async fn list_outcomes(&mut self, of: &OutcomeFilter, page: &Page) -> Result<Vec<HistoryEntry>, Error> {
        let (since, after) = (of.since.map(first_id_at).unwrap_or_default(), page.after.clone());
        // Ids are hexadecimal.
        let (from, until, direction) = match of.oldest_first {
            true => (after.map_or(since.clone(), |after| after.max(since)), "g".to_owned(), "ASC"),
            false => (since, after.unwrap_or_else(|| "g".to_owned()), "DESC"),
        };
        let (mut narrowed, mut by, mut next) = (String::new(), "id", 4);
        if of.kind.is_some() {
            narrowed.push_str(&format!(" AND what = ${next}"));
            next += 1;
        }
        if of.subjects.is_some() {
            narrowed.push_str(&format!(" AND {}", self.dialect.among("subject", next)));
            // As for the history of one.
            by = "id || ''";
        }
        let sql = format!(
            "SELECT * FROM history WHERE what <> 'rekey.reconciled' AND id > $1 AND id < $2{narrowed}
            ORDER BY {by} {direction} LIMIT $3"
        );
        let query = with_each(sql!(built(sql), from, until, page.limit), of.kind.map(Outcome::as_str));
        let named = of.subjects.as_ref().map(|subjects| {
            let pseudonyms = subjects.iter().map(|s| self.pseudonym_of(s.kind().as_str(), s.id()));
            list(subjects.iter().map(Subject::to_string).chain(pseudonyms))
        });
        self.rows(with_each(query, named)).await?.iter().map(entry).collect()
    }

    /// Items with an account in a business or leaving it, or that belong to it; `limit` at most.
    pub async fn items_in(&mut self, business: &BusinessId, limit: usize) -> Result<Vec<ItemId>, Error> {
        let items = self.items_of(&[business.to_string()]).await?;
        Ok(items.into_iter().take(limit).map(ItemId::from_stored).collect())
    }

    /// Keeps the newest `kept` entries of a subject.
    pub async fn shorten_history(&mut self, subject: &Subject, kept: u32) -> Result<(), Error> {
        let sql = "DELETE FROM history WHERE subject = $1 AND id <=
            (SELECT id FROM history WHERE subject = $1 ORDER BY id DESC LIMIT 1 OFFSET $2)";
        self.run(sql!(sql, subject.to_string(), kept)).await.map(drop)
    }

    /// Some of the entries that are older than `kept`; returns how many went.
    pub async fn forget_old_history(&mut self, kept: Duration, limit: u32) -> Result<u64, Error> {
        // The oldest are the first of the primary key.
        let before = first_id_at(self.now().minus(kept));
        let sql = "DELETE FROM history WHERE id IN (SELECT id FROM history WHERE id < $1 ORDER BY id LIMIT $2)";
        self.run(sql!(sql, before, limit)).await
    }

    /// An erased Item leaves pseudonyms of itself and its accounts, in its own entries and in those of its businesses.
    pub(crate) async fn cloak_history_of_item(
        &mut self,
        item: &ItemId,
        accounts: &[AccountId],
        businesses: &[BusinessId],
    ) -> Result<(), Error> {
        // Rows of its accounts, which the next reading of the list would replace, if there were one.
        let named = list(businesses);
        let of = self.dialect.among("business_id", 1);
        let sql = format!("UPDATE businesses SET shown = NULL, shown_at = NULL WHERE {of}");
        self.run(sql!(built(sql), named)).await?;
        let subjects = std::iter::once(Subject::from(item)).chain(businesses.iter().map(Subject::from));
        let ids: Vec<&str> = std::iter::once(item.as_str()).chain(accounts.iter().map(AccountId::as_str)).collect();
        for subject in subjects.collect::<Vec<_>>() {
            self.cloak_history(&subject, &ids).await?;
        }
        self.rename_history(&item.into()).await
    }

    pub(crate) async fn cloak_history_of_business(&mut self, business: &BusinessId) -> Result<(), Error> {
        self.cloak_history(&business.into(), &[business.as_str()]).await?;
        self.rename_history(&business.into()).await
    }

    async fn rename_history(&mut self, subject: &Subject) -> Result<(), Error> {
        let pseudonym = self.pseudonym_of(subject.kind().as_str(), subject.id());
        let sql = "UPDATE history SET subject = $2 WHERE subject = $1";
        self.run(sql!(sql, subject.to_string(), pseudonym)).await.map(drop)
    }

    /// Puts fingerprints in the place of these ids, wherever the entries of `subject` name them.
    async fn cloak_history(&mut self, subject: &Subject, ids: &[&str]) -> Result<(), Error> {
        // Locked before they are read: two who are erased at once may be named by one entry.
        let lock = self.dialect.for_update();
        let sql = format!("SELECT id, detail FROM history WHERE subject = $1 ORDER BY id {lock}");
        let rows = self.rows(sql!(built(sql), subject.to_string())).await?;
        for row in &rows {
            let told = text(row, "detail")?;
            let cloak = |told: String, id: &&str| replace_id(&told, id, self.fingerprints.of(id).as_str());
            let mut detail: Value = serde_json::from_str(&told).unwrap_or_default();
            each_text(&mut detail, &|text| *text = ids.iter().fold(std::mem::take(text), cloak));
            let cloaked = detail.to_string();
            if cloaked != told {
                self.run(sql!("UPDATE history SET detail = $2 WHERE id = $1", text(row, "id")?, cloaked)).await?;
            }
        }
        Ok(())
    }
}

/// No id of this time or a later one is before it: ids begin with the milliseconds of their time.
fn first_id_at(at: Millis) -> String {
    let at = at.0.clamp(0, 0xffff_ffff_ffff);
    format!("{:08x}-{:04x}", at >> 16, at & 0xffff)
}

fn entry(row: &AnyRow) -> Result<HistoryEntry, Error> {
    let detail = text(row, "detail")?;
    Ok(HistoryEntry {
        id: text(row, "id")?,
        at: get(row, "at")?,
        subject: text(row, "subject")?,
        what: text(row, "what")?,
        detail: serde_json::from_str(&detail).unwrap_or(Value::String(detail)),
        trace: opt_text(row, "trace")?,
    })
}

/// Every text in it; no names of fields, and no numbers.
fn each_text(value: &mut Value, with: &impl Fn(&mut String)) {
    match value {
        Value::String(text) => with(text),
        Value::Array(entries) => entries.iter_mut().for_each(|entry| each_text(entry, with)),
        Value::Object(fields) => fields.values_mut().for_each(|field| each_text(field, with)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Where `id` stands as a whole: one business may be called `a`, and another one `acme`.
fn replace_id(text: &str, id: &str, with: &str) -> String {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let mut replaced = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(id) {
        let (before, found) = rest.split_at(at);
        let after = &found[id.len()..];
        replaced.push_str(before);
        let is_whole = !replaced.ends_with(is_part) && !after.starts_with(is_part);
        replaced.push_str(if is_whole { with } else { id });
        rest = after;
    }
    replaced + rest
}

#[cfg(test)]
mod tests {
    use super::replace_id;

    #[test]
    fn an_id_is_replaced_where_it_stands_as_a_whole() {
        for (text, cloaked) in [
            (r#"{"a":"a","why":"a, and acme-a waits for a"}"#, r#"{"*":"*","why":"*, and acme-a waits for *"}"#),
            ("aa a-a a_a", "aa a-a a_a"),
            ("", ""),
        ] {
            assert_eq!(replace_id(text, "a", "*"), cloaked);
        }
    }
}
