//! Distributed tracing: the trace of a request (W3C Trace Context), and its spans for a collector
//! of OpenTelemetry, if the binary is built with the feature `otlp`.
//!
//! A span is made from a line of the access log, at the same moment: for a request at its end, for
//! a handshake at its 101, for a session at its end, even if it has moved between processes.

#[cfg(not(feature = "otlp"))]
mod none;
#[cfg(feature = "otlp")]
mod otlp;

use http::{HeaderName, HeaderValue};
use serde::Serializer;
use uuid::Uuid;

#[cfg(not(feature = "otlp"))]
pub use none::Tracer;
#[cfg(feature = "otlp")]
pub use otlp::Tracer;

pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The span of a request or a handshake, and its position in a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// Sixteen bytes, not in a form of RFC 9562.
    pub trace: Uuid,
    pub span: u64,
    /// The parent span. `None`: the trace begins here.
    pub parent: Option<u64>,
    /// Whether spans of this trace are exported.
    pub sampled: bool,
}

impl TraceContext {
    /// The `traceparent` for the server (W3C Trace Context section 3.2).
    pub fn to_header(self) -> Option<HeaderValue> {
        let (trace, span) = (self.trace.simple(), self.span);
        let flags = u8::from(self.sampled);
        HeaderValue::try_from(format!("00-{trace}-{span:016x}-{flags:02x}")).ok()
    }
}

/// For the access log, in the form by which a trace is found.
pub fn as_trace_id<S: Serializer>(
    context: &Option<TraceContext>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match context {
        Some(context) => serializer.collect_str(&context.trace.simple()),
        None => serializer.serialize_none(),
    }
}
