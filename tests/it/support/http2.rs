//! Clients that speak HTTP/2, and frames by hand for those that should not be spoken.

use std::sync::Arc;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::ext::Protocol;
use h2::{RecvStream, SendStream};
use http::{Request, Response};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::client::TlsStream;

use super::{
    Authority, Config, Frame, Origin, Prusik, certificates, eventually, tls_connect, within,
};

/// What a client's connection begins with; its settings follow.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

pub const NAME: &str = "chat.test";
const ADMIN: &str = "admin: { listen: \"127.0.0.1:0\" }";

/// A server behind prusik, which speaks HTTP/2 by TLS.
pub struct Http2Site {
    pub authority: Authority,
    pub origin: Origin,
    pub prusik: Prusik,
}

impl Http2Site {
    /// `change` gets a configuration without TLS and admin API.
    pub async fn start(origin: Origin, change: impl FnOnce(Config) -> Config) -> Self {
        let authority = Authority::new();
        let config = secured(&authority, change(Config::to(&[&origin])));
        let prusik = Prusik::start_own(config).await;
        Self {
            authority,
            origin,
            prusik,
        }
    }

    /// Where `ulimit` has been set so.
    pub async fn start_limited(
        origin: Origin,
        change: impl FnOnce(Config) -> Config,
        ulimit: &str,
    ) -> Self {
        let authority = Authority::new();
        let config = secured(&authority, change(Config::to(&[&origin])));
        let prusik = Prusik::start_limited(config, ulimit).await;
        Self {
            authority,
            origin,
            prusik,
        }
    }

    /// Waits for the line of a refusal in the access log.
    pub async fn refused(&self, status: u16, reason: &str) {
        self.prusik
            .wait_log(reason, |entry| {
                let said = entry["error"].as_str().unwrap_or_default();
                entry["status"] == status && said.contains(reason)
            })
            .await;
    }

    /// After a handshake in which both wanted HTTP/2.
    pub async fn tls(&self) -> TlsStream<TcpStream> {
        let mut config = (*self.authority.client().config()).clone();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let config = Arc::new(config);
        let stream = tls_connect(&config, self.prusik.public(), NAME).await;
        let stream = stream.expect("a handshake");
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        stream
    }

    pub async fn client(&self) -> Http2Client {
        // One stream that nobody reads leaves room for others.
        let mut builder = h2::client::Builder::new();
        builder.initial_connection_window_size(1 << 20);
        let (send, connection) = builder
            .handshake(self.tls().await)
            .await
            .expect("a preface");
        Http2Client {
            send,
            connection: tokio::spawn(connection),
        }
    }
}

fn secured(authority: &Authority, config: Config) -> Config {
    let pair = authority.issue("chat", &[NAME]);
    let tls = format!("{}, http2: true", certificates(&[&pair]));
    config.tls(tls).top(ADMIN)
}

pub struct Http2Client {
    pub send: SendRequest<Bytes>,
    pub connection: JoinHandle<Result<(), h2::Error>>,
}

impl Http2Client {
    /// The response, and what can be sent behind the fields.
    pub async fn begin(
        &mut self,
        request: Request<()>,
        is_whole: bool,
    ) -> (h2::client::ResponseFuture, SendStream<Bytes>) {
        let send = self.send.clone();
        let mut send = within("room for a stream", send.ready())
            .await
            .expect("a connection");
        send.send_request(request, is_whole)
            .expect("a sound request")
    }

    pub async fn ask(&mut self, request: Request<()>) -> (Response<()>, Vec<u8>) {
        let (response, _) = self.begin(request, true).await;
        whole(response).await
    }

    pub async fn get(&mut self, target: &str) -> (Response<()>, Vec<u8>) {
        let request = Request::get(format!("https://{NAME}{target}"));
        self.ask(request.body(()).expect("a sound request")).await
    }

    /// An extended CONNECT. Behind a 200 there is a session.
    pub async fn connect(&mut self, target: &str) -> (Response<()>, RecvStream, SendStream<Bytes>) {
        let (response, send) = self.begin_session(target).await;
        let response = within("a response", response).await.expect("a response");
        let (parts, receive) = response.into_parts();
        (Response::from_parts(parts, ()), receive, send)
    }

    /// The answer to an extended CONNECT of the test's making.
    pub async fn open(&mut self, request: Request<()>) -> Response<()> {
        let (response, _send) = self.begin_session_with(request).await;
        let response = within("a response", response).await.expect("a response");
        Response::from_parts(response.into_parts().0, ())
    }

    /// The same, not answered yet.
    pub async fn begin_session(
        &mut self,
        target: &str,
    ) -> (h2::client::ResponseFuture, SendStream<Bytes>) {
        let request = Request::connect(format!("https://{NAME}{target}"))
            .header("sec-websocket-version", "13")
            .body(())
            .expect("a sound request");
        self.begin_session_with(request).await
    }

    async fn begin_session_with(
        &mut self,
        mut request: Request<()>,
    ) -> (h2::client::ResponseFuture, SendStream<Bytes>) {
        request
            .extensions_mut()
            .insert(Protocol::from_static("websocket"));
        eventually("the server's settings are here", async || {
            self.send.is_extended_connect_protocol_enabled()
        })
        .await;
        self.begin(request, false).await
    }
}

/// The response and its body.
pub async fn whole(response: h2::client::ResponseFuture) -> (Response<()>, Vec<u8>) {
    let response = within("a response", response).await.expect("a response");
    let (parts, mut body) = response.into_parts();
    let mut all = Vec::new();
    while let Some(data) = within("the body", body.data()).await {
        let data = data.expect("no reset");
        body.flow_control()
            .release_capacity(data.len())
            .expect("it was taken");
        all.extend_from_slice(&data);
    }
    (Response::from_parts(parts, ()), all)
}

/// The next frame of a session.
pub async fn frame(receive: &mut RecvStream, seen: &mut Vec<u8>) -> Frame {
    loop {
        if let [start, length, rest @ ..] = &seen[..]
            && rest.len() >= usize::from(*length)
        {
            assert!(*length < 126, "short frames only");
            let end = 2 + usize::from(*length);
            let frame = Frame {
                opcode: start & 0x0f,
                payload: seen[2..end].to_vec(),
            };
            seen.drain(..end);
            return frame;
        }
        let data = within("a frame", receive.data()).await;
        let data = data.expect("the session goes on").expect("no reset");
        receive
            .flow_control()
            .release_capacity(data.len())
            .expect("it was taken");
        seen.extend_from_slice(&data);
    }
}

/// Nothing more comes, and it is no reset.
pub async fn ended(receive: &mut RecvStream) {
    while let Some(data) = within("the end", receive.data()).await {
        assert!(data.expect("an end, no reset").is_empty());
    }
}

pub fn raw_frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len())
        .expect("a short frame")
        .to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A field that is not to be remembered, no part of it longer than 126 bytes (RFC 7541 section
/// 6.2.2).
pub fn literal(name: &str, value: &str) -> Vec<u8> {
    let mut field = vec![0];
    for part in [name, value] {
        assert!(part.len() < 127, "a length of one byte");
        field.push(part.len() as u8);
        field.extend(part.as_bytes());
    }
    field
}

/// The fields of a request, for [`HEADERS`].
pub fn request_fields(method: &str, target: &str) -> Vec<u8> {
    [
        literal(":method", method),
        literal(":scheme", "https"),
        literal(":authority", NAME),
        literal(":path", target),
    ]
    .concat()
}
