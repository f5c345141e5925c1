//! What changed, for the platform: `rekey.outcomes.v1`, through the outbox, without secrets. What becomes of a verdict is
//! told by the store, with the change itself.

use crate::Context;
use bus::{Event, schema};
use domain::fault::chain;
use domain::retry::{Curve, Retries};
use domain::{BusinessId, ItemId};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use store::{Claim, OutboxRow, Record, Tx};
use tokio_util::sync::CancellationToken;

/// The kinds of outcomes that reconcilers tell of.
pub(crate) mod kind {
    use domain::outcome::Outcome;

    pub(crate) const ITEM_STATE: &str = Outcome::ItemState.as_str();
    pub(crate) const ITEM_TOKEN: &str = Outcome::ItemToken.as_str();
    pub(crate) const ITEM_TOKEN_REJECTED: &str = Outcome::ItemTokenRejected.as_str();
    pub(crate) const PUSH_REFUSED: &str = Outcome::PushRefused.as_str();
    pub(crate) const ITEM_ENDS: &str = Outcome::ItemEnds.as_str();
    pub(crate) const ACCOUNT: &str = Outcome::Account.as_str();
    pub(crate) const LIST_ACCEPTED: &str = Outcome::ListAccepted.as_str();
    pub(crate) const BUSINESS_HELD: &str = Outcome::BusinessHeld.as_str();
    pub(crate) const PARKED: &str = Outcome::Parked.as_str();
    pub(crate) const DRIFT: &str = Outcome::Drift.as_str();
    pub(crate) const WOULD: &str = Outcome::Would.as_str();
}

/// Records an outcome about a business.
pub(crate) async fn about_business(
    tx: &mut Tx,
    claim: &Claim,
    business: &BusinessId,
    kind: &str,
    mut payload: Value,
) -> Result<(), store::Error> {
    payload["business_id"] = business.as_str().into();
    tx.note(&business.into(), kind, counted(&payload), claim.traceparent.as_deref());
    record(tx, claim, business.as_str(), kind, payload).await
}

/// Without the ids of accounts, which are their Items' and go with these: a list of them becomes its length.
fn counted(payload: &Value) -> Value {
    let count = |(key, value): (&String, &Value)| match value {
        Value::Array(ids) => (key.clone(), ids.len().into()),
        other => (key.clone(), other.clone()),
    };
    payload.as_object().into_iter().flatten().filter(|(key, _)| *key != "business_id").map(count).collect()
}

/// Records an outcome about an Item, once for each business it concerns, so that each business's record is complete
/// and in order; an Item without a business is keyed by itself.
pub(crate) async fn about_item(
    tx: &mut Tx,
    claim: &Claim,
    item: &ItemId,
    businesses: &[BusinessId],
    kind: &str,
    mut payload: Value,
) -> Result<(), store::Error> {
    tx.note(&item.into(), kind, payload.clone(), claim.traceparent.as_deref());
    payload["item_id"] = item.as_str().into();
    if businesses.is_empty() {
        return record(tx, claim, item.as_str(), kind, payload).await;
    }
    for business in businesses {
        payload["business_id"] = business.as_str().into();
        record(tx, claim, business.as_str(), kind, payload.clone()).await?;
    }
    Ok(())
}

async fn record(tx: &mut Tx, claim: &Claim, key: &str, kind: &str, payload: Value) -> Result<(), store::Error> {
    let record = Record { key, kind, subject: key, payload, traceparent: claim.traceparent.as_deref() };
    tx.publish(&record).await
}

/// Records that are sent in one go.
const BATCH: u32 = 200;
/// How long it waits for more.
const GATHER: Duration = Duration::from_millis(50);
/// How long the publisher leases the outbox; another process takes over when this one is gone that long.
const LEASE: Duration = Duration::from_secs(10);

/// Publishes the outbox until `stop`, then once more. One process at a time, so that the records of a business stay
/// in order.
pub(crate) async fn publish_outbox(context: Arc<Context>, stop: CancellationToken) {
    let mut outage = Retries::new(Curve { first: Duration::from_millis(100), cap: Duration::from_secs(5) });
    let mut is_filled = false;
    loop {
        let stopping = stop.is_cancelled();
        let wait = match publish_some(&context, is_filled).await {
            Ok(sent) => {
                outage.reset();
                if sent == BATCH as usize { Duration::ZERO } else { context.settings.poll }
            }
            Err(error) => {
                if outage.failures() == 0 {
                    tracing::warn!(error, "outcomes can't be published; they stay in the outbox until they can");
                }
                outage.next_wait(&mut rand::rng())
            }
        };
        if stopping {
            return;
        }
        tokio::select! {
            () = stop.cancelled() => is_filled = false,
            () = tokio::time::sleep(wait) => is_filled = false,
            () = context.store.outbox_filled() => {
                // What one reconciliation tells at its steps leaves together.
                tokio::time::sleep(GATHER).await;
                is_filled = true;
            }
        }
    }
}

/// `is_filled`: by this process, just now. Otherwise it is looked at first, without taking the lease.
async fn publish_some(context: &Context, is_filled: bool) -> Result<usize, String> {
    if !is_filled {
        let mut tx = context.store.begin_read().await.map_err(|e| chain(&e))?;
        if tx.outbox(1).await.map_err(|e| chain(&e))?.is_empty() {
            return Ok(0);
        }
    }
    let mut tx = context.store.begin().await.map_err(|e| chain(&e))?;
    let ours = tx.lease_chore("outbox", &context.owner, LEASE).await.map_err(|e| chain(&e))?;
    let rows = if ours { tx.outbox(BATCH).await.map_err(|e| chain(&e))? } else { Vec::new() };
    tx.commit().await.map_err(|e| chain(&e))?;
    let mut sent = Vec::with_capacity(rows.len());
    let publishing = futures::future::join_all(rows.iter().map(|row| publish(context, row))).await;
    let mut failed = None;
    for (row, outcome) in rows.iter().zip(publishing) {
        match outcome {
            // After the first failure nothing more is deleted: what follows goes out again, in order.
            Ok(()) if failed.is_none() => sent.push(row.id.clone()),
            Ok(()) => {}
            Err(error) => failed = failed.or(Some(error.to_string())),
        }
    }
    if !sent.is_empty() {
        let mut tx = context.store.begin().await.map_err(|e| chain(&e))?;
        tx.published(&sent).await.map_err(|e| chain(&e))?;
        tx.commit().await.map_err(|e| chain(&e))?;
    }
    failed.map_or(Ok(sent.len()), Err)
}

async fn publish(context: &Context, row: &OutboxRow) -> Result<(), bus::PublishError> {
    let event = Event {
        id: row.id.clone(),
        kind: row.kind.clone(),
        source: "/rekey/consumer".into(),
        subject: Some(row.subject.clone()),
        time: jiff::Timestamp::from_millisecond(row.created_at.0).unwrap_or_else(|_| jiff::Timestamp::now()),
        schema: schema::OUTCOME.into(),
        traceparent: row.traceparent.clone(),
        data: row.payload.clone().into_bytes(),
    };
    context.producer.publish(&row.topic, Some(&row.key), &event).await
}
