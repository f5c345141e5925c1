//! Whom Rekey believes: a certificate of an unknown authority, or for another name, is refused by every connection, and
//! what is said names the setting.

use domain::Role;
use domain::fault::chain;
use domain::{Provider, metric};
use rekey::config::{Config, load_text};
use rekey::wiring::{layer_client, plaid_client};
use sandbox::Sandbox;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::PathBuf;
use store::{KeyRing, Store};
use tests::kafka::{Cluster, Listeners, unsigned_token};
use tests::postgres::Postgres;
use tests::process::free_port;
use tests::tls::{Authority, https};
use tests::{Parts, World, holds, metrics};

/// What both providers' probes take for a good answer.
const ANSWER: &str = r#"{"access_token":"t","key":{"kid":"k","kty":"EC","crv":"P-256","alg":"ES256","x":"","y":""}}"#;

fn config(text: &str) -> Config {
    load_text("tls.toml", text, &BTreeMap::new()).unwrap()
}

/// What the probes of both providers come to.
async fn providers(base: &str, ca: &str) -> [Result<(), String>; 2] {
    let config = config(&format!(
        "[tls]\nca = '''{ca}'''\n[plaid]\nbase_url = \"{base}\"\nclient_id = \"c\"\nsecret = \"s\"\n\
         [layer]\nbase_url = \"{base}\"\ntoken_url = \"{base}/oauth2/token\"\nclient_id = \"c\"\nclient_secret = \"s\"\n"
    ));
    let plaid = plaid_client(&config, config.plaid.timeout).unwrap().probe().await;
    let layer = layer_client(&config).unwrap().probe().await;
    [plaid.map_err(|e| chain(&e)), layer.map_err(|e| chain(&e))]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_with_a_wrong_certificate_is_refused() {
    let (ours, strangers) = (Authority::new("ours"), Authority::new("a stranger's"));
    let server = https(&ours.issue(&["127.0.0.1"]), ANSWER).await;
    let other_name = https(&ours.issue(&["plaid.example"]), ANSWER).await;
    let refused = [
        ("an unknown authority", server, String::new()),
        ("another authority", server, strangers.pem.clone()),
        ("another name", other_name, ours.pem.clone()),
    ];
    for (what, server, ca) in refused {
        for outcome in providers(&format!("https://{server}"), &ca).await {
            let said = outcome.expect_err(what);
            assert!(said.contains("certificate") && said.contains("tls.ca_file"), "{what}: {said}");
        }
    }
    for outcome in providers(&format!("https://{server}"), &format!("{}{}", strangers.pem, ours.pem)).await {
        assert_eq!(outcome, Ok(()), "trusted once its authority is");
    }
    let clear = config("[plaid]\nbase_url = \"http://plaid.internal\"\nclient_id = \"c\"\nsecret = \"s\"\n");
    assert!(clear.plaid().unwrap_err().to_string().contains("https://"));
}

/// Long before it ends, somebody should hear of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_a_providers_certificate_is_shown() {
    let world = World::start(Parts::Embedded, "").await;
    let ours = Authority::new("ours");
    let server = https(&ours.issue(&["127.0.0.1"]), ANSWER).await;
    assert_eq!(providers(&format!("https://{server}"), &ours.pem).await, [Ok(()), Ok(())]);
    let shown = metrics::read(&metrics::scrape(world.rekey().ops).await);
    for peer in Provider::WORDS {
        let seconds = metrics::total(&shown, metric::CERTIFICATE_EXPIRES, &[("peer", peer)]);
        assert!(seconds.is_some_and(|s| s > 365.0 * 86_400.0), "{peer}: {seconds:?}");
    }
    world.end().await;
}

/// Files that settings name.
pub(crate) struct Files(tempfile::TempDir);

