//! Storms on real parts: Rekey as processes, Apache Kafka with three brokers, PostgreSQL (and once more SQLite), while all
//! of them are killed, stopped, cut off, slowed down and run out of space.
//!
//! ```text
//! storm-real [--seed N] [--seconds S] [--rotations N] [--kills N] [--businesses N] [--rate N]
//! ```
//!
//! It rages until all three are reached: the seconds, the rotations, the kills, and until each kind of fault was met; or
//! until SIGINT. Then everything heals, and the verdict compares sets: what was answered 200 with what is on the topics and
//! in the store, what belongs into each business's list with what Layer has. A seed fixes the faults, their order and
//! length, and the inputs. Not fixed: how the processes are interleaved, and the moments at which network and disk answer;
//! so a red seed replayed meets the same storm, not the same schedule.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a tool for a terminal; it ends by panic")]

mod drive;
mod faults;
mod log;
mod run;
mod stage;
mod verdict;

use clap::Parser;
use log::Log;
use run::Limits;
use stage::{Brokers, Ground};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};

/// Storms over real parts, drawn from a seed.
#[derive(Parser, Debug, Clone)]
struct Options {
    /// Without it the clock chooses.
    #[arg(long)]
    seed: Option<u64>,
    /// How long it rages at least.
    #[arg(long, default_value_t = 25)]
    seconds: u64,
    /// Access tokens that change at least.
    #[arg(long, default_value_t = 200)]
    rotations: usize,
    /// Processes and servers that are killed at least.
    #[arg(long, default_value_t = 15)]
    kills: usize,
    #[arg(long, default_value_t = 20)]
    businesses: usize,
    /// Rotations a second at most.
    #[arg(long, default_value_t = 25)]
    rate: usize,
    /// Only faults whose name holds one of these words, to narrow a red one down: "broker,receiver".
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Without the small storm on SQLite.
    #[arg(long)]
    no_sqlite: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let seed = options.seed.unwrap_or_else(|| jiff::Timestamp::now().as_second().unsigned_abs() % 1_000_000);
    let logs = PathBuf::from(std::env::var("CARGO_TARGET_DIR").unwrap_or_else(|_| "target".into()));
    let logs = logs.join("storm-real").join(seed.to_string());
    let _ = std::fs::remove_dir_all(&logs);
    std::fs::create_dir_all(&logs).unwrap();
    let logs = logs.canonicalize().unwrap();
    traces(&logs);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
    // Whatever ends it, a panic too, the runtime drops the storm, and that kills, unmounts and removes what it started.
    let green = runtime.block_on(async {
        let cut = Arc::new(AtomicBool::new(false));
        tokio::spawn(cut_short(Arc::clone(&cut)));
        tokio::select! {
            green = storms(seed, &options, &logs, &cut) => Some(green),
            () = terminated() => None,
        }
    });
    runtime.shutdown_timeout(Duration::from_secs(10));
    match green {
        Some(true) => ExitCode::SUCCESS,
        Some(false) => {
            println!("replay: make storm-real SEED={seed}, with the same numbers; logs in {}", logs.display());
            ExitCode::FAILURE
        }
        None => ExitCode::from(130),
    }
}

fn traces(logs: &Path) {
    let level = std::env::var("STORM_LOG")
        .unwrap_or_else(|_| "info,librdkafka=off,rdkafka=off,sqlx=off,hyper=off,h2=off,reqwest=off".into());
    let file = std::fs::File::create(logs.join("storm.log")).unwrap();
    tracing_subscriber::fmt().with_env_filter(level).with_writer(file).with_ansi(false).compact().init();
}

async fn terminated() {
    signal(SignalKind::terminate()).unwrap().recv().await;
    println!("terminated: ending what was started");
}

/// A long storm that must end earlier is judged all the same.
async fn cut_short(cut: Arc<AtomicBool>) {
    let Ok(()) = tokio::signal::ctrl_c().await else { return };
    println!("interrupted: the storm ends now, and is judged; SIGTERM ends it without that");
    cut.store(true, Ordering::SeqCst);
}

/// The storm on PostgreSQL, then a small one on SQLite over the same brokers.
async fn storms(seed: u64, options: &Options, logs: &Path, cut: &Arc<AtomicBool>) -> bool {
    let began = Instant::now();
    println!(
        "seed {seed}: at least {} rotations of {} businesses, {} kills, {} s",
        options.rotations, options.businesses, options.kills, options.seconds
    );
    let brokers = Arc::new(Brokers::start(logs));
    let large = Limits {
        seed,
        seconds: options.seconds,
        rotations: options.rotations,
        kills: options.kills,
        businesses: options.businesses,
        rate: options.rate,
    };
    let small = Limits { seconds: 8, rotations: 40, kills: 2, businesses: 6, rate: options.rate.min(10), ..large };
    let mut red = Vec::new();
    for (ground, limits) in [(Ground::Postgres, large), (Ground::Sqlite, small)] {
        if ground == Ground::Sqlite && (options.no_sqlite || cut.load(Ordering::SeqCst)) {
            continue;
        }
        let log = Arc::new(Log::new(ground.name()));
        let found = run::storm(ground, limits, &options.only, &brokers, logs, &log, cut).await;
        red.extend(found.into_iter().map(|line| format!("{}: {line}", ground.name())));
    }
    // At the very end: of a long output often nothing but the last lines is kept.
    red.iter().for_each(|line| println!("RED {line}"));
    let green = red.is_empty();
    let word = if green { "green" } else { "RED" };
    let cut = if cut.load(Ordering::SeqCst) { ", cut short" } else { "" };
    println!("seed {seed}: {word} in {:.0} s{cut}", began.elapsed().as_secs_f64());
    green
}
