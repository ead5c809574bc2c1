//! A server's socket with `tunnel: pingora`, as Pingora sees it while a handshake and then a
//! session run over it.
//!
//! Pingora connects through [`TunnelConnector`] (its `custom_l4` option) and gets a
//! [`TunnelStream`], which
//!
//! - ends the read of a response head at its blank line, so that a frame which came in the same
//!   packet as the 101 is read as a frame;
//! - makes the first read wait for one poll: Pingora then takes the request's end-of-body from its
//!   own queue before it can see the 101 (otherwise it ends the session, cloudflare/pingora#946);
//! - reads frame headers in both directions, for counts and close codes;
//! - ends a session that was quiet for longer than `idle`, is older than `max_session` or was asked
//!   to end: it sends a Close frame to both sides at a frame boundary, and waits a short time for
//!   the answer ([`Goodbye`] decides what is sent when); the same for a client that sends more
//!   messages than it may. What has come with the one too many has gone to the server by then.
//!
//! There is one timer for each session, and no timer is set for a message.

mod ending;

use std::io;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use pingora::connectors::l4::Connect;
use pingora::protocols::l4::socket::SocketAddr as PeerAddress;
use pingora::protocols::l4::stream::Stream;
use pingora::protocols::l4::virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream};
use pingora::{Error, ErrorType};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::direction::Direction;
use super::goodbye::{Goodbye, Limit, Next};
use super::handshake::{Heads, Seen};
use super::message_rate::MessageRate;
use super::relay::POLICY;
use crate::limits::DrainDeadline;
use crate::net::pingora::set_option;
use crate::session::traffic::{ClosedBy, Order, Traffic};
use crate::transport::Transport;
use crate::upstream::Dialer;
use crate::websocket::frames::{FrameScanner, Sender};
use ending::position;

/// The limits of one session.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How long the server's whole answer to the handshake may take.
    pub response: Duration,
    pub idle: Option<Duration>,
    pub max_session: Option<Duration>,
    pub messages_per_second: Option<NonZeroU32>,
}

/// The close code "going away", for sessions that prusik itself ends (RFC 6455 section 7.4.1).
const GOING_AWAY: u16 = 1001;

/// Connects one handshake attempt to one server.
#[derive(Debug)]
pub struct TunnelConnector {
    pub limits: Limits,
    pub dialer: Dialer,
    pub traffic: Arc<Traffic>,
}

#[async_trait]
impl Connect for TunnelConnector {
    /// Pingora limits this call by the peer's `total_connection_timeout`.
    async fn connect(&self, address: &PeerAddress) -> pingora::Result<Stream> {
        let Some(address) = address.as_inet() else {
            return Error::e_explain(ErrorType::InternalError, "a server without an IP address");
        };
        let io = self.dialer.connect(*address).await?;
        let deadline = self.dialer.drain_deadline.clone();
        let tunnel = TunnelStream::new(io, self.limits, self.traffic.clone(), deadline);
        Ok(VirtualSocketStream::new(Box::new(tunnel)).into())
    }
}

#[derive(Debug)]
pub struct TunnelStream {
    io: Transport,
    limits: Limits,
    traffic: Arc<Traffic>,
    /// Ends the handshake at the drain's deadline. A session gets an order instead.
    drain_deadline: DrainDeadline,
    phase: Phase,
    to_client: FrameScanner,
    to_server: FrameScanner,
    /// Bytes for Pingora's next reads: those after the 101, or our own Close frame.
    heads: Heads,
    last_activity: Instant,
    message_rate: Option<MessageRate>,
    timer: Pin<Box<Sleep>>,
}

#[derive(Debug)]
enum Phase {
    /// Nothing has been read yet: the first read waits for one poll.
    Fresh,
    Head,
    /// The server declined: an ordinary response passes through.
    Response,
    Open {
        ends: Option<Instant>,
    },
    Ending {
        goodbye: Goodbye,
        /// Whether our close code goes into the log once the client is told.
        is_cause: bool,
    },
    Ended,
}

