//! Builds the parts of each role and starts them. What is missing at start is waited for, with one line a change;
//! what waiting can't mend ends the process with one line that says what to do.

use crate::config::{Config, fingerprinter};
use crate::metrics;
use crate::waiting::{connect, until_it_works, until_the_database_does, watch_the_database};
use anyhow::{Context as _, bail};
use bus::{Connection, EmbeddedBroker, Producer};
use domain::fault::chain;
use domain::work::Kind;
use domain::{Provider, Role};
use plaid::{Keys, Verifier};
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use store::Store;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use web::Readiness;

/// Where a part says that it can't go on at all.
type Fail = tokio::sync::mpsc::Sender<anyhow::Error>;

/// Parts that outlive a start: a test brings its own.
#[derive(Debug, Default)]
pub struct Given {
    /// The broker in this process, when the configuration says `embedded`.
    pub broker: Option<Arc<EmbeddedBroker>>,
}

/// A started process.
#[derive(Debug)]
pub struct Running {
    pub ops: SocketAddr,
    pub receiver: Option<SocketAddr>,
    pub console: Option<SocketAddr>,
    pub sandbox: Option<sandbox::Sandbox>,
    pub sandbox_address: Option<SocketAddr>,
    pub readiness: Readiness,
    pub connection: Option<Connection>,
    /// Set once the store is open.
    pub store: Arc<OnceLock<Store>>,
    config: Config,
    producer: Option<Producer>,
    tasks: TaskTracker,
    failed: Arc<tokio::sync::Mutex<tokio::sync::mpsc::Receiver<anyhow::Error>>>,
    /// Ends what takes work in; [`Running::stop`] waits for the rest.
    stop: CancellationToken,
    ops_stop: CancellationToken,
    _broker: Option<Arc<EmbeddedBroker>>,
}

async fn bind(what: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("{what} can't listen on {address}: stop what holds the port, or set {what}.listen to another one")
    })
}

/// `timeout`: of one call.
pub fn plaid_client(config: &Config, timeout: Duration) -> anyhow::Result<plaid::Client> {
    let client = plaid::Client::new(config.plaid()?, timeout, config.extra_roots()?);
    client.context("the HTTP client for Plaid can't be made")
}

/// Err: settings that are missing or can't be used.
pub fn layer_client(config: &Config) -> anyhow::Result<layer::Client> {
    let client = layer::Client::new(config.layer()?.clone(), config.extra_roots()?);
    client.context("the HTTP client for Layer can't be made")
}

/// Starts the roles. Ports are bound when it returns; what else is needed is waited for in the background.
pub async fn start(config: Config, roles: &[Role], given: Given) -> anyhow::Result<Running> {
    for told in config.unverified() {
        tracing::warn!("{told}");
    }
    let readiness = Readiness::default();
    // Before the first probe can be answered.
    readiness.begin();
    let ops_listener = bind("ops", config.ops.listen).await?;
    let (fail, failed) = tokio::sync::mpsc::channel(8);
    let mut running = Running {
        ops: ops_listener.local_addr()?,
        receiver: None,
        console: None,
        sandbox: None,
        sandbox_address: None,
        readiness: readiness.clone(),
        connection: None,
        store: Arc::default(),
        producer: None,
        tasks: TaskTracker::new(),
        failed: Arc::new(tokio::sync::Mutex::new(failed)),
        stop: CancellationToken::new(),
        ops_stop: CancellationToken::new(),
        _broker: None,
        config,
    };
    let metrics = metrics::recorder()?;
    metrics::begin(roles);
    let (upkeep, stop) = (metrics.clone(), running.ops_stop.clone());
    running.tasks.spawn(async move {
        // Samples of histograms pile up until somebody folds them; a scrape does, but nobody may ever scrape.
        while tokio::time::timeout(Duration::from_secs(5), stop.cancelled()).await.is_err() {
            upkeep.run_upkeep();
        }
    });
    let ops = web::ops_routes(readiness, metrics);
    let limits =
        web::Limits { connections: 64, header_read: Duration::from_secs(5), drain: Duration::from_millis(200) };
    running.tasks.spawn(web::serve(ops_listener, ops, limits, running.readiness.clone(), running.ops_stop.clone()));

    if roles.contains(&Role::Sandbox) {
        running.start_sandbox().await?;
    }
    if roles.contains(&Role::Receiver) || roles.contains(&Role::Consumer) {
        running.reach_kafka(given, fail.clone())?;
    }
    if roles.contains(&Role::Receiver) {
        running.start_receiver().await?;
    }
    if roles.contains(&Role::Consumer) || roles.contains(&Role::Console) {
        running.start_with_store(roles, fail).await?;
    }
    running.readiness.begun();
    Ok(running)
}

