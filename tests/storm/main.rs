//! Storms: the whole system on embedded parts, with faults and crashes drawn from a seed.
//!
//! ```text
//! storm [--seeds N] [--from SEED] [--items N] [--seconds S] [--jobs N]
//! ```
//!
//! A seed fixes the world, the answers to unconfirmed facts, the weather and what happens when; each seed runs in a
//! process of its own and leaves its log, which is the trace of decisions, in `target/storm`. Not fixed: how the system's
//! threads are interleaved, and the moments at which the network and the disk answer.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a tool for a terminal; what it can't do ends it")]

mod life;
mod plan;
mod run;
mod verdict;

use clap::Parser;
use plan::Plan;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use verdict::Outcome;

/// Storms over the whole system, each drawn from a seed.
#[derive(Parser)]
struct Options {
    /// How many seeds.
    #[arg(long, default_value_t = 1, overrides_with = "seeds")]
    seeds: u64,
    /// The first one; without it the clock chooses.
    #[arg(long)]
    from: Option<u64>,
    /// Items in each world.
    #[arg(long, default_value_t = 120)]
    items: usize,
    /// How long each storm rages.
    #[arg(long, default_value_t = 8)]
    seconds: u64,
    /// Storms at the same time.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Runs one seed in this process.
    #[arg(long, hide = true)]
    only: Option<u64>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let lasts = Duration::from_secs(options.seconds);
    if let Some(seed) = options.only {
        return only(seed, Plan::draw(seed, options.items, lasts));
    }
    let from = options.from.unwrap_or_else(|| jiff::Timestamp::now().as_second().unsigned_abs() % 1_000_000);
    let logs = PathBuf::from(std::env::var("CARGO_TARGET_DIR").unwrap_or_else(|_| "target".into())).join("storm");
    std::fs::create_dir_all(&logs).unwrap();
    println!(
        "{} seeds from {from}, {} Items each, {} s; logs in {}",
        options.seeds,
        options.items,
        options.seconds,
        logs.display()
    );
    println!(
        "{:>8} {:>6} {:>7} {:>7} {:>9} {:>6} {:>7} {:>6} {:>7} {:>8} {:>10}",
        "seed",
        "items",
        "crashes",
        "weather",
        "rotations",
        "mints",
        "orphans",
        "PUTs",
        "refused",
        "webhooks",
        "healed ms"
    );
    let began = Instant::now();
    let queue: VecDeque<u64> = (from..from + options.seeds).collect();
    let queue = Arc::new(Mutex::new(queue));
    let workers: Vec<_> = (0..options.jobs.max(1))
        .map(|_| {
            let (queue, logs, items, seconds) = (Arc::clone(&queue), logs.clone(), options.items, options.seconds);
            std::thread::spawn(move || {
                let mut red = Vec::new();
                while let Some(seed) = next(&queue) {
                    let outcome = apart(seed, items, seconds, &logs);
                    show(&outcome, &logs);
                    if !outcome.faults.is_empty() {
                        red.push(seed);
                    }
                }
                red
            })
        })
        .collect();
    let red: Vec<u64> = workers.into_iter().flat_map(|w| w.join().unwrap()).collect();
    println!("{} seeds in {:.0} s, {} red", options.seeds, began.elapsed().as_secs_f64(), red.len());
    for seed in &red {
        println!("replay: SEED={seed} make storm    (items {}, seconds {})", options.items, options.seconds);
    }
    if red.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn next(queue: &Mutex<VecDeque<u64>>) -> Option<u64> {
    queue.lock().unwrap().pop_front()
}

/// Runs one seed as a process of its own: a panic, or what one world leaves behind, is not the next one's.
fn apart(seed: u64, items: usize, seconds: u64, logs: &Path) -> Outcome {
    let log = std::fs::File::create(logs.join(format!("{seed}.log"))).unwrap();
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--only", &seed.to_string(), "--items", &items.to_string(), "--seconds", &seconds.to_string()])
        .stdin(Stdio::null())
        .stderr(log)
        .output()
        .unwrap();
    let last = String::from_utf8_lossy(&output.stdout);
    last.lines().last().and_then(|line| serde_json::from_str(line).ok()).unwrap_or_else(|| Outcome {
        seed,
        faults: vec![format!("it ended without a result: {}", output.status)],
        ..Outcome::default()
    })
}

fn only(seed: u64, plan: Plan) -> ExitCode {
    let level = std::env::var("STORM_LOG")
        .unwrap_or_else(|_| "debug,librdkafka=off,rdkafka=off,sqlx=off,hyper=off,h2=off,reqwest=off".into());
    tracing_subscriber::fmt().with_env_filter(level).with_writer(std::io::stderr).with_ansi(false).compact().init();
    for fault in &plan.weather {
        tracing::info!(?fault, "weather");
    }
    tracing::info!(switches = ?plan.switches, "world");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let outcome = runtime.block_on(run::storm(seed, plan)).unwrap_or_else(|error| Outcome {
        seed,
        faults: vec![format!("the storm itself failed: {error:#}")],
        ..Outcome::default()
    });
    println!("{}", serde_json::to_string(&outcome).unwrap());
    runtime.shutdown_background();
    if outcome.faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn show(o: &Outcome, logs: &Path) {
    println!(
        "{:>8} {:>6} {:>7} {:>7} {:>9} {:>6} {:>7} {:>6} {:>7} {:>8} {:>10}",
        o.seed,
        o.items,
        o.crashes,
        o.weather,
        o.rotations,
        o.mints,
        o.orphans,
        o.puts,
        o.refused,
        o.webhooks,
        o.healed_ms
    );
    for fault in &o.faults {
        println!("         RED {fault}");
        println!("             {}", logs.join(format!("{}.log", o.seed)).display());
    }
}
