//! A TCP proxy on 127.0.0.1 that a test can cut.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// Passes connections on to one server until it is cut.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    down: Arc<AtomicBool>,
    cut: Arc<Notify>,
}

fn address_of(url: &str) -> String {
    let rest = url.split_once("://").unwrap().1;
    let rest = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    rest.split('/').next().unwrap().to_owned()
}

impl Proxy {
    pub async fn to_postgres(url: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Self { address: listener.local_addr().unwrap(), down: Arc::default(), cut: Arc::default() };
        let (target, down, cut) = (address_of(url), Arc::clone(&proxy.down), Arc::clone(&proxy.cut));
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                if down.load(Ordering::SeqCst) {
                    continue;
                }
                let (target, cut) = (target.clone(), Arc::clone(&cut));
                tokio::spawn(async move {
                    let Ok(mut far) = TcpStream::connect(target).await else { return };
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        () = cut.notified() => {}
                    }
                });
            }
        });
        proxy
    }

    /// The same URL through the proxy.
    pub fn url(&self, url: &str) -> String {
        url.replace(&address_of(url), &self.address.to_string())
    }

    /// Ends every connection and refuses new ones.
    pub fn cut(&self) {
        self.down.store(true, Ordering::SeqCst);
        self.cut.notify_waiters();
    }

    pub fn heal(&self) {
        self.down.store(false, Ordering::SeqCst);
    }
}
