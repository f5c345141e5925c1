//! A TCP proxy on 127.0.0.1 that a test can cut and slow down.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Passes connections on to servers, each to the next one in turn, until it is cut.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    line: Arc<Line>,
    accepting: JoinHandle<()>,
}

#[derive(Debug)]
struct Line {
    targets: Vec<String>,
    turn: AtomicUsize,
    down: AtomicBool,
    /// Counts the cuts: a connection that began before the latest one ends.
    cuts: watch::Sender<u64>,
    /// What passes waits this long, in milliseconds.
    delay: AtomicU64,
}

fn address_of(url: &str) -> String {
    let rest = url.split_once("://").unwrap().1;
    let rest = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    rest.split('/').next().unwrap().to_owned()
}

impl Proxy {
    pub async fn to_postgres(url: &str) -> Self {
        Self::to(vec![address_of(url)]).await
    }

    /// In front of one `host:port` or several.
    pub async fn to(targets: Vec<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let line = Arc::new(Line {
            targets,
            turn: AtomicUsize::new(0),
            down: AtomicBool::new(false),
            cuts: watch::Sender::new(0),
            delay: AtomicU64::new(0),
        });
        let passing = Arc::clone(&line);
        let accepting = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                if !passing.down.load(Ordering::SeqCst) {
                    tokio::spawn(Arc::clone(&passing).pass(near));
                }
            }
        });
        Self { address, line, accepting }
    }

    /// The same URL through the proxy.
    pub fn url(&self, url: &str) -> String {
        url.replace(&address_of(url), &self.address.to_string())
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends every connection and refuses new ones.
    pub fn cut(&self) {
        self.line.down.store(true, Ordering::SeqCst);
        self.line.cuts.send_modify(|n| *n += 1);
    }

    /// Holds back whatever passes for so long.
    pub fn slow(&self, delay: Duration) {
        self.line.delay.store(u64::try_from(delay.as_millis()).unwrap(), Ordering::SeqCst);
    }

    pub fn heal(&self) {
        self.line.delay.store(0, Ordering::SeqCst);
        self.line.down.store(false, Ordering::SeqCst);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

impl Line {
    async fn pass(self: Arc<Self>, mut near: TcpStream) {
        let mut cuts = self.cuts.subscribe();
        let Some(mut far) = self.reach().await else { return };
        let (near_in, near_out) = near.split();
        let (far_in, far_out) = far.split();
        tokio::select! {
            _ = async { tokio::try_join!(self.pump(near_in, far_out), self.pump(far_in, near_out)) } => {}
            _ = cuts.changed() => {}
        }
    }

    /// The next server that takes a connection.
    async fn reach(&self) -> Option<TcpStream> {
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        for n in 0..self.targets.len() {
            let target = &self.targets[(first + n) % self.targets.len()];
            if let Ok(far) = TcpStream::connect(target).await {
                return Some(far);
            }
        }
        None
    }

    async fn pump(
        &self,
        mut from: impl AsyncReadExt + Unpin,
        mut to: impl AsyncWriteExt + Unpin,
    ) -> std::io::Result<()> {
        let mut buffer = vec![0; 16 * 1024];
        loop {
            let read = from.read(&mut buffer).await?;
            if read == 0 {
                return to.shutdown().await;
            }
            let delay = self.delay.load(Ordering::SeqCst);
            if delay > 0 {
                tokio::time::sleep(Duration::from_millis(delay)).await;
            }
            to.write_all(&buffer[..read]).await?;
        }
    }
}
