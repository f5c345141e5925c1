//! Reads the Item's accounts and settles who takes part (I8).

use super::state::NewState;
use super::{AccountChange, Reconciliation};
use crate::budget::{self, Slot};
use crate::reconcile::Stop;
use crate::refusals::{self, Refusal};
use crate::steps;
use domain::accounts::{Change, Known, MintRefused, Rules, Said, settle};
use domain::budget::Call;
use domain::fault::chain;
use domain::item::{Cause, ItemState};
use domain::work::HintKind;
use domain::{AccessToken, AccountId, BusinessId, Fingerprint, Millis};
use plaid::{ItemInfo, Meaning};
use store::{Declaration, Hint, ItemSaid};
use tracing::field::Empty;

/// What a reconciliation needs besides the accounts themselves.
struct Facts {
    rules: Rules,
    hints: Vec<Hint>,
    /// What was pushed with the current token and is not judged yet.
    waiting: Option<(Fingerprint, Declaration)>,
    /// The newest generation of each account's live tokens.
    live: Vec<(AccountId, i64)>,
    now: Millis,
}

/// A platform's URL may have a password in it, or a key behind its question mark: neither is kept or shown.
fn without_secrets(url: &str) -> String {
    let (url, rest) = url.split_at(url.find(['?', '#']).unwrap_or(url.len()));
    let asks = if rest.is_empty() { "" } else { "?…" };
    match url.split_once("://").and_then(|(scheme, rest)| Some((scheme, rest.split_once('@')?.1))) {
        Some((scheme, place)) => format!("{scheme}://…@{place}{asks}"),
        None => format!("{url}{asks}"),
    }
}

