//! Events through Kafka: repeated, disordered, unreadable, lost; and what leaves on the outcomes topic.

use domain::Role;
use domain::trace::TraceParent;
use sandbox::{Announce, Sandbox};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tests::process::Process;
use tests::{Parts, World, metrics};

stories!(
    i9_the_same_webhook_a_thousand_times,
    webhooks_out_of_order,
    a_record_nobody_can_read_becomes_a_dead_letter,
    a_notice_is_what_any_tool_can_write,
    i3_outcomes_are_complete_and_hold_no_secret,
    i9_webhooks_that_cannot_touch_tokens_cause_one_look ending parked,
    a_replayed_topic_does_not_revive_hints in "[consumer]\nhint_ttl = \"1s\"\n",
);

on_both_parts!(i1_partitions_given_up_during_a_pause_are_read_again_when_they_come_back,);

/// Kafka goes away under a running consumer: pushed rotations need none, outcomes wait in the outbox, and what was
/// published before and after is taken in when it is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i10_kafka_gone_and_back() {
    let world = World::start(Parts::Embedded, "[kafka]\npublish_timeout = \"500ms\"\n").await;
    let item = world.link("acme", 1).await;
    world.until_exact().await;
    let broker = world.local.broker.clone().unwrap();
    broker.down().unwrap();
    world.rotate(&item, Announce::Push).await;
    world.until_exact().await;
    let mut tx = world.store().begin_read().await.unwrap();
    assert!(tx.outbox_length().await.unwrap() > 0, "the outcome waits");
    drop(tx);
    broker.up().unwrap();
    let emptied = || async {
        let mut tx = world.store().begin_read().await.unwrap();
        tx.outbox_length().await.unwrap() == 0
    };
    assert!(tests::holds(emptied).await, "the outcomes leave when Kafka is back");
    world.rotate(&item, Announce::Database).await;
    world.notice(&item).await;
    world.until_exact().await;
    world.end().await;
}

/// An event that PostgreSQL refuses for what it holds is buried, and those that came with it are taken in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i4_an_event_that_the_database_refuses_does_not_take_the_others_along() {
    let mut world = World::start(Parts::Real, "").await;
    let item = world.link("acme", 1).await;
    world.until_exact().await;
    let pool = sqlx::PgPool::connect(&world.local.environment["REKEY_DATABASE__URL"]).await.unwrap();
    let refuse = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION 'refused' USING ERRCODE = '22021'; END $$;
        CREATE TRIGGER refuse BEFORE INSERT ON unknown_items FOR EACH ROW WHEN (NEW.item_id = 'poison')
            EXECUTE FUNCTION refuse()";
    sqlx::raw_sql(refuse).execute(&pool).await.unwrap();
    pool.close().await;
    // All of it waits on one partition when the consumer comes back, so that it is read as one batch.
    world.rekeys.remove(0).stop().await;
    world.rotate(&item, Announce::Database).await;
    let topics = world.local.config("").unwrap().kafka.topics;
    let producer = world.producer();
    for about in ["nobody", "poison", &item] {
        let event = bus::Event {
            id: about.into(),
            kind: "com.plaid.ITEM.ERROR".into(),
            source: "/plaid/sandbox".into(),
            subject: Some(about.into()),
            time: "2026-11-21T00:00:00Z".parse().unwrap(),
            schema: bus::schema::WEBHOOK.into(),
            traceparent: None,
            data: Sandbox::webhook_body("ITEM", "ERROR", Some(about), &json!({"error": null})),
        };
        producer.publish(&topics.item_events, Some("one partition"), &event).await.unwrap();
    }
    world.start_rekey(Role::ALL_IN_ONE, "").await;
    world.until_exact().await;
    let dead = world.read_topic(&topics.dead_letters, bus::schema::DEAD_LETTER, |seen| !seen.is_empty()).await;
    assert_eq!(dead.len(), 1);
    assert!(String::from_utf8_lossy(&dead[0].raw).contains("the store refuses it"));
    let (_, body) = world.admin("GET", "/v1/unknown-items", None).await;
    assert_eq!(body["data"][0]["item_id"], "nobody", "{body}");
    world.end().await;
}

