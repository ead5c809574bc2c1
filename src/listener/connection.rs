//! What the proxy's phases know of a client's connection, and how they control its stream.
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
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
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
use crate::transport::Mobility;
use crate::upstream::Flow;

/// How Pingora's next reads are to be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Reading {
    /// A head of a request is awaited. No byte after its blank line is given out.
    Head = 0,
    /// Nothing is awaited. Bytes wait, and only the end of the connection is reported.
    Held = 1,
    /// As `Held`, but a client that has ended only its own direction still gets its answer.
    Answered = 5,
    /// The body of the request is awaited. No byte after its end is given out.
    Body = 2,
    /// A session is running: everything is given out as it comes.
    Open = 3,
    /// A 101 is being written. After it the socket leaves.
    Leave = 4,
}

/// Where a connection comes from, and what it can do. This does not change while it is served.
#[derive(Debug)]
pub(super) struct Origin {
    /// The address of the client, or the one in the PROXY header. `None` on a unix socket.
    pub peer: Option<SocketAddr>,
    pub local: Option<SocketAddr>,
    pub security: Security,
    /// What the client has shown in its TLS handshake.
    pub tls_revision: TlsRevision,
    /// Whether the addresses are those of a PROXY header.
    pub is_proxied: bool,
    /// How another process can continue the connection.
    pub mobility: Mobility,
    /// Whether this is a stream of HTTP/2, which serves only one request.
    pub is_stream: bool,
}

/// What a connection does between two requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenIdle {
    /// It waits for the next one.
    Waits = 0,
    /// Its socket leaves, for another process.
    Leaves = 1,
    /// It ends, because no other process takes it.
    Ends = 2,
}

/// How the connection is to be read.
#[derive(Debug, Default)]
struct Steering {
    /// A [`Reading`]. The first is [`Reading::Head`].
    reading: AtomicU8,
    /// A [`WhenIdle`].
    when_idle: AtomicU8,
    /// Whether a request has come.
    has_asked: AtomicBool,
}

/// How a connection ends.
#[derive(Debug, Default)]
pub(super) struct Ending {
    /// Whether an exchange has failed, perhaps in the middle of its answer.
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

    /// Whether a request was refused, so that the client may still be sending.
    pub fn is_refused(&self) -> bool {
        self.is_refused.load(Relaxed)
    }

    pub fn has_failed(&self) -> bool {
        self.has_failed.load(Relaxed)
    }

    /// Whether an answer was cut short that ends with the connection. Then only a reset tells the
    /// client that the answer is not complete.
    pub fn must_be_reset(&self) -> bool {
        self.has_failed() && self.ends_by_close.load(Relaxed)
    }
}

/// What leaves together with the socket of a session or of a connection that moves.
#[derive(Debug, Default)]
struct Departure {
    client: Mutex<Option<ClientEnd>>,
    upgraded: Mutex<Option<Upgraded>>,
}

