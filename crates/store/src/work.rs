//! The rows of the work queue: locked, read and saved. What becomes of them is decided by [`domain::queue`].
//!
//! A transaction that writes locks work rows before anything else: Items' in the order of their ids, then businesses',
//! then budgets, then the rest. On PostgreSQL another order ends in a deadlock, which costs a second, and one of the
//! two transactions its work.

use crate::sql::{Of, Query, built, get, list, number, opt_text, records, row, sql, text};
use crate::tx::Dialect;
use crate::{Claim, Error, Tx};
use domain::budget::Call;
use domain::permit::{Objection, Permit};
use domain::queue::{Blocked, Finish, Lease, Mark, Row};
use domain::work::{Block, Class, Code, Kind, Subject};
use sqlx::any::AnyRow;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

impl Tx {
    /// The facts of a row changed.
    pub(crate) fn touch(&mut self, subject: &Subject) {
        match subject {
            Subject::Item(id) => self.touch_item(id.as_str()),
            Subject::Business(id) => self.touch_business(id.as_str()),
        }
    }

    /// Makes a row due. Returns the `wanted` it raised, which a waiter compares with `done`.
    pub async fn mark(&mut self, mark: &Mark<'_>) -> Result<i64, Error> {
        let wanted = self.mark_each(std::slice::from_ref(mark)).await?;
        wanted.first().copied().ok_or_else(|| Error::Corrupt("a mark raised nothing".into()))
    }

    /// The same for many rows, in two statements for each kind. Returns what each raised.
    pub async fn mark_each(&mut self, marks: &[Mark<'_>]) -> Result<Vec<i64>, Error> {
        let mut wanted = vec![0; marks.len()];
        let mut unblocked = BTreeSet::new();
        for kind in Kind::ALL.iter().copied() {
            let of_kind = || marks.iter().enumerate().filter(|(_, m)| m.subject.kind() == kind);
            let subjects: BTreeSet<Subject> = of_kind().map(|(_, m)| m.subject.clone()).collect();
            let mut rows = self.lock_or_make(kind, subjects.into_iter().collect()).await?;
            for (place, mark) in of_kind() {
                // Gone between the two statements that make it: the event is told again, not lost.
                let row = rows.get_mut(&mark.subject).ok_or(Error::Database(sqlx::Error::RowNotFound))?;
                if row.mark(mark, self.now()) {
                    self.touch(&mark.subject);
                }
                if let (true, Subject::Item(item)) = (mark.unblocks, &mark.subject) {
                    unblocked.insert(item);
                }
                wanted[place] = row.wanted;
            }
            if kind == Kind::Business && rows.values().any(|row| row.lease.is_some()) {
                self.brings_news();
            }
            self.save(rows.values()).await?;
        }
        self.ask_refused_again(&unblocked).await?;
        Ok(wanted)
    }

    /// An operator's release: due at once, in this class at least, every block cleared, and one permit for what a guard held back.
    /// Returns whether there was anything to release.
    pub async fn release(&mut self, subject: impl Into<Subject>, class: Class) -> Result<bool, Error> {
        let subject = subject.into();
        let Some(mut row) = self.lock_one(&subject).await? else { return Ok(false) };
        let asked = match &subject {
            Subject::Item(item) => self.ask_refused_again(&BTreeSet::from([item])).await? > 0,
            Subject::Business(_) => false,
        };
        let mut released = row.release(class, self.now());
        if !released && asked {
            // Nothing keeps the row itself: what waits for a person is a mint that Plaid refuses.
            let mark = Mark { unblocks: true, ..Mark::new(&subject, class, "released by an operator") };
            row.mark(&mark, self.now());
            released = true;
        }
        if released {
            self.save([&row]).await?;
        }
        self.touch(&subject);
        Ok(released)
    }

    async fn lock_one(&mut self, subject: &Subject) -> Result<Option<Row>, Error> {
        Ok(self.lock_of(subject.kind(), std::slice::from_ref(subject)).await?.remove(subject))
    }

    /// Those that exist, all of `kind`; locked in the order of their ids.
    async fn lock_of(&mut self, kind: Kind, subjects: &[Subject]) -> Result<BTreeMap<Subject, Row>, Error> {
        if subjects.is_empty() {
            return Ok(BTreeMap::new());
        }
        let (named, lock) = (self.dialect.among("id", 1), self.dialect.for_update());
        let sql = format!("SELECT * FROM work WHERE {named} AND kind = $2 ORDER BY id {lock}");
        let rows = self.rows(sql!(built(sql), list(subjects.iter().map(Subject::id)), kind)).await?;
        let rows = rows.iter().map(|row| work_row(row).map(|row| (row.subject.clone(), row)));
        rows.collect()
    }

    async fn lock_or_make(&mut self, kind: Kind, subjects: Vec<Subject>) -> Result<BTreeMap<Subject, Row>, Error> {
        let mut rows = self.lock_of(kind, &subjects).await?;
        let new: Vec<Subject> = subjects.into_iter().filter(|s| !rows.contains_key(s)).collect();
        let made: Vec<Row> = new.iter().map(|s| Row::new(s.clone(), self.now())).collect();
        let count = self.insert(made.iter(), "NOTHING").await?;
        if count as usize == made.len() {
            rows.extend(new.into_iter().zip(made));
        } else {
            // Somebody else made one of them meanwhile.
            rows.extend(self.lock_of(kind, &new).await?);
        }
        Ok(rows)
    }

    pub(crate) async fn save<'a>(&mut self, rows: impl IntoIterator<Item = &'a Row>) -> Result<(), Error> {
        let rows: Vec<&Row> = rows.into_iter().collect();
        let now = self.now();
        for row in rows.iter().filter(|row| row.is_due(now)) {
            self.makes_due(row.subject.kind());
        }
        let set = COLUMNS.iter().skip(2).map(|(c, _)| format!("{c} = excluded.{c}")).collect::<Vec<_>>().join(", ");
        self.insert(rows, &format!("UPDATE SET {set}")).await.map(drop)
    }

