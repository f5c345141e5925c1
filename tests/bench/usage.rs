//! What processes use, as the kernel counts it.

use std::time::Duration;

/// The kernel counts processor time in hundredths of a second on every architecture that we run on.
const TICK: Duration = Duration::from_millis(10);

/// Processor time of a process until now, its ended children included; nothing once it is gone.
pub(crate) fn cpu(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // After the name, which may hold anything: the state is the first field, and user time is the 12th, then system, then both
    // once more for children.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u32 = fields.split_whitespace().skip(11).take(4).filter_map(|f| f.parse::<u32>().ok()).sum();
    TICK * ticks
}

pub(crate) fn cpu_of(pids: &[u32]) -> Duration {
    pids.iter().map(|pid| cpu(*pid)).sum()
}

/// A line of `/proc/PID/status`, in MiB: `VmRSS` for now, `VmHWM` for the most it ever was.
pub(crate) fn memory(pid: u32, line: &str) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let of = |l: &str| l.strip_prefix(line)?.strip_prefix(':')?.split_whitespace().next()?.parse::<f64>().ok();
    status.lines().find_map(of).unwrap_or_default() / 1024.0
}
