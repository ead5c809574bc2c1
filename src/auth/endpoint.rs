//! A server that is asked by HTTP for the sake of a request, and how a connection to it is made.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Uri};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use crate::net::Socket;
use crate::tls::Connector;

/// How long one address of several may take.
const CONNECT: Duration = Duration::from_secs(2);

/// Shown (`Display`) as its URL.
#[derive(Debug, Clone, PartialEq)]
pub struct Endpoint {
    /// With a scheme and a host.
    pub uri: Uri,
    /// `None` for `http`.
    pub tls: Option<Arc<Connector>>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("cannot look up {host}: {cause}")]
    Lookup { host: String, cause: io::Error },
    #[error("{0} has no address")]
    NoAddress(String),
    #[error("cannot connect to {address}: {cause}")]
    Connect {
        address: SocketAddr,
        cause: io::Error,
    },
    #[error("TLS to {address}: {cause}")]
    Tls {
        address: SocketAddr,
        cause: io::Error,
    },
}

/// A connection, plain or by TLS.
pub trait Connected: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connected for T {}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.uri.fmt(f)
    }
}

/// Whether the URI names a host, no user, and no port or one that there can be.
pub fn is_askable(uri: &Uri) -> bool {
    let (Some(authority), Some(host)) = (uri.authority(), uri.host()) else {
        return false;
    };
    let port = authority.as_str().strip_prefix(host);
    !host.is_empty()
        && match port.map(|port| port.strip_prefix(':').ok_or(port)) {
            Some(Ok(port)) => port.parse::<u16>().is_ok_and(|port| port != 0),
            Some(Err(rest)) => rest.is_empty(),
            // Something is before the host: a user.
            None => false,
        }
}

impl Endpoint {
    /// The `Host` of requests.
    pub fn host(&self) -> HeaderValue {
        let authority = self.uri.authority().map(|authority| authority.as_str());
        let host = HeaderValue::from_str(authority.unwrap_or_default());
        host.unwrap_or(HeaderValue::from_static(""))
    }

    /// The name or address, without the brackets of the latter.
    pub fn server(&self) -> &str {
        let host = self.uri.host().unwrap_or_default();
        host.trim_start_matches('[').trim_end_matches(']')
    }

    pub fn port(&self) -> u16 {
        let usual = if self.tls.is_some() { 443 } else { 80 };
        self.uri.port_u16().unwrap_or(usual)
    }

    pub async fn connect(&self) -> Result<Box<dyn Connected>, ConnectError> {
        let (address, tcp) = self.connect_tcp().await?;
        let Some(tls) = &self.tls else {
            return Ok(Box::new(tcp));
        };
        match tls.connect(address, Socket::Tcp(tcp)).await {
            Ok(secured) => Ok(Box::new(secured)),
            Err(cause) => Err(ConnectError::Tls { address, cause }),
        }
    }

    /// Tries one address after the other.
    async fn connect_tcp(&self) -> Result<(SocketAddr, TcpStream), ConnectError> {
        let (host, port) = (self.server(), self.port());
        let found = lookup_host((host, port)).await;
        let found = found.map_err(|cause| ConnectError::Lookup {
            host: host.to_owned(),
            cause,
        })?;
        let mut failed = ConnectError::NoAddress(host.to_owned());
        for address in found {
            let connected = timeout(CONNECT, TcpStream::connect(address)).await;
            match connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(tcp) => {
                    // Without it a request could wait for an acknowledgement; it is sent anyway.
                    let _ = tcp.set_nodelay(true);
                    return Ok((address, tcp));
                }
                Err(cause) => failed = ConnectError::Connect { address, cause },
            }
        }
        Err(failed)
    }
}
