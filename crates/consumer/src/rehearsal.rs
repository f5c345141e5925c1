//! What a reconciliation would do now, found out by the reconcilers themselves: they run on a copy of what they read, in memory.
//!
//! What they ask providers to read is asked, within the fleet's budgets. What they would mint or send is noted here instead. So a plan
//! and the reconciliation that follows can't disagree by their code; only the world may change in between, and what a provider would
//! say to a mint or to the list is not known before.

use crate::budget::{Leaves, given_back, leaves, postponed};
use crate::business::pages;
use crate::reconcile::Stop;
use crate::{Context, Mode, Settings};
use domain::budget::{Call, Limits, horizon};
use domain::foreseen::{Foreseen, ItemForeseen, Would};
use domain::item::ItemState;
use domain::metric;
use domain::queue::{Blocked, Finish};
use domain::token_list::{Plan, Put};
use domain::verdict::State;
use domain::work::{Block, Class, Code, Subject};
use domain::{AccountId, BusinessId, ItemId, LayerId, ProcessorToken};
use layer::ListedAccount;
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use parking_lot::Mutex;
use std::future::poll_fn;
use std::time::{Duration, Instant};
use store::{Claim, Copied, Store};
use tracing::Dispatch;
use tracing::instrument::WithSubscriber as _;

/// The longest that one may take.
pub(crate) const LONGEST: Duration = Duration::from_secs(45);
/// A lease on the copy: nobody else is there.
const LEASE: Duration = Duration::from_mins(10);
/// Items that one plan reads, one after the other: more would not be read in time.
const MOST_ITEMS: usize = 100;

/// What is noted of one.
#[derive(Debug)]
pub(crate) struct Rehearsal {
    /// Calls are booked in the store itself, for they are made.
    books: Store,
    limits: Limits,
    until: Instant,
    /// How far ahead calls are booked: as a person's, or behind what is due.
    class: Class,
    /// The list at Layer, which was read for the copy.
    list: Option<(LayerId, Vec<ListedAccount>)>,
    noted: Mutex<Noted>,
}

#[derive(Debug, Default)]
struct Noted {
    mints: Vec<AccountId>,
    plan: Option<Plan>,
    put: Option<Put>,
    creates: Option<usize>,
    /// Calls that were not made for want of budget.
    starved: Option<Call>,
    /// Items whose accounts were not read to the end.
    unread: Vec<ItemId>,
}

impl Rehearsal {
    pub(crate) fn books(&self) -> &Store {
        &self.books
    }

    /// In place of [`crate::budget::wait_for_slot`].
    pub(crate) async fn wait_for_slot(
        &self,
        context: &Context,
        claim: &Claim,
        call: Call,
    ) -> Result<Result<(), Finish>, store::Error> {
        // Plaid counts these for each Item as well. A reconciliation's first was counted with its claim, which is not of that row.
        let mut is_paced = !matches!(call, Call::AccountsGet | Call::ItemGet);
        loop {
            let mut tx = self.books.begin().await?;
            let paced = if is_paced { Ok(()) } else { tx.pace(claim, call, &self.limits).await? };
            is_paced = paced.is_ok();
            let booked = match paced {
                Ok(()) => tx.book(&self.limits, call, horizon(self.class), Duration::ZERO, 1).await?,
                Err(wait) => Err(wait),
            };
            tx.commit().await?;
            let wait = match booked.map(|slots| slots.first().copied()) {
                Ok(Some(at)) => match leaves(context, call, at).await {
                    Leaves::Now => return Ok(Ok(())),
                    Leaves::Never => return Ok(Err(given_back(claim, call))),
                    Leaves::Late(_) => continue,
                },
                Ok(None) => call.late(),
                Err(wait) => wait,
            };
            if Instant::now() + wait >= self.until {
                self.noted.lock().starved = Some(call);
                return Ok(Err(postponed(claim, call, wait)));
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = context.stopping.cancelled() => return Ok(Err(given_back(claim, call))),
            }
        }
    }

    /// In place of a mint: a token that no provider knows, and that never leaves the copy.
    pub(crate) fn mint(&self, account: &AccountId) -> ProcessorToken {
        self.noted.lock().mints.push(account.clone());
        ProcessorToken::new(format!("rehearsed-{}", uuid::Uuid::new_v4().simple()))
    }

    pub(crate) fn planned(&self, plan: &Plan) {
        self.noted.lock().plan = Some(plan.clone());
    }

    /// In place of a PUT, once every guard has let it pass.
    pub(crate) fn would_put(&self, put: Put) {
        self.noted.lock().put = Some(put);
    }

    pub(crate) fn would_create(&self, tokens: usize) {
        self.noted.lock().creates = Some(tokens);
    }

    /// The list that was read for the copy, if it is this business's.
    pub(crate) fn list(&self, of: &LayerId) -> Option<Vec<ListedAccount>> {
        self.list.as_ref().filter(|(id, _)| id == of).map(|(_, rows)| rows.clone())
    }
}