async fn i9_the_same_webhook_a_thousand_times(world: &World) {
    let item = world.link("acme", 1).await;
    world.until_exact().await;
    let reads = world.sandbox.calls("/accounts/get");
    let body = Sandbox::webhook_body("ITEM", "NEW_ACCOUNTS_AVAILABLE", Some(&item), &json!({}));
    let url = world.receiver_url();
    let mut sent = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let (sandbox, url, body) = (world.sandbox.clone(), url.clone(), body.clone());
        sent.spawn(async move {
            for _ in 0..50 {
                assert_eq!(sandbox.send_once(&url, &body).await, 200, "I1");
            }
        });
    }
    while let Some(done) = sent.join_next().await {
        done.unwrap();
    }
    let events = |seen: &[bus::Delivery]| seen.len() >= 1000;
    let topic = world.local.config("").unwrap().kafka.topics.item_events;
    world.read_topic(&topic, bus::schema::WEBHOOK, events).await;
    world.until_exact().await;
    let looks = world.sandbox.calls("/accounts/get") - reads;
    assert!(looks < 250, "I9: {looks} reads for 1000 equal events");
    assert_eq!(world.puts(), 1, "I9: nothing changed, no PUT");
}

async fn webhooks_out_of_order(world: &World) {
    let item = world.link("acme", 2).await;
    world.until_exact().await;
    // The repair arrives before the error, and a revocation of an account that is open again comes last.
    world.webhook(&item, "LOGIN_REPAIRED", &json!({}));
    world.webhook(&item, "ERROR", &Sandbox::webhook_error("ITEM_LOGIN_REQUIRED"));
    world.webhook(&item, "USER_ACCOUNT_REVOKED", &json!({"account_id": world.accounts(&item)[0]}));
    world.until("all were sent", || world.sandbox.verdict().counts.webhooks_answered_200 == 3).await;
    world.until_exact().await;
    world.until_item(&item, "active").await;
    assert_eq!(world.puts(), 1, "what to do follows from the facts, not from the events");
}

async fn a_record_nobody_can_read_becomes_a_dead_letter(world: &World) {
    let item = world.link("acme", 1).await;
    world.until_exact().await;
    let topics = world.local.config("").unwrap().kafka.topics;
    let event = |schema: &str, data: &str| bus::Event {
        id: "1".into(),
        kind: "com.plaid.ITEM.ERROR".into(),
        source: "/somebody".into(),
        subject: None,
        time: "2026-11-21T00:00:00Z".parse().unwrap(),
        schema: schema.into(),
        traceparent: Some(TraceParent::new(&mut rand::rng()).to_string()),
        data: data.as_bytes().to_vec(),
    };
    let producer = world.producer();
    for (schema, data) in [
        (bus::schema::WEBHOOK, "marked-secret, not JSON"),
        ("urn:rekey:plaid-webhook:2", "{\"webhook_type\":\"ITEM\"}"),
        ("urn:somebody:else:1", "{}"),
        (bus::schema::WEBHOOK, "[]"),
    ] {
        producer.publish(&topics.item_events, Some("k"), &event(schema, data)).await.unwrap();
    }
    world.rotate(&item, Announce::Database).await;
    world.notice(&item).await;
    world.until_exact().await;
    let dead = world.read_topic(&topics.dead_letters, bus::schema::DEAD_LETTER, |seen| seen.len() >= 4).await;
    for letter in &dead {
        let text = String::from_utf8_lossy(&letter.raw).into_owned();
        let value: Value = serde_json::from_str(&text).unwrap();
        assert!(!text.contains("marked-secret"), "never the bytes: {text}");
        assert_eq!(value["topic"], topics.item_events.as_str());
        assert!(value["offset"].is_number() && value["partition"].is_number() && value["reason"].is_string(), "{text}");
    }
    let reasons: Vec<String> = dead.iter().map(|d| String::from_utf8_lossy(&d.raw).into_owned()).collect();
    assert!(reasons.iter().any(|r| r.contains("newer version")), "{reasons:?}");
}

