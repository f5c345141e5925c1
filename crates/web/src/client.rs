//! One outgoing JSON client for both providers: a deadline, a bounded answer, and the one question that matters when no
//! answer came: could the call have had an effect?

use domain::{Answered, Endpoint, Provider, metric};
use parking_lot::Mutex;
use reqwest::{RequestBuilder, StatusCode, header};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Answers larger than this are not read to their end: no provider answer we know comes near.
const MAX_ANSWER: usize = 8 * 1024 * 1024;

/// How patiently a provider is called.
#[derive(Debug, Clone)]
pub struct ClientSettings {
    pub provider: Provider,
    /// From sending the request to having read the answer.
    pub timeout: Duration,
    pub connect_timeout: Duration,
    /// Certificates of authorities (PEM) that are trusted besides the system's.
    pub extra_roots: String,
}

/// A status and what came with it.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub retry_after: Option<Duration>,
    pub body: Vec<u8>,
}

/// The longest that a provider's own rate headers make this process wait.
const MAX_REST: Duration = Duration::from_secs(5);

/// No answer came.
#[derive(Debug, thiserror::Error)]
#[error("no answer: {what}")]
pub struct Unanswered {
    what: &'static str,
    /// Whether the request may have reached the provider. If not, it certainly had no effect.
    pub sent: bool,
    #[source]
    source: Option<reqwest::Error>,
}

/// Sends requests to one provider.
#[derive(Debug)]
pub struct Client {
    http: reqwest::Client,
    provider: Provider,
    timeout: Duration,
    /// The provider said that its bucket is empty until then.
    rest_until: Mutex<Option<Instant>>,
    /// Calls in a row that were not answered, or only by a failing server.
    dark: AtomicU32,
    /// When a call of each endpoint succeeded last.
    ok_at: Mutex<HashMap<Endpoint, Instant>>,
}

impl Client {
    /// Err: roots that are no certificates.
    pub fn new(settings: &ClientSettings) -> Result<Self, reqwest::Error> {
        let roots = reqwest::Certificate::from_pem_bundle(settings.extra_roots.as_bytes())?;
        let http = outgoing()
            .tls_certs_merge(roots)
            .tls_info(true)
            .timeout(settings.timeout)
            .connect_timeout(settings.connect_timeout)
            .user_agent(concat!("rekey/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self {
            http,
            provider: settings.provider,
            timeout: settings.timeout,
            rest_until: Mutex::default(),
            dark: AtomicU32::new(0),
            ok_at: Mutex::default(),
        })
    }

    /// A POST that is not sent yet.
    pub fn post(&self, url: &str) -> RequestBuilder {
        self.http.post(url)
    }
    /// A PUT that is not sent yet.
    pub fn put(&self, url: &str) -> RequestBuilder {
        self.http.put(url)
    }
    /// A GET that is not sent yet.
    pub fn get(&self, url: &str) -> RequestBuilder {
        self.http.get(url)
    }

    /// Longest time from sending a request until [`Client::send`] returns.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Whether this many calls in a row found nobody at home; it then counts from the beginning.
    pub fn is_dark(&self, calls: u32) -> bool {
        let enough = |dark: u32| (dark >= calls.max(1)).then_some(0);
        self.dark.fetch_update(Ordering::Relaxed, Ordering::Relaxed, enough).is_ok()
    }

    /// Whether a call of this endpoint succeeded within that time, and since [`Client::forget_successes`].
    pub fn has_succeeded(&self, endpoint: Endpoint, within: Duration) -> bool {
        let ok_at = self.ok_at.lock();
        ok_at.get(&endpoint).is_some_and(|at| at.elapsed() < within)
    }

    /// The provider is paused: what succeeded before says nothing any more.
    pub fn forget_successes(&self) {
        self.ok_at.lock().clear();
    }

