//! The attempts of a request at the servers of its upstream.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::config;
use crate::proxy::retry::{Request, Retry};
use crate::upstream::pacing::{Ended, Line};
use crate::upstream::{
    Group, Lease, Load, Pick, PoolConnector, QueueFull, Slot, StreamOffer, Turn, Waiting,
};

/// Made when a route to an upstream is found. Each pick of a server adds to it.
pub struct Attempts {
    group: Arc<Group>,
    /// Rendered once, for all picks.
    hash_key: Vec<u8>,
    /// The server to which the client belongs, by the upstream's `affinity`.
    own: Option<SocketAddr>,
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
    /// `Some` for a handshake that is paced, until the server has answered.
    slot: Option<Slot>,
}

impl Attempts {
    pub fn new(group: Arc<Group>, hash_key: Vec<u8>, own: Option<SocketAddr>) -> Self {
        Self {
            group,
            hash_key,
            own,
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

    /// The server to which the client belonged when it came.
    pub fn own(&self) -> Option<SocketAddr> {
        self.own
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
    pub fn pick(&mut self) -> Option<Lease> {
        self.present = None;
        self.group.pick(self.wanted(Load::Request))
    }

    /// The same for a handshake, for which the server must have room. `first_in`: the line in which
    /// it is the first.
    pub fn take_turn(&mut self, first_in: Option<Line>) -> Turn {
        self.present = None;
        let wanted = self.wanted(Load::Session);
        self.group.take_turn(wanted, first_in)
    }

    fn wanted(&self, load: Load) -> Pick<'_> {
        Pick {
            load,
            key: &self.hash_key,
            tried: &self.tried,
            own: self.own,
        }
    }

    /// From now on servers are picked from this group, which has the name of the one before.
    pub fn go_on_with(&mut self, group: Arc<Group>) {
        self.group = group;
    }

    /// Waits for a server that has room. Who has been at a server already goes first.
    pub fn wait_in(&self, line: Line) -> Result<Waiting, QueueFull> {
        let most = self.upstream().pacing.unwrap_or(usize::MAX);
        self.group.wait_in(line, !self.tried.is_empty(), most)
    }

    /// Waits in another line than so far. Who waits already has a place, however many wait.
    pub fn change_line(&self, line: Line) -> Result<Waiting, QueueFull> {
        self.group.wait_in(line, true, usize::MAX)
    }

    /// The request goes to the picked server.
    pub fn begin(&mut self, lease: Lease, connector: Arc<PoolConnector>) {
        self.tried.push(lease.server().address);
        self.present = Some(Attempt {
            lease,
            connector: Some(connector),
            slot: None,
        });
    }

    /// The handshake goes to the picked server.
    pub fn begin_handshake(&mut self, lease: Lease, slot: Option<Slot>) {
        self.tried.push(lease.server().address);
        self.present = Some(Attempt {
            lease,
            connector: None,
            slot,
        });
    }

    /// The server has answered the handshake, or will not.
    pub fn end_handshake(&mut self, ended: Ended) {
        let slot = self
            .present
            .as_mut()
            .and_then(|present| present.slot.take());
        if let Some(slot) = slot {
            slot.end(ended);
        }
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

    /// Counts a failure of the present server for passive ejection, and for its pace.
    pub fn record_failure(&mut self) {
        self.end_handshake(Ended::Failed);
        if let Some(lease) = self.lease() {
            self.group.record_failure(lease.server());
        }
    }
}
