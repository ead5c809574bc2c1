//! Who belongs to a group by the file and DNS, and whether that still matters.

use super::membership::{Entry, Membership, Name};
use super::resolve;
use crate::config::{self, ServerAddress};

/// Who belongs to the group, and whether that still matters.
pub(super) struct Roster {
    pub membership: Membership,
    /// A reload has put another group in this one's place, which has taken all of this over: what
    /// is heard later would be lost.
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

/// What the file calls for, in its order.
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
