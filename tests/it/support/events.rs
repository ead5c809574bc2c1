//! Event streams: a server that is played by hand, and a client that reads event by event.

use std::net::SocketAddr;

use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinHandle;

use super::wire::{Framing, Head, Wire};
use super::{Client, listen, within};

/// The head of a stream in chunks.
pub const STREAM: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";

/// Reads each request in full, and leaves the answer to the test.
pub struct EventServer {
    address: SocketAddr,
    asked: UnboundedReceiver<Asked>,
    serving: JoinHandle<()>,
}

/// A request that waits for its answer.
pub struct Asked {
    pub head: Head,
    pub body: Vec<u8>,
    pub wire: Wire,
}

impl EventServer {
    pub fn start() -> Self {
        Self::on(listen())
    }

    fn on(listener: TcpListener) -> Self {
        let address = listener.local_addr().expect("it is bound");
        let (tell, asked) = unbounded_channel();
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).expect("it can be set");
                let (tell, mut wire) = (tell.clone(), Wire::new(stream));
                tokio::spawn(async move {
                    let Ok(Some(head)) = wire.head().await else {
                        return;
                    };
                    let mut body = Vec::new();
                    let framing = Framing::of_request(&head);
                    let read = wire.body(framing, |part| body.extend_from_slice(part));
                    if read.await.is_ok() {
                        let _ = tell.send(Asked { head, body, wire });
                    }
                });
            }
        });
        Self {
            address,
            asked,
            serving,
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next request.
    pub async fn asked(&mut self) -> Asked {
        within("a request at the server", self.asked.recv())
            .await
            .expect("it accepts")
    }

    /// The next request, answered with the head of a stream.
    pub async fn stream(&mut self) -> Asked {
        let mut asked = self.asked().await;
        asked.send(STREAM).await;
        asked
    }
}

impl Drop for EventServer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Asked {
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        within("send", self.wire.send(bytes))
            .await
            .expect("the proxy takes it");
    }

    /// One chunk.
    pub async fn chunk(&mut self, content: impl AsRef<[u8]>) {
        self.send(chunk(content)).await;
    }

    /// An event with a number, as its id and its data.
    pub async fn event(&mut self, number: usize) {
        self.chunk(event(number)).await;
    }

    /// The last chunk.
    pub async fn end(&mut self) {
        self.send("0\r\n\r\n").await;
    }

    /// Waits until the proxy has closed the connection.
    pub async fn closed(&mut self) {
        loop {
            match within("the proxy closes the server's connection", self.wire.some()).await {
                Ok(bytes) if !bytes.is_empty() => {}
                _ => return,
            }
        }
    }
}

pub fn event(number: usize) -> String {
    format!("id: {number}\ndata: {number}\n\n")
}

pub fn chunk(content: impl AsRef<[u8]>) -> Vec<u8> {
    let content = content.as_ref();
    let size = format!("{:x}\r\n", content.len());
    [size.as_bytes(), content, b"\r\n"].concat()
}

/// How a stream has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamEnd {
    /// With the last chunk, or with a connection that ends a body.
    InOrder,
    Cut,
}

/// Reads a stream.
pub struct EventClient {
    pub head: Head,
    pub wire: Wire,
    framing: Framing,
    /// What came and is not decoded.
    raw: Vec<u8>,
    content: Vec<u8>,
    end: Option<StreamEnd>,
}

impl EventClient {
    pub async fn open(address: SocketAddr, target: &str) -> Self {
        Self::open_with(address, target, "").await
    }

    /// With further lines of the request's head.
    pub async fn open_with(address: SocketAddr, target: &str, fields: &str) -> Self {
        let mut client = Client::connect(address).await;
        let request = format!(
            "GET {target} HTTP/1.1\r\nHost: test\r\nAccept: text/event-stream\r\n{fields}\r\n"
        );
        client.send(request).await;
        Self::of(client).await
    }

    /// For a request that was sent.
    pub async fn of(mut client: Client) -> Self {
        let head = client.head().await;
        Self {
            framing: Framing::of_response(&head, false),
            head,
            wire: client.wire,
            raw: Vec::new(),
            content: Vec::new(),
            end: None,
        }
    }

    /// Reads more. Returns false when the stream has ended.
    async fn more(&mut self) -> bool {
        if self.end.is_some() {
            return false;
        }
        match within("more of the stream", self.wire.some()).await {
            Ok(bytes) if !bytes.is_empty() => self.raw.extend(bytes),
            Ok(_) if self.framing == Framing::UntilClose => self.end = Some(StreamEnd::InOrder),
            _ => self.end = Some(StreamEnd::Cut),
        }
        if self.framing == Framing::UntilClose {
            self.content.append(&mut self.raw);
        }
        while self.framing == Framing::Chunked && self.take_chunk() {}
        true
    }

    /// Takes a whole chunk out of what came.
    fn take_chunk(&mut self) -> bool {
        let Some(line) = self.raw.windows(2).position(|two| two == b"\r\n") else {
            return false;
        };
        let size = std::str::from_utf8(&self.raw[..line]).expect("a size");
        let size = usize::from_str_radix(size, 16).expect("a size");
        let whole = line + 2 + size + 2;
        if self.raw.len() < whole {
            return false;
        }
        assert_eq!(self.raw[whole - 2..whole], *b"\r\n", "behind a chunk");
        if size == 0 {
            assert!(self.end.is_none(), "one last chunk");
            assert_eq!(self.raw.len(), whole, "nothing behind the last chunk");
            self.end = Some(StreamEnd::InOrder);
        }
        self.content
            .extend_from_slice(&self.raw[line + 2..whole - 2]);
        self.raw.drain(..whole);
        size > 0
    }

    /// Waits until at least so many bytes of content have come, and takes all.
    pub async fn content(&mut self, length: usize) -> Vec<u8> {
        while self.content.len() < length && self.more().await {}
        std::mem::take(&mut self.content)
    }

    /// The next event, comments included. `None`: the stream has ended between two events.
    pub async fn next(&mut self) -> Option<String> {
        loop {
            let end = self.content.windows(2).position(|two| two == b"\n\n");
            if let Some(end) = end {
                let event: Vec<u8> = self.content.drain(..end + 2).collect();
                return Some(String::from_utf8(event).expect("text"));
            }
            if !self.more().await {
                assert!(
                    self.content.is_empty(),
                    "a part of an event is left: {:?}",
                    String::from_utf8_lossy(&self.content)
                );
                return None;
            }
        }
    }

    /// The next event is this one.
    pub async fn expect(&mut self, number: usize) {
        assert_eq!(self.next().await, Some(event(number)));
    }

    /// Reads to the end. Returns how the stream has ended, and what was not taken of it.
    pub async fn rest(&mut self) -> (StreamEnd, Vec<u8>) {
        while self.more().await {}
        let end = self.end.expect("it has ended");
        (end, std::mem::take(&mut self.content))
    }

    /// Waits for the end. Returns how the stream has ended; nothing was left.
    pub async fn ended(&mut self) -> StreamEnd {
        let (end, rest) = self.rest().await;
        assert_eq!(String::from_utf8_lossy(&rest), "", "what is left");
        end
    }
}
