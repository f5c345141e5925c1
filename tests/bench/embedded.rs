//! `rekey all` on SQLite and the broker inside it, beside what the disk does: small commits of SQLite, each waited for.

use crate::load::{Answers, Load, request};
use crate::report::{Figure, Report, Spread};
use crate::rig::{CALLS, lifted, until, until_exact};
use rekey::local::Ground;
use sandbox::{Announce, Sandbox};
use serde_json::json;
use sqlx::{Connection as _, SqliteConnection};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tests::bare_store::{KEY, open_with};
use tests::process::Process;
use tests::{World, metrics};

/// How much, and how often.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    pub(crate) items: usize,
    pub(crate) lasts: Duration,
    pub(crate) times: usize,
}

impl Size {
    pub(crate) const FULL: Self = Self { items: 300, lasts: Duration::from_secs(5), times: 3 };
    pub(crate) const SMOKE: Self = Self { items: 20, lasts: Duration::from_millis(500), times: 1 };
}

const CONNECTIONS: usize = 64;
const WRITERS: usize = 64;
const PATIENCE: Duration = Duration::from_mins(5);

pub(crate) async fn run(size: Size, report: &mut Report) {
    let world = World::over(Ground { kafka: None, databases: None, settings: lifted() }).await;
    let items = rotations(&world, size, report).await;
    // From here on nobody begins to work on rows while they are taken in.
    world
        .sql("INSERT INTO pauses (provider, reason, since, probe_at) VALUES ('plaid', 'the bench', 0, 4000000000000)")
        .await;
    let process = Process::start(&world, "all").await;
    let (mut commits, mut due) = (Vec::new(), Vec::new());
    for _ in 0..=size.times {
        commits.push(commit_rate(world.local.directory.path(), size.lasts).await);
        due.push(webhooks(&world, &process, &items, size.lasts).await);
    }
    process.terminate().await;
    let mut together = Vec::new();
    for _ in 0..size.times {
        together.push(commits_together(world.local.directory.path(), size.lasts).await);
    }
    // The first time connections are made and keys asked for.
    let (commits, due) = (&commits[1..], &due[1..]);
    report.add(Figure::new("embedded", "SQLite's commits of one row, each on disk", "/s", commits));
    let figure = Figure::new("embedded", format!("commits of the store, {WRITERS} writers at once"), "/s", &together);
    report.add(figure.beside("commits", Spread::of(commits).median).goal(">= 5x"));
    let figure = Figure::new("embedded", "webhooks to due rows, 64 connections", "/s", due);
    report.add(figure.beside("commits", Spread::of(commits).median).goal(">= 5x when many wait"));
}

/// Each Item rotates, and a webhook says so.
async fn rotations(world: &World, size: Size, report: &mut Report) -> Vec<String> {
    let process = Process::start(world, "all").await;
    world.sandbox.set_webhook_url(format!("http://{}/webhooks/plaid", process.listen));
    let token = world.local.admin_token.clone().into();
    world.sandbox.set_admin(sandbox::Admin { url: format!("http://{}", process.console), token });
    let mut items = Vec::new();
    for n in 0..size.items {
        items.push(world.link(&format!("b{}", n / 3), 1).await);
    }
    until_exact(world, PATIENCE).await;
    // Until its key is known here, each webhook is answered 503, and comes again when Plaid would send it again.
    let published = async || {
        world.webhook(&items[0], "LOGIN_REPAIRED", &json!({}));
        tokio::time::sleep(Duration::from_millis(100)).await;
        let samples = metrics::read(&metrics::scrape(process.ops).await);
        metrics::total(&samples, "rekey_webhooks_total", &[("outcome", "published")]).unwrap_or_default() > 0.0
    };
    until("a webhook is published", PATIENCE, published).await;
    let (mut rates, mut commits, mut anchor) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..size.times {
        anchor.push(commit_rate(world.local.directory.path(), size.lasts).await);
        for item in &items {
            world.rotate(item, Announce::Database).await;
        }
        let log = Log::hold(world).await;
        let began = Instant::now();
        for item in &items {
            world.webhook(item, "LOGIN_REPAIRED", &json!({}));
        }
        until_exact(world, PATIENCE).await;
        let calls = CALLS.iter().flat_map(|call| world.sandbox.calls_about(call)).map(|(at, _)| at);
        let last = calls.max().unwrap();
        rates.push(size.items as f64 / (last - began).as_secs_f64());
        commits.push(log.commits().await as f64 / size.items as f64);
    }
    process.terminate().await;
    let figure = Figure::new("embedded", "rotations, from the webhooks until every list is read back", "/s", &rates);
    report.add(figure.beside("commits", Spread::of(&anchor).median));
    report.add(Figure::new("embedded", "commits a rotation", "", &commits).goal("<= 6"));
    items
}

