//! The accept loop, and what each accepted connection goes through.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::Poll;
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
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::deadlines::Watch;
use super::door::LINGERING_MAX;
use super::entrance::{Entrance, Ticket};
use super::socket::BoundListener;
use super::stream::{ClientEnd, ClientStream, Connection};
use crate::forward::proxy_protocol::Ends;
use crate::limits::DrainDeadline;
use crate::limits::descriptors::Descriptor;
use crate::net::{Accepted, Acceptor, ListenAddress};
use crate::observe::access_log::AccessLog;
use crate::phase::PhaseWatch;
use crate::proxy::{Gateway, Generation};
use crate::session::transport::Transport;
use crate::session::{IdleConnection, Runner, Session, WayOut};

/// The connections being served: what a stopping process waits for.
pub type Connections = TaskTracker;

/// Our side of the door to Pingora's proxy: sees each connection before it is HTTP, and gets
/// back what is left of it afterwards.
pub struct Edge {
    pub(super) current: Arc<ArcSwap<Generation>>,
    proxy: Arc<HttpProxy<Gateway>>,
    runner: Arc<Runner>,
    pub(super) log: Arc<AccessLog>,
    pub(super) connections: Connections,
    /// True while the process drains.
    pub(super) stopping: ShutdownWatch,
    /// As the listeners were bound.
    pub(super) entrances: Vec<Arc<Entrance>>,
    /// Connections for which there are descriptors.
    ceiling: usize,
    /// Clients that were turned away and still read why.
    pub(super) lingering: Arc<Semaphore>,
    pub(super) way_out: WayOut,
    /// Idle connections that may be on their way to another process at a time: nobody is answered
    /// on them meanwhile.
    leaving: Arc<Semaphore>,
    pub(super) drain_deadline: DrainDeadline,
    /// It has struck: wakes those who are to see that.
    pub(super) cutting: watch::Sender<bool>,
}

/// So many connections are on their way to another process at a time.
const LEAVING_MAX: usize = 64;

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
    /// The same, and no other process takes it: one answer, and it ends.
    Stays,
}