impl Running {
    async fn start_sandbox(&mut self) -> anyhow::Result<()> {
        let sandbox = {
            let (settings, scenario, admin) = self.config.sandbox()?;
            sandbox::Sandbox::new(settings.clone(), &scenario, admin).await?
        };
        let listener = bind("sandbox", self.config.sandbox.listen).await?;
        let address = listener.local_addr()?;
        let (serving, stop) = (sandbox.clone(), self.ops_stop.clone());
        self.tasks.spawn(async move { serving.serve(listener, stop).await });
        self.sandbox_address = Some(address);
        self.sandbox = Some(sandbox);
        Ok(())
    }

    fn reach_kafka(&mut self, given: Given, fail: Fail) -> anyhow::Result<()> {
        self.config.check_properties()?;
        let topics = self.config.kafka.topics.clone();
        let connection = if self.config.kafka.is_embedded() {
            let broker = match given.broker {
                Some(broker) => broker,
                None => Arc::new(EmbeddedBroker::start(&topics, 4)?),
            };
            self._broker.insert(broker).connection()?
        } else {
            self.config.kafka.connection()
        };
        let producer = Producer::new(&connection, &self.config.kafka).context("check [kafka] and kafka.properties")?;
        self.readiness.expect("kafka");
        let (readiness, looking, stop) = (self.readiness.clone(), producer.clone(), self.stop.clone());
        let at = connection.clone();
        self.tasks.spawn(async move {
            if until_it_works("kafka", &readiness, &stop, || looking.reachable(&topics)).await.is_none() {
                return;
            }
            tokio::select! {
                () = looking.watch(&topics, stop.clone()) => {}
                () = bus::watch_topics(&at, &topics, stop) => {}
                // librdkafka gives such a producer up for good; a new process gets a new one.
                reason = looking.fatal() => {
                    let error = anyhow::anyhow!("the Kafka producer can't go on ({reason}): start this process again");
                    drop(fail.send(error).await);
                }
            }
        });
        self.connection = Some(connection);
        self.producer = Some(producer);
        Ok(())
    }

    async fn start_receiver(&mut self) -> anyhow::Result<()> {
        let fingerprints = fingerprinter(&self.config.secrets.fingerprint_key)?;
        let plaid = &self.config.plaid;
        // A client of its own: how long a webhook may wait for a key is the receiver's business.
        let keys = Keys::new(plaid_client(&self.config, plaid.keys.timeout)?, plaid.keys.clone());
        let Some(producer) = self.producer.clone() else { bail!("the receiver needs Kafka") };
        let publisher = receiver::WebhookPublisher::new(
            producer,
            self.config.kafka.topics.clone(),
            fingerprints,
            plaid.environment.as_str(),
        );
        let routes = receiver::routes(Verifier::new(keys.clone()), publisher, self.config.receiver()?.clone())
            .merge(web::public_health_routes(self.readiness.clone()));
        let listener = bind("receiver", self.config.receiver.listen).await?;
        self.receiver = Some(listener.local_addr()?);
        let limits = self.config.limits(self.config.receiver.max_connections);
        let stop = self.stop.clone();
        self.tasks.spawn(async move { keys.run(stop).await });
        self.tasks.spawn(web::serve(listener, routes, limits, self.readiness.clone(), self.stop.clone()));
        Ok(())
    }

