//! Load over kept connections: requests whose bytes are made beforehand, so that the machine is busy with the server.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::MissedTickBehavior;

/// How it was answered.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    pub(crate) by_status: BTreeMap<u16, u64>,
    /// Milliseconds, of each that was answered.
    pub(crate) took: Vec<f64>,
    pub(crate) lasted: Duration,
}

impl Answers {
    pub(crate) fn count(&self) -> u64 {
        self.by_status.values().sum()
    }
    pub(crate) fn rate(&self) -> f64 {
        self.count() as f64 / self.lasted.as_secs_f64()
    }
    pub(crate) fn percentile(&self, percent: usize) -> f64 {
        let mut sorted = self.took.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
    }
    /// Whether every answer had this status.
    pub(crate) fn are_all(&self, status: u16) -> bool {
        self.by_status.keys().all(|s| *s == status)
    }
}

/// What is sent: to whom, over how many connections, for how long, how many a second in all (None: as fast as they are answered).
#[derive(Debug, Clone)]
pub(crate) struct Load {
    pub(crate) to: SocketAddr,
    pub(crate) requests: Arc<Vec<Vec<u8>>>,
    pub(crate) connections: usize,
    pub(crate) lasts: Duration,
    pub(crate) per_second: Option<f64>,
}

pub(crate) fn request(header: Option<&str>, body: &[u8]) -> Vec<u8> {
    let header = header.map(|h| format!("plaid-verification: {h}\r\n")).unwrap_or_default();
    let head = format!(
        "POST /webhooks/plaid HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n{header}content-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

impl Load {
    pub(crate) async fn run(&self) -> Answers {
        let began = Instant::now();
        let callers: Vec<_> = (0..self.connections).map(|n| tokio::spawn(self.clone().caller(n))).collect();
        let mut all = Answers::default();
        for caller in callers {
            let one = caller.await.unwrap();
            for (status, n) in one.by_status {
                *all.by_status.entry(status).or_default() += n;
            }
            all.took.extend(one.took);
        }
        all.lasted = began.elapsed();
        all
    }

    async fn caller(self, number: usize) -> Answers {
        let began = Instant::now();
        let mut answers = Answers::default();
        let mut connection: Option<TcpStream> = None;
        let mut pace = self.per_second.map(|rate| {
            let pause = Duration::from_secs_f64(self.connections as f64 / rate);
            // Not all at the same moment.
            let first = tokio::time::Instant::now() + pause.mul_f64(number as f64 / self.connections as f64);
            let mut pace = tokio::time::interval_at(first, pause);
            pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
            pace
        });
        for request in self.requests.iter().cycle().skip(number * 7) {
            // Timed from when it should have been sent: a server that stalls delays the next ones as well.
            let due = match &mut pace {
                Some(pace) => pace.tick().await.into_std(),
                None => Instant::now(),
            };
            if began.elapsed() >= self.lasts {
                break;
            }
            let stream = match connection.take() {
                Some(stream) => stream,
                None => match TcpStream::connect(self.to).await {
                    Ok(stream) => {
                        stream.set_nodelay(true).unwrap();
                        stream
                    }
                    Err(_) => continue,
                },
            };
            let asked = tokio::time::timeout(Duration::from_secs(20), ask(stream, request)).await;
            // 0: no answer.
            let (status, kept) = asked.ok().flatten().unwrap_or((0, None));
            connection = kept;
            *answers.by_status.entry(status).or_default() += 1;
            answers.took.push(due.elapsed().as_secs_f64() * 1e3);
        }
        answers
    }
}

/// The status, and the connection if it may be used again. None: no answer.
async fn ask(mut stream: TcpStream, request: &[u8]) -> Option<(u16, Option<TcpStream>)> {
    stream.write_all(request).await.ok()?;
    let (mut read, mut have) = ([0; 4096], 0);
    loop {
        let more = stream.read(&mut read[have..]).await.ok().filter(|n| *n > 0)?;
        have += more;
        let Some(head) = read[..have].windows(4).position(|w| w == b"\r\n\r\n") else { continue };
        let text = std::str::from_utf8(&read[..head]).ok()?.to_ascii_lowercase();
        let status = text.split(' ').nth(1)?.parse().ok()?;
        let length =
            text.lines().find_map(|l| l.strip_prefix("content-length:")).map_or(Some(0), |l| l.trim().parse().ok());
        let end = head + 4 + length.unwrap_or(0);
        if have >= end.min(read.len()) {
            let kept = !text.contains("connection: close");
            return Some((status, kept.then_some(stream)));
        }
    }
}
