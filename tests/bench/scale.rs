//! A store of many Items beside a small one: what each operation reads, in pages of PostgreSQL, which no machine changes; and how
//! long a claim, an order to look at everything and a start take.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tests::bare_store::{KEY, LONG, limits, open_with};
use tests::process::Process;
use tests::scale::{carried_out, fill};
use tests::{Parts, World, fresh_database};

use domain::work::Kind;
use sqlx::Connection as _;

/// The store that the large one is compared with.
const SMALL: u64 = 10_000;
/// Times that something is done, of which the median counts.
const TIMES: usize = 9;

/// Prints for each thing that is done with a store the pages that it takes with 10 000 Items and with `items`. To be called in
/// a runtime of one thread.
pub(crate) async fn pages(items: u64) {
    let small: BTreeMap<String, u64> = pages_of(SMALL).await.into_iter().collect();
    println!("\n{:<58} {:>10} {:>10} {:>8}", "pages, a twentieth of the Items due", SMALL, items, "ratio");
    for (what, large) in pages_of(items).await {
        let small = small.get(&what).copied().unwrap_or_default();
        println!("{what:<58} {small:>10} {large:>10} {:>7.2}x", large as f64 / small.max(1) as f64);
    }
}

/// In the order in which they were done.
async fn pages_of(items: u64) -> Vec<(String, u64)> {
    let mut found: Vec<(String, u64)> = Vec::new();
    for (what, ran) in carried_out(&fresh_database().await, items, items / 20, &[]).await {
        match found.last_mut().filter(|(last, _)| *last == what) {
            Some((_, pages)) => *pages += ran.pages,
            None => found.push((what, ran.pages)),
        }
    }
    found
}

/// Prints how long claims take by how much is due, and how long the rest takes by how much there is.
pub(crate) async fn times(items: u64) {
    let (small, large) = (filled(SMALL).await, filled(items).await);
    println!("\n{:<58} {:>10} {:>10} {:>8}", "time", SMALL, items, "ratio");
    super::row("until a consumer is ready", until_ready(&small).await, until_ready(&large).await);
    super::row(
        "everything due, a thousand Items at a time: each thousand",
        mark_all(&small, SMALL).await,
        mark_all(&large, items).await,
    );
    let mut first = None;
    for due in [1_000, 10_000, 100_000, items].into_iter().filter(|due| *due <= items) {
        let took = claim(&large, due).await;
        let first = *first.get_or_insert(took);
        super::row(&format!("a claim of 16 with 1 000 due, and with {due}"), first, took);
    }
}

async fn filled(items: u64) -> String {
    let url = fresh_database().await;
    open_with(&url, KEY, 7).await.unwrap().close().await;
    fill(&url, items, 0).await;
    url
}

fn median(mut took: Vec<Duration>) -> Duration {
    took.sort();
    took[took.len() / 2]
}

async fn sql(url: &str, text: String) {
    let mut connection = sqlx::AnyConnection::connect(url).await.unwrap();
    sqlx::query(sqlx::AssertSqlSafe(text)).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

async fn claim(url: &str, due: u64) -> Duration {
    let last = tests::scale::item(due);
    sql(
        url,
        format!("UPDATE work SET due_at = CASE WHEN id <= '{last}' THEN 1 ELSE 4000000000000 END WHERE kind = 'item'"),
    )
    .await;
    sql(url, "VACUUM ANALYZE work".to_owned()).await;
    let store = open_with(url, KEY, 7).await.unwrap();
    let mut took = Vec::new();
    for _ in 0..TIMES {
        let began = Instant::now();
        let claims = store.claim(Kind::Item, "bench", LONG, 16, &limits()).await.unwrap();
        took.push(began.elapsed());
        assert_eq!(claims.len(), 16);
    }
    store.close().await;
    median(took)
}

async fn mark_all(url: &str, items: u64) -> Duration {
    let store = open_with(url, KEY, 7).await.unwrap();
    let began = Instant::now();
    store.mark_all(Kind::Item, Duration::from_hours(1), "bench").await.unwrap();
    let took = began.elapsed();
    store.close().await;
    took / u32::try_from(items / 1000).unwrap()
}

async fn until_ready(url: &str) -> Duration {
    let mut world = World::without_rekey(Parts::Real, "").await;
    world.local.environment.insert("REKEY_DATABASE__URL".into(), url.to_owned());
    // The process has keys of its own, and a store without a check takes them.
    sql(url, "DELETE FROM meta WHERE name IN ('key_check', 'fingerprint_check')".to_owned()).await;
    let mut took = Vec::new();
    for _ in 0..TIMES {
        let began = Instant::now();
        let process = Process::spawn(&world, "consumer");
        let readiness = format!("http://{}/readyz", process.ops);
        while !reqwest::get(&readiness).await.is_ok_and(|answer| answer.status() == 200) {
            assert!(began.elapsed() < Duration::from_mins(2), "not ready");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        took.push(began.elapsed());
        process.terminate().await;
    }
    sql(url, "DELETE FROM meta WHERE name IN ('key_check', 'fingerprint_check')".to_owned()).await;
    median(took)
}
