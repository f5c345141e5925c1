//! What a company has beside its cluster, for `tests/kube`: an Apache Kafka (in the clear, and over TLS with SCRAM or
//! OAUTHBEARER), a PostgreSQL that asks for TLS, and an identity provider. All on 127.0.0.1, all gone with this process.
//!
//! `TEST_FORWARD` is a command: given ports of 127.0.0.1, it lets pods reach them and prints the address at which they do.
//! The first line on standard output says where everything is. Then each line on standard input is an order, answered by a
//! line; the end of the input is the end.
//!
//! ```text
//! {"database": "name"}                                              makes an empty database
//! {"topic": "name", "partitions": 3, "replicas": 1, "config": {}}   makes a topic, or leaves the one that is there
//! ```

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "a tool of the tests")]

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::types::RDKafkaErrorCode;
use serde::Deserialize;
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;
use tests::kafka::{Cluster, Listeners, unsigned_token};
use tests::postgres::Postgres;
use tests::process::free_port;
use tests::tls::{Authority, https_on};
use tokio::net::TcpListener;
use tokio::process::Command;

#[derive(Deserialize)]
#[serde(untagged)]
enum Order {
    Database { database: String },
    Topic { topic: String, partitions: i32, replicas: i32, config: BTreeMap<String, serde_json::Value> },
}

/// The address at which pods reach these ports.
async fn forward(ports: &[u16]) -> String {
    let command =
        std::env::var("TEST_FORWARD").expect("TEST_FORWARD is not set: see the head of tests/kube/services.rs");
    let mut words = command.split_whitespace();
    let mut forward = Command::new(words.next().expect("TEST_FORWARD is empty"));
    forward.args(words).args(ports.iter().map(u16::to_string));
    let output = tokio::time::timeout(Duration::from_secs(30), forward.output()).await;
    let output = output.expect("TEST_FORWARD did not end within 30 s").unwrap_or_else(|e| panic!("{command}: {e}"));
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    let address = String::from_utf8(output.stdout).unwrap().trim().to_owned();
    assert!(!address.is_empty(), "{command} printed no address");
    address
}

async fn make_topic(admin: &AdminClient<DefaultClientContext>, topic: &NewTopic<'_>) {
    let patience = AdminOptions::new().request_timeout(Some(tests::PATIENCE));
    let answers = admin.create_topics([topic], &patience).await.unwrap();
    for answer in answers {
        match answer {
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((name, why)) => panic!("{name}: {why}"),
        }
    }
}

#[tokio::main]
async fn main() {
    let home = tempfile::tempdir().unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(home.path(), open).unwrap();
    let database_home = home.path().join("database");
    std::fs::create_dir(&database_home).unwrap();

    let identities = TcpListener::bind(("127.0.0.1", free_port())).await.unwrap();
    let identities_port = identities.local_addr().unwrap().port();
    let database_port = free_port();
    let mut listeners = Listeners::new();
    listeners.host = forward(&[listeners.plain, listeners.sasl, database_port, identities_port]).await;
    let host = listeners.host.clone();

    let authority = Authority::new("what a company has");
    let identity = authority.issue(&[&host, "127.0.0.1"]);
    let password = uuid::Uuid::new_v4().to_string();
    https_on(identities, &identity, unsigned_token());
    let cluster = Cluster::secure(&identity, &password, &listeners);
    let database = Postgres::secure(&database_home, &identity, database_port);
    database.up().await;
    let admin: AdminClient<_> = ClientConfig::new().set("bootstrap.servers", cluster.address()).create().unwrap();
    // Once it makes a topic, it is up.
    make_topic(&admin, &NewTopic::new("is-up", 1, TopicReplication::Fixed(1))).await;

    println!(
        "{}",
        json!({
            "kafka": format!("{host}:{}", listeners.plain),
            "kafka_sasl": format!("{host}:{}", listeners.sasl),
            "password": password,
            "token_url": format!("https://{host}:{identities_port}/oauth2/token"),
            "database": format!("{host}:{database_port}"),
            "authority": authority.pem,
        })
    );
    // This thread may block: the identity provider answers on others.
    for order in std::io::stdin().lines() {
        let order = order.unwrap();
        match serde_json::from_str(&order).unwrap_or_else(|e| panic!("{order}: {e}")) {
            Order::Database { database: name } => {
                database.create_database(&name).await;
            }
            Order::Topic { topic, partitions, replicas, config } => {
                let config: Vec<(String, String)> =
                    config.into_iter().map(|(k, v)| (k, v.to_string().trim_matches('"').to_owned())).collect();
                let mut new = NewTopic::new(&topic, partitions, TopicReplication::Fixed(replicas));
                for (key, value) in &config {
                    new = new.set(key, value);
                }
                make_topic(&admin, &new).await;
            }
        }
        println!("{}", json!({"done": true}));
    }
}
