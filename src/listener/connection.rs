//! What the proxy's phases know of a client's connection, and how they steer its stream.
//!
//! ```text
//!  Head ──► Body ──► Held                   a handshake awaits its answer
//!   ▲ │      │        ├──► Leave            its 101 is written, and the socket departs
//!   │ │      │        └──► Open             or the session stays in Pingora's tunnel
//!   │ └──────┴─────► Answered               a request awaits its answer
//!   └──────────────────┘
//! ```
//!
//! A request without a body goes to `Held` or `Answered` at once.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;

use super::deadlines::Deadlines;
use super::rejected::RejectedRequest;
use super::state::ListenerState;
use crate::limits::DrainDeadline;
use crate::limits::descriptors::Descriptor;
use crate::net::BoundId;
use crate::session::traffic::Traffic;
use crate::session::{ClientEnd, Upgraded};
use crate::tls::{Security, TlsRevision};
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

/// Where a connection comes from, and what it can do. This does not change while it is served.
#[derive(Debug)]
pub(super) struct Origin {
    /// Who has connected, or whom a PROXY header has named. `None` on a unix socket.
    pub peer: Option<SocketAddr>,
    pub local: Option<SocketAddr>,
    pub security: Security,
    /// What its client has shown.
    pub tls_revision: TlsRevision,
    /// A PROXY header has named its ends.
    pub is_proxied: bool,
    /// Another process can go on with it.
    pub can_move: bool,
    /// It is a stream of HTTP/2, which serves one request.
    pub is_stream: bool,
}

/// How its stream is to be read.
#[derive(Debug, Default)]
struct Steering {
    /// A [`Reading`]; it begins with [`Reading::Head`].
    reading: AtomicU8,
    leaves_when_idle: AtomicBool,
    /// A request has come.
    has_asked: AtomicBool,
}

/// How a connection ends.
#[derive(Debug, Default)]
pub(super) struct Ending {
    /// An exchange has failed, perhaps in the middle of its answer.
    has_failed: AtomicBool,
    ends_by_close: AtomicBool,
    is_refused: AtomicBool,
    refused: Mutex<Option<RejectedRequest>>,
}

impl Ending {
    fn refuse(&self, refused: RejectedRequest) {
        *self.refused.lock() = Some(refused);
        self.is_refused.store(true, Relaxed);
    }

    fn take_refused(&self) -> Option<RejectedRequest> {
        if self.is_refused() {
            self.refused.lock().take()
        } else {
            None
        }
    }

    /// Whether a request on it was refused, so that the client may be sending still.
    pub fn is_refused(&self) -> bool {
        self.is_refused.load(Relaxed)
    }

    pub fn has_failed(&self) -> bool {
        self.has_failed.load(Relaxed)
    }

    /// Whether an answer was cut short whose end is the connection's end: only a reset tells the
    /// client that it is not whole.
    pub fn must_be_reset(&self) -> bool {
        self.has_failed() && self.ends_by_close.load(Relaxed)
    }
}

/// What leaves a connection that is more than requests and answers from now on.
#[derive(Debug, Default)]
struct Departure {
    client: Mutex<Option<ClientEnd>>,
    upgraded: Mutex<Option<Upgraded>>,
}

/// One client's connection.
#[derive(Debug)]
pub struct Connection {
    /// Where it came in, with the limits that hold there now.
    state: Arc<ListenerState>,
    origin: Origin,
    steering: Steering,
    ending: Ending,
    departure: Departure,
    deadlines: Arc<Deadlines>,
    is_probe: AtomicBool,
    /// The next head that is written says what the client may upgrade to.
    offers_upgrade: AtomicBool,
    tunnelled: OnceLock<Arc<Traffic>>,
    /// Set apart for the server of its present request, or the next.
    for_server: Mutex<Option<Descriptor>>,
}

impl Connection {
    pub(super) fn new(state: Arc<ListenerState>, origin: Origin) -> Self {
        Self {
            state,
            origin,
            steering: Steering::default(),
            ending: Ending::default(),
            departure: Departure::default(),
            deadlines: Arc::new(Deadlines::new()),
            is_probe: AtomicBool::new(false),
            offers_upgrade: AtomicBool::new(false),
            tunnelled: OnceLock::new(),
            for_server: Mutex::new(Some(Descriptor::hold())),
        }
    }

    /// Which of the bound listeners it came in on.
    pub fn listener(&self) -> BoundId {
        self.state.id
    }

    pub(super) fn state(&self) -> &Arc<ListenerState> {
        &self.state
    }

