//! The members of a group at one moment with their balancers, and the state of their servers that
//! outlives the group.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;

use super::balance::{Balancer, Wanted};
use super::keys_in_use::KeysInUse;
use super::pacing::Pacing;
use super::server::{Lease, Member, Server};
use super::tags::MemberTags;
use crate::config::{self, ServerAddress, UpstreamServer};

/// All members of the group at one moment.
#[derive(Default)]
pub(super) struct Members {
    pub all: Vec<Arc<Member>>,
    /// First the ordinary servers, then the backups.
    pub tiers: Vec<Balancer>,
    pub tags: MemberTags,
}

impl Members {
    pub fn new(config: &config::Upstream, all: Vec<Arc<Member>>, keys: &Arc<KeysInUse>) -> Self {
        let (backups, proper): (Vec<_>, Vec<_>) =
            all.iter().cloned().partition(|member| member.backup);
        let tiers = [proper, backups]
            .into_iter()
            .filter(|tier| !tier.is_empty())
            .map(|tier| Balancer::new(&config.balance, tier, keys))
            .collect();
        let tags = MemberTags::of(config, &all);
        Self { all, tiers, tags }
    }
}

impl Members {
    /// The server to which the client belongs, if that can take the request.
    pub fn own(&self, address: SocketAddr, wanted: &Wanted<'_>) -> Option<&Arc<Member>> {
        let mut all = self.all.iter();
        let member = all.find(|member| member.server.address == address)?;
        let is_untried = !wanted.tried.contains(&address);
        let may_take = is_untried && member.is_usable_for_own(wanted.ejected, wanted.load);
        may_take.then_some(member)
    }

    /// A lease of it.
    pub fn lease_own(&self, address: SocketAddr, wanted: &Wanted<'_>) -> Option<Lease> {
        self.own(address, wanted)?.lease(wanted.load)
    }
}

/// The settings of members that come from this entry of the file. Discovered members come after the
/// servers of the file.
pub(super) fn entry(config: &config::Upstream, number: usize, at: SocketAddr) -> UpstreamServer {
    let discovered = UpstreamServer {
        address: ServerAddress::Socket(at),
        weight: 1,
        max_sessions: None,
        backup: false,
    };
    config.servers.get(number).cloned().unwrap_or(discovered)
}

/// The lasting state of each address of an upstream. All groups of that name share it, so that
/// counts stay correct during a reload.
#[derive(Debug, Default)]
pub struct Servers {
    all: Mutex<HashMap<SocketAddr, Arc<Server>>>,
    /// The handshakes that wait for one of them.
    pub(super) pacing: Pacing,
}

impl Servers {
    /// The state is made if there is none.
    pub fn of(&self, address: SocketAddr) -> Arc<Server> {
        let made = || Arc::new(Server::new(address));
        self.all.lock().entry(address).or_insert_with(made).clone()
    }

    /// Every server that is a member or still has sessions.
    pub fn all(&self) -> Vec<Arc<Server>> {
        self.all.lock().values().cloned().collect()
    }

    /// Forgets a server that is no longer a member once its last session is gone; until then its
    /// counts are needed if it comes back. A drained server stays drained.
    pub fn forget_unused(&self) {
        self.all.lock().retain(|_, server| {
            // Only this list holds the server, so it is no member of any group.
            server.load() > 0 || server.is_drained() || Arc::strong_count(server) > 1
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_forgotten_when_nobody_has_it_and_nothing_is_counted_on_it() {
        let servers = Servers::default();
        let [member, idle, busy, drained] =
            [1, 2, 3, 4].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let held = servers.of(member);
        servers.of(idle);
        let lease = Lease::of_session(servers.of(busy));
        servers.of(drained).set_drained(true);
        servers.forget_unused();
        let left = |servers: &Servers| {
            let mut left: Vec<_> = servers.all().iter().map(|server| server.address).collect();
            left.sort();
            left
        };
        assert_eq!(left(&servers), [member, busy, drained]);
        drop((held, lease));
        servers.forget_unused();
        assert_eq!(left(&servers), [drained]);
    }
}
