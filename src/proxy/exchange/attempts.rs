//! The attempts of a request at the servers of its upstream.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::config;
use crate::proxy::retry::{Request, Retry};
use crate::upstream::{Group, Lease, Load, Pick, PoolConnector, StreamOffer};

/// Made when a route to an upstream is found. Each pick of a server adds to it.
pub struct Attempts {
    group: Arc<Group>,
    /// Rendered once, for all picks.
    hash_key: Vec<u8>,
    present: Option<Attempt>,
    /// The servers that were picked. The present one is last.
    tried: Vec<SocketAddr>,
    /// How many kept connections were dead when they were used.
    stale: usize,
}

/// One server, counted as long as this value lives.
struct Attempt {
    lease: Lease,
    /// `Some` for a plain request.
    connector: Option<Arc<PoolConnector>>,
}

impl Attempts {
    pub fn new(group: Arc<Group>, hash_key: Vec<u8>) -> Self {
        Self {
            group,
            hash_key,
            present: None,
            tried: Vec::new(),
            stale: 0,
        }
    }

    pub fn group(&self) -> &Arc<Group> {
        &self.group
    }

    pub fn upstream(&self) -> &config::Upstream {
        self.group.config()
    }

    /// How many servers were picked.
    pub fn count(&self) -> usize {
        self.tried.len()
    }

    /// The server that was picked last.
    pub fn server(&self) -> Option<SocketAddr> {
        self.tried.last().copied()
    }

    /// Picks a server that was not tried. The failed one is released first, so that it is not
    /// counted together with the next.
    pub fn pick(&mut self, load: Load) -> Option<Lease> {
        self.present = None;
        self.group.pick(Pick {
            load,
            key: &self.hash_key,
            tried: &self.tried,
        })
    }

    /// The request goes to the picked server.
    pub fn begin(&mut self, lease: Lease, connector: Option<Arc<PoolConnector>>) {
        self.tried.push(lease.server().address);
        self.present = Some(Attempt { lease, connector });
    }

    pub fn lease(&self) -> Option<&Lease> {
        self.present.as_ref().map(|present| &present.lease)
    }

    /// Takes the lease for the session that follows.
    pub fn take_lease(&mut self) -> Option<Lease> {
        self.present.take().map(|present| present.lease)
    }

    fn connector(&self) -> Option<&Arc<PoolConnector>> {
        self.present.as_ref()?.connector.as_ref()
    }

    /// The server's connection, which may leave with an event stream.
    pub fn stream_offer(&self) -> Option<&StreamOffer> {
        self.connector().map(|connector| connector.stream_offer())
    }

    /// The answer goes on as any other, if it was an event stream that could leave.
    pub fn decline_stream(&self) {
        if let Some(connector) = self.connector() {
            connector.decline_stream();
        }
    }

    /// The server closes the connection after its answer.
    pub fn mark_as_closing(&self) {
        if let Some(connector) = self.connector() {
            connector.mark_as_closing();
        }
    }

    /// What [`decide`](crate::proxy::retry::decide) needs to know.
    pub fn request(&self, is_repeatable: bool) -> Request {
        let connector = self.connector();
        Request {
            is_repeatable,
            on_kept_connection: connector.is_some_and(|connector| connector.has_reused()),
            stale: self.stale,
            has_another_server: self.tried.len() < self.upstream().attempts
                && self.group.has_untried(&self.tried),
            retry_on: self.upstream().retry_on,
        }
    }

    /// Allows the present server again if only its connection was dead.
    pub fn prepare(&mut self, retry: Retry) {
        if retry == Retry::NewConnection {
            self.stale += 1;
            self.tried.pop();
        }
    }

    /// Counts a failure of the present server for passive ejection.
    pub fn record_failure(&self) {
        if let Some(lease) = self.lease() {
            self.group.record_failure(lease.server());
        }
    }
}
