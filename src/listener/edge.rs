//! What each accepted connection goes through.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::Poll;

use async_trait::async_trait;
use bytes::BytesMut;
use pingora::server::ShutdownWatch;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::task::TaskTracker;

use super::client_stream::{Arrival, ClientStream};
use super::connection::{Connection, WhenIdle};
use super::deadlines::Watch;
use super::state::ListenerSettings;
use super::state::ListenerState;
use crate::limits::DrainDeadline;
use crate::limits::descriptors::Descriptor;
use crate::net::linger::LINGERING_MAX;
use crate::net::{BoundId, Socket};
use crate::observe::access_log::AccessLog;
use crate::session::Admission;
use crate::session::{ClientEnd, IdleConnection, MoveWatch, Runner, Session};
use crate::transport::Transport;

/// The connections being served: what a stopping process waits for.
pub type ConnectionTasks = TaskTracker;

/// What speaks HTTP on a connection: Pingora's proxy.
#[async_trait]
pub trait HttpApp: Send + Sync {
    /// Returns when the connection is no longer needed.
    async fn serve(&self, stream: ClientStream, stopping: &ShutdownWatch);

    /// Tells idle keep-alive connections that the process stops.
    async fn cleanup(&self);
}

/// The link to Pingora's proxy: handles each connection before it is HTTP, and gets back what
/// remains of it afterwards.
pub struct Edge {
    http: Arc<dyn HttpApp>,
    runner: Arc<Runner>,
    pub(super) log: Arc<AccessLog>,
    pub(super) connections: ConnectionTasks,
    /// True while the process drains.
    pub(super) stopping: ShutdownWatch,
    /// In the order in which the listeners were bound.
    pub(super) listener_states: Vec<Arc<ListenerState>>,
    /// The number of connections for which there are descriptors.
    ceiling: usize,
    /// Limits the clients that were turned away and still read the answer.
    pub(super) lingering: Arc<Semaphore>,
    pub(super) moves: MoveWatch,
    /// Limits the idle connections that are on their way to another process at a time: nobody
    /// answers a request on them then.
    leaving: Arc<Semaphore>,
    pub(super) drain_deadline: DrainDeadline,
    /// Wakes the tasks that must see that the drain's deadline has struck.
    pub(super) cutting: watch::Sender<bool>,
}

/// How many idle connections may be on their way to another process at a time.
const LEAVING_MAX: usize = 64;

impl Edge {
    /// `listeners`: in the order in which they were bound. `ceiling`: the number of connections for
    /// which there are descriptors.
    pub fn new(
        listeners: impl Iterator<Item = ListenerSettings>,
        http: Arc<dyn HttpApp>,
        (runner, log): (Arc<Runner>, Arc<AccessLog>),
        (connections, stopping): (ConnectionTasks, ShutdownWatch),
        ceiling: usize,
    ) -> Self {
        let drain_deadline = DrainDeadline::default();
        let state = |(index, settings)| {
            let id = BoundId::new(index);
            Arc::new(ListenerState::new(id, settings, drain_deadline.clone()))
        };
        Self {
            listener_states: listeners.enumerate().map(state).collect(),
            http,
            moves: runner.watch_moves(),
            runner,
            log,
            connections,
            stopping,
            ceiling,
            lingering: Arc::new(Semaphore::new(LINGERING_MAX)),
            leaving: Arc::new(Semaphore::new(LEAVING_MAX)),
            cutting: watch::Sender::new(false),
            drain_deadline,
        }
    }

    /// Serves a connection of this listener. `early`: bytes that were already read from it.
    pub fn serve(
        self: &Arc<Self>,
        listener: BoundId,
        transport: Transport,
        early: BytesMut,
        admission: Admission,
        arrival: Arrival,
    ) {
        let edge = self.clone();
        let state = self.listener_states[listener.index()].clone();
        let stream = ClientStream::new(state, transport, early, admission, arrival);
        self.connections
            .spawn(async move { edge.converse(listener, stream).await });
    }

    /// The other process does not take the connection. A client that has asked nothing yet still
    /// gets an answer.
    pub fn serve_last(self: &Arc<Self>, listener: BoundId, mut client: ClientEnd) {
        if client.has_asked && client.early.is_empty() {
            client.transport.part();
        } else {
            self.serve_as(listener, client, Arrival::Stays);
        }
    }

    /// Serves a connection that was on its way to another process.
    pub fn serve_again(self: &Arc<Self>, listener: BoundId, client: ClientEnd) {
        self.serve_as(listener, client, Arrival::Moved);
    }