/// One client's connection.
#[derive(Debug)]
pub struct Connection {
    /// The listener where the connection came in, with its present limits.
    state: Arc<ListenerState>,
    origin: Origin,
    steering: Steering,
    ending: Ending,
    departure: Departure,
    deadlines: Arc<Deadlines>,
    is_probe: AtomicBool,
    /// Whether the next head that is written tells which upgrades the client may ask for.
    offers_upgrade: AtomicBool,
    /// The largest body that the route of the present request takes.
    body_size: AtomicU64,
    tunnelled: OnceLock<Arc<Traffic>>,
    /// Reserved for the connection to the server of the present or the next request.
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
            body_size: AtomicU64::new(u64::MAX),
            tunnelled: OnceLock::new(),
            for_server: Mutex::new(Some(Descriptor::hold())),
        }
    }

    /// The bound listener where the connection came in.
    pub fn listener(&self) -> BoundId {
        self.state.id
    }

    pub(super) fn state(&self) -> &Arc<ListenerState> {
        &self.state
    }

    /// The address of the client, or the one in the PROXY header. `None` on a unix socket.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.origin.peer
    }

    pub fn local(&self) -> Option<SocketAddr> {
        self.origin.local
    }

    pub fn security(&self) -> &Security {
        &self.origin.security
    }

    /// What the client has shown in its TLS handshake.
    pub fn tls_revision(&self) -> TlsRevision {
        self.origin.tls_revision
    }

    /// Whether the addresses are those of a PROXY header.
    pub fn is_proxied(&self) -> bool {
        self.origin.is_proxied
    }

    pub(super) fn deadlines(&self) -> &Arc<Deadlines> {
        &self.deadlines
    }

    /// Called when a request may need a server: reserves a descriptor.
    pub fn set_server_apart(&self) {
        self.for_server.lock().get_or_insert_with(Descriptor::hold);
    }

    /// Called when no server is needed, or when the session counts its own descriptor.
    pub fn needs_no_server(&self) {
        self.for_server.lock().take();
    }

    /// Sets what happens from now on between two requests. The stream must be polled after this
    /// call.
    pub fn set_when_idle(&self, what: WhenIdle) {
        self.steering.when_idle.store(what as u8, Relaxed);
    }

    fn does_when_idle(&self, what: WhenIdle) -> bool {
        self.steering.when_idle.load(Relaxed) == what as u8
    }

    /// How another process can continue the connection.
    pub fn mobility(&self) -> Mobility {
        self.origin.mobility
    }

    /// No other process takes the connection.
    pub(super) fn stay(&mut self) {
        self.origin.mobility = Mobility::Never;
    }

    /// Whether the connection is to move to another process as soon as it is between two requests.
    pub(super) fn leaves_when_idle(&self) -> bool {
        self.does_when_idle(WhenIdle::Leaves)
    }

    /// Whether no further request is served, even if a part of its head has come. A stream of
    /// HTTP/2 is told so in an answer.
    pub(super) fn is_barred(&self) -> bool {
        self.is_outdated() && !self.is_stream()
    }

    /// The request that Pingora reads now is a substitute for one that goes no further.
    pub(super) fn set_refused(&self, refused: RejectedRequest) {
        self.ending.refuse(refused);
    }

    pub fn take_refused(&self) -> Option<RejectedRequest> {
        self.ending.take_refused()
    }

    /// How the connection ends.
    pub(super) fn ending(&self) -> &Ending {
        &self.ending
    }

    pub fn drain_deadline(&self) -> &DrainDeadline {
        &self.state.drain_deadline
    }

    /// The present answer ends with the connection, so if it is cut short a reset is needed.
    pub fn end_body_by_close(&self) {
        self.ending.ends_by_close.store(true, Relaxed);
    }

    /// From now on the connection must not end cleanly: a part of an answer must not look complete.
    pub fn mark_as_failed(&self) {
        self.ending.has_failed.store(true, Relaxed);
    }

    /// Whether the present request is the last one.
    pub fn is_to_end(&self) -> bool {
        self.is_stream() || self.does_when_idle(WhenIdle::Ends) || self.is_outdated()
    }

    /// Whether the listener now demands more of clients than this one has shown.
    pub fn is_outdated(&self) -> bool {
        self.origin.tls_revision < self.state.tls_revision.get()
    }

    /// The next request is made by prusik itself.
    pub fn mark_as_probe(&self) {
        self.is_probe.store(true, Relaxed);
    }

    /// Whether the request is made by prusik itself, and so has no line in the log.
    pub fn is_probe(&self) -> bool {
        self.is_probe.load(Relaxed)
    }

    /// Whether this is a stream of HTTP/2.
    pub fn is_stream(&self) -> bool {
        self.origin.is_stream
    }

    /// The answer that will be written next has an `Upgrade` field, so its `Connection` field needs
    /// the `upgrade` option.
    pub fn offer_upgrade(&self) {
        self.offers_upgrade.store(true, Relaxed);
    }

    /// Whether the next head that is written needs that option.
    pub(super) fn offers_upgrade(&self) -> bool {
        self.offers_upgrade.load(Relaxed)
    }

    /// The head with that option has been written.
    pub(super) fn end_offer(&self) {
        self.offers_upgrade.store(false, Relaxed);
    }

    /// Whether the socket has departed.
    pub fn has_departed(&self) -> bool {
        self.departure.client.lock().is_some()
    }

    /// The socket departs. The caller of [`take_departed`](Self::take_departed) gets it.
    pub(super) fn depart(&self, client: ClientEnd) {
        *self.departure.client.lock() = Some(client);
    }

    pub fn take_departed(&self) -> Option<ClientEnd> {
        self.departure.client.lock().take()
    }

    /// The other parts of the session for which the socket departed.
    pub fn set_upgraded(&self, upgraded: Upgraded) {
        *self.departure.upgraded.lock() = Some(upgraded);
    }

    pub fn take_upgraded(&self) -> Option<Upgraded> {
        self.departure.upgraded.lock().take()
    }

    /// From now on a session runs over this connection, in Pingora's tunnel.
    pub fn open_tunnel(&self, session: Arc<Traffic>) {
        self.tunnelled.get_or_init(|| session);
        self.set_reading(Reading::Open);
    }

    /// The session that runs over this connection in Pingora's tunnel.
    pub(super) fn tunnelled(&self) -> Option<&Arc<Traffic>> {
        self.tunnelled.get()
    }

    pub fn set_reading(&self, reading: Reading) {
        self.steering.reading.store(reading as u8, Relaxed);
        if reading != Reading::Head {
            self.steering.has_asked.store(true, Relaxed);
        }
    }

    /// Whether a request has come on this connection.
    pub(super) fn has_asked(&self) -> bool {
        self.steering.has_asked.load(Relaxed)
    }

    /// From now on the exchange fails if nothing moves between us and the client for this long,
    /// until another deadline is set.
    pub fn set_deadline(&self, within: Duration) {
        self.deadlines.set_progress(within);
    }

    /// From now on the exchange fails after this time, even if bytes move.
    pub fn set_end(&self, after: Duration) {
        self.deadlines.set_end(after);
    }

    /// Sets how large the body of the present request may be. `None`: any size.
    pub fn limit_body(&self, most: Option<u64>) {
        self.body_size.store(most.unwrap_or(u64::MAX), Relaxed);
    }

    /// How large the body of the present request may be.
    pub(super) fn most_of_body(&self) -> u64 {
        let listener = self.state.limits().body_size.unwrap_or(u64::MAX);
        listener.min(self.body_size.load(Relaxed))
    }

    /// The request is refused while its body may still be on its way. Nobody reads that, but the
    /// client must be able to read the answer.
    pub fn refuse_body(&self) {
        self.ending.is_refused.store(true, Relaxed);
    }

    /// How long the client may take nothing of the bytes that wait for it.
    pub fn stall(&self) -> Duration {
        self.state.limits().stall
    }

    /// What the streams of the client and the server know of each other.
    pub fn flow(&self) -> &Arc<Flow> {
        &self.deadlines.flow
    }

    /// Whether an exchange ended because the client took nothing of the bytes that waited for it.
    pub fn client_has_stalled(&self) -> bool {
        self.deadlines.client_has_stalled()
    }

    /// The same for the server.
    pub fn server_has_stalled(&self) -> bool {
        self.deadlines.server_has_stalled()
    }

    /// The connection ends if the next head does not begin within the listener's `idle`.
    pub fn set_deadline_for_idle(&self) {
        self.set_deadline(self.state.limits().idle);
    }

    /// A part of a head has come. The rest must come within the listener's `header_timeout`.
    pub(super) fn begin_head(&self) {
        if !self.deadlines.has_end() {
            self.clear_deadline();
            self.set_end(self.state.limits().header_timeout);
        }
    }

    pub fn clear_deadline(&self) {
        self.deadlines.clear();
    }

    /// Whether something failed because a deadline had struck.
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