impl TunnelStream {
    fn new(
        io: Transport,
        limits: Limits,
        traffic: Arc<Traffic>,
        drain_deadline: DrainDeadline,
    ) -> Self {
        let now = Instant::now();
        Self {
            io,
            limits,
            traffic,
            drain_deadline,
            phase: Phase::Fresh,
            // This scanner only observes: what Pingora has passed on cannot be taken back.
            to_client: FrameScanner::new(Sender::Server, true),
            to_server: FrameScanner::new(Sender::Client, true),
            heads: Heads::default(),
            last_activity: now,
            message_rate: limits
                .messages_per_second
                .map(|rate| MessageRate::new(rate, now)),
            timer: Box::pin(tokio::time::sleep_until(now + limits.response)),
        }
    }

    fn poll_head(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.drain_deadline.check()?;
        let deadline = (&mut self.timer, &*self.traffic);
        match ready!(self.heads.poll_read(&mut self.io, deadline, cx, buf))? {
            Seen::NotYet => {}
            Seen::Switched => self.phase = self.open(),
            Seen::Declined => self.phase = Phase::Response,
        }
        Poll::Ready(Ok(()))
    }

    fn open(&mut self) -> Phase {
        self.traffic.establish();
        self.last_activity = Instant::now();
        self.observe_to_client(&self.heads.behind.clone());
        let ends = self
            .limits
            .max_session
            .map(|limit| self.last_activity + limit);
        if let Some(due) = self.due(ends) {
            self.timer.as_mut().reset(due);
        }
        Phase::Open { ends }
    }

    /// When the session ends if nothing more passes.
    fn due(&self, ends: Option<Instant>) -> Option<Instant> {
        let idle = self.limits.idle.map(|idle| self.last_activity + idle);
        idle.into_iter().chain(ends).min()
    }

    fn poll_open(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
        ends: Option<Instant>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        // A server that never stops sending must not extend a session past its end.
        if ends.is_some() && ends <= Some(self.last_activity) {
            self.begin_close(ClosedBy::MaxSession, GOING_AWAY);
            return self.poll_ending(cx, buf);
        }
        match Pin::new(&mut self.io).poll_read(cx, buf) {
            Poll::Ready(Ok(())) if buf.filled().len() > before => {
                self.last_activity = Instant::now();
                self.observe_to_client(&buf.filled()[before..]);
                return Poll::Ready(Ok(()));
            }
            Poll::Ready(end) => {
                let by = match &end {
                    // The kernel gave up on a server that answers nothing any more.
                    Err(error) if error.kind() == io::ErrorKind::TimedOut => ClosedBy::Error,
                    _ => ClosedBy::Server,
                };
                self.traffic.close(by, None);
                self.phase = Phase::Ended;
                return Poll::Ready(end);
            }
            Poll::Pending => {}
        }
        ready!(self.poll_told(cx, ends));
        self.poll_ending(cx, buf)
    }

    /// Ready when the session begins to end, because of an order or because its time is up.
    fn poll_told(&mut self, cx: &mut Context<'_>, ends: Option<Instant>) -> Poll<()> {
        self.traffic.wake_on_order(cx.waker());
        match self.traffic.order() {
            Some(Order::End { by, code }) => {
                self.begin_close(by, code);
                return Poll::Ready(());
            }
            Some(Order::Cut { by }) => {
                self.traffic.close(by, None);
                self.phase = Phase::Ended;
                return Poll::Ready(());
            }
            None => {}
        }
        loop {
            let Some(due) = self.due(ends) else {
                return Poll::Pending;
            };
            let now = Instant::now();
            if now >= due {
                let by = if ends == Some(due) {
                    ClosedBy::MaxSession
                } else {
                    ClosedBy::Idle
                };
                self.begin_close(by, GOING_AWAY);
                return Poll::Ready(());
            }
            if self.timer.deadline() != due {
                self.timer.as_mut().reset(due);
            }
            ready!(self.timer.as_mut().poll(cx));
        }
    }

