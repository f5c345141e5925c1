//! Figures, each as a ratio of two measurements of one run: the machine cancels out.
//!
//! ```text
//! bench [--only PART] [--smoke] [--stored N] [--items N] [--seconds S] [--latency MS] [--rotations N] [--records N]
//!       [--release-binary PATH]
//! ```
//!
//! They are shown while they are measured, and stand in `target/bench/report.json` and `report.html` at the end.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a tool for a terminal; it ends by panic")]

mod burst;
mod cores;
mod database;
mod embedded;
mod floods;
mod floor;
mod instructions;
mod intake;
mod killed;
mod limits;
mod load;
mod machine;
mod page;
mod plot;
mod receiver;
mod records;
mod report;
mod rig;
mod rotation;
mod scale;
mod storm;
mod usage;

use clap::{Parser, ValueEnum};
use report::Report;
use std::path::PathBuf;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// Measures, side by side.
#[derive(Parser)]
struct Options {
    /// Items that are due at once at the documented limits.
    #[arg(long, default_value_t = 10_000)]
    items: usize,
    /// How long their storm is watched.
    #[arg(long, default_value_t = 130)]
    seconds: u64,
    /// How long half of the providers' answers take in that storm, in milliseconds; one in a hundred takes five times as long.
    #[arg(long, default_value_t = 400)]
    latency: u32,
    /// Items of the large store.
    #[arg(long, default_value_t = 1_000_000)]
    stored: u64,
    /// Rotations of each storm.
    #[arg(long, default_value_t = 3_000)]
    rotations: usize,
    /// Records that wait for a consumer, over a quarter as many Items.
    #[arg(long, default_value_t = 200_000)]
    records: u64,
    /// One part alone.
    #[arg(long)]
    only: Option<Part>,
    /// Everything for seconds, to see that it runs to its end.
    #[arg(long)]
    smoke: bool,
    /// The optimised `rekey` to measure; otherwise the one beside this program.
    #[arg(long)]
    release_binary: Option<PathBuf>,
    #[command(subcommand)]
    other: Option<Other>,
}

/// What this program is beside the bench.
#[derive(clap::Subcommand)]
enum Other {
    /// The least that a receiver of webhooks does, to hold ours against.
    #[command(hide = true)]
    Floor(floor::Floor),
    /// Work on so many webhooks, for valgrind to count.
    #[command(hide = true)]
    Webhooks { count: u64 },
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Pages of each statement in a small and a large store.
    Pages,
    /// How long a claim, an order to look at everything and a start take in such stores.
    Store,
    /// Good webhooks beside forged ones.
    Floods,
    /// Due Items at the documented limits.
    Limits,
    /// One rotation on an idle system.
    Rotation,
    /// Many rotations at once.
    Storm,
    /// Many records that wait for a consumer.
    Intake,
    /// Instructions of a webhook.
    Instructions,
    /// What a webhook costs the receiver.
    Receiver,
    /// Many webhooks for one business.
    Burst,
    /// A consumer that dies in the middle of its work.
    Killed,
    /// One process on SQLite.
    Embedded,
}

fn main() {
    let options = Options::parse();
    match &options.other {
        Some(Other::Floor(floor)) => {
            let mut runtime = tokio::runtime::Builder::new_multi_thread();
            return runtime.enable_all().build().unwrap().block_on(floor.run());
        }
        Some(Other::Webhooks { count }) => {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            return runtime.enable_all().build().unwrap().block_on(instructions::work(*count));
        }
        None => {}
    }
    if let Some(binary) = &options.release_binary {
        tests::process::use_binary(binary.canonicalize().unwrap());
    }
    let mut report = Report::new();
    for part in Part::value_variants() {
        if options.only.is_none_or(|only| only == *part) {
            report.begin(&format!("{part:?}"));
            // What the database says of a statement is read from the log of the thread that asked.
            let mut runtime = match part {
                Part::Pages => tokio::runtime::Builder::new_current_thread(),
                _ => tokio::runtime::Builder::new_multi_thread(),
            };
            let ended = runtime.enable_all().build().unwrap().block_on(async {
                tokio::select! {
                    () = run(*part, &options, &mut report) => true,
                    () = told_to_end() => false,
                }
            });
            report.save();
            if !ended {
                std::process::exit(130);
            }
        }
    }
}

/// Then what was started for a part ends with it, before this process does.
async fn told_to_end() {
    let mut terminate = signal(SignalKind::terminate()).unwrap();
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}

async fn run(part: Part, options: &Options, report: &mut Report) {
    let smoke = options.smoke;
    let sizes: &[u64] = if smoke { &[1_000, 2_000] } else { &[10_000, 100_000] };
    let sizes: Vec<u64> = sizes.iter().copied().chain((!smoke).then_some(options.stored)).collect();
    match part {
        Part::Pages => scale::pages(&sizes, report).await,
        Part::Store => scale::times(sizes[0], *sizes.last().unwrap(), report).await,
        Part::Floods => floods::run(if smoke { 40 } else { 400 }, report).await,
        Part::Limits if smoke => {
            limits::run(limits::Size { items: 20, seconds: 4, latency: 20, calm: Duration::ZERO }, report).await;
        }
        Part::Limits => {
            let Options { items, seconds, latency, .. } = *options;
            limits::run(limits::Size { items, seconds, latency, calm: Duration::from_secs(61) }, report).await;
        }
        Part::Rotation => {
            rotation::run(if smoke { rotation::Size::SMOKE } else { rotation::Size::FULL }, report).await;
        }
        Part::Storm => {
            storm::run(if smoke { storm::Size::SMOKE } else { storm::Size::full(options.rotations) }, report).await;
        }
        Part::Instructions => instructions::run(report),
        Part::Receiver => {
            let size = if smoke { receiver::Size::SMOKE } else { receiver::Size::FULL };
            receiver::run(size, options.release_binary.as_deref(), report).await;
        }
        Part::Burst => burst::run(if smoke { burst::Size::SMOKE } else { burst::Size::FULL }, report).await,
        Part::Killed => killed::run(if smoke { killed::Size::SMOKE } else { killed::Size::FULL }, report).await,
        Part::Embedded => embedded::run(if smoke { embedded::Size::SMOKE } else { embedded::Size::FULL }, report).await,
        Part::Intake => {
            intake::run(if smoke { intake::Size::SMOKE } else { intake::Size::full(options.records) }, report).await;
        }
    }
}
