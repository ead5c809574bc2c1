//! What is known of a connection from its TLS.

use std::sync::Arc;

/// How the client's side of a connection is protected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Security {
    Plain,
    /// `client`: the subject of the client's verified certificate.
    Tls {
        client: Option<Arc<str>>,
    },
}
