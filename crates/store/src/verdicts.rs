//! Verdicts (I11): loaded as facts, judged by `domain::verdict`, kept beside the rows so that lists can be filtered by
//! them and counts stand on an index.
//!
//! Whatever changes a fact names its subject ([`Tx::touch_item`], [`Tx::touch_business`]), and the end of the transaction
//! judges those subjects anew. So nobody can forget it, and what is stored is never older than the facts. The rows of
//! `verdicts` are locked last of all, in order, and before the facts are read: of two transactions that change facts of one
//! business, the second one judges what both did.

use crate::sql::{Of, built, get, list, number, opt_text, records, row, sql, text};
use crate::work::subject_of;
use crate::{Error, Page, Record, Tx};
use domain::outcome::Outcome;
use domain::verdict::{State, Verdict, WaitsOn, of_business, of_item};
use domain::work::{Kind, Subject};
use domain::{BusinessId, ItemId, Millis, Provider};
use serde_json::json;
use sqlx::any::AnyRow;
use std::collections::{BTreeMap, BTreeSet};

/// What a transaction has changed facts of.
#[derive(Debug, Default)]
pub(crate) struct Touched {
    items: BTreeSet<String>,
    businesses: BTreeSet<String>,
}

/// A verdict and since when its state is what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    pub subject: Subject,
    pub verdict: Verdict,
    pub since: Millis,
}

/// Rows of a kind that stand alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StandAlike {
    pub state: State,
    pub rows: i64,
    /// Since when the first of them does.
    pub oldest: Millis,
}

/// Rows that are judged together at most: more than a batch of events concerns, so that its locks are taken by one statement.
pub(crate) const SLICE: usize = 1024;

/// Accounts that an outcome names at most, so that it stays a small record; the others are counted.
const MOST_TOLD: usize = 100;

/// A verdict as it is kept.
struct Stored {
    state: State,
    waits_on: WaitsOn,
    /// The state that an outcome told of last.
    told: Option<State>,
}

impl Stored {
    fn of(row: &AnyRow) -> Result<Self, Error> {
        let told = opt_text(row, "told")?.and_then(|w| State::from_word(&w));
        Ok(Self { state: state_of(row)?, waits_on: waits_on_of(row)?, told })
    }

    fn says(&self, verdict: &Verdict) -> bool {
        (self.state, self.waits_on) == (verdict.state, verdict.waits_on)
    }
}

/// A verdict that is another one than before.
struct Changed {
    subject: Subject,
    verdict: Verdict,
    /// The state that was told last.
    was: Option<State>,
    is_told: bool,
}

const COLUMNS: [(&str, Of); 5] =
    [("kind", Of::Text), ("id", Of::Text), ("state", Of::Text), ("waits_on", Of::Text), ("told", Of::Text)];

/// Work under way is no news: each reconciliation of the sweep would be two records.
fn is_news(told: Option<State>, state: State) -> bool {
    !matches!(state, State::Converging | State::Unknown) && told != Some(state)
}

impl Tx {
    pub(crate) fn touch_item(&mut self, id: &str) {
        self.touched.items.insert(id.to_owned());
    }
    pub(crate) fn touch_business(&mut self, id: &str) {
        self.touched.businesses.insert(id.to_owned());
    }

    /// The businesses that it concerns by now: a change that follows may take it out of one.
    pub(crate) async fn touch_businesses_of(&mut self, item: &ItemId) -> Result<(), Error> {
        let businesses = self.businesses_of(&[item.to_string()]).await?;
        self.touched.businesses.extend(businesses);
        Ok(())
    }

    /// The last thing that a transaction does before it commits.
    pub(crate) async fn judge_touched(&mut self) -> Result<(), Error> {
        let Touched { items, mut businesses } = std::mem::take(&mut self.touched);
        if items.is_empty() && businesses.is_empty() {
            return Ok(());
        }
        let items: Vec<String> = items.into_iter().collect();
        businesses.extend(self.businesses_of(&items).await?);
        let businesses: Vec<String> = businesses.into_iter().collect();
        // Locked first, in one order: businesses before Items, each in the order of their ids. In slices, for what is judged is
        // held in memory.
        let mut slices: Vec<(&[String], &[String])> = businesses.chunks(SLICE).map(|b| (b, &[][..])).collect();
        match slices.last_mut().filter(|_| items.len() <= SLICE) {
            Some(last) => last.1 = &items,
            None => slices.extend(items.chunks(SLICE).map(|i| (&[][..], i))),
        }
        for (businesses, items) in slices {
            self.judge_slice(businesses, items).await?;
        }
        Ok(())
    }

