//! Writes the end of a reconciliation of an Item: everything it found and the end of its claim, in one transaction.

use super::Reconciliation;
use super::conclusion::{End, Facts, List, Rules};
use super::report::Report;
use crate::outcome::{self, kind};
use crate::refusals::{backoff, done};
use crate::{Mode, TokenSource, steps};
use domain::item::{CONSENT_ENDS_SOON, ItemState};
use domain::metric;
use domain::token_list::LeaveOut;
use domain::work::{Code, HintKind, Subject};
use serde_json::json;
use store::{Act, Tx, WantedAccount};

impl Reconciliation<'_> {
    pub(super) async fn commit(&mut self) -> Result<(), store::Error> {
        let mut tx = self.context.store.begin().await?;
        if let Some(old) = self.item.replaces.take() {
            // A reconciliation of the old one that is about to end may bring an account into one more business.
            tx.lock_rows(&[Subject::from(&self.item.id), Subject::from(&old)]).await?;
            // The order may have been taken back while this one minted: then both stay.
            let now = tx.item(&self.item.id).await?.and_then(|row| row.replaces);
            self.item.replaces = now.filter(|ordered| *ordered == old);
        }
        tx.lock(&self.claim).await?;
        if let Some(finish) = self.found.finish.take() {
            self.found.finish = Some(tx.judged_again(finish).await?);
        }
        let facts = self.facts_of_end(&mut tx).await?;
        let end = End::of(&facts, &self.rules_of_end());
        self.write(&mut tx, &end).await?;
        tx.commit().await?;
        end.reports.iter().for_each(|(report, _)| report.log());
        if self.unannounced && end.changed() {
            metrics::counter!(metric::DRIFT, "kind" => "item").increment(1);
        }
        Ok(())
    }

    async fn facts_of_end(&self, tx: &mut Tx) -> Result<Facts<'_>, store::Error> {
        let replaced = match &self.item.replaces {
            Some(old) => tx.businesses_of_item(old).await?,
            None => Vec::new(),
        };
        Ok(Facts {
            item: &self.item,
            found: &self.found,
            class: self.claim.class,
            // Only what is written has to stay as it was read: locked needlessly, accounts and the lists they leave could end
            // in a deadlock.
            known: match self.found.read {
                true => tx.lock_accounts(&self.item.id).await?,
                false => tx.accounts(&self.item.id).await?,
            },
            live: tx.live_generations(&self.item.id).await?,
            hints: tx.hints(&self.item.id).await?,
            lists: self.lists(tx).await?,
            replaced,
            blocked: tx.work(&self.claim.subject).await?.and_then(|w| w.blocked),
            now: tx.now(),
        })
    }

    async fn lists(&self, tx: &mut Tx) -> Result<Vec<List>, store::Error> {
        let mut lists = Vec::new();
        for business in tx.businesses_of_item(&self.item.id).await? {
            let Some(row) = tx.business(&business).await? else {
                lists.push(List { business, is_at_layer: false, is_behind: false });
                continue;
            };
            // Tokens that Layer refused a list for wait outside until there are new ones; that was told before.
            let waits = |w: &WantedAccount| row.leave_out != LeaveOut::Nothing && w.older_generation;
            let lacks = |w: &WantedAccount| !waits(w) && w.token.as_ref().is_some_and(|t| !row.accepted.contains(t));
            let wanted = tx.wanted_accounts(&business).await?;
            let is_behind = wanted.iter().any(|w| w.item == self.item.id && lacks(w));
            lists.push(List { business, is_at_layer: row.layer_id.is_some(), is_behind });
        }
        Ok(lists)
    }

    fn rules_of_end(&self) -> Rules<'_> {
        let settings = &self.context.settings;
        let why = "waiting for the platform's database to name the new access token".to_owned();
        Rules {
            observes: settings.mode == Mode::Observe,
            can_look_up: !matches!(*self.context.source, TokenSource::PushOnly),
            gone_after: settings.gone_after,
            debounce: Box::new(|class| settings.debounce_of(class)),
            awaiting_token_poll: settings.awaiting_token_poll,
            done: done(self.context),
            awaiting: backoff(self.context, &self.claim, None, Code::AwaitingToken, why),
            refused: Box::new(|tries| self.context.slow_backoff(tries)),
        }
    }

    async fn write(&self, tx: &mut Tx, end: &End) -> Result<(), store::Error> {
        let item = &self.item.id;
        if let Some((state, cause, why)) = &end.state {
            tx.set_item_state(item, *state, *cause, why.as_deref()).await?;
        }
        for account in &end.accounts {
            tx.save_account(account).await?;
        }
        for (account, business) in &end.inherits {
            tx.inherit_assignment(item, account, business).await?;
        }
        if end.was_read {
            tx.item_was_read(item).await?;
        }
        if let Some(said) = &self.found.said
            && let Some(ends) = tx.record_said(item, said, CONSENT_ENDS_SOON).await?
        {
            let businesses = tx.businesses_of_item(item).await?;
            let report = Report::Ends { kind: HintKind::PendingExpiration, at: Some(ends.rfc3339()) };
            if let Some((kind, payload)) = report.outcome() {
                outcome::about_item(tx, &self.claim, item, &businesses, kind, payload).await?;
            }
        }
        for (account, fault) in &end.mint_faults {
            tx.set_mint_fault(item, account, fault.as_ref()).await?;
        }
        if let Some(old) = &end.retires {
            let was = tx.item(old).await?.map(|row| row.state);
            let businesses = tx.remove_item(old).await?;
            let why = format!("replaced by {item}");
            let payload = json!({"from": was, "to": ItemState::Removed, "why": why});
            outcome::about_item(tx, &self.claim, old, &businesses, kind::ITEM_STATE, payload).await?;
            tx.audit(&Act {
                by: "rekey",
                from: None,
                action: "item.replaced",
                subject: Subject::from(old).to_string(),
                was: None,
                became: Some(json!({"replaced_by": item.as_str()})),
            })
            .await?;
        }
        for hint in &end.settled_hints {
            tx.settle_hint(item, hint).await?;
        }
        for hint in &end.reported_hints {
            tx.hint_reported(item, hint).await?;
        }
        for (report, businesses) in &end.reports {
            if let Some((kind, payload)) = report.outcome() {
                outcome::about_item(tx, &self.claim, item, businesses, kind, payload).await?;
            }
        }
        let reason = format!("item {item}");
        tx.mark_businesses(&end.marks, &reason, Some(&self.claim)).await?;
        steps::note_end(tx, &self.claim, &end.finish).await?;
        tx.finish(&self.claim, &end.finish).await
    }
}
