//! What events leave in the store: a due Item, a hint, or a note that the Item is unknown.

use crate::plaid_views::Heard;
use crate::sql::{Of, Query, built, get, records, row, sql, text};
use crate::{Error, ItemRow, Tx};
use domain::queue::Mark;
use domain::webhook::{Pace, Signal};
use domain::work::{Class, HintKind};
use domain::{AccountId, BusinessId, ItemId, Millis};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// In the order in which [`Tx::hint_each`] writes them.
const HINT: [(&str, Of); 6] = [
    ("item_id", Of::Text),
    ("account_id", Of::Text),
    ("kind", Of::Text),
    ("said_at", Of::Number),
    ("expires_at", Of::Number),
    ("detail", Of::Text),
];

/// A claim of a webhook that a reconciliation has to prove or forget.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hint {
    pub account: Option<AccountId>,
    pub kind: HintKind,
    /// When the event happened, by its own record.
    pub said_at: Millis,
    /// When access will end, as Plaid wrote it.
    pub detail: Option<String>,
    /// The platform was told.
    pub reported: bool,
}

/// A business that is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BusinessMark {
    pub business: BusinessId,
    pub class: Class,
    /// Events that come closer together than this share a reconciliation.
    pub debounce: Duration,
    /// Its truth is another one than before, so what kept its list from being accepted may be gone and it is tried at once.
    pub changed: bool,
}

impl BusinessMark {
    /// Its truth is another one than before, and nothing is waited for.
    pub fn changed(business: BusinessId, class: Class) -> Self {
        Self { business, class, debounce: Duration::ZERO, changed: true }
    }
}

/// One event about one Item, and how patiently it is treated.
#[derive(Debug, Clone)]
pub struct Intake<'a> {
    pub item: &'a ItemId,
    pub signal: &'a Signal,
    pub reason: &'a str,
    pub account: Option<&'a AccountId>,
    /// When the event happened, by its own record.
    pub said_at: Millis,
    pub detail: Option<&'a str>,
    /// Events that come closer together share a reconciliation.
    pub debounce: Duration,
    /// Events that can't touch a token cause at most one reconciliation in this time.
    pub quiet: Duration,
    pub hint_ttl: Duration,
    pub traceparent: Option<&'a str>,
    /// Type and code, where it is a webhook.
    pub webhook: Option<(&'a str, &'a str)>,
}

impl Intake<'_> {
    fn mark(&self) -> Mark<'_> {
        Mark {
            debounce: self.debounce,
            quiet: (self.signal.pace == Pace::Quiet).then_some(self.quiet),
            unblocks: self.signal.unblocks,
            traceparent: self.traceparent,
            ..Mark::new(self.item, self.signal.class, self.reason)
        }
    }
}

