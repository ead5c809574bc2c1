//! Binding listeners, with the socket options that accepted connections inherit.

use std::io;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net as unix;
use std::path::{Path, PathBuf};
use std::{fmt, fs, net};

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, UnixListener};

use crate::config::{ListenAddress, Listener};
use crate::upstream::TCP_KEEPALIVE;

/// Connections that the kernel holds until they are accepted (it caps this by somaxconn).
const BACKLOG: i32 = 4096;

#[derive(Debug)]
pub struct BoundListener {
    pub name: String,
    pub socket: ListeningSocket,
}

#[derive(Debug)]
pub enum ListeningSocket {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

/// The socket's file goes when the listener does.
#[derive(Debug)]
pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
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

/// Must run inside the runtime, which the sockets are registered with.
pub fn bind(listener: &Listener) -> Result<BoundListener, BindError> {
    let socket = match &listener.address {
        ListenAddress::Tcp(address) => bind_tcp(*address).map(ListeningSocket::Tcp),
        ListenAddress::Unix(path) => {
            bind_unix(path).map(|socket| ListeningSocket::Unix(socket, SocketFile(path.clone())))
        }
    };
    let socket = socket.map_err(|cause| BindError {
        name: listener.name.clone(),
        address: listener.address.clone(),
        cause,
    })?;
    Ok(BoundListener {
        name: listener.name.clone(),
        socket,
    })
}

impl BoundListener {
    /// The address in the configuration's own form, with the port that the kernel chose.
    pub fn address(&self) -> io::Result<ListenAddress> {
        match &self.socket {
            ListeningSocket::Tcp(socket) => Ok(ListenAddress::Tcp(socket.local_addr()?)),
            ListeningSocket::Unix(_, file) => Ok(ListenAddress::Unix(file.0.clone())),
        }
    }
}

fn bind_tcp(address: net::SocketAddr) -> io::Result<TcpListener> {
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
    TcpListener::from_std(socket.into())
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

fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    match unix::UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_stale(path) => {
            fs::remove_file(path)?;
            UnixListener::bind(path)
        }
        bound => {
            let socket = bound?;
            socket.set_nonblocking(true)?;
            UnixListener::from_std(socket)
        }
    }
}

/// A socket file that nobody listens on is left over from a process that was killed.
fn is_stale(path: &Path) -> bool {
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
