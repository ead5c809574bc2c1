//! One chat server of the demo: WebSocket sessions in the shared [`Room`], and an echo.
//!
//! | path | answers |
//! | --- | --- |
//! | `/IMS_SVR/websocket/echo` | every text and binary message, as it came |
//! | `/IMS_SVR/websocket` and below | the chat, see [`Word`] and [`Answer`] |
//! | `/healthz` | 200 to a plain GET |
//!
//! It is not part of the proxy: it stands for the servers behind prusik.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::header::{
    CONNECTION, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION,
    UPGRADE,
};
use http::{HeaderMap, Method, StatusCode};
use http_body_util::Full;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast::error::RecvError;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message as Frame};

use super::room::{Room, Said};
use super::server::{Request, Response, Server, serve_http, text};

use crate::websocket::handshake::has_token;

/// The path of all WebSocket services.
const WEBSOCKET: &str = "/IMS_SVR/websocket";
/// The largest message that a client may send.
const MESSAGE_SIZE: usize = 1024 * 1024;

/// A running chat server. Dropping it closes all its sockets.
#[derive(Debug)]
pub struct ChatServer {
    server: Server,
    sessions: Sessions,
}

/// The number of a chat server's sessions. Clones share the count.
#[derive(Debug, Clone, Default)]
pub struct Sessions(Arc<AtomicUsize>);

impl Sessions {
    pub fn open(&self) -> usize {
        self.0.load(Relaxed)
    }

    /// Counts one more until the guard is dropped.
    fn count(&self) -> Counted<'_> {
        self.0.fetch_add(1, Relaxed);
        Counted(&self.0)
    }
}

struct Counted<'a>(&'a AtomicUsize);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// A message of a client, such as `{"type":"ping","t":1}`.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Word {
    /// The application's heartbeat.
    Ping { t: serde_json::Value },
    /// Goes to everyone in the room.
    Say(Said),
    /// Asks for the messages after the message `since`.
    CatchUp { since: u64 },
}

/// A message of the server other than the room's.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Answer<'a> {
    /// The first message of every session.
    Welcome {
        server: &'a str,
        room: &'a str,
    },
    Pong {
        t: serde_json::Value,
    },
    /// All missed messages were sent.
    CaughtUp,
    Error {
        error: String,
    },
}

impl ChatServer {
    pub fn start(listener: TcpListener, room: Arc<Room>) -> io::Result<Self> {
        let sessions = Sessions::default();
        let shared = Arc::new(Shared {
            name: listener.local_addr()?.to_string(),
            room,
            sessions: sessions.clone(),
        });
        let server = Server::start(listener, move |stream| serve(stream, shared.clone()))?;
        Ok(Self { server, sessions })
    }

    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// Dies like a killed process: the listener and every connection close at once, without a Close
    /// frame. Then a successor can use the address.
    pub async fn kill(self) {
        self.server.kill().await;
    }
}

/// What all sessions of one server share.
struct Shared {
    /// The server's address, by which the page names it.
    name: String,
    room: Arc<Room>,
    sessions: Sessions,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Service {
    Chat,
    Echo,
}

type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// Speaks HTTP first. A session continues in this same task, so that ending the task ends the
/// session.
async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    let upgrade: Mutex<Option<(Service, OnUpgrade)>> = Mutex::new(None);
    let kept = || upgrade.lock();
    serve_http(stream, |mut request| {
        let response = answer(&request).unwrap_or_else(|service| {
            let accepted = accept(request.headers());
            if accepted.status() == StatusCode::SWITCHING_PROTOCOLS {
                *kept() = Some((service, hyper::upgrade::on(&mut request)));
            }
            accepted
        });
        async { response }
    })
    .await;
    let Some((service, upgrade)) = kept().take() else {
        return;
    };
    // The client left before its session began.
    let Ok(upgraded) = upgrade.await else { return };
    let config = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_SIZE))
        .max_frame_size(Some(MESSAGE_SIZE));
    let socket =
        WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await;
    let _counted = shared.sessions.count();
    // Nothing is left to do at the end of a session: the client sees the end.
    let _ = match service {
        Service::Chat => chat(socket, &shared).await,
        Service::Echo => echo(socket).await,
    };
}