    async fn judge_slice(&mut self, businesses: &[String], items: &[String]) -> Result<(), Error> {
        let lock = self.dialect.for_update();
        let mut stored = self.stored_verdicts(businesses, items, lock).await?;
        let mut judged = self.judge(businesses, items).await?;
        let new: Vec<Subject> = judged.keys().filter(|s| !stored.contains_key(*s)).cloned().collect();
        if !new.is_empty() {
            self.make_verdicts(&new).await?;
            let of = |kind| new.iter().filter(|s| s.kind() == kind).map(|s| s.id().to_owned()).collect::<Vec<_>>();
            let (businesses, items) = (of(Kind::Business), of(Kind::Item));
            stored.extend(self.stored_verdicts(&businesses, &items, lock).await?);
            // Judged before they were locked.
            judged.extend(self.judge(&businesses, &items).await?);
        }
        for subject in stored.keys().filter(|s| !judged.contains_key(*s)) {
            self.run(sql!("DELETE FROM verdicts WHERE kind = $1 AND id = $2", subject.kind(), subject.id())).await?;
        }
        let is_changed = |(subject, verdict): (&Subject, &Verdict)| {
            let before = stored.get(subject).filter(|s| !s.says(verdict))?;
            let is_told = matches!(subject, Subject::Business(_)) && is_news(before.told, verdict.state);
            Some(Changed { subject: subject.clone(), verdict: verdict.clone(), was: before.told, is_told })
        };
        let changed: Vec<Changed> = judged.iter().filter_map(is_changed).collect();
        let mut numbers = BTreeMap::new();
        for row in self.replace(&changed).await? {
            numbers.insert(subject_of(&row)?, number(&row, "told_times")?);
        }
        for Changed { subject, verdict, was, .. } in changed.iter().filter(|c| c.is_told) {
            if let Some(number) = numbers.get(subject) {
                self.tell(subject.id(), *number, *was, verdict).await?;
            }
        }
        Ok(())
    }

    /// All rows are there, and locked.
    async fn replace(&mut self, changed: &[Changed]) -> Result<Vec<AnyRow>, Error> {
        if changed.is_empty() {
            return Ok(Vec::new());
        }
        let from = self.dialect.records(&COLUMNS, 2);
        let sql = format!(
            "INSERT INTO verdicts AS v (kind, id, state, waits_on, since, told)
            SELECT kind, id, state, waits_on, $1, told FROM {from} WHERE 1 = 1
            ON CONFLICT (kind, id) DO UPDATE SET state = excluded.state, waits_on = excluded.waits_on,
                since = CASE WHEN v.state = excluded.state THEN v.since ELSE excluded.since END,
                told = COALESCE(excluded.told, v.told),
                told_times = v.told_times + CASE WHEN excluded.told IS NULL THEN 0 ELSE 1 END
            RETURNING kind, id, told_times"
        );
        let rows = changed.iter().map(|Changed { subject, verdict, is_told, .. }| {
            let told = is_told.then_some(verdict.state);
            row![subject.kind(), subject.id(), verdict.state, verdict.waits_on, told]
        });
        self.rows(sql!(built(sql), self.now(), records(&COLUMNS, rows))).await
    }

    /// The outcome of a verdict that became another one.
    async fn tell(&mut self, business: &str, number: i64, was: Option<State>, verdict: &Verdict) -> Result<(), Error> {
        let wrong = verdict.wrong.iter().take(MOST_TOLD);
        let wrong: Vec<_> = wrong
            .map(|w| {
                let account = w.account.as_ref().map(domain::AccountId::as_str);
                json!({"item_id": w.item.as_str(), "account_id": account, "problem": w.problem, "code": w.code})
            })
            .collect();
        let payload = json!({
            "business_id": business, "number": number, "was": was, "state": verdict.state, "why": verdict.sentence(), "next": verdict.next,
            "accounts": verdict.accounts, "right": verdict.right, "wrong": wrong,
        });
        let traceparent = self.traceparent.clone();
        let (kind, traceparent) = (Outcome::VerdictChanged.as_str(), traceparent.as_deref());
        let detail = json!({
            "was": was, "state": verdict.state, "why": verdict.sentence(), "accounts": verdict.accounts, "right": verdict.right,
        });
        self.note(&Subject::Business(BusinessId::from_stored(business.to_owned())), kind, detail, traceparent);
        self.publish(&Record { key: business, kind, subject: business, payload, traceparent }).await
    }

