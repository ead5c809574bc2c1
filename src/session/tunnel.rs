//! A server's socket with `tunnel: pingora`, as Pingora sees it while a handshake and then a
//! session run over it.
//!
//! Pingora connects through [`TunnelConnector`] (its `custom_l4` road) and gets a [`TunnelStream`], which
//!
//! - ends the read of a response head at its blank line, so that a frame which came in the same
//!   packet as the 101 is read as a frame;
//! - makes the first read wait one turn: Pingora then takes the request's end-of-body from its own
//!   queue before it can see the 101 (the other order kills the session, cloudflare/pingora#946);
//! - reads frame headers in both directions, for counts and close codes;
//! - ends a session that is quiet for longer than `idle`, older than `max_session` or asked to end:
//!   with a Close frame to both sides at a frame boundary, and a short wait for the answer.
//!
//! One timer a session, looked at only when it fires: a message costs no timer.

use std::io;
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

use super::handshake::{Heads, Seen};
use super::relay::CLOSE_WAIT;
use crate::limits::DrainDeadline;
use crate::net::pingora::set_option;
use crate::session::traffic::{ClosedBy, Order, Traffic};
use crate::transport::Transport;
use crate::upstream::Dialer;
use crate::websocket::frames::{CloseCode, FrameScanner, Sender, close_to_client, close_to_server};

/// The limits of one session.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// For the server's whole answer to the handshake.
    pub response: Duration,
    pub idle: Option<Duration>,
    pub max_session: Option<Duration>,
}

/// Going away: what a session is told that prusik ends by itself (RFC 6455 section 7.4.1).
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
    /// Bounded by the peer's `total_connection_timeout`, which Pingora applies around this.
    async fn connect(&self, address: &PeerAddress) -> pingora::Result<Stream> {
        let Some(address) = address.as_inet() else {
            return Error::e_explain(ErrorType::InternalError, "a server without an IP address");
        };
        let io = self.dialer.connect(*address).await?;
        let deadline = self.dialer.drain_deadline.clone();
        let tap = TunnelStream::new(io, self.limits, self.traffic.clone(), deadline);
        Ok(VirtualSocketStream::new(Box::new(tap)).into())
    }
}

#[derive(Debug)]
pub struct TunnelStream {
    io: Transport,
    limits: Limits,
    traffic: Arc<Traffic>,
    /// For the handshake; a session is told by an order.
    drain_deadline: DrainDeadline,
    phase: Phase,
    to_client: FrameScanner,
    to_server: FrameScanner,
    /// Bytes for Pingora's next reads: what came behind the 101, or our own Close frame.
    heads: Heads,
    last_activity: Instant,
    timer: Pin<Box<Sleep>>,
}

