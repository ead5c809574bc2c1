//! An HTTP/1.1 client that sends what it is told, byte for byte, and reads one response at a time.

use std::net::SocketAddr;
use std::ops::Deref;
use std::path::Path;

use super::wire::{Framing, Head, Wire};
use super::{Prusik, within};

#[derive(Debug, Clone)]
pub struct Response {
    pub head: Head,
    pub body: Vec<u8>,
    /// As written, a line each; only a chunked body has some.
    pub trailers: String,
}

impl Response {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Deref for Response {
    type Target = Head;

    fn deref(&self) -> &Head {
        &self.head
    }
}

pub struct Client {
    pub wire: Wire,
}

impl Client {
    pub async fn connect(address: SocketAddr) -> Self {
        let wire = within(format!("connect to {address}"), Wire::connect(address)).await;
        Self {
            wire: wire.expect("the listener is there"),
        }
    }

    pub async fn connect_unix(path: &Path) -> Self {
        let wire = within("connect", Wire::connect_unix(path)).await;
        Self {
            wire: wire.expect("the listener is there"),
        }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        within("send", self.wire.send(bytes))
            .await
            .expect("the connection takes it");
    }

    /// The head of the next response: an interim one counts.
    pub async fn head(&mut self) -> Head {
        within("a response's head", self.wire.head())
            .await
            .expect("a head can be read")
            .expect("the connection ends after the response, not before")
    }

    /// The next response in full: an interim one counts.
    pub async fn response(&mut self) -> Response {
        let head = self.head().await;
        let mut body = Vec::new();
        let framing = Framing::of_response(&head, false);
        let trailers = within(
            "a response's body",
            self.wire.body(framing, |part| body.extend_from_slice(part)),
        )
        .await
        .unwrap_or_else(|error| panic!("{error} in the body of {head}"));
        Response {
            head,
            body,
            trailers,
        }
    }

    pub async fn get(&mut self, target: &str) -> Response {
        self.send(format!("GET {target} HTTP/1.1\r\nHost: test\r\n\r\n"))
            .await;
        self.response().await
    }

    /// The whole request in one write, its response.
    pub async fn ask(&mut self, request: impl AsRef<[u8]>) -> Response {
        self.send(request).await;
        self.response().await
    }

    /// Waits for the end of the connection; panics when there is something else.
    pub async fn expect_end(&mut self) {
        match within("the end of the connection", self.wire.some()).await {
            Ok(bytes) => assert!(
                bytes.is_empty(),
                "instead of the end: {:?}",
                String::from_utf8_lossy(&bytes)
            ),
            // A reset ends it as well.
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
        }
    }
}

/// One GET on a connection of its own.
pub async fn get(address: SocketAddr, target: &str) -> Response {
    Client::connect(address).await.get(target).await
}

pub async fn status_of(address: SocketAddr, target: &str) -> u16 {
    get(address, target).await.status()
}

/// The scrape of a process that has an admin API.
pub async fn metrics_of(prusik: &Prusik) -> String {
    let call = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
    Client::connect(prusik.admin()).await.ask(call).await.text()
}
