//! OTLP over HTTP: batches from a bounded queue, on a thread of their own. What does not fit or is not taken is dropped:
//! traces never slow the work down.

use crate::{DISCARDED, is_ours};
use async_trait::async_trait;
use domain::fault::chain;
use domain::setting::Ratio;
use opentelemetry::trace::TracerProvider;
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{ExporterBuildError, Protocol, RetryPolicy, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider, Span, SpanData, SpanProcessor,
};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use schemars::JsonSchema;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::dynamic_filter_fn;
use tracing_subscriber::registry::LookupSpan;

/// Spans that may wait. A few megabytes, and seconds of the busiest receiver.
const QUEUE: usize = 8192;
/// How long a span waits for others to share its request.
const LINGER: Duration = Duration::from_secs(1);
/// For the collector to answer.
const TIMEOUT: Duration = Duration::from_secs(3);
/// For what is left when the process stops: a collector that hangs is told of, and costs no more of the grace period.
const STOP: Duration = Duration::from_secs(4);

/// The settings of the section `trace`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct Settings {
    /// `/v1/traces` is added. Empty: nothing is exported.
    #[schemars(regex(pattern = r"^(https?://.+)?$"))]
    pub endpoint: String,
    /// Share of the traces begun here that is exported.
    #[serde(with = "Ratio")]
    pub sample: f64,
    /// For the collector: `name=value`, several with commas between, as OTEL_EXPORTER_OTLP_HEADERS has them.
    #[schemars(skip)]
    pub headers: SecretString,
}

impl Settings {
    /// None: they can't be read.
    pub fn headers(&self) -> Option<HeaderMap> {
        let mut headers = HeaderMap::new();
        for pair in self.headers.expose_secret().split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let (name, value) = pair.split_once('=')?;
            let mut value = HeaderValue::from_str(value.trim()).ok()?;
            // So that nothing prints it.
            value.set_sensitive(true);
            headers.insert(HeaderName::from_str(name.trim()).ok()?, value);
        }
        Some(headers)
    }
}

/// Where traces go, and which of them.
#[derive(Debug, Clone)]
pub struct Target {
    /// `/v1/traces` is added.
    pub endpoint: String,
    /// Share of the traces begun here that is exported; one that was begun elsewhere is exported if it was there.
    pub sample: f64,
    /// For the collector; secret values are marked as such.
    pub headers: HeaderMap,
    /// Certificates of authorities (PEM) that are trusted besides the system's.
    pub extra_roots: String,
}

impl Target {
    fn url(&self) -> String {
        format!("{}/v1/traces", self.endpoint.trim_end_matches('/'))
    }
}

/// The collector does not take what is sent.
#[derive(Debug, thiserror::Error)]
pub enum NotTaken {
    #[error("the collector did not answer")]
    Unanswered(#[from] reqwest::Error),
    #[error("the collector answered {0}")]
    Refused(u16),
}

/// Sends a request with no spans in it, which is an empty one (<https://opentelemetry.io/docs/specs/otlp/#otlphttp-request>).
pub async fn probe(target: &Target) -> Result<(), NotTaken> {
    let collector = Collector::new(target)?;
    let request = collector.http.post(target.url()).header("content-type", "application/x-protobuf");
    let status = request.send().await.map_err(reqwest::Error::without_url)?.status();
    if status.is_success() { Ok(()) } else { Err(NotTaken::Refused(status.as_u16())) }
}

/// Traces can't be exported at all.
#[derive(Debug, thiserror::Error)]
pub enum NotStarted {
    #[error("the HTTP client for traces can't be made")]
    Client(#[from] reqwest::Error),
    #[error("the exporter of traces can't be made")]
    Exporter(#[from] ExporterBuildError),
}

/// Exports this process's spans.
#[derive(Debug)]
pub struct Exporter {
    provider: SdkTracerProvider,
}

impl Exporter {
    /// Needs a runtime to send on. `service` is what traces call this process.
    pub fn new(target: &Target, service: &'static str) -> Result<Self, NotStarted> {
        let exporter = SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(target.url())
            .with_http_client(Collector::new(target)?)
            // They sleep on the exporter's thread while the queue overflows, and would keep a process from stopping.
            .with_retry_policy(RetryPolicy::disabled())
            .build()?;
        let bounds = BatchConfigBuilder::default().with_max_queue_size(QUEUE).with_scheduled_delay(LINGER).build();
        // OTEL_RESOURCE_ATTRIBUTES adds to these, such as the name of the pod.
        let resource = Resource::builder()
            .with_service_name(service)
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        let provider = SdkTracerProvider::builder()
            .with_span_processor(Sieve(BatchSpanProcessor::builder(exporter).with_batch_config(bounds).build()))
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(target.sample))))
            .with_resource(resource)
            .build();
        Ok(Self { provider })
    }

