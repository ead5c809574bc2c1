//! Listening sockets: bound here or inherited, passed on, closed, and opened again.
//!
//! ```text
//!           bind, adopt                close
//!   (none) ───────────► listening ───────────────► closed ── reopen ──► listening
//!                        │      ▲                     ▲
//!                        │      └── descriptor: the   │
//!                        │          next process      │
//!                        └── drain_queue ─────────────┘  nobody new is queued,
//!                                                        who waits is still accepted
//! ```

use std::io;
use std::net::{self, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net as unix;
use std::path::Path;

use log::warn;
use parking_lot::Mutex;
use rustix::fs::{Mode, fchmod};
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::ListenAddress;
use super::overlap::tcp_overlap;
use super::socket_file::{SocketFile, is_stale};

/// One of a process's listening sockets: its position in the order in which they were bound. A
/// reload may change its name and its position in the file, but not this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BoundId(usize);

impl BoundId {
    pub fn new(index: usize) -> Self {
        Self(index)
    }

    /// For lists in the order in which the sockets were bound.
    pub fn index(self) -> usize {
        self.0
    }
}

/// The process that has bound a listening socket, and so owns the file of a unix socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binder {
    /// This process, or the one from which it takes over.
    Us,
    Systemd,
}

/// The options of a listening socket.
#[derive(Debug, Clone, Copy)]
pub struct SocketOptions {
    /// How many connections the kernel holds until they are accepted (limited by somaxconn).
    pub backlog: i32,
    /// Whether only the owner may use a unix socket.
    pub is_private: bool,
    /// Sets options that accepted TCP connections inherit: on Linux they start with their
    /// listener's.
    pub prepare: fn(&SockRef<'_>) -> io::Result<()>,
}

/// A socket that is or was listening. Dropping it closes it, and removes its file if we own that.
#[derive(Debug)]
pub struct ListeningSocket {
    /// With the port that the kernel has chosen.
    address: ListenAddress,
    binder: Binder,
    options: SocketOptions,
    /// `None`: the socket is closed.
    open: Mutex<Option<Open>>,
}

#[derive(Debug)]
struct Open {
    socket: Bound,
    /// `None` for TCP.
    file: Option<SocketFile>,
}

#[derive(Debug)]
enum Bound {
    Tcp(net::TcpListener),
    Unix(unix::UnixListener),
}

/// A listening socket in the runtime, as long as connections are accepted.
#[derive(Debug)]
pub enum AsyncListener {
    /// With the address that all its connections have. `None`: any address of the machine.
    Tcp(TcpListener, Option<SocketAddr>),
    Unix(UnixListener),
}

/// An accepted connection.
#[derive(Debug)]
pub enum Accepted {
    /// With the peer's address and our own, if the kernel has given them.
    Tcp(TcpStream, Option<(SocketAddr, SocketAddr)>),
    Unix(UnixStream),
}

impl AsyncListener {
    pub async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Tcp(listener, local) => {
                let (stream, peer) = listener.accept().await?;
                let local = local.or_else(|| stream.local_addr().ok());
                Ok(Accepted::Tcp(stream, local.map(|local| (peer, local))))
            }
            Self::Unix(listener) => Ok(Accepted::Unix(listener.accept().await?.0)),
        }
    }
}

/// Listening sockets that another process has bound: the old process in an upgrade, or systemd.
#[derive(Debug, Default)]
pub struct Inherited {
    sockets: Vec<(ListenAddress, OwnedFd, Binder)>,
}

impl Inherited {
    /// Descriptors that are not listening sockets are logged and left out.
    pub fn new(descriptors: Vec<(OwnedFd, Binder)>) -> Self {
        let sockets = descriptors
            .into_iter()
            .filter_map(|(descriptor, binder)| match local_address(&descriptor) {
                Ok(address) => Some((address, descriptor, binder)),
                Err(error) => {
                    warn!("an inherited descriptor is not used: {error}");
                    None
                }
            })
            .collect();
        Self { sockets }
    }

    /// The first socket on this address. Port 0 matches any port, so the order decides.
    fn take(&mut self, address: &ListenAddress) -> Option<(OwnedFd, Binder)> {
        let is_it = |bound: &ListenAddress| match (bound, address) {
            (ListenAddress::Tcp(bound), ListenAddress::Tcp(wanted)) if wanted.port() == 0 => {
                bound.ip() == wanted.ip()
            }
            (bound, wanted) => bound == wanted,
        };
        let found = self.sockets.iter().position(|(bound, ..)| is_it(bound))?;
        let (_, descriptor, binder) = self.sockets.remove(found);
        Some((descriptor, binder))
    }

