//! Who belongs to a group according to the file and DNS.

use super::membership::{Entry, Membership, Name};
use super::resolve;
use crate::config::{self, ServerAddress};

/// Who belongs to the group, and whether this group is still the one that counts.
pub(super) struct Roster {
    pub membership: Membership,
    /// A reload has replaced this group by another one, which has taken over all of this. What is
    /// found out later would be lost.
    pub is_replaced: bool,
}

impl Roster {
    pub fn new(config: &config::Upstream) -> Self {
        Self {
            membership: Membership::new(entries(config)),
            is_replaced: false,
        }
    }
}

/// The servers of the file, in its order.
fn entries(config: &config::Upstream) -> Vec<Entry> {
    let servers = config.servers.iter().map(|server| match &server.address {
        ServerAddress::Socket(address) => Entry::Address(*address),
        ServerAddress::Name { host, port } => Entry::Name {
            name: Name {
                host: host.clone(),
                port: *port,
            },
            refresh: resolve::REFRESH,
            hold: resolve::HOLD,
        },
    });
    let discovered = config.discover.iter().map(|discover| Entry::Name {
        name: Name {
            host: discover.host.clone(),
            port: discover.port,
        },
        refresh: discover.refresh,
        hold: discover.hold,
    });
    servers.chain(discovered).collect()
}
