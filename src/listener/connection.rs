//! A client's connection, as the proxy's phases know it, and as they steer its stream.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::AsyncReadExt;
use tokio::time::Instant;

use super::deadlines::Deadlines;
use super::state::ListenerState;
use crate::forward::proxy_protocol::AddrPair;
use crate::http1::Rejection;
use crate::limits::DrainDeadline;
use crate::limits::descriptors::Descriptor;
use crate::session::traffic::Traffic;
use crate::session::{Admission, ClientEnd, Upgraded};
use crate::tls::Security;
use crate::tls::TlsRevision;
use crate::transport::Transport;
use crate::upstream::Flow;

/// How Pingora's next reads are to be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Reading {
    /// A request head is awaited: no byte past its blank line.
    Head = 0,
    /// Nothing is awaited: bytes wait, only the end of the connection is told.
    Held = 1,
    /// As `Held`, but a client that has ended its own direction only still gets its answer.
    Answered = 5,
    /// The body of the request: no byte past its end.
    Body = 2,
    /// An upgraded session: everything as it comes.
    Open = 3,
    /// A 101 is being written: behind it the socket leaves.
    Leave = 4,
}

/// How a connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// It was just accepted.
    New {
        /// By when its first head must be there.
        deadline: Instant,
        /// As the kernel had them; `None`: it is asked, or has none.
        ends: Option<AddrPair>,
    },
    /// It had been served already, here or by another process.
    Moved,
    /// The same, and no other process takes it: one answer, and it ends.
    Stays,
}

/// A request that goes no further.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RejectedRequest {
    pub rejection: Rejection,
    /// What the log gets of a head that is not sound, so that Pingora has a head of ours instead.
    /// `None`: the head was sound and Pingora has it, so that the request may have a route.
    pub unsound: Option<Unsound>,
}

/// What a head that is not sound was, as far as that can be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsound {
    pub method: String,
    pub target: String,
}

/// What the end of a connection says of its last answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Clean,
    /// An exchange has failed: no clean end, so that nobody takes a part for the whole.
    Failed,
    /// The same where the end of the connection is the end of the answer.
    Reset,
}

/// What the proxy's phases know of a connection, and how they steer its stream.
#[derive(Debug)]
pub struct Connection {
    /// Which of the bound listeners it came in on.
    pub listener: usize,
    /// Where it came in, with the limits that hold there now.
    pub(super) state: Arc<ListenerState>,
    /// Who has connected, or whom a PROXY header has named. `None` on a unix socket.
    pub peer: Option<SocketAddr>,
    pub local: Option<SocketAddr>,
    pub security: Security,
    /// What its client has shown.
    pub tls_revision: TlsRevision,
    /// A PROXY header has named its ends.
    pub is_proxied: bool,
    can_move: bool,
    serves_one: bool,
    reading: AtomicU8,
    pub(super) deadlines: Arc<Deadlines>,
    leaves_when_idle: AtomicBool,
    /// A request has come.
    has_asked: AtomicBool,
    /// An exchange has failed, perhaps in the middle of its answer.
    has_failed: AtomicBool,
    ends_by_close: AtomicBool,
    is_probe: AtomicBool,
    /// The next head that is written says what the client may upgrade to.
    offers_upgrade: AtomicBool,
    departed: Mutex<Option<ClientEnd>>,
    upgraded: Mutex<Option<Upgraded>>,
    /// The session that runs over it while it stays in Pingora's tunnel.
    pub(super) tunnelled: OnceLock<Arc<Traffic>>,
    is_refused: AtomicBool,
    refused: Mutex<Option<RejectedRequest>>,
    /// Set apart for the server of its present request, or the next.
    for_server: Mutex<Option<Descriptor>>,
}

