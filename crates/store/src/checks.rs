//! What must be true of a whole store: behind the feature `checks`, for tests. A store in use is too large for it.

use crate::sql::{sql, text};
use crate::verdicts::SLICE;
use crate::verdicts::{state_of, waits_on_of};
use crate::{Error, Tx};
use domain::verdict::{State, WaitsOn};
use domain::work::Kind;
use std::collections::{BTreeMap, BTreeSet};

impl Tx {
    /// Rows with an event that no reconciliation has served yet and that nothing keeps from being served, a hundred at most.
    pub async fn unserved(&mut self, kind: Kind) -> Result<Vec<String>, Error> {
        let sql = "SELECT id FROM work WHERE kind = $1
            AND (lease_owner IS NOT NULL OR (wanted > done AND (blocked_by IS NULL OR blocked_by IN ('backoff', 'pause'))))
            ORDER BY id LIMIT 100";
        let rows = self.rows(sql!(sql, kind)).await?;
        rows.iter().map(|r| text(r, "id")).collect()
    }

    /// Stored verdicts that are not what the facts say: there must be none while nobody works on a row. A reconciliation may
    /// leave one behind, on the bad side, until it ends.
    pub async fn stale_verdicts(&mut self) -> Result<Vec<String>, Error> {
        let leased = self.count(sql!("SELECT COUNT(*) AS n FROM work WHERE held = 1")).await? > 0;
        let mut stale = Vec::new();
        for (kind, known) in [
            (Kind::Item, "SELECT item_id AS id FROM items"),
            (Kind::Business, "SELECT business_id AS id FROM businesses"),
        ] {
            let ids = self.rows(sql!(known)).await?.iter().map(|r| text(r, "id")).collect::<Result<Vec<_>, _>>()?;
            let rows = self.rows(sql!("SELECT * FROM verdicts WHERE kind = $1", kind)).await?;
            let stored: BTreeMap<String, (State, WaitsOn)> = rows
                .iter()
                .map(|r| Ok((text(r, "id")?, (state_of(r)?, waits_on_of(r)?))))
                .collect::<Result<_, Error>>()?;
            let mut judged = BTreeMap::new();
            for slice in ids.chunks(SLICE) {
                judged.extend(self.judge_kind(kind, slice).await?);
            }
            let so: BTreeMap<String, (State, WaitsOn)> =
                judged.into_iter().map(|(subject, v)| (subject.id().to_owned(), (v.state, v.waits_on))).collect();
            for id in so.keys().chain(stored.keys()).collect::<BTreeSet<_>>() {
                let behind = |s: &&(State, WaitsOn)| leased && !s.0.is_good();
                if so.get(id) != stored.get(id) && stored.get(id).filter(behind).is_none() {
                    stale.push(format!("{kind} {id}: stored {:?}, is {:?}", stored.get(id), so.get(id)));
                }
            }
        }
        Ok(stale)
    }
}
