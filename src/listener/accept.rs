//! The accept loop, and what each accepted connection goes through.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::BytesMut;
use log::{error, warn};
use pingora::apps::ServerApp;
use pingora::protocols::Stream;
use pingora::server::ShutdownWatch;
use pingora_proxy::HttpProxy;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::door::LINGERING_MAX;
use super::entrance::{Entrance, Ticket};
use super::socket::{Acceptor, BoundListener};
use super::stream::{ClientEnd, ClientStream};
use crate::forward::proxy_protocol::Ends;
use crate::observe::access_log::AccessLog;
use crate::proxy::{Gateway, Generation};
use crate::session::transport::Transport;
use crate::session::{Carrier, Session};

/// The connections being served: what a stopping process waits for.
pub type Connections = TaskTracker;

/// Our side of the door to Pingora's proxy: sees each connection before it is HTTP, and gets
/// back what is left of it afterwards.
pub struct Edge {
    pub(super) current: Arc<ArcSwap<Generation>>,
    proxy: Arc<HttpProxy<Gateway>>,
    carrier: Arc<Carrier>,
    pub(super) log: Arc<AccessLog>,
    pub(super) connections: Connections,
    pub(super) stopping: ShutdownWatch,
    /// As the listeners were bound.
    pub(super) entrances: Vec<Arc<Entrance>>,
    /// Connections for which there are descriptors.
    ceiling: usize,
    /// Clients that were turned away and still read why.
    pub(super) lingering: Arc<Semaphore>,
    /// Idle connections leave for another process.
    pub(super) moving: watch::Receiver<bool>,
}

/// How a connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// It was just accepted.
    New {
        /// By when its first head must be there.
        deadline: Instant,
        /// As the kernel had them; `None`: it is asked, or has none.
        ends: Option<Ends>,
    },
    /// It had been served already, here or by another process.
    Moved,
}

impl Edge {
    #[allow(
        clippy::too_many_arguments,
        reason = "the one place that knows all parts calls it"
    )]
    pub fn new(
        current: Arc<ArcSwap<Generation>>,
        proxy: HttpProxy<Gateway>,
        carrier: Arc<Carrier>,
        log: Arc<AccessLog>,
        connections: Connections,
        stopping: ShutdownWatch,
        moving: watch::Receiver<bool>,
        ceiling: usize,
    ) -> Self {
        let listeners = current.load().config.listeners.clone();
        let entrances = listeners
            .iter()
            .enumerate()
            .map(|(number, listener)| Arc::new(Entrance::new(number, listener.limits)))
            .collect();
        Self {
            current,
            proxy: Arc::new(proxy),
            carrier,
            log,
            connections,
            stopping,
            entrances,
            ceiling,
            lingering: Arc::new(Semaphore::new(LINGERING_MAX)),
            moving,
        }
    }

    /// Serves a connection that came in on this listener; `early` has been read from it already.
    pub fn serve(
        self: &Arc<Self>,
        listener: usize,
        transport: Transport,
        early: BytesMut,
        ticket: Ticket,
        arrival: Arrival,
    ) {
        let edge = self.clone();
        let entrance = self.entrances[listener].clone();
        let stream = ClientStream::new(entrance, transport, early, ticket, arrival);
        self.connections
            .spawn(async move { edge.converse(listener, stream).await });
    }

    /// Serves on what had been on its way to another process.
    pub fn serve_again(self: &Arc<Self>, listener: usize, client: ClientEnd) {
        let ClientEnd {
            transport,
            early,
            ticket,
            ..
        } = client;
        self.serve(listener, transport, early, ticket, Arrival::Moved);
    }

    /// What the present configuration allows, for every listener.
    pub fn set_limits(&self, generation: &Generation) {
        for entrance in &self.entrances {
            let number = generation.listener(entrance.number);
            entrance.set_limits(generation.config.listeners[number].limits);
        }
    }

    pub fn entrances(&self) -> &[Arc<Entrance>] {
        &self.entrances
    }

    pub fn ceiling(&self) -> usize {
        self.ceiling
    }

    /// Whether there is room for one more client and its server.
    pub(super) fn has_descriptors(&self) -> bool {
        self.connections.len() < self.ceiling
    }

    /// HTTP until the end of the connection, or until it is a session or to move.
    async fn converse(self: Arc<Self>, listener: usize, stream: ClientStream) {
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
                    self.serve_again(listener, client);
                }
            }
        }
    }

    /// Sends a request of our own through everything that a client's goes through, and wants any
    /// answer. It is one that no server is asked: a handshake that lacks its key.
    pub async fn probe(self: &Arc<Self>) -> io::Result<()> {
        let (mut client, ours) = UnixStream::pair()?;
        let stream = ClientStream::new(
            self.entrances[0].clone(),
            Transport::Unix(ours),
            BytesMut::new(),
            Ticket::default(),
            Arrival::Moved,
        );
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
    loop {
        let told = *accepting.borrow_and_update();
        if told == Accepting::Stop {
            return;
        }
        tokio::select! {
            biased;
            changed = accepting.changed() => if changed.is_err() {
                return;
            },
            never = accept_all(&listener, index, &edge), if told == Accepting::Accept => match never {},
        }
    }
}

async fn accept_all(listener: &BoundListener, index: usize, edge: &Arc<Edge>) -> Infallible {
    let mut exhausted = false;
    let mut acceptor: Option<Acceptor> = None;
    loop {
        let accept = async {
            match &mut acceptor {
                Some(acceptor) => acceptor,
                none => none.insert(listener.acceptor()?),
            }
            .accept()
            .await
        };
        match accept.await {
            Ok((socket, ends)) => {
                if std::mem::take(&mut exhausted) {
                    warn!("listener {:?}: accepting again", listener.name);
                }
                edge.admit(index, socket, ends);
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

/// Errors of the one connection that was about to be accepted (accept(2)).
fn is_the_clients_fault(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}
