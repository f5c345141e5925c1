//! Every role is replaced while it is busy, the way a rollout does it: the new process is ready before the old one is
//! told to stop, and callers learn a moment late that it is gone.

use domain::Role;
use sandbox::{Announce, Sandbox};
use serde_json::json;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tests::process::Process;
use tests::{Parts, World};
use tokio::task::JoinSet;

/// The processes of one role that callers know of.
type Endpoints = Arc<Mutex<Vec<String>>>;

/// How late callers learn that an endpoint is gone: longer than kube-proxy takes, shorter than `ops.drain_delay`.
const LAG: Duration = Duration::from_millis(600);

async fn replace(world: &World, old: Process, address: impl Fn(&Process) -> String, endpoints: &Endpoints) -> Process {
    let new = Process::start(world, old.role).await;
    endpoints.lock().unwrap().push(address(&new));
    let gone = address(&old);
    let forget = async {
        tokio::time::sleep(LAG).await;
        endpoints.lock().unwrap().retain(|e| *e != gone);
    };
    let ((), code) = tokio::join!(forget, old.terminate());
    assert_eq!(code, Some(0), "{}", std::fs::read_to_string(&old.log).unwrap());
    let log = std::fs::read_to_string(&old.log).unwrap();
    for phase in ["draining", "stopping", "leases given back", "stopped"] {
        assert!(log.contains(phase), "{phase} is not said: {log}");
    }
    new
}

/// No webhook is unanswered or lost, no PUT needless, no row waits for a lease to run out: leases last longer than this
/// story is willing to wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i1_i9_every_role_is_replaced_under_load() {
    let settings = "[ops]\ndrain_delay = \"1s\"\n[consumer]\nlease = \"120s\"\n";
    let mut world = World::without_rekey(Parts::Real, settings).await;
    world.start_rekey(&[Role::Console], "").await;
    let mut consumers = vec![Process::start(&world, "consumer").await, Process::start(&world, "consumer").await];
    let mut receivers = vec![Process::start(&world, "receiver").await, Process::start(&world, "receiver").await];
    let mut items = Vec::new();
    for n in 0..12 {
        world.business(&format!("b{n}"));
        items.push(world.link(&format!("b{n}"), 2).await);
    }
    world.until_exact().await;

    let url = |p: &Process| format!("http://{}/webhooks/plaid", p.listen);
    let endpoints: Endpoints = Arc::new(Mutex::new(receivers.iter().map(url).collect()));
    let (over, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut callers = JoinSet::new();
    for (caller, item) in items.iter().cloned().enumerate().take(8) {
        // Half of them keep their connections, the others open one for each webhook.
        let http = reqwest::Client::builder().timeout(Duration::from_secs(10));
        let http = if caller % 2 == 0 { http.pool_max_idle_per_host(0) } else { http }.build().unwrap();
        let (sandbox, endpoints, over, answered) =
            (world.sandbox.clone(), Arc::clone(&endpoints), Arc::clone(&over), Arc::clone(&answered));
        callers.spawn(async move {
            let mut unanswered = Vec::new();
            let body = Sandbox::webhook_body("ITEM", "ERROR", Some(&item), &json!({"error": null}));
            for n in caller.. {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                let url = {
                    let known = endpoints.lock().unwrap();
                    known[n % known.len()].clone()
                };
                let signed = sandbox.sign(&body);
                let request = http.post(url).header("plaid-verification", signed.header).body(signed.body);
                match request.send().await {
                    Ok(answer) if answer.status() == 200 => {
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(answer) => unanswered.push(answer.status().to_string()),
                    Err(error) => unanswered.push(format!("{error:?}")),
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            unanswered
        });
    }

    for _ in 0..2 {
        for item in &items {
            world.rotate(item, Announce::Database).await;
            world.notice(item).await;
        }
        let old = receivers.remove(0);
        receivers.push(replace(&world, old, url, &endpoints).await);
        let (old, nobody_calls) = (consumers.remove(0), Endpoints::default());
        consumers.push(replace(&world, old, |p| p.ops.to_string(), &nobody_calls).await);
    }
    over.store(true, Ordering::Relaxed);
    let unanswered: Vec<String> = callers.join_all().await.into_iter().flatten().collect();
    assert!(unanswered.is_empty(), "{} of {answered:?} were not answered: {unanswered:?}", unanswered.len());
    assert!(answered.load(Ordering::Relaxed) > 500, "{answered:?}");
    // While they run: what is left of the webhooks makes Items due, and somebody must look at these.
    world.end().await;
    drop((consumers, receivers));
}
