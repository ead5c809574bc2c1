//! A connection as the rest of the program reads and writes it. Only this file knows what carries
//! the bytes.

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
use crate::tls::record::Saved;
use crate::tls::{Security, TlsStream};

#[derive(Debug)]
pub enum Transport {
    Plain(Socket),
    /// Boxed, because else all plain sessions would need its size too.
    Tls(Box<TlsStream>),
    /// A stream of a connection with several streams.
    Http2(Box<Http2Stream>),
}

/// How another process can continue a connection. The greater, the easier it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mobility {
    /// Not at all.
    Never,
    /// With the keys of its TLS, which are a secret.
    WithKeys,
    /// With its socket alone.
    Free,
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
    /// The socket below. `None` for a stream of HTTP/2, which has no socket of its own.
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

    /// Our own address. `None` on a unix socket.
    pub fn local(&self) -> Option<SocketAddr> {
        match self {
            Self::Http2(stream) => stream.facts().local,
            Self::Plain(_) | Self::Tls(_) => self.socket().and_then(Socket::local),
        }
    }

    /// The TCP socket, to set options. `None` if there is none.
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

    /// How another process can continue it.
    pub fn mobility(&self) -> Mobility {
        match self {
            Self::Plain(_) => Mobility::Free,
            Self::Tls(tls) if !tls.is_http2() => Mobility::WithKeys,
            Self::Tls(_) | Self::Http2(_) => Mobility::Never,
        }
    }

    /// What another process needs to continue it, besides its [TLS](Transport::saved_tls).
    pub fn descriptor(&self) -> io::Result<(SocketKind, BorrowedFd<'_>)> {
        match self.socket() {
            Some(socket) => Ok(socket.descriptor()),
            None => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Whether its end is a cut if TLS does not say that it is an end.
    pub fn needs_close_notify(&self) -> bool {
        matches!(self, Self::Tls(tls) if tls.needs_close_notify())
    }

    /// The state of its TLS, for another process. `None`: it is plain text. Nothing may be read or
    /// written here any more, unless it is certain that the other process has not used it.
    pub fn saved_tls(&self) -> io::Result<Option<Saved>> {
        match self {
            Self::Plain(_) => Ok(None),
            Self::Tls(tls) => match tls.save() {
                Some(saved) => Ok(Some(saved)),
                None => Err(io::Error::other(
                    "its TLS has ended, or cannot leave rustls",
                )),
            },
            Self::Http2(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// From now on, only HTTP/1.1 or a session is on it, and TLS needs less memory for that. Then
    /// its [TLS can be saved](Transport::saved_tls).
    #[must_use]
    pub fn leave_rustls(self) -> Self {
        match self {
            Self::Tls(tls) => Self::Tls(tls.leave_rustls()),
            other => other,
        }
    }

    /// Whether this connection serves only one request.
    pub fn serves_one(&self) -> bool {
        matches!(self, Self::Http2(_))
    }

    /// Whether both sides have agreed on HTTP/2.
    pub fn is_http2(&self) -> bool {
        matches!(self, Self::Tls(tls) if tls.is_http2())
    }

    /// Whether the kernel has all that was written. If not, a flush must be polled.
    pub fn is_flushed(&self) -> bool {
        match self {
            Self::Plain(_) | Self::Http2(_) => true,
            Self::Tls(tls) => tls.is_flushed(),
        }
    }

    /// Like [`Socket::has_broken`]. A stream of HTTP/2 is broken when its client has reset it.
    pub fn has_broken(&mut self, cx: &mut Context<'_>) -> bool {
        match self {
            Self::Plain(socket) => socket.has_broken(),
            Self::Tls(tls) => tls.socket().has_broken(),
            Self::Http2(stream) => stream.poll_reset(cx).is_ready(),
        }
    }

    /// From now on it carries frames, so how it ends says no more than the frames do.
    pub fn carry_frames(&mut self) {
        if let Self::Tls(tls) = self {
            tls.forgive_truncation();
        }
    }

    /// Returns how many bytes the socket takes without waiting.
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

    /// Like [`Socket::send_unasked`].
    pub fn send_unasked(&self, bytes: &[u8]) -> usize {
        match self {
            Self::Plain(socket) => socket.send_unasked(bytes),
            Self::Tls(_) | Self::Http2(_) => 0,
        }
    }

    /// How many bytes it is known to take now without waiting.
    pub fn room(&self) -> usize {
        match self {
            Self::Plain(socket) => socket.room(),
            Self::Tls(tls) if tls.is_flushed() => tls.socket().room(),
            Self::Tls(_) | Self::Http2(_) => 0,
        }
    }

    /// Like [`Socket::room_when_writable`].
    pub fn room_when_writable(&self) -> usize {
        self.socket().map_or(0, Socket::room_when_writable)
    }

    /// Says the last word of a connection that is about to be dropped, if that needs no waiting.
    pub fn part(&mut self) {
        match self {
            Self::Plain(_) => {}
            Self::Tls(tls) => {
                let mut nobody_waits = Context::from_waker(Waker::noop());
                // The result does not matter, because nothing follows.
                let _ = Pin::new(tls).poll_shutdown(&mut nobody_waits);
            }
            Self::Http2(stream) => stream.finish(),
        }
    }

    /// The connection must not end cleanly, because what it carried is not complete. With TLS it is
    /// enough to send no close_notify, and a stream of HTTP/2 is reset anyway.
    pub fn reset_when_dropped(&self) {
        if let Self::Plain(socket) = self {
            socket.reset_when_dropped();
        }
    }

    /// Like [`Socket::watch_peer`].
    pub fn watch_peer(&self, stall: Duration) {
        self.socket().inspect(|socket| socket.watch_peer(stall));
    }

    /// Like [`Socket::set_stall`].
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