    /// The roles that need the store begin when it is open. Settings are checked before anything is waited for.
    async fn start_with_store(&mut self, roles: &[Role], fail: Fail) -> anyhow::Result<()> {
        let store = connect(&self.config)?;
        let consumer = if roles.contains(&Role::Consumer) { Some(ConsumerParts::new(self)?) } else { None };
        let console = if roles.contains(&Role::Console) {
            if self.config.console.tokens.is_empty() {
                tracing::warn!(
                    "console.tokens is empty, so every call will be refused: make one with `rekey token new`"
                );
            }
            if let Some(told) = self.config.console_in_the_clear() {
                tracing::warn!("{told}");
            }
            let listener = bind("console", self.config.console.listen).await?;
            self.console = Some(listener.local_addr()?);
            Some((listener, self.config.console()?))
        } else {
            None
        };
        self.readiness.expect("database");
        let (limits, settings) = (self.config.limits(self.config.console.max_connections), self.config.console.clone());
        let policy = self.config.layer.policy();
        let takes_webhooks = roles.contains(&Role::Receiver);
        let (readiness, stop, slot, tasks) =
            (self.readiness.clone(), self.stop.clone(), Arc::clone(&self.store), self.tasks.clone());
        self.tasks.spawn(async move {
            match until_the_database_does(&store, &readiness, &stop, || store.prepare()).await {
                Ok(Some(())) => {}
                Ok(None) => return,
                Err(error) => return drop(fail.send(error).await),
            }
            let _ = slot.set(store.clone());
            let (watched, stopping) = (store.clone(), stop.clone());
            let (waking, ended) = (store.clone(), stop.clone());
            tasks.spawn(async move { ended.run_until_cancelled(waking.share_wakes()).await });
            if let Some(parts) = consumer {
                match parts.start(store.clone(), &readiness, &tasks, stop.clone(), fail.clone()).await {
                    Ok(Some(())) => {}
                    Ok(None) => return,
                    Err(error) => return drop(fail.send(error).await),
                }
            }
            if let Some((listener, tokens)) = console {
                let (routes, beside) = console::parts(store, tokens, settings, policy, stop.clone());
                let (beside, fail) = (tokio::spawn(beside), fail.clone());
                tasks.spawn(async move {
                    if beside.await.is_err() {
                        drop(fail.send(panicked("the console")).await);
                    }
                });
                tasks.spawn(web::serve(listener, routes, limits, readiness.clone(), stop));
            }
            readiness.started("database");
            // Webhooks go on to Kafka without it, so a process that takes them stays ready.
            let told = (!takes_webhooks).then_some(readiness);
            watch_the_database(watched, told, stopping).await;
        });
        Ok(())
    }

    /// Resolves when a part can't go on at all.
    pub async fn failure(&self) -> Option<anyhow::Error> {
        self.failed.lock().await.recv().await
    }

    /// Waits until the process is ready.
    pub async fn ready(&self) -> anyhow::Result<()> {
        tokio::select! {
            () = self.readiness.ready() => Ok(()),
            Some(error) = self.failure() => Err(error),
        }
    }

    /// Stops without waiting for load balancers: what failed serves nobody.
    pub async fn stop_now(mut self) {
        self.config.ops.drain_delay = Duration::ZERO;
        self.stop().await;
    }

    /// Stops in order: not ready, wait for load balancers, take nothing in, finish what is in flight, flush.
    pub async fn stop(self) {
        self.readiness.drain();
        let delay = self.config.ops.drain_delay;
        if !delay.is_zero() {
            tracing::info!(
                delay_ms = domain::time::millis(delay),
                "draining: still serving while load balancers notice"
            );
            tokio::time::sleep(delay).await;
        }
        tracing::info!("stopping: nothing new is taken in, what is in flight ends");
        let began = std::time::Instant::now();
        self.stop.cancel();
        self.ops_stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(self.config.ops.drain + Duration::from_secs(5), self.tasks.wait()).await.is_err() {
            tracing::warn!("some work did not end in time; its leases run out by themselves");
        } else {
            tracing::info!(
                took_ms = domain::time::millis(began.elapsed()),
                "requests answered, offsets committed, leases given back"
            );
        }
        if let Some(producer) = &self.producer
            && let Err(error) = producer.flush(Duration::from_secs(5)).await
        {
            tracing::warn!(error = chain(&error), "records were left in the producer; none of them was answered 200");
        }
        if let Some(store) = self.store.get()
            && tokio::time::timeout(Duration::from_secs(5), store.close()).await.is_err()
        {
            tracing::warn!("the database did not let its connections go");
        }
        tracing::info!("stopped");
    }
}

