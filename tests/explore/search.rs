//! The search: one way after the other from the beginning, until every state that was met has been left in every way.

use crate::gate::{Fate, Gate};
use crate::scene::{Cast, HERE, Scene, THERE, happen};
use crate::state::{Books, Queued};
use domain::work::Kind;
use rekey::local::{Ground, Local};
use rekey::wiring::{layer_client, plaid_client};
use sandbox::{Announce, Moment, NewAccount, NewBusiness, NewItem, Sandbox};
use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};
use store::{KeyRing, Store};
use tokio::task::JoinHandle;

const WORKERS: usize = 2;
/// A way that is longer than this goes in circles.
const LONGEST: usize = 200;

#[derive(Default)]
pub(crate) struct Found {
    pub(crate) states: usize,
    pub(crate) ways: usize,
    pub(crate) ends: usize,
    pub(crate) took: Duration,
    pub(crate) complete: bool,
    pub(crate) broken: Option<Broken>,
}

pub(crate) struct Broken {
    pub(crate) why: String,
    pub(crate) way: Vec<String>,
}

/// Something that can happen next.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Step {
    Claim(usize, String, String),
    Call(usize, Fate),
    /// The process of this worker dies; `true`: after its call had its effect.
    Die(usize, bool),
    /// It dies, and the list that it sent is still on its way.
    Linger(usize),
    /// What was on its way arrives.
    Arrive,
    /// The lease of a row ends, its holder dead or only slow.
    Expire(String, String),
    Event,
}

/// A worker that is in the middle of a reconciliation.
pub(crate) struct Busy {
    row: (String, String),
    epoch: i64,
    /// The events that the claim is to serve.
    wanted: i64,
    task: JoinHandle<()>,
    /// What it has seen since it began: its memory follows from that.
    seen: DefaultHasher,
}

pub(crate) struct Explorer {
    pub(crate) scene: &'static Scene,
    pub(crate) gate: Gate,
    pub(crate) sandbox: Sandbox,
    pub(crate) store: Store,
    pub(crate) books: Books,
    pub(crate) workers: Vec<Arc<consumer::Context>>,
    pub(crate) cast: Cast,
    pub(crate) beginning: Moment,
    /// Hashes of the books after ways that were walked before.
    pub(crate) texts: HashMap<u64, u64>,
    _local: Local,
}

/// Where one way stands.
pub(crate) struct Way {
    pub(crate) busy: Vec<Option<Busy>>,
    pub(crate) events: usize,
    pub(crate) faults: u32,
    pub(crate) old_token: String,
    /// Fingerprints of the Item's access tokens, in the order in which they were true.
    pub(crate) tokens: Vec<String>,
    /// Which of them was current last.
    pub(crate) current: usize,
    pub(crate) told: Vec<String>,
    pub(crate) violations: usize,
    pub(crate) lost: u64,
}

pub(crate) async fn search(scene: &'static Scene, faults: u32, most: usize) -> Found {
    let began = Instant::now();
    let mut explorer = Box::pin(Explorer::new(scene)).await;
    let (mut seen, mut found) = (HashSet::new(), Found { complete: true, ..Found::default() });
    let mut open: Vec<Vec<Step>> = vec![Vec::new()];
    while let Some(prefix) = open.pop() {
        if seen.len() >= most {
            found.complete = false;
            break;
        }
        found.ways += 1;
        if let Err(broken) = explorer.go(&prefix, faults, &mut seen, &mut open, &mut found.ends).await {
            found.broken = Some(broken);
            break;
        }
    }
    found.states = seen.len();
    found.took = began.elapsed();
    found
}

fn settings() -> String {
    let mut settings: toml::Table = tests::SETTINGS.parse().unwrap();
    // Only the explorer moves time: nothing waits, nothing ends by itself, the sweep never comes.
    let own = "[consumer]\ndebounce = \"0s\"\nlease = \"1h\"\nsweep_period = \"100d\"\nbackoff_first = \"1ms\"\n\
               backoff_cap = \"1ms\"\ngone_after = \"1ms\"\nseed = 1\ndark_after = 1000000\n[plaid]\ntimeout = \"60s\"\n[layer]\ntimeout = \"60s\"\n\
               verify_timeout = \"0s\"\nmax_fleet_removals = 1000000\n[sandbox]\nseed = 1\n";
    tests::merge(&mut settings, own.parse().unwrap());
    settings.to_string()
}