impl Connection {
    /// Whose socket this is, and what was known of it before its first byte.
    pub(super) fn new(
        state: Arc<ListenerState>,
        transport: &Transport,
        ends: Option<AddrPair>,
        admission: &Admission,
    ) -> Self {
        let (peer, local) = match ends {
            Some(ends) => (Some(ends.peer), Some(ends.local)),
            None => (transport.peer(), transport.local()),
        };
        Self {
            listener: state.number,
            state,
            peer,
            local,
            security: transport.security(),
            tls_revision: admission.tls_revision,
            is_proxied: admission.proxied.is_some(),
            can_move: transport.can_move(),
            serves_one: transport.serves_one(),
            reading: AtomicU8::new(Reading::Head as u8),
            deadlines: Arc::new(Deadlines::new()),
            leaves_when_idle: AtomicBool::new(false),
            has_asked: AtomicBool::new(false),
            has_failed: AtomicBool::new(false),
            ends_by_close: AtomicBool::new(false),
            is_probe: AtomicBool::new(false),
            offers_upgrade: AtomicBool::new(false),
            departed: Mutex::new(None),
            upgraded: Mutex::new(None),
            tunnelled: OnceLock::new(),
            is_refused: AtomicBool::new(false),
            refused: Mutex::new(None),
            for_server: Mutex::new(Some(Descriptor::hold())),
        }
    }

    /// A request may need a server.
    pub fn set_server_apart(&self) {
        self.for_server.lock().get_or_insert_with(Descriptor::hold);
    }

    /// It needs none, or its session counts its own.
    pub fn needs_no_server(&self) {
        self.for_server.lock().take();
    }

    /// From now on, when it stands between two requests, the socket leaves; one that cannot move to
    /// another process ends. Poll its stream after this.
    pub fn leave_when_idle(&self, leaves: bool) {
        self.leaves_when_idle.store(leaves, Relaxed);
    }

    /// It stays in this process, whatever carries it.
    pub(super) fn stay(&mut self) {
        self.can_move = false;
    }

    /// Whether a request has come on it.
    pub(super) fn has_asked(&self) -> bool {
        self.has_asked.load(Relaxed)
    }

    /// Whether it is to move to another process once it stands between two requests.
    pub(super) fn moves_when_idle(&self) -> bool {
        self.can_move && self.leaves_when_idle.load(Relaxed)
    }

    /// The socket has left Pingora.
    pub(super) fn set_departed(&self, client: ClientEnd) {
        *self.departed.lock() = Some(client);
    }

    /// Whether its client is to be told why its request went no further.
    pub(super) fn is_refused(&self) -> bool {
        self.is_refused.load(Relaxed)
    }

    /// How it ends, when its stream is dropped.
    pub(super) fn end(&self) -> End {
        match (
            self.has_failed.load(Relaxed),
            self.ends_by_close.load(Relaxed),
        ) {
            (false, _) => End::Clean,
            (true, true) => End::Reset,
            (true, false) => End::Failed,
        }
    }

    /// Whether the head that is about to be written says what the client may upgrade to.
    pub(super) fn offers_upgrade(&self) -> bool {
        self.offers_upgrade.load(Relaxed)
    }

    /// It is written.
    pub(super) fn head_is_written(&self) {
        self.offers_upgrade.store(false, Relaxed);
    }

    /// Whether another process can go on with it.
    pub fn can_move(&self) -> bool {
        self.can_move
    }

    /// What Pingora reads now stands for a request that goes no further.
    pub(super) fn set_refused(&self, refused: RejectedRequest) {
        *self.refused.lock() = Some(refused);
        self.is_refused.store(true, Relaxed);
    }

    pub fn take_refused(&self) -> Option<RejectedRequest> {
        match self.is_refused.load(Relaxed) {
            true => self.refused.lock().take(),
            false => None,
        }
    }

    pub fn drain_deadline(&self) -> &DrainDeadline {
        &self.state.drain_deadline
    }

    /// The end of the connection is the end of the present answer: cut short, it must be a reset.
    pub fn end_body_by_close(&self) {
        self.ends_by_close.store(true, Relaxed);
    }

    /// From now on its end is no clean one: an answer that was cut short must not pass for whole.
    pub fn mark_as_failed(&self) {
        self.has_failed.store(true, Relaxed);
    }

