//! An Apache Kafka of the test's own, to be killed. The one that stories share must live on.

use crate::process::{free_port, signal};
use crate::tls::Identity;
use base64::Engine;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// Nodes that are broker and controller at once; all killed when dropped.
#[derive(Debug)]
pub struct Cluster {
    directory: TempDir,
    libs: PathBuf,
    nodes: Vec<Node>,
}

/// Where a node is reached from elsewhere: by another name of this machine, in the clear, over TLS, and over TLS with SASL.
#[derive(Debug, Clone)]
pub struct Listeners {
    pub host: String,
    pub plain: u16,
    pub tls: u16,
    pub sasl: u16,
}

impl Listeners {
    pub fn new() -> Self {
        Self { host: "127.0.0.1".into(), plain: free_port(), tls: free_port(), sasl: free_port() }
    }
}

impl Default for Listeners {
    fn default() -> Self {
        Self::new()
    }
}

#[derive(Debug)]
struct Node {
    port: u16,
    child: Option<Child>,
}

impl Cluster {
    /// Formats and launches that many nodes. They are not ready yet: whoever needs them waits for what it needs.
    pub fn start(nodes: usize) -> Self {
        Self::with(nodes, &[], |_| String::new())
    }

    /// One node that others reach as well, at these listeners; the user `rekey` shows this password (PLAIN, SCRAM) or any
    /// unsigned token (OAUTHBEARER, see [`unsigned_token`]). It may do everything that [`Cluster::acl`] keeps for nobody; who
    /// comes without TLS may do everything.
    pub fn secure(identity: &Identity, password: &str, at: &Listeners) -> Self {
        let Listeners { host, plain, tls, sasl } = at;
        let scram = format!("SCRAM-SHA-512=[name=rekey,password={password}]");
        Self::with(1, &["--add-scram", &scram], |directory| {
            let store = directory.join("broker.pem");
            std::fs::write(&store, format!("{}{}", identity.key, identity.chain)).unwrap();
            format!(
                "listeners=PLAINTEXT://127.0.0.1:@PORT@,CONTROLLER://127.0.0.1:@CONTROLLER@,PLAIN://127.0.0.1:{plain},\
                 SSL://127.0.0.1:{tls},SASL_SSL://127.0.0.1:{sasl}\n\
                 advertised.listeners=PLAINTEXT://127.0.0.1:@PORT@,PLAIN://{host}:{plain},SSL://{host}:{tls},\
                 SASL_SSL://{host}:{sasl}\n\
                 listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,PLAIN:PLAINTEXT,SSL:SSL,\
                 SASL_SSL:SASL_SSL\n\
                 authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\n\
                 super.users=User:ANONYMOUS\nallow.everyone.if.no.acl.found=true\n\
                 ssl.keystore.type=PEM\nssl.keystore.location={store}\n\
                 sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-512,OAUTHBEARER\n\
                 listener.name.sasl_ssl.plain.sasl.jaas.config=\
                 {security}.plain.PlainLoginModule required user_rekey=\"{password}\";\n\
                 listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config={security}.scram.ScramLoginModule required;\n\
                 listener.name.sasl_ssl.oauthbearer.sasl.jaas.config=\
                 {security}.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub=\"broker\";\n",
                security = "org.apache.kafka.common.security",
                store = store.display(),
            )
        })
    }