impl Reconciliation<'_> {
    pub(super) async fn read_accounts(&mut self, token: &AccessToken) -> Result<(), Stop> {
        let read = match self.read.take() {
            Some(read) => Ok(read),
            None => self.ask_for_accounts(token).await?,
        };
        let read = match read {
            Ok(read) => read,
            // Judged like an empty list of them: https://plaid.com/docs/errors/item/#no_accounts
            Err(error) if error.meaning() == Meaning::NoAccounts => plaid::Accounts::none_of(&self.item.id),
            Err(error) => return Err(self.refused_as_a_whole(&error).await?),
        };
        if read.item.item != self.item.id {
            // It was proved before, so Plaid contradicts itself: nothing is concluded about the accounts, and
            // a new token is awaited.
            return Err(self.stops_in(NewState::of(ItemState::AwaitingToken, Cause::OtherItemNamed)));
        }
        let state = self.state_beside_accounts(read.item.error_code.as_deref()).await?;
        self.found.said = self.said_beside(&read.item, token).await?;
        let mut facts = self.facts().await?;
        if let Some((token, declaration)) = facts.waiting.take() {
            self.judge_declaration(&token, &declaration, Some(&read.accounts)).await?;
            facts = self.facts().await?;
        }
        let known: Vec<Known> = self.known.iter().map(store::AccountRow::known).collect();
        let said = |id: &AccountId| self.said(id, &facts.hints);
        let settled = settle(&known, &read.accounts, said, &facts.rules, facts.now);
        let is_absent = |c: &Change| matches!(c, Change::Missing { .. } | Change::Gone { .. });
        for one in settled.into_iter().filter(|s| read.complete || !is_absent(&s.change)) {
            let business = self.business_after(&one.id, &one.change);
            self.found.accounts.push(AccountChange { id: one.id.clone(), business, settled: one });
        }
        (self.found.read, self.found.read_at, self.found.live) = (true, facts.now, facts.live);
        self.found.state = Some(state);
        Ok(())
    }

    /// What Plaid says of the Item beside its accounts, kept when it is linked and by each sweep, which asks `/item/get` as well: it
    /// alone names the last webhook that was sent, and so one that never came.
    async fn said_beside(&mut self, info: &ItemInfo, token: &AccessToken) -> Result<Option<ItemSaid>, Stop> {
        // A login that was repaired, or a word about the Item: consent and URL may be others now.
        let may_differ = self.item.state != ItemState::Active || self.claim.reason.starts_with("webhook ITEM/");
        if !self.unannounced && !may_differ && self.item.read_at.is_some() {
            return Ok(None);
        }
        let asked = match self.unannounced && self.context.settings.watch_webhooks {
            // Boxed: few reconciliations go this way, and all would be as large as this one.
            true => Box::pin(self.ask_for_item(token)).await?,
            false => None,
        };
        let ItemInfo { institution, webhook, consent_until, last_webhook, .. } = asked.unwrap_or_else(|| info.clone());
        let settings = &self.context.settings;
        // Plaid may be about to send it again, and Kafka to hand it over: the next sweep judges that one.
        let late = Millis(jiff::Timestamp::now().as_millisecond()).minus(settings.missed_webhook_after);
        let ours = self.context.plaid.settings().webhook_url.as_str();
        Ok(Some(ItemSaid {
            elsewhere: !ours.is_empty() && webhook.as_deref() != Some(ours),
            sent: last_webhook.filter(|(at, _)| *at <= late),
            institution,
            webhook_url: webhook.as_deref().map(without_secrets),
            consent_until,
        }))
    }

    /// Only when there is budget at once, and whatever comes of it: nothing else depends on it.
    async fn ask_for_item(&mut self, token: &AccessToken) -> Result<Option<ItemInfo>, Stop> {
        let slot = Slot { call: Call::ItemGet, paced: true, lease: self.context.settings.lease };
        if !budget::is_spare(self.context, &mut self.claim, &slot).await? {
            return Ok(None);
        }
        let span = tracing::info_span!(target: traces::STEP, "read item", outcome = Empty);
        let asked = self.context.plaid.item_get(token);
        match steps::step(steps::READ_ITEM, span, plaid::Error::code, asked).await {
            Ok(info) => Ok(Some(info).filter(|info| info.item == self.item.id)),
            Err(error) => {
                tracing::debug!(error = chain(&error), "Plaid does not say which webhook it sent last");
                refusals::heed(self.context, &Refusal::from(&error)).await?;
                Ok(None)
            }
        }
    }

    pub(super) async fn ask_for_accounts(
        &mut self,
        token: &AccessToken,
    ) -> Result<Result<plaid::Accounts, plaid::Error>, Stop> {
        self.wait_for_slot(Call::AccountsGet).await?;
        let span = tracing::info_span!(target: traces::STEP, "read accounts", outcome = Empty);
        Ok(steps::step(steps::READ_ACCOUNTS, span, plaid::Error::code, self.context.plaid.accounts_get(token)).await)
    }

    async fn facts(&self) -> Result<Facts, Stop> {
        let settings = &self.context.settings;
        let mut tx = self.context.store.begin_read().await?;
        let assigned = tx.assignments(&self.item.id).await?;
        let rules = Rules {
            default_business: self.item.business.clone(),
            assigned: assigned.into_iter().map(|a| (a.account, a.business)).collect(),
            only_assigned: self.item.only_listed,
            new_accounts_join: settings.new_accounts_join,
            eligible_types: self.context.plaid.settings().account_types.clone(),
            gone_after: settings.gone_after,
        };
        Ok(Facts {
            rules,
            hints: tx.hints(&self.item.id).await?,
            waiting: tx.declaration_of_current(&self.item.id).await?,
            live: tx.live_generations(&self.item.id).await?,
            now: tx.now(),
        })
    }

    fn said(&self, id: &AccountId, hints: &[Hint]) -> Said {
        let refused =
            |a: &store::AccountRow| a.mint_fault.as_ref().is_some_and(|f| f.refused == MintRefused::UnknownAccount);
        if hints.iter().any(|h| h.kind == HintKind::AccountRevoked && h.account.as_ref() == Some(id)) {
            Said::Revoked
        } else if self.known.iter().any(|a| a.id == *id && refused(a)) {
            Said::Refused
        } else {
            Said::Nothing
        }
    }

    fn business_after(&self, id: &AccountId, change: &Change) -> Option<BusinessId> {
        match change {
            Change::Joined { business } | Change::Moved { to: business } => Some(business.clone()),
            Change::Outside(_) => None,
            Change::Present | Change::Missing { .. } | Change::Gone { .. } => {
                self.known.iter().find(|a| a.id == *id).and_then(|a| a.business.clone())
            }
        }
    }
}
