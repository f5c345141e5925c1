//! What the storm stands on: brokers, a database, the sandbox, Rekey's processes, and the lines between them.

use parking_lot::{Mutex, MutexGuard};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;
use tests::World;
use tests::disk::{NOBODY, SmallDisk};
use tests::kafka::Cluster;
use tests::postgres::{Postgres, lend};
use tests::process::Process;
use tests::proxy::Proxy;
use tests::topics;

/// The store of a scene.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ground {
    /// Roles apart, each several times.
    Postgres,
    /// `rekey all`, one process.
    Sqlite,
}

impl Ground {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Sqlite => "sqlite",
        }
    }

    /// The processes, by role.
    fn fleet(self) -> &'static [&'static str] {
        match self {
            Self::Postgres => &["console", "receiver", "receiver", "receiver", "consumer", "consumer", "consumer"],
            Self::Sqlite => &["all"],
        }
    }
}

/// Three brokers, controllers at the same time; both scenes use them.
#[derive(Debug)]
pub(crate) struct Brokers {
    cluster: Mutex<Cluster>,
    pub(crate) address: String,
    logs: PathBuf,
}

pub(crate) const BROKERS: usize = 3;

impl Brokers {
    pub(crate) fn start(logs: &Path) -> Self {
        let cluster = Cluster::start(BROKERS);
        Self { address: cluster.address(), cluster: Mutex::new(cluster), logs: logs.to_owned() }
    }

    pub(crate) fn cluster(&self) -> MutexGuard<'_, Cluster> {
        self.cluster.lock()
    }
}

impl Drop for Brokers {
    fn drop(&mut self) {
        for node in 0..BROKERS {
            let log = self.cluster().log(node);
            drop(std::fs::write(self.logs.join(format!("broker-{node}.log")), log));
        }
    }
}

/// A process of Rekey's that faults take turns at.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) process: Process,
    pub(crate) busy: tokio::sync::Mutex<()>,
}

/// Dropped from top to bottom: whoever uses a thing goes before it.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) ground: Ground,
    pub(crate) fleet: Vec<Member>,
    pub(crate) world: World,
    /// Rekey to PostgreSQL.
    pub(crate) database: Option<Proxy>,
    /// Rekey to Plaid and Layer.
    pub(crate) providers: Proxy,
    /// Plaid to the receivers, taking turns.
    pub(crate) webhooks: Proxy,
    pub(crate) postgres: Option<Postgres>,
    /// Where the database lies; None where mounting is not allowed.
    pub(crate) disk: Option<SmallDisk>,
    /// The store, not through the proxy.
    pub(crate) store_url: String,
    pub(crate) topics: [String; 5],
    pub(crate) group: String,
    _home: TempDir,
    logs: PathBuf,
}

/// As fast as a storm on two cores bears. Leases and timeouts are scaled down by fifteen.
fn settings(ground: Ground, seed: u64, sweep_seconds: usize) -> toml::Table {
    let mut settings: toml::Table = tests::SETTINGS.parse().unwrap();
    let topics = ["item-events", "other-events", "notices", "outcomes", "dead-letters"]
        .map(|t| format!("{} = \"{}.{t}.v1\"\n", t.replace('-', "_"), ground.name()))
        .concat();
    let own = format!(
        "[log]\nlevel = \"info\"\n[kafka]\ngroup = \"rekey-{ground}\"\n\
         [kafka.topics]\npartitions = 6\nreplication = 3\nmin_insync = 2\n{topics}\
         [kafka.properties]\n\"session.timeout.ms\" = \"6000\"\n\"heartbeat.interval.ms\" = \"1000\"\n\
         [database]\nacquire_timeout = \"2s\"\n\
         [consumer]\nseed = {seed}\nsweep_period = \"{sweep_seconds}s\"\nlease = \"4s\"\npoll = \"100ms\"\n\
         probe_interval = \"1s\"\nbackoff_cap = \"1s\"\n\
         [sandbox]\nseed = {seed}\nwebhook_retry_scale = 0.001\n",
        ground = ground.name(),
        seed = seed.max(1),
    );
    tests::merge(&mut settings, own.parse().unwrap());
    settings
}

impl Stage {
    pub(crate) async fn build(
        ground: Ground,
        seed: u64,
        megabytes: u64,
        sweep_seconds: usize,
        brokers: &Brokers,
        logs: &Path,
    ) -> Self {
        let logs = logs.join(ground.name());
        std::fs::create_dir_all(&logs).unwrap();
        let home = tempfile::Builder::new().prefix("rekey-storm-").tempdir().unwrap();
        // PostgreSQL runs as somebody else and has to get in.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(home.path(), open).unwrap();
        let (place, owner) = (home.path().join("disk"), if ground == Ground::Postgres { NOBODY } else { 0 });
        let disk = SmallDisk::mount(&place, megabytes, owner);
        let settings = settings(ground, seed, sweep_seconds);
        let topics = ["item_events", "other_events", "notices", "outcomes", "dead_letters"]
            .map(|t| settings["kafka"]["topics"][t].as_str().unwrap().to_owned());
        let group = settings["kafka"]["group"].as_str().unwrap().to_owned();
        let mut base = rekey::local::Ground {
            kafka: Some(brokers.address.clone()),
            databases: None,
            settings: settings.to_string(),
        };
        let (mut postgres, mut database) = (None, None);
        if ground == Ground::Postgres {
            let server = server(&place, &logs).await;
            let (rekey, platform) = (server.create_database("rekey").await, server.create_database("platform").await);
            database = Some(Proxy::to_postgres(&rekey).await);
            base.databases = Some(rekey::local::Databases { rekey, platform });
            postgres = Some(server);
        }
        let mut world = World::over(base).await;
        if ground == Ground::Sqlite {
            let file = format!("sqlite://{}", place.join("rekey.sqlite").display());
            world.local.environment.insert("REKEY_DATABASE__URL".into(), file);
        }
        let store_url = world.local.environment["REKEY_DATABASE__URL"].clone();
        let providers = detour(&mut world, database.as_ref()).await;
        let fleet = launch(ground, &world);
        let receivers = fleet.iter().filter(|m| matches!(m.process.role, "receiver" | "all"));
        let webhooks = Proxy::to(receivers.map(|m| m.process.listen.to_string()).collect()).await;
        world.sandbox.set_webhook_url(format!("http://{}/webhooks/plaid", webhooks.address()));
        let console = fleet.iter().find(|m| matches!(m.process.role, "console" | "all")).unwrap();
        let token = world.local.admin_token.clone().into();
        world.sandbox.set_admin(sandbox::Admin { url: format!("http://{}", console.process.console), token });
        Self {
            ground,
            fleet,
            world,
            database,
            providers,
            webhooks,
            postgres,
            disk,
            store_url,
            topics,
            group,
            _home: home,
            logs,
        }
    }

