//! From a provider's refusal to what happens to the row: written once for both reconcilers. What a refusal of Plaid's
//! says of the Item itself is in `item/state.rs`.

use crate::Context;
use domain::budget::Call;
use domain::fault::{chain, provider_is_at_fault};
use domain::metric;
use domain::queue::{Blocked, Finish};
use domain::work::{Block, Class, Code};
use domain::{Endpoint, Next, Provider};
use std::time::Duration;
use store::{Claim, Suspicion};

/// A provider's refusal in words.
#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    pub(crate) provider: Provider,
    pub(crate) next: Next,
    pub(crate) code: String,
    pub(crate) message: String,
    /// Nothing came back from the provider, or only a failing server's word.
    outage: bool,
    endpoint: Endpoint,
}

impl From<&plaid::Error> for Refusal {
    fn from(error: &plaid::Error) -> Self {
        let next = match error.meaning() {
            plaid::Meaning::Other(next) => next,
            plaid::Meaning::Unknown => Next::Slowly,
            plaid::Meaning::InstitutionGone => Next::Park,
            plaid::Meaning::NotReady => Next::Retry { after: None },
            // The reconciler asks for these by name first; reaching this point with one is a contradiction to retry.
            plaid::Meaning::UserMustAct
            | plaid::Meaning::NoAccounts
            | plaid::Meaning::ItemGone { .. }
            | plaid::Meaning::UnknownToken
            | plaid::Meaning::UnknownAccount
            | plaid::Meaning::UnknownProcessorToken
            | plaid::Meaning::UnknownKey
            | plaid::Meaning::AccountNotSupported => Next::Retry { after: None },
        };
        let (outage, endpoint) = (error.is_outage(), error.endpoint());
        Self { provider: Provider::Plaid, next, code: error.code().to_owned(), message: chain(error), outage, endpoint }
    }
}

impl From<&layer::Error> for Refusal {
    fn from(error: &layer::Error) -> Self {
        let next = match error.meaning() {
            layer::Meaning::Other(next) => next,
            // Callers that can say more about the row have handled these before.
            layer::Meaning::NoSuchBusiness | layer::Meaning::RefusedContent => Next::Suspect,
        };
        let (outage, endpoint) = (error.is_outage(), error.endpoint());
        Self { provider: Provider::Layer, next, code: error.code().to_owned(), message: chain(error), outage, endpoint }
    }
}

impl Refusal {
    /// What looks like this row's own trouble, and may be everybody's.
    pub(crate) fn of_row(provider: Provider, endpoint: Endpoint, code: Code, message: String) -> Self {
        Self { provider, next: Next::Suspect, code: code.to_string(), message, outage: false, endpoint }
    }
}

pub(crate) fn backoff(
    context: &Context,
    claim: &Claim,
    at_least: Option<Duration>,
    code: impl AsRef<str>,
    why: String,
) -> Finish {
    let failures = claim.attempts.saturating_add(1);
    let wait = context.backoff(failures).max(at_least.unwrap_or_default());
    let blocked = Blocked::new(Block::Backoff, code.as_ref(), why);
    Finish::blocked(wait, claim.class.after(failures), blocked)
}

/// Parked rows are tried again by the sweep: if the cause has gone away, no person should be needed.
pub(crate) fn parked(context: &Context, code: impl AsRef<str>, why: String) -> Finish {
    let blocked = Blocked::new(Block::Parked, code.as_ref(), why);
    Finish::blocked(context.sweep_wait(), Class::Sweep, blocked)
}

pub(crate) fn done(context: &Context) -> Finish {
    Finish::done(context.sweep_wait(), Class::Sweep)
}