    async fn stored_verdicts(
        &mut self,
        businesses: &[String],
        items: &[String],
        lock: &str,
    ) -> Result<BTreeMap<Subject, Stored>, Error> {
        if businesses.is_empty() && items.is_empty() {
            return Ok(BTreeMap::new());
        }
        let (of_businesses, of_items) = (self.dialect.among("id", 1), self.dialect.among("id", 2));
        let sql = format!(
            "SELECT kind, id, state, waits_on, told FROM verdicts
            WHERE kind = 'business' AND {of_businesses} OR kind = 'item' AND {of_items} ORDER BY kind, id {lock}"
        );
        let rows = self.rows(sql!(built(sql), list(businesses), list(items))).await?;
        rows.iter().map(|r| Ok((subject_of(r)?, Stored::of(r)?))).collect()
    }

    async fn make_verdicts(&mut self, subjects: &[Subject]) -> Result<(), Error> {
        let columns = [("kind", Of::Text), ("id", Of::Text)];
        let from = self.dialect.records(&columns, 2);
        let sql = format!(
            "INSERT INTO verdicts (kind, id, state, waits_on, since)
            SELECT kind, id, 'unknown', 'nobody', $1 FROM {from} WHERE 1 = 1 ON CONFLICT (kind, id) DO NOTHING"
        );
        let rows = records(&columns, subjects.iter().map(|s| row![s.kind(), s.id()]));
        self.run(sql!(built(sql), self.now(), rows)).await.map(drop)
    }

    /// Judges these rows by the facts of now; those that do not exist are left out.
    async fn judge(&mut self, businesses: &[String], items: &[String]) -> Result<BTreeMap<Subject, Verdict>, Error> {
        let mut all = self.items_of(businesses).await?;
        all.extend(items.iter().cloned());
        let facts = self.item_facts(&all).await?;
        let mut judged = BTreeMap::new();
        for business in self.business_facts(businesses, &facts).await? {
            judged.insert(Subject::Business(business.id.clone()), of_business(&business));
        }
        let asked: BTreeSet<&str> = items.iter().map(String::as_str).collect();
        for item in facts.iter().filter(|i| asked.contains(i.id.as_str())) {
            judged.insert(Subject::Item(item.id.clone()), of_item(item));
        }
        Ok(judged)
    }

    pub(crate) async fn judge_kind(&mut self, kind: Kind, ids: &[String]) -> Result<BTreeMap<Subject, Verdict>, Error> {
        match kind {
            Kind::Item => self.judge(&[], ids).await,
            Kind::Business => self.judge(ids, &[]).await,
        }
    }

    /// How these rows stand, in the order of their ids, pauses included.
    pub async fn verdicts(&mut self, kind: Kind, ids: &[String]) -> Result<Vec<Judged>, Error> {
        let paused: Vec<Provider> = self.pauses().await?.into_iter().map(|p| p.provider).collect();
        let mut found = Vec::with_capacity(ids.len());
        for slice in ids.chunks(SLICE) {
            let judged = self.judge_kind(kind, slice).await?;
            let named = self.dialect.among("id", 2);
            let sql = format!("SELECT id, since FROM verdicts WHERE kind = $1 AND {named}");
            let rows = self.rows(sql!(built(sql), kind, list(slice))).await?;
            let since: BTreeMap<String, i64> =
                rows.iter().map(|r| Ok((text(r, "id")?, number(r, "since")?))).collect::<Result<_, Error>>()?;
            found.extend(judged.into_iter().map(|(subject, verdict)| {
                let since = since.get(subject.id()).copied().map_or(self.now(), Millis);
                Judged { subject, verdict: verdict.under(&paused), since }
            }));
        }
        Ok(found)
    }