impl Tx {
    /// Takes events. False where the Item is unknown: it is noted, and nothing is due.
    pub async fn intake(&mut self, events: &[Intake<'_>]) -> Result<Vec<bool>, Error> {
        let named: BTreeSet<String> = events.iter().map(|e| e.item.to_string()).collect();
        let known = self.items(&named.into_iter().collect::<Vec<_>>()).await?;
        let known: BTreeMap<&ItemId, &ItemRow> = known.iter().map(|row| (&row.id, row)).collect();
        // Webhooks still arrive for Items that the platform removed.
        let is_ours = |e: &&Intake<'_>| known.get(e.item).is_some_and(|row| !row.is_offboarded());
        let ours: Vec<&Intake<'_>> = events.iter().filter(is_ours).collect();
        let marks: Vec<Mark<'_>> = ours.iter().map(|e| e.mark()).collect();
        self.mark_each(&marks).await?;
        self.hint_each(&ours).await?;
        let heard = ours.iter().filter_map(|e| e.webhook.map(|what| Heard { item: e.item, at: e.said_at, what }));
        self.hear(&heard.collect::<Vec<_>>()).await?;
        let mut unknown: BTreeMap<&ItemId, i64> = BTreeMap::new();
        for event in events.iter().filter(|e| !known.contains_key(e.item)) {
            *unknown.entry(event.item).or_default() += 1;
        }
        self.note_unknown(&unknown).await?;
        Ok(events.iter().map(|e| known.contains_key(e.item)).collect())
    }

    /// How often each was named.
    async fn note_unknown(&mut self, items: &BTreeMap<&ItemId, i64>) -> Result<(), Error> {
        if items.is_empty() {
            return Ok(());
        }
        let columns = [("item_id", Of::Text), ("seen", Of::Number)];
        let from = self.dialect.records(&columns, 2);
        let sql = format!(
            "INSERT INTO unknown_items (item_id, first_seen, last_seen, seen)
            SELECT item_id, $1, $1, seen FROM {from} WHERE 1 = 1
            ON CONFLICT (item_id) DO UPDATE SET last_seen = $1, seen = unknown_items.seen + excluded.seen"
        );
        let rows = records(&columns, items.iter().map(|(item, seen)| row![item, *seen]));
        self.run(sql!(built(sql), self.now(), rows)).await.map(drop)
    }

    /// Bounds what is remembered of Items that nobody pushed: the newest stay.
    pub async fn forget_unknown(&mut self, kept: Duration, most: u32) -> Result<u64, Error> {
        let old = sql!("DELETE FROM unknown_items WHERE last_seen < $1", self.now().minus(kept));
        let old = self.run(old).await?;
        let sql = "DELETE FROM unknown_items
            WHERE last_seen <= (SELECT last_seen FROM unknown_items ORDER BY last_seen DESC LIMIT 1 OFFSET $1)";
        Ok(old + self.run(sql!(sql, most)).await?)
    }

    /// A replayed topic must not revive what expired long ago, so the event's own time counts. Of several that claim the same
    /// the newest does.
    async fn hint_each(&mut self, events: &[&Intake<'_>]) -> Result<(), Error> {
        let mut newest: BTreeMap<(&ItemId, &str, HintKind), &Intake<'_>> = BTreeMap::new();
        for event in events.iter().filter(|e| e.said_at.plus(e.hint_ttl) > self.now()) {
            let Some(kind) = event.signal.hint else { continue };
            let claim = newest.entry((event.item, event.account.map_or("", AccountId::as_str), kind)).or_insert(event);
            if event.said_at >= claim.said_at {
                *claim = event;
            }
        }
        if newest.is_empty() {
            return Ok(());
        }
        let from = self.dialect.records(&HINT, 1);
        let sql = format!(
            "INSERT INTO hints (item_id, account_id, kind, said_at, expires_at, detail, reported)
            SELECT item_id, account_id, kind, said_at, expires_at, detail, 0 FROM {from} WHERE 1 = 1
            ON CONFLICT (item_id, account_id, kind) DO UPDATE SET
                reported = CASE WHEN COALESCE(hints.detail, '') <> COALESCE(excluded.detail, '')
                    THEN 0 ELSE hints.reported END,
                detail = excluded.detail, expires_at = excluded.expires_at, said_at = excluded.said_at
                WHERE excluded.said_at >= hints.said_at"
        );
        let rows = newest.into_iter().map(|((item, account, kind), event)| {
            row![item, account, kind, event.said_at, event.said_at.plus(event.hint_ttl), event.detail]
        });
        self.run(sql!(built(sql), records(&HINT, rows))).await.map(drop)
    }

    /// Hints that have not expired.
    pub async fn hints(&mut self, item: &ItemId) -> Result<Vec<Hint>, Error> {
        let sql = "SELECT * FROM hints WHERE item_id = $1 AND expires_at > $2 ORDER BY kind, account_id";
        let rows = self.rows(sql!(sql, item, self.now())).await?;
        let mut hints = Vec::with_capacity(rows.len());
        for row in &rows {
            let account = text(row, "account_id")?;
            hints.push(Hint {
                account: (!account.is_empty())
                    .then(|| AccountId::parse(account))
                    .transpose()
                    .map_err(|e| Error::Corrupt(e.to_string()))?,
                kind: get(row, "kind")?,
                said_at: get(row, "said_at")?,
                detail: get(row, "detail")?,
                reported: get::<bool>(row, "reported")?,
            });
        }
        Ok(hints)
    }

    /// A reconciliation has judged what the hint said. One that was said again meanwhile stays.
    pub async fn settle_hint(&mut self, item: &ItemId, hint: &Hint) -> Result<(), Error> {
        let sql = "DELETE FROM hints WHERE item_id = $1 AND account_id = $2 AND kind = $3 AND said_at <= $4";
        self.run(of_hint(sql, item, hint)).await.map(drop)
    }

    /// The platform was told of it.
    pub async fn hint_reported(&mut self, item: &ItemId, hint: &Hint) -> Result<(), Error> {
        let sql =
            "UPDATE hints SET reported = 1 WHERE item_id = $1 AND account_id = $2 AND kind = $3 AND said_at <= $4";
        self.run(of_hint(sql, item, hint)).await.map(drop)
    }

    /// Deletes them; how many there were.
    pub async fn forget_expired_hints(&mut self) -> Result<u64, Error> {
        self.run(sql!("DELETE FROM hints WHERE expires_at <= $1", self.now())).await
    }

    /// Makes businesses due, and known where they are not. `cause`: the reconciliation that found why.
    pub async fn mark_businesses(
        &mut self,
        businesses: &[BusinessMark],
        reason: &str,
        cause: Option<&crate::Claim>,
    ) -> Result<(), Error> {
        for of in businesses {
            self.ensure_business(&of.business, None).await?;
        }
        let mark = |of: &'_ BusinessMark| Mark {
            debounce: of.debounce,
            unblocks: of.changed,
            since: cause.and_then(|c| c.signal_at),
            traceparent: cause.and_then(|c| c.traceparent.as_deref()),
            ..Mark::new(&of.business, of.class, reason)
        };
        // Together, so that their rows are locked by one statement, in one order.
        let marks: Vec<Mark<'_>> = businesses.iter().map(mark).collect();
        self.mark_each(&marks).await.map(drop)
    }
}

fn of_hint(sql: &'static str, item: &ItemId, hint: &Hint) -> Query {
    sql!(sql, item, hint.account.as_ref().map_or(String::new(), |a| a.as_str().to_owned()), hint.kind, hint.said_at)
}
