//! Where a run took place, without which no figure means anything to somebody else.

use std::process::Command;

pub(crate) fn described() -> Vec<(&'static str, String)> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let said = |program: &str, words: &[&str]| {
        let output = Command::new(program).args(words).output();
        output.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default()
    };
    let cpu = read("/proc/cpuinfo");
    let model = cpu.lines().find_map(|l| l.strip_prefix("model name")).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = read("/proc/meminfo");
    let memory = memory.lines().next().unwrap_or_default().replace("MemTotal:", "");
    let rekey = tests::process::binary();
    // Whoever builds in other places says so by --release-binary, and knows.
    let optimised = if rekey.components().any(|c| c.as_os_str() == "release") { "optimised" } else { "NOT OPTIMISED" };
    let of_bench = if cfg!(debug_assertions) { "not optimised" } else { "optimised" };
    vec![
        ("date", jiff::Timestamp::now().to_string()),
        ("commit", said("git", &["describe", "--always", "--dirty"])),
        (
            "machine",
            format!("{cores} cores,{}; {} of memory", model.trim_start_matches([' ', '\t', ':']), memory.trim()),
        ),
        ("system", read("/proc/version").split(" (").next().unwrap_or_default().to_owned()),
        ("rekey", format!("{} ({optimised})", rekey.display())),
        ("bench", of_bench.to_owned()),
    ]
}
