//! Kafka to the store: each event marks its Item due, then its offset is stored. The store, not the topic, is the
//! queue: a slow provider never stalls a partition.

use crate::Context;
use aws_lc_rs::digest;
use bus::{Delivery, Event, Intake, schema};
use domain::fault::chain;
use domain::metric;
use domain::retry::{Curve, Retries};
use domain::trace::TraceParent;
use domain::webhook::{Pace, Signal, Webhook, signal};
use domain::work::{Class, Kind};
use domain::{AccountId, ItemId, Millis, secret};
use futures::FutureExt;
use serde::Deserialize;
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use tracing::field::Empty;

/// Records that share one transaction at most.
const BATCH: usize = 512;

/// "Look at Item X", from the platform. It never carries the token.
#[derive(Deserialize)]
struct Notice {
    item_id: ItemId,
}

/// What a record asks for.
struct Asked {
    item: ItemId,
    account: Option<AccountId>,
    signal: Signal,
    reason: String,
    /// Type and code, where it is a webhook.
    webhook: Option<(String, String)>,
    detail: Option<String>,
    said_at: Millis,
    traceparent: Option<String>,
}

/// Reads until `stop`, then commits and leaves the group.
pub(crate) async fn run(context: Arc<Context>, intake: Intake, stop: CancellationToken) {
    let mut away = false;
    let mut gaps = Gaps::recall(&context).await;
    'reading: loop {
        let first = tokio::select! {
            () = stop.cancelled() => break,
            next = intake.next() => next,
            () = intake.expired() => {
                // Not kept: a restart notices it again, for its offsets are stored once the sweep is ordered.
                gaps.found();
                continue;
            }
            () = gaps.sweep_is_due() => {
                // Over a million Items it takes a while. Who stops in the middle still owes it.
                tokio::select! {
                    () = stop.cancelled() => break,
                    is_ordered = gaps.sweep(&context) => if is_ordered {
                        intake.settle_expired();
                    }
                }
                continue;
            }
        };
        let first = match first {
            Ok(delivery) => delivery,
            // No pause here: librdkafka reconnects at its own pace and queues an error for each attempt, many a second
            // and before the records. A pause per error would let them pile up, and an outage of seconds would keep
            // records waiting for minutes.
            Err(error) => {
                if !std::mem::replace(&mut away, true) {
                    tracing::warn!(error = chain(&error), "Kafka gives no records; trying again until it does");
                }
                continue;
            }
        };
        if std::mem::take(&mut away) {
            tracing::info!("Kafka gives records again");
        }
        let batch = collect(&intake, first);
        if batch.iter().any(|d| d.gap) {
            gaps.found();
            while let Err(error) = gaps.keep(&context).await {
                tracing::debug!(error = chain(&error), "the sweep can't be kept yet");
                tokio::select! {
                    () = stop.cancelled() => break 'reading,
                    () = intake.hold(Duration::from_secs(1)) => {}
                }
            }
        }
        if !settle(&context, &intake, &batch, &stop).await {
            break;
        }
    }
    intake.close().await;
}

/// What is there already, without waiting for more.
fn collect(intake: &Intake, first: Delivery) -> Vec<Delivery> {
    let mut batch = vec![first];
    while batch.len() < BATCH {
        match intake.next().now_or_never() {
            Some(Ok(delivery)) => batch.push(delivery),
            // Errors are reported by `run`; while they last there is nothing to collect.
            Some(Err(_)) | None => break,
        }
    }
    batch
}

/// Settles a batch, however long the store or the dead-letter topic is away. False: stopped first; the records come
/// again after the restart.
async fn settle(context: &Context, intake: &Intake, batch: &[Delivery], stop: &CancellationToken) -> bool {
    let mut outage = Retries::new(Curve { first: Duration::from_millis(100), cap: Duration::from_secs(5) });
    let (mut asked, mut unreadable) = (Vec::new(), Vec::new());
    for delivery in batch {
        match read(delivery, &context.topics.notices) {
            Ok(Some(ask)) => asked.push((delivery, ask)),
            Ok(None) => {}
            Err(reason) => unreadable.push((delivery, reason)),
        }
    }
    while let Err(error) = take_in(context, &mut asked, &mut unreadable).await {
        if outage.failures() == 0 {
            tracing::warn!(error, "events can't be taken in; the partitions pause until they can");
        }
        let wait = outage.next_wait(&mut rand::rng());
        tokio::select! {
            () = stop.cancelled() => return false,
            () = intake.hold(wait) => {}
        }
    }
    if outage.failures() > 0 {
        tracing::info!("events are taken in again");
    }
    for delivery in batch {
        intake.settled(delivery);
    }
    metrics::counter!(metric::INTAKE_RECORDS, "outcome" => "taken").increment(asked.len() as u64);
    metrics::counter!(metric::INTAKE_RECORDS, "outcome" => "dead_letter").increment(unreadable.len() as u64);
    true
}