    /// Notes what became of a call that began then.
    pub fn count(&self, endpoint: Endpoint, answered: Answered, began: Instant) {
        if answered == Answered::Ok {
            self.ok_at.lock().insert(endpoint, Instant::now());
        }
        let (provider, endpoint, result) = (self.provider.as_str(), endpoint.as_str(), answered.as_str());
        metrics::counter!(metric::PROVIDER_CALLS, "provider" => provider, "endpoint" => endpoint, "result" => result)
            .increment(1);
        metrics::histogram!(metric::PROVIDER_CALL, "provider" => provider, "endpoint" => endpoint)
            .record(began.elapsed().as_secs_f64());
    }

    /// Waits while the provider's own headers ask for it, at most one timeout long, then sends.
    pub async fn send(&self, request: RequestBuilder) -> Result<Answer, Unanswered> {
        self.send_within(request, None).await
    }

    /// The same, but nothing is sent unless a whole timeout is left before `end`: the lease that permits the call must
    /// outlive it.
    pub async fn send_within(&self, request: RequestBuilder, end: Option<Instant>) -> Result<Answer, Unanswered> {
        let outcome = self.try_send(request, end).await;
        match &outcome {
            // It never left: that says nothing about the provider.
            Err(error) if error.source.is_none() && !error.sent => {}
            Ok(answer) if answer.status.as_u16() < 500 => self.dark.store(0, Ordering::Relaxed),
            Ok(_) | Err(_) => {
                self.dark.fetch_add(1, Ordering::Relaxed);
            }
        }
        outcome
    }

    async fn try_send(&self, request: RequestBuilder, end: Option<Instant>) -> Result<Answer, Unanswered> {
        let unanswered = |what, sent, source| Unanswered { what, sent, source };
        let resting = *self.rest_until.lock();
        if let Some(until) = resting {
            if until > Instant::now() + self.timeout {
                return Err(unanswered("the provider's rate headers ask to wait", false, None));
            }
            tokio::time::sleep_until(until.into()).await;
        }
        if end.is_some_and(|end| Instant::now() + self.timeout >= end) {
            return Err(unanswered("the lease would not outlive the call", false, None));
        }
        let response = request.send().await.map_err(|e| {
            let what = match () {
                () if e.is_timeout() => "timed out",
                () if is_distrust(&e) => "its certificate is not trusted (tls.ca_file adds authorities)",
                () => "the connection failed",
            };
            let sent = !e.is_connect() && !e.is_builder();
            unanswered(what, sent, Some(e.without_url()))
        })?;
        self.note_certificate(&response);
        let status = response.status();
        let retry_after = retry_after(response.headers(), SystemTime::now());
        if let Some(rest) = rest(response.headers(), SystemTime::now()) {
            *self.rest_until.lock() = Some(Instant::now() + rest);
        }
        let body = read_bounded(response).await.map_err(|e| unanswered("the answer broke off", true, e))?;
        Ok(Answer { status, retry_after, body })
    }

    fn note_certificate(&self, response: &reqwest::Response) {
        let shown = response.extensions().get::<reqwest::tls::TlsInfo>().and_then(|tls| tls.peer_certificate());
        if let Some(seconds) = shown.and_then(|certificate| good_for(certificate, SystemTime::now())) {
            metrics::gauge!(metric::CERTIFICATE_EXPIRES, "peer" => self.provider.as_str()).set(seconds);
        }
    }
}

/// The base of every client that leaves this process: no redirects, because one would carry tokens to a place nobody
/// configured, and a proxy from the environment for `https` alone: to one for `http` and this machine's own addresses our
/// tokens would be sent in clear.
pub fn outgoing() -> reqwest::ClientBuilder {
    let builder = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy();
    let named = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"].iter().find_map(|n| std::env::var(n).ok());
    let Some(proxy) = named.filter(|p| !p.is_empty()) else { return builder };
    match reqwest::Proxy::https(&proxy) {
        Ok(proxy) => builder.proxy(proxy.no_proxy(reqwest::NoProxy::from_env())),
        Err(_) => {
            tracing::warn!("HTTPS_PROXY is no proxy's URL and is not used");
            builder
        }
    }
}

