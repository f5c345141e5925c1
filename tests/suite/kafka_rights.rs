//! What the brokers do not let this user do, and where that is said.

use crate::tls::{Files, refusal, with_kafka, world_over};
use domain::Role;
use domain::metric;
use sandbox::Sandbox;
use serde_json::json;
use tests::kafka::{Cluster, Listeners};
use tests::tls::Authority;
use tests::{holds, metrics, topics};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i11_what_kafka_forbids_is_named_by_check_readiness_and_metric() {
    let files = Files::new();
    let ours = Authority::new("ours");
    let ca = files.write("ours.pem", &ours.pem).display().to_string();
    let password = uuid::Uuid::new_v4().to_string();
    let at = Listeners::new();
    let cluster = Cluster::secure(&ours.issue(&["127.0.0.1"]), &password, &at);
    let settings = with_kafka(
        at.sasl,
        &[
            ("security.protocol", "sasl_ssl"),
            ("ssl.ca.location", &ca),
            ("sasl.mechanism", "PLAIN"),
            ("sasl.username", "rekey"),
            ("sasl.password", &password),
            // Rekey's own values hold, under whichever name; else the record that is too large would fit, and stay there.
            ("compression.codec", "zstd"),
            ("request.required.acks", "1"),
            ("linger.ms", "5000"),
            ("queue.buffering.max.kbytes", "512"),
        ],
    );
    let reached = || async { refusal(&settings).await.is_none() };
    assert!(holds(reached).await, "{}", cluster.log(0));
    let mut world = world_over(&settings).await;
    let config = world.local.config("").unwrap();
    let missing = || async {
        let rights = bus::rights(&config.kafka.connection(), &config.kafka.topics, &config.needs(Role::ALL_IN_ONE))
            .await
            .unwrap();
        assert_eq!(rights.unknown, Vec::<String>::new());
        rights.missing
    };
    let names = config.kafka.topics.names().map(str::to_owned);
    let (events, group) = (names[0].clone(), config.kafka.group.clone());
    assert_eq!(missing().await, Vec::<String>::new());

    let reads = ["--operation", "Read", "--operation", "Describe", "--operation", "DescribeConfigs"];
    cluster.acl(&[&["--add", "--allow-principal", "User:rekey", "--topic", &events][..], &reads].concat());
    let no_write = || async {
        missing().await == [format!("this user may not WRITE to the topic {events} (TopicAuthorizationFailed)")]
    };
    assert!(holds(no_write).await, "{:?}", missing().await);
    // Known by whom the group is read, and unknown even that there is such a group.
    let no_group = format!("this user may not READ the group {group} (GroupAuthorizationFailed)");
    for operation in ["Read", "Describe"] {
        let who = if operation == "Read" { "User:somebody" } else { "User:rekey" };
        cluster.acl(&["--add", "--allow-principal", who, "--operation", operation, "--group", &group]);
        let told = || async { missing().await.last() == Some(&no_group) };
        assert!(holds(told).await, "{operation}: {:?}", missing().await);
    }
    // Nowhere WRITE, and so not even the number that an idempotent producer asks for first.
    let everywhere: Vec<&str> = names.iter().flat_map(|name| ["--topic", name]).collect();
    let describe = ["--allow-principal", "User:rekey", "--operation", "Describe", "--operation", "DescribeConfigs"];
    cluster.acl(&["--remove", "--topic", &events]);
    cluster.acl(&[&["--add"][..], &describe, &everywhere].concat());
    let nothing = || async {
        let missing = missing().await;
        missing.iter().filter(|m| m.starts_with("this user may not WRITE to the topic")).count() == 4
    };
    assert!(holds(nothing).await, "{:?}", missing().await);
    cluster.acl(&[&["--remove"][..], &everywhere].concat());
    // Not even seen, which is not the same as not there.
    cluster.acl(&["--add", "--allow-principal", "User:somebody", "--operation", "Describe", "--topic", &events]);
    let hidden = || async {
        let faults = bus::check(&config.kafka.connection(), &config.kafka.topics).await.unwrap();
        faults == [bus::TopicFault::Hidden(events.clone())]
    };
    assert!(holds(hidden).await);
    cluster.acl(&["--remove", "--topic", &events]);
    cluster.acl(&[&["--add", "--allow-principal", "User:rekey", "--topic", &events][..], &reads].concat());
    let both = || async { missing().await.len() == 2 };
    assert!(holds(both).await, "{:?}", missing().await);
    for name in &names {
        assert!(topics::read_all(&cluster.address(), name).is_empty(), "a check leaves nothing in {name}");
    }

    let running = world.local.start(Role::ALL_IN_ONE, "").await.unwrap();
    let readyz = format!("http://{}/readyz", running.ops);
    let unready = || async {
        let Ok(answer) = reqwest::get(&readyz).await else { return false };
        let told = answer.text().await.unwrap_or_default();
        told.contains("let this user READ the group kafka.group")
    };
    assert!(holds(unready).await, "{}", reqwest::get(&readyz).await.unwrap().text().await.unwrap());
    let ops = running.ops;
    world.rekeys.push(running);
    let body = Sandbox::webhook_body("ITEM", "ERROR", Some("item-1"), &json!({}));
    assert_eq!(world.sandbox.send_once(&world.receiver_url(), &body).await, 503);
    let shown = metrics::read(&metrics::scrape(ops).await);
    let refused = metrics::total(&shown, metric::WEBHOOKS, &[("reason", "not_authorized")]);
    assert!(refused.is_some_and(|n| n >= 1.0), "{refused:?}");

    cluster.acl(&["--remove", "--topic", &events]);
    cluster.acl(&["--remove", "--group", &group]);
    let ready = || async { reqwest::get(&readyz).await.is_ok_and(|a| a.status() == 200) };
    assert!(holds(ready).await, "{}", reqwest::get(&readyz).await.unwrap().text().await.unwrap());
    assert_eq!(world.sandbox.send_once(&world.receiver_url(), &body).await, 200);
    assert_eq!(missing().await, Vec::<String>::new());
    assert_eq!(topics::read_all(&cluster.address(), &events).len(), 1);
    world.end_with_parked().await;
}
