//! Every order of steps of the reconcilers' protocol in a small world: two workers, two businesses, Items that change,
//! and a crash, a lost answer or a lost lease at any step.
//!
//! ```text
//! explore [--faults N] [--states N] [--scene NAME]
//! ```
//!
//! The reconcilers, the store and the clients are the production code; only their provider calls are held at a gate
//! until it is their turn, and time is moved by hand. Whenever every worker waits or has ended, the explorer knows all
//! that can happen next. It tries each of them, returns to the beginning and takes another way, and leaves a way where it
//! meets a state that it has seen. I5 to I8 are judged at every state, and where nothing can happen any more every list
//! has to be exact with nothing parked, without any help from the sweep (I10).

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a tool for a terminal; what it can't do ends it")]

mod gate;
mod scene;
mod search;
mod state;
mod verdict;

use clap::Parser;
use scene::{SCENES, Scene};
use std::process::ExitCode;

/// Tries every order of steps in a small world.
#[derive(Parser)]
struct Options {
    /// Crashes, lost answers and lost leases on one way. Not given: as many as let the scene end within minutes.
    #[arg(long)]
    faults: Option<u32>,
    /// States after which a scene is left, explored to its end or not.
    #[arg(long, default_value_t = 1_000_000)]
    states: usize,
    /// Only this scene.
    #[arg(long)]
    scene: Option<String>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let level = std::env::var("EXPLORE_LOG").unwrap_or_else(|_| "off".into());
    tracing_subscriber::fmt().with_env_filter(level).with_writer(std::io::stderr).with_ansi(false).compact().init();
    let scenes: Vec<&Scene> = SCENES.iter().filter(|s| options.scene.as_ref().is_none_or(|n| n == s.name)).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    println!("{:<28} {:>6} {:>8} {:>8} {:>6} {:>8}  end", "scene", "faults", "states", "ways", "ends", "seconds");
    let mut red = scenes.is_empty();
    for scene in scenes {
        let faults = options.faults.unwrap_or(scene.faults);
        let found = runtime.block_on(search::search(scene, faults, options.states));
        let end = match (&found.broken, found.complete) {
            (Some(_), _) => "RED",
            (None, true) => "complete",
            (None, false) => "left: more states than allowed",
        };
        println!(
            "{:<28} {:>6} {:>8} {:>8} {:>6} {:>8.1}  {end}",
            scene.name,
            faults,
            found.states,
            found.ways,
            found.ends,
            found.took.as_secs_f64()
        );
        if let Some(broken) = found.broken {
            red = true;
            println!("  {}", broken.why);
            broken.way.iter().for_each(|step| println!("    {step}"));
        }
    }
    if red { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
