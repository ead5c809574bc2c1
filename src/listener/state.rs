//! A bound listener at work: its present settings, and the clients that are counted on it.

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

use crate::config::{AcceptProxy, ListenerLimits};
use crate::forward::client_address::TrustedProxies;
use crate::forward::proxy_protocol::AddrPair;
use crate::limits::{ClientKey, DrainDeadline, Full, Limiter, Permit};
use crate::net::BoundId;
use crate::observe::metrics::RouteMetrics;
use crate::session::Admission;
use crate::tls::{Acceptor, CurrentRevision, TlsRevision};

/// The settings that one configuration has for a bound listener. They hold for open connections
/// too, except TLS and the PROXY header.
#[derive(Debug)]
pub struct ListenerSettings {
    pub name: String,
    pub limits: ListenerLimits,
    pub proxy_protocol: AcceptProxy,
    /// `None`: plain text.
    pub tls: Option<Arc<Acceptor>>,
    /// What new connections have shown.
    pub tls_revision: TlsRevision,
    pub trusted: TrustedProxies,
    /// Metrics of requests that no route matches. Connections that are refused count there too.
    pub unrouted: Arc<RouteMetrics>,
}

/// One bound listener.
#[derive(Debug)]
pub struct ListenerState {
    pub id: BoundId,
    pub limiter: Arc<Limiter>,
    settings: ArcSwap<ListenerSettings>,
    /// What clients must have shown to be served.
    pub tls_revision: CurrentRevision,
    pub drain_deadline: DrainDeadline,
}

impl ListenerState {
    pub fn new(id: BoundId, settings: ListenerSettings, drain_deadline: DrainDeadline) -> Self {
        Self {
            id,
            limiter: Arc::default(),
            tls_revision: CurrentRevision::new(settings.tls_revision),
            settings: ArcSwap::from_pointee(settings),
            drain_deadline,
        }
    }

    /// The settings in the present configuration.
    pub fn settings(&self) -> Guard<Arc<ListenerSettings>> {
        self.settings.load()
    }

    pub fn limits(&self) -> ListenerLimits {
        self.settings.load().limits
    }

    /// Takes over the settings of a configuration that is about to become active.
    pub fn follow(&self, settings: ListenerSettings) {
        let revision = settings.tls_revision;
        self.settings.store(Arc::new(settings));
        self.tls_revision.set(revision);
    }

    /// Counts the connection against its client's limit.
    pub fn charge_client(&self, permit: &mut Permit, peer: Option<SocketAddr>) -> Result<(), Full> {
        let settings = self.settings.load();
        let most = settings.limits.bounds.per_client;
        permit.name(client_of(peer, &settings.trusted), most)
    }

    /// For a connection that another process has accepted.
    pub fn adopt(&self, peer: Option<SocketAddr>, proxied: Option<AddrPair>) -> Admission {
        let peer = proxied.map(|ends| ends.peer).or(peer);
        let client = client_of(peer, &self.settings.load().trusted);
        Admission {
            permit: Some(self.limiter.adopt(client)),
            proxied: proxied.map(Box::new),
            tls_revision: self.tls_revision.get(),
        }
    }
}

/// The client to count, or `None` for a trusted proxy, which speaks for many clients.
fn client_of(peer: Option<SocketAddr>, trusted: &TrustedProxies) -> Option<ClientKey> {
    let peer = peer.filter(|peer| !trusted.contains(peer.ip()))?;
    Some(ClientKey::of(peer.ip()))
}
