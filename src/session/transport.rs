//! One end of a session, as the relay sees it: the one place that knows what carries the bytes.

use std::io;
use std::net::{self, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net as unix;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use log::{debug, warn};
use pingora::protocols::l4::ext::set_tcp_keepalive;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::socket_send_buffer_size;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use crate::http2::Http2Stream;
use crate::tls::TlsStream;
use crate::upstream::keepalive_with;

#[derive(Debug)]
pub enum Transport {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// Boxed: most sessions of a plain listener would pay for its size.
    Tls(Box<TlsStream>),
    /// A stream of a connection that has others too.
    Http2(Box<Http2Stream>),
}

/// What the client's end of a connection says of TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Security {
    Plain,
    /// `client`: the subject of its certificate, which was verified.
    Tls {
        client: Option<Arc<str>>,
    },
}

/// What a descriptor is, for the process that it is handed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransportKind {
    Tcp,
    Unix,
}

impl Transport {
    /// `None` on a unix socket.
    pub fn peer(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(tcp) => tcp.peer_addr().ok(),
            Self::Unix(_) => None,
            Self::Tls(tls) => tls.transport().peer(),
            Self::Http2(stream) => stream.facts().peer,
        }
    }

    /// Our own address; `None` on a unix socket.
    pub fn local(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(tcp) => tcp.local_addr().ok(),
            Self::Unix(_) => None,
            Self::Tls(tls) => tls.transport().local(),
            Self::Http2(stream) => stream.facts().local,
        }
    }

    /// What has come and is not read yet, once there is something.
    pub async fn peek(&self, bytes: &mut [u8]) -> io::Result<usize> {
        let unix = match self {
            Self::Tcp(tcp) => return tcp.peek(bytes).await,
            Self::Unix(unix) => unix,
            Self::Tls(_) | Self::Http2(_) => return Err(io::ErrorKind::Unsupported.into()),
        };
        loop {
            unix.readable().await?;
            let peeked = unix.try_io(Interest::READABLE, || {
                let (_, seen) = recv(unix, &mut *bytes, RecvFlags::PEEK)?;
                Ok(seen)
            });
            match peeked {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                peeked => return peeked,
            }
        }
    }

    pub fn security(&self) -> Security {
        match self {
            Self::Tcp(_) | Self::Unix(_) => Security::Plain,
            Self::Tls(tls) => Security::Tls {
                client: tls.client().cloned(),
            },
            Self::Http2(stream) => stream.facts().security.clone(),
        }
    }

    /// Whether another process can go on with it. The keys of TLS are in this one's memory.
    pub fn can_move(&self) -> bool {
        match self {
            Self::Tcp(_) | Self::Unix(_) => true,
            Self::Tls(_) | Self::Http2(_) => false,
        }
    }

    /// Whether nothing that follows its first request is another.
    pub fn serves_one(&self) -> bool {
        matches!(self, Self::Http2(_))
    }

    /// Whether all that was written is with the kernel. If not, poll a flush.
    pub fn is_flushed(&self) -> bool {
        match self {
            Self::Tcp(_) | Self::Unix(_) | Self::Http2(_) => true,
            Self::Tls(tls) => tls.is_flushed(),
        }
    }

    /// Whether its peer has reset it, or has closed it altogether: whatever is written now goes
    /// nowhere. Reading does not always tell: nobody reads after the peer's end, nor while what
    /// was read before still waits. A peer that has only ended its own direction takes more.
    /// Not to be asked once we have ended ours.
    pub fn has_broken(&mut self, cx: &mut Context<'_>) -> bool {
        match self {
            Self::Tcp(tcp) => hangs_up(&tcp),
            Self::Unix(unix) => hangs_up(&unix),
            Self::Tls(tls) => tls.transport_mut().has_broken(cx),
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
            Self::Tcp(tcp) => tcp.try_write(bytes),
            Self::Unix(unix) => unix.try_write(bytes),
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

    /// How much of it a unix socket takes though nobody has told that it has room: the kernel tells
    /// so only once three quarters of it are free.
    pub fn send_unasked(&self, bytes: &[u8]) -> usize {
        match self {
            Self::Unix(unix) => {
                let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
                send(unix, bytes, flags).unwrap_or(0)
            }
            Self::Tcp(_) | Self::Tls(_) | Self::Http2(_) => 0,
        }
    }

    /// What it is known to take now without waiting.
    pub fn room(&self) -> usize {
        let is_writable = match self {
            Self::Tcp(tcp) => is_writable(&tcp),
            Self::Unix(unix) => is_writable(&unix),
            Self::Tls(tls) if tls.is_flushed() => return tls.transport().room(),
            Self::Tls(_) | Self::Http2(_) => false,
        };
        if is_writable {
            self.room_when_writable()
        } else {
            0
        }
    }

    /// The same, when the kernel has just said that it takes something: of a socket it says so once
    /// a third of its send buffer is free, or more.
    pub fn room_when_writable(&self) -> usize {
        let size = match self {
            Self::Tcp(tcp) => socket_send_buffer_size(tcp),
            Self::Unix(unix) => socket_send_buffer_size(unix),
            Self::Tls(tls) => return tls.transport().room_when_writable(),
            Self::Http2(_) => return 0,
        };
        // What the kernel needs for itself counts as taken.
        size.unwrap_or(0) / 4
    }

    /// The last word of a connection that is about to be dropped: said if it can be said at once.
    pub fn part(&mut self) {
        match self {
            Self::Tcp(_) | Self::Unix(_) => {}
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
        if let Self::Tcp(tcp) = self
            && let Err(error) = tcp.set_zero_linger()
        {
            debug!("a connection that is cut ends as if it were not: {error}");
        }
    }

    /// From now on the kernel looks whether the other machine is there, as [`keepalive_with`] says,
    /// and gives the connection up when its peer takes nothing for so long of what waits for it.
    pub fn watch_peer(&self, stall: Duration) {
        if let Some(tcp) = self.tcp()
            && let Err(error) = set_tcp_keepalive(tcp, &keepalive_with(stall))
        {
            warn!("a server that vanishes will not be noticed: {error}");
        }
    }

    /// From now on the kernel gives the connection up when its peer takes nothing for so long of
    /// what waits for it. Nothing but TCP can do that.
    pub fn set_stall(&self, stall: Duration) {
        let stall = keepalive_with(stall).user_timeout;
        if let Some(tcp) = self.tcp()
            && let Err(error) = SockRef::from(tcp).set_tcp_user_timeout(Some(stall))
        {
            warn!("a client that takes nothing is given up after another time: {error}");
        }
    }

    /// For options of the socket; `None`: it is not TCP's.
    pub fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(tcp) => Some(tcp),
            Self::Unix(_) | Self::Http2(_) => None,
            Self::Tls(tls) => tls.transport().tcp(),
        }
    }

    /// What another process can go on with, if it [can](Transport::can_move).
    pub fn descriptor(&self) -> io::Result<(TransportKind, BorrowedFd<'_>)> {
        match self {
            Self::Tcp(tcp) => Ok((TransportKind::Tcp, tcp.as_fd())),
            Self::Unix(unix) => Ok((TransportKind::Unix, unix.as_fd())),
            Self::Tls(_) | Self::Http2(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Whether the two have agreed on HTTP/2.
    pub fn is_http2(&self) -> bool {
        matches!(self, Self::Tls(tls) if tls.is_http2())
    }

    /// Joins the runtime that this is called in. The descriptor is non-blocking already.
    pub fn from_descriptor(kind: TransportKind, descriptor: OwnedFd) -> io::Result<Self> {
        match kind {
            TransportKind::Tcp => {
                TcpStream::from_std(net::TcpStream::from(descriptor)).map(Self::Tcp)
            }
            TransportKind::Unix => {
                UnixStream::from_std(unix::UnixStream::from(descriptor)).map(Self::Unix)
            }
        }
    }
}

fn hangs_up(socket: &impl AsFd) -> bool {
    kernel_says(socket, PollFlags::empty(), PollFlags::HUP | PollFlags::ERR)
}

fn is_writable(socket: &impl AsFd) -> bool {
    kernel_says(socket, PollFlags::OUT, PollFlags::OUT)
}

/// Asks the kernel, as poll(2) has it, whether one of these holds now.
fn kernel_says(socket: &impl AsFd, asked: PollFlags, any: PollFlags) -> bool {
    let mut sockets = [PollFd::new(socket, asked)];
    // An error here says nothing of the socket.
    let polled = poll(&mut sockets, Some(&Timespec::default()));
    polled.is_ok() && sockets[0].revents().intersects(any)
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Self::Unix(unix) => Pin::new(unix).poll_read(cx, buf),
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
            Self::Tcp(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Self::Unix(unix) => Pin::new(unix).poll_write(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, buf),
            Self::Http2(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Unix(unix) => Pin::new(unix).poll_flush(cx),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
            Self::Http2(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Unix(unix) => Pin::new(unix).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
            Self::Http2(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
