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

/// What a descriptor is, for the process that it is handed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketKind {
    Tcp,
    Unix,
}

impl Socket {
    /// Joins the runtime that this is called in. The descriptor is non-blocking already.
    pub fn from_descriptor(kind: SocketKind, descriptor: OwnedFd) -> io::Result<Self> {
        match kind {
            SocketKind::Tcp => TcpStream::from_std(net::TcpStream::from(descriptor)).map(Self::Tcp),
            SocketKind::Unix => {
                UnixStream::from_std(unix::UnixStream::from(descriptor)).map(Self::Unix)
            }
        }
    }

    /// What another process can go on with.
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

    /// Our own address; `None` on a unix socket.
    pub fn local(&self) -> Option<SocketAddr> {
        self.tcp().and_then(|tcp| tcp.local_addr().ok())
    }

    /// For options of TCP.
    pub fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(tcp) => Some(tcp),
            Self::Unix(_) => None,
        }
    }

    /// What has come and is not read yet, once there is something.
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

    /// How much of it the kernel takes without waiting.
    pub fn send_at_once(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(tcp) => tcp.try_write(bytes),
            Self::Unix(unix) => unix.try_write(bytes),
        }
    }

    /// How much of it a unix socket takes though nobody has told that it has room: the kernel tells
    /// so only once three quarters of it are free.
    pub fn send_unasked(&self, bytes: &[u8]) -> usize {
        match self {
            Self::Unix(unix) => {
                let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
                send(unix, bytes, flags).unwrap_or(0)
            }
            Self::Tcp(_) => 0,
        }
    }

    /// What it is known to take now without waiting.
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

    /// The same, when the kernel has just said that it takes something: it says so once a third of
    /// its send buffer is free, or more.
    pub fn room_when_writable(&self) -> usize {
        let size = match self {
            Self::Tcp(tcp) => socket_send_buffer_size(tcp),
            Self::Unix(unix) => socket_send_buffer_size(unix),
        };
        // What the kernel needs for itself counts as taken.
        size.unwrap_or(0) / 4
    }

    /// Whether its peer has reset it, or has closed it altogether: whatever is written now goes
    /// nowhere. Reading does not always tell: nobody reads after the peer's end, nor while what
    /// was read before still waits. A peer that has only ended its own direction takes more.
    /// Not to be asked once we have ended ours.
    pub fn has_broken(&self) -> bool {
        match self {
            Self::Tcp(tcp) => hangs_up(tcp),
            Self::Unix(unix) => hangs_up(unix),
        }
    }

    /// Its end will be no end that could be meant: what it carried is not whole.
    pub fn reset_when_dropped(&self) {
        if let Some(tcp) = self.tcp()
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
