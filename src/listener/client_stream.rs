//! A client's connection, as Pingora reads and writes it.
//!
//! Pingora reads as much as there is, whenever it can; bytes that it reads too early are lost or
//! make the request fail. So this stream gives Pingora no more than it can use:
//!
//! - the head of a request when it is whole and was found sound, and no byte after it;
//! - the body of the request to its last byte, and no byte of the next request;
//! - nothing while a request without a body is served, or a handshake awaits its answer: reading
//!   is [held](Reading::Held), a limited number of bytes waits here, and only the client's end is
//!   noticed;
//! - an end once the 101 of a handshake is sent, or when an idle connection moves to another
//!   process: the socket then [leaves](crate::session::ClientEnd), and to Pingora the client is
//!   gone.
//!
//! Every wait here ends when a [deadline](super::deadlines) has struck.

use std::io;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use async_trait::async_trait;
use bytes::BytesMut;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl,
    TimingDigest, UniqueID, UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufWriter, ReadBuf};
use tokio::time::Instant;

use super::connection::{Connection, Origin, Reading};
use super::request_reader::{CUT_HEAD, RequestReader, SLOW_HEAD};
use super::state::ListenerState;
use super::tunnel::Tunnel;
use super::upgrade_offer::offer_upgrade;
use crate::forward::proxy_protocol::AddrPair;
use crate::net::linger::LINGER;
use crate::session::traffic::ClosedBy;
use crate::session::{Admission, ClientEnd};
use crate::transport::Transport;

/// Large enough to send a response's head and a small body in one packet.
const WRITE_BUFFER: usize = 1460;

/// Where a connection comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// The connection was just accepted.
    New {
        /// When the first head must be there.
        deadline: Instant,
        /// The addresses that the kernel has given. `None`: ask the kernel, or there are none.
        ends: Option<AddrPair>,
    },
    /// The connection was served before, here or by another process.
    Moved,
    /// As `Moved`, but no other process takes the connection: it gets one answer, and ends.
    Stays,
}

#[derive(Debug)]
pub struct ClientStream {
    /// `None` once the socket has departed.
    io: Option<BufWriter<Transport>>,
    pub(super) connection: Arc<Connection>,
    reader: RequestReader,
    tunnel: Tunnel,
    /// Whether Pingora has been told of the drain's deadline.
    pub(super) is_cut: bool,
    admission: Admission,
}

impl ClientStream {
    /// `early`: bytes that were already read from the connection.
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
        let origin = origin(&transport, ends, &admission);
        let mut connection = Connection::new(state, origin);
        match arrival {
            Arrival::New { deadline, .. } => {
                connection.set_end(deadline.saturating_duration_since(connection.deadlines().born));
            }
            Arrival::Moved | Arrival::Stays if early.is_empty() => {
                connection.set_deadline_for_idle();
            }
            Arrival::Moved | Arrival::Stays => connection.begin_head(),
        }
        if arrival == Arrival::Stays {
            connection.stay();
        }
        Self {
            connection: Arc::new(connection),
            io: Some(BufWriter::with_capacity(WRITE_BUFFER, transport)),
            reader: RequestReader::new(early),
            tunnel: Tunnel::default(),
            is_cut: false,
            admission,
        }
    }

    pub fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    fn poll_reading(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let connection = &self.connection;
        let reading = connection.reading();
        if reading == Reading::Head && self.reader.is_between_requests() {
            // A client that has just connected still gets an answer, and so does one that has
            // asked.
            let is_idle = connection.has_asked() && self.reader.is_empty();
            if connection.is_to_end() && is_idle || connection.is_barred() {
                return Poll::Ready(Ok(()));
            }
            // The connection may be in the middle of a head. Those bytes move with it.
            if connection.leaves_when_idle() {
                return self.poll_leave(cx);
            }
        }
        let (socket, reader) = (&mut self.io, &mut self.reader);
        match reading {
            Reading::Held => reader.poll_held(socket, cx),
            Reading::Answered => reader.poll_answered(socket, cx),
            Reading::Open => {
                let session = self.connection.tunnelled().map(Arc::as_ref);
                self.tunnel.poll(session, reader, socket, cx, buf)
            }
            Reading::Leave => self.poll_leave(cx),
            Reading::Head | Reading::Body => reader.poll(socket, &self.connection, cx, buf),
        }
    }

    /// Whether the next bytes belong to a head.
    fn awaits_head(&self) -> bool {
        self.connection.reading() == Reading::Head
            && self.reader.is_between_requests()
            && self.io.is_some()
    }

    /// Ready when everything that was written is sent and the socket has departed.
    fn poll_leave(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(io) = &mut self.io {
            ready!(Pin::new(io).poll_flush(cx))?;
        }
        if let Some(io) = self.io.take() {
            self.connection.depart(ClientEnd {
                transport: io.into_inner(),
                early: self.reader.take_early(),
                ended: self.reader.has_ended(),
                has_asked: self.connection.has_asked(),
                admission: std::mem::take(&mut self.admission),
            });
        }
        Poll::Ready(Ok(()))
    }
}