    /// Whether the present request is to be the last.
    pub fn is_to_end(&self) -> bool {
        let moves_away = !self.can_move && self.leaves_when_idle.load(Relaxed);
        self.serves_one || moves_away || self.is_outdated()
    }

    /// Whether its listener asks more of clients by now than this one has shown.
    pub fn is_outdated(&self) -> bool {
        self.tls_revision < self.state.tls_revision.get()
    }

    /// The request that comes is our own.
    pub fn mark_as_probe(&self) {
        self.is_probe.store(true, Relaxed);
    }

    /// Nobody wants to read of it in the log.
    pub fn is_probe(&self) -> bool {
        self.is_probe.load(Relaxed)
    }

    /// Whether it is a stream of HTTP/2.
    pub fn is_stream(&self) -> bool {
        self.serves_one
    }

    /// The answer that is about to be written has an `Upgrade` field, for which its `Connection`
    /// must have the option.
    pub fn offer_upgrade(&self) {
        self.offers_upgrade.store(true, Relaxed);
    }

    /// Whether the socket has left.
    pub fn has_departed(&self) -> bool {
        self.departed.lock().is_some()
    }

    pub fn take_departed(&self) -> Option<ClientEnd> {
        self.departed.lock().take()
    }

    /// The rest of the session that the socket left for.
    pub fn set_upgraded(&self, upgraded: Upgraded) {
        *self.upgraded.lock() = Some(upgraded);
    }

    pub fn take_upgraded(&self) -> Option<Upgraded> {
        self.upgraded.lock().take()
    }

    /// From now on a session runs over it, in Pingora's tunnel.
    pub fn open_tunnel(&self, session: Arc<Traffic>) {
        self.tunnelled.get_or_init(|| session);
        self.set_reading(Reading::Open);
    }

    pub fn set_reading(&self, reading: Reading) {
        self.reading.store(reading as u8, Relaxed);
        if reading != Reading::Head {
            self.has_asked.store(true, Relaxed);
        }
    }

    /// From now on the exchange fails when for this long nothing moves between us and the client,
    /// and nobody sets another deadline.
    pub fn set_deadline(&self, within: Duration) {
        self.deadlines.set_progress(within);
    }

    /// From now on the exchange fails after this time, whatever moves.
    pub fn set_end(&self, after: Duration) {
        self.deadlines.set_end(after);
    }

    /// The client has so long to take something of what waits for it.
    pub fn stall(&self) -> Duration {
        self.state.limits().stall
    }

    /// What this connection's stream and its server's know of each other.
    pub fn flow(&self) -> &Arc<Flow> {
        &self.deadlines.flow
    }

    /// Whether an exchange has ended because the client took nothing of what waited for it.
    pub fn client_has_stalled(&self) -> bool {
        self.deadlines.client_has_stalled()
    }

    /// The same of the server.
    pub fn server_has_stalled(&self) -> bool {
        self.deadlines.server_has_stalled()
    }

    /// The connection ends when the next head does not begin within the listener's `idle`.
    pub fn set_deadline_for_idle(&self) {
        self.set_deadline(self.state.limits().idle);
    }

    /// A part of a head is there: the rest must come in the listener's `header_timeout`.
    pub(super) fn begin_head(&self) {
        if !self.deadlines.has_end() {
            self.clear_deadline();
            self.set_end(self.state.limits().header_timeout);
        }
    }

    pub fn clear_deadline(&self) {
        self.deadlines.clear();
    }

    /// Whether something has failed because a deadline had struck.
    pub fn timed_out(&self) -> bool {
        self.flow().has_timed_out()
    }

    pub(super) fn reading(&self) -> Reading {
        match self.reading.load(Relaxed) {
            0 => Reading::Head,
            1 => Reading::Held,
            2 => Reading::Body,
            3 => Reading::Open,
            5 => Reading::Answered,
            _ => Reading::Leave,
        }
    }
}
