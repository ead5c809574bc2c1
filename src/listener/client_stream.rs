//! A client's connection, as Pingora reads and writes it.
//!
//! Pingora reads as much as there is, whenever it can; what it has read too early is lost or
//! kills the request. So this stream gives it no more than it can use:
//!
//! - it gets a request's head when that is whole and was found sound, and no byte behind it;
//! - it gets the request's body to its last byte, and none of the request behind it;
//! - while a request without a body is being served, or a handshake awaits its answer, reading is
//!   [held](Reading::Held): bytes wait here (bounded), and only the client's going is noticed;
//! - once a handshake's 101 is out, or when an idle connection is to move to another process, the
//!   socket [leaves](crate::session::ClientEnd): to Pingora the client has gone then.
//!
//! Whatever is awaited here ends when a [deadline](super::deadlines) has struck.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use bytes::BytesMut;
use parking_lot::Mutex;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl,
    TimingDigest, UniqueID, UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufWriter, ReadBuf};
use tokio::time::Instant;

use super::deadlines::Deadlines;
use super::state::ListenerState;
use super::tunnel::Tunnel;
use crate::forward::proxy_protocol::AddrPair;
use crate::limits::DrainDeadline;
use crate::limits::descriptors::Descriptor;
use crate::listener::request_reader::{CUT_HEAD, RejectedRequest, RequestBuffer, SLOW_HEAD};
use crate::session::traffic::{ClosedBy, Traffic};
use crate::session::{Admission, ClientEnd, Upgraded};
use crate::tls::Security;
use crate::tls::TlsRevision;
use crate::transport::Transport;
use crate::upstream::Flow;

/// Holds a response's head and a small body together in one packet.
const WRITE_BUFFER: usize = 1460;

/// How long a refused client may go on sending, so that it reads the rejection: closed with bytes
/// unread, the connection would be reset and the answer with it.
const LINGER: Duration = Duration::from_secs(1);

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
    left: Mutex<Option<ClientEnd>>,
    upgraded: Mutex<Option<Upgraded>>,
    /// The session that runs over it while it stays in Pingora's tunnel.
    pub(super) tunnelled: OnceLock<Arc<Traffic>>,
    is_refused: AtomicBool,
    refused: Mutex<Option<RejectedRequest>>,
    /// Set apart for the server of its present request, or the next.
    for_server: Mutex<Option<Descriptor>>,
}

