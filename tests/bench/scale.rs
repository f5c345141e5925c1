//! A store of many Items beside a small one: what each operation reads, in pages of PostgreSQL, which no machine changes; and how
//! long a claim, an order to look at everything and a start take.

use crate::plot::{Lines, Plot};
use crate::report::{Figure, Report, Spread};
use std::time::{Duration, Instant};
use tests::bare_store::{KEY, LONG, limits, open_with};
use tests::process::Process;
use tests::scale::{carried_out, fill};
use tests::{Parts, World, fresh_database};

use domain::work::Kind;
use sqlx::Connection as _;

/// Times that something is done, of which the median counts.
const TIMES: usize = 9;

/// The pages that each thing takes that is done with a store, in stores of these sizes. To be called in a runtime of one thread.
pub(crate) async fn pages(sizes: &[u64], report: &mut Report) {
    let mut of_size = Vec::new();
    for items in sizes {
        of_size.push(pages_of(*items).await);
    }
    let (smallest, largest) = (sizes[0], sizes[sizes.len() - 1]);
    let found = |size: usize, what: &str| {
        of_size[size].iter().find(|(name, _)| name == what).map_or(f64::NAN, |(_, pages)| *pages as f64)
    };
    let mut series = Vec::new();
    for (what, pages) in &of_size[sizes.len() - 1] {
        let small = found(0, what).max(1.0);
        let figure = Figure::one("pages", format!("{what}, {largest} Items, a twentieth due"), "pages", *pages as f64);
        report.add(figure.beside(format!("with {smallest}"), small).goal("<= 1.3x"));
        let points = sizes.iter().enumerate().map(|(n, items)| (*items as f64, found(n, what))).collect();
        series.push((what.clone(), points));
    }
    let title = "Pages of PostgreSQL that each thing reads, by the Items in the store".to_owned();
    report.plot(Plot::Lines(Lines { title, x: "Items", y: "pages", logarithmic: true, series }));
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

/// How long claims take by how much is due, and how long the rest takes by how much there is.
pub(crate) async fn times(few: u64, many: u64, report: &mut Report) {
    let (small, large) = (filled(few).await, filled(many).await);
    let beside = format!("with {few}");
    let ready = Spread::of_times(&until_ready(&small).await).median;
    let what = format!("until a consumer is ready, {many} Items");
    report.add(Figure::times("store", what, &until_ready(&large).await).beside(&beside, ready).goal("<= 150 ms"));
    let marked = mark_all(&small, few).await.as_secs_f64() * 1e3;
    let what = format!("everything due, of {many} Items: each thousand");
    report.add(Figure::times("store", what, &[mark_all(&large, many).await]).beside(&beside, marked));
    let (mut first, mut points) = (None, Vec::new());
    for due in [1_000, 10_000, 100_000, many].into_iter().filter(|due| *due <= many) {
        let took = claim(&large, due).await;
        let median = Spread::of_times(&took).median;
        let first = *first.get_or_insert(median);
        points.push((due as f64, median * 1e3));
        let figure = Figure::times("store", format!("a claim of 16 with {due} due"), &took);
        report.add(figure.beside("with 1000 due", first).goal("<= 1.3x"));
    }
    let title = "A claim of 16, by how much is due".to_owned();
    let series = vec![("a claim".to_owned(), points)];
    report.plot(Plot::Lines(Lines { title, x: "due rows", y: "microseconds", logarithmic: true, series }));
}

async fn filled(items: u64) -> String {
    let url = fresh_database().await;
    open_with(&url, KEY, 7).await.unwrap().close().await;
    fill(&url, items, 0).await;
    url
}

async fn sql(url: &str, text: String) {
    let mut connection = sqlx::AnyConnection::connect(url).await.unwrap();
    sqlx::query(sqlx::AssertSqlSafe(text)).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

async fn claim(url: &str, due: u64) -> Vec<Duration> {
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
    took
}

async fn mark_all(url: &str, items: u64) -> Duration {
    let store = open_with(url, KEY, 7).await.unwrap();
    let began = Instant::now();
    store.mark_all(Kind::Item, Duration::from_hours(1), "bench").await.unwrap();
    let took = began.elapsed();
    store.close().await;
    took / u32::try_from((items / 1000).max(1)).unwrap()
}

async fn until_ready(url: &str) -> Vec<Duration> {
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
    took
}