    /// Sockets beside which the kernel would not let another one listen on `address`.
    fn beside(&self, address: SocketAddr) -> Vec<BorrowedFd<'_>> {
        let is_beside = |bound: &ListenAddress| match bound {
            ListenAddress::Tcp(bound) => tcp_overlap(*bound, address),
            ListenAddress::Unix(_) => false,
        };
        let sockets = self.sockets.iter();
        let beside = sockets.filter(|(bound, ..)| is_beside(bound));
        beside
            .map(|(_, descriptor, _)| descriptor.as_fd())
            .collect()
    }

    /// Sockets that were not taken.
    pub fn unused(&self) -> impl Iterator<Item = (&ListenAddress, Binder)> {
        let sockets = self.sockets.iter();
        sockets.map(|(address, _, binder)| (address, *binder))
    }
}

impl ListeningSocket {
    /// Takes the inherited socket for this address, or else binds one. A socket that is bound here
    /// owns its file at once; an inherited one see [`ListeningSocket::own_file`].
    pub fn bind(
        address: &ListenAddress,
        options: SocketOptions,
        inherited: &mut Inherited,
    ) -> io::Result<Self> {
        let (open, binder) = match inherited.take(address) {
            Some((descriptor, binder)) => (Open::adopt(address, descriptor, options)?, binder),
            None => (Open::bind(address, options, inherited)?, Binder::Us),
        };
        Ok(Self {
            address: open.address(address)?,
            binder,
            options,
            open: Mutex::new(Some(open)),
        })
    }

    pub fn address(&self) -> &ListenAddress {
        &self.address
    }

    pub fn binder(&self) -> Binder {
        self.binder
    }

    /// Lets clients connect from now on, if they could not before.
    pub fn listen(&self) -> io::Result<()> {
        let open = self.open.lock();
        let open = open.as_ref().ok_or_else(closed)?.as_fd();
        let socket = SockRef::from(&open);
        match socket.is_listener()? {
            true => Ok(()),
            false => socket.listen(self.options.backlog),
        }
    }

    /// Must be called inside the runtime that accepts. The socket stays open as long as the result
    /// lives, even if it is [closed](ListeningSocket::close) here.
    pub fn acceptor(&self) -> io::Result<AsyncListener> {
        let open = self.open.lock();
        Ok(match &open.as_ref().ok_or_else(closed)?.socket {
            Bound::Tcp(socket) => {
                let local = socket.local_addr()?;
                let is_one = !local.ip().is_unspecified();
                let socket = TcpListener::from_std(socket.try_clone()?)?;
                AsyncListener::Tcp(socket, is_one.then_some(local))
            }
            Bound::Unix(socket) => {
                AsyncListener::Unix(UnixListener::from_std(socket.try_clone()?)?)
            }
        })
    }

