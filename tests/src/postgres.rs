//! A PostgreSQL of the test's own, to be killed, stopped and run out of space.

use crate::disk::{NOBODY, is_root};
use crate::process::{free_port, signal};
use crate::tls::Identity;
use parking_lot::{Mutex, MutexGuard};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A server on its directory; killed when dropped.
#[derive(Debug)]
pub struct Postgres {
    bin: PathBuf,
    data: PathBuf,
    log: PathBuf,
    port: u16,
    /// `name=value`; they win over those that every server here has.
    settings: &'static [&'static str],
    child: Mutex<Option<Child>>,
}

/// To the user that the server runs as.
pub fn lend(path: &Path) {
    if is_root() {
        chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
}

/// The newest of Debian's; elsewhere whatever PATH finds.
fn binaries() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = versions.max_by_key(|v| v.file_name().to_string_lossy().parse::<u32>().unwrap_or(0));
    newest.map(|v| v.path().join("bin")).unwrap_or_default()
}

impl Postgres {
    /// Makes a database directory in `home`, which belongs to the user it will run as. Not started yet.
    pub fn create(home: &Path, log: PathBuf) -> Self {
        Self::at(free_port(), home, log, &[])
    }

    /// The same with settings of its own.
    pub fn create_with(home: &Path, log: PathBuf, settings: &'static [&'static str]) -> Self {
        Self::at(free_port(), home, log, settings)
    }

    fn at(port: u16, home: &Path, log: PathBuf, settings: &'static [&'static str]) -> Self {
        let child = Mutex::new(None);
        let postgres = Self { bin: binaries(), data: home.join("postgres"), log, port, settings, child };
        // Small segments of the log, so that a small disk holds many.
        let made = postgres
            .command("initdb")
            .args(["-U", "rekey", "--auth=trust", "-E", "UTF8", "--no-sync", "--wal-segsize=1", "-D"])
            .arg(&postgres.data)
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert!(made.success(), "initdb failed");
        postgres
    }

    /// One that answers nobody without TLS.
    pub fn secure(home: &Path, identity: &Identity, port: u16) -> Self {
        lend(home);
        let postgres = Self::at(port, home, home.join("log"), &[]);
        for (name, text) in [
            ("server.crt", identity.chain.as_str()),
            ("server.key", &identity.key),
            ("pg_hba.conf", "hostssl all all 127.0.0.1/32 trust\n"),
            ("postgresql.auto.conf", "ssl = on\n"),
        ] {
            let file = postgres.data.join(name);
            std::fs::write(&file, text).unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
            lend(&file);
        }
        postgres.launch();
        postgres
    }

    /// PostgreSQL refuses to run as root, so root lends it the user nobody.
    fn command(&self, program: &str) -> Command {
        let program = self.bin.join(program);
        let mut command = if is_root() {
            let mut command = Command::new("setpriv");
            command.arg(format!("--reuid={NOBODY}")).arg(format!("--regid={NOBODY}")).arg("--clear-groups");
            command.arg(program);
            command
        } else {
            Command::new(program)
        };
        command.current_dir("/").stdin(Stdio::null());
        command
    }

    pub fn url(&self, database: &str) -> String {
        format!("postgres://rekey@127.0.0.1:{}/{database}", self.port)
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock()
    }

    fn launch(&self) {
        let mut child = self.child();
        if child.as_mut().is_some_and(|c| c.try_wait().unwrap().is_none()) {
            return;
        }
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&self.log).unwrap();
        let port = self.port.to_string();
        let started = self
            .command("postgres")
            .arg("-D")
            .arg(&self.data)
            .args(["-h", "127.0.0.1", "-p", &port, "-c", "unix_socket_directories=", "-c", "fsync=on"])
            .args(["-c", "max_connections=200", "-c", "shared_buffers=32MB", "-c", "log_min_messages=error"])
            .args(["-c", "min_wal_size=2MB", "-c", "max_wal_size=16MB", "-c", "log_line_prefix=%m [%p] "])
            .args(self.settings.iter().flat_map(|setting| ["-c", setting]))
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        *child = Some(started);
    }

    /// Starts it unless it runs, again if it gives up (what a crash left may hold it up), until it answers.
    pub async fn up(&self) {
        let deadline = Instant::now() + crate::PATIENCE;
        loop {
            self.launch();
            let mut asked = self.command("pg_isready");
            asked.args(["-t", "1", "-h", "127.0.0.1", "-U", "rekey", "-p", &self.port.to_string()]);
            if asked.stdout(Stdio::null()).status().unwrap().success() {
                return;
            }
            assert!(Instant::now() < deadline, "PostgreSQL does not start; its log is {}", self.log.display());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub async fn create_database(&self, name: &str) -> String {
        let connection = sqlx::PgPool::connect(&self.url("postgres")).await.unwrap();
        let create = sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"));
        sqlx::raw_sql(create).execute(&connection).await.unwrap();
        connection.close().await;
        self.url(name)
    }

    /// `pg_ctl stop -m immediate`: every session is dropped where it is, and the next start recovers from the log.
    pub fn stop_immediate(&self) {
        let mut stop = self.command("pg_ctl");
        stop.args(["stop", "-m", "immediate", "-D"]).arg(&self.data);
        let _ = stop.stdout(Stdio::null()).stderr(Stdio::null()).status();
        self.reap();
    }

    /// SIGKILL for the server and each of its sessions.
    pub fn kill(&self) {
        self.signal("KILL");
        self.reap();
    }

    fn signal(&self, name: &str) {
        for pid in self.pids() {
            // A session may have ended since it was found.
            signal(pid, name);
        }
    }

    fn reap(&self) {
        if let Some(mut child) = self.child().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGSTOP: it is there and does not answer.
    pub fn freeze(&self) {
        self.signal("STOP");
    }
    pub fn thaw(&self) {
        self.signal("CONT");
    }

    /// The server, then its sessions: each is a session of its own, so no signal to a group reaches them.
    pub fn pids(&self) -> Vec<u32> {
        let Some(server) = self.child().as_ref().map(Child::id) else { return Vec::new() };
        let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let sessions = processes.filter_map(|p| {
            let pid: u32 = p.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(p.path().join("stat")).ok()?;
            // After the name, which may hold anything: the state, then the parent.
            let parent: u32 = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
            (parent == server).then_some(pid)
        });
        std::iter::once(server).chain(sessions).collect()
    }

    /// How often it ran out of space so far.
    pub fn out_of_space(&self) -> usize {
        let log = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&log).matches("No space left on device").count()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.kill();
    }
}