/// `ends`: the addresses from the kernel or a PROXY header, if known; else the transport is asked.
fn origin(transport: &Transport, ends: Option<AddrPair>, admission: &Admission) -> Origin {
    let (peer, local) = match ends {
        Some(ends) => (Some(ends.peer), Some(ends.local)),
        None => (transport.peer(), transport.local()),
    };
    Origin {
        peer,
        local,
        security: transport.security(),
        tls_revision: admission.tls_revision,
        is_proxied: admission.proxied.is_some(),
        mobility: transport.mobility(),
        is_stream: transport.serves_one(),
    }
}

impl ClientStream {
    /// Starts the stall clock: data waits for the client, and the client takes nothing now. For a
    /// session TCP measures the time, because TCP notices a client that takes only a little at a
    /// time.
    fn begin_stall(&self) {
        let tcp = self.io.as_ref().and_then(|io| io.get_ref().tcp());
        if self.connection.reading() != Reading::Open || tcp.is_none() {
            let connection = &self.connection;
            connection.deadlines().client_waits(|| connection.stall());
            connection.flow().client_stalls();
        }
    }

    /// Notes that a session in Pingora's tunnel ends because its client has vanished or takes
    /// nothing.
    fn note_timeout(&self, error: &io::Error) {
        if error.kind() == io::ErrorKind::TimedOut
            && let Some(session) = self.connection.tunnelled()
        {
            session.close(ClosedBy::Error, None);
        }
    }

    /// Returns the result of a poll, or an error if it is pending and the exchange's time is up.
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
            stream.connection.deadlines().put_off();
            return polled;
        }
        // Pingora is about to wait. It flushes only at the end of a response, so what is written so
        // far must be sent now. Else a slow answer would come late, and an event stream never.
        if let Some(io) = &mut stream.io
            && !(io.buffer().is_empty() && io.get_ref().is_flushed())
        {
            match Pin::new(io).poll_flush(cx) {
                Poll::Ready(flushed) => {
                    flushed?;
                    stream.connection.deadlines().client_took();
                }
                Poll::Pending => stream.begin_stall(),
            }
        }
        if stream.awaits_head() {
            let is_cut = stream.connection.drain_deadline().has_struck();
            if is_cut || stream.connection.flow().has_struck() {
                let rejection = if is_cut { CUT_HEAD } else { SLOW_HEAD };
                let connection = &stream.connection;
                stream.reader.end_wait_for_head(rejection, connection, buf);
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
        let offers = stream.connection.offers_upgrade();
        let offer = offers.then(|| offer_upgrade(buf, WRITE_BUFFER)).flatten();
        let polled = match &offer {
            // The buffer takes the head as a whole, or not yet.
            Some(head) => Pin::new(&mut *io)
                .poll_write(cx, head)
                .map_ok(|_| buf.len()),
            None => Pin::new(&mut *io).poll_write(cx, buf),
        };
        match &polled {
            Poll::Ready(written) => {
                stream.connection.end_offer();
                let deadlines = stream.connection.deadlines();
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
            true => stream.connection.deadlines().client_took(),
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
        let is_refused = self.connection.ending().is_refused();
        let lingers = (is_refused || self.connection.timed_out()) && !self.reader.has_ended();
        let ending = async {
            if let Err(error) = io.shutdown().await {
                log::debug!("closing a client's connection: {error}");
            } else if lingers {
                let mut unread = [0; 4096];
                while io.read(&mut unread).await.is_ok_and(|read| read > 0) {}
            }
        };
        // A client that takes longer is cut.
        let _ = tokio::time::timeout(LINGER, ending).await;
    }
}

/// Pingora drops idle connections without notice. A client of TLS expects a close_notify.
impl Drop for ClientStream {
    fn drop(&mut self) {
        let connection = &self.connection;
        let is_idle = connection.reading() == Reading::Head && self.reader.is_empty();
        let Some(io) = &mut self.io else {
            return;
        };
        let ending = connection.ending();
        if ending.must_be_reset() {
            io.get_mut().reset_when_dropped();
        } else if is_idle && !ending.has_failed() {
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