impl Connection {
    fn new(
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
            left: Mutex::new(None),
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

    /// The answer that is about to be written has an `Upgrade` field, for which its `Connection` must
    /// have the option.
    pub fn offer_upgrade(&self) {
        self.offers_upgrade.store(true, Relaxed);
    }

    /// Whether the socket has left.
    pub fn has_left(&self) -> bool {
        self.left.lock().is_some()
    }

    pub fn take_left(&self) -> Option<ClientEnd> {
        self.left.lock().take()
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

#[derive(Debug)]
pub struct ClientStream {
    /// `None`: it has left.
    pub(super) io: Option<BufWriter<Transport>>,
    pub(super) connection: Arc<Connection>,
    pub(super) buffer: RequestBuffer,
    pub(super) tunnel: Tunnel,
    /// Pingora has been told of the drain's deadline.
    pub(super) is_cut: bool,
    admission: Admission,
}

impl ClientStream {
    /// `early` has been read from it already.
    pub fn new(
        state: Arc<ListenerState>,
        transport: Transport,
        early: BytesMut,
        admission: Admission,
        arrival: Arrival,
    ) -> Self {
        let ends = match (&admission.proxied, arrival) {
            (Some(proxied), _) => Some(**proxied),
            (None, Arrival::New { ends, .. }) => ends,
            (None, Arrival::Moved | Arrival::Stays) => None,
        };
        let mut connection = Connection::new(state, &transport, ends, &admission);
        match arrival {
            Arrival::New { deadline, .. } => {
                connection.set_end(deadline.saturating_duration_since(connection.deadlines.born));
            }
            Arrival::Moved | Arrival::Stays if early.is_empty() => {
                connection.set_deadline_for_idle();
            }
            Arrival::Moved | Arrival::Stays => connection.begin_head(),
        }
        connection.can_move &= !matches!(arrival, Arrival::Stays);
        Self {
            connection: Arc::new(connection),
            io: Some(BufWriter::with_capacity(WRITE_BUFFER, transport)),
            buffer: RequestBuffer::new(early),
            tunnel: Tunnel::default(),
            is_cut: false,
            admission,
        }
    }

    pub fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// Whether it is idle and to end. Who has just connected still gets an answer, and so does who
    /// has asked already.
    pub(super) fn ends_here(&self) -> bool {
        let connection = &self.connection;
        connection.is_to_end() && connection.has_asked.load(Relaxed) && self.buffer.ahead.is_empty()
    }

    /// Whether nothing more may be asked on it, however much of a head has come. A stream of HTTP/2
    /// is told so in an answer.
    pub(super) fn is_barred(&self) -> bool {
        self.connection.is_outdated() && !self.connection.serves_one
    }

    /// Whether it is idle, or in the middle of a head, and to move to another process.
    pub(super) fn leaves_here(&self) -> bool {
        self.connection.can_move && self.connection.leaves_when_idle.load(Relaxed)
    }

    /// Ready when all that was written is on its way and the socket has left.
    pub(super) fn poll_leave(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(io) = &mut self.io {
            ready!(Pin::new(io).poll_flush(cx))?;
        }
        if let Some(io) = self.io.take() {
            *self.connection.left.lock() = Some(ClientEnd {
                transport: io.into_inner(),
                early: self.buffer.ahead.split(),
                ended: self.buffer.ended,
                has_asked: self.connection.has_asked.load(Relaxed),
                admission: std::mem::take(&mut self.admission),
            });
        }
        Poll::Ready(Ok(()))
    }
}

impl ClientStream {
    /// Something waits for the client, and it takes nothing now. For a session TCP keeps the time:
    /// it knows of a client that takes little at a time.
    fn begin_stall(&self) {
        let tcp = self.io.as_ref().and_then(|io| io.get_ref().tcp());
        if self.connection.reading() != Reading::Open || tcp.is_none() {
            let connection = &self.connection;
            connection.deadlines.client_waits(|| connection.stall());
            connection.flow().client_stalls();
        }
    }

    /// A session in Pingora's tunnel ends because its client has vanished, or takes nothing.
    fn note_timeout(&self, error: &io::Error) {
        if error.kind() == io::ErrorKind::TimedOut
            && let Some(session) = self.connection.tunnelled.get()
        {
            session.close(ClosedBy::Error, None);
        }
    }

    /// What was polled, unless it is pending and the exchange's time is up.
    fn or_deadline<T>(&mut self, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            return polled;
        }
        if let Err(cut) = self.check_drain_deadline() {
            return Poll::Ready(Err(cut));
        }
        match self.connection.flow().check_deadline() {
            Ok(()) => polled,
            Err(late) => {
                self.connection.clear_deadline();
                self.note_timeout(&late);
                Poll::Ready(Err(late))
            }
        }
    }
}

/// A response's head whose `Connection`, which Pingora writes by itself, says that `Upgrade` is for
/// this connection (RFC 9110 section 7.8). `None`: it is no such head, or a large one.
fn offer_upgrade(head: &[u8]) -> Option<Vec<u8>> {
    const FIELD: &[u8] = b"\r\nConnection: ";
    const OPTION: &[u8] = b"Upgrade, ";
    if head.len() + OPTION.len() > WRITE_BUFFER {
        return None;
    }
    let value = memchr::memmem::find(head, FIELD)? + FIELD.len();
    Some([&head[..value], OPTION, &head[value..]].concat())
}

impl AsyncRead for ClientStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        stream.connection.flow().client_looks();
        let polled = stream.poll_reading(cx, buf);
        if let Poll::Ready(read) = &polled {
            if let Err(error) = read {
                stream.note_timeout(error);
            }
            stream.connection.deadlines.put_off();
            return polled;
        }
        // Pingora is about to wait. It flushes at a response's end only: what is written so far
        // must not wait with it, or a slow answer would come late and an event stream never.
        if let Some(io) = &mut stream.io
            && !(io.buffer().is_empty() && io.get_ref().is_flushed())
        {
            match Pin::new(io).poll_flush(cx) {
                Poll::Ready(flushed) => {
                    flushed?;
                    stream.connection.deadlines.client_took();
                }
                Poll::Pending => stream.begin_stall(),
            }
        }
        if stream.awaits_head() {
            let is_cut = stream.connection.drain_deadline().has_struck();
            if is_cut || stream.connection.flow().has_struck() {
                let rejection = if is_cut { CUT_HEAD } else { SLOW_HEAD };
                stream.end_wait_for_head(rejection, buf);
                return Poll::Ready(Ok(()));
            }
        }
        stream.or_deadline(Poll::Pending)
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let stream = self.get_mut();
        let Some(io) = &mut stream.io else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        let offer = match stream.connection.offers_upgrade.load(Relaxed) {
            true => offer_upgrade(buf),
            false => None,
        };
        let polled = match &offer {
            // It fits into the buffer: it is taken whole, or not yet.
            Some(head) => Pin::new(&mut *io)
                .poll_write(cx, head)
                .map_ok(|_| buf.len()),
            None => Pin::new(&mut *io).poll_write(cx, buf),
        };
        match &polled {
            Poll::Ready(written) => {
                stream.connection.offers_upgrade.store(false, Relaxed);
                let deadlines = &stream.connection.deadlines;
                deadlines.put_off();
                deadlines.client_took();
                let count = *written.as_ref().unwrap_or(&0);
                deadlines.flow.client_took(count, io.get_ref());
                if let Err(error) = written {
                    stream.note_timeout(error);
                }
            }
            Poll::Pending => stream.begin_stall(),
        }
        stream.or_deadline(polled)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        let Some(io) = &mut stream.io else {
            return Poll::Ready(Ok(()));
        };
        let polled = Pin::new(io).poll_flush(cx);
        match polled.is_ready() {
            true => stream.connection.deadlines.client_took(),
            false => stream.begin_stall(),
        }
        stream.or_deadline(polled)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().io {
            Some(io) => Pin::new(io).poll_shutdown(cx),
            None => Poll::Ready(Ok(())),
        }
    }
}