    /// How one row stands; none if there is none.
    pub async fn verdict(&mut self, subject: impl Into<Subject>) -> Result<Option<Judged>, Error> {
        let subject = subject.into();
        Ok(self.verdicts(subject.kind(), &[subject.id().to_owned()]).await?.pop())
    }

    /// The state that is stored of a row, without what pauses make of it, and since when: one look-up.
    pub async fn stored_state(&mut self, subject: &Subject) -> Result<Option<(State, Millis)>, Error> {
        let sql = "SELECT state, since FROM verdicts WHERE kind = $1 AND id = $2";
        let row = self.row(sql!(sql, subject.kind(), subject.id())).await?;
        row.map(|row| Ok((state_of(&row)?, get(&row, "since")?))).transpose()
    }

    /// A page of the ids of rows that stand so.
    pub async fn list_by_state(&mut self, kind: Kind, state: State, page: &Page) -> Result<Vec<String>, Error> {
        let paused: Vec<Provider> = self.pauses().await?.into_iter().map(|p| p.provider).collect();
        let waits = |paused_alone: bool| {
            let of = |w: &WaitsOn| paused.iter().any(|p| w.includes(*p)) == paused_alone;
            WaitsOn::ALL.iter().filter(|w| of(w)).map(|w| format!("'{w}'")).collect::<Vec<_>>().join(", ")
        };
        let condition = match state {
            State::ProviderPaused => format!("state = 'converging' AND waits_on IN ({})", waits(true)),
            State::Converging => format!("state = 'converging' AND waits_on IN ({})", waits(false)),
            state => format!("state = '{state}'"),
        };
        if state == State::ProviderPaused && paused.is_empty() {
            return Ok(Vec::new());
        }
        let sql = format!("SELECT id FROM verdicts WHERE kind = $1 AND {condition} AND id > $2 ORDER BY id LIMIT $3");
        let after = page.after.as_deref().unwrap_or_default();
        self.rows(sql!(built(sql), kind, after, page.limit)).await?.iter().map(|r| text(r, "id")).collect()
    }

    /// How many rows stand in each state that is not good, and since when.
    pub async fn not_good(&mut self, kind: Kind) -> Result<Vec<StandAlike>, Error> {
        let paused: Vec<Provider> = self.pauses().await?.into_iter().map(|p| p.provider).collect();
        let sql = "SELECT state, waits_on, COUNT(*) AS n, MIN(since) AS oldest FROM verdicts
            WHERE kind = $1 AND state NOT IN ('converged', 'empty', 'gone') GROUP BY state, waits_on";
        let mut found: BTreeMap<State, StandAlike> = BTreeMap::new();
        for row in self.rows(sql!(sql, kind)).await? {
            let state = state_of(&row)?.under(waits_on_of(&row)?, &paused);
            let (rows, oldest) = (number(&row, "n")?, get(&row, "oldest")?);
            let of = found.entry(state).or_insert(StandAlike { state, rows: 0, oldest });
            of.rows += rows;
            of.oldest = of.oldest.min(oldest);
        }
        Ok(found.into_values().collect())
    }

    /// Judges rows that an earlier release wrote, some at a time and behind the first `skipped`. Returns how many there were.
    pub async fn judge_unknown(&mut self, limit: u32, skipped: u32) -> Result<usize, Error> {
        let sql = "SELECT kind, id FROM verdicts WHERE kind = $1 AND state = 'unknown' ORDER BY id LIMIT $2 OFFSET $3";
        let mut count = 0;
        for kind in Kind::ALL {
            let rows = self.rows(sql!(sql, kind, limit, skipped)).await?;
            self.touch_rows(&rows)?;
            count += rows.len();
        }
        Ok(count)
    }
}

/// A word that a newer release left before a rollback is unknown here, and judged anew: it must not keep the row from being
/// worked on.
pub(crate) fn state_of(row: &AnyRow) -> Result<State, Error> {
    Ok(State::from_word(&text(row, "state")?).unwrap_or(State::Unknown))
}

pub(crate) fn waits_on_of(row: &AnyRow) -> Result<WaitsOn, Error> {
    Ok(WaitsOn::from_word(&text(row, "waits_on")?).unwrap_or(WaitsOn::Nobody))
}
