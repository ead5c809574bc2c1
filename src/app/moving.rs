//! What this process does in a hand-over to or from another process.

use log::error;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::*;
use crate::config::AcceptProxy;
use crate::forward::proxy_protocol::AddrPair;
use crate::limits::Permit;
use crate::listener::ListenerState;
use crate::session::Session;
use crate::session::live::{Identity, LiveSession};
use crate::session::{Admission, ClientEnd};
use crate::tls::{Acceptor, TlsRevision};
use crate::transport::Transport;

impl App {
    pub fn listener_states(&self) -> &[Arc<ListenerState>] {
        self.edge.listener_states()
    }

    /// The name and address of a bound listener in the present configuration.
    pub fn listener_now(&self, bound: BoundId) -> Option<(String, String)> {
        let listener = self.listeners.get(bound.index())?;
        let generation = self.current.load();
        let name = generation.listener(bound).name.clone();
        Some((name, listener.socket.address().to_string()))
    }

    /// The same for the listener whose limit counts this permit.
    pub fn listener_of(&self, permit: &Permit) -> Option<(String, String)> {
        let mut listener_states = self.listener_states().iter();
        let state = listener_states.find(|state| Arc::ptr_eq(&state.limiter, permit.limiter()))?;
        self.listener_now(state.id)
    }

    /// The bound listener with this name, or else with this address.
    pub fn find_listener(&self, name: &str, address: &str) -> Option<BoundId> {
        let generation = self.current.load();
        let mut numbers = (0..self.listeners.len()).map(BoundId::new);
        let by_name = numbers
            .clone()
            .find(|bound| generation.listener(*bound).name == name);
        by_name.or_else(|| {
            numbers.find(|bound| {
                let socket = &self.listeners[bound.index()].socket;
                socket.address().to_string() == address
            })
        })
    }

    /// Whether a connection that began elsewhere may be served on this listener, and as what it
    /// counts. `shown`: what the client has shown in its TLS, as [`App::vouched_by`] names it;
    /// `None` for plain text. One state of the settings answers both, because a reload may be under
    /// way.
    pub fn serves_moved(
        &self,
        bound: BoundId,
        shown: Option<Option<&str>>,
        is_proxied: bool,
    ) -> Option<TlsRevision> {
        let settings = self.listener_states()[bound.index()].settings();
        let suits = match (&settings.tls, shown) {
            (None, None) => true,
            (Some(tls), Some(shown)) => tls.asks_no_more_than(shown),
            (None, Some(_)) | (Some(_), None) => false,
        };
        // One whose header named no client moves without an address, so it is accepted here.
        let takes = settings.proxy_protocol == AcceptProxy::Required || !is_proxied;
        (suits && takes).then_some(settings.tls_revision)
    }

    /// Names the authorities of which one has vouched for a client with this revision. `None`: it
    /// was asked for no certificate. An error: its listener now asks for more than it has shown.
    pub fn vouched_by(&self, bound: BoundId, revision: TlsRevision) -> io::Result<Option<String>> {
        let settings = self.listener_states()[bound.index()].settings();
        if revision < settings.tls_revision {
            return Err(io::Error::other(
                "its listener asks for more than it has shown",
            ));
        }
        Ok(settings.tls.as_deref().and_then(Acceptor::authorities))
    }

    /// Serves a connection that had left Pingora, in this process or another.
    pub fn serve(&self, bound: BoundId, client: ClientEnd) {
        self.edge.serve_again(bound, client);
    }

    /// The new process does not take the connection. It ends here, after an answer if it waits for
    /// one.
    pub fn serve_last(&self, bound: BoundId, client: ClientEnd) {
        self.edge.serve_last(bound, client);
    }

    /// Counts such a connection, even above the limits.
    pub fn adopt(
        &self,
        bound: BoundId,
        transport: &Transport,
        proxied: Option<AddrPair>,
    ) -> Admission {
        let peer = transport.peer();
        self.listener_states()[bound.index()].adopt(peer, proxied)
    }

    /// Replaces the session's names by the copies that all sessions share.
    pub fn share_labels(&self, identity: &mut Identity) {
        let generation = self.current.load();
        let labels = &generation.labels;
        for (name, known) in [
            (&mut identity.listener, &labels.listeners),
            (&mut identity.route, &labels.routes),
        ] {
            if let Some(known) = known.iter().find(|known| *known == name) {
                *name = known.clone();
            }
        }
        if let Some(group) = generation.find_group(&identity.upstream) {
            identity.upstream = group.label().clone();
        }
    }

    /// Tells the session to go if it does not fit this configuration, or if the process stops.
    pub fn drain_if_gone(&self, live: &Arc<LiveSession>) {
        let generation = self.current.load();
        let reason = match self.phases.now().is_draining() {
            true => Some(DrainReason::Stop),
            false => generation.why_gone(&live.identity),
        };
        if let Some(reason) = reason {
            self.drains.admit(reason, live, generation.drain_plan());
        }
    }

    /// Runs a session that the new process has refused, while others go on moving.
    pub fn run_refused(&self, session: Session) {
        self.tell_refused(&session.live);
        self.runner.run_again(session);
    }

    /// Tells a session to go that the new process does not take.
    pub fn tell_refused(&self, live: &Arc<LiveSession>) {
        live.traffic.set_refused(true);
        let plan = self.current.load().drain_plan();
        self.drains.admit(DrainReason::Upgrade, live, plan);
    }

    /// Sets the addresses on which the new process does not listen.
    pub fn set_unwanted(&self, addresses: Vec<String>) {
        *self.unwanted.lock() = addresses.into_iter().collect();
    }

    pub fn is_unwanted(&self, bound: BoundId) -> bool {
        let address = self.listeners[bound.index()].socket.address();
        self.is_unwanted_at(&address.to_string())
    }

    pub fn is_unwanted_at(&self, address: &str) -> bool {
        self.unwanted.lock().contains(address)
    }

    /// While the token lives, the process waits for one more connection.
    pub fn connection_token(&self) -> TaskTrackerToken {
        self.connections.token()
    }

    /// Stops listening on these addresses. Clients that wait already still get an answer.
    pub fn shut_unwanted(&self) {
        for (bound, listener) in self.listeners.iter().enumerate() {
            let bound = BoundId::new(bound);
            if self.is_unwanted(bound) {
                listener::take_last(listener, bound, &self.edge);
            } else {
                listener.socket.leave_file();
            }
        }
    }

    /// Another process will listen on the same sockets, and owns their files.
    pub fn leave_files(&self) {
        for listener in &self.listeners {
            listener.socket.leave_file();
        }
    }

    /// Another process listens on the same sockets: from now on it alone.
    pub fn leave_listeners(&self) {
        self.leave_files();
        self.listeners
            .iter()
            .for_each(|listener| listener.socket.close());
    }

    /// The new process is gone, and this one serves again as before.
    pub fn serve_again(&self) {
        self.set_unwanted(Vec::new());
        *self.winding_down_since.lock() = None;
        for listener in &self.listeners {
            if let Err(cause) = listener.socket.reopen() {
                let (name, address) = (&listener.name, listener.socket.address());
                error!("listener {name:?}: cannot listen on {address} again: {cause}");
            }
            listener.socket.own_file();
        }
        self.sessions
            .for_each(|live| live.traffic.set_refused(false));
        self.phases.enter(Phase::Serving);
    }
}