#[async_trait]
impl Shutdown for ClientStream {
    async fn shutdown(&mut self) {
        let Some(io) = &mut self.io else {
            return;
        };
        let is_refused = self.connection.is_refused.load(Relaxed);
        let lingers = (is_refused || self.connection.timed_out()) && !self.buffer.ended;
        let ending = async {
            if let Err(error) = io.shutdown().await {
                log::debug!("closing a client's connection: {error}");
            } else if lingers {
                let mut unread = [0; 4096];
                while io.read(&mut unread).await.is_ok_and(|read| read > 0) {}
            }
        };
        // Whoever is not done by then is cut.
        let _ = tokio::time::timeout(LINGER, ending).await;
    }
}

/// Pingora drops idle connections without a word. By TLS a client wants one.
impl Drop for ClientStream {
    fn drop(&mut self) {
        let connection = &self.connection;
        let is_idle = connection.reading() == Reading::Head && self.buffer.ahead.is_empty();
        let Some(io) = &mut self.io else {
            return;
        };
        if connection.has_failed.load(Relaxed) {
            if connection.ends_by_close.load(Relaxed) {
                io.get_mut().reset_when_dropped();
            }
        } else if is_idle {
            io.get_mut().part();
        }
    }
}

impl UniqueID for ClientStream {
    fn id(&self) -> UniqueIDType {
        self.io
            .as_ref()
            .and_then(|io| io.get_ref().tcp())
            .map_or(-1, |tcp| tcp.as_raw_fd())
    }
}

impl Ssl for ClientStream {}

impl Peek for ClientStream {}

impl GetTimingDigest for ClientStream {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for ClientStream {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for ClientStream {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        None
    }
}
