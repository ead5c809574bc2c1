//! TLS to clients and servers: rustls on our own sockets. Pingora and the relay see plain text.
//!
//! ```text
//!   files ──► Pair, Authorities, TicketSecret      read and checked with the configuration
//!                │
//!   Acceptor ────┤   a listener's: by name, mTLS, tickets ──► TlsStream
//!   Connector ───┘   an upstream's: name, authorities       ──► the same
//! ```
//!
//! A [`TlsStream`] that has become a session, or moves to another process, leaves rustls and goes
//! on with the [record layer](record) alone.

mod acceptor;
mod connector;
mod files;
pub mod record;
mod revision;
mod security;
mod stream;
mod subject;
pub mod tickets;
mod whole_records;

use std::sync::{Arc, LazyLock};

use rustls::crypto::CryptoProvider;

pub use acceptor::Acceptor;
pub use connector::{Connector, ServerTrust};
pub use files::{
    Authorities, FileError, Pair, read as read_file, read_chain, read_key, system_authorities,
};
pub use revision::{CurrentRevision, TlsRevision};
pub use security::Security;
pub use stream::TlsStream;

/// Shared by all connections: rustls would build its lists anew for each configuration.
static PROVIDER: LazyLock<Arc<CryptoProvider>> =
    LazyLock::new(|| Arc::new(rustls::crypto::ring::default_provider()));

/// The protocol that is offered inside TLS (RFC 7301).
const HTTP_1_1: &[u8] = b"http/1.1";
const HTTP_2: &[u8] = b"h2";