/// Stores what was asked and buries what nobody can read. An event that the database refuses for what it holds must
/// not keep the others waiting: the batch is then taken one by one and the culprit buried.
async fn take_in<'a>(
    context: &Context,
    asked: &mut Vec<(&'a Delivery, Asked)>,
    unreadable: &mut Vec<(&'a Delivery, String)>,
) -> Result<(), String> {
    match store(context, &all(asked)).await {
        Ok(()) => {}
        Err(error) if error.is_passing() => return Err(chain(&error)),
        Err(_) => {
            let mut sound = Vec::with_capacity(asked.len());
            for (delivery, ask) in asked.drain(..) {
                match store(context, &[&ask]).await {
                    Ok(()) => sound.push((delivery, ask)),
                    // Kept as sound: it is tried again with the rest.
                    Err(error) if error.is_passing() => sound.push((delivery, ask)),
                    Err(error) => unreadable.push((delivery, format!("the store refuses it: {error}"))),
                }
            }
            *asked = sound;
            store(context, &all(asked)).await.map_err(|e| chain(&e))?;
        }
    }
    bury(context, unreadable).await
}

/// The Item that a record makes due, if any, or why the record can't be read. For tests that throw anything at it.
pub fn judge(delivery: &Delivery, notices: &str) -> Result<Option<ItemId>, String> {
    read(delivery, notices).map(|asked| asked.map(|a| a.item))
}

/// None: a webhook that does not concern an Item. Err: why it can't be read.
fn read(delivery: &Delivery, notices: &str) -> Result<Option<Asked>, String> {
    if delivery.topic == notices {
        // The platform writes these, and not every platform writes CloudEvents: plain JSON will do.
        let (data, said_at, traceparent) = match &delivery.event {
            Ok(event) => (&event.data, Millis(event.time.as_millisecond()), event.traceparent.clone()),
            Err(bus::DecodeError::NoCloudEvent) => {
                (&delivery.raw, Millis(jiff::Timestamp::now().as_millisecond()), None)
            }
            Err(error) => return Err(error.to_string()),
        };
        let notice: Notice =
            serde_json::from_slice(data).map_err(|_| "the notice is not JSON with a usable item_id".to_owned())?;
        let signal = Signal { class: Class::Rotation, pace: Pace::Soon, unblocks: true, hint: None };
        let reason = "notice".to_owned();
        return Ok(Some(Asked {
            item: notice.item_id,
            account: None,
            signal,
            reason,
            webhook: None,
            detail: None,
            said_at,
            traceparent,
        }));
    }
    let event = delivery.event.as_ref().map_err(ToString::to_string)?;
    // What a record says of its time is believed within a day: one from the year 9999 would never expire as a hint.
    let now = Millis(jiff::Timestamp::now().as_millisecond());
    let said_at = Millis(event.time.as_millisecond()).min(now.plus(Duration::from_mins(5)));
    let webhook = Webhook::read(&event.data).map_err(|e| e.to_string())?;
    let Some(item) = webhook.item else { return Ok(None) };
    Ok(Some(Asked {
        signal: signal(&webhook.webhook_type, &webhook.webhook_code, webhook.error_code.as_deref()),
        reason: format!("webhook {}/{}", webhook.webhook_type, webhook.webhook_code),
        webhook: Some((webhook.webhook_type, webhook.webhook_code)),
        account: webhook.account,
        detail: webhook.ends_at,
        traceparent: event.traceparent.clone(),
        item,
        said_at,
    }))
}

fn all<'a>(asked: &'a [(&Delivery, Asked)]) -> Vec<&'a Asked> {
    asked.iter().map(|(_, ask)| ask).collect()
}

