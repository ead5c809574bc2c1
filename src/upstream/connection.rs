//! How prusik connects to servers: socket options, and how many idle connections are kept.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use pingora::protocols::l4::ext::TcpKeepalive;
use pingora::upstreams::peer::Tracing;

/// A peer that is gone without a word is noticed after 30 s of silence and three probes, or when
/// what was sent to it stays unacknowledged for a minute.
pub const TCP_KEEPALIVE: TcpKeepalive = TcpKeepalive {
    idle: Duration::from_secs(30),
    interval: Duration::from_secs(10),
    count: 3,
    user_timeout: Duration::from_secs(60),
};

/// An idle connection is given up after a minute: servers commonly close theirs after 60 to 75 s.
pub const KEPT_IDLE: Duration = Duration::from_secs(55);

/// Counts the TCP connections that Pingora's connector has open to an upstream.
#[derive(Debug, Clone, Default)]
pub struct OpenConnections(Arc<AtomicUsize>);

impl OpenConnections {
    pub fn count(&self) -> usize {
        self.0.load(Relaxed)
    }
}

impl Tracing for OpenConnections {
    fn on_connected(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    fn on_disconnected(&self) {
        self.0.fetch_sub(1, Relaxed);
    }

    fn boxed_clone(&self) -> Box<dyn Tracing> {
        Box::new(self.clone())
    }
}
