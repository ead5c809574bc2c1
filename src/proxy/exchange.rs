//! Everything that is known of one request, from its head to its line in the log.
//!
//! Each phase adds its part, and later phases only read it:
//!
//! ```text
//!  early_request_filter   names, arrival, refused
//!  request_filter         routing, withdrawn, by_close, caller, handshake, attempts (begun)
//!  upstream_peer          attempts (one more)
//!  connected, bodies,
//!  responses              answering, stream
//!  response_filter        live
//!  fail_to_proxy          outcome
//! ```

mod answering;
mod arrival;
mod attempts;
mod by_close;
mod handshake;
mod names;
mod outcome;
mod routing;
mod stream;
mod withdrawn;

use std::sync::Arc;
use std::time::{Instant, SystemTime};

pub use answering::Answering;
pub use arrival::Arrival;
pub use attempts::Attempts;
pub use by_close::ByClose;
pub use handshake::{Handshake, TurnedAway};
pub use names::Names;
pub use outcome::Outcome;
pub use routing::Routing;
pub use stream::StreamAnswer;
pub use withdrawn::Withdrawn;

use super::retry::Stage;
use crate::config::{Route, RouteId, Tunnel};
use crate::forward::client_address::ClientAddress;
use crate::forward::proxy_protocol::PreambleClient;
use crate::forward::{Caller, Trust};
use crate::generation::Generation;
use crate::http1::Rejection;
use crate::limits::{DrainDeadline, Permit};
use crate::listener::{Connection, RejectedRequest};
use crate::route::ListenerId;
use crate::session::expiry::Expiry;
use crate::session::registry::Registered;
use crate::session::{Talk, Upgraded};
use crate::transport::Mobility;
use crate::upstream::pacing::Ended;
use crate::upstream::{Flow, Group};
use crate::websocket::jitter::jittered;

/// What few exchanges have is boxed: Pingora copies this value on its way.
pub struct Exchange {
    pub(super) generation: Arc<Generation>,
    pub(super) started: Instant,
    pub(super) names: Names,
    /// `None` only until the first phase has run.
    pub(super) arrival: Option<Arrival>,
    /// The request goes no further. This is what came instead of it.
    pub(super) refused: Option<Box<RejectedRequest>>,
    pub(super) routing: Routing,
    /// `None`: the route asks for no token.
    pub(super) withdrawn: Option<Box<Withdrawn>>,
    /// `None`: the route does not ask who it is.
    pub(super) caller: Option<Box<Caller>>,
    /// `None`: no server is asked.
    pub(super) attempts: Option<Attempts>,
    pub(super) answering: Answering,
    /// `None`: the request is a plain one.
    pub(super) handshake: Option<Handshake>,
    /// How the handshake is refused, if the route wants that told by a Close frame.
    pub(super) by_close: Option<Box<ByClose>>,
    /// The answer is an event stream, and the route has no room for it.
    pub(super) refused_stream: Option<Rejection>,
    /// `Some`: the answer is an event stream, and becomes a session.
    pub(super) stream: Option<Box<StreamAnswer>>,
    /// `Some` while the exchange is a session.
    pub(super) live: Option<Registered>,
    pub(super) outcome: Outcome,
}

impl Exchange {
    pub fn new(generation: Arc<Generation>) -> Self {
        Self {
            generation,
            started: Instant::now(),
            names: Names::new(),
            arrival: None,
            refused: None,
            routing: Routing::default(),
            withdrawn: None,
            caller: None,
            attempts: None,
            answering: Answering::default(),
            handshake: None,
            by_close: None,
            refused_stream: None,
            stream: None,
            live: None,
            outcome: Outcome::default(),
        }
    }

    pub fn connection(&self) -> Option<&Arc<Connection>> {
        self.arrival.as_ref().map(Arrival::connection)
    }

    pub fn client(&self) -> ClientAddress {
        let arrival = self.arrival.as_ref();
        arrival.map_or(ClientAddress::Unix, Arrival::client)
    }

    pub fn trust(&self) -> Trust {
        let arrival = self.arrival.as_ref();
        arrival.map_or(Trust::Untrusted, Arrival::trust)
    }

    pub fn preamble_client(&self) -> PreambleClient {
        let arrival = self.arrival.as_ref();
        arrival.map_or(PreambleClient::Unknown, Arrival::preamble_client)
    }