impl Explorer {
    async fn new(scene: &'static Scene) -> Self {
        let ground = Ground { kafka: None, databases: None, settings: settings() };
        let mut local = Local::new(ground).await.unwrap();
        let sandbox = local.sandbox.clone();
        let gate = Gate::start(&sandbox).await;
        let config = local.config("").unwrap();
        let keys = KeyRing::parse(&config.secrets.keys).unwrap();
        let store = Store::open(
            config.store().unwrap(),
            &config.kafka.topics.outcomes,
            keys,
            rekey::config::fingerprinter(&config.secrets.fingerprint_key).unwrap(),
        )
        .await
        .unwrap();
        let producer =
            bus::Producer::new(&local.broker.as_ref().unwrap().connection().unwrap(), &config.kafka).unwrap();
        let mut workers = Vec::new();
        for worker in 0..WORKERS {
            for key in ["REKEY_PLAID__BASE_URL", "REKEY_LAYER__BASE_URL"] {
                local.environment.insert(key.into(), format!("http://{}/{worker}", gate.address));
            }
            let config = local.config("").unwrap();
            workers.push(Arc::new(consumer::Context::new(
                store.clone(),
                plaid_client(&config, config.plaid.timeout).unwrap(),
                layer_client(&config).unwrap(),
                producer.clone(),
                &config.kafka,
                consumer::TokenSource::PushOnly,
                consumer::Settings { seed: 1, ..config.consumer },
            )));
        }
        for external_id in [HERE, THERE] {
            let external_id = external_id.to_owned();
            sandbox.create_business(&NewBusiness { external_id, at_layer: true, phone: None, archived: false });
        }
        let accounts = vec![NewAccount::checking("0001")];
        let new = NewItem { business: HERE.into(), accounts, announce: Announce::Silent };
        let item = sandbox.link(&new).await.unwrap();
        let account = sandbox.accounts_of(&item).unwrap().remove(0);
        let books = Books::open(&local.environment["REKEY_DATABASE__URL"]).await;
        let (beginning, cast) = (sandbox.moment(), Cast { item, account });
        let mut explorer =
            Self { scene, gate, sandbox, store, books, workers, cast, beginning, texts: HashMap::new(), _local: local };
        Box::pin(explorer.prepare()).await;
        explorer
    }

    /// Links the Item where the scene begins with a linked one, and keeps the state.
    async fn prepare(&mut self) {
        for worker in &self.workers {
            worker.layer.warm_up().await.unwrap();
        }
        if self.scene.linked {
            self.gate.open(true);
            happen(crate::scene::Event::Push, &self.sandbox, &self.store, &self.cast, &mut String::new()).await;
            while let Some(row) = self.books.queue().await.into_iter().find(|r| r.waits) {
                let claim = self.claim(0, &row, true).await;
                consumer::reconcile(&self.workers[0], claim).await;
            }
            self.gate.open(false);
            assert!(self.sandbox.verdict().exact, "the scene does not begin as it should");
        }
        self.books.keep().await;
        self.beginning = self.sandbox.moment();
    }

    async fn claim(&mut self, worker: usize, row: &Queued, late: bool) -> store::Claim {
        self.books.make_due(row, late).await;
        let kind = Kind::from_word(&row.kind).unwrap();
        let context = &self.workers[worker];
        let (lease, limits) = (context.settings.lease, &context.limits);
        self.store.claim(kind, &context.owner, lease, 1, limits).await.unwrap().pop().unwrap()
    }

