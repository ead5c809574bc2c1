//! Calls to a running process, one at a time, and what can go wrong with them.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::address::Address;
use super::table;
use crate::admin::ServerName;
use crate::admin::view::Failure;
use crate::config::ConfigErrors;
use crate::config::token::{Token, TokenError};

/// A process that listens accepts at once.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub struct Client {
    addresses: Vec<Address>,
    token: Option<Token>,
}

/// One call. `patience`: how long the answer may take.
#[derive(Debug)]
pub struct Call {
    pub method: Method,
    /// With the query.
    pub path: String,
    /// JSON, or empty.
    pub body: String,
    pub patience: Duration,
}

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error(
        "the drain of {server} was called off: it has {} still",
        table::count(*sessions, "session")
    )]
    CalledOff { server: ServerName, sessions: usize },
    #[error(
        "{0}\nthe running process's address was to be read from this file; --admin ADDR does \
         without it"
    )]
    WrongFile(ConfigErrors),
    /// The same, if the call is about the file itself.
    #[error("{0}\nthe running process was not asked: the file doesn't tell where it is")]
    Unreadable(ConfigErrors),
    #[error(
        "{} has no admin: nothing tells where the running process is; add `admin: {{ listen: \
         unix:/run/prusik/admin.sock }}` and restart prusik, or name its address with --admin ADDR",
        .0.display()
    )]
    NoAdmin(PathBuf),
    #[error("there is no such process, or it may not be sent a signal")]
    NoProcess,
    #[error("nothing tells where the running process is: name its address with --admin ADDR")]
    NoAddress,
    #[error(
        "interrupted; the drain of {server} goes on, and `prusik status` shows how far it is; \
         `prusik enable {server}` ends it"
    )]
    Interrupted { server: ServerName },
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error(
        "cannot reach prusik at {address}: {}{}",
        in_words(cause),
        remedy(cause)
    )]
    Unreachable { address: Address, cause: io::Error },
    #[error(
        "prusik at {address} has not answered within {patience:?}; its log tells what it is doing"
    )]
    Late {
        address: Address,
        patience: Duration,
    },
    #[error("the connection to {address} broke before the answer: {cause}; {NOT_PRUSIK}")]
    Broken {
        address: Address,
        cause: hyper::Error,
    },
    #[error("{address} answers with status {status}, but not as prusik does; {NOT_PRUSIK}")]
    Strange {
        address: Address,
        status: StatusCode,
    },
    #[error("cannot make a call of this: {0}")]
    Unsayable(#[from] http::Error),
    #[error("{}", said(.0))]
    Refused(Failure),
}

impl ClientError {
    /// Whether the process was not reached: it is not there, or its address is unknown.
    pub fn is_about_the_way(&self) -> bool {
        matches!(
            self,
            Self::Unreadable(_) | Self::NoAdmin(_) | Self::NoAddress | Self::Unreachable { .. }
        )
    }
}

const NOT_PRUSIK: &str = "is this prusik's admin address, and not that of a listener?";

impl Client {
    /// The first address that answers is used.
    pub fn new(addresses: Vec<Address>, token: Option<Token>) -> Self {
        Self { addresses, token }
    }

    #[cfg(test)]
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    #[cfg(test)]
    pub fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// Returns the body of the answer if the call succeeded.
    pub async fn call(&self, call: Call) -> Result<Bytes, ClientError> {
        let mut first_failure = None;
        for address in &self.addresses {
            match connect(address).await {
                Ok(Stream::Tcp(stream, host)) => {
                    return self.converse(address, stream, &host, call).await;
                }
                Ok(Stream::Unix(stream)) => {
                    return self.converse(address, stream, "localhost", call).await;
                }
                Err(cause) => {
                    let address = address.clone();
                    first_failure.get_or_insert(ClientError::Unreachable { address, cause });
                }
            }
        }
        Err(first_failure.unwrap_or(ClientError::NoAddress))
    }