/// Decides what a refusal means for the row. May probe the provider and pause it.
pub(crate) async fn conclude(context: &Context, claim: &Claim, refusal: &Refusal) -> Result<Finish, store::Error> {
    match refusal.next {
        Next::Retry { .. } if refusal.outage && is_dark(context, refusal.provider) => {
            went_dark(context, claim, refusal).await
        }
        Next::Retry { after } => Ok(backoff(context, claim, after, &refusal.code, refusal.message.clone())),
        Next::SlowDown { after } => {
            slow_down(context, refusal, after).await?;
            Ok(backoff(context, claim, after, &refusal.code, refusal.message.clone()))
        }
        Next::Slowly => {
            let failures = claim.attempts.saturating_add(1);
            let finish = backoff(context, claim, None, &refusal.code, refusal.message.clone());
            Ok(Finish { again_after: context.slow_backoff(failures), ..finish })
        }
        Next::Park => {
            let why = format!("{}: mend the cause, then release it", refusal.message);
            Ok(parked(context, &refusal.code, why))
        }
        Next::Suspect => suspect(context, claim, refusal).await,
    }
}

/// Asked, it counts from the beginning: a rehearsal, whose pause nobody heeds, would take that from those who need it.
fn is_dark(context: &Context, provider: Provider) -> bool {
    context.rehearsal.is_none() && context.http(provider).is_dark(context.settings.dark_after)
}

/// Everybody waits for a probe instead of each for itself, unless the probe is answered at once.
async fn went_dark(context: &Context, claim: &Claim, refusal: &Refusal) -> Result<Finish, store::Error> {
    if probe(context, refusal.provider).await == Some(false) {
        return Ok(backoff(context, claim, None, &refusal.code, refusal.message.clone()));
    }
    pause(context, claim, refusal, "does not answer").await
}

/// What everybody learns from a refusal of a call on which nothing depends.
pub(crate) async fn heed(context: &Context, refusal: &Refusal) -> Result<(), store::Error> {
    match refusal.next {
        Next::SlowDown { after } => slow_down(context, refusal, after).await,
        Next::Retry { .. } | Next::Slowly | Next::Park | Next::Suspect => Ok(()),
    }
}

/// A 429 came although the budget allowed the call: the limit is lower than documented, or others use it too.
async fn slow_down(context: &Context, refusal: &Refusal, after: Option<Duration>) -> Result<(), store::Error> {
    let Some(call) = Call::of(refusal.endpoint) else { return Ok(()) };
    let mut tx = context.books().begin().await?;
    let left = tx.slow_down(call, after, context.limits.recovery).await?;
    tx.commit().await?;
    metrics::counter!(metric::SLOW_DOWNS, "call" => call.as_str()).increment(1);
    tracing::warn!(%call, left, "the provider says that this is too much: everybody calls less often");
    Ok(())
}

/// How often a row is refused, while no other is, before it is parked.
const TRIES_ALONE: u32 = 2;

/// How often a row that was part of a pause is refused again before it is parked for it.
const TRIES_AFTER_A_PAUSE: u32 = 8;

/// How many rows speak against the provider. A probe succeeds where only one endpoint is refused to everybody, so those
/// that were in a pause before count again until a call of that endpoint succeeds: then it is the rows themselves.
fn agreeing(context: &Context, refusal: &Refusal, suspicion: Suspicion) -> u64 {
    let window = context.settings.agree_window;
    let succeeds = context.http(refusal.provider).has_succeeded(refusal.endpoint, window);
    if succeeds { suspicion.rows } else { suspicion.ever }
}

