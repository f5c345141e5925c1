//! Which access token is the Item's (I5).

use super::Reconciliation;
use crate::outcome::{self, kind};
use crate::reconcile::Stop;
use crate::refusals::{Refusal, conclude};
use crate::steps;
use domain::Millis;
use domain::budget::Call;
use domain::fault::chain;
use domain::item::{Judgement, OwnerAnswer, TokenCause, declaration_may_hold, judge};
use domain::metric;
use domain::work::Class;
use plaid::{Meaning, OfItem};
use serde_json::json;
use store::{Candidate, News, Tx};
use tracing::field::Empty;

impl Reconciliation<'_> {
    /// Asks the platform's database. What it names is at most a candidate: a replica may lag.
    pub(super) async fn look_up_token(&mut self) -> Result<(), Stop> {
        let token = match self.context.source.lookup(&self.item.id).await {
            Ok(Some(token)) => token,
            Ok(None) => {
                metrics::counter!(metric::TOKEN_LOOKUPS, "result" => "absent").increment(1);
                return Ok(());
            }
            Err(error) => {
                // Not a reason to stop: the token we hold may be the right one, and Plaid will say so.
                tracing::warn!(error = chain(&error), "the token source could not be asked");
                metrics::counter!(metric::TOKEN_LOOKUPS, "result" => "failed").increment(1);
                return Ok(());
            }
        };
        metrics::counter!(metric::TOKEN_LOOKUPS, "result" => "found").increment(1);
        let mut tx = self.context.store.begin().await?;
        // Waits for a push that is under way: what it says besides its token must not be lost to this.
        tx.check_lease(&self.claim).await?;
        let news = tx.add_candidate(&self.item.id, &token, "lookup", None).await?;
        if news == News::Candidate {
            self.tokens.candidates = tx.candidates(&self.item.id).await?;
        }
        tx.commit().await?;
        let fingerprint = self.context.store.fingerprints().of_access(&token);
        if let News::RefusedBefore { gone } = news {
            self.gone_elsewhere = gone;
        }
        if news == News::Candidate {
            tracing::info!(token = %fingerprint, "the platform's database holds an access token we did not know");
        }
        self.looked_up = Some(fingerprint);
        Ok(())
    }

    /// The newest candidate first; the first one that Plaid proves settles the others. What an older push said
    /// besides its token outlives it: the platform was told that it is stored.
    pub(super) async fn judge_candidates(&mut self) -> Result<(), Stop> {
        let candidates = std::mem::take(&mut self.tokens.candidates);
        let (mut proved_at, mut promoted) = (self.tokens.proved_at, false);
        for candidate in candidates {
            if promoted && !candidate.declares {
                continue;
            }
            let (answer, refusal) = self.ask_owner(&candidate).await?;
            let ours = self.context.plaid.settings().environment.as_str();
            let environment = candidate.token.environment_hint().map(|theirs| (theirs, ours));
            if let OwnerAnswer::Gone { revoked } = answer
                && self.looked_up.as_ref() == Some(&candidate.fingerprint)
            {
                self.gone_elsewhere = Some(revoked);
            }
            // Said once under the newest token of a linked Item, it may be a mishap: that token is kept and asked about again,
            // for once it was rejected nobody could ask a second time.
            if matches!(answer, OwnerAnswer::Gone { revoked: false }) && proved_at.is_some() {
                self.believe_gone(false).await?;
            }
            let holds = declaration_may_hold(&self.item.id, &answer, environment);
            let overtaken = promoted || proved_at.is_some_and(|at| at >= candidate.seen_at);
            match judge(&self.item.id, &answer, environment) {
                Judgement::Promote if !promoted => {
                    proved_at = Some(self.promote(&candidate).await?);
                    self.proved = Some(candidate.token.clone());
                    promoted = true;
                    if candidate.declares {
                        return Ok(());
                    }
                }
                Judgement::Promote | Judgement::Reject { .. } if holds && overtaken && candidate.declares => {
                    return self.adopt_declaration(&candidate).await;
                }
                Judgement::Promote => {}
                Judgement::Reject { cause, why } => self.reject(&candidate, cause, &why, holds).await?,
                Judgement::Later => match refusal {
                    // The user must log in first: the candidate waits for the repair like the Item does.
                    None => return Ok(()),
                    Some(refusal) => {
                        let finish = conclude(self.context, &self.claim, &refusal).await?;
                        return Err(Stop::Row(finish));
                    }
                },
            }
        }
        Ok(())
    }

    /// Whose token it is. The first one is asked for the accounts, which are needed next in any case, and whose answer names
    /// the Item as well. Where they can't be read, because a login must be repaired first, `/item/get` still says it; and it is
    /// asked at once where the reconciliation before this one had no read of the accounts left for the current token.
    async fn ask_owner(&mut self, candidate: &Candidate) -> Result<(OwnerAnswer, Option<Refusal>), Stop> {
        if !self.reads && self.claim.needs != Some(Call::AccountsGet) {
            match self.ask_for_accounts(&candidate.token).await? {
                Ok(read) => {
                    let owner = read.item.item.clone();
                    self.read = Some(read).filter(|_| owner == self.item.id);
                    return Ok((OwnerAnswer::Names(owner), None));
                }
                Err(error) if is_of_accounts(&error.meaning()) => {}
                Err(error) => {
                    // A token of no Item counts against no Item's limit: the next candidate may be read as well.
                    self.reads = error.meaning() != Meaning::UnknownToken;
                    return Ok(answer_of(&error));
                }
            }
        }
        self.wait_for_slot(Call::ItemGet).await?;
        let token = candidate.fingerprint.as_str();
        let span = tracing::info_span!(target: traces::STEP, "prove token", token, outcome = Empty);
        let asked = self.context.plaid.item_get(&candidate.token);
        Ok(match steps::step("prove token", span, plaid::Error::code, asked).await {
            Ok(info) => (OwnerAnswer::Names(info.item), None),
            Err(error) => answer_of(&error),
        })
    }

    async fn adopt_declaration(&mut self, candidate: &Candidate) -> Result<(), Stop> {
        let mut tx = self.context.store.begin().await?;
        tx.check_lease(&self.claim).await?;
        tx.adopt_declaration(&self.item.id, &candidate.fingerprint).await?;
        self.read_anew(&mut tx).await?;
        tx.commit().await?;
        tracing::info!(token = %candidate.fingerprint, source = candidate.source, "{}", TokenCause::DeclarationHolds.sentence());
        Ok(())
    }

    async fn read_anew(&mut self, tx: &mut Tx) -> Result<(), Stop> {
        if let Some(item) = tx.item(&self.item.id).await? {
            self.item = item;
        }
        self.tokens.waiting = Ok(tx.declaration_of_current(&self.item.id).await?);
        Ok(())
    }

    /// Returns when it was proved.
    async fn promote(&mut self, candidate: &Candidate) -> Result<Millis, Stop> {
        let item = self.item.id.clone();
        let mut tx = self.context.store.begin().await?;
        tx.check_lease(&self.claim).await?;
        let proved_at = tx.now();
        let generation = tx.promote(&item, &candidate.fingerprint).await?;
        let businesses = tx.businesses_of_item(&item).await?;
        let payload = json!({
            "generation": generation, "fingerprint": candidate.fingerprint, "source": candidate.source,
        });
        outcome::about_item(&mut tx, &self.claim, &item, &businesses, kind::ITEM_TOKEN, payload).await?;
        // What came with the token is in force now, or waits to be judged.
        self.read_anew(&mut tx).await?;
        tx.commit().await?;
        // The first token of an Item is a link, every later one a rotation.
        let class = if generation > 1 { Class::Rotation } else { Class::NewAccount };
        self.claim.class = self.claim.class.min(class);
        metrics::counter!(metric::TOKEN_CHANGES, "source" => source_label(&candidate.source)).increment(1);
        tracing::info!(generation, token = %candidate.fingerprint, source = candidate.source, "access token proved, it is current now");
        Ok(proved_at)
    }

    async fn reject(
        &self,
        candidate: &Candidate,
        cause: TokenCause,
        why: &str,
        keep_declaration: bool,
    ) -> Result<(), Stop> {
        let item = &self.item.id;
        let mut tx = self.context.store.begin().await?;
        tx.check_lease(&self.claim).await?;
        tx.reject(item, &candidate.fingerprint, cause, why, keep_declaration).await?;
        let businesses = tx.businesses_of_item(item).await?;
        let payload = json!({"fingerprint": candidate.fingerprint, "source": candidate.source, "why": why});
        let kind = kind::ITEM_TOKEN_REJECTED;
        outcome::about_item(&mut tx, &self.claim, item, &businesses, kind, payload).await?;
        // The platform's database may name another token for it.
        let forgotten = self.looked_up.is_none() && tx.forget_unproved(&self.claim, item).await?;
        tx.commit().await?;
        tracing::warn!(token = %candidate.fingerprint, source = candidate.source, why, "access token rejected, the current one stays");
        if forgotten { Err(Stop::Gone) } else { Ok(()) }
    }
}

/// The accounts can't be read, and `/item/get` may say all the same whose token it is.
fn is_of_accounts(meaning: &Meaning) -> bool {
    match meaning {
        Meaning::UserMustAct
        | Meaning::NotReady
        | Meaning::NoAccounts
        | Meaning::InstitutionGone
        | Meaning::UnknownAccount
        | Meaning::UnknownProcessorToken
        | Meaning::UnknownKey
        | Meaning::AccountNotSupported
        | Meaning::Unknown => true,
        Meaning::UnknownToken | Meaning::ItemGone { .. } | Meaning::Other(_) => false,
    }
}

/// What a refusal says of a candidate.
fn answer_of(error: &plaid::Error) -> (OwnerAnswer, Option<Refusal>) {
    match error.meaning().of_item() {
        OfItem::UnknownToken => (OwnerAnswer::UnknownToken, None),
        OfItem::Gone { revoked } => (OwnerAnswer::Gone { revoked }, None),
        OfItem::UserMustAct => (OwnerAnswer::Unanswered, None),
        OfItem::Nothing => (OwnerAnswer::Unanswered, Some(Refusal::from(error))),
    }
}

fn source_label(source: &str) -> &'static str {
    match source {
        "lookup" => "lookup",
        _ => "push",
    }
}
