//! WebSocket clients: a well-behaved one, and one that says exactly what it sends.

use std::net::SocketAddr;

use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use super::within;
use super::{Client, Duplex, Head};

/// The example of RFC 6455 section 1.3, and what must come back for it.
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// How a session ended, as its client saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// By a Close frame.
    Close(u16),
    /// The connection went without one.
    Cut,
}

pub struct Session {
    socket: WebSocketStream<Box<dyn Duplex>>,
}

impl Session {
    /// Opens a session; panics when it is refused.
    pub async fn open(address: SocketAddr, path: &str) -> Self {
        match Self::try_open(address, path).await {
            Ok(session) => session,
            Err(error) => panic!("no session at {address}{path}: {error}"),
        }
    }

    pub async fn try_open(address: SocketAddr, path: &str) -> Result<Self, Error> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Self::over(stream, path).await
    }

    /// Over a connection that is there.
    pub async fn over(stream: impl Duplex + 'static, path: &str) -> Result<Self, Error> {
        let request = format!("ws://test{path}").into_client_request()?;
        let stream: Box<dyn Duplex> = Box::new(stream);
        let (socket, _) = within("a handshake", client_async(request, stream)).await?;
        Ok(Self { socket })
    }

    pub async fn say(&mut self, text: &str) {
        within("a message is sent", self.socket.send(Message::text(text)))
            .await
            .expect("the session takes a message");
    }

    /// The next text.
    pub async fn hear(&mut self) -> String {
        loop {
            match within("a message", self.socket.next()).await {
                Some(Ok(Message::Text(text))) => return text.as_str().to_owned(),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => panic!("instead of a text: {other:?}"),
            }
        }
    }

    /// Says it, and hears the answer.
    pub async fn ask(&mut self, text: &str) -> String {
        self.say(text).await;
        self.hear().await
    }

    /// Which server holds this session.
    pub async fn server(&mut self) -> SocketAddr {
        let answer = self.ask("whoami").await;
        answer.parse().expect("an address")
    }

    /// Whether what is said still comes back.
    pub async fn is_alive(&mut self) -> bool {
        if self.socket.send(Message::text("alive?")).await.is_err() {
            return false;
        }
        let answer = within("an echo or the end", self.socket.next()).await;
        matches!(answer, Some(Ok(Message::Text(text))) if text == "alive?")
    }

    /// Waits for the end, whatever is said until then.
    pub async fn ended(&mut self) -> Ended {
        let mut ended = Ended::Cut;
        loop {
            match within("the end of the session", self.socket.next()).await {
                Some(Ok(Message::Close(frame))) => {
                    let code = frame.map_or(1005, |frame| frame.code.into());
                    ended = Ended::Close(code);
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return ended,
            }
        }
    }

    /// Closes from this side, and waits until it is done.
    pub async fn close(mut self, code: u16) -> Ended {
        let frame = CloseFrame {
            code: CloseCode::from(code),
            reason: "".into(),
        };
        within("a close is sent", self.socket.close(Some(frame)))
            .await
            .expect("the session takes a close");
        self.ended().await
    }
}

/// A proper handshake for this path.
pub fn handshake(path: &str) -> String {
    handshake_with(path, &[])
}

/// With fields put in place of the usual ones, or added: `"Name: value"`; `"Name:"` leaves it out.
pub fn handshake_with(path: &str, changes: &[&str]) -> String {
    let usual = [
        "Host: test".to_owned(),
        "Upgrade: websocket".to_owned(),
        "Connection: Upgrade".to_owned(),
        "Sec-WebSocket-Version: 13".to_owned(),
        format!("Sec-WebSocket-Key: {KEY}"),
    ];
    let name = |field: &str| field.split(':').next().unwrap_or_default().to_owned();
    let kept = usual
        .iter()
        .filter(|field| !changes.iter().any(|change| name(change) == name(field)));
    let changed = changes.iter().filter(|change| !change.ends_with(':'));
    let fields: String = kept
        .map(String::as_str)
        .chain(changed.copied())
        .map(|field| format!("{field}\r\n"))
        .collect();
    format!("GET {path} HTTP/1.1\r\n{fields}\r\n")
}

/// A frame's opcode and payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub opcode: u8,
    pub payload: Vec<u8>,
}

impl Frame {
    pub fn text(text: &str) -> Self {
        Self {
            opcode: 1,
            payload: text.as_bytes().to_vec(),
        }
    }

    /// Unmasked and short, as a server sends it.
    pub fn unmasked(&self) -> Vec<u8> {
        let length = u8::try_from(self.payload.len()).expect("a short frame");
        assert!(length < 126, "a short frame");
        let mut bytes = vec![0x80 | self.opcode, length];
        bytes.extend_from_slice(&self.payload);
        bytes
    }
}

/// A whole masked frame (RFC 6455 section 5.2).
pub fn client_frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x12, 0x34, 0x56, 0x78];
    let mut bytes = vec![0x80 | opcode];
    match payload.len() {
        short @ 0..126 => bytes.push(0x80 | short as u8),
        medium @ 126..65536 => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&(medium as u16).to_be_bytes());
        }
        long => {
            bytes.push(0x80 | 127);
            bytes.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    bytes.extend_from_slice(&MASK);
    bytes.extend(
        payload
            .iter()
            .zip(MASK.iter().cycle())
            .map(|(byte, mask)| byte ^ mask),
    );
    bytes
}

/// A session of which every byte is in the test's hand.
pub struct RawSession {
    pub head: Head,
    pub client: Client,
}

impl RawSession {
    /// Sends the bytes of a handshake, and what may follow it, in one write; expects a 101.
    pub async fn open(address: SocketAddr, bytes: impl AsRef<[u8]>) -> Self {
        Self::over(Client::connect(address).await, bytes).await
    }

    /// Over a connection that is there.
    pub async fn over(mut client: Client, bytes: impl AsRef<[u8]>) -> Self {
        client.send(bytes).await;
        let head = client.head().await;
        assert_eq!(head.status(), 101, "{head}");
        Self { head, client }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.client.send(bytes).await;
    }

    /// The next frame from the server.
    pub async fn frame(&mut self) -> Frame {
        let start = self.exactly(2).await;
        let length = match start[1] {
            126 => {
                let length = self.exactly(2).await;
                usize::from(u16::from_be_bytes([length[0], length[1]]))
            }
            127 => {
                let length = self.exactly(8).await;
                length
                    .iter()
                    .fold(0, |sum, byte| sum << 8 | usize::from(*byte))
            }
            short => usize::from(short),
        };
        Frame {
            opcode: start[0] & 0x0f,
            payload: self.exactly(length).await,
        }
    }

    async fn exactly(&mut self, length: usize) -> Vec<u8> {
        within("a frame", self.client.wire.exactly(length))
            .await
            .expect("the session goes on")
    }
}
