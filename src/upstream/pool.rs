//! How prusik connects to servers for plain requests, and which connections it keeps.
//!
//! Pingora's own pool gives each kept connection a task, a timer and three channels after every
//! request, and asks the kernel before every request who the peer is. Here keeping is a push and
//! using again a pop: Pingora connects through [`PoolConnector`] (its `custom_l4` road) and gets
//! a [`PoolStream`], which takes its socket back when Pingora is done with it.

use std::collections::HashMap;
use std::io;
use std::mem;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use parking_lot::{Mutex, MutexGuard};
use pingora::connectors::l4::Connect;
use pingora::protocols::l4::socket::SocketAddr as PeerAddress;
use pingora::protocols::l4::stream::Stream;
use pingora::protocols::l4::virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream};
use pingora::{Error, ErrorType};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use super::flow::Flow;
use super::outgoing::Outgoing;
use crate::forward::proxy_protocol::Preamble;
use crate::limits::DrainDeadline;
use crate::limits::descriptors::Descriptor;
use crate::net::pages;
use crate::net::pingora::{is_last_look, set_option};
use crate::tls::Connector;
use crate::transport::Transport;
use crate::upstream::dial::{Dialer, Shortage};

/// An idle connection is given up after a minute: servers commonly close theirs after 60 to 75 s.
const KEPT_IDLE: Duration = Duration::from_secs(55);

/// What cannot be repeated goes over a connection that was used a moment ago, or over a new one:
/// a server that closes its idle connections may do so while the request is on its way, and the
/// shortest times in use are a few seconds.
const KEPT_FRESH: Duration = Duration::from_secs(1);

/// How often idle connections are looked at: whether they are of use still.
pub const SWEEP: Duration = Duration::from_secs(2);

/// What a connection leads to. All that tells two connections apart must be in here, or one would
/// serve requests that are meant for the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Target {
    address: SocketAddr,
    /// Whom the server was told that it is for.
    preamble: Option<Preamble>,
    /// What the server has proved, by whose word, and what it was shown: [`Connector::number`].
    tls: Option<u64>,
}

/// The connections of one upstream for plain requests, idle or in use.
#[derive(Debug, Default)]
pub struct Pool {
    /// All of them together, for the `keepalive` bound.
    open: AtomicUsize,
    idle: Mutex<Idle>,
}

#[derive(Debug, Default)]
struct Idle {
    /// The one used last at the end.
    kept: HashMap<Target, Vec<PoolEntry>>,
    /// The upstream has left the configuration: no more are kept.
    retired: bool,
}

#[derive(Debug)]
struct PoolEntry {
    since: Instant,
    open: PooledConnection,
    _descriptor: Descriptor,
}

impl Pool {
    pub fn count(&self) -> usize {
        self.open.load(Relaxed)
    }

    /// Closes what is of no more use: too old, its server gone from the upstream, closed by it, by
    /// TLS as a configuration before had it, or more than `bound` allows.
    pub fn sweep(
        &self,
        bound: usize,
        (tls, sends_preamble): (Option<&Connector>, bool),
        is_member: impl Fn(SocketAddr) -> bool,
    ) {
        let tls = tls.map(Connector::number);
        let mut surplus = self.count().saturating_sub(bound);
        let mut useless = |kept: &mut PoolEntry, is_member: bool| {
            if is_member && kept.since.elapsed() < KEPT_IDLE && surplus == 0 {
                return !kept.open.seems_silent();
            }
            surplus = surplus.saturating_sub(1);
            true
        };
        let mut closed = Vec::new();
        self.lock().kept.retain(|target, kept| {
            let is_ours = target.tls == tls && target.preamble.is_some() == sends_preamble;
            let is_member = is_member(target.address) && is_ours;
            closed.extend(kept.extract_if(.., |kept| useless(kept, is_member)));
            !kept.is_empty()
        });
    }

