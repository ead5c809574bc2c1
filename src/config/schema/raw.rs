//! The file's own shape, as serde decodes it and as the JSON Schema describes it.
//!
//! Nothing is checked here beyond the shape, and every key is optional, also those that are
//! required: `resolve` says better than serde what is missing. The doc comments become the
//! descriptions in the schema.

mod entries;
mod limits;
mod listener;
mod route;
mod server;
mod upstream;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::schema::units::{OffOr, Ordered, Section, word};
pub use entries::{RetryCase, ServerEntry, Statuses};
pub use limits::{AcceptProxy, Limits, SendProxy};
pub use listener::{CertificatePair, Listener, ListenerTls};
pub use route::{
    Forwarded, HeaderRules, Headers, Match, Redirect, RequestRate, Respond, Rewrite, Route, Stream,
    Timeouts, WebSocket,
};
pub use server::{AccessLog, Admin, Drain, LogFormat, Server, TlsSessions, Tracing, Tunnel};
pub use upstream::{
    Balance, Discover, Eject, HealthCheck, HealthCheckKind, OnGone, ServerTable, Start, Upstream,
    UpstreamTls,
};

/// The configuration of prusik, a WebSocket-first reverse proxy and load balancer.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(title = "prusik configuration", extend("patternProperties" = { "^x-": true }))]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Settings of the process as a whole.
    pub server: Option<Section<Server>>,
    /// The operator's API. Default: none.
    pub admin: Option<OffOr<Admin>>,
    /// A line for each request and session, or `off`. Default: JSON, on stdout.
    pub access_log: Option<OffOr<AccessLog>>,
    /// Spans of requests, handshakes and sessions for a collector of OpenTelemetry. Needs a binary
    /// that was built with `--features otlp`. Default: none; a `traceparent` passes unchanged.
    pub tracing: Option<OffOr<Tracing>>,
    /// Networks (`10.0.0.0/8`) or addresses whose forwarding headers, and PROXY headers, are
    /// believed. Default: none.
    /// Who connects to a unix socket is always believed.
    #[schemars(extend("examples" = [["127.0.0.0/8", "10.0.0.0/8"]]))]
    pub trusted_proxies: Option<Vec<String>>,
    /// Which of the headers of trusted proxies says who the client is. Name the one that they all
    /// write: what clients send in the other neither counts nor passes.
    #[serde(default, deserialize_with = "word")]
    #[schemars(extend("default" = "either"))]
    pub client_address: Option<ClientField>,
    /// Where clients connect. At least one.
    #[schemars(required, length(min = 1))]
    pub listeners: Option<Vec<Section<Listener>>>,
    /// Groups of servers, by name.
    pub upstreams: Option<Ordered<Section<Upstream>>>,
    /// What is done with a request. The first match serves; none: 404.
    pub routes: Option<Vec<Section<Route>>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClientField {
    /// `X-Forwarded-For`, and where there is none `Forwarded`.
    Either,
    /// `X-Forwarded-For` alone.
    XForwardedFor,
    /// `Forwarded` (RFC 7239) alone.
    Forwarded,
}