    /// Who has connected, or whom a PROXY header has named. `None` on a unix socket.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.origin.peer
    }

    pub fn local(&self) -> Option<SocketAddr> {
        self.origin.local
    }

    pub fn security(&self) -> &Security {
        &self.origin.security
    }

    /// What its client has shown.
    pub fn tls_revision(&self) -> TlsRevision {
        self.origin.tls_revision
    }

    /// Whether a PROXY header has named its ends.
    pub fn is_proxied(&self) -> bool {
        self.origin.is_proxied
    }

    pub(super) fn deadlines(&self) -> &Arc<Deadlines> {
        &self.deadlines
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
        self.steering.leaves_when_idle.store(leaves, Relaxed);
    }

    /// Whether another process can go on with it.
    pub fn can_move(&self) -> bool {
        self.origin.can_move
    }

    /// Nobody else takes it.
    pub(super) fn stay(&mut self) {
        self.origin.can_move = false;
    }

    /// Whether it is to move to another process as soon as it stands between two requests.
    pub(super) fn leaves_when_idle(&self) -> bool {
        self.origin.can_move && self.steering.leaves_when_idle.load(Relaxed)
    }

    /// Whether nothing more may be asked on it, however much of a head has come. A stream of HTTP/2
    /// is told so in an answer.
    pub(super) fn is_barred(&self) -> bool {
        self.is_outdated() && !self.is_stream()
    }

    /// What Pingora reads now stands for a request that goes no further.
    pub(super) fn set_refused(&self, refused: RejectedRequest) {
        self.ending.refuse(refused);
    }

    pub fn take_refused(&self) -> Option<RejectedRequest> {
        self.ending.take_refused()
    }

    /// How it ends.
    pub(super) fn ending(&self) -> &Ending {
        &self.ending
    }

    pub fn drain_deadline(&self) -> &DrainDeadline {
        &self.state.drain_deadline
    }

    /// The end of the connection is the end of the present answer: cut short, it must be a reset.
    pub fn end_body_by_close(&self) {
        self.ending.ends_by_close.store(true, Relaxed);
    }

    /// From now on its end is no clean one: an answer that was cut short must not pass for whole.
    pub fn mark_as_failed(&self) {
        self.ending.has_failed.store(true, Relaxed);
    }

    /// Whether the present request is to be the last.
    pub fn is_to_end(&self) -> bool {
        let leaves = self.steering.leaves_when_idle.load(Relaxed);
        let moves_away = !self.origin.can_move && leaves;
        self.is_stream() || moves_away || self.is_outdated()
    }

    /// Whether its listener asks more of clients by now than this one has shown.
    pub fn is_outdated(&self) -> bool {
        self.origin.tls_revision < self.state.tls_revision.get()
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
        self.origin.is_stream
    }

    /// The answer that is about to be written has an `Upgrade` field, for which its `Connection`
    /// must have the option.
    pub fn offer_upgrade(&self) {
        self.offers_upgrade.store(true, Relaxed);
    }

    /// Whether the next head that is written is to get that option.
    pub(super) fn offers_upgrade(&self) -> bool {
        self.offers_upgrade.load(Relaxed)
    }

    /// That head has been written.
    pub(super) fn end_offer(&self) {
        self.offers_upgrade.store(false, Relaxed);
    }

    /// Whether the socket has departed.
    pub fn has_departed(&self) -> bool {
        self.departure.client.lock().is_some()
    }

    /// The socket departs, for whoever [takes](Self::take_departed) it.
    pub(super) fn depart(&self, client: ClientEnd) {
        *self.departure.client.lock() = Some(client);
    }

    pub fn take_departed(&self) -> Option<ClientEnd> {
        self.departure.client.lock().take()
    }

    /// The rest of the session that the socket departed for.
    pub fn set_upgraded(&self, upgraded: Upgraded) {
        *self.departure.upgraded.lock() = Some(upgraded);
    }

    pub fn take_upgraded(&self) -> Option<Upgraded> {
        self.departure.upgraded.lock().take()
    }

    /// From now on a session runs over it, in Pingora's tunnel.
    pub fn open_tunnel(&self, session: Arc<Traffic>) {
        self.tunnelled.get_or_init(|| session);
        self.set_reading(Reading::Open);
    }

    /// The session that runs over it while it stays in Pingora's tunnel.
    pub(super) fn tunnelled(&self) -> Option<&Arc<Traffic>> {
        self.tunnelled.get()
    }

    pub fn set_reading(&self, reading: Reading) {
        self.steering.reading.store(reading as u8, Relaxed);
        if reading != Reading::Head {
            self.steering.has_asked.store(true, Relaxed);
        }
    }

    /// Whether a request has come on it.
    pub(super) fn has_asked(&self) -> bool {
        self.steering.has_asked.load(Relaxed)
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
        match self.steering.reading.load(Relaxed) {
            0 => Reading::Head,
            1 => Reading::Held,
            2 => Reading::Body,
            3 => Reading::Open,
            5 => Reading::Answered,
            _ => Reading::Leave,
        }
    }
}
