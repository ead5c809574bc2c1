//! Sends spans to a collector, by OTLP over HTTP. They wait in a queue that a thread of the SDK
//! empties. Spans without room there are dropped, and no request waits.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use log::{info, warn};
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{
    Span, SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId,
    TraceState, Tracer as _, TracerProvider,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::hyper::HyperClient;
use opentelemetry_http::{HeaderExtractor, HttpClient, HttpError};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider};
use tokio::runtime::Handle;
use uuid::Uuid;

use super::TraceContext;
use crate::config;
use crate::forward::Trust;
use crate::observe::entry::{Entry, Kind};

/// How long a collector may take for one batch.
const EXPORT: Duration = Duration::from_secs(10);

/// How long an ending process waits for the collector.
const FINISH: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub struct Tracer {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    /// The share of traces that are exported, if prusik decides.
    sample: f64,
}

impl Tracer {
    /// Must be called inside the runtime that does the exports.
    pub fn new(config: &config::Tracing) -> Option<Self> {
        let client = Client {
            client: HyperClient::with_default_connector(EXPORT, None),
            runtime: Handle::current(),
            endpoint: config.endpoint.clone(),
            fails: AtomicBool::new(false),
        };
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(client)
            .with_protocol(Protocol::HttpJson)
            .with_endpoint(&config.endpoint)
            .with_timeout(EXPORT)
            .build();
        let exporter = match exporter {
            Ok(exporter) => exporter,
            Err(error) => {
                warn!(
                    "tracing: {}: {error}; no spans are exported",
                    config.endpoint
                );
                return None;
            }
        };
        let resource = Resource::builder().with_service_name(config.service.clone());
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            // The spans that come here are already sampled, because the decision was sent to the
            // server.
            .with_sampler(Sampler::AlwaysOn)
            .with_resource(resource.build())
            .build();
        Some(Self {
            tracer: provider.tracer("prusik"),
            provider,
            sample: config.sample,
        })
    }

    /// The position of a new request in a trace. Anybody may say to which trace it belongs, but
    /// only a trusted proxy may say that it is exported.
    pub fn begin(&self, headers: &HeaderMap, trust: Trust) -> TraceContext {
        let arrived = TraceContextPropagator::new()
            .extract_with_context(&Context::new(), &HeaderExtractor(headers));
        let arrived = arrived.span().span_context().clone();
        let sampled = match arrived.is_valid() && trust == Trust::Trusted {
            true => arrived.is_sampled(),
            false => rand::random::<f64>() < self.sample,
        };
        // Zero means none.
        let span = rand::random::<u64>().max(1);
        if !arrived.is_valid() {
            return TraceContext {
                trace: Uuid::from_u128(rand::random::<u128>().max(1)),
                span,
                parent: None,
                sampled,
            };
        }
        TraceContext {
            trace: Uuid::from_bytes(arrived.trace_id().to_bytes()),
            span,
            parent: Some(u64::from_be_bytes(arrived.span_id().to_bytes())),
            sampled,
        }
    }

    /// Exports what waits, and nothing after that. Blocks for at most a second.
    pub fn finish(&self) {
        // A collector that does not answer was already reported.
        let _ = self.provider.shutdown_with_timeout(FINISH);
    }

    pub fn record(&self, entry: &Entry<'_>, context: TraceContext) {
        if !context.sampled {
            return;
        }
        let route = entry.route.unwrap_or("(no route)");
        let (name, kind) = match entry.kind {
            Kind::Request => (format!("{} {route}", entry.method), SpanKind::Server),
            Kind::SessionOpen => (format!("handshake {route}"), SpanKind::Server),
            Kind::SessionClose => (format!("session {route}"), SpanKind::Internal),
        };
        let end = SystemTime::now();
        let start = end - Duration::from_secs_f64(entry.duration_ms / 1000.0);
        let trace = TraceId::from_bytes(context.trace.into_bytes());
        let mut builder = SpanBuilder::from_name(name)
            .with_kind(kind)
            .with_trace_id(trace)
            .with_start_time(start)
            .with_attributes(attributes(entry));
        if entry.status >= 500 {
            builder =
                builder.with_status(Status::error(entry.error.unwrap_or_default().to_owned()));
        }
        let parent = match entry.kind {
            // The session's span is below that of its handshake.
            Kind::SessionClose => Some(context.span),
            Kind::Request | Kind::SessionOpen => {
                builder = builder.with_span_id(SpanId::from(context.span));
                context.parent
            }
        };
        let above = match parent {
            None => Context::new(),
            Some(parent) => Context::new().with_remote_span_context(SpanContext::new(
                trace,
                SpanId::from(parent),
                TraceFlags::SAMPLED,
                true,
                TraceState::default(),
            )),
        };
        let mut span = self.tracer.build_with_context(builder, &above);
        span.end_with_timestamp(end);
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        self.finish();
    }
}

/// OpenTelemetry's names are used where they exist. No query, because it may contain secrets.
fn attributes(entry: &Entry<'_>) -> Vec<KeyValue> {
    let path = entry.path.split('?').next().unwrap_or_default();
    let mut attributes = vec![
        KeyValue::new("prusik.id", entry.id.to_string()),
        KeyValue::new("prusik.listener", entry.listener.to_owned()),
        KeyValue::new("client.address", entry.client.clone()),
        KeyValue::new("http.request.method", entry.method.to_owned()),
        KeyValue::new("url.path", path.to_owned()),
        KeyValue::new("http.response.status_code", i64::from(entry.status)),
    ];
    let words = [
        ("http.route", entry.route),
        ("prusik.upstream", entry.upstream),
        ("server.address", entry.host),
        ("prusik.server", entry.server.as_deref()),
        ("user_agent.original", entry.user_agent),
        ("prusik.closed_by", entry.closed_by),
        ("prusik.error", entry.error),
    ];
    for (name, word) in words {
        if let Some(word) = word {
            attributes.push(KeyValue::new(name, word.to_owned()));
        }
    }
    let is_over = entry.kind != Kind::SessionOpen;
    let numbers = [
        ("prusik.attempts", Some(entry.attempts as u64)),
        ("prusik.bytes_in", Some(entry.bytes_in).filter(|_| is_over)),
        (
            "prusik.bytes_out",
            Some(entry.bytes_out).filter(|_| is_over),
        ),
        ("prusik.messages_in", entry.messages_in),
        ("prusik.messages_out", entry.messages_out),
        ("prusik.close_code", entry.close_code.map(u64::from)),
    ];
    for (name, number) in numbers {
        if let Some(number) = number {
            attributes.push(KeyValue::new(
                name,
                i64::try_from(number).unwrap_or(i64::MAX),
            ));
        }
    }
    attributes
}

/// The SDK's thread has no runtime, so the exports run on ours. Logs when exports begin to fail,
/// and when they succeed again.
#[derive(Debug)]
struct Client {
    client: HyperClient,
    runtime: Handle,
    endpoint: String,
    fails: AtomicBool,
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let client = self.client.clone();
        let sending = self
            .runtime
            .spawn(async move { client.send_bytes(request).await });
        let answer = match sending.await {
            Ok(answer) => answer,
            Err(stopped) => Err(stopped.into()),
        };
        let fault = match &answer {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(format!("it answered {}", answer.status())),
            Err(error) => Some(error.to_string()),
        };
        match (&fault, self.fails.swap(fault.is_some(), Relaxed)) {
            (Some(fault), false) => warn!("tracing: spans do not reach {}: {fault}", self.endpoint),
            (None, true) => info!("tracing: spans reach {} again", self.endpoint),
            _ => {}
        }
        answer
    }
}
