//! Binding listeners, with the socket options that accepted connections inherit.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net as unix;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::{fmt, fs, net};

use log::warn;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, UnixListener};

use crate::config::{ListenAddress, Listener};
use crate::forward::proxy_protocol::Ends;
use crate::session::transport::Transport;
use crate::upstream::TCP_KEEPALIVE;

/// Connections that the kernel holds until they are accepted (it caps this by somaxconn).
const BACKLOG: i32 = 4096;

#[derive(Debug)]
pub struct BoundListener {
    pub name: String,
    socket: ListeningSocket,
    binder: Binder,
}

#[derive(Debug)]
enum ListeningSocket {
    Tcp(net::TcpListener),
    Unix(unix::UnixListener, SocketFile),
}

/// A listening socket at the runtime, for as long as connections are accepted.
#[derive(Debug)]
pub enum Acceptor {
    /// With the address that every connection comes to; `None`: to any of the machine's.
    Tcp(TcpListener, Option<SocketAddr>),
    Unix(UnixListener),
}

impl Acceptor {
    /// A connection, and by TCP its ends: the kernel is not asked again for what it says here.
    pub async fn accept(&self) -> io::Result<(Transport, Option<Ends>)> {
        match self {
            Self::Tcp(socket, local) => {
                let (socket, peer) = socket.accept().await?;
                let local = local.or_else(|| socket.local_addr().ok());
                let ends = local.map(|local| Ends { peer, local });
                Ok((Transport::Tcp(socket), ends))
            }
            Self::Unix(socket) => Ok((Transport::Unix(socket.accept().await?.0), None)),
        }
    }
}

/// The socket's file goes when the listener does, unless somebody else listens on it then.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    is_kept: AtomicBool,
}