    /// Reads the body of an answer as JSON.
    pub fn read<T: DeserializeOwned>(&self, body: &Bytes) -> Result<T, ClientError> {
        serde_json::from_slice(body).map_err(|_| match self.addresses.first() {
            Some(address) => strange(address, StatusCode::OK),
            None => ClientError::NoAddress,
        })
    }

    async fn converse<S>(
        &self,
        address: &Address,
        stream: S,
        host: &str,
        call: Call,
    ) -> Result<Bytes, ClientError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let patience = call.patience;
        let request = self.request(host, call)?;
        let exchange = async {
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            // The task ends with this exchange: the request asks for that, and the sender is
            // dropped.
            tokio::spawn(connection);
            let (head, body) = sender.send_request(request).await?.into_parts();
            Ok((head.status, body.collect().await?.to_bytes()))
        };
        let address = || address.clone();
        let (status, body) = match timeout(patience, exchange).await {
            Ok(answered) => answered.map_err(|cause| ClientError::Broken {
                address: address(),
                cause,
            })?,
            Err(_) => {
                let address = address();
                return Err(ClientError::Late { address, patience });
            }
        };
        if status.is_success() {
            return Ok(body);
        }
        match serde_json::from_slice(&body) {
            Ok(failure) => Err(ClientError::Refused(failure)),
            Err(_) => Err(strange(&address(), status)),
        }
    }

    fn request(&self, host: &str, call: Call) -> Result<Request<Full<Bytes>>, ClientError> {
        let mut request = Request::builder()
            .method(call.method)
            .uri(call.path)
            .header(HOST, host)
            .header(CONNECTION, "close");
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, token.authorization());
        }
        if !call.body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        Ok(request.body(Full::new(call.body.into()))?)
    }
}

enum Stream {
    /// With the address that was reached, because the process accepts no name as `Host`.
    Tcp(TcpStream, String),
    Unix(UnixStream),
}

async fn connect(address: &Address) -> io::Result<Stream> {
    let connecting = async {
        match address {
            Address::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                let host = stream.peer_addr()?.to_string();
                Ok(Stream::Tcp(stream, host))
            }
            Address::Unix(path) => UnixStream::connect(path).await.map(Stream::Unix),
        }
    };
    match timeout(CONNECT_DEADLINE, connecting).await {
        Ok(connected) => connected,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

fn strange(address: &Address, status: StatusCode) -> ClientError {
    let address = address.clone();
    ClientError::Strange { address, status }
}

fn in_words(cause: &io::Error) -> String {
    match cause.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::NotFound => "no such file".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        io::ErrorKind::TimedOut => format!("no connection within {CONNECT_DEADLINE:?}"),
        _ => cause.to_string(),
    }
}

fn remedy(cause: &io::Error) -> &'static str {
    match cause.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => {
            "; is it running? if its admin address was changed in the file since it was started, \
             name the one that it has with --admin ADDR"
        }
        io::ErrorKind::PermissionDenied => {
            "; only the user that prusik runs as may use its socket, and root"
        }
        _ => "; check the address",
    }
}

fn said(failure: &Failure) -> String {
    match failure.hint.as_str() {
        "" => failure.error.clone(),
        hint => format!("{}\n  hint: {hint}", failure.error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_that_is_not_there_is_asked_about() {
        let call = || Call {
            method: Method::GET,
            path: "/".to_owned(),
            body: String::new(),
            patience: CONNECT_DEADLINE,
        };
        let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = gone.local_addr().unwrap().to_string();
        drop(gone);
        for (address, why) in [
            (address.as_str(), "connection refused"),
            ("unix:/nowhere/admin.sock", "no such file"),
        ] {
            let client = Client::new(vec![address.parse().unwrap()], None);
            let error = client.call(call()).await.unwrap_err().to_string();
            let expected = format!("cannot reach prusik at {address}: {why}; is it running?");
            assert!(error.starts_with(&expected), "{error}");
        }
    }
}
