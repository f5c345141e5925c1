//! A PgBouncer between Rekey and PostgreSQL.

use crate::conditions::holds;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;
use tokio::net::TcpStream;

/// Ends with its value.
#[derive(Debug)]
pub struct PgBouncer {
    process: Child,
    port: u16,
    user: String,
    _directory: TempDir,
}

impl PgBouncer {
    /// `mode`: PgBouncer's `pool_mode`.
    pub async fn start(server: &str, mode: &str) -> Self {
        let server = reqwest::Url::parse(server).unwrap();
        let (host, port_behind) = (server.host_str().unwrap(), server.port().unwrap_or(5432));
        let (user, password) = (server.username().to_owned(), server.password().map(|p| format!(" password={p}")));
        let password = password.unwrap_or_default();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let directory = tempfile::tempdir().unwrap();
        let config = format!(
            "[databases]\n* = host={host} port={port_behind} user={user}{password}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nunix_socket_dir =\nauth_type = any\npool_mode = {mode}\ndefault_pool_size = 40\n\
             ignore_startup_parameters = extra_float_digits\n"
        );
        let file = directory.path().join("pgbouncer.ini");
        std::fs::write(&file, config).unwrap();
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(directory.path(), open).unwrap();
        let mut command = Command::new("pgbouncer");
        command.arg("--quiet").arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // It refuses to run as root, which lends it the user nobody.
        if std::fs::metadata("/proc/self").is_ok_and(|me| std::os::unix::fs::MetadataExt::uid(&me) == 0) {
            command.uid(65534).gid(65534);
        }
        let process = command.spawn().expect("pgbouncer: run the tests through `make test`, which installs it");
        let up = || async { TcpStream::connect(("127.0.0.1", port)).await.is_ok() };
        assert!(holds(up).await, "PgBouncer does not listen");
        Self { process, port, user, _directory: directory }
    }

    /// The same database, through it.
    pub fn url(&self, database: &str) -> String {
        let (_, name) = database.rsplit_once('/').unwrap();
        format!("postgres://{}@127.0.0.1:{}/{name}", self.user, self.port)
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}