    /// Closes the idle ones.
    pub fn close_idle(&self) {
        let closed = mem::take(&mut self.lock().kept);
        drop(closed);
    }

    /// Closes the idle ones, and keeps none of those in use.
    pub fn retire(&self) {
        self.lock().retired = true;
        self.close_idle();
    }

    fn take(&self, target: Target, max_idle: Duration) -> Option<PooledConnection> {
        loop {
            // The last is the youngest. The lock is let go before the kernel is asked.
            let kept = self
                .lock()
                .kept
                .get_mut(&target)?
                .pop_if(|kept| kept.since.elapsed() < max_idle)?;
            if kept.open.is_silent() {
                return Some(kept.open);
            }
        }
    }

    fn keep(&self, target: Target, open: PooledConnection) {
        let mut idle = self.lock();
        if !idle.retired {
            let since = Instant::now();
            idle.kept.entry(target).or_default().push(PoolEntry {
                since,
                open,
                _descriptor: Descriptor::hold(),
            });
        }
    }

    fn lock(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock()
    }
}

/// A connection, counted while it is open.
#[derive(Debug)]
pub(super) struct PooledConnection {
    pub io: Transport,
    /// Weak, as idle connections are themselves in there.
    counted_in: Weak<Pool>,
}

impl PooledConnection {
    fn new(io: Transport, connections: &Arc<Pool>) -> Self {
        connections.open.fetch_add(1, Relaxed);
        Self {
            io,
            counted_in: Arc::downgrade(connections),
        }
    }

    /// Whether the server has neither closed it nor sent what nobody asked for: the next client
    /// would take that for its response. Asks the kernel, as tokio only knows what was there when
    /// it last waited.
    fn is_silent(&self) -> bool {
        let peeked = self
            .io
            .tcp()
            .map(|socket| recv(socket, &mut [0], RecvFlags::PEEK | RecvFlags::DONTWAIT));
        peeked.is_some_and(|peeked| peeked.is_err_and(|error| error == Errno::AGAIN))
    }

    /// The same as far as tokio knows, which costs nothing.
    fn seems_silent(&self) -> bool {
        let read = self.io.tcp().map(|socket| socket.try_read(&mut [0]));
        read.is_some_and(|read| read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock))
    }
}

impl Drop for PooledConnection {
    fn drop(&mut self) {
        self.io.part();
        if let Some(connections) = self.counted_in.upgrade() {
            connections.open.fetch_sub(1, Relaxed);
        }
    }
}

/// Whether a request may go out a second time when its connection fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeatable {
    Yes,
    No,
}

/// Connects one attempt of one request, over a kept connection if there is one.
#[derive(Debug)]
pub struct PoolConnector {
    connections: Arc<Pool>,
    dialer: Dialer,
    /// How many may be open when one is to be kept.
    bound: usize,
    repeatable: Repeatable,
    reused: AtomicBool,
    /// The server has said that it closes the connection.
    closes: Arc<AtomicBool>,
    flow: Arc<Flow>,
    stall: Duration,
}

impl PoolConnector {
    /// `stall`: how long the server may take nothing of what waits for it.
    pub fn new(
        connections: Arc<Pool>,
        dialer: Dialer,
        bound: usize,
        repeatable: Repeatable,
        (flow, stall): (Arc<Flow>, Duration),
    ) -> Self {
        Self {
            connections,
            dialer,
            bound,
            repeatable,
            reused: AtomicBool::new(false),
            closes: Arc::default(),
            flow,
            stall,
        }
    }

    /// The server closes behind its answer: the connection is not kept.
    pub fn mark_as_closing(&self) {
        self.closes.store(true, Relaxed);
    }

    /// Whether it found a kept connection.
    pub fn has_reused(&self) -> bool {
        self.reused.load(Relaxed)
    }
}

