//! A connection as the rest of the program reads and writes it: the one place that knows what
//! carries the bytes.

use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::http2::Http2Stream;
use crate::net::{Socket, SocketKind};
use crate::tls::{Security, TlsStream};

#[derive(Debug)]
pub enum Transport {
    Plain(Socket),
    /// Boxed: most sessions of a plain listener would pay for its size.
    Tls(Box<TlsStream>),
    /// A stream of a connection that has others too.
    Http2(Box<Http2Stream>),
}

impl From<Socket> for Transport {
    fn from(socket: Socket) -> Self {
        Self::Plain(socket)
    }
}

impl From<TlsStream> for Transport {
    fn from(stream: TlsStream) -> Self {
        Self::Tls(Box::new(stream))
    }
}

impl Transport {
    /// What is below: `None` for a stream of HTTP/2, which has no socket of its own.
    fn socket(&self) -> Option<&Socket> {
        match self {
            Self::Plain(socket) => Some(socket),
            Self::Tls(tls) => Some(tls.socket()),
            Self::Http2(_) => None,
        }
    }

    /// `None` on a unix socket.
    pub fn peer(&self) -> Option<SocketAddr> {
        match self {
            Self::Http2(stream) => stream.facts().peer,
            Self::Plain(_) | Self::Tls(_) => self.socket().and_then(Socket::peer),
        }
    }

    /// Our own address; `None` on a unix socket.
    pub fn local(&self) -> Option<SocketAddr> {
        match self {
            Self::Http2(stream) => stream.facts().local,
            Self::Plain(_) | Self::Tls(_) => self.socket().and_then(Socket::local),
        }
    }

    /// For options of the socket; `None`: it is not TCP's.
    pub fn tcp(&self) -> Option<&TcpStream> {
        self.socket().and_then(Socket::tcp)
    }

    pub fn security(&self) -> Security {
        match self {
            Self::Plain(_) => Security::Plain,
            Self::Tls(tls) => Security::Tls {
                client: tls.client().cloned(),
            },
            Self::Http2(stream) => stream.facts().security.clone(),
        }
    }

    /// Whether another process can go on with it. The keys of TLS are in this one's memory.
    pub fn can_move(&self) -> bool {
        matches!(self, Self::Plain(_))
    }

    /// What another process can go on with, if it [can](Transport::can_move).
    pub fn descriptor(&self) -> io::Result<(SocketKind, BorrowedFd<'_>)> {
        match self {
            Self::Plain(socket) => Ok(socket.descriptor()),
            Self::Tls(_) | Self::Http2(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Whether nothing that follows its first request is another.
    pub fn serves_one(&self) -> bool {
        matches!(self, Self::Http2(_))
    }

    /// Whether the two have agreed on HTTP/2.
    pub fn is_http2(&self) -> bool {
        matches!(self, Self::Tls(tls) if tls.is_http2())
    }

    /// Whether all that was written is with the kernel. If not, poll a flush.
    pub fn is_flushed(&self) -> bool {
        match self {
            Self::Plain(_) | Self::Http2(_) => true,
            Self::Tls(tls) => tls.is_flushed(),
        }
    }

    /// As [`Socket::has_broken`]; a stream of HTTP/2 has when its client has reset it.
    pub fn has_broken(&mut self, cx: &mut Context<'_>) -> bool {
        match self {
            Self::Plain(socket) => socket.has_broken(),
            Self::Tls(tls) => tls.socket().has_broken(),
            Self::Http2(stream) => stream.poll_reset(cx).is_ready(),
        }
    }

    /// From now on it carries frames: its end says nothing that they do not say.
    pub fn carry_frames(&mut self) {
        if let Self::Tls(tls) = self {
            tls.forgive_truncation();
        }
    }

    /// How much of it the socket takes without waiting.
    pub fn send_at_once(&mut self, bytes: &[u8]) -> usize {
        let sent = match self {
            Self::Plain(socket) => socket.send_at_once(bytes),
            Self::Tls(tls) => {
                let mut nobody_waits = Context::from_waker(Waker::noop());
                match Pin::new(tls).poll_write(&mut nobody_waits, bytes) {
                    Poll::Ready(sent) => sent,
                    Poll::Pending => Ok(0),
                }
            }
            Self::Http2(_) => Ok(0),
        };
        sent.unwrap_or(0)
    }

    /// As [`Socket::send_unasked`].
    pub fn send_unasked(&self, bytes: &[u8]) -> usize {
        match self {
            Self::Plain(socket) => socket.send_unasked(bytes),
            Self::Tls(_) | Self::Http2(_) => 0,
        }
    }

    /// What it is known to take now without waiting.
    pub fn room(&self) -> usize {
        match self {
            Self::Plain(socket) => socket.room(),
            Self::Tls(tls) if tls.is_flushed() => tls.socket().room(),
            Self::Tls(_) | Self::Http2(_) => 0,
        }
    }

    /// As [`Socket::room_when_writable`].
    pub fn room_when_writable(&self) -> usize {
        self.socket().map_or(0, Socket::room_when_writable)
    }

    /// The last word of a connection that is about to be dropped: said if it can be said at once.
    pub fn part(&mut self) {
        match self {
            Self::Plain(_) => {}
            Self::Tls(tls) => {
                let mut nobody_waits = Context::from_waker(Waker::noop());
                // Whatever comes of it: nothing follows.
                let _ = Pin::new(tls).poll_shutdown(&mut nobody_waits);
            }
            Self::Http2(stream) => stream.finish(),
        }
    }

    /// Its end will be no end that could be meant: what it carried is not whole. By TLS it is none
    /// without a word; a stream of HTTP/2 is reset anyway.
    pub fn reset_when_dropped(&self) {
        if let Self::Plain(socket) = self {
            socket.reset_when_dropped();
        }
    }

    /// As [`Socket::watch_peer`].
    pub fn watch_peer(&self, stall: Duration) {
        self.socket().inspect(|socket| socket.watch_peer(stall));
    }

    /// As [`Socket::set_stall`].
    pub fn set_stall(&self, stall: Duration) {
        self.socket().inspect(|socket| socket.set_stall(stall));
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_read(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
            Self::Http2(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, buf),
            Self::Http2(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_flush(cx),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
            Self::Http2(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
            Self::Http2(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
