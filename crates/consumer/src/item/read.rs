//! Reads the Item's accounts and settles who takes part (I8).

use super::{AccountChange, Found, Look, Stop};
use crate::faults::{Refusal, conclude, parked};
use domain::accounts::{Change, Known, Read, Rules, Said, settle};
use domain::budget::Call;
use domain::item::ItemState;
use domain::work::HintKind;
use domain::{AccountId, BusinessId, Millis};
use plaid::Meaning;
use store::{CurrentToken, Hint};
use tracing::field::Empty;

/// What a look needs besides the accounts themselves.
struct Facts {
    rules: Rules,
    hints: Vec<Hint>,
    now: Millis,
}

/// Marks an account whose token Plaid refused to mint because it does not know the account.
pub(super) const UNKNOWN_TO_PLAID: &str = "INVALID_ACCOUNT_ID";

impl Look<'_> {
    pub(super) async fn read_accounts(&mut self, current: &CurrentToken, found: &mut Found) -> Result<(), Stop> {
        self.turn(Call::AccountsGet).await?;
        let span = tracing::info_span!(target: traces::STEP, "read accounts", outcome = Empty);
        let accounts = self.context.plaid.accounts_get(&current.token);
        let read = match traces::step(span, plaid::Error::code, accounts).await {
            Ok(read) => read,
            Err(error) => return Err(self.unreadable(&error).await),
        };
        if read.item.item != self.item.id {
            // It was proved by `/item/get` before, so this is Plaid contradicting itself; nothing is concluded.
            return Err(Stop::State(ItemState::AwaitingToken, "Plaid names another Item for the access token".into()));
        }
        let facts = self.facts().await?;
        if let Some(finish) = self.strangers_named(&facts.rules, &read.accounts) {
            return Err(Stop::Row(finish));
        }
        let known: Vec<Known> = self.known.iter().map(store::AccountRow::known).collect();
        let said = |id: &AccountId| self.said(id, &facts.hints);
        let settled = settle(&known, &read.accounts, said, &facts.rules, facts.now);
        for one in settled {
            let business = self.business_after(&one.id, &one.change);
            found.accounts.push(AccountChange { id: one.id.clone(), business, settled: one });
        }
        let login_required = read.item.error_code.as_deref() == Some("ITEM_LOGIN_REQUIRED");
        found.state = Some(if login_required {
            (ItemState::LoginRequired, Some("Plaid says that the user must log in again".into()))
        } else {
            (ItemState::Active, None)
        });
        Ok(())
    }

    /// A push that names an account that Plaid has never shown for this Item, and leaves out one that takes part, looks
    /// like a mistake: to follow it would drop the account that was meant.
    fn strangers_named(&self, rules: &Rules, shown: &[Read]) -> Option<store::Finish> {
        let is_stranger =
            |id: &AccountId| !shown.iter().any(|a| a.id == *id) && !self.known.iter().any(|a| a.id == *id);
        let strangers: Vec<&str> =
            rules.assigned.iter().map(|(id, _)| id).filter(|id| is_stranger(id)).map(AccountId::as_str).collect();
        let why = format!(
            "the last push names accounts that Plaid does not show for this Item ({}): push it again with the right \
             ids; nothing was changed",
            strangers.join(", ")
        );
        let is_named = |id: &AccountId| rules.assigned.iter().any(|(named, _)| named == id);
        let drops =
            self.known.iter().any(|a| a.business.is_some() && !is_named(&a.id) && shown.iter().any(|s| s.id == a.id));
        (rules.only_assigned && drops && !strangers.is_empty()).then(|| parked(self.context, "unknown_account", why))
    }

    /// What it means that the accounts can't be read under the current token.
    async fn unreadable(&self, error: &plaid::Error) -> Stop {
        match error.meaning() {
            Meaning::UnknownToken => self.token_unknown(
                "Plaid does not know the access token any more: it was rotated elsewhere, push the new one",
            ),
            Meaning::LoginRequired => {
                Stop::State(ItemState::LoginRequired, "Plaid says that the user must log in again".into())
            }
            Meaning::ItemGone { revoked: true } => {
                Stop::State(ItemState::Revoked, "Plaid says that the user withdrew consent".into())
            }
            Meaning::ItemGone { revoked: false } => {
                Stop::State(ItemState::Removed, "Plaid says that the Item does not exist any more".into())
            }
            _ => match conclude(self.context, &self.claim, &Refusal::from(error)).await {
                Ok(finish) => Stop::Row(finish),
                Err(interrupted) => Stop::Interrupted(interrupted),
            },
        }
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
            eligible_types: settings.account_types.clone(),
            gone_after: settings.gone_after,
        };
        Ok(Facts { rules, hints: tx.hints(&self.item.id).await?, now: tx.now() })
    }

    fn said(&self, id: &AccountId, hints: &[Hint]) -> Said {
        let refused =
            |a: &store::AccountRow| a.mint_fault.as_ref().is_some_and(|(f, _)| f.starts_with(UNKNOWN_TO_PLAID));
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