async fn store(context: &Context, asked: &[&Asked]) -> Result<(), store::Error> {
    if asked.is_empty() {
        return Ok(());
    }
    let settings = &context.settings;
    // Rows are locked in one order everywhere; of one Item the events keep theirs.
    let mut asked = asked.to_vec();
    asked.sort_by(|a, b| a.item.cmp(&b.item));
    let spans = asked.iter().map(|ask| {
        let span = tracing::info_span!("intake", item = %ask.item, why = ask.reason, trace = Empty);
        let from = ask.traceparent.as_deref().and_then(TraceParent::parse);
        let traceparent = traces::follow(&span, from).map(|t| t.to_string());
        (span, traceparent)
    });
    let spans: Vec<(tracing::Span, Option<String>)> = spans.collect();
    let events = asked.iter().zip(&spans).map(|(ask, (_, traceparent))| store::Intake {
        item: &ask.item,
        signal: &ask.signal,
        reason: &ask.reason,
        account: ask.account.as_ref(),
        said_at: ask.said_at,
        detail: ask.detail.as_deref(),
        debounce: settings.debounce,
        quiet: settings.quiet,
        hint_ttl: settings.hint_ttl,
        traceparent: traceparent.as_deref(),
        webhook: ask.webhook.as_ref().map(|(kind, code)| (kind.as_str(), code.as_str())),
    });
    let mut tx = context.store.begin().await?;
    let known = tx.intake(&events.collect::<Vec<_>>()).await?;
    for (known, (span, _)) in known.into_iter().zip(&spans) {
        let _entered = span.enter();
        if known {
            tracing::debug!("item is due");
        } else {
            metrics::counter!(metric::UNKNOWN_ITEM_EVENTS).increment(1);
            tracing::debug!("nobody pushed this Item: noted as unknown");
            if let Some(times) = context.strangers.failed(Instant::now()) {
                tracing::info!(times, "webhooks name Items that nobody pushed: see `rekey item unknown`");
            }
        }
    }
    tx.commit().await
}

/// A dead letter is acknowledged before the offset behind it is stored. It tells where the record is, its size, its
/// hash and why, never its bytes: they may hold anything.
async fn bury(context: &Context, unreadable: &[(&Delivery, String)]) -> Result<(), String> {
    for (delivery, reason) in unreadable {
        let data = json!({
            "from": "intake", "topic": delivery.topic, "partition": delivery.partition, "offset": delivery.offset,
            "reason": reason, "bytes": delivery.raw.len(),
            "sha256": secret::hex(digest::digest(&digest::SHA256, &delivery.raw).as_ref()),
        });
        let event = Event {
            // The same record read twice makes the same id.
            id: format!("{}-{}-{}", delivery.topic, delivery.partition, delivery.offset),
            kind: "rekey.dead_letter".into(),
            source: "/rekey/intake".into(),
            subject: None,
            time: jiff::Timestamp::now(),
            schema: schema::DEAD_LETTER.into(),
            traceparent: None,
            data: data.to_string().into_bytes(),
        };
        context
            .producer
            .publish(&context.topics.dead_letters, Some(&event.id), &event)
            .await
            .map_err(|e| e.to_string())?;
        metrics::counter!(metric::DEAD_LETTERS, "from" => "intake").increment(1);
        tracing::warn!(
            topic = delivery.topic,
            partition = delivery.partition,
            offset = delivery.offset,
            reason,
            "a record nobody can read went to the dead letters"
        );
    }
    Ok(())
}

/// Records that were lost before they were read: a reconciliation of every Item finds what they said. One sweep
/// serves all gaps that come within [`crate::Settings::gap_spread`] after it, and none of them is forgotten: it is owed in
/// the store before the offsets behind the gap are.
#[derive(Default)]
struct Gaps {
    owed: bool,
    not_before: Option<tokio::time::Instant>,
    failures: u32,
}

impl Gaps {
    /// What a process that has ended owed.
    async fn recall(context: &Context) -> Self {
        let owed = async { context.store.begin_read().await?.owes_sweep().await };
        // Unknown is owed: a sweep too many does no harm.
        Self { owed: owed.await.unwrap_or(true), ..Self::default() }
    }

    fn found(&mut self) {
        metrics::counter!(metric::INTAKE_GAPS).increment(1);
        tracing::warn!("records are missing from a topic (evicted or expired): every Item will be looked at");
        self.owed = true;
    }

    /// Owes the sweep in the store as well, so that this process may end before it is ordered.
    async fn keep(&self, context: &Context) -> Result<(), store::Error> {
        let mut tx = context.store.begin().await?;
        tx.owe_sweep().await?;
        tx.commit().await
    }

    async fn sweep_is_due(&self) {
        match (self.owed, self.not_before) {
            (false, _) => std::future::pending().await,
            (true, Some(at)) => tokio::time::sleep_until(at).await,
            (true, None) => {}
        }
    }

    /// True: every Item is due.
    async fn sweep(&mut self, context: &Context) -> bool {
        let spread = context.settings.gap_spread;
        let marked = context.store.mark_all(Kind::Item, spread, "a gap in a topic").await;
        self.owed = marked.is_err();
        let wait = match &marked {
            Ok(_) => {
                self.failures = 0;
                spread
            }
            Err(error) => {
                tracing::warn!(error = chain(error), "the sweep after a gap could not be ordered; it is tried again");
                self.failures = self.failures.saturating_add(1);
                Curve { first: Duration::from_secs(5), cap: spread }.wait(self.failures, &mut rand::rng())
            }
        };
        self.not_before = Some(tokio::time::Instant::now() + wait);
        !self.owed
    }
}
