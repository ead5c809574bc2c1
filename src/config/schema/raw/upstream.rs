//! `upstreams`: groups of servers.

use std::num::{NonZeroU32, NonZeroUsize};

use schemars::JsonSchema;
use serde::Deserialize;

use super::{RetryCase, SendProxy, ServerEntry, Statuses};
use crate::config::schema::units::{
    OffOr, OptionalPeriod, Period, Section, Switch, switch, switch_schema, word, word_schema,
};

/// Files are PEM, and are read again at each reload.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UpstreamTls {
    /// Name that the servers are asked for and must prove. Default: that of the servers in the
    /// file, or each one's address.
    #[schemars(extend("examples" = ["chat.internal"]))]
    pub sni: Option<String>,
    /// File with the authorities that are believed. Default: the system's.
    #[schemars(extend("examples" = ["/etc/prusik/tls/ca.pem"]))]
    pub ca: Option<String>,
    /// Whether a server must prove its name. `false`: anyone may answer in its place.
    #[serde(default, deserialize_with = "switch")]
    #[schemars(schema_with = "switch_schema", extend("default" = true))]
    pub verify: Option<bool>,
    /// File with the certificate that is shown to servers which ask for one. Default: none.
    #[schemars(extend("examples" = ["/etc/prusik/tls/client.pem"]))]
    pub client_cert: Option<String>,
    /// File with its private key.
    #[schemars(extend("examples" = ["/etc/prusik/tls/client.key"]))]
    pub client_key: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Upstream {
    /// How a server is chosen for a request or session.
    #[serde(default, deserialize_with = "word")]
    #[schemars(extend("default" = "round_robin", "examples" = ["consistent_hash"]))]
    pub balance: Option<Balance>,
    /// With `consistent_hash`: the template whose value decides, such as `$arg_userId`. Requests
    /// for which it is empty are spread round robin.
    #[schemars(extend("examples" = ["$arg_userId"]))]
    pub hash_key: Option<String>,
    /// With `consistent_hash`: a server that has more than this multiple of its share of the
    /// sessions and requests gets no new keys. What the share is of, and by how many it is divided,
    /// are the servers that can be used. A key stays on its server while it has a session or
    /// request there, and for 60s after the last. Over 1. Default: no bound.
    #[schemars(extend("exclusiveMinimum" = 1))]
    #[schemars(extend("examples" = [1.25]))]
    pub load_bound: Option<f64>,
    /// The servers of the group.
    #[schemars(length(min = 1))]
    pub servers: Option<Vec<ServerEntry>>,
    /// Servers found by DNS, instead of, or beside, `servers`.
    pub discover: Option<Section<Discover>>,
    /// TLS with the servers, health checks included; `true` is `{}`. Default: plain text.
    pub tls: Option<Switch<UpstreamTls>>,
    /// The PROXY header that begins each connection to a server and says who the client is.
    /// Health checks send one that names nobody.
    #[serde(default, deserialize_with = "word")]
    #[schemars(schema_with = "word_schema::<SendProxy>", extend("default" = "off"))]
    pub proxy_protocol: Option<SendProxy>,
    /// Addresses of this machine to connect from, in turn. One has some 28,000 ports for each
    /// server. Default: the kernel's choice.
    #[schemars(length(min = 1))]
    #[schemars(extend("examples" = [["10.0.0.5", "10.0.0.6"]]))]
    pub source: Option<Vec<String>>,
    /// Checks that take a server out while it fails and bring it back. Default: none.
    pub health_check: Option<OffOr<HealthCheck>>,
    /// Takes a server out for a while when its connections fail. Default: never.
    pub eject: Option<OffOr<Eject>>,
    /// A server that comes back gets its share by and by over this time. Default: at once.
    #[schemars(extend("default" = "0s", "examples" = ["30s"]))]
    pub slow_start: Option<OptionalPeriod>,
    /// Servers tried before the client gets 502.
    #[schemars(extend("default" = 3))]
    pub attempts: Option<NonZeroUsize>,
    /// What is tried at the next server, if the method is idempotent and the client has got nothing
    /// yet: answers with these statuses, and `timeout`, an answer that does not come within
    /// `timeouts.response`. A handshake is such a request. Whatever request could not be sent is
    /// tried in any case (`connect`), and the last server's answer is the client's.
    #[schemars(length(min = 1), extend("default" = ["connect"], "examples" = [["connect", 503]]))]
    pub retry_on: Option<Vec<RetryCase>>,
    /// Idle connections to the servers that are kept. 0: none.
    #[schemars(extend("default" = 128))]
    pub keepalive: Option<usize>,
    /// How long a server may take nothing of what waits for it: then a request gets 504 (the
    /// route's `timeouts.idle` holds too), and a session ends. A reload takes in a change for new
    /// sessions.
    #[schemars(extend("default" = "60s"))]
    pub stall: Option<Period>,
    /// What becomes of the sessions of a server that fails its checks.
    #[serde(default, deserialize_with = "word")]
    #[schemars(extend("default" = "keep"))]
    pub on_down: Option<OnGone>,
    /// What becomes of the sessions of a server that leaves the file or the discovery.
    #[serde(default, deserialize_with = "word")]
    #[schemars(extend("default" = "close"))]
    pub on_removed: Option<OnGone>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnGone {
    /// They go on until they end by themselves.
    Keep,
    /// They are told to go within the drain's window.
    Close,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// In turn, by weight.
    RoundRobin,
    /// The server with the fewest live sessions and requests for its weight.
    LeastSessions,
    /// The less loaded of two servers picked at random.
    TwoChoices,
    /// The same `hash_key`, the same server.
    ConsistentHash,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServerTable {
    /// `IP:port`, `[v6]:port` or `name:port`. A name stands for all its addresses.
    #[schemars(required)]
    #[schemars(extend("examples" = ["127.0.0.1:9080"]))]
    pub address: Option<String>,
    /// Share of the traffic, relative to the other servers. With `consistent_hash` weights are
    /// divided by their common divisor.
    #[schemars(extend("default" = 1, "maximum" = 65535))]
    pub weight: Option<NonZeroU32>,
    /// Live sessions, handshakes under way among them, beyond which the server gets no more.
    /// Requests are not limited by it. 0: no limit.
    #[schemars(extend("default" = 0))]
    pub max_sessions: Option<usize>,
    /// Gets traffic only while no other server can.
    #[serde(default, deserialize_with = "switch")]
    #[schemars(schema_with = "switch_schema", extend("default" = false))]
    pub backup: Option<bool>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Discover {
    /// `name:port`. Each address of the name is a server.
    #[schemars(required)]
    #[schemars(extend("examples" = ["chat.internal:9080"]))]
    pub dns: Option<String>,
    /// Time between two lookups.
    #[schemars(extend("default" = "10s"))]
    pub refresh: Option<Period>,
    /// How long a server that is missing from answers stays as it was, before it is removed. Names
    /// among `servers` have 30s.
    #[schemars(extend("default" = "30s"))]
    pub hold: Option<OptionalPeriod>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HealthCheck {
    /// What a server must do.
    #[serde(default, rename = "type", deserialize_with = "word")]
    #[schemars(extend("default" = "tcp", "examples" = ["http"]))]
    pub kind: Option<HealthCheckKind>,
    /// Path that is asked for (`http`, `websocket`).
    #[schemars(regex(pattern = "^/"), extend("default" = "/", "examples" = ["/healthz"]))]
    pub path: Option<String>,
    /// Port that is checked instead of the server's own, at the same address.
    #[schemars(extend("maximum" = 65535, "examples" = [8080]))]
    pub port: Option<NonZeroU32>,
    /// `Host` that is sent (`http`, `websocket`). Default: the address that is checked.
    #[schemars(extend("examples" = ["chat.internal"]))]
    pub host: Option<String>,
    /// Statuses that pass (`http`), each a number or a range. Default: 200-399.
    #[schemars(length(min = 1))]
    #[schemars(extend("examples" = [["200-399"]]))]
    pub expect: Option<Vec<Statuses>>,
    /// Time between two checks of a server.
    #[schemars(extend("default" = "2s"))]
    pub interval: Option<Period>,
    /// Time for a whole check: connect, handshake and answer.
    #[schemars(extend("default" = "1s"))]
    pub timeout: Option<Period>,
    /// Successes in a row that bring a server back.
    #[schemars(extend("default" = 2))]
    pub rise: Option<NonZeroU32>,
    /// Failures in a row that take it out.
    #[schemars(extend("default" = 3))]
    pub fall: Option<NonZeroU32>,
    /// What a server counts as until its first check has had a result: when prusik starts, when it
    /// joins, when checks are added.
    #[serde(default, deserialize_with = "word")]
    #[schemars(extend("default" = "up"))]
    pub start: Option<Start>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// It gets traffic.
    Up,
    /// It gets none until a check has passed.
    Down,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HealthCheckKind {
    /// Accept a connection.
    Tcp,
    /// Answer a GET with an expected status.
    Http,
    /// Complete a handshake and answer a ping.
    Websocket,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Eject {
    /// Failures that take a server out.
    #[schemars(required)]
    #[schemars(extend("examples" = [5]))]
    pub failures: Option<NonZeroU32>,
    /// Time within which they happen.
    #[schemars(required)]
    #[schemars(extend("examples" = ["10s"]))]
    pub within: Option<Period>,
    /// Time for which the server is out.
    #[schemars(required)]
    #[serde(rename = "for")]
    #[schemars(extend("examples" = ["30s"]))]
    pub duration: Option<Period>,
}