#[derive(Debug)]
enum Phase {
    /// Nothing has been read yet: the first read waits one turn.
    Fresh,
    Head,
    /// The server declined: an ordinary response passes.
    Response,
    Open {
        ends: Option<Instant>,
    },
    /// A frame to the client is passing that must be whole before our Close.
    Finishing {
        by: ClosedBy,
        code: u16,
    },
    /// Our Close is out; `to_server`: the server was told too.
    Closing {
        to_server: ServerTold,
    },
    Ended,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ServerTold {
    Yes,
    /// It stands in the middle of a client's frame: what the client sends must go on.
    No,
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
            // Only looked at, here: what Pingora has passed on cannot be taken back.
            to_client: FrameScanner::new(Sender::Server, true),
            to_server: FrameScanner::new(Sender::Client, true),
            heads: Heads::default(),
            last_activity: now,
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
        // A server that never stops sending must not keep a session past its end.
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

    /// Ready when it begins to end: by an order, or because its time is up.
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

    /// At once when the stream to the client stands at a frame boundary; else when the frame that
    /// is passing has passed, for which it gets as long as a goodbye.
    fn begin_close(&mut self, by: ClosedBy, code: u16) {
        self.timer.as_mut().reset(Instant::now() + CLOSE_WAIT);
        if self.to_client.at_boundary() {
            self.say_goodbye(by, code);
        } else {
            self.phase = Phase::Finishing { by, code };
        }
    }

    fn poll_ending(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.phase {
            Phase::Finishing { by, code } => self.poll_finishing(cx, buf, by, code),
            Phase::Ended => Poll::Ready(Ok(())),
            _ => self.poll_closing(cx, buf),
        }
    }

    /// Passes what is left of the server's frame, and not a byte more.
    fn poll_finishing(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
        by: ClosedBy,
        code: u16,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        match Pin::new(&mut self.io).poll_read(cx, buf) {
            Poll::Ready(Ok(())) if buf.filled().len() > before => {
                let rest = self.to_client.left_of_frame(&buf.filled()[before..]);
                buf.set_filled(before + rest);
                self.observe_to_client(&buf.filled()[before..]);
                if self.to_client.at_boundary() {
                    self.say_goodbye(by, code);
                }
                return Poll::Ready(Ok(()));
            }
            Poll::Pending => ready!(self.timer.as_mut().poll(cx)),
            Poll::Ready(_) => {}
        }
        // The server is gone, or stalls in the middle of a frame: no Close can be put in.
        self.traffic.close(by, None);
        self.phase = Phase::Ended;
        Poll::Ready(Ok(()))
    }

    /// Puts a Close frame in towards both sides.
    fn say_goodbye(&mut self, by: ClosedBy, code: u16) {
        self.traffic.close(by, Some(CloseCode::Code(code)));
        self.heads.behind.extend_from_slice(&close_to_client(code));
        let frame = close_to_server(code, rand::random());
        // Best effort: 8 bytes. Part of a frame must not go, and none into another.
        let told = self.to_server.at_boundary() && self.io.send_at_once(&frame) == frame.len();
        self.timer.as_mut().reset(Instant::now() + CLOSE_WAIT);
        let to_server = if told {
            ServerTold::Yes
        } else {
            ServerTold::No
        };
        self.phase = Phase::Closing { to_server };
    }

    fn poll_closing(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.heads.deliver_behind(buf) {
            return Poll::Ready(Ok(()));
        }
        let client_answered = self.to_server.close_code().is_some();
        if !client_answered && self.timer.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        self.phase = Phase::Ended;
        Poll::Ready(Ok(()))
    }

    /// What was polled of a write, unless it waits and the session is to end. Pingora reads nothing
    /// while a write waits, so that this would be heard nowhere else.
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
            Phase::Finishing { .. } | Phase::Closing { .. } => {
                ready!(self.timer.as_mut().poll(cx));
                if let Phase::Finishing { by, .. } = self.phase {
                    self.traffic.close(by, None);
                }
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

    fn observe_to_server(&mut self, bytes: &[u8]) {
        self.last_activity = Instant::now();
        observe(
            &mut self.to_server,
            bytes,
            (&self.traffic.bytes_in, &self.traffic.messages_in),
            (&self.traffic, ClosedBy::Client),
        );
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
        let tap = self.get_mut();
        match tap.phase {
            Phase::Fresh => {
                tap.phase = Phase::Head;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Phase::Closing { .. } | Phase::Finishing { .. } => return tap.poll_ending(cx, buf),
            Phase::Ended => return Poll::Ready(Ok(())),
            _ => {}
        }
        if let Phase::Head = tap.phase {
            return tap.poll_head(cx, buf);
        }
        if tap.heads.deliver_behind(buf) {
            return Poll::Ready(Ok(()));
        }
        match tap.phase {
            Phase::Open { ends } => tap.poll_open(cx, buf, ends),
            _ => {
                tap.drain_deadline.check()?;
                Pin::new(&mut tap.io).poll_read(cx, buf)
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
        let tap = self.get_mut();
        let sent = match tap.phase {
            // The server has had our Close: nothing may follow it (RFC 6455 section 5.5.1).
            Phase::Closing {
                to_server: ServerTold::Yes,
            } => buf.len(),
            _ => {
                let polled = Pin::new(&mut tap.io).poll_write(cx, buf);
                if let Poll::Ready(Err(error)) = &polled
                    && error.kind() == io::ErrorKind::TimedOut
                {
                    // The kernel gave up on it, and says so only once.
                    tap.traffic.close(ClosedBy::Error, None);
                }
                ready!(tap.or_told(cx, polled))?
            }
        };
        if matches!(
            tap.phase,
            Phase::Open { .. } | Phase::Finishing { .. } | Phase::Closing { .. }
        ) {
            tap.observe_to_server(&buf[..sent]);
            if tap.traffic.server_took() {
                // The client's stream is polled by the same task.
                cx.waker().wake_by_ref();
            }
        }
        Poll::Ready(Ok(sent))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let tap = self.get_mut();
        let polled = Pin::new(&mut tap.io).poll_flush(cx);
        tap.or_told(cx, polled)
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