/// Webhooks as fast as they are answered, until each is taken in; how many a second.
async fn webhooks(world: &World, process: &Process, items: &[String], lasts: Duration) -> f64 {
    let (sandbox, items) = (world.sandbox.clone(), items.to_vec());
    let requests = tokio::task::spawn_blocking(move || {
        let one = |item: &String| {
            let body = Sandbox::webhook_body("ITEM", "LOGIN_REPAIRED", Some(item), &json!({"error": null}));
            let signed = sandbox.sign(&body);
            request(Some(&signed.header), &body)
        };
        items.iter().map(one).collect::<Vec<_>>()
    });
    let requests = Arc::new(requests.await.unwrap());
    let taken = async || {
        let samples = metrics::read(&metrics::scrape(process.ops).await);
        metrics::total(&samples, "rekey_intake_records_total", &[("outcome", "taken")]).unwrap_or_default()
    };
    let before = taken().await;
    let began = Instant::now();
    let load = Load { to: process.listen, requests, connections: CONNECTIONS, lasts, per_second: None };
    let answers: Answers = load.run().await;
    let good = answers.by_status.get(&200).copied().unwrap_or_default() as f64;
    until("every webhook is taken in", PATIENCE, async || taken().await >= before + good).await;
    good / began.elapsed().as_secs_f64()
}

/// How many small transactions a second SQLite can bring to this disk, one after the other.
async fn commit_rate(directory: &Path, lasts: Duration) -> f64 {
    let url = format!("sqlite://{}?mode=rwc", directory.join("commits.sqlite").display());
    let mut connection = SqliteConnection::connect(&url).await.unwrap();
    let prepared = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, v);
        INSERT OR REPLACE INTO t VALUES (1, 0)";
    sqlx::raw_sql(prepared).execute(&mut connection).await.unwrap();
    let (began, mut commits) = (Instant::now(), 0);
    while began.elapsed() < lasts {
        sqlx::query("UPDATE t SET v = v + 1 WHERE id = 1").execute(&mut connection).await.unwrap();
        commits += 1;
    }
    let rate = f64::from(commits) / began.elapsed().as_secs_f64();
    connection.close().await.unwrap();
    rate
}

/// How many small transactions a second the store commits on this disk when many writers wait.
async fn commits_together(directory: &Path, lasts: Duration) -> f64 {
    let url = format!("sqlite://{}?mode=rwc", directory.join("together.sqlite").display());
    let store = open_with(&url, KEY, 7).await.unwrap();
    let began = Instant::now();
    let writers = (0..WRITERS).map(|n| {
        let store = store.clone();
        tokio::spawn(async move {
            let (chore, mut commits) = (format!("bench-{n}"), 0);
            while began.elapsed() < lasts {
                let mut tx = store.begin().await.unwrap();
                tx.lease_chore(&chore, "bench", lasts).await.unwrap();
                tx.commit().await.unwrap();
                commits += 1;
            }
            commits
        })
    });
    let commits: u32 = futures::future::join_all(writers).await.into_iter().map(Result::unwrap).sum();
    let rate = f64::from(commits) / began.elapsed().as_secs_f64();
    store.close().await;
    rate
}

/// SQLite's write-ahead log, kept from being begun anew by a reader: each commit since is in it.
struct Log {
    reader: SqliteConnection,
    file: PathBuf,
    before: ([u8; 8], usize),
}

impl Log {
    async fn hold(world: &World) -> Self {
        let url = &world.local.environment["REKEY_DATABASE__URL"];
        let mut reader = SqliteConnection::connect(url).await.unwrap();
        sqlx::raw_sql("BEGIN; SELECT count(*) FROM sqlite_master").execute(&mut reader).await.unwrap();
        let file = PathBuf::from(format!("{}-wal", url.strip_prefix("sqlite://").unwrap()));
        let before = commits_in(&file);
        Self { reader, file, before }
    }

    /// Since it was held. A log that was empty for the reader may have begun anew once, and then says so by its salt.
    async fn commits(self) -> usize {
        let (salt, commits) = commits_in(&self.file);
        self.reader.close().await.unwrap();
        if salt == self.before.0 { commits - self.before.1 } else { commits }
    }
}

/// The salt of the log and the commits in it. <https://sqlite.org/fileformat2.html#the_write_ahead_log>
fn commits_in(file: &Path) -> ([u8; 8], usize) {
    let log = std::fs::read(file).unwrap_or_default();
    if log.len() < 32 {
        return ([0; 8], 0);
    }
    let salt: [u8; 8] = log[16..24].try_into().unwrap();
    let page = u32::from_be_bytes(log[8..12].try_into().unwrap()) as usize;
    // What an earlier round left behind the end has another salt. A frame that ends a transaction names the database's size.
    let frames = log[32..].chunks_exact(24 + page).take_while(|frame| frame[8..16] == salt);
    (salt, frames.filter(|frame| frame[4..8] != [0; 4]).count())
}
