//! A listener of the file, and its socket.

use std::io;

use socket2::{SockRef, TcpKeepalive};

use crate::config::Listener;
use crate::net::TCP_KEEPALIVE;
use crate::net::{Inherited, ListenAddress, ListeningSocket, SocketOptions};

/// How long, and how many, connections wait in the kernel until they are accepted.
const OPTIONS: SocketOptions = SocketOptions {
    backlog: 4096,
    is_private: false,
    prepare,
};

/// On Linux an accepted socket starts with the options of its listener. Set here once, they cost no
/// system call for a connection.
fn prepare(socket: &SockRef<'_>) -> io::Result<()> {
    let keepalive = TcpKeepalive::new()
        .with_time(TCP_KEEPALIVE.idle)
        .with_interval(TCP_KEEPALIVE.interval)
        .with_retries(TCP_KEEPALIVE.count as u32);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(TCP_KEEPALIVE.user_timeout))?;
    socket.set_tcp_nodelay(true)
}

#[derive(Debug)]
pub struct BoundListener {
    pub name: String,
    pub socket: ListeningSocket,
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

/// Uses the inherited socket if there is one, else binds a new one.
pub fn bind(listener: &Listener, inherited: &mut Inherited) -> Result<BoundListener, BindError> {
    let bound = ListeningSocket::bind(&listener.address, OPTIONS, inherited);
    let socket = bound.map_err(|cause| BindError {
        name: listener.name.clone(),
        address: listener.address.clone(),
        cause,
    })?;
    Ok(BoundListener {
        name: listener.name.clone(),
        socket,
    })
}