#[async_trait]
impl Connect for PoolConnector {
    /// Bounded by the peer's `total_connection_timeout`, which Pingora applies around this.
    async fn connect(&self, address: &PeerAddress) -> pingora::Result<Stream> {
        let Some(&address) = address.as_inet() else {
            return Error::e_explain(ErrorType::InternalError, "a server without an IP address");
        };
        let target = Target {
            address,
            preamble: self.dialer.preamble,
            tls: self.dialer.tls.as_deref().map(Connector::number),
        };
        let max_idle = match self.repeatable {
            Repeatable::Yes => KEPT_IDLE,
            Repeatable::No => KEPT_FRESH,
        };
        let (open, is_fresh) = match self.connections.take(target, max_idle) {
            Some(open) => (open, false),
            None => {
                let io = match self.dialer.connect(address).await {
                    // The idle ones have some.
                    Err(error) if Shortage::of_connecting(&error).is_some() => {
                        self.connections.close_idle();
                        self.dialer.connect(address).await?
                    }
                    connected => connected?,
                };
                (PooledConnection::new(io, &self.connections), true)
            }
        };
        self.reused.store(!is_fresh, Relaxed);
        let outgoing = Arc::new(Mutex::new(Outgoing::new(open)));
        self.flow.attach(outgoing.clone(), self.stall);
        let stream = PoolStream {
            outgoing,
            flow: self.flow.clone(),
            drain_deadline: self.dialer.drain_deadline.clone(),
            is_fresh,
            target,
            bound: self.bound,
            closes: self.closes.clone(),
        };
        Ok(VirtualSocketStream::new(Box::new(stream)).into())
    }
}

#[derive(Debug)]
struct PoolStream {
    /// The flow has it too.
    outgoing: Arc<Mutex<Outgoing>>,
    flow: Arc<Flow>,
    drain_deadline: DrainDeadline,
    /// Its options are not set yet.
    is_fresh: bool,
    target: Target,
    bound: usize,
    closes: Arc<AtomicBool>,
}

impl PoolStream {
    fn lock(&self) -> MutexGuard<'_, Outgoing> {
        self.outgoing.lock()
    }

    /// Pingora has no more use for it.
    fn keep(&self) {
        let mut outgoing = self.lock();
        // The response was there before the request had gone: the rest of that goes without
        // Pingora, and the connection is of no other use.
        if !outgoing.is_done() {
            return self.flow.leave_to_itself(&mut outgoing);
        }
        if let Some(open) = outgoing.open.take()
            && !self.closes.load(Relaxed)
            && let Some(connections) = open.counted_in.upgrade()
            && connections.count() <= self.bound
        {
            connections.keep(self.target, open);
        }
    }

    /// An error when nobody waits for the server any more.
    fn check(&self) -> io::Result<()> {
        self.drain_deadline.check()?;
        self.flow.check_deadline()
    }
}

impl AsyncRead for PoolStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        stream.drain_deadline.check()?;
        let is_last_look = is_last_look(cx, buf);
        let room = match is_last_look {
            true => 1,
            false => stream.flow.response_room(),
        };
        let polled = {
            let mut outgoing = stream.lock();
            let is_done = outgoing.is_done();
            let Some(open) = &mut outgoing.open else {
                return Poll::Ready(Ok(()));
            };
            if is_done && !is_last_look {
                stream.flow.server_looks();
            }
            let before = buf.filled().len();
            let polled = match room {
                0 => Poll::Pending,
                room => Pin::new(&mut (&mut open.io).take(room as u64)).poll_read(cx, buf),
            };
            stream.flow.read_of_response(buf.filled().len() - before);
            polled
        };
        if polled.is_ready() {
            return polled;
        }
        if is_last_look {
            stream.keep();
            // To Pingora the server has closed it: there is nothing left that it could keep.
            return Poll::Ready(Ok(()));
        }
        if stream.flow.client_takes_back() {
            pages::give_back(buf);
        }
        stream.flow.check_deadline()?;
        Poll::Pending
    }
}