    /// Walks one way: along `prefix`, then wherever it leads first, until an end or a state that was seen.
    async fn go(
        &mut self,
        prefix: &[Step],
        faults: u32,
        seen: &mut HashSet<u64>,
        open: &mut Vec<Vec<Step>>,
        ends: &mut usize,
    ) -> Result<(), Broken> {
        self.gate.clear();
        self.books.return_to_kept().await;
        self.sandbox.return_to(&self.beginning);
        let busy = (0..WORKERS).map(|_| None).collect();
        let mut way = Way {
            busy,
            events: 0,
            faults,
            old_token: String::new(),
            tokens: vec![self.true_token()],
            current: 0,
            told: Vec::new(),
            violations: self.sandbox.verdict().violations.len(),
            lost: 0,
        };
        let mut taken: Vec<Step> = Vec::new();
        let walked = loop {
            let queue = self.books.queue().await;
            let step = match prefix.get(taken.len()) {
                Some(step) => step.clone(),
                None => {
                    if let Err(why) = self.judge(&mut way).await {
                        break Err(why);
                    }
                    if !seen.insert(self.hash(&way, &queue).await) {
                        break Ok(());
                    }
                    let mut steps = self.steps(&way, &queue).into_iter();
                    let Some(first) = steps.next() else {
                        *ends += 1;
                        break self.judge_end(&way, &queue).await;
                    };
                    open.extend(steps.map(|other| taken.iter().cloned().chain([other]).collect::<Vec<Step>>()));
                    first
                }
            };
            if taken.len() == LONGEST {
                break Err("it goes in circles: more steps than any way needs".into());
            }
            taken.push(step.clone());
            way.told.push(format!("{step:?}"));
            if let Err(why) = self.take(&mut way, &taken, step, &queue).await {
                break Err(why);
            }
        };
        for busy in way.busy.into_iter().flatten() {
            busy.task.abort();
            let _ = busy.task.await;
        }
        walked.map_err(|why| Broken { why, way: way.told })
    }

    /// Everything that can happen next, in an order that depends on nothing else.
    fn steps(&self, way: &Way, queue: &[Queued]) -> Vec<Step> {
        let mut steps = Vec::new();
        for (worker, busy) in way.busy.iter().enumerate() {
            let Some(call) = busy.as_ref().and_then(|_| self.gate.asks(worker)) else { continue };
            steps.push(Step::Call(worker, Fate::Answered));
            if way.faults > 0 {
                steps.push(Step::Die(worker, false));
                if call.contains("processor/token/create") || call.starts_with("PUT") {
                    steps.extend([Step::Call(worker, Fate::Lost), Step::Die(worker, true)]);
                    if call.starts_with("PUT") {
                        steps.push(Step::Linger(worker));
                    }
                } else {
                    steps.push(Step::Call(worker, Fate::Cut));
                }
            }
        }
        // Workers are alike: the first idle one takes the row.
        if let Some(idle) = way.busy.iter().position(Option::is_none) {
            for row in queue.iter().filter(|r| r.waits && !r.leased) {
                steps.push(Step::Claim(idle, row.kind.clone(), row.id.clone()));
            }
        }
        for row in queue.iter().filter(|r| r.leased) {
            let holder = way.busy.iter().flatten().any(|b| self.holds(b, row));
            // A dead holder's lease ends by itself; one that is only slow loses it by a fault.
            if !holder || way.faults > 0 {
                steps.push(Step::Expire(row.kind.clone(), row.id.clone()));
            }
        }
        if self.gate.is_lingering() {
            steps.push(Step::Arrive);
        }
        if way.events < self.scene.events.len() {
            steps.push(Step::Event);
        }
        steps
    }

    fn holds(&self, busy: &Busy, row: &Queued) -> bool {
        busy.row == (row.kind.clone(), row.id.clone()) && busy.epoch == row.epoch
    }

    /// A holder that lost its row and has a request on its way, or may send one.
    fn is_stale(&self, worker: usize, way: &Way, queue: &[Queued]) -> bool {
        let Some(busy) = &way.busy[worker] else { return false };
        !queue.iter().any(|r| r.leased && self.holds(busy, r))
    }

