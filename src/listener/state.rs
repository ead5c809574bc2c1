//! A bound listener at work: what the present configuration says of it, and who is counted on it.

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

/// What one configuration says of a bound listener. Holds for connections that are there too, TLS
/// and the PROXY header apart.
#[derive(Debug)]
pub struct ListenerSettings {
    pub name: String,
    pub limits: ListenerLimits,
    pub proxy_protocol: AcceptProxy,
    /// `None`: plain text.
    pub tls: Option<Arc<Acceptor>>,
    /// What connections that come in now have shown.
    pub tls_revision: TlsRevision,
    pub trusted: TrustedProxies,
    /// Of requests that no route matches: who is refused at the door counts there.
    pub unrouted: Arc<RouteMetrics>,
}

/// One bound listener.
#[derive(Debug)]
pub struct ListenerState {
    pub id: BoundId,
    pub limiter: Arc<Limiter>,
    settings: ArcSwap<ListenerSettings>,
    /// What clients must have shown.
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

    /// As the present configuration has them.
    pub fn settings(&self) -> Guard<Arc<ListenerSettings>> {
        self.settings.load()
    }

    pub fn limits(&self) -> ListenerLimits {
        self.settings.load().limits
    }

    /// Those of a configuration that is about to be the present one.
    pub fn follow(&self, settings: ListenerSettings) {
        let revision = settings.tls_revision;
        self.settings.store(Arc::new(settings));
        self.tls_revision.set(revision);
    }

    /// Holds the permit's client to the bound.
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

/// A proxy that is trusted speaks for many.
fn client_of(peer: Option<SocketAddr>, trusted: &TrustedProxies) -> Option<ClientKey> {
    let peer = peer.filter(|peer| !trusted.contains(peer.ip()))?;
    Some(ClientKey::of(peer.ip()))
}