impl Files {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// A directory of its own for a server that is not the user who runs the tests.
    fn home(&self, name: &str) -> PathBuf {
        let readable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(self.0.path(), readable).unwrap();
        let path = self.0.path().join(name);
        std::fs::create_dir(&path).unwrap();
        path
    }
}

async fn open(url: String) -> Result<(), String> {
    let settings =
        store::Settings { url: url.into(), connections: 2, acquire_timeout: std::time::Duration::from_secs(5) };
    let keys = KeyRing::parse(&rekey::cli::sealing_key().into()).unwrap();
    let store = Store::connect(&settings, "outcomes", keys, domain::Fingerprinter::new(1, &[1; 32])).unwrap();
    match store.prepare().await {
        Ok(()) => Ok(()),
        Err(error) => Err(format!("{} {}", chain(&error), store.diagnose(None).await)),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postgresql_with_a_wrong_certificate_is_refused() {
    let files = Files::new();
    let (ours, strangers) = (Authority::new("ours"), Authority::new("a stranger's"));
    let right = files.write("ours.pem", &ours.pem).display().to_string();
    let wrong = files.write("strangers.pem", &strangers.pem).display().to_string();
    let server = Postgres::secure(&files.home("one"), &ours.issue(&["127.0.0.1"]), free_port());
    let verified = |ca: &str| server.url(&format!("postgres?sslmode=verify-full&sslrootcert={ca}"));
    let opened = || async { open(verified(&right)).await.is_ok() };
    assert!(holds(opened).await, "{:?}", open(verified(&right)).await);
    for url in [verified(&wrong), server.url("postgres?sslmode=verify-full")] {
        let said = open(url).await.expect_err("an unknown authority");
        assert!(said.contains("certificate") && said.contains("sslrootcert"), "{said}");
    }
    // A server without TLS, as the one that stories share.
    let plain = std::env::var("TEST_POSTGRES").unwrap();
    let said = open(format!("{plain}?sslmode=verify-full")).await.expect_err("no TLS");
    assert!(said.contains("no TLS") && said.contains("sslmode=disable"), "{said}");
    let other = Postgres::secure(&files.home("two"), &ours.issue(&["db.example"]), free_port());
    let reached = || async {
        let said = open(other.url(&format!("postgres?sslmode=verify-full&sslrootcert={right}")))
            .await
            .expect_err("another name");
        said.contains("certificate")
    };
    assert!(holds(reached).await);
}

pub(crate) fn with_kafka(port: u16, properties: &[(&str, &str)]) -> String {
    let lines: String = properties.iter().map(|(name, value)| format!("\"{name}\" = \"{value}\"\n")).collect();
    format!("[kafka]\nbootstrap = \"127.0.0.1:{port}\"\n[kafka.properties]\n{lines}")
}

/// Why the topics can't be seen. None: they can, or are only missing.
pub(crate) async fn refusal(settings: &str) -> Option<String> {
    let config = config(settings);
    bus::check(&config.kafka.connection(), &config.kafka.topics).await.err().map(|e| chain(&e))
}

/// A broker that is slow to answer gives no reason yet; but whoever is wrong is never let in.
async fn says_why(settings: &str, words: &[&str]) -> bool {
    let said = refusal(settings).await.expect("refused");
    words.iter().all(|word| said.contains(word))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kafka_with_a_wrong_certificate_or_password_is_refused() {
    let files = Files::new();
    let (ours, strangers) = (Authority::new("ours"), Authority::new("a stranger's"));
    let right = files.write("ours.pem", &ours.pem).display().to_string();
    let wrong = files.write("strangers.pem", &strangers.pem).display().to_string();
    let password = uuid::Uuid::new_v4().to_string();
    let at = Listeners::new();
    let cluster = Cluster::secure(&ours.issue(&["127.0.0.1"]), &password, &at);
    let Listeners { tls, sasl, .. } = at;
    let over_tls = |ca| with_kafka(tls, &[("security.protocol", "ssl"), ("ssl.ca.location", ca)]);
    let over_sasl = |ca: &str, user: &[(&str, &str)]| {
        with_kafka(sasl, &[&[("security.protocol", "sasl_ssl"), ("ssl.ca.location", ca)], user].concat())
    };
    let user = [("sasl.mechanism", "PLAIN"), ("sasl.username", "rekey"), ("sasl.password", &password)];
    let up = || async { refusal(&over_tls(&right)).await.is_none() };
    assert!(holds(up).await, "{:?}\n{}", refusal(&over_tls(&right)).await, cluster.log(0));
    for settings in [over_tls(&wrong), over_sasl(&wrong, &user), with_kafka(tls, &[("security.protocol", "ssl")])] {
        let why = || async { says_why(&settings, &["certificate", "ssl.ca.location"]).await };
        assert!(holds(why).await, "{:?}", refusal(&settings).await);
    }
    for mechanism in ["PLAIN", "SCRAM-SHA-512"] {
        let user = |password| [("sasl.mechanism", mechanism), ("sasl.username", "rekey"), ("sasl.password", password)];
        let guessed = over_sasl(&right, &user("guess"));
        let why = || async { says_why(&guessed, &["uthentication", "sasl.password"]).await };
        assert!(holds(why).await, "{mechanism}: {:?}", refusal(&guessed).await);
        let said = refusal(&guessed).await.expect("a wrong password");
        assert!(!said.contains(&password) && !said.contains("guess"), "I3: {mechanism}: {said}");
        a_webhook_arrives_over(&over_sasl(&right, &user(&password))).await;
    }
    // The token comes from an endpoint whose certificate is checked as well.
    let endpoint = https(&ours.issue(&["127.0.0.1"]), unsigned_token()).await;
    let url = format!("https://{endpoint}/oauth2/token");
    let over_oauth = |ca| {
        let user = [
            ("sasl.mechanism", "OAUTHBEARER"),
            ("sasl.oauthbearer.method", "oidc"),
            ("sasl.oauthbearer.client.id", "rekey"),
            ("sasl.oauthbearer.client.secret", &password),
            ("sasl.oauthbearer.token.endpoint.url", &url),
            ("https.ca.location", ca),
        ];
        over_sasl(&right, &user)
    };
    let said = refusal(&over_oauth(&wrong)).await.expect("a wrong certificate of the token endpoint");
    assert!(!said.contains(&password), "I3: {said}");
    a_webhook_arrives_over(&over_oauth(&right)).await;
}

/// A world without Rekey, on a Kafka that these settings name, and its topics there.
pub(crate) async fn world_over(kafka: &str) -> World {
    let mut world = World::without_rekey(Parts::Embedded, "").await;
    let mut settings: toml::Table = world.local.settings.parse().unwrap();
    tests::merge(&mut settings, kafka.parse().unwrap());
    world.local.settings = settings.to_string();
    world.local.environment.remove("REKEY_KAFKA__BOOTSTRAP");
    world.local.broker = None;
    let config = world.local.config("").unwrap();
    bus::apply(&config.kafka.connection(), &config.kafka.topics, config.receiver.max_body).await.unwrap();
    world
}

/// From the receiver to the topic, over the connection that these settings make.
async fn a_webhook_arrives_over(kafka: &str) {
    let mut world = world_over(kafka).await;
    let config = world.local.config("").unwrap();
    world.start_rekey(&[Role::Receiver], "").await;
    let body = Sandbox::webhook_body("ITEM", "ERROR", Some("item-1"), &json!({}));
    assert_eq!(world.sandbox.send_once(&world.receiver_url(), &body).await, 200);
    let records =
        world.read_topic(&config.kafka.topics.item_events, bus::schema::WEBHOOK, |seen| !seen.is_empty()).await;
    assert_eq!(records[0].event.as_ref().unwrap().subject.as_deref(), Some("item-1"));
    world.end_with_parked().await;
}
