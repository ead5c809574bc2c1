//! Resolves names to addresses, again and again.
//!
//! A name stands for all its addresses. After a failed lookup the last answer stays, and the
//! failure is logged once. An answer without addresses counts as failed, because an empty zone is
//! more often a mistake than intended. [`super::membership`] decides what an answer changes.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::net::NetError;

use super::membership::Name;

/// How often names in `servers` are looked up.
pub const REFRESH: Duration = Duration::from_secs(10);

/// How long a server stays that is missing from the answers for a name in `servers`.
pub const HOLD: Duration = Duration::from_secs(30);

/// How long one lookup may take.
pub const TIMEOUT: Duration = Duration::from_secs(5);

/// The result of one lookup: addresses, or why there are none.
pub type Answer = Result<Vec<SocketAddr>, String>;

/// What lookups are made with.
#[derive(Clone)]
pub struct Resolver(Result<TokioResolver, String>);

#[derive(Debug, thiserror::Error)]
enum LookupError {
    #[error("{0}")]
    Lookup(#[from] NetError),
    #[error("no answer within {TIMEOUT:?}")]
    Timeout,
    #[error("the name has no address")]
    Empty,
}

impl Resolver {
    /// Reads resolv.conf and the hosts file. Both may change while prusik runs.
    pub fn new() -> Self {
        let resolver = TokioResolver::builder_tokio().and_then(|builder| builder.build());
        Self(resolver.map_err(|cause| format!("the resolver cannot be set up: {cause}")))
    }

    pub async fn look_up(&self, name: &Name) -> Answer {
        let resolver = self.0.as_ref().map_err(Clone::clone)?;
        let addresses = addresses(resolver, &name.host).await;
        let addresses = addresses.map_err(|error| error.to_string())?.into_iter();
        Ok(addresses.map(|ip| SocketAddr::new(ip, name.port)).collect())
    }
}

async fn addresses(resolver: &TokioResolver, host: &str) -> Result<Vec<IpAddr>, LookupError> {
    let answer = tokio::time::timeout(TIMEOUT, resolver.lookup_ip(host))
        .await
        .map_err(|_| LookupError::Timeout)??;
    let addresses: Vec<IpAddr> = answer.iter().collect();
    if addresses.is_empty() {
        Err(LookupError::Empty)
    } else {
        Ok(addresses)
    }
}
