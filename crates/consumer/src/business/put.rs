//! The PUT and what follows it (I7).

use super::facts::{Facts, list, recognise};
use super::{Converged, Ending, Reconciliation};
use crate::budget;
use crate::outcome::{self, kind};
use crate::reconcile::Stop;
use crate::refusals::backoff;
use crate::steps;
use domain::budget::Call;
use domain::fault::chain;
use domain::hold::Hold;
use domain::metric;
use domain::permit::Objection;
use domain::queue::{Blocked, Finish};
use domain::token_list::{LeaveOut, Listed, Put, Verification, Wanted, strangers_after, verify};
use domain::work::{Block, Class, Code};
use domain::{Fingerprint, LayerId, ProcessorToken};
use layer::Meaning;
use serde_json::json;
use std::collections::{BTreeSet, HashSet};
use std::time::{Duration, Instant};
use tracing::field::Empty;

impl Reconciliation<'_> {
    pub(super) async fn put(&mut self, layer_id: &LayerId, facts: Facts, put: Put) -> Result<Ending, Stop> {
        self.guard_fleet(&put).await?;
        let tokens = self.open(&facts, &put)?;
        if let Some(rehearsal) = &self.context.rehearsal {
            rehearsal.would_put(put);
            return Err(Stop::Found);
        }
        // A bearer token is fetched before, not under, the part of the lease that the PUT needs.
        if let Err(error) = self.context.layer.warm_up().await {
            return Err(self.refused(&error).await);
        }
        self.wait_under(self.context.lease_of_write(), Call::Layer).await?;
        let span = tracing::info_span!(target: traces::STEP, "put", tokens = tokens.len(), outcome = Empty);
        let sent = self.context.layer.put_tokens(layer_id, &tokens, self.claim.deadline());
        match steps::step("send the list", span, layer::Error::code, sent).await {
            Ok(()) => {}
            Err(error) if error.meaning() == Meaning::RefusedContent => {
                return Err(self.list_refused(&facts, &put, &error).await?);
            }
            Err(error) if error.meaning() == Meaning::NoSuchBusiness => {
                metrics::counter!(metric::PUTS, "result" => "failed").increment(1);
                return Err(self.unknown_to_layer().await?);
            }
            Err(error) => {
                metrics::counter!(metric::PUTS, "result" => "failed").increment(1);
                if error.may_have_happened() {
                    let mut tx = self.context.store.begin().await?;
                    tx.may_arrive_late(&self.claim).await?;
                    tx.commit().await?;
                }
                return Err(self.refused(&error).await);
            }
        }
        // A list that could not be read back is sent again by each sweep, by design; that is told apart (I9).
        let result = if put.resent { "resent" } else { "accepted" };
        metrics::counter!(metric::PUTS, "result" => result).increment(1);
        self.record_accepted(&facts, &put).await?;
        // What was read before it says nothing about the list of now.
        self.shown = None;
        // It said what these events ask for, and the list is read again after it. Only now: a PUT that fails serves nobody who came
        // after the claim.
        self.claim.wanted = facts.events;
        let span = tracing::info_span!(target: traces::STEP, "verify list", outcome = Empty);
        steps::step("read it back", span, Stop::word, self.verify(layer_id, facts, put)).await
    }

    /// Books the list that follows at the same time.
    async fn record_accepted(&mut self, facts: &Facts, put: &Put) -> Result<(), Stop> {
        let context = self.context;
        let mut tx = context.store.begin().await?;
        tx.renew(&mut self.claim, context.settings.lease).await?;
        let patience = budget::patience(context, &self.claim);
        let booked = tx.book(&context.limits, Call::Layer, patience, Duration::ZERO, 1).await?;
        let accepted: Vec<Fingerprint> = put.tokens.iter().cloned().chain(facts.tokens_of(&put.archived)).collect();
        tx.record_accepted(&self.id, &accepted, &put.archived).await?;
        tx.commit().await?;
        for at in booked.unwrap_or_default() {
            self.claim.prepay(Call::Layer, at);
        }
        Ok(())
    }

    /// Removals out of the ordinary over the whole fleet hold each list that would lose an account: more likely a fault of
    /// ours or of a provider than that many closed accounts.
    async fn guard_fleet(&self, put: &Put) -> Result<(), Stop> {
        let objection = Objection {
            guards: BTreeSet::from([Code::FleetRemovalGuard]),
            accounts: put.removed.iter().cloned().collect(),
            ..Objection::default()
        };
        if put.removed.is_empty() || self.claim.permit.as_ref().is_some_and(|permit| permit.covers(&objection)) {
            return Ok(());
        }
        let settings = self.context.layer.settings();
        let removals = put.removed.len();
        let mut tx = self.context.store.begin().await?;
        let limit = i64::from(settings.max_fleet_removals);
        let over = tx.book_removals(&self.id, removals, limit, settings.removal_window).await?;
        tx.commit().await?;
        let Some(lately) = over else { return Ok(()) };
        let why = format!(
            "{lately} accounts left lists within {:?} and this would be {removals} more, over layer.max_fleet_removals: see \
             whether they are really gone, then release",
            settings.removal_window
        );
        let blocked = Blocked { objection, ..Blocked::new(Block::Hold, Code::FleetRemovalGuard.as_str(), why) };
        Err(Stop::Row(Finish::blocked(settings.removal_window, Class::Sweep, blocked)))
    }

    fn open(&self, facts: &Facts, put: &Put) -> Result<Vec<ProcessorToken>, Stop> {
        let opened: Option<Vec<ProcessorToken>> = put.tokens.iter().map(|f| facts.tokens.get(f).cloned()).collect();
        let hidden = put.tokens.iter().filter(|f| !facts.tokens.contains_key(*f)).count();
        opened.ok_or_else(|| Stop::Row(self.held(&Hold::Hidden { count: hidden })))
    }

    /// Layer read the list and refuses it. Tokens of older generations are the likely cause: they alone are left out,
    /// alarmed, until their successors are minted. Never found out by trial PUTs.
    async fn list_refused(&self, facts: &Facts, put: &Put, error: &layer::Error) -> Result<Stop, Stop> {
        metrics::counter!(metric::PUTS, "result" => "refused").increment(1);
        let older = facts
            .wanted
            .iter()
            .filter(|w| w.older_generation && w.token.as_ref().is_some_and(|t| put.tokens.contains(t)));
        let older = older.count();
        if older == 0 || self.row.leave_out == LeaveOut::Older {
            // Often Layer notices a rotation before anybody else says so, and the looks at the Items find it. They may be
            // long in coming: after a rotation of thousands, or while Plaid is away.
            if self.items_may_know_more(facts, put).await? {
                let why = format!("Layer refuses the token list ({}): its Items are looked at first", error.code());
                tracing::warn!(error = chain(error), "the list is refused: its Items are looked at first");
                return Ok(Stop::Row(backoff(self.context, &self.claim, None, Code::ListRefused, why)));
            }
            return self.alone_or_all(
                error.endpoint(),
                Code::ListRefused,
                format!(
                    "Layer refuses the token list ({}): one of its {} tokens is not accepted; look at the business there, \
                     re-link or remove the account it can't read, then release",
                    error.code(),
                    put.tokens.len()
                ),
            )
            .await;
        }
        tracing::warn!(
            older,
            error = chain(error),
            "Layer refuses the list: tokens of older generations are left out until their successors are minted"
        );
        self.doubt_items(facts).await?;
        let mut tx = self.context.store.begin().await?;
        tx.check_lease(&self.claim).await?;
        tx.set_leave_out(&self.id, LeaveOut::Older).await?;
        tx.commit().await?;
        let why = "Layer refused the list; it is sent again without tokens of older generations".to_owned();
        let blocked = Blocked::new(Block::Backoff, Code::ListRefused.as_str(), why);
        Ok(Stop::Row(Finish::blocked(Duration::ZERO, self.claim.class.after(0), blocked)))
    }

    /// Lists until the PUT shows, or until the deadline.
    async fn verify(&mut self, layer_id: &LayerId, facts: Facts, put: Put) -> Result<Ending, Stop> {
        let settings = self.context.layer.settings();
        let (timeout, interval) = (settings.verify_timeout, settings.verify_interval);
        let began = Instant::now();
        let mut vanished = false;
        loop {
            let rows = list(self, layer_id).await?;
            let mut tx = self.context.store.begin_read().await?;
            let after = recognise(self, &mut tx, &rows).await?;
            drop(tx);
            vanished = vanished || self.own_vanished(&facts.listed, &after);
            let late = began.elapsed() >= timeout;
            match verify(&put, &facts.listed, &after) {
                Verification::Applied => return Ok(sent(facts, put, true)),
                Verification::Unverifiable => return Ok(sent(facts, put, false)),
                Verification::Foreign if self.only_older_skipped(&facts, &put, &after) => {
                    return self.skipped(facts, put, &after).await;
                }
                Verification::Unchanged if late && self.only_older_skipped(&facts, &put, &after) => {
                    return self.skipped(facts, put, &after).await;
                }
                Verification::Foreign if late => {
                    self.doubt_items(&facts).await?;
                    return Err(self.third_list(strangers_after(&put.tokens, &after)).await?);
                }
                Verification::Unchanged if late => {
                    let why = "Layer accepted the list and still shows the old one: it is sent again".to_owned();
                    return Err(Stop::Row(backoff(self.context, &self.claim, None, Code::NotApplied, why)));
                }
                Verification::Unchanged | Verification::Foreign => tokio::time::sleep(interval).await,
            }
        }
    }

    /// Layer took the list and skipped tokens of older generations, which it can't read with.
    fn only_older_skipped(&self, facts: &Facts, put: &Put, after: &[Listed]) -> bool {
        let active = after.iter().filter(|r| r.status.is_row() && !r.layer_owned);
        let shown: HashSet<&Fingerprint> = active.filter_map(|r| r.token.as_ref()).collect();
        let sent: HashSet<&Fingerprint> = put.tokens.iter().collect();
        let older = |t: &Fingerprint| facts.wanted.iter().any(|w| w.older_generation && w.token.as_ref() == Some(t));
        shown.is_subset(&sent) && put.tokens.iter().filter(|t| !shown.contains(t)).all(older)
    }

    async fn skipped(&mut self, facts: Facts, mut put: Put, after: &[Listed]) -> Result<Ending, Stop> {
        let mut tx = self.context.store.begin().await?;
        tx.check_lease(&self.claim).await?;
        tx.set_leave_out(&self.id, LeaveOut::Skipped).await?;
        tx.commit().await?;
        let shown = |w: &Wanted| after.iter().any(|r| r.status.is_row() && r.token == w.token);
        let skipped = facts.wanted.iter().filter(|w| w.older_generation && !shown(w));
        put.left_out.extend(skipped.map(|w| w.account.clone()));
        Ok(sent(facts, put, true))
    }

    /// Neither the list before nor ours. With strangers in it another writer is at work, and to write on would be a fight:
    /// an operator looks. Without, Layer applied a part, or an earlier list of ours came late, and the next reconciliation
    /// mends it.
    async fn third_list(&self, strangers: Vec<Fingerprint>) -> Result<Stop, Stop> {
        let foreign = !strangers.is_empty();
        let count = strangers.len();
        let hold = Hold::ForeignWriter { strangers };
        let why = "after our PUT Layer shows a third list: it applied a part, or an earlier list came late".to_owned();
        let (stop, why) = match foreign {
            false => (Stop::Row(backoff(self.context, &self.claim, None, Code::ThirdList, why.clone())), why),
            true => (Stop::Row(self.held(&hold)), hold.to_string()),
        };
        metrics::counter!(metric::THIRD_LISTS, "foreign" => if foreign { "yes" } else { "no" }).increment(1);
        tracing::warn!(strangers = count, why, "a third list");
        let mut tx = self.context.store.begin().await?;
        tx.check_lease(&self.claim).await?;
        outcome::about_business(&mut tx, &self.claim, &self.id, kind::DRIFT, json!({"why": why})).await?;
        tx.commit().await?;
        Ok(stop)
    }

    /// A PUT must not touch what Layer connected itself; no page promises that, so it is watched.
    fn own_vanished(&self, before: &[Listed], after: &[Listed]) -> bool {
        let own = |rows: &[Listed]| -> HashSet<Option<String>> {
            let rows = rows.iter().filter(|r| r.layer_owned);
            rows.map(|r| r.account.as_ref().map(ToString::to_string)).collect()
        };
        let vanished = !own(before).is_subset(&own(after));
        if vanished {
            metrics::counter!(metric::LAYER_OWNED_CHANGED).increment(1);
            tracing::error!(
                "an account that Layer connected itself disappeared after our PUT: tell Layer, and set consumer.mode to observe"
            );
        }
        vanished
    }
}

/// Layer has the list that was sent.
fn sent(facts: Facts, put: Put, verified: bool) -> Ending {
    let archived = put.archived.clone();
    Ending::Converged(Box::new(Converged { facts, verified, archived, put: Some(put) }))
}