/// Finds out what a reconciliation of this business, and of each of its Items before, would do now. `class`: as which its calls are
/// booked. None: there is no such business.
pub async fn rehearse(
    context: &Context,
    business: &BusinessId,
    class: Class,
) -> Result<Option<Foreseen>, store::Error> {
    let mut tx = context.store.begin_read().await?;
    let (row, pauses) = (tx.business(business).await?, tx.pauses().await?);
    let items = tx.items_in(business, MOST_ITEMS + 1).await?;
    drop(tx);
    let Some(row) = row else { return Ok(None) };
    let observes = context.settings.mode == Mode::Observe;
    if let Some(pause) = pauses.first() {
        let why = format!("{} is paused ({}), so nothing can be read live", pause.provider, pause.reason);
        return Ok(Some(Foreseen { observes, ..unread(why) }));
    }
    if items.len() > MOST_ITEMS {
        let why = format!("it has accounts of more than {MOST_ITEMS} Items, and no more are read for a plan");
        return Ok(Some(Foreseen { observes, ..unread(why) }));
    }
    // Boxed: it holds both reconcilers, and would be moved with what it is made quiet in.
    let rehearsed = quietly(Box::pin(on_copy(context, business, row.layer_id.as_ref(), class)));
    let foreseen = tokio::time::timeout(LONGEST, rehearsed).await;
    let foreseen = foreseen.unwrap_or_else(|_| Ok(unread(format!("it took longer than {LONGEST:?}"))))?;
    Ok(Some(Foreseen { observes, ..foreseen }))
}

fn unread(why: String) -> Foreseen {
    let (put, mints, items) = (None, Vec::new(), Vec::new());
    Foreseen { would: Would::Unknown, code: None, why: Some(why), put, mints, items, observes: false }
}

async fn on_copy(
    context: &Context,
    business: &BusinessId,
    layer_id: Option<&LayerId>,
    class: Class,
) -> Result<Foreseen, store::Error> {
    let until = Instant::now() + LONGEST.mul_f32(0.8);
    // The copy has no limits of its own: what is called is booked in the store itself.
    let settings = || Settings { mode: Mode::Act, lease: LEASE, watch_webhooks: false, ..context.settings.clone() };
    let rehearsing = |store, list| {
        let (books, limits, noted) = (context.store.clone(), context.limits.clone(), Mutex::default());
        let rehearsal = Rehearsal { books, limits, until, class, list, noted };
        context.rehearsing(store, settings(), unlimited(&context.limits), rehearsal)
    };
    // First, because whose tokens it shows decides what is copied. Where Layer refuses, the reconciler, which asks again, says what that
    // means.
    let list = match layer_id {
        Some(id) => {
            let reading = rehearsing(context.store.clone(), None);
            match pages(&reading, &mut Claim::of_nobody(business), id).await {
                Ok(rows) => rows.ok().map(|rows| (id.clone(), rows)),
                Err(Stop::Store(error)) => return Err(error),
                Err(Stop::Row(_) | Stop::Found | Stop::Gone) => None,
            }
        }
        None => None,
    };
    let fingerprints = context.store.fingerprints();
    let rows = || list.iter().flat_map(|(_, rows)| rows);
    let tokens: Vec<_> = rows().filter_map(|row| Some(fingerprints.of_processor(row.token.as_ref()?))).collect();
    let accounts: Vec<_> = rows().filter_map(|row| row.account.clone()).collect();
    let copied = context.store.copy_of(business, &tokens, &accounts).await?;
    let context = rehearsing(copied.store.clone(), list);
    let mut told = Vec::new();
    for item in &copied.items {
        told.extend(rehearse_item(&context, &copied, item).await?);
    }
    reconcile(&context, &copied, &Subject::from(business)).await?;
    foresee(&context, business, told).await
}

