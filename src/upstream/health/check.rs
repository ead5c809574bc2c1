//! One check of one server: connect, GET, or a WebSocket handshake.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, ready};
use futures_util::{SinkExt, StreamExt};
use http::header::{CONNECTION, HOST, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY};
use http::header::{SEC_WEBSOCKET_VERSION, UPGRADE, USER_AGENT};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, Parts};
use hyper_util::rt::TokioIo;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{self, Message};

use crate::config::{self, HealthCheckKind};
use crate::observe::in_short;
use crate::transport::Transport;
use crate::upstream::{Dialer, Shortage};

const AGENT: &str = concat!("prusik/", env!("CARGO_PKG_VERSION"), " (health check)");

/// As many header fields as an answer to a request may have. This is Pingora's limit.
const MAX_FIELDS: usize = 256;

/// How one server is checked.
#[derive(Debug)]
pub struct Check {
    address: SocketAddr,
    dialer: Dialer,
    timeout: Duration,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Tcp,
    Http {
        request: Request<Empty<Bytes>>,
        expect: Vec<RangeInclusive<u16>>,
    },
    WebSocket {
        /// Without its `Sec-WebSocket-Key`.
        request: Request<Empty<Bytes>>,
    },
}

/// Why a check failed.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    #[error("{}", in_short(.0))]
    Connect(#[from] Box<pingora::Error>),
    #[error("no answer: {}", in_full(.0))]
    Answer(#[from] hyper::Error),
    #[error("the answer's status is {0}")]
    Status(StatusCode),
    #[error("the handshake was answered with {0}")]
    NoHandshake(StatusCode),
    #[error("the 101 has no correct {0}")]
    BadHandshake(&'static str),
    #[error("no pong: {0}")]
    Frames(#[from] tungstenite::Error),
    #[error("no pong: the server has closed")]
    Closed,
    #[error("no result within {0:?}")]
    Timeout(Duration),
}

impl CheckError {
    /// What this machine lacked. Then the check says nothing about the server.
    pub fn shortage(&self) -> Option<Shortage> {
        match self {
            Self::Connect(error) => Shortage::of_connecting(error),
            _ => None,
        }
    }
}

/// The error with its causes, which hyper does not print.
fn in_full(error: &hyper::Error) -> String {
    let mut said = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(found) = cause {
        said.push_str(": ");
        said.push_str(&found.to_string());
        cause = found.source();
    }
    said
}

impl Check {
    /// `server`: the address to check.
    pub fn new(server: SocketAddr, config: &config::HealthCheck, dialer: Dialer) -> Self {
        let mut address = server;
        if let Some(port) = config.port {
            address.set_port(port);
        }
        let kind = match &config.kind {
            HealthCheckKind::Tcp => Kind::Tcp,
            HealthCheckKind::Http { path, host, expect } => Kind::Http {
                request: request(address, path, host.as_deref(), &[(CONNECTION, "close")]),
                expect: expect.clone(),
            },
            HealthCheckKind::WebSocket { path, host } => {
                let upgrade = [
                    (CONNECTION, "Upgrade"),
                    (UPGRADE, "websocket"),
                    (SEC_WEBSOCKET_VERSION, "13"),
                ];
                Kind::WebSocket {
                    request: request(address, path, host.as_deref(), &upgrade),
                }
            }
        };
        Self {
            address,
            dialer,
            timeout: config.timeout,
            kind,
        }
    }

    /// One timeout covers the whole check.
    pub async fn run(&self) -> Result<(), CheckError> {
        let result = timeout(self.timeout, self.within_timeout()).await;
        result.unwrap_or(Err(CheckError::Timeout(self.timeout)))
    }

    async fn within_timeout(&self) -> Result<(), CheckError> {
        let transport = self.dialer.connect(self.address).await?;
        match &self.kind {
            Kind::Tcp => Ok(()),
            Kind::Http { request, expect } => ask(transport, request.clone(), expect).await,
            Kind::WebSocket { request } => ping(transport, request.clone()).await,
        }
    }
}

fn request(
    address: SocketAddr,
    path: &str,
    host: Option<&str>,
    fields: &[(http::HeaderName, &'static str)],
) -> Request<Empty<Bytes>> {
    let path: PathAndQuery = path
        .parse()
        .expect("the configuration admits only paths that can be asked for");
    let host = match host {
        Some(host) => HeaderValue::from_str(host),
        None => HeaderValue::from_str(&address.to_string()),
    };
    let host = host.expect("the configuration admits only hosts that fit a header");
    let mut request = Request::new(Empty::new());
    *request.uri_mut() = Uri::from(path);
    request.headers_mut().insert(HOST, host);
    let agent = [(USER_AGENT, AGENT)];
    for (name, value) in agent.iter().chain(fields) {
        let value = HeaderValue::from_static(value);
        request.headers_mut().insert(name, value);
    }
    request
}

/// Only the head of the answer counts, because the body may have no end.
async fn ask(
    transport: Transport,
    request: Request<Empty<Bytes>>,
    expect: &[RangeInclusive<u16>],
) -> Result<(), CheckError> {
    let (answer, _connection) = exchange(transport, request).await?;
    let status = answer.status();
    if expect.iter().any(|range| range.contains(&status.as_u16())) {
        Ok(())
    } else {
        Err(CheckError::Status(status))
    }
}

/// A complete round: handshake, ping, pong, Close.
async fn ping(transport: Transport, mut request: Request<Empty<Bytes>>) -> Result<(), CheckError> {
    let key = generate_key();
    let accept = derive_accept_key(key.as_bytes());
    let key = HeaderValue::from_str(&key).expect("base64 fits a header");
    request.headers_mut().insert(SEC_WEBSOCKET_KEY, key);
    let (answer, connection) = exchange(transport, request).await?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(CheckError::NoHandshake(answer.status()));
    }
    verify(answer.headers(), &accept)?;
    let Parts { io, read_buf, .. } = connection.await?;
    let stream = io.into_inner();
    let early = read_buf.into();
    let mut socket = WebSocketStream::from_partially_read(stream, early, Role::Client, None).await;
    let payload = rand::random::<[u8; 8]>().to_vec();
    socket.send(Message::Ping(payload.clone().into())).await?;
    while let Some(message) = socket.next().await {
        match message? {
            Message::Pong(answer) if answer == payload => {
                // The result is known: a server that is slow to say goodbye is not unhealthy.
                let _ = socket.close(None).await;
                return Ok(());
            }
            _ => {}
        }
    }
    Err(CheckError::Closed)
}

/// RFC 6455 section 4.1, points 2 to 4 of what a client must verify.
fn verify(headers: &HeaderMap, accept: &str) -> Result<(), CheckError> {
    let says = |name: http::HeaderName, wanted: &str| {
        let value = headers.get(name)?.to_str().ok()?;
        value.eq_ignore_ascii_case(wanted).then_some(())
    };
    says(UPGRADE, "websocket").ok_or(CheckError::BadHandshake("Upgrade"))?;
    says(CONNECTION, "upgrade").ok_or(CheckError::BadHandshake("Connection"))?;
    match headers.get(SEC_WEBSOCKET_ACCEPT) {
        Some(found) if found == accept => Ok(()),
        _ => Err(CheckError::BadHandshake("Sec-WebSocket-Accept")),
    }
}

/// Returns the final answer (hyper skips interim ones) and the connection, whose stream is free
/// again when the connection is over or has switched to another protocol.
async fn exchange(
    transport: Transport,
    request: Request<Empty<Bytes>>,
) -> hyper::Result<(
    Response<Incoming>,
    impl Future<Output = hyper::Result<Parts<TokioIo<Transport>>>>,
)> {
    // As lenient as the proxy is with answers, and with the usual spelling of header names.
    let (mut sender, connection) = http1::Builder::new()
        .title_case_headers(true)
        .allow_spaces_after_header_name_in_responses(true)
        .allow_obsolete_multiline_headers_in_responses(true)
        .max_headers(MAX_FIELDS)
        .handshake(TokioIo::new(transport))
        .await?;
    let mut connection = Box::pin(connection.without_shutdown());
    let mut answer = pin!(sender.send_request(request));
    let free = tokio::select! {
        biased;
        answer = &mut answer => return Ok((answer?, Either::Left(connection))),
        free = &mut connection => free,
    };
    Ok((answer.await?, Either::Right(ready(free))))
}