/// Nothing here waits: see [`super::flow`].
impl AsyncWrite for PoolStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        Poll::Ready(self.lock().write(buf, cx, &self.flow))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        Poll::Ready(self.lock().flush(cx, &self.flow))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.lock().open {
            Some(open) => Pin::new(&mut open.io).poll_shutdown(cx),
            None => Poll::Ready(Ok(())),
        }
    }
}

impl Drop for PoolStream {
    fn drop(&mut self) {
        self.flow.detach();
    }
}

impl VirtualSocket for PoolStream {
    fn set_socket_option(&self, option: VirtualSockOpt) -> io::Result<()> {
        match &self.lock().open {
            Some(open) if self.is_fresh => set_option(open.io.tcp(), option),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    fn local(taken: &PooledConnection) -> SocketAddr {
        taken.io.local().unwrap()
    }

    struct Upstream {
        connections: Arc<Pool>,
        server: TcpListener,
        target: Target,
    }

    impl Upstream {
        async fn start() -> Self {
            let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = server.local_addr().unwrap();
            Self {
                connections: Arc::default(),
                server,
                target: Target {
                    address,
                    preamble: None,
                    tls: None,
                },
            }
        }

        /// The server's side of one that is idle from now on.
        async fn keep(&self) -> TcpStream {
            let io = Dialer::default()
                .connect(self.target.address)
                .await
                .unwrap();
            let open = PooledConnection::new(io, &self.connections);
            self.connections.keep(self.target, open);
            self.server.accept().await.unwrap().0
        }

        fn age(&self, age: Duration) {
            for kept in self.connections.lock().kept.get_mut(&self.target).unwrap() {
                kept.since -= age;
            }
        }

        fn take(&self) -> Option<PooledConnection> {
            self.connections.take(self.target, KEPT_IDLE)
        }
    }

    #[tokio::test]
    async fn the_connection_used_last_is_used_first_and_counts_until_it_closes() {
        let upstream = Upstream::start().await;
        let _first = upstream.keep().await;
        let last = upstream.keep().await;
        assert_eq!(upstream.connections.count(), 2);
        let taken = upstream.take().unwrap();
        assert_eq!(local(&taken), last.peer_addr().unwrap());
        drop(taken);
        assert_eq!(upstream.connections.count(), 1);
    }

    #[tokio::test]
    async fn what_cannot_be_repeated_gets_a_connection_that_was_just_used() {
        let upstream = Upstream::start().await;
        let _old = upstream.keep().await;
        upstream.age(KEPT_FRESH);
        assert!(
            upstream
                .connections
                .take(upstream.target, KEPT_FRESH)
                .is_none()
        );
        let young = upstream.keep().await;
        let taken = upstream.connections.take(upstream.target, KEPT_FRESH);
        let taken = local(&taken.unwrap());
        assert_eq!(taken, young.peer_addr().unwrap());
        assert!(upstream.take().is_some());
    }

    #[tokio::test]
    async fn a_sweep_leaves_what_is_of_use_and_within_the_bound() {
        let upstream = Upstream::start().await;
        let _servers_sides = (upstream.keep().await, upstream.keep().await);
        let count = |bound, is_member: bool| {
            upstream
                .connections
                .sweep(bound, (None, false), |_| is_member);
            upstream.connections.count()
        };
        assert_eq!(count(2, true), 2);
        assert_eq!(count(1, true), 1);
        assert_eq!(count(1, false), 0);
        let _servers_side = upstream.keep().await;
        upstream.age(KEPT_IDLE);
        assert_eq!(count(1, true), 0);
        let closed = upstream.keep().await;
        drop(closed);
        let kept = upstream.take();
        assert!(kept.is_none());
    }

    #[tokio::test]
    async fn a_retired_upstream_keeps_none() {
        let upstream = Upstream::start().await;
        let _first = upstream.keep().await;
        upstream.connections.retire();
        let _second = upstream.keep().await;
        assert_eq!(upstream.connections.count(), 0);
    }
}
