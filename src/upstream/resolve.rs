//! Names to addresses, again and again.
//!
//! A name stands for all its addresses. A failed lookup keeps the last answer and is told once;
//! an answer of no addresses counts as failed, as an empty zone is more often a fault than a wish.
//! What an answer changes is [`super::membership`]'s matter.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Weak};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::net::NetError;
use log::error;

use super::group::Group;
use super::membership::Name;
use super::roster::Answer;

/// How often names among `servers` are looked up.
pub const REFRESH: Duration = Duration::from_secs(10);

/// How long a server stays that is missing from the answers for a name among `servers`.
pub const HOLD: Duration = Duration::from_secs(30);

/// How long one lookup may take.
pub const TIMEOUT: Duration = Duration::from_secs(5);

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
    /// Reads resolv.conf and the hosts file, which may both change while prusik runs.
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

/// Looks one name up whenever it is due, until the group is gone. Each name has a task of its own:
/// none waits for another that nobody answers.
pub async fn run(group: Weak<Group>, name: Name) {
    loop {
        let Some(next) = group.upgrade().map(|group| group.next_look(&name)) else {
            return;
        };
        tokio::time::sleep_until(next.into()).await;
        let answer = Resolver::new().look_up(&name).await;
        let Some(group) = group.upgrade() else { return };
        take(group, vec![(name.clone(), answer)]).await;
    }
}

/// Balancers may be made anew for it, which is no work for a thread that carries sessions.
pub async fn take(group: Arc<Group>, answers: Vec<(Name, Answer)>) {
    let taken = tokio::task::spawn_blocking(move || group.take_answers(answers)).await;
    if let Err(cause) = taken
        && cause.is_panic()
    {
        error!("the answer to a lookup could not be taken in: {cause}");
    }
}
