//! A configuration in types that cannot represent an invalid one.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::auth::Access;
use crate::config::limits::{AcceptProxy, ListenerLimits};
use crate::config::policy::{BodySize, ErrorPages, PathChange, RequestRate, RetryOn};
use crate::config::schema::raw::LogFormat;
use crate::forward::client_address::ClientField;
use crate::forward::proxy_protocol;
use crate::forward::template::Template;
use crate::forward::{Forwarded, HeaderRules};
use crate::limits::Bounds;
use crate::net::ListenAddress;
use crate::route::{ListenerId, Matcher};
use crate::tls::{Acceptor, Connector};
use crate::websocket::origin::OriginPattern;

/// A complete, checked configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub server: Server,
    /// `None`: no operator's API.
    pub admin: Option<Admin>,
    pub access_log: AccessLog,
    /// `None`: no spans are made.
    pub tracing: Option<Tracing>,
    /// Peers whose forwarding headers are trusted.
    pub trusted_proxies: Vec<ipnet::IpNet>,
    /// The header field of trusted proxies that names the client.
    pub client_address: ClientField,
    /// Never empty.
    pub listeners: Vec<Listener>,
    /// In the order of the file; names are unique.
    pub upstreams: Vec<Upstream>,
    /// In the order of the file: the first match serves.
    pub routes: Vec<Route>,
}

/// A route by its index in [`Config::routes`]. The same route may have another index in another
/// configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteId(usize);

/// An upstream by its index in [`Config::upstreams`]. The same upstream may have another index in
/// another configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct UpstreamId(usize);

impl RouteId {
    pub fn new(index: usize) -> Self {
        Self(index)
    }

    /// For lists in the order of [`Config::routes`].
    pub fn index(self) -> usize {
        self.0
    }
}

impl UpstreamId {
    pub fn new(index: usize) -> Self {
        Self(index)
    }

    /// For lists in the order of [`Config::upstreams`].
    pub fn index(self) -> usize {
        self.0
    }
}

impl Config {
    pub fn listener(&self, id: ListenerId) -> &Listener {
        &self.listeners[id.index()]
    }

    pub fn route(&self, id: RouteId) -> &Route {
        &self.routes[id.index()]
    }

    pub fn upstream(&self, id: UpstreamId) -> &Upstream {
        &self.upstreams[id.index()]
    }

    /// The TCP addresses of the operator's API.
    pub fn admin_sockets(&self) -> Vec<SocketAddr> {
        let addresses = self.admin.iter().flat_map(|admin| &admin.listen);
        let by_tcp = addresses.filter_map(|address| match address {
            ListenAddress::Tcp(address) => Some(*address),
            ListenAddress::Unix(_) => None,
        });
        by_tcp.collect()
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Worker threads, at least 1.
    pub threads: usize,
    pub pid_file: Option<PathBuf>,
    /// The socket at which a process that takes over finds this one.
    pub hand_over: Option<PathBuf>,
    pub tls_sessions: TlsSessions,
    pub tunnel: Tunnel,
    pub drain: Drain,
}

/// What becomes of sessions and idle connections by TLS when a new process takes over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TlsSessions {
    #[default]
    Move,
    /// No key leaves the process: sessions are told to go, and idle connections end.
    Tell,
}

/// What carries a session after its 101.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tunnel {
    #[default]
    Relay,
    Pingora,
}

/// How sessions that must go are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drain {
    /// Sessions are told at random moments within this time. Zero: all at once.
    pub window: Duration,
    /// A close code that may be sent (RFC 6455 section 7.4).
    pub code: u16,
    /// Sessions that are left after this time are cut. Not shorter than the window.
    pub deadline: Duration,
    /// The time between the begin of a stop and the window.
    pub delay: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// Never empty, and no two of them overlap.
    pub listen: Vec<ListenAddress>,
    /// Always `Some` if one of `listen` can be reached from other machines.
    pub token_file: Option<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessLog {
    pub output: LogOutput,
    pub format: LogFormat,
}