    async fn take(&mut self, way: &mut Way, taken: &[Step], step: Step, queue: &[Queued]) -> Result<(), String> {
        match step {
            Step::Claim(worker, kind, id) => {
                let row = queue.iter().find(|r| r.kind == kind && r.id == id).unwrap();
                let sent_before = (0..WORKERS).any(|w| self.is_stale(w, way, queue) && self.asks_put(w));
                let late = !sent_before && !self.gate.is_lingering();
                let claim = self.claim(worker, row, late).await;
                let (epoch, wanted, context) = (claim.epoch, claim.wanted, Arc::clone(&self.workers[worker]));
                let task = tokio::spawn(async move { consumer::reconcile(&context, claim).await });
                way.busy[worker] = Some(Busy { row: (kind, id), epoch, wanted, task, seen: DefaultHasher::new() });
                self.settle(way, taken, worker).await;
            }
            Step::Call(worker, fate) => {
                let stale = self.is_stale(worker, way, queue);
                way.faults -= u32::from(fate != Fate::Answered);
                way.lost += u64::from(fate == Fate::Lost || stale);
                let was_put = self.asks_put(worker);
                self.gate.decide(worker, fate);
                self.settle(way, taken, worker).await;
                if stale && was_put {
                    // It was sent under a good lease and came late.
                    self.sandbox.forgive(way.violations);
                } else if stale && self.asks_put(worker) {
                    return Err("I7: a PUT was started under a lease that was lost".into());
                }
            }
            Step::Die(worker, after) => {
                way.faults -= 1;
                way.lost += u64::from(after);
                if after {
                    self.gate.decide(worker, Fate::Lost);
                }
                if let Some(busy) = way.busy[worker].take() {
                    if after {
                        // The effect first; then nobody reads the answer.
                        let before = self.gate.answered(worker);
                        while self.gate.answered(worker) == before && before != 1 {
                            tokio::task::yield_now().await;
                        }
                    }
                    busy.task.abort();
                    let _ = busy.task.await;
                }
                self.gate.decide(worker, Fate::Cut);
            }
            Step::Linger(worker) => {
                way.faults -= 1;
                self.gate.linger(worker);
                if let Some(busy) = way.busy[worker].take() {
                    busy.task.abort();
                    let _ = busy.task.await;
                }
            }
            Step::Arrive => {
                self.gate.arrive().await;
                self.sandbox.forgive(way.violations);
            }
            Step::Expire(kind, id) => {
                let row = queue.iter().find(|r| r.kind == kind && r.id == id).unwrap();
                if way.busy.iter().flatten().any(|b| self.holds(b, row)) {
                    way.faults -= 1;
                }
                self.books.expire(&kind, &id).await;
            }
            Step::Event => {
                let event = self.scene.events[way.events];
                way.told.push(format!("  {event:?}"));
                happen(event, &self.sandbox, &self.store, &self.cast, &mut way.old_token).await;
                way.events += 1;
                let token = self.true_token();
                if way.tokens.last() != Some(&token) {
                    way.tokens.push(token);
                }
            }
        }
        Ok(())
    }

    fn asks_put(&self, worker: usize) -> bool {
        self.gate.asks(worker).is_some_and(|call| call.starts_with("PUT"))
    }

    /// Waits until the worker asks for its next call or has ended.
    async fn settle(&mut self, way: &mut Way, taken: &[Step], worker: usize) {
        let Some(busy) = &mut way.busy[worker] else { return };
        while self.gate.asks(worker).is_none() {
            tokio::select! {
                () = self.gate.changed.notified() => {}
                _ = &mut busy.task => {
                    way.busy[worker] = None;
                    return;
                }
            }
        }
        (self.gate.asks(worker), self.gate.answered(worker)).hash(&mut busy.seen);
        // What it read follows from what stood there, and that from the steps until here.
        let mut hasher = DefaultHasher::new();
        taken.hash(&mut hasher);
        let text = match self.texts.get(&hasher.finish()) {
            Some(text) => *text,
            None => {
                let (key, mut text) = (hasher.finish(), DefaultHasher::new());
                self.books.text().await.hash(&mut text);
                self.texts.insert(key, text.finish());
                text.finish()
            }
        };
        text.hash(&mut busy.seen);
    }

    async fn hash(&mut self, way: &Way, queue: &[Queued]) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.books.text().await.hash(&mut hasher);
        (self.sandbox.state_hash(), way.events, way.faults, self.gate.is_lingering()).hash(&mut hasher);
        // Two workers in each other's places are the same state.
        let mut busy: Vec<u64> = (0..WORKERS)
            .filter_map(|w| way.busy[w].as_ref().map(|b| (w, b)))
            .map(|(w, b)| {
                let mut one = b.seen.clone();
                let newer =
                    queue.iter().find(|r| self.holds(b, r)).map(|r| (r.wanted > b.wanted, r.unblocked > b.wanted));
                (&b.row, self.is_stale(w, way, queue), newer).hash(&mut one);
                one.finish()
            })
            .collect();
        busy.sort_unstable();
        busy.hash(&mut hasher);
        hasher.finish()
    }

    fn true_token(&self) -> String {
        let token = domain::AccessToken::new(self.sandbox.access_token(&self.cast.item).unwrap());
        self.store.fingerprints().of_access(&token).to_string()
    }
}
