//! What is known of one request, from its head to its log line.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use http::HeaderValue;
use uuid::Uuid;

use crate::config::{Route, Tunnel};
use crate::forward::Trust;
use crate::forward::client_address::ClientAddress;
use crate::forward::proxy_protocol::{AddrPair, Source};
use crate::forward::request_id;
use crate::generation::Generation;
use crate::limits::{DrainDeadline, Permit};
use crate::listener::{Connection, RejectedRequest};
use crate::observe::trace::TraceContext;
use crate::session::Upgraded;
use crate::session::handshake::ServerEnd;
use crate::session::registry::Registered;
use crate::session::traffic::Traffic;
use crate::upstream::{Flow, Group, Lease, PoolConnector};
use crate::websocket::jitter::jittered;

pub struct Exchange {
    /// In the log and, of a session, in the registry.
    pub id: Uuid,
    /// What server and client know it by: `id`, or what a trusted proxy calls it.
    pub request_id: HeaderValue,
    /// Its place in a trace, where tracing is on.
    pub trace: Option<TraceContext>,
    pub started: Instant,
    pub generation: Arc<Generation>,
    /// `None` only until the first phase has run.
    pub connection: Option<Arc<Connection>>,
    /// The client's address, as the trust rules have it.
    pub client: ClientAddress,
    /// Whether the peer is a proxy whose word counts.
    pub trust: Trust,
    /// It goes no further: what came instead of this request.
    pub refused: Option<RejectedRequest>,
    /// The path in normal form, where that is another than the client sent.
    pub path: Option<String>,
    /// What a route that redirects leaves of the path.
    pub redirected: Option<String>,
    /// The number of the route that serves.
    pub route: Option<usize>,
    pub group: Option<Arc<Group>>,
    /// The rendered hash key.
    pub hash_key: Vec<u8>,
    pub lease: Option<Lease>,
    /// Of the present attempt of a plain request.
    pub connector: Option<Arc<PoolConnector>>,
    /// Servers picked so far, the present one last.
    pub tried: Vec<SocketAddr>,
    /// Kept connections that turned out to be dead when they were used.
    pub stale: usize,
    /// Which part of the exchange is awaited now.
    pub stage: Stage,
    /// Interim answers so far.
    pub interim: u8,
    /// There was one among them that the client is not to get.
    pub has_unwanted: bool,
    pub handshake: Option<Handshake>,
    /// The session that may come of it, counted on its route.
    pub permit: Option<Permit>,
    /// Held while it is an upgraded session.
    pub live: Option<Registered>,
    /// A handshake that came when the process was stopping already.
    pub is_too_late: bool,
    /// It was under way for longer than a process that goes waits.
    pub is_cut: bool,
    /// The session ended by a fault, not by one of its sides.
    pub broke: bool,
    /// Why it failed, or why prusik answered by itself.
    pub error: Option<Cow<'static, str>>,
}

/// How far request and answer have come: what the deadline is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stage {
    pub request_sent: bool,
    pub answer_begun: bool,
}

/// A WebSocket handshake on its way, and the session that may come of it.
pub struct Handshake {
    pub expected_accept: String,
    pub traffic: Arc<Traffic>,
    /// Where the server's socket will be, should it go to the relay.
    pub server_end: Arc<ServerEnd>,
    /// An extension was agreed on.
    pub extended: bool,
}

impl Exchange {
    pub fn new(generation: Arc<Generation>) -> Self {
        Self {
            id: Uuid::now_v7(),
            request_id: HeaderValue::from_static(""),
            trace: None,
            started: Instant::now(),
            generation,
            connection: None,
            client: ClientAddress::Unix,
            trust: Trust::Untrusted,
            refused: None,
            path: None,
            redirected: None,
            route: None,
            group: None,
            hash_key: Vec::new(),
            lease: None,
            connector: None,
            tried: Vec::new(),
            stale: 0,
            stage: Stage::default(),
            interim: 0,
            has_unwanted: false,
            handshake: None,
            permit: None,
            live: None,
            is_too_late: false,
            is_cut: false,
            broke: false,
            error: None,
        }
    }

    /// Before anything is said of it.
    pub fn identify(&mut self, taken_over: Option<&HeaderValue>) {
        self.request_id = match taken_over {
            Some(theirs) => theirs.clone(),
            None => request_id::from_uuid(self.id),
        };
        if let Some(id) = taken_over.and_then(request_id::as_uuid) {
            self.id = id;
        }
    }

    /// Whether the configuration that serves it asks more of the listener's clients than this one
    /// has shown.
    pub fn is_outdated(&self) -> bool {
        self.connection.as_ref().is_some_and(|connection| {
            connection.tls_revision() < self.generation.tls_revision(connection.listener())
        })
    }

    /// What a trusted proxy calls it, where that cannot be the id.
    pub fn foreign_id(&self) -> Option<&str> {
        let is_foreign = request_id::as_uuid(&self.request_id) != Some(self.id);
        self.request_id.to_str().ok().filter(|_| is_foreign)
    }

    /// The path as `$uri` has it, where that is another than the client sent: in normal form, and on
    /// a route that redirects less its `strip_prefix`.
    pub fn normal_path(&self) -> Option<&str> {
        self.redirected.as_deref().or(self.path.as_deref())
    }

