//! Connections to servers that are kept for further plain requests.
//!
//! Pingora's own pool gives each kept connection a task, a timer and three channels after every
//! request, and asks the kernel for the peer before every request. Here keeping is a push and using
//! again is a pop. [`super::pool_connector`] connects and uses the connections.

use std::collections::HashMap;
use std::io;
use std::mem;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use crate::forward::proxy_protocol::Preamble;
use crate::limits::descriptors::Descriptor;
use crate::tls::Connector;
use crate::transport::Transport;

/// Idle connections are closed before this age: servers commonly close theirs after 60 to 75 s.
pub(super) const KEPT_IDLE: Duration = Duration::from_secs(55);

/// A request that cannot be repeated uses only a connection that was used a moment ago, or a new
/// one. A server may close an idle connection while the request is on its way, and the shortest
/// timeouts in use are a few seconds.
pub(super) const KEPT_FRESH: Duration = Duration::from_secs(1);

/// How often idle connections are checked for whether they are still usable.
pub const SWEEP: Duration = Duration::from_secs(2);

/// The far end of a connection. Everything that tells two connections apart must be in here, or one
/// would serve requests that are meant for the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Target {
    pub address: SocketAddr,
    /// Whom the server was told the connection is for.
    pub preamble: Option<Preamble>,
    /// Which certificates and TLS settings were used: [`Connector::number`].
    pub tls: Option<u64>,
}

/// The connections of one upstream for plain requests, idle or in use.
#[derive(Debug, Default)]
pub struct Pool {
    /// The number of open connections, for the `keepalive` bound.
    open: AtomicUsize,
    idle: Mutex<Idle>,
}

#[derive(Debug, Default)]
struct Idle {
    /// For each target, the connection that was used last is at the end.
    kept: HashMap<Target, Vec<PoolEntry>>,
    /// The upstream is no longer in the configuration, so no more connections are kept.
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

    /// Closes connections that are no longer usable: too old, closed by the server, of a server
    /// that is no longer a member, with the TLS settings of another configuration, or more than
    /// `bound`.
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

    /// Closes the idle connections.
    pub fn close_idle(&self) {
        let closed = mem::take(&mut self.lock().kept);
        drop(closed);
    }

    /// Closes the idle connections, and keeps none of those in use.
    pub fn retire(&self) {
        self.lock().retired = true;
        self.close_idle();
    }

    pub(super) fn take(&self, target: Target, max_idle: Duration) -> Option<PooledConnection> {
        loop {
            // The last one is the youngest. The lock is released before the kernel is asked.
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

    pub(super) fn put(&self, target: Target, open: PooledConnection) {
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
    /// `None` only while the value is dropped.
    io: Option<Transport>,
    /// Weak, because idle connections are in the pool themselves.
    counted_in: Weak<Pool>,
}

impl PooledConnection {
    pub fn new(io: Transport, connections: &Arc<Pool>) -> Self {
        connections.open.fetch_add(1, Relaxed);
        Self {
            io: Some(io),
            counted_in: Arc::downgrade(connections),
        }
    }

    pub fn io(&self) -> Option<&Transport> {
        self.io.as_ref()
    }

    pub fn io_mut(&mut self) -> Option<&mut Transport> {
        self.io.as_mut()
    }

    /// Takes the connection out: it serves no further request.
    pub fn into_io(mut self) -> Option<Transport> {
        self.io.take()
    }

    /// Returns it to its pool for another request, if the pool still exists and has at most `bound`
    /// connections.
    pub fn return_to_pool(self, target: Target, bound: usize) {
        if let Some(connections) = self.counted_in.upgrade()
            && connections.count() <= bound
        {
            connections.put(target, self);
        }
    }

    /// Whether the server has not closed the connection, nor sent anything without a request: the
    /// next client would take that for its response. Asks the kernel, because tokio knows only the
    /// state of its last wait.
    fn is_silent(&self) -> bool {
        let peeked = self
            .io()
            .and_then(Transport::tcp)
            .map(|socket| recv(socket, &mut [0], RecvFlags::PEEK | RecvFlags::DONTWAIT));
        peeked.is_some_and(|peeked| peeked.is_err_and(|error| error == Errno::AGAIN))
    }

    /// The same as far as tokio knows, without a system call if nothing has happened.
    fn seems_silent(&self) -> bool {
        let read = self.io().and_then(Transport::tcp);
        let read = read.map(|socket| socket.try_read(&mut [0]));
        read.is_some_and(|read| read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock))
    }
}

impl Drop for PooledConnection {
    fn drop(&mut self) {
        self.io.as_mut().map(Transport::part);
        if let Some(connections) = self.counted_in.upgrade() {
            connections.open.fetch_sub(1, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::upstream::dial::Dialer;

    fn local(taken: &PooledConnection) -> SocketAddr {
        taken.io().and_then(Transport::local).unwrap()
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
        async fn pool_one(&self) -> TcpStream {
            let io = Dialer::default()
                .connect(self.target.address)
                .await
                .unwrap();
            let open = PooledConnection::new(io, &self.connections);
            self.connections.put(self.target, open);
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
        let _first = upstream.pool_one().await;
        let last = upstream.pool_one().await;
        assert_eq!(upstream.connections.count(), 2);
        let taken = upstream.take().unwrap();
        assert_eq!(local(&taken), last.peer_addr().unwrap());
        drop(taken);
        assert_eq!(upstream.connections.count(), 1);
    }

    #[tokio::test]
    async fn what_cannot_be_repeated_gets_a_connection_that_was_just_used() {
        let upstream = Upstream::start().await;
        let _old = upstream.pool_one().await;
        upstream.age(KEPT_FRESH);
        assert!(
            upstream
                .connections
                .take(upstream.target, KEPT_FRESH)
                .is_none()
        );
        let young = upstream.pool_one().await;
        let taken = upstream.connections.take(upstream.target, KEPT_FRESH);
        let taken = local(&taken.unwrap());
        assert_eq!(taken, young.peer_addr().unwrap());
        assert!(upstream.take().is_some());
    }

    #[tokio::test]
    async fn a_sweep_leaves_what_is_of_use_and_within_the_bound() {
        let upstream = Upstream::start().await;
        let _servers_sides = (upstream.pool_one().await, upstream.pool_one().await);
        let count = |bound, is_member: bool| {
            upstream
                .connections
                .sweep(bound, (None, false), |_| is_member);
            upstream.connections.count()
        };
        assert_eq!(count(2, true), 2);
        assert_eq!(count(1, true), 1);
        assert_eq!(count(1, false), 0);
        let _servers_side = upstream.pool_one().await;
        upstream.age(KEPT_IDLE);
        assert_eq!(count(1, true), 0);
        let closed = upstream.pool_one().await;
        drop(closed);
        let kept = upstream.take();
        assert!(kept.is_none());
    }

    #[tokio::test]
    async fn a_retired_upstream_keeps_none() {
        let upstream = Upstream::start().await;
        let _first = upstream.pool_one().await;
        upstream.connections.retire();
        let _second = upstream.pool_one().await;
        assert_eq!(upstream.connections.count(), 0);
    }
}