    fn serve_as(self: &Arc<Self>, listener: BoundId, client: ClientEnd, arrival: Arrival) {
        let ClientEnd {
            transport,
            early,
            admission,
            ..
        } = client;
        self.serve(listener, transport, early, admission, arrival);
    }

    /// Takes over the settings of all listeners from a configuration that is about to become
    /// active.
    pub fn follow(&self, listeners: impl Iterator<Item = ListenerSettings>) {
        for (state, settings) in self.listener_states.iter().zip(listeners) {
            state.follow(settings);
        }
    }

    /// Tells idle keep-alive connections that the process stops.
    pub async fn cleanup(&self) {
        self.http.cleanup().await;
    }

    pub fn listener_states(&self) -> &[Arc<ListenerState>] {
        &self.listener_states
    }

    pub fn ceiling(&self) -> usize {
        self.ceiling
    }

    /// Whether there is a descriptor for one more server, for a client that is already counted.
    pub(super) fn has_descriptors(&self) -> bool {
        let limiters = self.listener_states.iter().map(|state| &state.limiter);
        let clients = limiters.map(|limiter| limiter.connections());
        let taken = clients.sum::<usize>() + Descriptor::held();
        taken < self.ceiling.saturating_mul(2)
    }

    /// Speaks HTTP until the connection ends, becomes a session or moves.
    async fn converse(self: Arc<Self>, listener: BoundId, stream: ClientStream) {
        let connection = stream.connection().clone();
        let permit = self.talk(&connection, stream).await;
        let Some(client) = connection.take_departed() else {
            return;
        };
        match connection.take_upgraded() {
            Some(upgraded) => self
                .runner
                .run(Session::begin(client, connection.stall(), upgraded)),
            // Boxed, because hardly any connection ends so.
            None if connection.is_dismissed() => Box::pin(self.see_out(client)).await,
            None => {
                let client = ClientEnd {
                    transport: client.transport.leave_rustls(),
                    ..client
                };
                let idle = IdleConnection {
                    listener,
                    client,
                    permit,
                };
                // The move may have been cancelled in the meantime.
                if let Some(client) = self.runner.send_idle(idle) {
                    self.serve_again(listener, client);
                }
            }
        }
    }

    /// Returns when Pingora no longer needs the connection, or nobody waits for Pingora. While
    /// connections can move to another process, idle ones leave, a few at a time; others leave
    /// after their request.
    async fn talk(
        self: &Arc<Self>,
        connection: &Connection,
        stream: ClientStream,
    ) -> Option<OwnedSemaphorePermit> {
        let mut moves = self.moves.clone();
        let mut tls_revision = connection.state().tls_revision.watch();
        let mut is_led_out = false;
        let http = self.http.serve(stream, &self.stopping);
        let http = Watch::new(http, connection.deadlines().clone());
        let last_moment = self.last_moment();
        tokio::pin!(http, last_moment);
        loop {
            let is_open = moves.is_open();
            is_led_out &= is_open;
            // A connection that cannot move ends instead, so that the upgrade need not wait for it.
            let can_move = moves.takes(connection.mobility());
            connection.set_when_idle(match is_led_out {
                true => WhenIdle::Leaves,
                false if is_open && !can_move => WhenIdle::Ends,
                false => WhenIdle::Waits,
            });
            let waits = is_open && !is_led_out && can_move;
            // The settings above take effect because Pingora is polled after them.
            tokio::select! {
                biased;
                _ = moves.changed() => {}
                // Once polled, the connection's stream itself checks whether it may go on.
                Ok(()) = tls_revision.changed() => {}
                () = &mut last_moment => return None,
                permit = self.leaving.clone().acquire_owned(), if waits => {
                    is_led_out = true;
                    connection.set_when_idle(WhenIdle::Leaves);
                    let look = poll_fn(|cx| Poll::Ready(http.as_mut().poll(cx).is_ready()));
                    let is_done = look.await;
                    if connection.has_departed() {
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

    /// Sends a request of our own through everything that a client's request goes through, and
    /// accepts any answer. No server gets it: it is a handshake without a key.
    pub async fn probe(self: &Arc<Self>) -> io::Result<()> {
        let (mut client, ours) = UnixStream::pair()?;
        let state = self.listener_states[0].clone();
        let id = state.id;
        let stream = ClientStream::new(
            state,
            Socket::Unix(ours).into(),
            BytesMut::new(),
            Admission {
                tls_revision: self.listener_states[0].tls_revision.get(),
                ..Admission::default()
            },
            Arrival::Moved,
        );
        stream.connection().mark_as_probe();
        let edge = self.clone();
        self.connections
            .spawn(async move { edge.converse(id, stream).await });
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