    /// Whose request it is. `None`: nobody's.
    pub fn user(&self) -> Option<&str> {
        self.caller.as_ref()?.user.as_deref()
    }

    /// When a session of this exchange ends with its credential, where the route wants that: with
    /// the token or the client's certificate, whichever ends first.
    pub fn expiry(&self, on_expiry: Option<u16>) -> Option<Expiry> {
        let code = on_expiry?;
        let token = self.caller.as_ref().and_then(|caller| caller.expires);
        let connection = self.connection();
        let certificate = connection.and_then(|connection| connection.security().expires());
        let until = token.into_iter().chain(certificate).min()?;
        Some(Expiry::spread(
            until,
            code,
            SystemTime::now(),
            rand::random(),
        ))
    }

    /// The permit that counts the exchange's session on its route.
    pub fn session_permit(&self) -> Option<&Permit> {
        let of_stream = self.stream.as_ref().map(|stream| &stream.permit);
        of_stream.or_else(|| self.handshake.as_ref()?.permit())
    }

    pub fn session_permit_mut(&mut self) -> Option<&mut Permit> {
        let of_stream = self.stream.as_mut().map(|stream| &mut stream.permit);
        of_stream.or_else(|| self.handshake.as_mut()?.permit_mut())
    }

    pub fn route_id(&self) -> Option<RouteId> {
        self.routing.route()
    }

    pub fn route(&self) -> Option<&Route> {
        self.route_id().map(|id| self.generation.route(id))
    }

    /// The listener of the exchange in the present configuration.
    pub fn listener(&self) -> ListenerId {
        let connection = self.connection();
        connection.map_or(ListenerId::new(0), |connection| {
            self.generation.listener_id(connection.listener())
        })
    }

    pub fn group(&self) -> Option<&Arc<Group>> {
        self.attempts.as_ref().map(Attempts::group)
    }

    pub fn stage(&self) -> Stage {
        self.answering.stage()
    }

    /// Whether the configuration of this exchange demands more of the listener's clients than this
    /// client has shown.
    pub fn is_outdated(&self) -> bool {
        self.connection().is_some_and(|connection| {
            connection.tls_revision() < self.generation.tls_revision(connection.listener())
        })
    }

    /// Whether this is a handshake by HTTP/2, for which any 2xx is an open session.
    pub fn is_extended_connect(&self) -> bool {
        let connection = self.connection();
        self.handshake.is_some() && connection.is_some_and(|connection| connection.is_stream())
    }

    /// How another process could continue the session.
    pub fn mobility(&self) -> Mobility {
        let is_relayed =
            self.stream.is_some() || self.generation.config.server.tunnel == Tunnel::Relay;
        if !is_relayed {
            return Mobility::Never;
        }
        let client = self.connection().map(|client| client.mobility());
        let server = self.group().map(|group| match group.config().tls {
            Some(_) => Mobility::WithKeys,
            None => Mobility::Free,
        });
        // `None` is less than both.
        client.min(server).unwrap_or(Mobility::Never)
    }

    /// Called when no session will follow.
    pub fn free_permit(&mut self) {
        if let Some(handshake) = &mut self.handshake {
            handshake.free_permit();
        }
    }

    /// The server has answered the handshake.
    pub fn end_handshake(&mut self, ended: Ended) {
        if let Some(attempts) = &mut self.attempts {
            attempts.end_handshake(ended);
        }
    }

    /// Counts a failure of the present server for passive ejection.
    pub fn record_server_failure(&mut self) {
        if let Some(attempts) = &mut self.attempts {
            attempts.record_failure();
        }
    }

    /// Whether the client has left Pingora with an event stream, so that the end of the exchange is
    /// no failure.
    pub fn has_left_with_stream(&self) -> bool {
        let connection = self.connection();
        self.stream.is_some() && connection.is_some_and(|connection| connection.has_departed())
    }

    /// The parts that the relay needs, of a session whose client has left Pingora.
    pub fn take_upgraded(&mut self) -> Option<Upgraded> {
        match self.stream {
            Some(_) => self.take_stream(),
            None => self.take_switched(),
        }
    }

