//! The least that a receiver of webhooks does: one signature verified, one hash, one record that all replicas have. No limits, no
//! metrics, no logs, no way to end it but a signal.

use aws_lc_rs::digest;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rdkafka::ClientConfig;
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde::Deserialize;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;

/// What it is told.
#[derive(Debug, clap::Args)]
pub(crate) struct Floor {
    #[arg(long)]
    pub(crate) listen: SocketAddr,
    #[arg(long)]
    pub(crate) kafka: String,
    #[arg(long)]
    pub(crate) topic: String,
    /// The point of the only key that it knows: 04, x, y in base64url.
    #[arg(long)]
    pub(crate) key: String,
}

struct Server {
    key: UnparsedPublicKey<Vec<u8>>,
    producer: FutureProducer,
    topic: String,
    served: AtomicU64,
}

#[derive(Deserialize)]
struct Claims {
    request_body_sha256: String,
}

impl Floor {
    pub(crate) async fn run(&self) {
        // As Rekey's own are delivered.
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.kafka).set("acks", "all").set("enable.idempotence", "true");
        let producer = config.set("linger.ms", "5").set("message.timeout.ms", "4000").create().unwrap();
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, BASE64.decode(&self.key).unwrap());
        let server = Arc::new(Server { key, producer, topic: self.topic.clone(), served: AtomicU64::new(0) });
        let listener = TcpListener::bind(self.listen).await.unwrap();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            drop(stream.set_nodelay(true));
            let server = server.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request| {
                    let server = server.clone();
                    async move { Ok::<_, Infallible>(server.answer(request).await) }
                });
                // Who goes away is no business of the floor's.
                drop(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
            });
        }
    }
}

impl Server {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let status = self.take(request).await.err().unwrap_or(StatusCode::OK);
        let mut response = Response::new(Full::new(Bytes::from_static(b"\n")));
        *response.status_mut() = status;
        response
    }

    async fn take(&self, request: Request<Incoming>) -> Result<(), StatusCode> {
        let refused = || StatusCode::UNAUTHORIZED;
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map_err(|_| StatusCode::BAD_REQUEST)?.to_bytes();
        let token = parts.headers.get("plaid-verification").and_then(|v| v.to_str().ok()).ok_or_else(refused)?;
        let (signed, signature) = token.rsplit_once('.').ok_or_else(refused)?;
        let signature = BASE64.decode(signature).map_err(|_| refused())?;
        self.key.verify(signed.as_bytes(), &signature).map_err(|_| refused())?;
        let (_, claims) = signed.split_once('.').ok_or_else(refused)?;
        let claims = BASE64.decode(claims).map_err(|_| refused())?;
        let claims: Claims = serde_json::from_slice(&claims).map_err(|_| refused())?;
        let hash = digest::digest(&digest::SHA256, &body);
        if !same(hash.as_ref(), &claims.request_body_sha256) {
            return Err(refused());
        }
        // Over as many keys as there are Items in the load, so that its records spread over the partitions alike.
        let key = self.served.fetch_add(1, Ordering::Relaxed) % super::receiver::ITEMS as u64;
        let key = key.to_be_bytes();
        let record = FutureRecord::to(&self.topic).key(&key[..]).payload(&body[..]);
        let sent = self.producer.send(record, Duration::ZERO).await;
        sent.map(drop).map_err(|_| StatusCode::SERVICE_UNAVAILABLE)
    }
}

fn same(hash: &[u8], hex: &str) -> bool {
    let digit = |b: u8| char::from(b).to_digit(16);
    let byte = |pair: &[u8]| Some(digit(pair[0])? * 16 + digit(pair[1])?);
    hex.len() == 2 * hash.len() && hex.as_bytes().chunks(2).zip(hash).all(|(pair, b)| byte(pair) == Some(u32::from(*b)))
}
