//! How prusik connects to servers for plain requests, and which connections it keeps.
//!
//! Pingora's own pool gives each kept connection a task, a timer and three channels after every
//! request, and asks the kernel before every request who the peer is. Here keeping is a push and
//! using again a pop: Pingora connects through [`KeptConnector`] (its `custom_l4` road) and gets
//! a [`KeptStream`], which takes its socket back when Pingora is done with it.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use pingora::connectors::l4::Connect;
use pingora::protocols::l4::ext::TcpKeepalive;
use pingora::protocols::l4::socket::SocketAddr as PeerAddress;
use pingora::protocols::l4::stream::Stream;
use pingora::protocols::l4::virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream};
use pingora::{Error, ErrorType};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::session::handshake::{connect, is_last_look, set_option};

/// A peer that is gone without a word is noticed after 30 s of silence and three probes, or when
/// what was sent to it stays unacknowledged for a minute.
pub const TCP_KEEPALIVE: TcpKeepalive = TcpKeepalive {
    idle: Duration::from_secs(30),
    interval: Duration::from_secs(10),
    count: 3,
    user_timeout: Duration::from_secs(60),
};

/// An idle connection is given up after a minute: servers commonly close theirs after 60 to 75 s.
const KEPT_IDLE: Duration = Duration::from_secs(55);

/// How often idle connections are looked at: whether they are too old, or their server has gone.
const SWEEP: Duration = Duration::from_secs(2);

/// The connections of one upstream, idle or in use.
#[derive(Debug, Default)]
pub struct Connections {
    /// All of them together, for the `keepalive` bound.
    open: AtomicUsize,
    /// The one used last at the end.
    idle: Mutex<HashMap<SocketAddr, Vec<(Instant, Open)>>>,
}

impl Connections {
    pub fn count(&self) -> usize {
        self.open.load(Relaxed)
    }

    /// Closes idle connections that are of no more use, for as long as the upstream is there.
    pub async fn sweep(connections: Weak<Self>) {
        loop {
            tokio::time::sleep(SWEEP).await;
            let Some(connections) = connections.upgrade() else {
                return;
            };
            connections.lock().retain(|_, idle| {
                idle.retain(|(since, open)| since.elapsed() < KEPT_IDLE && open.is_silent());
                !idle.is_empty()
            });
        }
    }

    fn take(&self, address: &SocketAddr) -> Option<Open> {
        let mut idle = self.lock();
        let idle = idle.get_mut(address)?;
        while let Some((since, open)) = idle.pop() {
            if since.elapsed() < KEPT_IDLE && open.is_silent() {
                return Some(open);
            }
        }
        None
    }

    fn keep(&self, address: SocketAddr, open: Open) {
        let mut idle = self.lock();
        idle.entry(address)
            .or_default()
            .push((Instant::now(), open));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SocketAddr, Vec<(Instant, Open)>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection, counted while it is open.
#[derive(Debug)]
struct Open {
    io: TcpStream,
    /// Weak, as idle connections are themselves in there.
    counted_in: Weak<Connections>,
}

impl Open {
    fn new(io: TcpStream, connections: &Arc<Connections>) -> Self {
        connections.open.fetch_add(1, Relaxed);
        Self {
            io,
            counted_in: Arc::downgrade(connections),
        }
    }

    /// Whether the server has neither closed it nor sent what nobody asked for.
    fn is_silent(&self) -> bool {
        let read = self.io.try_read(&mut [0]);
        read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(connections) = self.counted_in.upgrade() {
            connections.open.fetch_sub(1, Relaxed);
        }
    }
}

/// Connects one attempt of one request, over a kept connection if there is one.
#[derive(Debug)]
pub struct KeptConnector {
    connections: Arc<Connections>,
    /// How many may be open when one is to be kept.
    bound: usize,
    reused: AtomicBool,
}

impl KeptConnector {
    pub fn new(connections: Arc<Connections>, bound: usize) -> Self {
        Self {
            connections,
            bound,
            reused: AtomicBool::new(false),
        }
    }

    /// Whether it found a kept connection.
    pub fn has_reused(&self) -> bool {
        self.reused.load(Relaxed)
    }
}

#[async_trait]
impl Connect for KeptConnector {
    /// Bounded by the peer's `total_connection_timeout`, which Pingora applies around this.
    async fn connect(&self, address: &PeerAddress) -> pingora::Result<Stream> {
        let Some(&address) = address.as_inet() else {
            return Error::e_explain(ErrorType::InternalError, "a server without an IP address");
        };
        let (open, is_fresh) = match self.connections.take(&address) {
            Some(open) => (open, false),
            None => (Open::new(connect(address).await?, &self.connections), true),
        };
        self.reused.store(!is_fresh, Relaxed);
        let stream = KeptStream {
            open: Some(open),
            is_fresh,
            address,
            bound: self.bound,
        };
        Ok(VirtualSocketStream::new(Box::new(stream)).into())
    }
}

#[derive(Debug)]
struct KeptStream {
    /// `None`: it is kept for the next request.
    open: Option<Open>,
    /// Its options are not set yet.
    is_fresh: bool,
    address: SocketAddr,
    bound: usize,
}

impl KeptStream {
    fn keep(&mut self) {
        if let Some(open) = self.open.take()
            && let Some(connections) = open.counted_in.upgrade()
            && connections.count() <= self.bound
        {
            connections.keep(self.address, open);
        }
    }
}

impl AsyncRead for KeptStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        let Some(open) = &mut stream.open else {
            return Poll::Ready(Ok(()));
        };
        let polled = Pin::new(&mut open.io).poll_read(cx, buf);
        if polled.is_pending() && is_last_look(cx, buf) {
            stream.keep();
            // To Pingora the server has closed it: there is nothing left that it could keep.
            return Poll::Ready(Ok(()));
        }
        polled
    }
}

impl AsyncWrite for KeptStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().open {
            Some(open) => Pin::new(&mut open.io).poll_write(cx, buf),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().open {
            Some(open) => Pin::new(&mut open.io).poll_flush(cx),
            None => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().open {
            Some(open) => Pin::new(&mut open.io).poll_shutdown(cx),
            None => Poll::Ready(Ok(())),
        }
    }
}

impl VirtualSocket for KeptStream {
    fn set_socket_option(&self, option: VirtualSockOpt) -> io::Result<()> {
        match &self.open {
            Some(open) if self.is_fresh => set_option(&open.io, option),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    async fn kept(connections: &Arc<Connections>, server: &TcpListener) -> TcpStream {
        let address = server.local_addr().unwrap();
        let open = Open::new(connect(address).await.unwrap(), connections);
        connections.keep(address, open);
        server.accept().await.unwrap().0
    }

    #[tokio::test]
    async fn the_connection_used_last_is_used_first_and_counts_until_it_closes() {
        let connections = Arc::new(Connections::default());
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        let _first = kept(&connections, &server).await;
        let last = kept(&connections, &server).await;
        assert_eq!(connections.count(), 2);
        let taken = connections.take(&address).unwrap();
        assert_eq!(taken.io.local_addr().unwrap(), last.peer_addr().unwrap());
        drop(taken);
        assert_eq!(connections.count(), 1);
    }

    #[tokio::test]
    async fn a_connection_that_its_server_has_closed_is_not_used_again() {
        let connections = Arc::new(Connections::default());
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        drop(kept(&connections, &server).await);
        let (since, open) = connections.lock().get_mut(&address).unwrap().remove(0);
        open.io.readable().await.unwrap();
        connections.lock().insert(address, vec![(since, open)]);
        assert!(connections.take(&address).is_none());
        assert_eq!(connections.count(), 0);
    }
}