    fn take_stream(&mut self) -> Option<Upgraded> {
        let limits = self.route()?.stream.clone()?;
        let expiry = self.expiry(limits.on_expiry);
        let attempts = self.attempts.as_mut()?;
        let server = attempts.stream_offer()?.take()?;
        let StreamAnswer {
            permit,
            stream,
            framing,
            ..
        } = *self.stream.take()?;
        Some(Upgraded {
            live: self.live.take()?,
            lease: attempts.take_lease()?.into_session(),
            permit: Some(permit),
            server: server.transport,
            early: server.early,
            idle: limits.idle,
            max_session: limits.max_session.map(jittered),
            expiry,
            ping: limits.ping,
            talk: Talk::Events {
                stream,
                framing,
                unsent: server.unsent,
            },
            server_stall: attempts.upstream().stall,
        })
    }

    fn take_switched(&mut self) -> Option<Upgraded> {
        let handshake = self.handshake.as_ref()?;
        let (server, early) = handshake.server_end().take()?;
        let extended = handshake.is_extended();
        let limits = self.route()?.websocket.clone()?;
        let expiry = self.expiry(limits.on_expiry);
        let attempts = self.attempts.as_mut()?;
        Some(Upgraded {
            live: self.live.take()?,
            lease: attempts.take_lease()?,
            permit: self.handshake.as_mut()?.take_permit(),
            server,
            early,
            idle: limits.idle,
            max_session: limits.max_session.map(jittered),
            expiry,
            ping: limits.ping,
            talk: Talk::Frames {
                max_message: limits.max_message,
                messages_per_second: limits.messages_per_second,
                extended,
            },
            server_stall: attempts.upstream().stall,
        })
    }
}

/// The deadlines of the connection.
impl Exchange {
    /// Gives the exchange time until the next move: of the client while it sends its request, then
    /// of the server.
    pub fn renew_deadline(&self) {
        let (Some(connection), Some(route)) = (self.connection(), self.route()) else {
            return;
        };
        let Stage {
            request_sent,
            answer_begun,
        } = self.stage();
        if answer_begun || !request_sent {
            connection.set_deadline(route.timeouts.idle);
        } else if self.handshake.is_none() {
            connection.set_deadline(route.timeouts.response);
        } else {
            // The tunnel has its own time limit for the answer to a handshake.
            connection.clear_deadline();
        }
    }

    pub fn clear_deadline(&self) {
        if let Some(connection) = self.connection() {
            connection.clear_deadline();
        }
    }

    /// For an answer of our own. The client must take some of it again and again.
    pub fn begin_own_answer(&self) {
        if let Some(connection) = self.connection() {
            let stall = connection.stall();
            let idle = self.route().map_or(stall, |route| route.timeouts.idle);
            connection.needs_no_server();
            connection.set_deadline(idle.min(stall));
        }
    }

    /// Another server is asked after one that did not answer in time.
    pub fn forget_timeout(&self) {
        self.clear_deadline();
        if let Some(connection) = self.connection() {
            connection.flow().forget_timeout();
        }
        if let Some(handshake) = &self.handshake {
            handshake.traffic().forget_timeout();
        }
    }

    /// Tells when nobody waits for the server any more.
    pub fn drain_deadline(&self) -> DrainDeadline {
        self.connection()
            .map_or_else(DrainDeadline::default, |connection| {
                connection.drain_deadline().clone()
            })
    }

    /// What the streams of the client and the server know of each other.
    pub fn flow(&self) -> Arc<Flow> {
        self.connection()
            .map_or_else(Arc::default, |connection| connection.flow().clone())
    }

    /// Whether the server took nothing of the bytes that waited for it when the deadline struck.
    pub fn server_has_stalled(&self) -> bool {
        self.connection()
            .is_some_and(|connection| connection.server_has_stalled())
    }

    /// Whether the client took nothing of the bytes that waited for it when the deadline struck.
    pub fn client_has_stalled(&self) -> bool {
        self.connection()
            .is_some_and(|connection| connection.client_has_stalled())
    }

    /// Whether the deadline has struck because the server's answer did not come in time.
    pub fn timed_out(&self) -> bool {
        let handshake = self.handshake.as_ref();
        self.connection()
            .is_some_and(|connection| connection.timed_out())
            || handshake.is_some_and(|handshake| handshake.traffic().handshake_timed_out())
    }
}
