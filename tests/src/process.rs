//! Rekey as processes of its own, to be stopped and killed.

use crate::{World, holds};
use parking_lot::{Mutex, MutexGuard};
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};

/// A running `rekey` process; killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Mutex<Child>,
    pub role: &'static str,
    pub ops: SocketAddr,
    /// Where it listens if it is a receiver, a console, a sandbox.
    pub listen: SocketAddr,
    pub console: SocketAddr,
    pub sandbox: SocketAddr,
    environment: BTreeMap<String, String>,
    config: PathBuf,
    pub log: PathBuf,
}

/// Another binary than the one beside this test, for all processes from now on.
pub fn use_binary(path: PathBuf) {
    CHOSEN.set(path).unwrap();
}
static CHOSEN: OnceLock<PathBuf> = OnceLock::new();

/// The binary that cargo built beside this test, unless another one was chosen.
pub fn binary() -> PathBuf {
    if let Some(chosen) = CHOSEN.get() {
        return chosen.clone();
    }
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    if path.ends_with("deps") {
        path.pop();
    }
    path.join("rekey")
}

/// A port that nobody listens on, below the range that the kernel hands out to clients: a connection of another test
/// can't take it before its process has started.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let offset = NEXT.fetch_add(1, Ordering::Relaxed);
        // Far apart even for neighbouring process ids, so that two runs at once rarely meet.
        let start = u16::try_from(std::process::id().wrapping_mul(1009) % 12_000).unwrap();
        let port = 20_000 + (start + offset) % 12_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

fn free_address() -> SocketAddr {
    ([127, 0, 0, 1], free_port()).into()
}

impl Process {
    /// Starts a role of `world` as a process and waits until it is ready.
    pub async fn start(world: &World, role: &'static str) -> Self {
        let process = Self::spawn(world, role);
        process.ready().await;
        process
    }

    /// Starts it without waiting.
    pub fn spawn(world: &World, role: &'static str) -> Self {
        let (ops, listen, console, sandbox) = (free_address(), free_address(), free_address(), free_address());
        let mut environment = world.local.environment.clone();
        for (key, value) in [("OPS", ops), ("RECEIVER", listen), ("CONSOLE", console), ("SANDBOX", sandbox)] {
            environment.insert(format!("REKEY_{key}__LISTEN"), value.to_string());
        }
        let name = format!("{role}-{}", ops.port());
        let config = world.local.directory.path().join(format!("{name}.toml"));
        std::fs::write(&config, &world.local.settings).unwrap();
        let log = world.local.directory.path().join(format!("{name}.log"));
        let child = Mutex::new(launch(role, &config, &environment, &log));
        Self { child, role, ops, listen, console, sandbox, environment, config, log }
    }

    pub async fn ready(&self) {
        let url = format!("http://{}/readyz", self.ops);
        let ready = || async { reqwest::get(&url).await.is_ok_and(|a| a.status() == 200) };
        if !holds(ready).await {
            panic!("{} is not ready:\n{}", self.role, std::fs::read_to_string(&self.log).unwrap_or_default());
        }
    }

    fn signal(&self, name: &str) {
        assert!(signal(self.child().id(), name));
    }

    pub fn pid(&self) -> u32 {
        self.child().id()
    }

    /// SIGKILL: no chance to say goodbye.
    pub fn kill(&self) {
        let mut child = self.child();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock()
    }

    /// SIGSTOP: it exists and does nothing.
    pub fn freeze(&self) {
        self.signal("STOP");
    }
    pub fn thaw(&self) {
        self.signal("CONT");
    }

    /// SIGTERM; the exit code.
    pub async fn terminate(&self) -> Option<i32> {
        self.signal("TERM");
        for _ in 0..2000 {
            if let Some(status) = self.child().try_wait().unwrap() {
                return status.code();
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        None
    }

    /// Starts it again after a kill, at the same addresses.
    pub async fn restart(&self) {
        self.relaunch();
        self.ready().await;
    }

    /// The same without waiting.
    pub fn relaunch(&self) {
        *self.child() = launch(self.role, &self.config, &self.environment, &self.log);
    }

    /// How it ended, if it did.
    pub fn ended(&self) -> Option<ExitStatus> {
        self.child().try_wait().unwrap()
    }
}

/// Sends a signal; false when there is no such process.
pub fn signal(pid: u32, name: &str) -> bool {
    let mut kill = Command::new("kill");
    kill.args([format!("-{name}"), pid.to_string()]).stderr(Stdio::null()).status().unwrap().success()
}

fn launch(role: &str, config: &PathBuf, environment: &BTreeMap<String, String>, log: &PathBuf) -> Child {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
    Command::new(binary())
        .arg(role)
        .arg("--config")
        .arg(config)
        .envs(environment)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(60).collect();
            for line in tail.into_iter().rev() {
                tracing::info!("{} said: {line}", self.role);
            }
        }
        {
            let mut child = self.child();
            let _ = child.kill();
            let _ = child.wait();
        }
        if !std::thread::panicking() {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            for secret in ["access-sandbox-", "processor-sandbox-", "public-sandbox-", "bearer-"] {
                let line = log.lines().find(|l| l.contains(secret));
                assert!(line.is_none(), "I3: {secret} in the log of the {}: {line:?}", self.role);
            }
        }
    }
}
