//! How a connection to a server is made: from which address, with which PROXY header, and with TLS
//! or without.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::Poll;

use pingora::connectors::l4::BindTo;
use pingora::protocols::l4::ext;
use pingora::{Error, ErrorType};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::forward::proxy_protocol::Preamble;
use crate::limits::DrainDeadline;
use crate::net::Socket;
use crate::tls::Connector;
use crate::transport::Transport;

/// How a connection to a server is made.
#[derive(Debug, Clone, Default)]
pub struct Dialer {
    /// `None`: the kernel chooses the address.
    pub sources: Option<Arc<Sources>>,
    /// The PROXY header with which the connection begins.
    pub preamble: Option<Preamble>,
    /// `None`: plain text.
    pub tls: Option<Arc<Connector>>,
    /// Ends the attempt when the drain's deadline has struck.
    pub drain_deadline: DrainDeadline,
}

/// The addresses of this machine that an upstream's connections use in turn.
#[derive(Debug)]
pub struct Sources {
    addresses: Vec<IpAddr>,
    next: AtomicUsize,
}

impl Sources {
    /// `None` for an empty list.
    pub fn new(addresses: &[IpAddr]) -> Option<Arc<Self>> {
        (!addresses.is_empty()).then(|| {
            Arc::new(Self {
                addresses: addresses.to_vec(),
                next: AtomicUsize::new(0),
            })
        })
    }

    /// All addresses that can reach `address`, beginning with the one whose turn it is.
    fn in_turn(&self, address: SocketAddr) -> impl Iterator<Item = IpAddr> {
        let count = self.addresses.len();
        let first = self.next.fetch_add(1, Relaxed) % count;
        let addresses = (first..first + count).map(move |number| self.addresses[number % count]);
        addresses.filter(move |source| source.is_ipv4() == address.is_ipv4())
    }
}

impl Dialer {
    /// The time is limited by the caller and by the drain's deadline.
    pub async fn connect(&self, address: SocketAddr) -> pingora::Result<Transport> {
        let deadline = poll_fn(|_| match self.drain_deadline.check() {
            Ok(()) => Poll::Pending,
            Err(cut) => Poll::Ready(cut),
        });
        tokio::select! {
            biased;
            connected = self.connect_unbounded(address) => connected,
            cut = deadline => Err(because(address, cut)),
        }
    }

    async fn connect_unbounded(&self, address: SocketAddr) -> pingora::Result<Transport> {
        let mut socket = match &self.sources {
            Some(sources) => connect_from(sources, address).await?,
            None => connect_tcp(address).await?,
        };
        if let Some(preamble) = self.preamble {
            let sent = socket.write_all(&preamble.to_bytes()).await;
            sent.map_err(|cause| because(address, cause))?;
        }
        let socket = Socket::Tcp(socket);
        let Some(tls) = &self.tls else {
            return Ok(socket.into());
        };
        let connected = tls.connect(address, socket).await.map_err(|cause| {
            let cause = io::Error::new(cause.kind(), format!("TLS to {address}: {cause}"));
            let context = format!("connecting to {address}");
            Error::because(ErrorType::TLSHandshakeFailure, context, cause)
        })?;
        Ok(connected.into())
    }
}

async fn connect_tcp(address: SocketAddr) -> pingora::Result<TcpStream> {
    let connected = TcpStream::connect(address).await;
    connected.map_err(|cause| because(address, cause))
}

/// Connects from the first source that has a port left for this server.
async fn connect_from(sources: &Sources, address: SocketAddr) -> pingora::Result<TcpStream> {
    let mut last = None;
    for source in sources.in_turn(address) {
        let mut bind = BindTo::default();
        bind.addr = Some((source, 0).into());
        // With IP_BIND_ADDRESS_NO_PORT the port is chosen when the server is known. It may be in
        // use for other servers.
        let error = match ext::connect(&address, Some(&bind)).await {
            Ok(socket) => return Ok(socket),
            Err(error) => cause_of(&error),
        };
        if error.kind() != io::ErrorKind::AddrNotAvailable {
            return Err(because(address, error));
        }
        last = Some(error);
    }
    match last {
        Some(error) => Err(because(address, error)),
        // A name may have addresses of a family for which there is no source.
        None => connect_tcp(address).await,
    }
}

fn because(address: SocketAddr, cause: io::Error) -> Box<Error> {
    let kind = match cause.kind() {
        io::ErrorKind::ConnectionRefused => ErrorType::ConnectRefused,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            ErrorType::ConnectNoRoute
        }
        io::ErrorKind::TimedOut => ErrorType::ConnectTimedout,
        _ => ErrorType::ConnectError,
    };
    let context = format!("connecting to {address}");
    match Shortage::of(&cause) {
        Some(shortage) => Error::because(kind, context, Short { shortage, cause }),
        None => Error::because(kind, context, cause),
    }
}

/// Pingora wraps the system's error in an error of its own.
fn cause_of(error: &Error) -> io::Error {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error.root_cause());
    while let Some(found) = cause {
        if let Some(found) = found.downcast_ref::<io::Error>() {
            return match found.raw_os_error() {
                Some(code) => io::Error::from_raw_os_error(code),
                None => found.kind().into(),
            };
        }
        cause = found.source();
    }
    io::Error::other(error.to_string())
}

/// What this machine lacks for a connection. It says nothing about the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shortage {
    Ports,
    Descriptors,
}

impl Shortage {
    /// What a failed [`Dialer::connect`] lacked, if that was the cause.
    pub fn of_connecting(error: &Error) -> Option<Self> {
        let short = error.root_cause().downcast_ref::<Short>()?;
        Some(short.shortage)
    }

    fn of(error: &io::Error) -> Option<Self> {
        match error.raw_os_error()? {
            libc::EADDRNOTAVAIL => Some(Self::Ports),
            libc::EMFILE | libc::ENFILE => Some(Self::Descriptors),
            _ => None,
        }
    }

    pub fn remedy(self) -> &'static str {
        match self {
            Self::Ports => {
                "no local port is left for it, or the source is no address of this machine: give \
                 the upstream more addresses in `source`, or widen net.ipv4.ip_local_port_range"
            }
            Self::Descriptors => {
                "the process has no descriptor left: raise LimitNOFILE, or lower the listeners' \
                 limits.connections"
            }
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{cause}: {}", shortage.remedy())]
struct Short {
    shortage: Shortage,
    cause: io::Error,
}