    async fn insert<'a>(&mut self, rows: impl IntoIterator<Item = &'a Row>, on_conflict: &str) -> Result<u64, Error> {
        let rows: Vec<_> = rows.into_iter().map(columns).collect();
        if rows.is_empty() {
            return Ok(0);
        }
        let names = COLUMNS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        let from = self.dialect.records(&COLUMNS, 1);
        // WHERE: without it SQLite takes ON for a part of a join.
        let sql = format!(
            "INSERT INTO work ({names}) SELECT {names} FROM {from} WHERE 1 = 1 ON CONFLICT (kind, id) DO {on_conflict}"
        );
        self.run(sql!(built(sql), records(&COLUMNS, rows))).await
    }

    /// Makes the lease last `lease` from now, and fails if it was lost.
    pub async fn renew(&mut self, claim: &mut Claim, lease: Duration) -> Result<(), Error> {
        let deadline = self.began + lease;
        let sql = "UPDATE work SET due_at = CASE WHEN due_at = lease_until THEN $5 ELSE due_at END, lease_until = $5
            WHERE kind = $1 AND id = $2 AND epoch = $3 AND lease_owner = $4 AND lease_until > $6";
        let (now, until) = (self.now(), self.now().plus(lease));
        if self.run(sql!(sql, claim.subject.kind(), claim.subject.id(), claim.epoch, claim.owner, until, now)).await?
            == 0
        {
            return Err(claim.stale());
        }
        claim.deadline = deadline;
        Ok(())
    }

    /// Ends a reconciliation and gives the row back; with it commit the reconciliation's results. Fails, and with it the whole
    /// transaction, if somebody else has claimed the row since.
    pub async fn finish(&mut self, claim: &Claim, finish: &Finish) -> Result<(), Error> {
        self.traceparent.clone_from(&claim.traceparent);
        let finish = self.judged_again(finish.clone()).await?;
        let ours = |row: &Row| row.epoch == claim.epoch && row.lease.as_ref().is_some_and(|l| l.owner == claim.owner);
        let row = self.lock_one(&claim.subject).await?.filter(ours);
        let mut row = row.ok_or_else(|| claim.stale())?;
        if finish.blocked.is_none() && finish.unfinished.is_none() && !finish.suspicious {
            self.unsuspect(&claim.subject).await?;
        }
        row.end(claim.wanted, claim.permit.as_ref(), &finish, self.now());
        self.save([&row]).await?;
        self.touch(&claim.subject);
        if let (Subject::Item(item), true) = (&claim.subject, row.unblocked > claim.wanted) {
            // Refused in this reconciliation, perhaps before the event that changed Plaid's mind: the next reconciliation
            // must not wait.
            self.ask_refused_again(&BTreeSet::from([item])).await?;
        }
        Ok(())
    }

    /// Others may have come to agree between the refusal and the end of the reconciliation: then the row is paused like them,
    /// and nobody is told that it is parked.
    pub async fn judged_again(&mut self, finish: Finish) -> Result<Finish, Error> {
        let (Some(blocked), Some((provider, agree))) = (&finish.blocked, finish.unless_agreed) else {
            return Ok(finish);
        };
        let by = if self.suspects(provider, &blocked.code).await? >= agree { Block::Pause } else { blocked.by };
        Ok(Finish { blocked: Some(Blocked { by, ..blocked.clone() }), unless_agreed: None, ..finish })
    }

    /// Locks the row for the transaction that ends the reconciliation. Fails if somebody else has claimed it since; a lease
    /// that ended meanwhile and that nobody took is still good for that.
    pub async fn lock(&mut self, claim: &Claim) -> Result<(), Error> {
        self.traceparent.clone_from(&claim.traceparent);
        let sql = "UPDATE work SET held = held WHERE kind = $1 AND id = $2 AND epoch = $3 AND lease_owner = $4";
        if self.run(sql!(sql, claim.subject.kind(), claim.subject.id(), claim.epoch, claim.owner)).await? == 0 {
            Err(claim.stale())
        } else {
            Ok(())
        }
    }

    /// Locks the row, if there is one, so that what is read next stays so until the transaction ends.
    pub async fn lock_row(&mut self, subject: impl Into<Subject>) -> Result<(), Error> {
        let subject = subject.into();
        let sql = "UPDATE work SET held = held WHERE kind = $1 AND id = $2";
        self.run(sql!(sql, subject.kind(), subject.id())).await?;
        Ok(())
    }

    /// Locks several that will be written, in the order of everybody: whoever came to the second one later, with the first one in
    /// hand, could meet somebody who has them the other way round.
    pub async fn lock_rows(&mut self, subjects: &[Subject]) -> Result<(), Error> {
        let of = |kind| list(subjects.iter().filter(|s| s.kind() == kind).map(Subject::id));
        let (items, businesses) = (self.dialect.among("id", 1), self.dialect.among("id", 2));
        let condition = format!("kind = 'item' AND {items} OR kind = 'business' AND {businesses}");
        self.lock_where(&condition, |sql| sql!(built(sql), of(Kind::Item), of(Kind::Business))).await
    }

    /// Locks the rows that a statement is about to write, in the order of everybody: the statement itself would take them in
    /// whichever order it finds them.
    pub(crate) async fn lock_where(
        &mut self,
        condition: &str,
        bound: impl FnOnce(String) -> Query,
    ) -> Result<(), Error> {
        if self.dialect == Dialect::Sqlite {
            return Ok(());
        }
        // Counted there, for it may be everybody. An Item's row comes before a business's.
        let rows = format!("SELECT 1 FROM work WHERE {condition} ORDER BY kind DESC, id FOR UPDATE");
        self.count(bound(format!("SELECT COUNT(*) AS n FROM ({rows}) AS locked"))).await.map(drop)
    }

    /// What was sent under this claim was not answered and may arrive late: as after a take-over, the row owes a
    /// reconciliation once that can't happen any more.
    pub async fn may_arrive_late(&mut self, claim: &Claim) -> Result<(), Error> {
        let sql = "UPDATE work SET taken_over = $5 WHERE kind = $1 AND id = $2 AND epoch = $3 AND lease_owner = $4";
        if self.run(sql!(sql, claim.subject.kind(), claim.subject.id(), claim.epoch, claim.owner, self.now())).await?
            == 0
        {
            Err(claim.stale())
        } else {
            Ok(())
        }
    }

    /// Fails unless the claim still holds its lease.
    pub async fn check_lease(&mut self, claim: &Claim) -> Result<(), Error> {
        self.traceparent.clone_from(&claim.traceparent);
        // An update of nothing: it locks the row, so that nobody takes the lease over before this transaction ends.
        let sql = "UPDATE work SET held = held
            WHERE kind = $1 AND id = $2 AND epoch = $3 AND lease_owner = $4 AND lease_until > $5";
        let now = self.now().0;
        if self.run(sql!(sql, claim.subject.kind(), claim.subject.id(), claim.epoch, claim.owner, now)).await? == 0 {
            Err(claim.stale())
        } else {
            Ok(())
        }
    }

    /// The row as it stands; none if there is none.
    pub async fn work(&mut self, subject: impl Into<Subject>) -> Result<Option<Row>, Error> {
        let subject = subject.into();
        let sql = "SELECT * FROM work WHERE kind = $1 AND id = $2";
        self.row(sql!(sql, subject.kind(), subject.id())).await?.map(|r| work_row(&r)).transpose()
    }
}

