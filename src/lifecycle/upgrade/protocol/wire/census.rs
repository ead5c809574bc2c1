//! What still counts in the old process, as it is sent.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// Where the connections and sessions count that are still in the old process. Each message
/// replaces the earlier counts of the same key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Census {
    pub entries: Vec<(CensusKey, u64)>,
    /// The same for users. They are counted beside what `entries` have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<(UserKey, u64)>,
}

/// Sessions of a user on a route.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct UserKey {
    pub route: String,
    pub user: String,
    /// Its event streams, which have a limit of their own.
    #[serde(default)]
    pub streams: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CensusKey {
    /// Connections on a listener of this name and address, of one client or of no client in
    /// particular.
    Listener {
        name: String,
        address: String,
        client: Option<u64>,
    },
    /// Sessions on a route.
    Route { name: String, client: Option<u64> },
    /// Event streams on a route. Only for a process that takes them.
    Stream { name: String, client: Option<u64> },
    /// Sessions on a server.
    Server {
        upstream: String,
        address: SocketAddr,
    },
}
