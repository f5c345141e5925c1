//! Which core does what, where there is more than one: what is measured has one of its own.

use std::process::{Command, Stdio};

/// Puts what is measured on the first core, and the bench and the broker on the others, until it is dropped.
pub(crate) struct Pinned {
    others: Vec<u32>,
    pub(crate) apart: bool,
}

impl Pinned {
    pub(crate) fn apart() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let mut others = children_of_our_parent();
        others.push(std::process::id());
        let apart = cores > 1 && others.iter().all(|pid| taskset(*pid, &format!("1-{}", cores - 1)));
        Self { others, apart }
    }

    pub(crate) fn alone(&self, pid: u32) {
        if self.apart {
            taskset(pid, "0");
        }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        // This process may use one core fewer by now, so the number that it is told is too small by one.
        for pid in &self.others {
            taskset(*pid, &format!("0-{cores}"));
        }
    }
}

/// All threads of a process; false where there is no such process or no `taskset`.
fn taskset(pid: u32, cores: &str) -> bool {
    let mut command = Command::new("taskset");
    command.args(["--all-tasks", "--cpu-list", "--pid", cores, &pid.to_string()]);
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
}

/// The servers that `tests/with-servers` started beside us.
fn children_of_our_parent() -> Vec<u32> {
    let us = std::process::id();
    let parent = std::os::unix::process::parent_id();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let of_parent = processes.filter_map(|p| {
        let pid: u32 = p.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(p.path().join("stat")).ok()?;
        let rest = stat.rsplit_once(')')?.1.to_owned();
        (stat.contains("(java)") && rest.split_whitespace().nth(1)?.parse() == Ok(parent)).then_some(pid)
    });
    of_parent.filter(|pid| *pid != us).collect()
}