/// In the order of [`columns`]; the first two name the row.
const COLUMNS: [(&str, Of); 27] = [
    ("kind", Of::Text),
    ("id", Of::Text),
    ("due_at", Of::Number),
    ("class", Of::Number),
    ("reason", Of::Text),
    ("wanted", Of::Number),
    ("done", Of::Number),
    ("unblocked", Of::Number),
    ("attempts", Of::Number),
    ("lease_owner", Of::Text),
    ("lease_until", Of::Number),
    ("epoch", Of::Number),
    ("held", Of::Number),
    ("taken_over", Of::Number),
    ("blocked_by", Of::Text),
    ("blocked_code", Of::Text),
    ("blocked_why", Of::Text),
    ("blocked_objection", Of::Text),
    ("blocked_at", Of::Number),
    ("said_at", Of::Number),
    ("permit", Of::Number),
    ("permits", Of::Text),
    ("signal_at", Of::Number),
    ("looked_at", Of::Number),
    ("needs", Of::Text),
    ("next_look", Of::Number),
    ("traceparent", Of::Text),
];

fn columns(row: &Row) -> [serde_json::Value; 27] {
    let (lease, blocked) = (row.lease.as_ref(), row.blocked.as_ref());
    row![
        row.subject.kind(),
        row.subject.id(),
        row.due_at,
        row.class,
        row.reason,
        row.wanted,
        row.done,
        row.unblocked,
        row.attempts,
        lease.map(|l| &*l.owner),
        lease.map(|l| l.until),
        row.epoch,
        row.held,
        row.taken_over,
        blocked.map(|b| b.by),
        blocked.map(|b| &*b.code),
        blocked.map(|b| &*b.why),
        blocked.and_then(|b| stored(&b.objection)),
        row.blocked_at,
        row.said_at,
        row.permit.is_some(),
        row.permit.as_ref().and_then(|p| stored(&p.0)),
        row.signal_at,
        row.looked_at,
        row.needs,
        row.next_look,
        row.traceparent,
    ]
}

