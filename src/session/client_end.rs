//! A client's socket outside Pingora, and what goes with it wherever it goes.

use std::net::SocketAddr;

use bytes::BytesMut;

use crate::forward::proxy_protocol::AddrPair;
use crate::limits::Permit;
use crate::tls::TlsRevision;
use crate::transport::Transport;

/// A client's socket that has left Pingora.
#[derive(Debug)]
pub struct ClientEnd {
    pub transport: Transport,
    /// Read from it, and not used yet.
    pub early: BytesMut,
    /// The client sends nothing more.
    pub ended: bool,
    /// A request had come on it.
    pub has_asked: bool,
    pub admission: Admission,
}

/// What goes with a client's socket, wherever it goes.
#[derive(Debug, Default)]
pub struct Admission {
    /// `None`: it is a connection of our own.
    pub permit: Option<Permit>,
    /// The ends that a PROXY header has named. Boxed: most have none.
    pub proxied: Option<Box<AddrPair>>,
    /// What the client has shown.
    pub tls_revision: TlsRevision,
}

impl Admission {
    /// Whose connection it is, where its socket says `own`.
    pub fn peer(&self, own: Option<SocketAddr>) -> Option<SocketAddr> {
        self.proxied.as_ref().map(|ends| ends.peer).or(own)
    }
}
