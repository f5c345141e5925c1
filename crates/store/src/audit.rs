//! The audit trail: who did what to what, from where, and what was so before and after. An entry never changes, except that
//! an erased id in it becomes a pseudonym; it is deleted only because of its age.

use crate::sql::{built, get, opt_text, sql, text, with_each};
use crate::{Accounts, Declaration, Error, Page, Push, Tx};
use domain::redact::shows_any_token;
use domain::work::{Kind, Subject};
use domain::{Fingerprint, ItemId, Millis};
use serde_json::{Value, json};
use sqlx::any::AnyRow;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

/// An act of a person or the platform. Recorded in the transaction that carries it out.
#[derive(Debug, Clone)]
pub struct Act<'a> {
    /// The name of an admin token, or `rekey`.
    pub by: &'a str,
    /// Where the call came from; none when nobody called.
    pub from: Option<IpAddr>,
    /// Such as `item.put`.
    pub action: &'a str,
    /// `item/ID`, `business/ID`, `key/ID`, `provider/NAME`, `dead-letter/ID` or `batch/ID`.
    pub subject: String,
    pub was: Option<Value>,
    pub became: Option<Value>,
}

/// An act as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEntry {
    pub id: String,
    pub at: Millis,
    pub by: String,
    pub from: Option<String>,
    pub action: String,
    /// `item/ID`, `business/ID` or `key/ID`; of an erased one, its fingerprint in place of the id. An earlier release wrote the
    /// bare id.
    pub subject: String,
    /// What earlier releases wrote.
    pub detail: String,
    /// JSON.
    pub was: Option<String>,
    pub became: Option<String>,
}

/// Which entries; those that are not given do not narrow.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    pub subject: Option<String>,
    pub by: Option<String>,
}

/// What a push says, with the fingerprint of its token. Of the data for a new business only the names: they are a
/// customer's.
pub fn said(push: &Push, token: Option<&Fingerprint>) -> Value {
    let Declaration { business, accounts, replaces, creation } = &push.declaration;
    let filter = |accounts: &Accounts| match accounts {
        Accounts::All => filter_of(None),
        Accounts::Only(named) => filter_of(Some(named)),
    };
    let create = |creation: &String| -> Value {
        let named: Option<serde_json::Map<String, Value>> = serde_json::from_str(creation).ok();
        // A token in the wrong place stays out of the trail.
        let shown = |name: String| if shows_any_token(&name) { "?".to_owned() } else { name };
        named.into_iter().flatten().map(|(name, _)| shown(name)).collect()
    };
    let said = [
        ("token", token.map(|t| t.as_str().into())),
        ("business", business.as_ref().map(|b| b.as_str().into())),
        ("accounts", accounts.as_ref().map(filter)),
        ("replaces", replaces.as_ref().map(|r| r.as_str().into())),
        ("create", creation.as_ref().map(create)),
    ];
    said.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
}

fn filter_of(only: Option<&Vec<crate::Assignment>>) -> Value {
    let Some(only) = only else { return "all".into() };
    only.iter()
        .map(|a| json!({"account_id": a.account.as_str(), "business": a.business.as_ref().map(|b| b.as_str())}))
        .collect()
}

/// Earlier releases wrote the bare id.
const OF_SUBJECT: &str = " AND subject IN ($3, $4, $5) AND (subject <> $5 OR action LIKE $6)";

/// The kind of what stands under this key of `was` or `became`.
fn kind_named(key: &str) -> Option<Kind> {
    match key {
        "business" => Some(Kind::Business),
        "replaces" | "replaced_by" => Some(Kind::Item),
        _ => None,
    }
}

/// Every text in it, with its key.
fn each_named(value: &mut Value, with: &mut impl FnMut(&str, &mut String)) {
    match value {
        Value::Object(fields) => {
            for (key, field) in fields {
                match field {
                    Value::String(text) => with(key, text),
                    other => each_named(other, with),
                }
            }
        }
        Value::Array(entries) => entries.iter_mut().for_each(|entry| each_named(entry, with)),
        _ => {}
    }
}

