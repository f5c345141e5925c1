//! A consumer that finds many records waiting, beside the same rows written by a loop that does nothing else; and what it needs
//! of memory for it.

use crate::records::{Says, publish};
use crate::report::{Figure, Report, Spread};
use crate::rig::{Rig, until};
use crate::usage::memory;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use sqlx::PgPool;
use std::collections::HashMap;
use std::time::{Duration, Instant};
use tests::bare_store::{KEY, open_with};
use tests::process::Process;
use tests::{kafka_address, metrics, scale, topics};

/// How much waits, and how often it is taken in.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    pub(crate) records: u64,
    pub(crate) items: u64,
    pub(crate) times: usize,
    /// How long a consumer with nothing to do is left alone before its memory counts as steady.
    pub(crate) steady: Duration,
}

impl Size {
    pub(crate) const SMOKE: Self = Self { records: 2_000, items: 500, times: 1, steady: Duration::from_secs(1) };

    pub(crate) fn full(records: u64) -> Self {
        Self { records, items: (records / 4).max(1), times: 3, steady: Duration::from_secs(20) }
    }
}

const PATIENCE: Duration = Duration::from_mins(15);
/// Rows of one statement of the bare loop.
const BATCH: usize = 512;

/// Plaid is paused, so that nobody begins to work on the rows while they are taken in.
const PAUSED: Duration = Duration::from_hours(1);
const SETTINGS: &str = "[consumer]\nworkers = 1\nprobe_interval = \"1h\"\n";

pub(crate) async fn run(size: Size, report: &mut Report) {
    let mut rig = Rig::bare(SETTINGS).await;
    // The keys of the store that is filled past Rekey.
    let fingerprints = format!("1:{}", base64::Engine::encode(&base64::prelude::BASE64_STANDARD, [7; 32]));
    let environment = &mut rig.world.local.environment;
    environment.insert("REKEY_SECRETS__KEYS".into(), KEY.into());
    environment.insert("REKEY_SECRETS__FINGERPRINT_KEY".into(), fingerprints);
    let url = rig.database_url().to_owned();
    let store = open_with(&url, KEY, 7).await.unwrap();
    let mut tx = store.begin().await.unwrap();
    tx.pause(domain::Provider::Plaid, "the bench", "bench", PAUSED).await.unwrap();
    tx.commit().await.unwrap();
    store.close().await;
    scale::fill(&url, size.items, 0).await;
    let items = size.items;
    publish(&rig, Says::Webhook, (0..size.records).map(move |n| scale::item(1 + n * 7919 % items))).await;

    let (mut floor, mut taken, mut settled, mut peak) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for n in 0..size.times {
        floor.push(bare(&rig, size, n).await);
        let one = take_in(&mut rig, size, n).await;
        taken.push(one.rate);
        settled.push(one.until_committed);
        peak.push(one.peak);
    }
    let anchor = Spread::of(&floor).median;
    report.add(Figure::new("intake", "bare batched upsert of the same rows", "/s", &floor));
    let what = format!("intake of {} waiting records over {} Items", size.records, size.items);
    report.add(Figure::new("intake", what, "/s", &taken).beside("bare", anchor).goal(">= 0.8x"));
    report.add(Figure::times("intake", "from the start of the process until all is committed", &settled));
    report.add(Figure::new("intake", "consumer's memory, the most with that backlog", "MiB", &peak).goal("<= 64"));
    // The last group has nothing waiting any more.
    let consumer = Process::start(&rig.world, "consumer").await;
    tokio::time::sleep(size.steady).await;
    let steady = memory(consumer.pid(), "VmRSS");
    consumer.terminate().await;
    report.add(Figure::one("intake", "consumer's memory, steady", "MiB", steady).goal("<= 64"));
}

struct Taken {
    rate: f64,
    until_committed: Duration,
    peak: f64,
}

/// A consumer of a new group, so that everything waits for it.
async fn take_in(rig: &mut Rig, size: Size, n: usize) -> Taken {
    let config = rig.world.local.config("").unwrap().kafka;
    let group = format!("{}-{n}", config.topics.item_events);
    rig.world.local.environment.insert("REKEY_KAFKA__GROUP".into(), group.clone());
    let began = Instant::now();
    let consumer = Process::start(&rig.world, "consumer").await;
    let taken = async || {
        let samples = metrics::read(&metrics::scrape(consumer.ops).await);
        metrics::total(&samples, "rekey_intake_records_total", &[("outcome", "taken")]).unwrap_or_default()
    };
    let (mut first, mut now) = (None, 0.0);
    while now < size.records as f64 {
        assert!(began.elapsed() < PATIENCE, "{now} records were taken in");
        tokio::time::sleep(Duration::from_millis(20)).await;
        now = taken().await;
        if now > 0.0 {
            first.get_or_insert((Instant::now(), now));
        }
    }
    let ended = Instant::now();
    // All at once, within one look: then from the start of the process.
    let (from, before) = first.filter(|(at, _)| *at + Duration::from_millis(100) < ended).unwrap_or((began, 0.0));
    let rate = (now - before) / (ended - from).as_secs_f64();
    let topic = config.topics.item_events;
    let committed = || {
        let (group, topic) = (group.clone(), topic.clone());
        async move {
            let lag = tokio::task::spawn_blocking(move || topics::lag(&kafka_address(), &group, &[topic])).await;
            lag.unwrap() == 0
        }
    };
    until("the offsets are committed", PATIENCE, committed).await;
    let until_committed = began.elapsed();
    let peak = memory(consumer.pid(), "VmHWM");
    consumer.terminate().await;
    Taken { rate, until_committed, peak }
}