    /// Whether it is a handshake by HTTP/2, to which any 2xx is an open session.
    pub fn is_extended_connect(&self) -> bool {
        let connection = self.connection.as_ref();
        self.handshake.is_some() && connection.is_some_and(|connection| connection.is_stream())
    }

    pub fn route(&self) -> Option<&Route> {
        self.route.map(|number| self.generation.route(number))
    }

    /// The number, in the present configuration, of the listener it came in on.
    pub fn listener(&self) -> usize {
        self.connection.as_ref().map_or(0, |connection| {
            self.generation.listener(connection.listener())
        })
    }

    /// Whom a PROXY header names to the server: the client. Its port is known when it is the peer.
    pub fn proxy_source(&self) -> Source {
        let ClientAddress::Ip(client) = self.client else {
            return Source::Unknown;
        };
        let connection = self.connection.as_ref();
        let peer = connection.and_then(|connection| connection.peer());
        let port = peer.filter(|peer| peer.ip().to_canonical() == client);
        let anywhere: IpAddr = match client {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let local = connection.and_then(|connection| connection.local());
        Source::Client(AddrPair {
            peer: (client, port.map_or(0, |peer| peer.port())).into(),
            local: local.unwrap_or((anywhere, 0).into()),
        })
    }

    /// Whether another process could go on with its session.
    pub fn can_move(&self) -> bool {
        let client = self.connection.as_ref();
        let group = self.group.as_ref();
        self.generation.config.server.tunnel == Tunnel::Relay
            && client.is_some_and(|client| client.can_move())
            && group.is_some_and(|group| group.config().tls.is_none())
    }

    /// When nobody waits for its server any more.
    pub fn drain_deadline(&self) -> DrainDeadline {
        let connection = self.connection.as_ref();
        connection.map_or_else(DrainDeadline::default, |connection| {
            connection.drain_deadline().clone()
        })
    }

    /// Whether another server may be tried after the present one.
    pub fn has_another_attempt(&self) -> bool {
        self.group.as_ref().is_some_and(|group| {
            self.tried.len() < group.config().attempts && group.has_untried(&self.tried)
        })
    }

    /// Gives the exchange time until its next move: of the client while it sends its request, then
    /// of the server.
    pub fn renew_deadline(&self) {
        let (Some(connection), Some(route)) = (&self.connection, self.route()) else {
            return;
        };
        let Stage {
            request_sent,
            answer_begun,
        } = self.stage;
        if answer_begun || !request_sent {
            connection.set_deadline(route.timeouts.idle);
        } else if self.handshake.is_none() {
            connection.set_deadline(route.timeouts.response);
        } else {
            // The tap watches over the answer to a handshake.
            connection.clear_deadline();
        }
    }

    pub fn clear_deadline(&self) {
        if let Some(connection) = &self.connection {
            connection.clear_deadline();
        }
    }

    /// For an answer of our own: the client must take some of it again and again.
    pub fn begin_own_answer(&self) {
        if let Some(connection) = &self.connection {
            let stall = connection.stall();
            let idle = self.route().map_or(stall, |route| route.timeouts.idle);
            connection.needs_no_server();
            connection.set_deadline(idle.min(stall));
        }
    }

    /// What the client's stream and the server's know of each other.
    pub fn flow(&self) -> Arc<Flow> {
        let connection = self.connection.as_ref();
        connection.map_or_else(Arc::default, |connection| connection.flow().clone())
    }

    /// Whether it was the server's move when the deadline struck: it had the whole request, or took
    /// nothing of what waited for it.
    pub fn awaited_server(&self) -> bool {
        self.stage.request_sent || self.server_has_stalled()
    }

    pub fn server_has_stalled(&self) -> bool {
        let connection = self.connection.as_ref();
        connection.is_some_and(|connection| connection.server_has_stalled())
    }

    /// Whether the client took nothing of what waited for it when the deadline struck.
    pub fn client_has_stalled(&self) -> bool {
        let connection = self.connection.as_ref();
        connection.is_some_and(|connection| connection.client_has_stalled())
    }

    /// Whether its deadline has struck: the server's answer did not come in time.
    pub fn timed_out(&self) -> bool {
        self.connection
            .as_ref()
            .is_some_and(|connection| connection.timed_out())
            || self
                .handshake
                .as_ref()
                .is_some_and(|hs| hs.traffic.handshake_timed_out())
    }

    /// What the relay needs of a handshake whose client has left Pingora.
    pub fn take_upgraded(&mut self) -> Option<Upgraded> {
        let handshake = self.handshake.as_ref()?;
        let (server, early) = handshake.server_end.take()?;
        let extended = handshake.extended;
        let limits = self.route()?.websocket.clone()?;
        let server_stall = self.group.as_ref()?.config().stall;
        Some(Upgraded {
            live: self.live.take()?,
            lease: self.lease.take()?,
            permit: self.permit.take(),
            server,
            early,
            idle: limits.idle,
            max_session: limits.max_session.map(jittered),
            ping: limits.ping,
            max_message: limits.max_message,
            extended,
            server_stall,
        })
    }

    /// Counts a failure of the present server for passive ejection.
    pub fn record_server_failure(&self) {
        if let (Some(group), Some(lease)) = (&self.group, &self.lease) {
            group.record_failure(lease.server());
        }
    }
}
