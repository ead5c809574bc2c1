//! What is known of a connection from its TLS.

use std::sync::Arc;
use std::time::SystemTime;

use super::ClientCertificate;

/// How the client's side of a connection is protected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Security {
    Plain,
    /// `client`: the client's verified certificate.
    Tls {
        client: Option<Arc<ClientCertificate>>,
    },
}

impl Security {
    /// The certificate that the client has shown.
    pub fn client(&self) -> Option<&ClientCertificate> {
        match self {
            Self::Tls { client } => client.as_deref(),
            Self::Plain => None,
        }
    }

    /// When the client's certificate stops being valid. `None`: it has shown none.
    pub fn expires(&self) -> Option<SystemTime> {
        self.client()?.expires
    }
}