/// A table of the shape that a queue has: what is due, why, under which lease, and the indexes to find it by.
const TABLE: &str = "DROP TABLE IF EXISTS bare_queue;
    CREATE TABLE bare_queue (kind TEXT NOT NULL, id TEXT NOT NULL, due_at BIGINT, class BIGINT NOT NULL, reason TEXT NOT NULL,
        wanted BIGINT NOT NULL, done BIGINT NOT NULL, unblocked BIGINT NOT NULL, attempts BIGINT NOT NULL, lease_owner TEXT,
        lease_until BIGINT, epoch BIGINT NOT NULL, held BIGINT NOT NULL, signal_at BIGINT, looked_at BIGINT, traceparent TEXT,
        PRIMARY KEY (kind, id));
    CREATE INDEX bare_queue_due ON bare_queue (kind, due_at);
    CREATE INDEX bare_queue_class ON bare_queue (kind, class, due_at);
    CREATE INDEX bare_queue_leases ON bare_queue (lease_owner) WHERE lease_owner IS NOT NULL;";

/// Reads the topic and writes the same rows, one statement for up to 512 records; rows a second.
async fn bare(rig: &Rig, size: Size, n: usize) -> f64 {
    let pool = PgPool::connect(rig.database_url()).await.unwrap();
    sqlx::raw_sql(TABLE).execute(&pool).await.unwrap();
    let ids: Vec<String> = (1..=size.items).map(scale::item).collect();
    sqlx::query(
        "INSERT INTO bare_queue SELECT 'item', id, 4000000000000, 4, 'sweep', 2, 2, 0, 0, NULL, NULL, 1, 0, NULL, 1, NULL
         FROM unnest($1::text[]) AS id",
    )
    .bind(&ids)
    .execute(&pool)
    .await
    .unwrap();
    sqlx::raw_sql("VACUUM ANALYZE bare_queue").execute(&pool).await.unwrap();
    let kafka = rig.world.local.config("").unwrap().kafka.topics;
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", kafka_address())
        .set("group.id", format!("{}-bare-{n}", kafka.item_events))
        .create()
        .unwrap();
    let mut all = TopicPartitionList::new();
    for partition in 0..kafka.partitions {
        all.add_partition_offset(&kafka.item_events, partition, Offset::Beginning).unwrap();
    }
    consumer.assign(&all).unwrap();
    let (began, mut first, mut read) = (Instant::now(), None, 0_u64);
    let mut batch: HashMap<String, i64> = HashMap::new();
    let mut in_batch = 0;
    while read < size.records {
        assert!(began.elapsed() < PATIENCE, "only {read} records could be read");
        match consumer.poll(Duration::from_millis(if in_batch == 0 { 100 } else { 0 })) {
            Some(message) => {
                let message = message.unwrap();
                first.get_or_insert_with(Instant::now);
                *batch.entry(String::from_utf8_lossy(message.key().unwrap()).into_owned()).or_default() += 1;
                read += 1;
                in_batch += 1;
                if in_batch < BATCH && read < size.records {
                    continue;
                }
            }
            None if in_batch == 0 => continue,
            None => {}
        }
        upsert(&pool, &batch).await;
        batch.clear();
        in_batch = 0;
    }
    let rate = size.records as f64 / first.unwrap().elapsed().as_secs_f64();
    pool.close().await;
    rate
}

async fn upsert(pool: &PgPool, batch: &HashMap<String, i64>) {
    let (ids, times): (Vec<&str>, Vec<i64>) = batch.iter().map(|(id, n)| (id.as_str(), *n)).unzip();
    sqlx::query(
        "INSERT INTO bare_queue AS q SELECT 'item', id, 3000000000000, 2, 'webhook', n, 0, 0, 0, NULL, NULL, 1, 0, 3000000000000,
             NULL, NULL FROM unnest($1::text[], $2::bigint[]) AS new (id, n)
         ON CONFLICT (kind, id) DO UPDATE SET due_at = least(q.due_at, excluded.due_at), class = least(q.class, excluded.class),
             reason = excluded.reason, wanted = q.wanted + excluded.wanted, signal_at = excluded.signal_at",
    )
    .bind(ids)
    .bind(times)
    .execute(pool)
    .await
    .unwrap();
}
