//! Where a request came from.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use crate::forward::Trust;
use crate::forward::client_address::ClientAddress;
use crate::forward::proxy_protocol::{AddrPair, PreambleClient};
use crate::listener::Connection;

pub struct Arrival {
    connection: Arc<Connection>,
    /// The client's address according to the trust rules.
    client: ClientAddress,
    /// Whether the peer is a trusted proxy.
    trust: Trust,
}

impl Arrival {
    pub fn new(connection: Arc<Connection>, (trust, client): (Trust, ClientAddress)) -> Self {
        Self {
            connection,
            client,
            trust,
        }
    }

    pub fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    pub fn client(&self) -> ClientAddress {
        self.client
    }

    pub fn trust(&self) -> Trust {
        self.trust
    }

    /// The client that a PROXY header names to the server. Its port is known if it is the peer.
    pub fn preamble_client(&self) -> PreambleClient {
        let ClientAddress::Ip(client) = self.client else {
            return PreambleClient::Unknown;
        };
        let peer = self.connection.peer();
        let port = peer.filter(|peer| peer.ip().to_canonical() == client);
        let anywhere: IpAddr = match client {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        PreambleClient::Client(AddrPair {
            peer: (client, port.map_or(0, |peer| peer.port())).into(),
            local: self.connection.local().unwrap_or((anywhere, 0).into()),
        })
    }
}
