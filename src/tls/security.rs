//! What is known of a connection by its TLS.

use std::sync::Arc;

/// What the client's end of a connection says of TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Security {
    Plain,
    /// `client`: the subject of its certificate, which was verified.
    Tls {
        client: Option<Arc<str>>,
    },
}