impl Edge {
    #[allow(
        clippy::too_many_arguments,
        reason = "the one place that knows all parts calls it"
    )]
    pub fn new(
        current: Arc<ArcSwap<Generation>>,
        proxy: HttpProxy<Gateway>,
        runner: Arc<Runner>,
        log: Arc<AccessLog>,
        connections: Connections,
        stopping: ShutdownWatch,
        ceiling: usize,
    ) -> Self {
        let listeners = current.load().config.listeners.clone();
        let drain_deadline = DrainDeadline::default();
        let entrances = listeners
            .iter()
            .enumerate()
            .map(|(number, listener)| {
                let revision = current.load().tls_revision(number);
                let deadline = drain_deadline.clone();
                Arc::new(Entrance::new(number, listener.limits, revision, deadline))
            })
            .collect();
        Self {
            current,
            proxy: Arc::new(proxy),
            way_out: runner.way_out(),
            runner,
            log,
            connections,
            stopping,
            entrances,
            ceiling,
            lingering: Arc::new(Semaphore::new(LINGERING_MAX)),
            leaving: Arc::new(Semaphore::new(LEAVING_MAX)),
            cutting: watch::Sender::new(false),
            drain_deadline,
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

    /// The other process does not take it. Who has asked nothing yet still gets an answer.
    pub fn serve_last(self: &Arc<Self>, listener: usize, client: ClientEnd) {
        if !client.has_asked || !client.early.is_empty() {
            self.serve_as(listener, client, Arrival::Stays);
        }
    }

    /// Serves on what had been on its way to another process.
    pub fn serve_again(self: &Arc<Self>, listener: usize, client: ClientEnd) {
        self.serve_as(listener, client, Arrival::Moved);
    }

    fn serve_as(self: &Arc<Self>, listener: usize, client: ClientEnd, arrival: Arrival) {
        let ClientEnd {
            transport,
            early,
            ticket,
            ..
        } = client;
        self.serve(listener, transport, early, ticket, arrival);
    }

    /// What this configuration, which is about to be the present one, allows and asks, for every
    /// listener.
    pub fn follow(&self, generation: &Generation) {
        for entrance in &self.entrances {
            let number = generation.listener(entrance.number);
            entrance.set_limits(generation.config.listeners[number].limits);
            let revision = generation.tls_revision(entrance.number);
            entrance.tls_revision.set(revision);
        }
    }

    pub fn entrances(&self) -> &[Arc<Entrance>] {
        &self.entrances
    }

    pub fn ceiling(&self) -> usize {
        self.ceiling
    }

    /// Whether there is a descriptor for one more server, for a client that is counted already.
    pub(super) fn has_descriptors(&self) -> bool {
        let gates = self.entrances.iter().map(|entrance| &entrance.gate);
        let clients = gates.map(|gate| gate.connections());
        let taken = clients.sum::<usize>() + Descriptor::held();
        taken < self.ceiling.saturating_mul(2)
    }

    /// HTTP until the end of the connection, or until it is a session or to move.
    async fn converse(self: Arc<Self>, listener: usize, stream: ClientStream) {
        let connection = stream.connection().clone();
        let permit = self.talk(&connection, stream).await;
        let Some(client) = connection.take_left() else {
            return;
        };
        match connection.take_upgraded() {
            Some(upgraded) => {
                self.runner
                    .carry(Session::begin(client, connection.stall(), upgraded))
            }
            None => {
                let idle = IdleConnection {
                    listener,
                    client,
                    permit,
                };
                // The move may have been called off in the meantime.
                if let Some(client) = self.runner.send_idle(idle) {
                    self.serve_again(listener, client);
                }
            }
        }
    }

    /// Returns when Pingora is done with the connection, or nobody waits for it any more. While there
    /// is a way to another process, one that is idle leaves, some at a time; one that is not leaves by
    /// itself after its request.
    async fn talk(
        self: &Arc<Self>,
        connection: &Connection,
        stream: ClientStream,
    ) -> Option<OwnedSemaphorePermit> {
        let mut way_out = self.way_out.clone();
        let mut tls_revision = connection.entrance.tls_revision.watch();
        let mut is_led_out = false;
        let http = self.process_new(Box::new(stream), &self.stopping);
        let http = Watch::new(http, connection.deadlines.clone());
        let last_moment = self.last_moment();
        tokio::pin!(http, last_moment);
        loop {
            let is_open = way_out.is_open();
            is_led_out &= is_open;
            // What cannot move ends instead, and holds nobody up.
            connection.leave_when_idle(is_led_out || is_open && !connection.can_move());
            let waits = is_open && !is_led_out && connection.can_move();
            // What Pingora is told here it sees when it is polled behind it.
            tokio::select! {
                biased;
                _ = way_out.changed() => {}
                // Its stream looks by itself whether it may go on, once it is polled.
                Ok(()) = tls_revision.changed() => {}
                () = &mut last_moment => return None,
                permit = self.leaving.clone().acquire_owned(), if waits => {
                    is_led_out = true;
                    connection.leave_when_idle(true);
                    let look = poll_fn(|cx| Poll::Ready(http.as_mut().poll(cx).is_ready()));
                    let is_done = look.await;
                    if connection.has_left() {
                        if !is_done {
                            http.await;
                        }
                        return permit.ok();
                    }
                    if is_done {
                        return None;
                    }
                }
                _ = &mut http => return None,
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
            Ticket {
                tls_revision: self.entrances[0].tls_revision.get(),
                ..Ticket::default()
            },
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

/// Accepts while the process does; `index` tells the listeners apart. When the process begins to
/// drain, who waits in the queue is still accepted, and then the socket is closed.
pub async fn serve(
    listener: Arc<BoundListener>,
    index: usize,
    edge: Arc<Edge>,
    mut phase: PhaseWatch,
) {
    loop {
        phase
            .until(|phase| phase.accepts() || phase.is_draining())
            .await;
        if phase.now().is_draining() {
            // Another process has the same sockets, and answers who waits.
            return listener.socket.close();
        }
        tokio::select! {
            biased;
            () = phase.until(|phase| !phase.accepts()) => {}
            never = accept_all(&listener, index, &edge) => match never {},
        }
        if phase.now().is_draining() {
            take_late(&listener, index, &edge).await;
            return take_last(&listener, index, &edge);
        }
    }
}

/// Nobody is to be accepted any more: whoever has connected already gets an answer, who comes later is
/// refused.
pub fn take_last(listener: &BoundListener, index: usize, edge: &Arc<Edge>) {
    take_waiting(listener, index, edge);
    listener.socket.drain_queue();
    take_waiting(listener, index, edge);
    listener.socket.close();
}

fn take_waiting(listener: &BoundListener, index: usize, edge: &Arc<Edge>) {
    while let Ok(Some(accepted)) = listener.socket.accept_waiting() {
        let (transport, ends) = accepted_as(accepted);
        edge.admit(index, transport, ends);
    }
}

/// A client whose connect(2) has returned may not be in the queue yet on a busy machine: the last
/// packet of its handshake is looked at some time later.
async fn take_late(listener: &BoundListener, index: usize, edge: &Arc<Edge>) {
    if matches!(listener.socket.address(), ListenAddress::Tcp(_)) {
        for _ in 0..LOOKS {
            take_waiting(listener, index, edge);
            tokio::time::sleep(LATE / LOOKS).await;
        }
    }
}

const LATE: Duration = Duration::from_millis(20);
const LOOKS: u32 = 4;

fn accepted_as(accepted: Accepted) -> (Transport, Option<Ends>) {
    match accepted {
        Accepted::Tcp(stream, ends) => {
            let ends = ends.map(|(peer, local)| Ends { peer, local });
            (Transport::Tcp(stream), ends)
        }
        Accepted::Unix(stream) => (Transport::Unix(stream), None),
    }
}

async fn accept_all(listener: &BoundListener, index: usize, edge: &Arc<Edge>) -> Infallible {
    let mut exhausted = false;
    let mut acceptor: Option<Acceptor> = None;
    loop {
        let accept = async {
            match &mut acceptor {
                Some(acceptor) => acceptor,
                none => none.insert(listener.socket.acceptor()?),
            }
            .accept()
            .await
        };
        match accept.await {
            Ok(accepted) => {
                if std::mem::take(&mut exhausted) {
                    warn!("listener {:?}: accepting again", listener.name);
                }
                let (transport, ends) = accepted_as(accepted);
                edge.admit(index, transport, ends);
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
