//! Fetches a key set by HTTP: one GET, bounded in size and time. Redirects are not followed.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use crate::net::Socket;
use crate::tls::Connector;

/// For all of it, and for one address of several.
const TIMEOUT: Duration = Duration::from_secs(5);
const CONNECT: Duration = Duration::from_secs(2);

/// The largest known key sets have some 20 KiB.
const LARGEST: usize = 256 * 1024;

/// Where keys are fetched. Shown (`Display`) as its URL.
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

#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("cannot look up {host}: {cause}")]
    Lookup { host: String, cause: io::Error },
    #[error("cannot connect to {address}: {cause}")]
    Connect {
        address: SocketAddr,
        cause: io::Error,
    },
    #[error("{0} has no address")]
    NoAddress(String),
    #[error("TLS: {0}")]
    Tls(io::Error),
    #[error("the exchange failed: {0}")]
    Http(#[from] hyper::Error),
    #[error("it is redirected (status {0}); name the URL where it ends")]
    Redirected(u16),
    #[error("the answer has status {0}")]
    Status(u16),
    #[error("the answer cannot be read: {0}")]
    Body(String),
    #[error("no answer within {TIMEOUT:?}")]
    Late,
}

pub async fn get(endpoint: &Endpoint) -> Result<Bytes, FetchError> {
    match timeout(TIMEOUT, get_in_time(endpoint)).await {
        Ok(got) => got,
        Err(_) => Err(FetchError::Late),
    }
}

async fn get_in_time(endpoint: &Endpoint) -> Result<Bytes, FetchError> {
    let host = endpoint.uri.host().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let default = if endpoint.tls.is_some() { 443 } else { 80 };
    let port = endpoint.uri.port_u16().unwrap_or(default);
    let (address, tcp) = connect(host, port).await?;
    match &endpoint.tls {
        None => ask(&endpoint.uri, tcp).await,
        Some(tls) => {
            let secured = tls.connect(address, Socket::Tcp(tcp)).await;
            ask(&endpoint.uri, secured.map_err(FetchError::Tls)?).await
        }
    }
}

/// Tries one address after the other.
async fn connect(host: &str, port: u16) -> Result<(SocketAddr, TcpStream), FetchError> {
    let found = lookup_host((host, port)).await;
    let addresses = found.map_err(|cause| FetchError::Lookup {
        host: host.to_owned(),
        cause,
    })?;
    let mut failed = FetchError::NoAddress(host.to_owned());
    for address in addresses {
        let late = || Err(io::ErrorKind::TimedOut.into());
        let connected = timeout(CONNECT, TcpStream::connect(address)).await;
        match connected.unwrap_or_else(|_| late()) {
            Ok(tcp) => return Ok((address, tcp)),
            Err(cause) => failed = FetchError::Connect { address, cause },
        }
    }
    Err(failed)
}

async fn ask(
    uri: &Uri,
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
) -> Result<Bytes, FetchError> {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let host = uri.authority().map_or("", |authority| authority.as_str());
    let request = Request::get(path)
        .header(header::HOST, host)
        .header(header::ACCEPT, "application/json")
        .header(
            header::USER_AGENT,
            concat!("prusik/", env!("CARGO_PKG_VERSION")),
        )
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new());
    let request = request.map_err(|error| FetchError::Body(error.to_string()))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let answer = sender.send_request(request).await?;
    match answer.status() {
        StatusCode::OK => {}
        status if status.is_redirection() => return Err(FetchError::Redirected(status.as_u16())),
        status => return Err(FetchError::Status(status.as_u16())),
    }
    let body = Limited::new(answer.into_body(), LARGEST).collect().await;
    let body = body.map_err(|error| FetchError::Body(error.to_string()))?;
    Ok(body.to_bytes())
}