async fn foresee(context: &Context, business: &BusinessId, items: Vec<ItemForeseen>) -> Result<Foreseen, store::Error> {
    let mut tx = context.store.begin_read().await?;
    let work = tx.work(business).await?;
    let row = tx.business(business).await?;
    // As the copy has it afterwards: a list that nothing has to be sent for may be wrong all the same.
    let judged = tx.verdict(business).await?.map(|judged| judged.verdict);
    let well = [State::Converged, State::Empty, State::Unverified, State::Gone];
    let wrong =
        judged.filter(|verdict| !well.contains(&verdict.state)).map(|v| format!("{}: {}", v.state, v.sentence()));
    drop(tx);
    let Noted { mints, plan, put, creates, starved, unread } =
        context.rehearsal.as_ref().map(|r| std::mem::take(&mut *r.noted.lock())).unwrap_or_default();
    let blocked = work.and_then(|row| row.blocked);
    let says = |b: Blocked| (Some(b.code), Some(b.why));
    let (would, (code, why)) = match (&put, creates, plan, blocked) {
        // Compared with what was known before, it says nothing of now.
        _ if !unread.is_empty() => {
            let ids: Vec<&str> = unread.iter().map(ItemId::as_str).collect();
            let of =
                starved.map_or(String::new(), |call| format!(", for the budget of {call} is spent for the moment"));
            (
                Would::Unknown,
                (None, Some(format!("the accounts of {} were not read{of}: ask again later", ids.join(", ")))),
            )
        }
        (Some(_), ..) => (Would::Put, (None, None)),
        (None, Some(tokens), ..) => {
            (Would::Create, (None, Some(format!("Layer does not have it yet: it is created with {tokens} tokens"))))
        }
        (.., Some(blocked)) => match blocked.by {
            Block::Hold => (Would::Hold, says(blocked)),
            Block::Parked => (Would::Parked, says(blocked)),
            Block::Backoff if blocked.code == Code::WaitsForTokens.as_str() => (Would::Wait, says(blocked)),
            Block::Backoff | Block::Pause => (Would::Retry, says(blocked)),
        },
        (.., Some(Plan::Converged { .. }), None) => (Would::Nothing, (None, wrong)),
        (..) if starved.is_some() => {
            let call = starved.map_or("", Call::as_str);
            (Would::Unknown, (None, Some(format!("the budget of {call} is spent for the moment: ask again later"))))
        }
        (..) if row.is_some_and(|row| row.layer_id.is_none()) => {
            let why = "Layer does not have it, and there is no token yet that it could be created with";
            (Would::Wait, (None, Some(why.into())))
        }
        _ => (Would::Unknown, (None, Some("its reconciliation was cut short".into()))),
    };
    let put = put.filter(|_| would == Would::Put);
    Ok(Foreseen { would, code, why, put, mints, items, observes: false })
}

/// Some: it does not come to its end, or is not active, or was not.
async fn rehearse_item(context: &Context, copied: &Copied, id: &ItemId) -> Result<Option<ItemForeseen>, store::Error> {
    let Some(was) = context.store.begin_read().await?.item(id).await?.map(|row| row.state) else { return Ok(None) };
    let was_claimed = reconcile(context, copied, &Subject::from(id)).await?;
    let mut tx = context.store.begin_read().await?;
    let state = tx.item(id).await?.map_or(ItemState::Removed, |row| row.state);
    let row = tx.work(id).await?;
    // Cut short, or not begun: its provider was paused on the way.
    let is_unread = !was_claimed || row.as_ref().is_some_and(|row| row.needs.is_some());
    if is_unread && let Some(rehearsal) = &context.rehearsal {
        rehearsal.noted.lock().unread.push(id.clone());
    }
    let blocked = row.and_then(|row| row.blocked);
    if blocked.is_none() && state == was && state == ItemState::Active {
        return Ok(None);
    }
    let (code, why) = blocked.map(|b| (b.code, b.why)).unzip();
    Ok(Some(ItemForeseen { item: id.clone(), was, state, code, why }))
}

/// False: there was nothing to claim.
async fn reconcile(context: &Context, copied: &Copied, subject: &Subject) -> Result<bool, store::Error> {
    let claim = copied.claim(subject, &context.owner, LEASE, &context.limits).await?;
    let Some(claim) = claim else { return Ok(false) };
    Box::pin(crate::reconcile(context, claim)).await;
    Ok(true)
}

/// More calls than anybody can make, and few enough to be counted by the thousandth.
fn unlimited(limits: &Limits) -> Limits {
    let most = u32::MAX / 1000;
    Limits {
        item_get: most,
        accounts_get: most,
        mint: most,
        token_probe: most,
        layer: most,
        layer_create: most,
        per_item: most,
        recovery: limits.recovery,
    }
}

/// Metrics that tell of calls, which are made.
const OF_CALLS: [&str; 4] =
    [metric::PROVIDER_CALLS, metric::PROVIDER_CALL, metric::SLOW_DOWNS, metric::CERTIFICATE_EXPIRES];

/// Nothing of what is rehearsed happens, so nothing of it is logged or counted; but for the calls.
async fn quietly<T>(rehearsed: impl Future<Output = T>) -> T {
    let mut rehearsed = Box::pin(rehearsed.with_subscriber(Dispatch::none()));
    poll_fn(|task| {
        metrics::with_recorder(|all| metrics::with_local_recorder(&CallsOnly(all), || rehearsed.as_mut().poll(task)))
    })
    .await
}

struct CallsOnly<'a>(&'a dyn Recorder);

impl Recorder for CallsOnly<'_> {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, metadata: &Metadata<'_>) -> Counter {
        if OF_CALLS.contains(&key.name()) { self.0.register_counter(key, metadata) } else { Counter::noop() }
    }
    fn register_gauge(&self, key: &Key, metadata: &Metadata<'_>) -> Gauge {
        if OF_CALLS.contains(&key.name()) { self.0.register_gauge(key, metadata) } else { Gauge::noop() }
    }
    fn register_histogram(&self, key: &Key, metadata: &Metadata<'_>) -> Histogram {
        if OF_CALLS.contains(&key.name()) { self.0.register_histogram(key, metadata) } else { Histogram::noop() }
    }
}
