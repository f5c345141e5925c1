//! Everything a look found, in one transaction with its end.

use super::{Fault, Found, Look, NewState};
use crate::Mode;
use crate::faults::{Interrupted, backoff, done};
use crate::outcome::{self, kind};
use domain::accounts::{AccountState, Change, Outside, Proof};
use domain::item::{Cause, ItemState};
use domain::metric;
use domain::queue::Finish;
use domain::token_list::LeaveOut;
use domain::work::{Block, Class, HintKind, Kind};
use domain::{AccountId, BusinessId, Millis};
use serde_json::json;
use std::collections::BTreeSet;
use std::time::Duration;
use store::{AccountUpdate, Act, MintFault, Tx, subject};

impl Look<'_> {
    pub(super) async fn commit(&self, mut found: Found) -> Result<(), Interrupted> {
        let mut tx = self.context.store.begin().await?;
        tx.lock(&self.claim).await?;
        let mut touched: BTreeSet<BusinessId> = BTreeSet::new();
        let (state_changed, was_gone) = self.save_state(&mut tx, &found).await?;
        if state_changed || was_gone {
            touched.extend(tx.businesses_of_item(&self.item.id).await?);
        }
        let tokenless = self.tokenless(&mut tx, &found).await?;
        for change in &found.accounts {
            if !self.waits_for_heir(change, &found, &tokenless) {
                self.save_account(&mut tx, change, &mut touched).await?;
            }
        }
        if found.read {
            tx.item_was_read(&self.item.id).await?;
        }
        for account in found.minted.iter().chain(&found.adopted) {
            tx.set_mint_fault(&self.item.id, account, None).await?;
            touched.extend(found.accounts.iter().filter(|a| a.id == *account).filter_map(|a| a.business.clone()));
        }
        self.save_faults(&mut tx, &found).await?;
        if tokenless.is_empty() {
            self.retire_replaced(&mut tx, &found, &mut touched).await?;
        }
        self.settle_hints(&mut tx, &found).await?;
        self.report_ends(&mut tx).await?;
        self.report_would_mint(&mut tx, &found).await?;
        // Tokens minted in a look that was cut short count as well: a restart must not leave them unlisted.
        let behind: BTreeSet<BusinessId> = self.lists_behind(&mut tx).await?.into_iter().collect();
        for business in touched.union(&behind) {
            let class =
                if self.item.generation > 1 { self.claim.class } else { self.claim.class.min(Class::NewAccount) };
            // Items of one business that change together become one PUT.
            let wait = if class == Class::Person { Duration::ZERO } else { self.context.settings.debounce };
            let reason = format!("item {}", self.item.id);
            let changed = touched.contains(business);
            tx.mark_business(business, class, &reason, wait, changed, Some(&self.claim)).await?;
        }
        let finish = self.ending(&mut tx, &mut found).await?;
        self.report_parked(&mut tx, &finish, &touched).await?;
        tx.finish(&self.claim, &finish).await?;
        tx.commit().await?;
        if self.unannounced && !touched.is_empty() {
            metrics::counter!(metric::DRIFT, "kind" => "item").increment(1);
        }
        if !touched.is_empty() || !behind.is_empty() {
            self.context.businesses_due.notify_one();
        }
        self.context.outbox_filled.notify_one();
        Ok(())
    }

    /// Businesses whose last accepted list lacks a live token of this Item.
    async fn lists_behind(&self, tx: &mut Tx) -> Result<Vec<BusinessId>, Interrupted> {
        let mut behind = Vec::new();
        for business in tx.businesses_of_item(&self.item.id).await? {
            let Some(row) = tx.business(&business).await? else { continue };
            let wanted = tx.wanted_accounts(&business).await?;
            // Tokens that Layer refused a list for wait outside until there are new ones; that is no news.
            let waits = |w: &store::WantedAccount| row.leave_out != LeaveOut::Nothing && w.older_generation;
            let lacks =
                |w: &store::WantedAccount| !waits(w) && w.token.as_ref().is_some_and(|t| !row.accepted.contains(t));
            if wanted.iter().any(|w| w.item == self.item.id && lacks(w)) {
                behind.push(business);
            }
        }
        Ok(behind)
    }

    /// Accounts that take part and have no live token of this generation.
    async fn tokenless(&self, tx: &mut Tx, found: &Found) -> Result<BTreeSet<AccountId>, Interrupted> {
        let live = tx.live_generations(&self.item.id).await?;
        let has = |id: &AccountId| live.iter().any(|(a, g)| a == id && *g >= self.item.generation);
        let takes_part = found.accounts.iter().filter(|a| a.business.is_some() && is_present(&a.settled.change));
        Ok(takes_part.filter(|a| !has(&a.id)).map(|a| a.id.clone()).collect())
    }

    /// A re-numbered account leaves in the PUT in which its successor enters. While a new one has no token yet, both
    /// are left as they were, and the next look settles them again.
    fn waits_for_heir(&self, change: &super::AccountChange, found: &Found, tokenless: &BTreeSet<AccountId>) -> bool {
        let renumbered =
            |c: &super::AccountChange| matches!(c.settled.change, Change::Gone { proof: Proof::Renumbered, .. });
        let is_new = |c: &super::AccountChange| !self.known.iter().any(|k| k.id == c.id);
        let newcomer_waits = found.accounts.iter().any(|c| is_new(c) && tokenless.contains(&c.id));
        let concerned = renumbered(change) || is_new(change) && tokenless.contains(&change.id);
        found.accounts.iter().any(renumbered) && newcomer_waits && concerned
    }

    /// A hint is judged when its account is gone, or when Plaid still shows what it denied a while after it was said.
    async fn settle_hints(&self, tx: &mut Tx, found: &Found) -> Result<(), Interrupted> {
        let is_there = |s: &NewState| matches!(s.state, ItemState::Active | ItemState::LoginRequired);
        if !found.state.as_ref().is_some_and(is_there) || found.accounts.is_empty() {
            return Ok(());
        }
        for hint in tx.hints(&self.item.id).await? {
            let gone =
                |a: &super::AccountChange| Some(&a.id) == hint.account.as_ref() && !is_present(&a.settled.change);
            let late = tx.now() >= hint.said_at.plus(self.context.settings.gone_after);
            let unproved = matches!(hint.kind, HintKind::AccountRevoked | HintKind::PermissionRevoked);
            if unproved && (late || found.accounts.iter().any(gone)) {
                tx.settle_hint(&self.item.id, &hint).await?;
            }
        }
        Ok(())
    }

    /// Returns whether the state changed, and whether it is one in which everything leaves.
    async fn save_state(&self, tx: &mut Tx, found: &Found) -> Result<(bool, bool), Interrupted> {
        let Some(NewState { state, cause, why }) = &found.state else { return Ok((false, false)) };
        let item = &self.item;
        let why = why.as_deref().or(cause.map(Cause::sentence));
        tx.set_item_state(&item.id, *state, *cause, why).await?;
        if *state == item.state {
            return Ok((false, false));
        }
        let businesses = tx.businesses_of_item(&item.id).await?;
        let payload = json!({"from": item.state, "to": state, "why": why});
        outcome::about_item(tx, &self.claim, &item.id, &businesses, kind::ITEM_STATE, payload).await?;
        match state {
            ItemState::Active => tracing::info!(from = %item.state, "item is active"),
            _ => tracing::warn!(from = %item.state, to = %state, why, "item changed its state"),
        }
        Ok((true, state.is_gone() || item.state.is_gone()))
    }

    async fn save_account(
        &self,
        tx: &mut Tx,
        change: &super::AccountChange,
        touched: &mut BTreeSet<BusinessId>,
    ) -> Result<(), Interrupted> {
        let known = self.known.iter().find(|a| a.id == change.id);
        let settled = &change.settled;
        let (state, missing_since, proof, outside) = match &settled.change {
            Change::Joined { .. } | Change::Present | Change::Moved { .. } => (AccountState::Active, None, None, None),
            Change::Outside(why) => (AccountState::Active, None, None, Some(*why)),
            Change::Missing { since, .. } => (AccountState::Active, Some(*since), None, None),
            Change::Gone { state, proof } => {
                let before = known.filter(|k| k.state != AccountState::Active).and_then(|k| k.proof);
                (*state, known.and_then(|k| k.missing_since), Some(before.unwrap_or(*proof)), None)
            }
        };
        let update = AccountUpdate {
            item: &self.item.id,
            id: &change.id,
            traits: &settled.traits,
            state,
            business: change.business.as_ref(),
            missing_since,
            before: known.and_then(|k| k.business.as_ref()),
            proof,
            outside,
        };
        tx.save_account(&update).await?;
        if let (Change::Joined { business }, None) = (&settled.change, known)
            && (self.item.only_listed || self.item.business.as_ref() != Some(business))
        {
            tx.inherit_assignment(&self.item.id, &change.id, business).await?;
        }
        let before = known.and_then(|k| k.business.clone());
        let changed = known.is_none_or(|k| k.state != state || k.business != change.business)
            || known.is_some_and(|k| k.missing_since.is_some() != missing_since.is_some());
        let takes_part = before.is_some() || change.business.is_some();
        if changed && takes_part {
            touched.extend(before.iter().cloned().chain(change.business.clone()));
            let word = word(&settled.change);
            let why = outside.map(Outside::sentence);
            let payload = json!({"account_id": change.id, "change": word, "proof": proof, "why": why});
            let concerned: Vec<BusinessId> =
                before.into_iter().chain(change.business.clone()).collect::<BTreeSet<_>>().into_iter().collect();
            outcome::about_item(tx, &self.claim, &self.item.id, &concerned, kind::ACCOUNT, payload).await?;
            let proof = proof.map(Proof::as_str);
            tracing::info!(account = %change.id, change = word, proof, "account changed");
        }
        Ok(())
    }

    async fn save_faults(&self, tx: &mut Tx, found: &Found) -> Result<(), Interrupted> {
        let generation = self.item.generation;
        let live = tx.live_generations(&self.item.id).await?;
        let is_live = |id: &AccountId| live.iter().any(|(a, g)| a == id && *g >= generation);
        // Minted by a look that died before it could say so.
        for account in self.known.iter().filter(|a| a.mint_fault.is_some() && is_live(&a.id)) {
            tx.set_mint_fault(&self.item.id, &account.id, None).await?;
        }
        for Fault { account, refused, code, why } in &found.faults {
            let before = self.known.iter().find(|a| a.id == *account).and_then(|a| a.mint_fault.as_ref());
            let same = before.filter(|f| f.generation == generation && f.code == *code);
            let tries = same.map_or(0, |f| f.tries).saturating_add(1);
            let again_at = tx.now().plus(self.context.slow_backoff(tries));
            let (refused, code, why) = (*refused, code.clone(), why.clone());
            let fault = MintFault { refused, code, why, generation, tries, again_at };
            tx.set_mint_fault(&self.item.id, account, Some(&fault)).await?;
            if same.is_some() {
                // Said when it began.
                continue;
            }
            let businesses = tx.businesses_of_item(&self.item.id).await?;
            let payload = json!({
                "account_id": account, "change": "not_minted", "code": fault.code, "why": fault.why, "again_at": again_at.rfc3339(),
            });
            outcome::about_item(tx, &self.claim, &self.item.id, &businesses, kind::ACCOUNT, payload).await?;
        }
        Ok(())
    }

    /// A re-linked Item takes the place of the old one once every account has its token, so that both happen in one PUT.
    async fn retire_replaced(
        &self,
        tx: &mut Tx,
        found: &Found,
        touched: &mut BTreeSet<BusinessId>,
    ) -> Result<(), Interrupted> {
        let Some(old) = &self.item.replaces else { return Ok(()) };
        let read = !found.accounts.is_empty() && found.finish.is_none() && found.faults.is_empty();
        let is_active = found.state.as_ref().is_some_and(|s| s.state == ItemState::Active);
        if !read || self.context.settings.mode == Mode::Observe || !is_active {
            return Ok(());
        }
        touched.extend(tx.remove_item(old).await?);
        tx.replaced(&self.item.id).await?;
        tx.audit(&Act {
            by: "rekey",
            from: None,
            action: "item.replaced",
            subject: subject(Kind::Item, old.as_str()),
            was: None,
            became: Some(json!({"replaced_by": self.item.id.as_str()})),
        })
        .await?;
        tracing::info!(old = %old, "the replaced item leaves with the arrival of this one");
        Ok(())
    }

    /// Plaid announced that access will end: said once per announcement.
    async fn report_ends(&self, tx: &mut Tx) -> Result<(), Interrupted> {
        let ends = [HintKind::PendingDisconnect, HintKind::PendingExpiration];
        for hint in tx.hints(&self.item.id).await?.into_iter().filter(|h| ends.contains(&h.kind) && !h.reported) {
            let businesses = tx.businesses_of_item(&self.item.id).await?;
            let payload = json!({"kind": hint.kind, "ends_at": hint.detail});
            let kind = kind::ITEM_ENDS;
            outcome::about_item(tx, &self.claim, &self.item.id, &businesses, kind, payload).await?;
            tx.hint_reported(&self.item.id, &hint).await?;
            tracing::warn!(ends_at = hint.detail, "Plaid announced the end of access to this item");
        }
        Ok(())
    }

    async fn report_would_mint(&self, tx: &mut Tx, found: &Found) -> Result<(), Interrupted> {
        if found.would_mint.is_empty() {
            return Ok(());
        }
        let businesses = tx.businesses_of_item(&self.item.id).await?;
        let payload = json!({"would_mint": found.would_mint});
        outcome::about_item(tx, &self.claim, &self.item.id, &businesses, kind::WOULD, payload).await?;
        tracing::info!(accounts = found.would_mint.len(), "observe mode: would mint for these accounts");
        Ok(())
    }

    async fn report_parked(
        &self,
        tx: &mut Tx,
        finish: &Finish,
        touched: &BTreeSet<BusinessId>,
    ) -> Result<(), Interrupted> {
        let Some(blocked) = finish.blocked.as_ref().filter(|b| b.by == Block::Parked) else { return Ok(()) };
        let before = tx.work(self.claim.kind, &self.claim.id).await?.and_then(|w| w.blocked);
        if before.is_some_and(|b| b.by == Block::Parked && b.code == blocked.code) {
            // The sweep found it as it was: said once is enough.
            return Ok(());
        }
        tracing::error!(code = blocked.code, why = blocked.why, "item parked");
        let payload = json!({"kind": "item", "code": blocked.code, "why": blocked.why});
        let businesses: Vec<BusinessId> = touched.iter().cloned().collect();
        outcome::about_item(tx, &self.claim, &self.item.id, &businesses, kind::PARKED, payload).await?;
        Ok(())
    }

    /// When to look again.
    async fn ending(&self, tx: &mut Tx, found: &mut Found) -> Result<Finish, Interrupted> {
        if let Some(finish) = found.finish.take() {
            return Ok(finish);
        }
        let settings = &self.context.settings;
        let mut finish = done(self.context);
        let awaits = found.state.as_ref().is_some_and(|s| s.state == ItemState::AwaitingToken);
        if awaits && self.can_look_up() {
            // The platform's database is asked again until it names the new token, ever more slowly.
            let why = "waiting for the platform's database to name the new access token".to_owned();
            finish = backoff(self.context, &self.claim, None, "awaiting_token", why);
            finish.again_after = finish.again_after.min(settings.awaiting_token_poll);
        }
        let proof = self.next_proof(tx, found).await?;
        let mint = self.next_refused(tx, found).await?;
        // A mint that is still refused says no good word for its provider, asked for in this look or not.
        finish.suspicious = found.suspicious || mint.is_some();
        if let Some(at) = proof.into_iter().chain(mint).min() {
            let wait = at.since(tx.now());
            if wait < finish.again_after {
                finish = Finish { again_after: wait, class: Class::Retry, ..finish };
            }
        }
        Ok(finish)
    }

    fn can_look_up(&self) -> bool {
        !matches!(self.context.source, crate::TokenSource::PushOnly)
    }

    /// When a mint that Plaid refuses is asked for again.
    async fn next_refused(&self, tx: &mut Tx, found: &Found) -> Result<Option<Millis>, Interrupted> {
        if found.faults.is_empty() && self.known.iter().all(|a| a.mint_fault.is_none()) {
            return Ok(None);
        }
        let accounts = tx.accounts(&self.item.id).await?.into_iter();
        let waiting = accounts.filter(|a| a.business.is_some() && a.state == AccountState::Active);
        let faults = waiting.filter_map(|a| a.mint_fault).filter(|f| f.generation == self.item.generation);
        let now = tx.now();
        // This look could not ask for it, though it was time: at once again would be for ever.
        let next = |f: MintFault| match f.again_at > now {
            true => f.again_at,
            false => now.plus(self.context.slow_backoff(f.tries.max(1))),
        };
        Ok(faults.map(next).min())
    }

    /// The moment at which a missing account may be proved gone, or a revocation that Plaid's cached list does not
    /// show yet may have reached it.
    async fn next_proof(&self, tx: &mut Tx, found: &Found) -> Result<Option<Millis>, Interrupted> {
        let missing = found.accounts.iter().filter_map(|a| match &a.settled.change {
            Change::Missing { again_at, .. } => Some(*again_at),
            _ => None,
        });
        let unproved = |k: HintKind| matches!(k, HintKind::AccountRevoked | HintKind::PermissionRevoked);
        let open = tx.hints(&self.item.id).await?.into_iter().any(|h| {
            let gone = |a: &super::AccountChange| {
                Some(&a.id) == h.account.as_ref() && matches!(a.settled.change, Change::Gone { .. })
            };
            unproved(h.kind) && !found.accounts.iter().any(gone)
        });
        let gone_item = found.state.as_ref().is_some_and(|s| s.state.is_gone());
        let hinted = (open && !gone_item).then(|| tx.now().plus(self.context.settings.gone_after));
        Ok(missing.chain(hinted).min())
    }
}

fn is_present(change: &Change) -> bool {
    matches!(change, Change::Joined { .. } | Change::Present | Change::Moved { .. })
}

fn word(change: &Change) -> &'static str {
    match change {
        Change::Joined { .. } => "joined",
        Change::Present => "present",
        Change::Outside(_) => "left_out",
        Change::Moved { .. } => "moved",
        Change::Missing { .. } => "missing",
        Change::Gone { .. } => "gone",
    }
}
