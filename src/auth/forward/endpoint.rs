//! Where the auth server is, and how a connection to it is made.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Uri};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use super::AskError;
use crate::net::Socket;
use crate::tls::Connector;

/// How long one address of several may take.
const CONNECT: Duration = Duration::from_secs(2);

/// How large the head of an answer may be. hyper wants 8 KiB at least.
const HEAD_MAX: usize = 64 * 1024;

/// As many header fields as an answer to a request may have.
const FIELDS_MAX: usize = 256;

/// A connection to the auth server, for one question after the other.
pub type Connection = http1::SendRequest<Empty<Bytes>>;

/// Shown (`Display`) as its URL.
#[derive(Debug, Clone, PartialEq)]
pub struct Endpoint {
    /// With a scheme and a host.
    pub uri: Uri,
    /// `None` for `http`.
    pub tls: Option<Arc<Connector>>,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.uri.fmt(f)
    }
}

impl Endpoint {
    /// The `Host` of requests.
    pub fn host(&self) -> HeaderValue {
        let authority = self.uri.authority().map(|authority| authority.as_str());
        let host = HeaderValue::from_str(authority.unwrap_or_default());
        host.unwrap_or(HeaderValue::from_static(""))
    }

    pub async fn connect(&self) -> Result<Connection, AskError> {
        let (address, tcp) = self.connect_tcp().await?;
        match &self.tls {
            None => begin(tcp).await,
            Some(tls) => {
                let stream = tls.connect(address, Socket::Tcp(tcp)).await;
                begin(stream.map_err(|cause| AskError::Tls { address, cause })?).await
            }
        }
    }

    /// Tries one address after the other.
    async fn connect_tcp(&self) -> Result<(SocketAddr, TcpStream), AskError> {
        let host = self.uri.host().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let usual = if self.tls.is_some() { 443 } else { 80 };
        let port = self.uri.port_u16().unwrap_or(usual);
        let found = lookup_host((host, port)).await;
        let found = found.map_err(|cause| AskError::Lookup {
            host: host.to_owned(),
            cause,
        })?;
        let mut failed = None;
        for address in found {
            let connected = timeout(CONNECT, TcpStream::connect(address)).await;
            match connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(tcp) => {
                    // Without it a question could wait for an acknowledgement; it is sent anyway.
                    let _ = tcp.set_nodelay(true);
                    return Ok((address, tcp));
                }
                Err(cause) => failed = Some(AskError::Connect { address, cause }),
            }
        }
        Err(failed.unwrap_or_else(|| AskError::NoAddress(host.to_owned())))
    }
}

async fn begin(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
) -> Result<Connection, AskError> {
    let (sender, connection) = http1::Builder::new()
        .title_case_headers(true)
        .max_header_size(HEAD_MAX)
        .max_buf_size(HEAD_MAX)
        .max_headers(FIELDS_MAX)
        .handshake(TokioIo::new(stream))
        .await?;
    // It ends when the sender is dropped. What fails is told to whoever waits for an answer.
    tokio::spawn(connection);
    Ok(sender)
}