impl Tx {
    /// Records an act, in the transaction that does it.
    pub async fn audit(&mut self, act: &Act<'_>) -> Result<(), Error> {
        let sql = "INSERT INTO audit (id, actor, remote, action, subject, detail, was, became, at)
            VALUES ($1, $2, $3, $4, $5, '', $6, $7, $8)";
        let id = uuid::Uuid::now_v7().to_string();
        self.run(sql!(
            sql,
            id,
            act.by,
            act.from.map(|ip| ip.to_string()),
            act.action,
            act.subject,
            act.was.as_ref().map(Value::to_string),
            act.became.as_ref().map(Value::to_string),
            self.now()
        ))
        .await?;
        let mut named = BTreeSet::new();
        for mut value in act.was.iter().chain(&act.became).cloned() {
            each_named(&mut value, &mut |key, id| named.extend(kind_named(key).map(|kind| format!("{kind}/{id}"))));
        }
        for mentioned in named {
            let sql = "INSERT INTO audit_mentions (subject, audit_id) VALUES ($1, $2)";
            self.run(sql!(sql, mentioned, id)).await?;
        }
        Ok(())
    }

    /// What is in force about an Item, as a push would say it.
    pub async fn in_force(&mut self, id: &ItemId) -> Result<Option<Value>, Error> {
        let Some(item) = self.item(id).await? else { return Ok(None) };
        let named = self.assignments(id).await?;
        // Where there is no filter, an operator has moved some.
        let (only, moved) = if item.only_listed { (Some(named), None) } else { (None, Some(named)) };
        let moved = moved.filter(|named| !named.is_empty());
        // Not opened: a token that can't be read must not keep a push from replacing it.
        let sql = "SELECT fingerprint FROM access_tokens WHERE item_id = $1 AND standing = 'current'";
        let token = self.row(sql!(sql, id)).await?;
        let token = token.map(|r| text(&r, "fingerprint")).transpose()?;
        Ok(Some(json!({
            "state": item.state.as_str(),
            "token": token,
            "business": item.business.as_ref().map(|b| b.as_str()),
            "accounts": filter_of(only.as_ref()),
            "moved": moved.as_ref().map(|moved| filter_of(Some(moved))),
            "replaces": item.replaces.as_ref().map(|r| r.as_str()),
        })))
    }

    /// Entries, the newest first; the cursor is an entry's id. An erased subject is found by its id.
    pub async fn audit_page(&mut self, filter: &AuditFilter, page: &Page) -> Result<Vec<AuditEntry>, Error> {
        let (subject, by) = match (&filter.subject, &filter.by) {
            (None, None) => ("", ""),
            (None, Some(_)) => ("", " AND actor = $3"),
            (Some(_), None) => (OF_SUBJECT, ""),
            (Some(_), Some(_)) => (OF_SUBJECT, " AND actor = $7"),
        };
        let sql = format!("SELECT * FROM audit WHERE id < $1{subject}{by} ORDER BY id DESC LIMIT $2");
        // Ids are hexadecimal.
        let before = page.after.clone().unwrap_or_else(|| "g".into());
        let mut query = sql!(built(sql), before, page.limit);
        if let Some(subject) = &filter.subject {
            let (kind, id) = subject.split_once('/').unwrap_or(("", subject));
            let pseudonym = self.pseudonym_of(kind, id);
            query = with_each(query, [subject, &pseudonym, id, &format!("{kind}%.%")]);
        }
        let rows = self.rows(with_each(query, &filter.by)).await?;
        let read = |r: &AnyRow| {
            Ok(AuditEntry {
                id: text(r, "id")?,
                at: get(r, "at")?,
                by: text(r, "actor")?,
                from: get(r, "remote")?,
                action: text(r, "action")?,
                subject: text(r, "subject")?,
                detail: text(r, "detail")?,
                was: get(r, "was")?,
                became: get(r, "became")?,
            })
        };
        rows.iter().map(read).collect()
    }

