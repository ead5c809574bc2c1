//! The file's own shape, as serde decodes it and as the JSON Schema describes it.
//!
//! Nothing is checked here beyond the shape, and every key is optional, also those that are
//! required: `resolve` says better than serde what is missing. The doc comments become the
//! descriptions in the schema.

mod entries;
mod limits;

use std::num::{NonZeroU32, NonZeroUsize};

use schemars::JsonSchema;
use serde::Deserialize;

use super::units::{
    OffOr, OptionalPeriod, OptionalSize, Ordered, Period, Section, Switch, Texts, switch,
    switch_schema, word, word_schema,
};
pub use entries::{ServerEntry, Statuses};
pub use limits::{AcceptProxy, Limits, SendProxy};

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
    /// Spans of requests, handshakes and sessions for a collector of OpenTelemetry. Needs a binary that
    /// was built with `--features otlp`. Default: none; a `traceparent` passes unchanged.
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

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// Worker threads. Default: the number of cores.
    #[schemars(extend("examples" = [4]))]
    pub threads: Option<NonZeroUsize>,
    /// File that holds the process id while prusik runs. Default: none.
    #[schemars(extend("examples" = ["/run/prusik/prusik.pid"]))]
    pub pid_file: Option<String>,
    /// Who carries a session after its 101.
    #[serde(default, deserialize_with = "word")]
    #[schemars(extend("default" = "relay"))]
    pub tunnel: Option<Tunnel>,
    /// How sessions that must go are told so.
    pub drain: Option<Section<Drain>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Tunnel {
    /// prusik's own relay: cheap, and sessions survive upgrades.
    Relay,
    /// Pingora's pass-through: framing is read for counts and Close frames, and not enforced; no
    /// half-close, and sessions do not move in an upgrade.
    Pingora,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Drain {
    /// Sessions that must go are told so at random moments within it.
    #[schemars(extend("default" = "30s"))]
    pub window: Option<OptionalPeriod>,
    /// WebSocket close code: 1012 service restart, 1001 going away.
    #[schemars(range(min = 1000, max = 4999), extend("default" = 1012))]
    pub code: Option<u64>,
    /// What is left after it is cut. Not shorter than the window.
    #[schemars(extend("default" = "60s"))]
    pub deadline: Option<Period>,
    /// For balancers in front that need the time: from the moment when `/readyz` says 503, new clients
    /// are still taken for so long; then listeners close and the window begins.
    #[schemars(extend("default" = "0s", "examples" = ["10s"]))]
    pub delay: Option<OptionalPeriod>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Admin {
    /// `127.0.0.1:9900`, or `unix:/run/prusik/admin.sock`, which only its owner may use; or a list of
    /// such.
    #[schemars(required)]
    #[schemars(extend("examples" = ["unix:/run/prusik/admin.sock"]))]
    pub listen: Option<Texts>,
    /// File with the bearer token that every call must carry. Required when one of `listen` is neither
    /// loopback nor a unix socket.
    #[schemars(extend("examples" = ["/etc/prusik/admin.token"]))]
    pub token_file: Option<String>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AccessLog {
    /// `stdout`, `stderr`, `off`, or a file, which is reopened on HUP.
    #[serde(default, deserialize_with = "word")]
    #[schemars(schema_with = "word_schema::<String>", extend("default" = "stdout"))]
    pub path: Option<String>,
    /// What a line looks like.
    #[serde(default, deserialize_with = "word")]
    #[schemars(extend("default" = "json"))]
    pub format: Option<LogFormat>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tracing {
    /// Where the collector takes OTLP over HTTP (as JSON). Required.
    #[schemars(required, extend("examples" = ["http://127.0.0.1:4318/v1/traces"]))]
    pub endpoint: Option<String>,
    /// The share of traces that are exported: 0 to 1. A trusted proxy that sends a `traceparent` has
    /// decided already.
    #[schemars(extend("default" = 1.0, "minimum" = 0, "maximum" = 1, "examples" = [0.1]))]
    pub sample: Option<f64>,
    /// What the collector knows this process by.
    #[schemars(extend("default" = "prusik"))]
    pub service: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// One object a line.
    Json,
    /// As nginx and Apache write it; a session has its line when it ends, with status 101.
    Combined,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// `0.0.0.0:9090`, `[::]:9090` or `unix:/run/prusik/web.sock`. Port 0: any free one.
    #[schemars(required)]
    #[schemars(extend("examples" = ["0.0.0.0:9090"]))]
    pub listen: Option<String>,
    /// Name for logs and for `match.listener`. Default: the address.
    #[schemars(extend("examples" = ["public"]))]
    pub name: Option<String>,
    /// Whether each connection begins with a PROXY header that says who the client is. An upgrade
    /// takes in a change.
    #[serde(default, deserialize_with = "word")]
    #[schemars(schema_with = "word_schema::<AcceptProxy>", extend("default" = "off"))]
    pub proxy_protocol: Option<AcceptProxy>,
    /// TLS with clients. Default: plain text.
    pub tls: Option<OffOr<ListenerTls>>,
    /// What clients may take.
    pub limits: Option<Section<Limits>>,
}

/// Files are PEM, and are read again at each reload.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListenerTls {
    /// Chosen by the name that a client asks for (SNI); the first is for all other names.
    #[schemars(required, length(min = 1))]
    pub certificates: Option<Vec<Section<CertificatePair>>>,
    /// Authorities for clients: one without a certificate by any of them is refused. Default: no
    /// certificate is asked for.
    #[schemars(extend("examples" = ["/etc/prusik/tls/clients.pem"]))]
    pub client_ca: Option<String>,
    /// HTTP/2 with clients that offer it, WebSocket over it (RFC 8441) included.
    #[serde(default, deserialize_with = "switch")]
    #[schemars(schema_with = "switch_schema", extend("default" = false, "examples" = [true]))]
    pub http2: Option<bool>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CertificatePair {
    /// File with the certificate, and behind it those that lead to its authority.
    #[schemars(required)]
    #[schemars(extend("examples" = ["/etc/prusik/tls/chat.example.com.pem"]))]
    pub cert: Option<String>,
    /// File with its private key, not encrypted.
    #[schemars(required)]
    #[schemars(extend("examples" = ["/etc/prusik/tls/chat.example.com.key"]))]
    pub key: Option<String>,
}

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
    pub on_down: Option<Fate>,
    /// What becomes of the sessions of a server that leaves the file or the discovery.
    #[serde(default, deserialize_with = "word")]
    #[schemars(extend("default" = "close"))]
    pub on_removed: Option<Fate>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
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

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Name for logs and metrics. Default: the match in words.
    #[schemars(extend("examples" = ["chat"]))]
    pub name: Option<String>,
    /// What a request must be like. All that is given must hold. Default: any request.
    #[serde(rename = "match")]
    pub matching: Option<Section<Match>>,
    /// The upstream that serves. Each route has this, `redirect` or `respond`.
    #[schemars(extend("examples" = ["chat"]))]
    pub upstream: Option<String>,
    /// Headers changed on the way.
    pub headers: Option<Section<Headers>>,
    /// How the server learns who the client is.
    #[serde(default, deserialize_with = "word")]
    #[schemars(schema_with = "word_schema::<Forwarded>", extend("default" = "x_forwarded"))]
    pub forwarded: Option<Forwarded>,
    /// How long the exchange with the server may take.
    pub timeouts: Option<Section<Timeouts>>,
    /// Whether several slashes in a row in a path are one, for this route and for its servers.
    #[serde(default, deserialize_with = "switch")]
    #[schemars(schema_with = "switch_schema", extend("default" = true))]
    pub merge_slashes: Option<bool>,
    /// Taken off the front of the path before it goes to the upstream, and off `$uri` in
    /// `redirect.to`.
    #[schemars(regex(pattern = "^/"))]
    #[schemars(extend("examples" = ["/IMS_SVR"]))]
    pub strip_prefix: Option<String>,
    /// Answers with a redirection.
    pub redirect: Option<Section<Redirect>>,
    /// Answers with a fixed response.
    pub respond: Option<Section<Respond>>,
    /// Limits of WebSocket sessions; `off` refuses upgrades with 403. Default: allowed.
    pub websocket: Option<OffOr<WebSocket>>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Match {
    /// `chat.example.com`, or `*.example.com` for the names below it.
    #[schemars(extend("examples" = ["chat.example.com"]))]
    pub host: Option<String>,
    /// The path begins with this, in whole segments.
    #[schemars(regex(pattern = "^/"))]
    #[schemars(extend("examples" = ["/IMS_SVR/websocket"]))]
    pub path_prefix: Option<String>,
    /// The path is exactly this.
    #[schemars(regex(pattern = "^/"))]
    #[schemars(extend("examples" = ["/IMS_SVR/websocket"]))]
    pub path: Option<String>,
    /// The path matches this regular expression, anywhere unless anchored.
    #[schemars(extend("examples" = ["^/room/[0-9]+$"]))]
    pub path_regex: Option<String>,
    /// Name of the listener the request came in on.
    #[schemars(extend("examples" = ["public"]))]
    pub listener: Option<String>,
    /// Headers the request has, each with exactly this value.
    #[schemars(extend("examples" = [{"X-Tenant": "acme"}]))]
    pub headers: Option<Ordered<String>>,
    /// Methods, such as `GET`.
    #[schemars(length(min = 1))]
    #[schemars(extend("examples" = [["GET"]]))]
    pub methods: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Headers {
    /// Of the request, as it goes to the server.
    pub request: Option<Section<HeaderRules>>,
    /// Of the response, as it goes to the client.
    pub response: Option<Section<HeaderRules>>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HeaderRules {
    /// Replaces the header. Values are templates; an empty value removes it.
    #[schemars(extend("examples" = [{"X-User": "$arg_userId"}]))]
    pub set: Option<Ordered<String>>,
    /// Adds the header beside those of the same name. Values are templates.
    #[schemars(extend("examples" = [{"X-Via": "$server_addr"}]))]
    pub add: Option<Ordered<String>>,
    /// Names of headers to remove.
    #[schemars(extend("examples" = [["X-Debug"]]))]
    pub remove: Option<Vec<String>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Forwarded {
    /// `X-Forwarded-For`, `-Proto`, `-Host`, `-Port` and `X-Real-IP`.
    #[serde(rename = "x_forwarded")]
    XHeaders,
    /// The `Forwarded` header of RFC 7239.
    Rfc7239,
    /// Both of these.
    Both,
    /// Neither; what a trusted proxy sent passes.
    Off,
}

/// Limits of the exchange with the server. None of them can be off.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Timeouts {
    /// Until the connection to the server stands.
    #[schemars(extend("default" = "5s"))]
    pub connect: Option<Period>,
    /// Until the server's answer begins.
    #[schemars(extend("default" = "60s"))]
    pub response: Option<Period>,
    /// Between two reads or writes of a plain HTTP exchange.
    #[schemars(extend("default" = "60s"))]
    pub idle: Option<Period>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Redirect {
    /// Where to: a template, such as `https://$host$request_uri`. With `strip_prefix: /old`,
    /// `/new$uri$is_args$args` keeps the rest of the path.
    #[schemars(required)]
    #[schemars(extend("examples" = ["/new"]))]
    pub to: Option<String>,
    /// Status of the answer.
    #[schemars(extend("enum" = [301, 302, 303, 307, 308], "default" = 308))]
    pub status: Option<u64>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Respond {
    /// Status of the answer.
    #[schemars(required, range(min = 200, max = 599))]
    #[schemars(extend("examples" = [410]))]
    pub status: Option<u64>,
    /// Text of the answer. Default: empty.
    #[schemars(extend("examples" = ["gone"]))]
    pub body: Option<String>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WebSocket {
    /// A session in which no frame passes in either direction (pings and pongs are frames) for this
    /// long ends. `off`: never.
    #[schemars(extend("default" = "1h"))]
    pub idle: Option<OptionalPeriod>,
    /// A session that is this old ends. `off`: never.
    #[schemars(extend("default" = "0s", "examples" = ["24h"]))]
    pub max_session: Option<OptionalPeriod>,
    /// Origins that may open sessions: `https://app.example.com`, `https://*.example.com` for the
    /// names below it, `null` and `file://` as some apps send them, `none` for who sends no Origin,
    /// as no browser does. Default: any.
    #[schemars(length(min = 1))]
    #[schemars(extend("examples" = [["https://app.example.com", "https://*.example.com"]]))]
    pub origins: Option<Vec<String>>,
    /// A client that sends nothing for this long is sent a ping; when nothing comes for as long
    /// again, the session ends. `off`: never.
    #[schemars(extend("default" = "0s", "examples" = ["30s"]))]
    pub ping: Option<OptionalPeriod>,
    /// Live sessions of the route, and handshakes under way: over it a handshake gets 503. 0: no
    /// limit.
    #[schemars(extend("default" = 0))]
    pub max_sessions: Option<usize>,
    /// The same for each client address, an IPv6 one with its whole /64: over it 429. 0: no limit.
    #[schemars(extend("default" = 0))]
    pub max_sessions_per_client: Option<usize>,
    /// Handshakes that the route takes in a second, and in one burst: over it 429. 0: no limit.
    #[schemars(extend("default" = 0, "maximum" = 1_000_000))]
    pub handshakes_per_second: Option<u32>,
    /// A message that is larger, as it is on the wire, ends its session with 1009. 0: no limit.
    #[schemars(extend("default" = 0, "examples" = ["1MiB"]))]
    pub max_message: Option<OptionalSize>,
}