    /// Returns the result of a write, unless the write waits and the session is to end. While a
    /// write waits Pingora does not read, so the order would not be noticed elsewhere.
    fn or_told<T>(
        &mut self,
        cx: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            return polled;
        }
        match self.phase {
            Phase::Open { ends } => ready!(self.poll_told(cx, ends)),
            Phase::Ending { .. } => {
                ready!(self.poll_time_up(cx));
                self.phase = Phase::Ended;
            }
            Phase::Fresh | Phase::Head | Phase::Response => {
                self.drain_deadline.check()?;
                return Poll::Pending;
            }
            Phase::Ended => {}
        }
        Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
    }

    fn observe_to_client(&mut self, bytes: &[u8]) {
        observe(
            &mut self.to_client,
            bytes,
            (&self.traffic.bytes_out, &self.traffic.messages_out),
            (&self.traffic, ClosedBy::Server),
        );
    }

    /// Returns whether the client has sent more messages than it may.
    fn observe_to_server(&mut self, bytes: &[u8]) -> bool {
        self.last_activity = Instant::now();
        let before = self.to_server.messages();
        observe(
            &mut self.to_server,
            bytes,
            (&self.traffic.bytes_in, &self.traffic.messages_in),
            (&self.traffic, ClosedBy::Client),
        );
        let messages = self.to_server.messages() - before;
        let rate = self.message_rate.as_mut();
        rate.is_some_and(|rate| !rate.take(messages, self.last_activity))
    }
}

type Counter = std::sync::atomic::AtomicU64;

fn observe(
    scanner: &mut FrameScanner,
    bytes: &[u8],
    (byte_count, message_count): (&Counter, &Counter),
    (traffic, side): (&Traffic, ClosedBy),
) {
    use std::sync::atomic::Ordering::Relaxed;
    scanner.feed(bytes);
    byte_count.fetch_add(bytes.len() as u64, Relaxed);
    message_count.store(scanner.messages(), Relaxed);
    if let Some(code) = scanner.close_code() {
        traffic.close(side, Some(code));
    }
}

impl AsyncRead for TunnelStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let tunnel = self.get_mut();
        match tunnel.phase {
            Phase::Fresh => {
                tunnel.phase = Phase::Head;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Phase::Ending { .. } => return tunnel.poll_ending(cx, buf),
            Phase::Ended => return Poll::Ready(Ok(())),
            _ => {}
        }
        if let Phase::Head = tunnel.phase {
            return tunnel.poll_head(cx, buf);
        }
        if tunnel.heads.deliver_behind(buf) {
            return Poll::Ready(Ok(()));
        }
        match tunnel.phase {
            Phase::Open { ends } => tunnel.poll_open(cx, buf, ends),
            _ => {
                tunnel.drain_deadline.check()?;
                Pin::new(&mut tunnel.io).poll_read(cx, buf)
            }
        }
    }
}

impl AsyncWrite for TunnelStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let tunnel = self.get_mut();
        let next = match &mut tunnel.phase {
            Phase::Ending { goodbye, .. } => {
                goodbye.next(Direction::ToServer, position(&tunnel.to_server))
            }
            _ => Next::Pass(Limit::All),
        };
        let sent = match next {
            // The server has our Close frame: nothing may follow it (RFC 6455 section 5.5.1).
            Next::Discard => buf.len(),
            _ => {
                let polled = Pin::new(&mut tunnel.io).poll_write(cx, buf);
                if let Poll::Ready(Err(error)) = &polled
                    && error.kind() == io::ErrorKind::TimedOut
                {
                    // The kernel gave up on the server, and reports this only once.
                    tunnel.traffic.close(ClosedBy::Error, None);
                }
                ready!(tunnel.or_told(cx, polled))?
            }
        };
        if matches!(tunnel.phase, Phase::Open { .. } | Phase::Ending { .. }) {
            let is_too_fast = tunnel.observe_to_server(&buf[..sent]);
            if is_too_fast && matches!(tunnel.phase, Phase::Open { .. }) {
                tunnel.begin_close(ClosedBy::Limit, POLICY);
                // The same task reads what the client is told.
                cx.waker().wake_by_ref();
            }
            if tunnel.traffic.server_took() {
                // The same task polls the client's stream.
                cx.waker().wake_by_ref();
            }
        }
        Poll::Ready(Ok(sent))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let tunnel = self.get_mut();
        let polled = Pin::new(&mut tunnel.io).poll_flush(cx);
        tunnel.or_told(cx, polled)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

impl VirtualSocket for TunnelStream {
    fn set_socket_option(&self, option: VirtualSockOpt) -> io::Result<()> {
        set_option(self.io.tcp(), option)
    }
}