    /// A subject with a fingerprint in place of its id: it is found by the id, and the id can't be read from it.
    pub(crate) fn pseudonym_of(&self, kind: &str, id: &str) -> String {
        format!("{kind}/{}", self.fingerprints.of(id))
    }

    /// The customer is forgotten, and what was done is not: the id becomes a pseudonym, in its own entries and in those that
    /// name it, and so do the ids of its accounts.
    pub(crate) async fn pseudonymise(&mut self, subject: &Subject) -> Result<(), Error> {
        let (kind, id) = (subject.kind(), subject.id());
        let (whole, bare, acts) = (subject.to_string(), id, format!("{kind}.%"));
        let own = "FROM audit WHERE subject IN ($1, $2) AND (subject = $1 OR action LIKE $3)";
        // In one order before any is read: two who are erased at once may name each other, and what one of them cloaked must
        // not be written back by the other.
        let lock = self.dialect.for_update();
        self.rows(sql!(built(format!(
            "SELECT id FROM audit WHERE id IN (SELECT id {own} UNION SELECT audit_id FROM audit_mentions WHERE subject = $1)
            ORDER BY id {lock}"
        )), whole, bare, acts)).await?;
        let own = sql!(built(format!("SELECT id, was, became {own}")), whole, bare, acts);
        let rows = self.rows(own).await?;
        let pseudonym = self.pseudonym_of(kind.as_str(), id);
        self.cloak(&rows, Some(&pseudonym), &|key, _| key == "account_id").await?;
        let naming =
            "SELECT a.id, a.was, a.became FROM audit_mentions m JOIN audit a ON a.id = m.audit_id WHERE m.subject = $1";
        let rows = self.rows(sql!(naming, whole)).await?;
        self.cloak(&rows, None, &|key, named| kind_named(key) == Some(kind) && named == id).await?;
        let forgotten = sql!("DELETE FROM audit_mentions WHERE subject = $1", whole);
        self.run(forgotten).await.map(drop)
    }

    /// Puts fingerprints in the place of the ids that `hides` chooses by their key.
    async fn cloak(
        &mut self,
        rows: &[AnyRow],
        subject: Option<&str>,
        hides: &(dyn Fn(&str, &str) -> bool + Sync),
    ) -> Result<(), Error> {
        for row in rows {
            let cloaked = |column: &str| -> Result<Option<String>, Error> {
                let Some(text) = opt_text(row, column)? else { return Ok(None) };
                let mut value: Value = serde_json::from_str(&text).unwrap_or_default();
                each_named(&mut value, &mut |key, named| {
                    if hides(key, named) {
                        *named = self.fingerprints.of(named).to_string();
                    }
                });
                Ok(Some(value.to_string()))
            };
            let sql = "UPDATE audit SET subject = COALESCE($2, subject), was = $3, became = $4 WHERE id = $1";
            self.run(sql!(sql, text(row, "id")?, subject, cloaked("was")?, cloaked("became")?)).await?;
        }
        Ok(())
    }

    /// Some of the entries that are older than `kept`; returns how many went.
    pub async fn forget_old_audit(&mut self, kept: Duration, limit: u32) -> Result<u64, Error> {
        let sql = "DELETE FROM audit WHERE id IN (SELECT id FROM audit WHERE at < $1 ORDER BY at LIMIT $2)";
        let gone = self.run(sql!(sql, self.now().minus(kept), limit)).await?;
        if gone > 0 {
            // Their ids are in the order of their times.
            let sql = "DELETE FROM audit_mentions WHERE audit_id < COALESCE((SELECT MIN(id) FROM audit), 'g')";
            self.run(sql!(sql)).await?;
        }
        Ok(gone)
    }
}