    /// A second descriptor of the socket, for another process.
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        let open = self.open.lock();
        let open = open.as_ref().ok_or_else(closed)?;
        open.as_fd().try_clone_to_owned()
    }

    /// From now on the file is removed when the socket is closed. systemd's files are never
    /// removed.
    pub fn own_file(&self) {
        self.set_file_ours(self.binder == Binder::Us);
    }

    /// Another process listens on the same socket, and owns its file.
    pub fn leave_file(&self) {
        self.set_file_ours(false);
    }

    fn set_file_ours(&self, is_ours: bool) {
        if let Some(Open {
            file: Some(file), ..
        }) = &*self.open.lock()
        {
            file.set_ours(is_ours);
        }
    }

    /// From now on new clients are not queued: they wait until the socket is closed, and are then
    /// refused. Queued clients can still be accepted. Without effect on a socket of systemd, whose
    /// queue is for the next process.
    pub fn drain_queue(&self) {
        if self.binder == Binder::Systemd {
            return;
        }
        // Linux adds nobody to a queue that is longer than the backlog.
        if let Some(open) = &*self.open.lock()
            && let Err(error) = SockRef::from(&open.as_fd()).listen(0)
        {
            warn!("{}: cannot stop its queue: {error}", self.address);
        }
    }

    /// Accepts a queued connection. `None`: there is none. Must be called inside the runtime.
    pub fn accept_waiting(&self) -> io::Result<Option<Accepted>> {
        let open = self.open.lock();
        let accepted = match &open.as_ref().ok_or_else(closed)?.socket {
            Bound::Tcp(socket) => socket.accept().and_then(|(stream, peer)| {
                stream.set_nonblocking(true)?;
                let local = stream.local_addr()?;
                let stream = TcpStream::from_std(stream)?;
                Ok(Accepted::Tcp(stream, Some((peer, local))))
            }),
            Bound::Unix(socket) => socket.accept().and_then(|(stream, _)| {
                stream.set_nonblocking(true)?;
                Ok(Accepted::Unix(UnixStream::from_std(stream)?))
            }),
        };
        match accepted {
            Ok(accepted) => Ok(Some(accepted)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// New clients are refused from now on, unless another process or an [`AsyncListener`] holds
    /// the socket.
    pub fn close(&self) {
        *self.open.lock() = None;
    }

    /// Undoes [`ListeningSocket::close`].
    pub fn reopen(&self) -> io::Result<()> {
        let mut open = self.open.lock();
        if open.is_none() {
            let none = Inherited::default();
            *open = Some(Open::bind(&self.address, self.options, &none)?);
        }
        Ok(())
    }
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the socket is closed")
}

impl Open {
    /// The binder may have left the socket blocking and without our options.
    fn adopt(
        address: &ListenAddress,
        descriptor: OwnedFd,
        options: SocketOptions,
    ) -> io::Result<Self> {
        let socket = Socket::from(descriptor);
        socket.set_nonblocking(true)?;
        Ok(match address {
            ListenAddress::Tcp(_) => {
                (options.prepare)(&SockRef::from(&socket))?;
                Self::tcp(socket)
            }
            ListenAddress::Unix(path) => Self {
                socket: Bound::Unix(socket.into()),
                file: SocketFile::find(path),
            },
        })
    }

    fn bind(
        address: &ListenAddress,
        options: SocketOptions,
        inherited: &Inherited,
    ) -> io::Result<Self> {
        match address {
            ListenAddress::Tcp(address) => bind_tcp(*address, options, inherited).map(Self::tcp),
            ListenAddress::Unix(path) => {
                let socket = bind_unix(path, options)?;
                let file = SocketFile::find(path);
                file.iter().for_each(|file| file.set_ours(true));
                Ok(Self {
                    socket: Bound::Unix(socket.into()),
                    file,
                })
            }
        }
    }

    fn tcp(socket: Socket) -> Self {
        Self {
            socket: Bound::Tcp(socket.into()),
            file: None,
        }
    }

    /// `wanted` with the port that the kernel has chosen.
    fn address(&self, wanted: &ListenAddress) -> io::Result<ListenAddress> {
        match &self.socket {
            Bound::Tcp(socket) => Ok(ListenAddress::Tcp(socket.local_addr()?)),
            Bound::Unix(_) => Ok(wanted.clone()),
        }
    }
}

impl AsFd for Open {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Bound::Tcp(socket) => socket.as_fd(),
            Bound::Unix(socket) => socket.as_fd(),
        }
    }
}

fn local_address(descriptor: &OwnedFd) -> io::Result<ListenAddress> {
    let address = SockRef::from(descriptor).local_addr()?;
    match (address.as_socket(), address.as_pathname()) {
        (Some(address), _) => Ok(ListenAddress::Tcp(address)),
        (None, Some(path)) => Ok(ListenAddress::Unix(path.to_owned())),
        (None, None) => Err(io::Error::other("it has neither an address nor a path")),
    }
}

/// If the process before still listens on an address that includes this one (`0.0.0.0:80`, and
/// `127.0.0.1:80` now), or the other way round, the kernel lets both listen only if both share the
/// port (`SO_REUSEPORT`). It then gives connections to the more exact address. So this socket is
/// only bound here, and [listens](ListeningSocket::listen) later: until then the other process gets
/// the clients.
fn bind_tcp(
    address: SocketAddr,
    options: SocketOptions,
    inherited: &Inherited,
) -> io::Result<Socket> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    let beside = inherited.beside(address);
    for other in &beside {
        SockRef::from(other).set_reuse_port(true)?;
    }
    if !beside.is_empty() {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() {
        // A file with 0.0.0.0 and [::] on one port means two listeners.
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    (options.prepare)(&SockRef::from(&socket))?;
    socket.bind(&address.into())?;
    if beside.is_empty() {
        socket.listen(options.backlog)?;
    }
    Ok(socket)
}

fn bind_unix(path: &Path, options: SocketOptions) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    if options.is_private {
        // Set before the bind: Linux makes the file with the mode of the socket, minus the umask.
        // With a later chmod others could connect for a moment, and the umask belongs to the whole
        // process.
        fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    }
    let address = SockAddr::unix(path)?;
    match socket.bind(&address) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_stale(path) => {
            std::fs::remove_file(path)?;
            socket.bind(&address)?;
        }
        bound => bound?,
    }
    socket.set_nonblocking(true)?;
    socket.listen(options.backlog)?;
    Ok(socket)
}

#[cfg(test)]
mod tests;