    pub(crate) fn item_events(&self) -> &String {
        &self.topics[0]
    }
    pub(crate) fn outcomes(&self) -> &String {
        &self.topics[3]
    }
    pub(crate) fn dead_letters(&self) -> &String {
        &self.topics[4]
    }

    /// How often somebody ran out of space so far, by the logs.
    pub(crate) fn out_of_space(&self) -> usize {
        match &self.postgres {
            Some(postgres) => postgres.out_of_space(),
            None => self.fleet.iter().map(|m| times_full(&log_of(m))).sum(),
        }
    }

    /// Takes the room inside SQLite's log away, so that whoever writes next has to ask the disk for more: SQLite uses its
    /// log again, and at a slow storm's pace needs nothing new for minutes. PostgreSQL asks by itself. False: not this time.
    pub(crate) async fn squeeze(&self) -> bool {
        if self.ground == Ground::Postgres {
            return true;
        }
        let squeezed = async {
            let options: sqlx::any::AnyConnectOptions = self.store_url.parse().ok()?;
            let mut store = sqlx::ConnectOptions::connect(&options).await.ok()?;
            let busy = sqlx::query_scalar::<_, i64>("PRAGMA wal_checkpoint(TRUNCATE)").fetch_one(&mut store).await;
            (busy.ok()? == 0).then_some(())
        };
        tokio::time::timeout(Duration::from_secs(2), squeezed).await.is_ok_and(|done| done.is_some())
    }

    /// Whether every topic has all its replicas.
    pub(crate) async fn in_sync(&self, brokers: &Brokers) -> bool {
        let (address, names) = (brokers.address.clone(), self.topics.to_vec());
        tokio::task::spawn_blocking(move || topics::in_sync(&address, &names)).await.unwrap()
    }

    /// Lines that no process should ever write: panics, and secrets (I3).
    pub(crate) fn scandals(&self) -> Vec<String> {
        let words = ["panicked at", "access-sandbox-", "processor-sandbox-", "bearer-"];
        let bad = |m: &Member| -> Vec<String> {
            let log = log_of(m);
            let lines = log.lines().filter(|l| words.iter().any(|w| l.contains(w)));
            lines.map(|l| format!("{}: {l}", m.name)).collect()
        };
        self.fleet.iter().flat_map(bad).collect()
    }
}

/// While it works, and while it starts.
fn times_full(log: &str) -> usize {
    ["disk is full", "is its disk full?"].into_iter().map(|words| log.matches(words).count()).sum()
}

pub(crate) fn log_of(member: &Member) -> String {
    String::from_utf8_lossy(&std::fs::read(&member.process.log).unwrap_or_default()).into_owned()
}

async fn server(place: &Path, logs: &Path) -> Postgres {
    std::fs::create_dir_all(place).unwrap();
    lend(place);
    let server = Postgres::create(place, logs.join("postgres.log"));
    server.up().await;
    server
}

/// Sends Rekey's processes, which are started after this, through the proxies.
async fn detour(world: &mut World, database: Option<&Proxy>) -> Proxy {
    let environment = &mut world.local.environment;
    let sandbox = environment["REKEY_PLAID__BASE_URL"].clone();
    let providers = Proxy::to(vec![sandbox.trim_start_matches("http://").to_owned()]).await;
    for key in ["REKEY_PLAID__BASE_URL", "REKEY_LAYER__BASE_URL", "REKEY_LAYER__TOKEN_URL"] {
        let through = providers.url(&environment[key]);
        environment.insert(key.into(), through);
    }
    if let Some(database) = database {
        for key in ["REKEY_DATABASE__URL", "REKEY_TOKEN_SOURCE__URL"] {
            let through = database.url(&environment[key]);
            environment.insert(key.into(), through);
        }
    }
    providers
}

fn launch(ground: Ground, world: &World) -> Vec<Member> {
    let start = |(n, role): (usize, &&'static str)| Member {
        name: format!("{role} {n}"),
        process: Process::spawn(world, role),
        busy: tokio::sync::Mutex::default(),
    };
    ground.fleet().iter().enumerate().map(start).collect()
}

impl Drop for Stage {
    fn drop(&mut self) {
        for member in &self.fleet {
            let to = self.logs.join(format!("{}.log", member.name.replace(' ', "-")));
            drop(std::fs::copy(&member.process.log, to));
        }
    }
}
