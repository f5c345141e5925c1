//! Records as the receiver and the platform publish them, written without Rekey's code: a backlog of them in no time.

use crate::rig::Rig;
use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use sandbox::Sandbox;
use serde_json::json;
use std::time::Duration;
use tests::kafka_address;

/// What records say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Says {
    /// Plaid's webhook, on the topic of the receiver.
    Webhook,
    /// The platform's "look at this Item".
    Notice,
}

/// A record about each of these Items, in order; all are acknowledged when it returns.
pub(crate) async fn publish(rig: &Rig, says: Says, items: impl IntoIterator<Item = String> + Send + 'static) {
    let topics = rig.world.local.config("").unwrap().kafka.topics;
    let topic = if says == Says::Webhook { topics.item_events } else { topics.notices };
    tokio::task::spawn_blocking(move || publish_to(&topic, says, items)).await.unwrap();
}

fn publish_to(topic: &str, says: Says, items: impl IntoIterator<Item = String>) {
    let producer: ThreadedProducer<DefaultProducerContext> = ClientConfig::new()
        .set("bootstrap.servers", kafka_address())
        .set("acks", "all")
        .set("linger.ms", "20")
        .create()
        .unwrap();
    let time = jiff::Timestamp::now().to_string();
    let (kind, schema) = match says {
        Says::Webhook => ("com.plaid.ITEM.LOGIN_REPAIRED", bus::schema::WEBHOOK),
        Says::Notice => ("rekey.notice", bus::schema::NOTICE),
    };
    for (n, item) in items.into_iter().enumerate() {
        let data = match says {
            Says::Webhook => Sandbox::webhook_body("ITEM", "LOGIN_REPAIRED", Some(&item), &json!({})),
            Says::Notice => json!({"item_id": item}).to_string().into_bytes(),
        };
        let id = format!("bench-{n}");
        let attributes = [
            ("ce_specversion", "1.0"),
            ("ce_id", &id),
            ("ce_type", kind),
            ("ce_source", "/bench"),
            ("ce_time", &time),
            ("ce_dataschema", schema),
            ("content-type", "application/json"),
            ("ce_subject", &item),
        ];
        let with = |headers: OwnedHeaders, (key, value)| headers.insert(Header { key, value: Some(value) });
        let headers = attributes.into_iter().fold(OwnedHeaders::new(), with);
        let mut record = BaseRecord::to(topic).key(&item).payload(&data).headers(headers);
        while let Err((error, refused)) = producer.send(record) {
            assert_eq!(error, KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull));
            producer.flush(Duration::from_secs(10)).unwrap();
            record = refused;
        }
    }
    producer.flush(Duration::from_mins(1)).unwrap();
}
