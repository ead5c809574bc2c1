//! The base of both kinds of embedded server: accepts connections, with one task for each, speaks
//! HTTP/1.1 by hyper, and ends everything at once when told to, like a killed process.
//!
//! It knows no paths: those are in the chat server and the client application.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use log::warn;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};

pub(super) type Request = http::Request<Incoming>;
pub(super) type Response = http::Response<Full<Bytes>>;

/// How long a whole head may take. An idle connection is closed after this time.
const HEAD_DEADLINE: Duration = Duration::from_secs(30);
/// Large enough for the largest head.
const HEAD_SIZE: usize = 32 * 1024;
/// Without descriptors, a new attempt at once would only spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A listener and its connections. Dropping it ends them like [`Server::kill`], without waiting.
#[derive(Debug)]
pub(super) struct Server {
    address: SocketAddr,
    /// Dropping it tells the task to end.
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Server {
    /// Accepts at once. `connection` is run for each connection, and owns it.
    pub(super) fn start<C, F>(listener: TcpListener, connection: C) -> io::Result<Self>
    where
        C: Fn(TcpStream) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let address = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(accept(listener, connection, stopped));
        Ok(Self {
            address,
            stop,
            task,
        })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns when the listener and every connection are closed.
    pub(super) async fn kill(self) {
        drop(self.stop);
        if let Err(error) = self.task.await {
            warn!("demo server {} ended badly: {error}", self.address);
        }
    }
}

async fn accept<C, F>(listener: TcpListener, connection: C, mut stopped: oneshot::Receiver<()>)
where
    C: Fn(TcpStream) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            _ = &mut stopped => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream));
                }
                Err(error) => {
                    warn!("a demo server cannot accept: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    connections.shutdown().await;
}

/// Serves the requests of one connection until it closes or is upgraded. After an upgrade, the
/// handler's `OnUpgrade` gives the connection.
pub(super) async fn serve_http<H, F>(stream: TcpStream, handler: H)
where
    H: Fn(Request) -> F,
    F: Future<Output = Response> + Send,
{
    // The demo sends small messages and shows the round-trip time.
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request| {
        let response = handler(request);
        async { Ok::<_, Infallible>(response.await) }
    });
    // A client's mistake (a bad head, a reset) ends only its own connection.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .max_buf_size(HEAD_SIZE)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
}

pub(super) fn text(status: StatusCode, body: &'static str) -> Response {
    response(status, "text/plain; charset=utf-8", body)
}

pub(super) fn json(status: StatusCode, body: &serde_json::Value) -> Response {
    response(status, "application/json", body.to_string())
}

pub(super) fn response(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn hello() -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Server::start(listener, |stream| {
            serve_http(stream, |_| async { text(StatusCode::OK, "hello") })
        })
        .unwrap()
    }

    async fn answer(address: SocketAddr, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        // A reset after the answer is as good an end as any.
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    }

    #[tokio::test]
    async fn garbage_is_a_400_and_the_next_client_is_served() {
        let server = hello().await;
        let garbage = answer(server.address(), b"\x16\x03\x01 what\r\n\r\n").await;
        assert!(garbage.starts_with("HTTP/1.1 400"), "{garbage}");
        let good = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        assert!(answer(server.address(), good).await.ends_with("hello"));
    }

    #[tokio::test]
    async fn an_endless_head_is_refused() {
        let server = hello().await;
        let mut head = b"GET / HTTP/1.1\r\nx: ".to_vec();
        head.resize(HEAD_SIZE + 1, b'a');
        let refused = answer(server.address(), &head).await;
        assert!(refused.starts_with("HTTP/1.1 431"), "{refused}");
    }

    #[tokio::test]
    async fn kill_closes_the_listener_and_every_connection() {
        let server = hello().await;
        let address = server.address();
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream
            .write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            .await
            .unwrap();
        let mut buffer = [0; 1024];
        assert!(stream.read(&mut buffer).await.unwrap() > 0);
        server.kill().await;
        assert_eq!(stream.read(&mut buffer).await.unwrap(), 0);
        assert!(TcpStream::connect(address).await.is_err());
        // The port is free for a successor although connections were open.
        TcpListener::bind(address).await.unwrap();
    }
}
