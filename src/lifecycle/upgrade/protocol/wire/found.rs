//! What the old process has found out, beside what it knows of upstreams.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// A part of what was learned from the answers of an upstream's servers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Learned {
    pub upstream: String,
    /// The fingerprint of a value, its server, and for how many milliseconds nobody has used it.
    pub bindings: Vec<(String, SocketAddr, u64)>,
}

/// The public keys that were fetched at a URL, as they were there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Keys {
    pub url: String,
    pub content: String,
}
