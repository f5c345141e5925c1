//! The dead letters of receivers and consumers, read back for whoever asks the admin API what became of them.

use crate::Context;
use bus::{Connection, Delivery, Reader, schema};
use domain::Millis;
use domain::fault::chain;
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;
use store::{DeadLetter, Place};
use tokio_util::sync::CancellationToken;

/// Between two tries to read them: nothing waits for it.
const AGAIN: Duration = Duration::from_secs(5);

/// Every consumer reads all of them, which does no harm: one that is known already is noted once.
pub(crate) async fn run(context: Arc<Context>, connection: Connection, stop: CancellationToken) {
    let reading = async {
        loop {
            let topic = &context.topics.dead_letters;
            match Reader::new(&connection, topic, &context.group, &[schema::DEAD_LETTER]).await {
                Ok(reader) => read(&context, &reader).await,
                Err(error) => tracing::debug!(error = chain(&error), "the dead letters can't be read yet"),
            }
            tokio::time::sleep(AGAIN).await;
        }
    };
    stop.run_until_cancelled(reading).await;
}

/// Until the reader fails.
async fn read(context: &Context, reader: &Reader) {
    let mut away = false;
    loop {
        let delivery = match reader.next().await {
            Ok(delivery) => delivery,
            Err(error) => {
                // It goes on by itself when a broker is back; a missing right is said once.
                if !std::mem::replace(&mut away, true) {
                    tracing::warn!(
                        error = chain(&error),
                        "the dead letters can't be read: `rekey check --role consumer` says why"
                    );
                }
                tokio::time::sleep(AGAIN).await;
                continue;
            }
        };
        away = false;
        let letter = match dead_letter(&delivery) {
            Ok(letter) => letter,
            Err(why) => {
                tracing::warn!(
                    why,
                    partition = delivery.partition,
                    offset = delivery.offset,
                    "a record among the dead letters is passed by"
                );
                continue;
            }
        };
        while let Err(error) = keep(context, &letter).await {
            tracing::debug!(error = chain(&error), "a dead letter waits for the database");
            tokio::time::sleep(AGAIN).await;
        }
    }
}

/// Of a dead letter's texts.
const LONGEST_TEXT: usize = 2048;

/// A receiver's, or one of a consumer's own.
fn dead_letter(delivery: &Delivery) -> Result<DeadLetter, String> {
    #[derive(Deserialize)]
    struct Wire {
        from: String,
        topic: Option<String>,
        partition: Option<i64>,
        offset: Option<i64>,
        reason: String,
        bytes: i64,
        sha256: String,
    }
    let event = delivery.event.as_ref().map_err(ToString::to_string)?;
    let no_letter = || "it is no dead letter of Rekey's".to_owned();
    let wire: Wire = serde_json::from_slice(&event.data).map_err(|_| no_letter())?;
    // Others may write to that topic, too: what the store would refuse, or keep for ever, is none.
    let texts = [Some(&event.id), Some(&wire.from), wire.topic.as_ref(), Some(&wire.reason), Some(&wire.sha256)];
    if texts.into_iter().flatten().any(|text| text.contains('\0') || text.len() > LONGEST_TEXT) {
        return Err(no_letter());
    }
    let now = Millis(jiff::Timestamp::now().as_millisecond());
    Ok(DeadLetter {
        id: event.id.clone(),
        at: Millis(event.time.as_millisecond()).min(now),
        from: wire.from,
        place: wire.topic.zip(wire.partition).zip(wire.offset).map(|((topic, partition), offset)| Place {
            topic,
            partition,
            offset,
        }),
        reason: wire.reason,
        bytes: wire.bytes,
        sha256: wire.sha256,
    })
}

/// For whoever asks the admin API what became of it.
async fn keep(context: &Context, letter: &DeadLetter) -> Result<(), store::Error> {
    let mut tx = context.store.begin().await?;
    tx.note_dead_letter(letter).await?;
    match tx.commit().await {
        Err(error) if !error.is_passing() => {
            // It stands in its topic all the same, and nothing may wait for it.
            tracing::error!(error = chain(&error), "a dead letter can't be kept for the admin API");
            Ok(())
        }
        committed => committed,
    }
}
