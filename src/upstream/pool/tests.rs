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
        let open = PooledConnection::new(io, &self.connections.open);
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
