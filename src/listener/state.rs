//! A listener's limits at work, and what a connection keeps from the door on.

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

use crate::config::ListenerLimits;
use crate::forward::client_address::TrustedProxies;
use crate::forward::proxy_protocol::Ends;
use crate::limits::{ClientKey, DrainDeadline, Full, Gate, Seat};
use crate::session::Admission;
use crate::tls::{CurrentRevision, TlsRevision};

/// One bound listener.
#[derive(Debug)]
pub struct Entrance {
    /// Its number among the bound ones.
    pub number: usize,
    pub gate: Arc<Gate>,
    limits: ArcSwap<ListenerLimits>,
    /// What clients must have shown.
    pub tls_revision: CurrentRevision,
    pub drain_deadline: DrainDeadline,
}

impl Entrance {
    pub fn new(
        number: usize,
        limits: ListenerLimits,
        tls_revision: TlsRevision,
        drain_deadline: DrainDeadline,
    ) -> Self {
        Self {
            number,
            gate: Arc::default(),
            limits: ArcSwap::from_pointee(limits),
            tls_revision: CurrentRevision::new(tls_revision),
            drain_deadline,
        }
    }

    pub fn limits(&self) -> Guard<Arc<ListenerLimits>> {
        self.limits.load()
    }

    /// What the present configuration has. Also for connections that are there.
    pub fn set_limits(&self, limits: ListenerLimits) {
        self.limits.store(Arc::new(limits));
    }

    /// Holds the seat's client to the bound.
    pub fn charge_client(
        &self,
        seat: &mut Seat,
        peer: Option<SocketAddr>,
        trusted: &TrustedProxies,
    ) -> Result<(), Full> {
        let most = self.limits().bounds.per_client;
        seat.name(client_of(peer, trusted), most)
    }

    /// For a connection that another process has accepted.
    pub fn adopt(
        &self,
        peer: Option<SocketAddr>,
        proxied: Option<Ends>,
        trusted: &TrustedProxies,
    ) -> Admission {
        let peer = proxied.map(|ends| ends.peer).or(peer);
        Admission {
            seat: Some(self.gate.adopt(client_of(peer, trusted))),
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