impl SocketFile {
    fn new(path: &Path, is_kept: bool) -> Self {
        Self {
            path: path.to_owned(),
            is_kept: AtomicBool::new(is_kept),
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if !self.is_kept.load(Relaxed) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Listening sockets that another process has bound: the old one at an upgrade, or systemd.
#[derive(Debug, Default)]
pub struct Inherited {
    sockets: Vec<(ListenAddress, OwnedFd, Binder)>,
}

/// Who has bound a listening socket, and so owns the file of a unix one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binder {
    /// This process, or the one that it takes over from.
    Us,
    Systemd,
}

impl Inherited {
    /// Descriptors that are no listening sockets are left out, and told of.
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

    /// The first one on this address. Port 0 is any port: there the order decides.
    pub fn take(&mut self, address: &ListenAddress) -> Option<(OwnedFd, Binder)> {
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

    /// Those that nobody has taken.
    pub fn unused(&self) -> impl Iterator<Item = (&ListenAddress, Binder)> {
        self.sockets
            .iter()
            .map(|(address, _, binder)| (address, *binder))
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

#[derive(Debug, thiserror::Error)]
#[error(
    "listener {name:?}: cannot listen on {address}: {cause}{}",
    remedy(cause, address)
)]
pub struct BindError {
    name: String,
    address: ListenAddress,
    cause: io::Error,
}

fn remedy(cause: &io::Error, address: &ListenAddress) -> &'static str {
    match cause.kind() {
        io::ErrorKind::AddrInUse if matches!(address, ListenAddress::Unix(_)) => {
            "; find who holds it with `ss -lxp`"
        }
        io::ErrorKind::AddrInUse => "; find who holds it with `ss -ltnp`",
        io::ErrorKind::AddrNotAvailable => "; no interface of this machine has this address",
        io::ErrorKind::PermissionDenied => {
            "; ports below 1024 need CAP_NET_BIND_SERVICE, a socket file a writable directory"
        }
        _ => "",
    }
}

/// Takes over the socket if it was inherited, else binds one.
pub fn bind(listener: &Listener, inherited: &mut Inherited) -> Result<BoundListener, BindError> {
    let mut binder = Binder::Us;
    let inherited = inherited.take(&listener.address).map(|(socket, by)| {
        binder = by;
        socket
    });
    let socket = match (&listener.address, inherited) {
        (ListenAddress::Tcp(_), Some(inherited)) => adopt_tcp(inherited).map(ListeningSocket::Tcp),
        (ListenAddress::Tcp(address), None) => bind_tcp(*address).map(ListeningSocket::Tcp),
        // An inherited one's file is still that of whoever bound it.
        (ListenAddress::Unix(path), Some(inherited)) => adopt_unix(inherited)
            .map(|socket| ListeningSocket::Unix(socket, SocketFile::new(path, true))),
        (ListenAddress::Unix(path), None) => bind_unix(path)
            .map(|socket| ListeningSocket::Unix(socket, SocketFile::new(path, false))),
    };
    let socket = socket.map_err(|cause| BindError {
        name: listener.name.clone(),
        address: listener.address.clone(),
        cause,
    })?;
    Ok(BoundListener {
        name: listener.name.clone(),
        socket,
        binder,
    })
}

impl BoundListener {
    /// The address in the configuration's own form, with the port that the kernel chose.
    pub fn address(&self) -> io::Result<ListenAddress> {
        match &self.socket {
            ListeningSocket::Tcp(socket) => Ok(ListenAddress::Tcp(socket.local_addr()?)),
            ListeningSocket::Unix(_, file) => Ok(ListenAddress::Unix(file.path.clone())),
        }
    }

    pub fn binder(&self) -> Binder {
        self.binder
    }

    /// Another process listens on the same socket: its file is that one's. systemd's are always.
    pub fn keep_file(&self, is_kept: bool) {
        if let ListeningSocket::Unix(_, file) = &self.socket {
            let is_systemds = self.binder == Binder::Systemd;
            file.is_kept.store(is_kept || is_systemds, Relaxed);
        }
    }

    /// Whoever connects is refused from now on, in whichever process the socket is open. A unix
    /// socket could not be opened again, and stays; what systemd has bound is not ours to close.
    pub fn shut(&self) {
        if let (ListeningSocket::Tcp(socket), Binder::Us) = (&self.socket, self.binder) {
            shut(socket);
        }
    }

    /// Undoes [`BoundListener::shut`].
    pub fn open(&self) {
        if let ListeningSocket::Tcp(socket) = &self.socket {
            open(socket, BACKLOG);
        }
    }

    /// Anew each time that accepting begins: once it was [shut](BoundListener::shut), a socket stays
    /// closed to the runtime. Must run inside it.
    pub fn acceptor(&self) -> io::Result<Acceptor> {
        Ok(match &self.socket {
            ListeningSocket::Tcp(socket) => {
                let local = socket.local_addr()?;
                let is_one = !local.ip().is_unspecified();
                let socket = TcpListener::from_std(socket.try_clone()?)?;
                Acceptor::Tcp(socket, is_one.then_some(local))
            }
            ListeningSocket::Unix(socket, _) => {
                Acceptor::Unix(UnixListener::from_std(socket.try_clone()?)?)
            }
        })
    }

    /// Another descriptor of the socket, for another process.
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        match &self.socket {
            ListeningSocket::Tcp(socket) => socket.as_fd().try_clone_to_owned(),
            ListeningSocket::Unix(socket, _) => socket.as_fd().try_clone_to_owned(),
        }
    }
}

/// The socket keeps its address but listens no more (shutdown(2), as Linux has it).
pub fn shut(socket: &impl AsFd) {
    if let Err(error) = SockRef::from(&socket.as_fd()).shutdown(net::Shutdown::Read) {
        warn!("cannot shut a listening socket: {error}");
    }
}

/// It listens, whether or not it was [`shut`].
pub fn open(socket: &impl AsFd, backlog: i32) {
    if let Err(error) = SockRef::from(&socket.as_fd()).listen(backlog) {
        warn!("cannot listen again: {error}");
    }
}

/// Whoever bound it may have left it blocking, and without the options that its connections
/// inherit.
fn adopt_tcp(descriptor: OwnedFd) -> io::Result<net::TcpListener> {
    let socket = Socket::from(descriptor);
    socket.set_nonblocking(true)?;
    inherited_options(&socket)?;
    Ok(socket.into())
}

fn adopt_unix(descriptor: OwnedFd) -> io::Result<unix::UnixListener> {
    let socket = unix::UnixListener::from(descriptor);
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn bind_tcp(address: SocketAddr) -> io::Result<net::TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // `[::]` stands for both families, as in nginx since 1.3.4 only with ipv6only=off: an
        // operator who lists 0.0.0.0 and [::] with one port means two listeners.
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    inherited_options(&socket)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// On Linux an accepted socket starts with its listener's options: set here once, they cost no
/// system call a connection.
fn inherited_options(socket: &Socket) -> io::Result<()> {
    let socket = SockRef::from(socket);
    let keepalive = TcpKeepalive::new()
        .with_time(TCP_KEEPALIVE.idle)
        .with_interval(TCP_KEEPALIVE.interval)
        .with_retries(TCP_KEEPALIVE.count as u32);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(TCP_KEEPALIVE.user_timeout))?;
    socket.set_tcp_nodelay(true)
}

fn bind_unix(path: &Path) -> io::Result<unix::UnixListener> {
    let socket = match unix::UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_stale(path) => {
            fs::remove_file(path)?;
            unix::UnixListener::bind(path)?
        }
        bound => bound?,
    };
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// A socket file that nobody listens on is left over from a process that was killed.
pub fn is_stale(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket())
        && unix::UnixStream::connect(path)
            .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}