    /// `format` is said to the tool that formats a node's directory. `more` stands behind the properties that every node has,
    /// and wins over them.
    fn with(nodes: usize, format: &[&str], more: impl Fn(&Path) -> String) -> Self {
        let libs = std::env::var("TEST_KAFKA_LIBS")
            .expect("TEST_KAFKA_LIBS is not set: run the tests through `make test`, which fetches Apache Kafka");
        let directory = tempfile::tempdir().unwrap();
        let ports: Vec<(u16, u16)> = (0..nodes).map(|_| (free_port(), free_port())).collect();
        let voters: Vec<String> =
            ports.iter().enumerate().map(|(n, (_, controller))| format!("{n}@127.0.0.1:{controller}")).collect();
        let replicas = nodes.min(3);
        let mut formatting = Vec::new();
        for (n, (port, controller)) in ports.iter().enumerate() {
            let properties = format!(
                "process.roles=broker,controller\nnode.id={n}\ncontroller.quorum.voters={voters}\n\
                 listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
                 advertised.listeners=PLAINTEXT://127.0.0.1:{port}\ncontroller.listener.names=CONTROLLER\n\
                 inter.broker.listener.name=PLAINTEXT\n\
                 listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT\nlog.dirs={data}\n\
                 offsets.topic.replication.factor={replicas}\noffsets.topic.num.partitions=4\n\
                 transaction.state.log.replication.factor={replicas}\ntransaction.state.log.min.isr=1\n\
                 broker.session.timeout.ms=3000\nbroker.heartbeat.interval.ms=500\n\
                 group.initial.rebalance.delay.ms=0\nauto.create.topics.enable=false\n",
                voters = voters.join(","),
                data = directory.path().join(format!("data-{n}")).display(),
            );
            let more = more(directory.path())
                .replace("@PORT@", &port.to_string())
                .replace("@CONTROLLER@", &controller.to_string());
            let file = directory.path().join(format!("{n}.properties"));
            std::fs::write(&file, properties + &more).unwrap();
            let formatted = Command::new("java")
                .args([
                    "-XX:TieredStopAtLevel=1",
                    "-cp",
                    &format!("{libs}/*"),
                    "kafka.tools.StorageTool",
                    "format",
                    "-t",
                ])
                .args(["AAAAAAAAAAAAAAAAAAAAAQ", "-c"])
                .arg(&file)
                .args(format)
                .stdout(Stdio::null())
                .stderr(std::fs::File::create(directory.path().join(format!("{n}.log"))).unwrap())
                .spawn();
            formatting.push(formatted.unwrap());
        }
        assert!(formatting.into_iter().all(|mut f| f.wait().unwrap().success()));
        let nodes = ports.into_iter().map(|(port, _)| Node { port, child: None }).collect();
        let mut cluster = Self { directory, libs: libs.into(), nodes };
        for n in 0..cluster.nodes.len() {
            cluster.launch(n);
        }
        cluster
    }

    /// Says who may do what, in the words of Kafka's own `kafka-acls`.
    pub fn acl(&self, words: &[&str]) {
        let said = Command::new("java")
            .args(["-XX:TieredStopAtLevel=1", "-cp"])
            .arg(format!("{}/*", self.libs.display()))
            .args(["org.apache.kafka.tools.AclCommand", "--force", "--bootstrap-server", &self.address()])
            .args(words)
            .output()
            .unwrap();
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stdout));
    }

    /// The bootstrap servers.
    pub fn address(&self) -> String {
        let addresses: Vec<String> = self.nodes.iter().map(|n| format!("127.0.0.1:{}", n.port)).collect();
        addresses.join(",")
    }

    /// Starts a node, for the first time or again on its directory.
    pub fn launch(&mut self, node: usize) {
        let log = self.directory.path().join(format!("{node}.log"));
        let log = std::fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
        let child = Command::new("java")
            .args(["-Xmx384m", "-Xms128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp"])
            .arg(format!("{}/*", self.libs.display()))
            .arg("kafka.Kafka")
            .arg(self.directory.path().join(format!("{node}.properties")))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.nodes[node].child = Some(child);
    }

    /// SIGKILL.
    pub fn kill(&mut self, node: usize) {
        if let Some(mut child) = self.nodes[node].child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// SIGSTOP: its connections stand and nothing answers on them.
    pub fn freeze(&self, node: usize) {
        self.signal(node, "STOP");
    }
    pub fn thaw(&self, node: usize) {
        self.signal(node, "CONT");
    }

    fn signal(&self, node: usize, name: &str) {
        if let Some(child) = &self.nodes[node].child {
            assert!(signal(child.id(), name));
        }
    }

    pub fn log(&self, node: usize) -> String {
        read(&self.directory.path().join(format!("{node}.log")))
    }
}

/// What an identity provider answers, for the nodes that [`Cluster::secure`] makes: a token that says who it is for and how
/// long, here without a signature.
pub fn unsigned_token() -> String {
    let part = |json: serde_json::Value| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(json.to_string());
    let now = jiff::Timestamp::now().as_second();
    let claims = json!({"sub": "rekey", "iat": now, "exp": now + 3600});
    let token = format!("{}.{}.", part(json!({"alg": "none"})), part(claims));
    json!({"access_token": token, "token_type": "Bearer", "expires_in": 3600}).to_string()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in 0..self.nodes.len() {
            self.kill(node);
        }
    }
}