/// `kcat -P` writes no headers.
async fn a_notice_is_what_any_tool_can_write(world: &World) {
    let item = world.link("acme", 1).await;
    world.until_exact().await;
    world.rotate(&item, Announce::Database).await;
    let connection = world.connection();
    let mut config = rdkafka::ClientConfig::new();
    config.set("bootstrap.servers", &connection.bootstrap);
    let kcat: rdkafka::producer::FutureProducer = config.create().unwrap();
    let topics = world.local.config("").unwrap().kafka.topics;
    let notice = format!("{{\"item_id\": \"{item}\"}}");
    let record = rdkafka::producer::FutureRecord::<(), _>::to(&topics.notices).payload(&notice);
    kcat.send(record, tests::PATIENCE).await.unwrap();
    world.until_exact().await;
}

/// The same bytes will never fit, so Plaid's sending them again would help nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i1_a_webhook_that_its_topic_never_takes_is_a_dead_letter() {
    let small = format!("small-{}", uuid::Uuid::new_v4());
    tests::topics::make(&tests::kafka_address(), &small, &[("max.message.bytes", "2048")]).await;
    let mut world = World::without_rekey(Parts::Real, "").await;
    world.start_rekey(Role::ALL_IN_ONE, &format!("[kafka.topics]\nitem_events = \"{small}\"\n")).await;
    let item = world.link("acme", 1).await;
    world.until_exact().await;
    // Such that no compression makes it fit.
    let removed: Vec<String> = (0..200).map(|_| uuid::Uuid::new_v4().to_string()).collect();
    world
        .sandbox
        .fire(&item, "TRANSACTIONS", "TRANSACTIONS_REMOVED", &json!({"removed_transactions": removed}))
        .unwrap();
    world.until("it is answered 200", || world.sandbox.verdict().counts.webhooks_answered_200 == 1).await;
    let topics = world.local.config("").unwrap().kafka.topics;
    let dead = world.read_topic(&topics.dead_letters, bus::schema::DEAD_LETTER, |seen| !seen.is_empty()).await;
    let text = String::from_utf8_lossy(&dead[0].raw).into_owned();
    assert!(text.contains(&small) && text.contains("does not take the record"), "{text}");
    world.end().await;
}

/// Retention overtook consumers that were away: whoever comes back looks at everything, and waits for no other record.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i10_what_was_lost_while_nobody_read_is_noticed() {
    let mut world = World::start(Parts::Real, "").await;
    let item = world.link("acme", 1).await;
    world.until_exact().await;
    let topics = world.local.config("").unwrap().kafka.topics;
    // Something is committed of the partition that the notices go to.
    let looks = world.sandbox.calls("/accounts/get");
    world.notice(&item).await;
    world.until("it was read", || world.sandbox.calls("/accounts/get") > looks).await;
    world.rekeys.remove(0).stop().await;
    world.rotate(&item, Announce::Database).await;
    world.notice(&item).await;
    tests::topics::delete_records(&tests::kafka_address(), &topics.notices).await;
    let left = tests::topics::read_all(&tests::kafka_address(), &topics.notices);
    assert!(left.is_empty(), "the notice is gone: {left:?}");
    world.start_rekey(Role::ALL_IN_ONE, "").await;
    world.until_exact().await;
    let group = world.local.config("").unwrap().kafka.group;
    let settled =
        || async { tests::topics::lag(&tests::kafka_address(), &group, std::slice::from_ref(&topics.notices)) == 0 };
    assert!(tests::holds(settled).await, "or each restart would notice it again");
    world.end().await;
}

