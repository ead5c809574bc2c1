//! A server's socket, as Pingora sees it during a handshake. After the 101, the socket leaves
//! Pingora.
//!
//! Pingora connects through [`HandshakeConnector`] (its `custom_l4` option) and gets a
//! [`HandshakeStream`], which
//!
//! - ends the read of a response head at its blank line, and keeps the bytes after it;
//! - makes the first read wait for one poll: Pingora then takes the request's end-of-body from its
//!   own queue before it can see the 101 (otherwise it ends the session, cloudflare/pingora#946);
//! - hands over the socket to the relay once the server has answered 101. To Pingora the server
//!   is silent from then on.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use bytes::BytesMut;
use parking_lot::Mutex;
use pingora::connectors::l4::Connect;
use pingora::protocols::l4::socket::SocketAddr as PeerAddress;
use pingora::protocols::l4::stream::Stream;
use pingora::protocols::l4::virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream};
use pingora::{Error, ErrorType};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::traffic::Traffic;
use crate::http1::head_end::HeadEnd;
use crate::limits::DrainDeadline;
use crate::net::pingora::{is_last_look, set_option};
use crate::transport::Transport;
use crate::upstream::Dialer;

/// Holds the socket of a server that has answered 101 until the relay takes it.
#[derive(Debug, Default)]
pub struct ServerEnd(Mutex<Option<(Transport, BytesMut)>>);

impl ServerEnd {
    fn put(&self, socket: Transport, early: BytesMut) {
        *self.0.lock() = Some((socket, early));
    }

    /// Returns the socket, and the bytes that came after the 101.
    pub fn take(&self) -> Option<(Transport, BytesMut)> {
        self.0.lock().take()
    }
}

/// Connects one handshake attempt to one server.
#[derive(Debug)]
pub struct HandshakeConnector {
    /// How long the server's whole answer may take.
    pub response: Duration,
    pub dialer: Dialer,
    pub traffic: Arc<Traffic>,
    pub server_end: Arc<ServerEnd>,
}

#[async_trait]
impl Connect for HandshakeConnector {
    /// Pingora limits this call by the peer's `total_connection_timeout`.
    async fn connect(&self, address: &PeerAddress) -> pingora::Result<Stream> {
        let Some(address) = address.as_inet() else {
            return Error::e_explain(ErrorType::InternalError, "a server without an IP address");
        };
        let stream = HandshakeStream {
            io: Some(self.dialer.connect(*address).await?),
            phase: Phase::Fresh,
            heads: Heads::default(),
            timer: Box::pin(tokio::time::sleep(self.response)),
            drain_deadline: self.dialer.drain_deadline.clone(),
            traffic: self.traffic.clone(),
            server_end: self.server_end.clone(),
        };
        Ok(VirtualSocketStream::new(Box::new(stream)).into())
    }
}

#[derive(Debug)]
struct HandshakeStream {
    /// `None` once the socket has left.
    io: Option<Transport>,
    phase: Phase,
    heads: Heads,
    timer: Pin<Box<Sleep>>,
    drain_deadline: DrainDeadline,
    traffic: Arc<Traffic>,
    server_end: Arc<ServerEnd>,
}

#[derive(Debug)]
enum Phase {
    /// Nothing has been read yet: the first read waits for one poll.
    Fresh,
    Head,
    /// The server declined: an ordinary response passes through.
    Response,
}

/// Reads a server's response heads, and never returns a byte after the blank line of a head.
#[derive(Debug, Default)]
pub(super) struct Heads {
    head: ResponseHead,
    /// Bytes after the last head. After an interim response this may be the next head.
    pub behind: BytesMut,
}

/// What a read has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// The final head is not complete: this is a part of it, or an interim response.
    NotYet,
    /// The server has answered 101.
    Switched,
    /// The server declined: an ordinary response passes through.
    Declined,
}