/// Where spans are sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Tracing {
    /// The URL of a collector that takes OTLP over HTTP.
    pub endpoint: String,
    /// The share of traces that are exported, 0 to 1.
    pub sample: f64,
    /// The service name in the spans.
    pub service: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogOutput {
    Off,
    Stdout,
    Stderr,
    /// Reopened on `HUP`.
    File(PathBuf),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    pub name: String,
    pub address: ListenAddress,
    pub proxy_protocol: AcceptProxy,
    /// `None`: plain text.
    pub tls: Option<Arc<Acceptor>>,
    pub limits: ListenerLimits,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Upstream {
    pub name: String,
    pub balance: Balance,
    pub servers: Vec<UpstreamServer>,
    pub discover: Option<Discover>,
    /// `None`: plain text.
    pub tls: Option<Arc<Connector>>,
    /// The PROXY header that connections begin with.
    pub proxy_protocol: Option<proxy_protocol::Version>,
    /// The addresses of this machine for connections. Empty: the kernel chooses.
    pub source: Vec<IpAddr>,
    pub health_check: Option<HealthCheck>,
    pub eject: Option<Eject>,
    /// Zero: a server gets its whole share at once.
    pub slow_start: Duration,
    /// How many servers are tried before the client gets a 502, at least 1.
    pub attempts: usize,
    pub retry_on: RetryOn,
    /// How many idle connections are kept. 0: none.
    pub keepalive: usize,
    /// How long a server may take nothing of the bytes that wait for it.
    pub stall: Duration,
    pub on_down: OnGone,
    pub on_removed: OnGone,
}

/// What happens to the sessions of a server that is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnGone {
    Keep,
    Close,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Balance {
    RoundRobin,
    LeastSessions,
    TwoChoices,
    ConsistentHash {
        key: Template,
        /// No server gets more than this multiple of the mean load. Greater than 1.
        load_bound: Option<f64>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamServer {
    pub address: ServerAddress,
    /// At least 1.
    pub weight: u32,
    /// `None`: no limit.
    pub max_sessions: Option<usize>,
    /// Gets traffic only if no other server can take it.
    pub backup: bool,
}

/// A server's address in the form of the file. Shown (`Display`) as `host:port`, `[v6]:port`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ServerAddress {
    Socket(SocketAddr),
    /// Resolved to all its addresses, repeatedly.
    Name {
        host: String,
        port: u16,
    },
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServerAddress::Socket(address) => address.fmt(f),
            ServerAddress::Name { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Discover {
    pub host: String,
    pub port: u16,
    pub refresh: Duration,
    /// How long a server stays that is missing from answers. Zero: not at all.
    pub hold: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    pub kind: HealthCheckKind,
    /// `None`: the server's own port.
    pub port: Option<u16>,
    pub start: Start,
    pub interval: Duration,
    /// For the whole check: connect, handshake and answer.
    pub timeout: Duration,
    /// How many successes in a row bring a server back, at least 1.
    pub rise: u32,
    /// How many failures in a row take a server out, at least 1.
    pub fall: u32,
}

/// How a server counts until its first check has a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    Up,
    Down,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HealthCheckKind {
    Tcp,
    /// `host: None`: the address of the server.
    Http {
        path: String,
        host: Option<String>,
        expect: Vec<std::ops::RangeInclusive<u16>>,
    },
    /// Handshake, ping, pong.
    WebSocket {
        path: String,
        host: Option<String>,
    },
}

/// Passive ejection: `failures` within `within` take a server out for `duration`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Eject {
    pub failures: u32,
    pub within: Duration,
    pub duration: Duration,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    pub name: String,
    pub matcher: Matcher,
    pub action: Action,
    pub access: Access,
    pub request_headers: HeaderRules,
    pub response_headers: HeaderRules,
    pub forwarded: Forwarded,
    pub timeouts: Timeouts,
    /// `None`: upgrades get 403.
    pub websocket: Option<WebSocket>,
    /// `None`: event streams are answers as any other.
    pub stream: Option<Stream>,
    pub errors: ErrorPages,
    pub body_size: BodySize,
    /// `None`: no limit.
    pub requests_per_second: Option<Box<RequestRate>>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    Proxy {
        upstream: UpstreamId,
        path: PathChange,
    },
    Redirect {
        to: Template,
        status: u16,
        /// Removed from the front of the path that `$uri` has in `to`.
        strip_prefix: Option<String>,
    },
    Respond {
        status: u16,
        body: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    pub connect: Duration,
    pub response: Duration,
    /// The longest time between two reads or writes of a plain HTTP exchange.
    pub idle: Duration,
}

/// Limits of the event streams of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stream {
    /// `None`: a stream may be quiet for ever.
    pub idle: Option<Duration>,
    pub max_session: Option<Duration>,
    /// `None`: nothing is put in when the server is silent.
    pub ping: Option<Duration>,
    pub bounds: Bounds,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebSocket {
    /// `None`: a session may be quiet for ever.
    pub idle: Option<Duration>,
    pub max_session: Option<Duration>,
    /// Empty: any origin.
    pub origins: Vec<OriginPattern>,
    /// `None`: clients are not pinged.
    pub ping: Option<Duration>,
    /// The limits of the route's sessions.
    pub bounds: Bounds,
    /// A message larger than this ends its session.
    pub max_message: Option<u64>,
    /// A client that sends more messages, and more than so many in one burst, ends its session.
    pub messages_per_second: Option<NonZeroU32>,
}