/// Two gaps within the time in which the sweep after the first one looks at everything: the second one has its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i10_a_gap_soon_after_another_is_not_forgotten() {
    // A question for records that is under way when the consumer is stopped must end before the notice could answer it.
    let settings = "[consumer]\ngap_spread = \"6s\"\n[kafka.properties]\n\"fetch.wait.max.ms\" = \"20\"\n";
    let mut world = World::without_rekey(Parts::Real, settings).await;
    world.start_rekey(&[Role::Console], "").await;
    world.business("acme");
    let consumer = Process::start(&world, "consumer").await;
    let item = world.link("acme", 1).await;
    world.until_exact().await;
    let looks = world.sandbox.calls("/accounts/get");
    world.notice(&item).await;
    world.until("it was read", || world.sandbox.calls("/accounts/get") > looks).await;
    let notices = world.local.config("").unwrap().kafka.topics.notices;
    for _ in 0..2 {
        world.until_exact().await;
        consumer.freeze();
        tokio::time::sleep(Duration::from_millis(300)).await;
        world.rotate(&item, Announce::Database).await;
        world.notice(&item).await;
        tests::topics::delete_records(&tests::kafka_address(), &notices).await;
        consumer.thaw();
        assert!(!world.sandbox.verdict().exact);
    }
    world.until_exact().await;
    let shown = metrics::read(&metrics::scrape(consumer.ops).await);
    let gaps = metrics::total(&shown, domain::metric::INTAKE_GAPS, &[]);
    assert!(gaps.is_some_and(|n| n >= 2.0), "{gaps:?}");
    world.end().await;
}

async fn i3_outcomes_are_complete_and_hold_no_secret(world: &World) {
    let item = world.link("acme", 2).await;
    world.until_exact().await;
    world.rotate(&item, Announce::Push).await;
    world.until_exact().await;
    world.webhook(&item, "ERROR", &json!({"error": {"error_code": "X", "error_message": format!("saw {}", world.sandbox.access_token(&item).unwrap())}}));
    let topics = world.local.config("").unwrap().kafka.topics;
    let converged = |seen: &[bus::Delivery]| {
        seen.iter().filter(|d| d.event.as_ref().is_ok_and(|e| e.kind == "rekey.business.list_accepted")).count() >= 2
    };
    let outcomes = world.read_topic(&topics.outcomes, bus::schema::OUTCOME, converged).await;
    for outcome in &outcomes {
        let event = outcome.event.as_ref().unwrap();
        assert!(event.traceparent.is_some(), "{} has lost its trace", event.kind);
    }
    let kinds: Vec<&str> = outcomes.iter().map(|o| o.event.as_ref().unwrap().kind.as_str()).collect();
    assert!(kinds.contains(&"rekey.item.token_changed"), "the rotation: {kinds:?}");
    let events = world.read_topic(&topics.item_events, bus::schema::WEBHOOK, |seen| !seen.is_empty()).await;
    for record in outcomes.iter().chain(&events) {
        let text = String::from_utf8_lossy(&record.raw);
        for secret in ["access-sandbox-", "processor-sandbox-", "public-sandbox-", "bearer-"] {
            assert!(!text.contains(secret), "I3: {secret} in {text}");
        }
    }
    world.until_exact().await;
}

async fn i9_webhooks_that_cannot_touch_tokens_cause_one_look(world: &World) {
    let item = world.link("acme", 1).await;
    world.until_exact().await;
    let reads = world.sandbox.calls("/accounts/get");
    for n in 0..20 {
        world.sandbox.fire(&item, "TRANSACTIONS", "SYNC_UPDATES_AVAILABLE", &json!({"n": n})).unwrap();
    }
    world.until("all were answered", || world.sandbox.verdict().counts.webhooks_answered_200 == 20).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(world.sandbox.calls("/accounts/get") <= reads + 1, "I9: within the quiet time one look is enough");
}