/// The rest would go on, and look well.
fn panicked(what: &str) -> anyhow::Error {
    anyhow::anyhow!("a part of {what} panicked, see the lines before: please report it")
}

/// A consumer that can't read its topics is not ready and says why; one that librdkafka gave up ends the process, for it would
/// say for ever that nothing comes.
fn watch_intake(
    health: bus::IntakeHealth,
    readiness: Readiness,
    fail: Fail,
    tasks: &TaskTracker,
    stop: CancellationToken,
) {
    tasks.spawn(async move {
        let mut tick = tokio::time::interval(Duration::from_millis(250));
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                reason = health.fatal() => {
                    let error = anyhow::anyhow!("the Kafka consumer can't go on ({reason}): start this process again");
                    return drop(fail.send(error).await);
                }
                _ = tick.tick() => match health.refused() {
                    Some(why) => readiness.waiting("intake", why),
                    None => readiness.started("intake"),
                },
            }
        }
    });
}

/// Everything of the consumer but its store.
struct ConsumerParts {
    plaid: plaid::Client,
    layer: layer::Client,
    producer: Producer,
    connection: Connection,
    source: consumer::TokenSource,
    config: Config,
}

impl ConsumerParts {
    fn new(running: &Running) -> anyhow::Result<Self> {
        let config = running.config.clone();
        config.consumer()?;
        let (Some(producer), Some(connection)) = (running.producer.clone(), running.connection.clone()) else {
            bail!("the consumer needs Kafka");
        };
        Ok(Self {
            plaid: plaid_client(&config, config.plaid.timeout)?,
            layer: layer_client(&config)?,
            source: config.token_source()?,
            producer,
            connection,
            config,
        })
    }

    /// Starts the consumer's tasks. None: stopped first.
    async fn start(
        self,
        store: Store,
        readiness: &Readiness,
        tasks: &TaskTracker,
        stop: CancellationToken,
        fail: Fail,
    ) -> anyhow::Result<Option<()>> {
        if until_the_database_does(&store, readiness, &stop, || self.begin(&store)).await?.is_none() {
            return Ok(None);
        }
        let context = Arc::new(consumer::Context::new(
            store,
            self.plaid,
            self.layer,
            self.producer,
            &self.config.kafka,
            self.source,
            self.config.consumer.clone(),
        ));
        // Made in the background: without a broker it only waits, and the reconcilers need none.
        let intake = bus::Intake::new(&self.connection, &self.config.kafka.intake())
            .context("the intake can't be set up: check [kafka]")?;
        for provider in Provider::ALL {
            readiness.expect(provider.as_str());
            let (readiness, context, stop) = (readiness.clone(), Arc::clone(&context), stop.clone());
            tasks.spawn(async move {
                // Work goes on meanwhile; not ready tells a rollout that these credentials or this network won't do.
                until_it_works(provider.as_str(), &readiness, &stop, || context.reach(*provider)).await;
            });
        }
        watch_intake(intake.health(), readiness.clone(), fail.clone(), tasks, stop.clone());
        let consuming = tokio::spawn(consumer::run(context, intake, self.connection, stop));
        tasks.spawn(async move {
            if consuming.await.is_ok_and(|ended| ended.is_ok()) {
                return;
            }
            drop(fail.send(panicked("the consumer")).await);
        });
        Ok(Some(()))
    }

    /// Orders what the start asks for, and says that it is at work, and in which mode, before it takes anything.
    async fn begin(&self, store: &Store) -> Result<(), store::Error> {
        let settings = &self.config.consumer;
        let mut tx = store.begin().await?;
        match settings.mode {
            consumer::Mode::Observe => tx.observes().await?,
            consumer::Mode::Act => tx.acts().await?,
        }
        tx.is_at_work(&self.config.kafka.group).await?;
        tx.commit().await?;
        if settings.sweep_at_start {
            for kind in Kind::ALL {
                store.mark_all(*kind, settings.debounce, "sweep at start").await?;
            }
        }
        Ok(())
    }
}
