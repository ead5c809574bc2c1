//! A connected stream socket: TCP or unix.

use std::io;
use std::net::{self, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net as unix;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use log::{debug, warn};
use pingora::protocols::l4::ext::set_tcp_keepalive;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::socket_send_buffer_size;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::keepalive_with;

#[derive(Debug)]
pub enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// The kind of a descriptor, for the process that gets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketKind {
    Tcp,
    Unix,
}

impl Socket {
    /// Registers the descriptor, which must be non-blocking, with the present runtime.
    pub fn from_descriptor(kind: SocketKind, descriptor: OwnedFd) -> io::Result<Self> {
        match kind {
            SocketKind::Tcp => TcpStream::from_std(net::TcpStream::from(descriptor)).map(Self::Tcp),
            SocketKind::Unix => {
                UnixStream::from_std(unix::UnixStream::from(descriptor)).map(Self::Unix)
            }
        }
    }

    /// The descriptor, with which another process can continue.
    pub fn descriptor(&self) -> (SocketKind, BorrowedFd<'_>) {
        match self {
            Self::Tcp(tcp) => (SocketKind::Tcp, tcp.as_fd()),
            Self::Unix(unix) => (SocketKind::Unix, unix.as_fd()),
        }
    }

    /// `None` on a unix socket.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.tcp().and_then(|tcp| tcp.peer_addr().ok())
    }

    /// Our own address. `None` on a unix socket.
    pub fn local(&self) -> Option<SocketAddr> {
        self.tcp().and_then(|tcp| tcp.local_addr().ok())
    }

    /// The TCP socket, to set options.
    pub fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(tcp) => Some(tcp),
            Self::Unix(_) => None,
        }
    }

    /// Waits for bytes, and returns them without taking them.
    pub async fn peek(&self, bytes: &mut [u8]) -> io::Result<usize> {
        let unix = match self {
            Self::Tcp(tcp) => return tcp.peek(bytes).await,
            Self::Unix(unix) => unix,
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

    /// Returns how many bytes the kernel takes without waiting.
    pub fn send_at_once(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(tcp) => tcp.try_write(bytes),
            Self::Unix(unix) => unix.try_write(bytes),
        }
    }

    /// Returns how many bytes a unix socket takes before it reports room: the kernel reports room
    /// only when three quarters of the buffer are free.
    pub fn send_unasked(&self, bytes: &[u8]) -> usize {
        match self {
            Self::Unix(unix) => {
                let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
                send(unix, bytes, flags).unwrap_or(0)
            }
            Self::Tcp(_) => 0,
        }
    }

    /// How many bytes it is known to take now without waiting.
    pub fn room(&self) -> usize {
        let is_writable = match self {
            Self::Tcp(tcp) => is_writable(tcp),
            Self::Unix(unix) => is_writable(unix),
        };
        if is_writable {
            self.room_when_writable()
        } else {
            0
        }
    }

    /// The same, when the kernel has just reported room: it does so when at least a third of its
    /// send buffer is free.
    pub fn room_when_writable(&self) -> usize {
        let size = match self {
            Self::Tcp(tcp) => socket_send_buffer_size(tcp),
            Self::Unix(unix) => socket_send_buffer_size(unix),
        };
        // The kernel's own overhead counts as used.
        size.unwrap_or(0) / 4
    }

    /// Whether the peer has reset or completely closed the connection, so that nothing that is
    /// written arrives. Reading does not always show this: nobody reads after the peer's end, or
    /// while earlier bytes still wait. A peer that has only ended its own direction still takes
    /// data. Must not be called after we have ended our direction.
    pub fn has_broken(&self) -> bool {
        match self {
            Self::Tcp(tcp) => hangs_up(tcp),
            Self::Unix(unix) => hangs_up(unix),
        }
    }

    /// The connection must not end cleanly, because what it carried is not complete.
    pub fn reset_when_dropped(&self) {
        if let Some(tcp) = self.tcp()
            && let Err(error) = tcp.set_zero_linger()
        {
            debug!("a connection that is cut ends as if it were not: {error}");
        }
    }

    /// From now on the kernel checks whether the other machine is there, as set by
    /// [`keepalive_with`], and gives the connection up if the peer takes nothing of the waiting
    /// bytes for this long.
    pub fn watch_peer(&self, stall: Duration) {
        if let Some(tcp) = self.tcp()
            && let Err(error) = set_tcp_keepalive(tcp, &keepalive_with(stall))
        {
            warn!("a server that vanishes will not be noticed: {error}");
        }
    }

    /// From now on the kernel gives the connection up if the peer takes nothing of the waiting
    /// bytes for this long. Only TCP can do this.
    pub fn set_stall(&self, stall: Duration) {
        let stall = keepalive_with(stall).user_timeout;
        if let Some(tcp) = self.tcp()
            && let Err(error) = SockRef::from(tcp).set_tcp_user_timeout(Some(stall))
        {
            warn!("a client that takes nothing is given up after another time: {error}");
        }
    }
}

fn hangs_up(socket: &impl AsFd) -> bool {
    kernel_says(socket, PollFlags::empty(), PollFlags::HUP | PollFlags::ERR)
}

fn is_writable(socket: &impl AsFd) -> bool {
    kernel_says(socket, PollFlags::OUT, PollFlags::OUT)
}

/// Asks the kernel by poll(2) whether one of these conditions holds now.
fn kernel_says(socket: &impl AsFd, asked: PollFlags, any: PollFlags) -> bool {
    let mut sockets = [PollFd::new(socket, asked)];
    // An error of poll says nothing about the socket.
    let polled = poll(&mut sockets, Some(&Timespec::default()));
    polled.is_ok() && sockets[0].revents().intersects(any)
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Self::Unix(unix) => Pin::new(unix).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Self::Unix(unix) => Pin::new(unix).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Unix(unix) => Pin::new(unix).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Unix(unix) => Pin::new(unix).poll_shutdown(cx),
        }
    }
}
