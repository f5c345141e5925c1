//! Everything that reads bytes from outside, fuzzed on stable Rust: the kept corpus is replayed, then mutated for a
//! while. No panic, bounded time and memory, and what each target says must hold besides.
//!
//! `make test` gives each target FUZZ_MS=300 ms, `make fuzz SECONDS=n` as many seconds as you like. What fails is
//! written to target/fuzz: put it into the corpus under a name that says what it was.
//!
//! mutatis, because it mutates a corpus and shrinks what fails without instrumentation; bolero's engine on stable only
//! draws random bytes, which no JSON parser lets past its first one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that can't go on panics")]

mod mutate;
mod targets;

use mutate::Text;
use mutatis::check::{Check, CheckError};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The most computing that one input may take, in a debug build: about ten times what a release needs.
const SLOW: Duration = Duration::from_secs(1);
/// The longest by the clock, which also counts what others do on this machine.
const HANGS: Duration = Duration::from_secs(30);
/// The most memory that this process may ever need, all targets at once.
const MEMORY_KB: u64 = 600_000;
/// Mutations of one corpus entry before it is taken afresh: many more, and nothing of its form is left.
const DEPTH: usize = 6;

/// What a target finds wrong with an input.
pub(crate) type Verdict = Result<(), String>;

/// Replays the corpus of a target, and mutates it until the time is over. `built` are inputs too large to be kept.
pub(crate) fn fuzz(target: &str, built: Vec<Vec<u8>>, mut judge: impl FnMut(&[u8]) -> Verdict) {
    let mut corpus = kept(target);
    corpus.extend(built);
    let mut property = |input: &Vec<u8>| timed(input, &mut judge);
    let until = Instant::now() + budget();
    let mut seed = seed();
    loop {
        let round = Check::new()
            .seed(seed)
            .iters(corpus.len() * DEPTH)
            .max_shrink_iters(2_000)
            .max_shrink_duration(Duration::from_secs(10))
            .run_with(Text, corpus.clone(), &mut property);
        match round {
            Ok(()) => {}
            Err(CheckError::Failed(failure)) => {
                let file = keep(target, &failure.value);
                let shown: String = String::from_utf8_lossy(&failure.value).chars().take(400).collect();
                panic!("{target}, seed {seed}: {} (input in {})\n{shown}", failure.message, file.display());
            }
            Err(error) => panic!("{target}: {error:?}"),
        }
        assert!(peak_kb() < MEMORY_KB, "{target}: this process needed {} kB", peak_kb());
        if Instant::now() >= until {
            return;
        }
        seed += 1;
    }
}

fn timed(input: &[u8], judge: &mut impl FnMut(&[u8]) -> Verdict) -> Verdict {
    let (began, computed) = (Instant::now(), computed());
    judge(input)?;
    let (took, computed) = (began.elapsed(), self::computed().saturating_sub(computed));
    if computed < SLOW && took < HANGS {
        return Ok(());
    }
    Err(format!("{} bytes took {computed:?} of computing, {took:?} by the clock", input.len()))
}

/// How long this thread has computed, where the system tells it.
fn computed() -> Duration {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(told.split(' ').next().and_then(|nanos| nanos.parse().ok()).unwrap_or(0))
}

fn kept(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder).unwrap().map(|f| f.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    files.iter().map(|f| std::fs::read(f).unwrap()).collect()
}

fn keep(target: &str, input: &[u8]) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/fuzz");
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join(format!("{target}-{}", &sandbox::sha256_hex(input)[..12]));
    std::fs::write(&file, input).unwrap();
    file
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable} must be a number")))
}

fn budget() -> Duration {
    Duration::from_millis(number("FUZZ_MS").unwrap_or(300))
}

/// Another one each day, so that CI walks on without failing twice in a row for different reasons.
fn seed() -> u64 {
    number("FUZZ_SEED")
        .unwrap_or_else(|| u64::try_from(jiff::Timestamp::now().as_second()).unwrap() / 86_400 * 1_000_000)
}

/// The most memory this process ever held, where the system tells it.
fn peak_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    line.and_then(|l| l.trim().trim_end_matches("kB").trim().parse().ok()).unwrap_or(0)
}