/// The provider or the row? Asked first, because a broken credential must not park ten thousand rows, nor one broken
/// Item stop the fleet (I4).
async fn suspect(context: &Context, claim: &Claim, refusal: &Refusal) -> Result<Finish, store::Error> {
    let probe_refused = probe(context, refusal.provider).await;
    let settings = &context.settings;
    let mut tx = context.store.begin().await?;
    let window = settings.agree_window;
    let suspicion = tx.suspect(refusal.provider, &refusal.code, &claim.subject, window).await?;
    let rows = agreeing(context, refusal, suspicion);
    if !provider_is_at_fault(probe_refused, rows, settings.agree.into()) {
        let (now, refused_since) = (tx.now(), tx.work(&claim.subject).await?.and_then(|row| row.blocked_at));
        tx.commit().await?;
        // The provider may not have recovered when it was resumed, or a credential died and was replaced between the
        // refusal and the probe: patience before this row is blamed.
        if claim.attempts < if suspicion.spent { TRIES_AFTER_A_PAUSE } else { TRIES_ALONE } {
            return Ok(backoff(context, claim, None, &refusal.code, refusal.message.clone()));
        }
        let kind = claim.subject.kind();
        // Since then all that succeeded was of others.
        let refused_for = refused_since.map_or(Duration::ZERO, |since| now.since(since));
        let blamed = match context.http(refusal.provider).has_succeeded(refusal.endpoint, window.min(refused_for)) {
            true => format!("the same call succeeds for others, so it is this {kind}"),
            // Where there are few, nobody can tell: a probe asks for less than this call does.
            false => format!(
                "no such call has succeeded lately, so it is this {kind}, or what we may do at {}",
                refusal.provider
            ),
        };
        let why = format!("{}; {blamed}: mend it and release it", refusal.message);
        let finish = parked(context, &refusal.code, why);
        return Ok(Finish { unless_agreed: Some((refusal.provider, u64::from(settings.agree))), ..finish });
    }
    tx.commit().await?;
    pause(context, claim, refusal, &format!("refuses everybody ({rows} rows)")).await
}

/// A mint was refused in a way that speaks against the provider: our credentials, or a processor that Plaid retired. With
/// others refused alike, the provider is at fault, and everybody waits; a row that is refused alone asks again by itself.
///
/// Plaid's probe does not mint, so it succeeds all the same. After a pause it is therefore the next refused mint that
/// tells, unless one has succeeded meanwhile.
pub(crate) async fn refused_by_all(
    context: &Context,
    claim: &Claim,
    error: &plaid::Error,
) -> Result<Option<Finish>, store::Error> {
    let refusal = Refusal::from(error);
    let settings = &context.settings;
    let probe_refused = probe(context, refusal.provider).await;
    let mut tx = context.store.begin().await?;
    let window = settings.agree_window;
    let suspicion = tx.suspect(refusal.provider, &refusal.code, &claim.subject, window).await?;
    tx.commit().await?;
    let rows = agreeing(context, &refusal, suspicion);
    if !provider_is_at_fault(probe_refused, rows, settings.agree.into()) {
        return Ok(None);
    }
    Ok(Some(pause(context, claim, &refusal, &format!("refuses to mint for everybody ({rows} Items)")).await?))
}

/// No row is parked: work goes on when a probe succeeds (I4).
async fn pause(context: &Context, claim: &Claim, refusal: &Refusal, how: &str) -> Result<Finish, store::Error> {
    if context.rehearsal.is_none() {
        context.http(refusal.provider).forget_successes();
    }
    let interval = context.settings.probe_interval;
    let mut tx = context.store.begin().await?;
    let new = tx.pause(refusal.provider, &refusal.message, &refusal.code, interval).await?;
    tx.commit().await?;
    if new {
        tracing::error!(
            provider = %refusal.provider, code = refusal.code,
            "provider paused, it {how}: {}; nothing is parked, work goes on when a probe succeeds", refusal.message
        );
    }
    if refusal.provider != claim.subject.kind().provider() {
        // This kind of work is not paused with that provider, so the row waits by itself.
        return Ok(backoff(context, claim, Some(interval), &refusal.code, refusal.message.clone()));
    }
    let blocked = Blocked::new(Block::Pause, refusal.code.as_str(), refusal.message.as_str());
    // Not the row's fault: when the provider is back, it still has its place.
    Ok(Finish::blocked(Duration::ZERO, claim.class.after(0), blocked))
}

/// Some(true): refused as well. Some(false): answered. None: no verdict.
pub(crate) async fn probe(context: &Context, provider: Provider) -> Option<bool> {
    let next = match provider {
        Provider::Plaid => context.plaid.probe().await.err().map(|e| Refusal::from(&e).next),
        Provider::Layer => context.layer.probe().await.err().map(|e| Refusal::from(&e).next),
    };
    match next {
        None => Some(false),
        Some(Next::Suspect) => Some(true),
        Some(Next::Retry { .. } | Next::SlowDown { .. } | Next::Slowly | Next::Park) => None,
    }
}