/// The answer to a plain request, or the service for a WebSocket request.
fn answer(request: &Request) -> Result<Response, Service> {
    let path = request.uri().path();
    let service = match path.strip_prefix(WEBSOCKET) {
        Some("/echo") => Service::Echo,
        Some(below) if below.is_empty() || below.starts_with('/') => Service::Chat,
        _ if path == "/healthz" => return Ok(text(StatusCode::OK, "ok\n")),
        _ => return Ok(text(StatusCode::NOT_FOUND, "not found\n")),
    };
    match *request.method() {
        Method::GET => Err(service),
        _ => Ok(text(
            StatusCode::METHOD_NOT_ALLOWED,
            "a WebSocket starts with GET\n",
        )),
    }
}

/// The server's side of the opening handshake, RFC 6455 section 4.2.
fn accept(headers: &HeaderMap) -> Response {
    if !has_token(headers, &UPGRADE, "websocket") || !has_token(headers, &CONNECTION, "upgrade") {
        let mut refused = text(StatusCode::UPGRADE_REQUIRED, "WebSocket only\n");
        let headers = refused.headers_mut();
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        return refused;
    }
    if headers
        .get(SEC_WEBSOCKET_VERSION)
        .map(HeaderValue::as_bytes)
        != Some(b"13")
    {
        let mut refused = text(StatusCode::UPGRADE_REQUIRED, "WebSocket version 13 only\n");
        refused
            .headers_mut()
            .insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        return refused;
    }
    let accept = headers
        .get(SEC_WEBSOCKET_KEY)
        .and_then(|key| HeaderValue::from_str(&derive_accept_key(key.as_bytes())).ok());
    let Some(accept) = accept else {
        return text(StatusCode::BAD_REQUEST, "Sec-WebSocket-Key is missing\n");
    };
    let mut switching = Response::new(Full::new(Bytes::new()));
    *switching.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = switching.headers_mut();
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    switching
}

async fn echo(mut socket: Socket) -> Result<(), Error> {
    while let Some(frame) = socket.next().await {
        let frame = frame?;
        // tungstenite itself answers pings and the Close frame.
        if frame.is_text() || frame.is_binary() {
            socket.send(frame).await?;
        }
    }
    Ok(())
}

async fn chat(mut socket: Socket, shared: &Shared) -> Result<(), Error> {
    let mut room = shared.room.listen();
    let welcome = Answer::Welcome {
        server: &shared.name,
        room: shared.room.id(),
    };
    socket.send(frame(&welcome)).await?;
    loop {
        tokio::select! {
            word = socket.next() => match word {
                Some(Ok(Frame::Text(word))) => reply(&mut socket, shared, &word).await?,
                Some(other) => { other?; }
                None => return Ok(()),
            },
            heard = room.recv() => match heard {
                Ok(message) => socket.send(frame(&*message)).await?,
                // The client was too slow. It may ask for the missed messages.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return Ok(()),
            },
        }
    }
}

async fn reply(socket: &mut Socket, shared: &Shared, word: &str) -> Result<(), Error> {
    match serde_json::from_str(word) {
        Ok(Word::Ping { t }) => socket.send(frame(&Answer::Pong { t })).await,
        Ok(Word::Say(said)) => {
            shared.room.say(&shared.name, said);
            Ok(())
        }
        Ok(Word::CatchUp { since }) => {
            for message in shared.room.since(since) {
                socket.feed(frame(&*message)).await?;
            }
            socket.send(frame(&Answer::CaughtUp)).await
        }
        Err(error) => {
            let error = format!("cannot read the message: {error}");
            socket.send(frame(&Answer::Error { error })).await
        }
    }
}

/// Makes a frame of an [`Answer`] or a room's message.
fn frame(told: &impl Serialize) -> Frame {
    let json = serde_json::to_string(told).expect("their keys are strings, which never fails");
    Frame::text(json)
}

#[cfg(test)]
mod tests;
