//! The accept loop, and what each accepted connection goes through.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::BytesMut;
use log::{debug, error, warn};
use pingora::apps::ServerApp;
use pingora::protocols::Stream;
use pingora::server::ShutdownWatch;
use pingora_proxy::HttpProxy;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use super::socket::{BoundListener, ListeningSocket};
use super::stream::ClientStream;
use crate::proxy::{Gateway, Generation};
use crate::session::transport::Transport;
use crate::session::{Carrier, Session};

/// The connections being served: what a stopping process waits for.
pub type Connections = TaskTracker;

/// Our side of the door to Pingora's proxy: sees each connection before it is HTTP, and gets
/// back what is left of it afterwards.
pub struct Edge {
    current: Arc<ArcSwap<Generation>>,
    proxy: Arc<HttpProxy<Gateway>>,
    carrier: Arc<Carrier>,
    connections: Connections,
    stopping: ShutdownWatch,
    /// Idle connections leave for another process.
    moving: watch::Receiver<bool>,
    /// By bound listener: connections that are no sessions.
    open: Box<[AtomicUsize]>,
}

/// A connection, counted while it lasts.
struct Open<'a>(&'a AtomicUsize);

impl<'a> Open<'a> {
    fn count(on: &'a AtomicUsize) -> Self {
        on.fetch_add(1, Relaxed);
        Self(on)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Edge {
    pub fn new(
        current: Arc<ArcSwap<Generation>>,
        listeners: usize,
        proxy: HttpProxy<Gateway>,
        carrier: Arc<Carrier>,
        connections: Connections,
        stopping: ShutdownWatch,
        moving: watch::Receiver<bool>,
    ) -> Self {
        Self {
            current,
            proxy: Arc::new(proxy),
            carrier,
            connections,
            stopping,
            moving,
            open: (0..listeners).map(|_| AtomicUsize::new(0)).collect(),
        }
    }

    /// Connections to a bound listener, sessions on the relay apart.
    pub fn open_on(&self, listener: usize) -> usize {
        self.open[listener].load(Relaxed)
    }

    /// Serves a connection that was just accepted, by TLS if the listener has it.
    pub fn admit(self: &Arc<Self>, listener: usize, transport: Transport) {
        let Some(tls) = self.current.load().tls_of(listener).cloned() else {
            return self.serve(listener, transport, BytesMut::new());
        };
        let edge = self.clone();
        let mut stopping = self.stopping.clone();
        self.connections.spawn(async move {
            let _open = Open::count(&edge.open[listener]);
            let peer = transport.addresses().0;
            let accepted = tokio::select! {
                accepted = tls.accept(transport) => accepted,
                _ = stopping.wait_for(|stops| *stops) => return,
            };
            match accepted {
                Ok(transport) => edge.serve(listener, transport, BytesMut::new()),
                Err(error) => debug!("TLS handshake with {peer:?}: {error}"),
            }
        });
    }

    /// Serves a connection that came in on this listener; `early` has been read from it already.
    pub fn serve(self: &Arc<Self>, listener: usize, transport: Transport, early: BytesMut) {
        let edge = self.clone();
        let stream = ClientStream::new(listener, transport, early);
        self.connections
            .spawn(async move { edge.converse(listener, stream).await });
    }

    /// HTTP until the end of the connection, or until it is a session or to move.
    async fn converse(self: Arc<Self>, listener: usize, stream: ClientStream) {
        let _open = Open::count(&self.open[listener]);
        let connection = stream.connection().clone();
        let mut moving = self.moving.clone();
        connection.leave_when_idle(*moving.borrow_and_update());
        {
            let mut http = self.process_new(Box::new(stream), &self.stopping);
            loop {
                tokio::select! {
                    biased;
                    Ok(()) = moving.changed() => {
                        connection.leave_when_idle(*moving.borrow_and_update());
                    }
                    _ = &mut http => break,
                }
            }
        }
        let Some(client) = connection.take_left() else {
            return;
        };
        match connection.take_upgraded() {
            Some(upgraded) => self.carrier.carry(Session::begin(client, upgraded)),
            None => {
                // The move may have been called off in the meantime.
                if let Some(client) = self.carrier.send_idle(listener, client) {
                    self.serve(listener, client.transport, client.early);
                }
            }
        }
    }

    /// Sends a request of our own through everything that a client's goes through, and wants any
    /// answer. It is one that no server is asked: a handshake that lacks its key.
    pub async fn probe(self: &Arc<Self>) -> io::Result<()> {
        let (mut client, ours) = UnixStream::pair()?;
        let stream = ClientStream::new(0, Transport::Unix(ours), BytesMut::new());
        stream.connection().mark_as_probe();
        let edge = self.clone();
        self.connections
            .spawn(async move { edge.converse(0, stream).await });
        client.write_all(PROBE).await?;
        let mut answer = [0; b"HTTP/1.1 ".len()];
        client.read_exact(&mut answer).await?;
        match &answer {
            b"HTTP/1.1 " => Ok(()),
            other => Err(io::Error::other(format!(
                "the probe was answered {other:?}"
            ))),
        }
    }
}

const PROBE: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n\
    Upgrade: websocket\r\n\r\n";

#[async_trait]
impl ServerApp for Edge {
    async fn process_new(
        self: &Arc<Self>,
        stream: Stream,
        shutdown: &ShutdownWatch,
    ) -> Option<Stream> {
        self.proxy.process_new(stream, shutdown).await
    }

    /// Tells idle keep-alive connections that the process stops.
    async fn cleanup(&self) {
        self.proxy.cleanup().await;
    }
}

/// After an accept that failed for want of descriptors or memory: the next would fail as well.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);

/// Whether a process accepts connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepting {
    /// Not yet, or for now: another process has the same sockets.
    Pause,
    Accept,
    /// Never again.
    Stop,
}

/// Accepts while it is told to; `index` tells the listeners apart.
pub async fn serve(
    listener: Arc<BoundListener>,
    index: usize,
    edge: Arc<Edge>,
    mut accepting: watch::Receiver<Accepting>,
) {
    let mut exhausted = false;
    loop {
        let told = *accepting.borrow_and_update();
        if told == Accepting::Stop {
            return;
        }
        let accepted = tokio::select! {
            biased;
            changed = accepting.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
            accepted = accept(&listener.socket), if told == Accepting::Accept => accepted,
        };
        match accepted {
            Ok(socket) => {
                if std::mem::take(&mut exhausted) {
                    warn!("listener {:?}: accepting again", listener.name);
                }
                edge.admit(index, socket);
            }
            Err(error) if is_the_clients_fault(&error) => {}
            Err(error) => {
                if !std::mem::replace(&mut exhausted, true) {
                    error!(
                        "listener {:?}: cannot accept: {error}; new clients wait (raise \
                         LimitNOFILE if descriptors ran out)",
                        listener.name
                    );
                }
                tokio::time::sleep(EXHAUSTED_PAUSE).await;
            }
        }
    }
}

async fn accept(socket: &ListeningSocket) -> io::Result<Transport> {
    match socket {
        ListeningSocket::Tcp(socket) => Ok(Transport::Tcp(socket.accept().await?.0)),
        ListeningSocket::Unix(socket, _) => Ok(Transport::Unix(socket.accept().await?.0)),
    }
}

/// Errors of the one connection that was about to be accepted (accept(2)).
fn is_the_clients_fault(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}
