//! A client's socket after it has left Pingora, and what moves together with the socket.

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
    /// Bytes that were read from the socket and are not used yet.
    pub early: BytesMut,
    /// The client sends nothing more.
    pub ended: bool,
    /// Whether a request has come on this connection.
    pub has_asked: bool,
    pub admission: Admission,
}

/// What stays with a client's socket wherever the socket goes.
#[derive(Debug, Default)]
pub struct Admission {
    /// `None` for a connection that this process has made to itself.
    pub permit: Option<Permit>,
    /// The addresses that a PROXY header has named. Boxed, because most connections have none.
    pub proxied: Option<Box<AddrPair>>,
    /// What the client has shown in its TLS handshake.
    pub tls_revision: TlsRevision,
}

impl Admission {
    /// The client's address: from the PROXY header if there was one, else `own`, the socket's.
    pub fn peer(&self, own: Option<SocketAddr>) -> Option<SocketAddr> {
        self.proxied.as_ref().map(|ends| ends.peer).or(own)
    }
}