    /// What hands spans over to be exported. Lines of the log stay in the log, which carries the trace ids.
    pub fn layer<S>(&self) -> Box<dyn Layer<S> + Send + Sync>
    where
        S: tracing::Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
    {
        crate::EXPORTED.store(true, Ordering::Relaxed);
        tracing_opentelemetry::layer()
            .with_tracer(self.provider.tracer("rekey"))
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            .with_context_activation(false)
            // Dynamic, so that it is asked about each span: an answer that is kept for a callsite is overwritten by whoever
            // asks whether a log line is wanted and then writes none, as sqlx does after each statement, and the next span
            // is lost (https://github.com/tokio-rs/tracing/issues/2519).
            .with_filter(dynamic_filter_fn(|metadata, _| is_ours(metadata)))
            .boxed()
    }

    /// Exports what is left, within a bound.
    pub async fn stop(self) {
        let ended = tokio::task::spawn_blocking(move || self.provider.shutdown_with_timeout(STOP)).await;
        if let Ok(Err(error)) = ended {
            // Why the collector did not take them was told when it began.
            tracing::debug!(%error, "the last spans were not exported");
        }
    }
}

/// Keeps discarded spans out of the queue, so that whoever floods us pushes nobody else's spans out of it.
#[derive(Debug)]
struct Sieve(BatchSpanProcessor);

impl SpanProcessor for Sieve {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.0.on_start(span, context);
    }
    fn on_end(&self, span: SpanData) {
        if !span.attributes.iter().any(|a| a.key.as_str() == DISCARDED) {
            self.0.on_end(span);
        }
    }
    fn force_flush(&self) -> OTelSdkResult {
        self.0.force_flush()
    }
    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.0.shutdown_with_timeout(timeout)
    }
    fn set_resource(&mut self, resource: &Resource) {
        self.0.set_resource(resource);
    }
}

/// Sends to the collector, and says once that it does not take what is sent.
#[derive(Debug)]
struct Collector {
    http: reqwest::Client,
    /// Requests are made here: the exporter's thread has no reactor.
    runtime: tokio::runtime::Handle,
    away: AtomicBool,
}

impl Collector {
    fn new(target: &Target) -> Result<Self, reqwest::Error> {
        let roots = reqwest::Certificate::from_pem_bundle(target.extra_roots.as_bytes())?;
        let http = reqwest::Client::builder()
            .tls_certs_merge(roots)
            .default_headers(target.headers.clone())
            .timeout(TIMEOUT)
            // A redirect would carry the headers to a place nobody configured.
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("rekey/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self { http, runtime: tokio::runtime::Handle::current(), away: AtomicBool::new(false) })
    }

    fn told(&self, fault: Option<&str>) {
        match (fault, self.away.swap(fault.is_some(), Ordering::Relaxed)) {
            (Some(error), false) => {
                tracing::warn!(error, "traces can't be exported (trace.endpoint); they are dropped until they can");
            }
            (None, true) => tracing::info!("traces are exported again"),
            _ => {}
        }
    }
}

#[async_trait]
impl HttpClient for Collector {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let request = reqwest::Request::try_from(request)?;
        let http = self.http.clone();
        let answer = self.runtime.spawn(async move { http.execute(request).await }).await?;
        let answer = answer.map_err(reqwest::Error::without_url).inspect_err(|e| self.told(Some(&chain(e))))?;
        let status = answer.status();
        self.told((!status.is_success()).then_some(status.as_str()));
        // The body is not read: it says how many spans were refused, and nothing would be done about it.
        Ok(Response::builder().status(status).body(Bytes::new())?)
    }
}