/// How long a certificate is still good.
fn good_for(certificate: &[u8], now: SystemTime) -> Option<f64> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let now = now.duration_since(UNIX_EPOCH).ok()?.as_secs_f64();
    Some(certificate.validity().not_after.timestamp() as f64 - now)
}

fn is_distrust(error: &reqwest::Error) -> bool {
    let mut causes = std::iter::successors(std::error::Error::source(error), |e| e.source());
    causes.any(|cause| cause.to_string().contains("invalid peer certificate"))
}

async fn read_bounded(mut response: reqwest::Response) -> Result<Vec<u8>, Option<reqwest::Error>> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|e| Some(e.without_url()))? {
        if body.len() + chunk.len() > MAX_ANSWER {
            return Err(None);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// Layer's `X-RateLimit-Remaining` and `-Reset` (Unix seconds), <https://docs.layerfi.com/api-details/rate-limiting>: an
/// empty bucket is waited for instead of being answered 429.
fn rest(headers: &header::HeaderMap, now: SystemTime) -> Option<Duration> {
    let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse::<u64>().ok();
    if number("x-ratelimit-remaining")? > 0 {
        return None;
    }
    let reset = UNIX_EPOCH.checked_add(Duration::from_secs(number("x-ratelimit-reset")?))?;
    // A reset in the past, by our clock or theirs, asks for nothing.
    reset.duration_since(now).ok().map(|wait| wait.min(MAX_REST))
}

/// A day is longer than any provider means, and keeps the arithmetic sane.
const LONGEST: f64 = 86_400.0;

/// `Retry-After`, in seconds or as a date: <https://www.rfc-editor.org/rfc/rfc9110#section-10.2.3>.
fn retry_after(headers: &header::HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    let seconds = match text.parse::<f64>() {
        Ok(seconds) => seconds,
        Err(_) => {
            let until = jiff::fmt::rfc2822::parse(text).map(|at| at.timestamp()).or_else(|_| text.parse()).ok()?;
            let now = now.duration_since(UNIX_EPOCH).ok()?.as_secs_f64();
            until.as_millisecond() as f64 / 1000.0 - now
        }
    };
    seconds.is_finite().then(|| Duration::from_secs_f64(seconds.clamp(0.0, LONGEST)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_taken_in_each_of_its_forms() {
        // Sun, 29 Nov 2026 05:00:00 GMT
        let now = UNIX_EPOCH + Duration::from_secs(1_795_928_400);
        let table = [
            ("5", Some(5.0)),
            ("0.5", Some(0.5)),
            ("-3", Some(0.0)),
            ("1e300", Some(LONGEST)),
            ("Sun, 29 Nov 2026 05:00:05 GMT", Some(5.0)),
            ("2026-11-29T05:00:07Z", Some(7.0)),
            ("Sun, 29 Nov 2026 04:00:00 GMT", Some(0.0)),
            ("soon", None),
            ("NaN", None),
        ];
        for (text, expected) in table {
            let mut headers = header::HeaderMap::new();
            headers.insert(header::RETRY_AFTER, text.parse().unwrap());
            assert_eq!(retry_after(&headers, now).map(|d| d.as_secs_f64()), expected, "{text}");
        }
    }

    #[test]
    fn an_empty_bucket_is_waited_for_and_nonsense_is_not() {
        let now = UNIX_EPOCH + Duration::from_secs(1_000);
        let headers = |remaining: &str, reset: &str| {
            let mut map = header::HeaderMap::new();
            map.insert("x-ratelimit-remaining", remaining.parse().unwrap());
            map.insert("x-ratelimit-reset", reset.parse().unwrap());
            map
        };
        assert_eq!(rest(&headers("0", "1002"), now), Some(Duration::from_secs(2)));
        assert_eq!(rest(&headers("0", "999999"), now), Some(MAX_REST));
        for (remaining, reset) in [("1", "1002"), ("0", "900"), ("0", "soon"), ("-", "1002")] {
            assert_eq!(rest(&headers(remaining, reset), now), None, "{remaining} {reset}");
        }
        assert_eq!(rest(&header::HeaderMap::new(), now), None);
    }
}