async fn a_replayed_topic_does_not_revive_hints(world: &World) {
    let item = world.link("acme", 2).await;
    world.until_exact().await;
    let topics = world.local.config("").unwrap().kafka.topics;
    let account = world.accounts(&item).remove(0);
    let old = bus::Event {
        id: "old".into(),
        kind: "com.plaid.ITEM.USER_ACCOUNT_REVOKED".into(),
        source: "/plaid/sandbox".into(),
        subject: Some(item.clone()),
        time: "2020-01-01T00:00:00Z".parse().unwrap(),
        schema: bus::schema::WEBHOOK.into(),
        traceparent: None,
        data: Sandbox::webhook_body("ITEM", "USER_ACCOUNT_REVOKED", Some(&item), &json!({"account_id": account})),
    };
    let reads = world.sandbox.calls("/accounts/get");
    world.producer().publish(&topics.item_events, Some(&item), &old).await.unwrap();
    world.until("it was looked at", || world.sandbox.calls("/accounts/get") > reads).await;
    let mut tx = world.store().begin_read().await.unwrap();
    let hints = tx.hints(&domain::ItemId::parse(item).unwrap()).await.unwrap();
    drop(tx);
    assert!(hints.is_empty(), "{hints:?}");
}

/// The store is away, so the partitions pause; another consumer comes, takes some of them and goes again.
async fn i1_partitions_given_up_during_a_pause_are_read_again_when_they_come_back(parts: Parts) {
    let mut world = World::start(parts, "").await;
    world.rekeys.remove(0).stop().await;
    let topic = world.local.config("").unwrap().kafka.topics.notices;
    let producer = world.producer();
    let publish = |round: &'static str| {
        let (topic, producer) = (&topic, &producer);
        async move {
            // Enough keys for every partition.
            for n in 0..40 {
                let event = bus::Event {
                    id: format!("{round} {n}"),
                    kind: "rekey.notice".into(),
                    source: "/platform".into(),
                    subject: None,
                    time: "2026-11-21T00:00:00Z".parse().unwrap(),
                    schema: bus::schema::NOTICE.into(),
                    traceparent: None,
                    data: b"{}".to_vec(),
                };
                producer.publish(topic, Some(&n.to_string()), &event).await.unwrap();
            }
        }
    };
    let settings = bus::IntakeSettings {
        group: format!("pauses-{}", uuid::Uuid::new_v4()),
        topics: vec![topic.clone()],
        schemas: vec![bus::schema::NOTICE],
    };
    let one = bus::Intake::new(&world.connection(), &settings).unwrap();
    publish("first").await;
    read_all(&one, "first").await;
    let two = bus::Intake::new(&world.connection(), &settings).unwrap();
    publish("second").await;
    let two_reads = AtomicBool::new(false);
    let pauses = async {
        while !two_reads.load(Ordering::SeqCst) {
            one.hold(Duration::from_millis(100)).await;
        }
    };
    let reads = async {
        let one_record = async { while two.next().await.is_err() {} };
        tokio::time::timeout(tests::PATIENCE, one_record).await.expect("the other one gets partitions");
        two_reads.store(true, Ordering::SeqCst);
    };
    tokio::join!(pauses, reads);
    two.close().await;
    publish("third").await;
    read_all(&one, "third").await;
    one.close().await;
    world.end().await;
}

/// Until each record of the round came by.
async fn read_all(intake: &bus::Intake, round: &str) {
    let mut missing: BTreeSet<String> = (0..40).map(|n| format!("{round} {n}")).collect();
    let read = async {
        while !missing.is_empty() {
            // Errors are what a broker says while the group is being balanced.
            let Ok(delivery) = intake.next().await else { continue };
            missing.remove(&delivery.event.as_ref().unwrap().id);
            intake.settled(&delivery);
        }
    };
    let read = tokio::time::timeout(tests::PATIENCE, read).await;
    assert!(read.is_ok(), "never read: {missing:?}");
}