/// A word that this release does not know, as a newer one may have left it before a rollback, parks the row: it must not take
/// the lists that it stands in along, and somebody should hear of it.
pub(crate) fn blocked(row: &AnyRow) -> Result<Option<Blocked>, Error> {
    let Some(word) = opt_text(row, "blocked_by")? else { return Ok(None) };
    let (code, why) = (opt_text(row, "blocked_code")?, opt_text(row, "blocked_why")?);
    Ok(Some(match Block::from_word(&word) {
        Some(by) => Blocked::new(by, code.unwrap_or_default(), why.unwrap_or_default()),
        None => Blocked::new(
            Block::Parked,
            Code::UnreadableRow.as_str(),
            format!(
                "this release does not know the word {word:?} in work.blocked_by: run the one that wrote it, or release the row"
            ),
        ),
    }))
}

/// None: nothing that could be permitted.
fn stored(objection: &Objection) -> Option<String> {
    (!objection.is_empty()).then(|| serde_json::json!(objection).to_string())
}

/// What this release can't read permits nothing: the guard speaks again.
fn objection(row: &AnyRow, column: &str) -> Result<Objection, Error> {
    let text = opt_text(row, column)?;
    Ok(text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default())
}

pub(crate) fn blocked_with_objection(row: &AnyRow) -> Result<Option<Blocked>, Error> {
    Ok(match blocked(row)? {
        Some(blocked) => Some(Blocked { objection: objection(row, "blocked_objection")?, ..blocked }),
        None => None,
    })
}

/// Of the columns `kind` and `id`.
pub(crate) fn subject_of(row: &AnyRow) -> Result<Subject, Error> {
    Ok(Subject::from_stored(get(row, "kind")?, text(row, "id")?))
}

pub(crate) fn work_row(row: &AnyRow) -> Result<Row, Error> {
    let (owner, until) = (opt_text(row, "lease_owner")?, get::<Option<_>>(row, "lease_until")?);
    Ok(Row {
        subject: subject_of(row)?,
        due_at: get(row, "due_at")?,
        class: Class::from_rank(number(row, "class")?),
        reason: text(row, "reason")?,
        wanted: number(row, "wanted")?,
        done: number(row, "done")?,
        unblocked: number(row, "unblocked")?,
        attempts: u32::try_from(number(row, "attempts")?).unwrap_or(u32::MAX),
        lease: owner.zip(until).map(|(owner, until)| Lease { owner, until }),
        epoch: number(row, "epoch")?,
        held: get::<bool>(row, "held")?,
        taken_over: get(row, "taken_over")?,
        blocked: blocked_with_objection(row)?,
        blocked_at: get(row, "blocked_at")?,
        said_at: get(row, "said_at")?,
        permit: match get::<bool>(row, "permit")? {
            true => Some(Permit(objection(row, "permits")?)),
            false => None,
        },
        signal_at: get(row, "signal_at")?,
        looked_at: get(row, "looked_at")?,
        // What it was unfinished for it finds out again.
        needs: opt_text(row, "needs")?.and_then(|w| Call::from_word(&w)),
        next_look: get(row, "next_look")?,
        traceparent: get(row, "traceparent")?,
    })
}