impl Heads {
    /// `deadline`: the moment by which the server has to answer.
    pub fn poll_read(
        &mut self,
        io: &mut Transport,
        (deadline, traffic): (&mut Pin<Box<Sleep>>, &Traffic),
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<Seen>> {
        let before = buf.filled().len();
        while !self.deliver_start(buf) {
            match Pin::new(&mut *io).poll_read(cx, buf) {
                Poll::Pending if deadline.as_mut().poll(cx).is_ready() => {
                    traffic.time_out_handshake();
                    let message = "the server did not answer the handshake in time";
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, message)));
                }
                polled => ready!(polled)?,
            }
            let read = &buf.filled()[before..];
            if read.is_empty() {
                self.deliver_behind(buf);
                break;
            }
            let is_enough = !self.head.is_new() || read.len() >= STATUS_END;
            if is_enough && self.behind.is_empty() {
                break;
            }
            self.behind.extend_from_slice(read);
            buf.set_filled(before);
        }
        let is_start = self.head.is_new();
        let end = self.head.feed(&buf.filled()[before..]);
        if is_start && self.head.is_old_switch() {
            // Pingora accepts a 101 only in HTTP/1.1.
            buf.filled_mut()[before + MINOR_AT] = b'1';
        }
        let Some(end) = end else {
            return Poll::Ready(Ok(Seen::NotYet));
        };
        let mut behind = BytesMut::from(&buf.filled()[before + end..]);
        behind.unsplit(self.behind.split());
        self.behind = behind;
        buf.set_filled(before + end);
        let seen = match self.head.status() {
            b"101" => Seen::Switched,
            [b'1', ..] => Seen::NotYet,
            _ => Seen::Declined,
        };
        self.head = ResponseHead::default();
        Poll::Ready(Ok(seen))
    }

    /// Delivers waiting bytes. The first bytes of a head are only delivered together with its
    /// status. Returns whether anything was delivered.
    fn deliver_start(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        let is_short = self.head.is_new() && self.behind.len() < STATUS_END;
        !is_short && self.deliver_behind(buf)
    }

    /// Delivers bytes of `behind`. Returns whether there were any.
    pub fn deliver_behind(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        let part = self.behind.len().min(buf.remaining());
        buf.put_slice(&self.behind.split_to(part));
        if self.behind.is_empty() {
            // Frees the buffer, which would be kept for an empty part of it.
            self.behind = BytesMut::new();
        }
        part > 0
    }
}

/// The first bytes of the head: no more of it is kept.
#[derive(Debug, Default)]
struct ResponseHead {
    end: HeadEnd,
    line: [u8; STATUS_END],
    line_len: usize,
}

/// Where in `HTTP/1.1 101` the minor version and the status code stand.
const MINOR_AT: usize = 7;
const STATUS_AT: usize = 9;
const STATUS_END: usize = STATUS_AT + 3;

impl ResponseHead {
    /// Returns where in `bytes` the head ends, if it ends there.
    fn feed(&mut self, bytes: &[u8]) -> Option<usize> {
        let wanted = (self.line.len() - self.line_len).min(bytes.len());
        self.line[self.line_len..self.line_len + wanted].copy_from_slice(&bytes[..wanted]);
        self.line_len += wanted;
        self.end.feed(bytes)
    }

    /// Whether nothing of the head has come.
    fn is_new(&self) -> bool {
        self.line_len == 0
    }

    fn is_old_switch(&self) -> bool {
        self.line == *b"HTTP/1.0 101"
    }

    fn status(&self) -> &[u8] {
        &self.line[STATUS_AT..]
    }
}

impl HandshakeStream {
    fn poll_head(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Some(io) = &mut self.io else {
            return Poll::Pending;
        };
        self.drain_deadline.check()?;
        let deadline = (&mut self.timer, &*self.traffic);
        match ready!(self.heads.poll_read(io, deadline, cx, buf))? {
            Seen::NotYet => {}
            Seen::Switched => {
                self.traffic.establish();
                if let Some(io) = self.io.take() {
                    self.server_end.put(io, self.heads.behind.split());
                }
            }
            Seen::Declined => self.phase = Phase::Response,
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for HandshakeStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        match stream.phase {
            Phase::Fresh => {
                stream.phase = Phase::Head;
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Phase::Head => stream.poll_head(cx, buf),
            Phase::Response => {
                if stream.heads.deliver_behind(buf) {
                    return Poll::Ready(Ok(()));
                }
                let Some(io) = &mut stream.io else {
                    return Poll::Pending;
                };
                stream.drain_deadline.check()?;
                match Pin::new(io).poll_read(cx, buf) {
                    // The connection serves no second request, so Pingora must not keep it.
                    Poll::Pending if is_last_look(cx, buf) => Poll::Ready(Ok(())),
                    polled => polled,
                }
            }
        }
    }
}

/// Once the socket has left, Pingora's writes have no effect.
impl AsyncWrite for HandshakeStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let stream = self.get_mut();
        match &mut stream.io {
            Some(io) => {
                stream.drain_deadline.check()?;
                Pin::new(io).poll_write(cx, buf)
            }
            None => Poll::Ready(Ok(buf.len())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().io {
            Some(io) => Pin::new(io).poll_flush(cx),
            None => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().io {
            Some(io) => Pin::new(io).poll_shutdown(cx),
            None => Poll::Ready(Ok(())),
        }
    }
}

impl VirtualSocket for HandshakeStream {
    fn set_socket_option(&self, option: VirtualSockOpt) -> io::Result<()> {
        match &self.io {
            Some(io) => set_option(io.tcp(), option),
            None => Ok(()),
        }
    }
}
