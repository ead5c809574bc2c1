//! `allow` and `deny`: which client addresses a route serves.

use http::StatusCode;
use ipnet::IpNet;

use super::{Denied, Reason};
use crate::forward::client_address::ClientAddress;
use crate::http1::Rejection;

/// The lists of a route. A client must be in no network of `deny` and, if there is an `allow`, in
/// one of its networks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Access {
    /// `None`: any client.
    pub allow: Option<Vec<IpNet>>,
    pub deny: Vec<IpNet>,
}

impl Access {
    /// A client on a unix socket has no address: only an `allow` keeps it out.
    pub fn check(&self, client: ClientAddress) -> Result<(), Denied> {
        let is_in = |networks: &[IpNet]| match client {
            ClientAddress::Ip(address) => {
                let address = address.to_canonical();
                networks.iter().any(|network| network.contains(&address))
            }
            ClientAddress::Unix => false,
        };
        let is_allowed = self.allow.as_deref().is_none_or(is_in);
        if is_allowed && !is_in(&self.deny) {
            return Ok(());
        }
        Err(Denied {
            reason: Reason::Address,
            rejection: Rejection::new(StatusCode::FORBIDDEN, "this address may not come in here"),
            challenge: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passes(access: &Access, client: &str) -> bool {
        access
            .check(ClientAddress::Ip(client.parse().unwrap()))
            .is_ok()
    }

    fn networks(list: &[&str]) -> Vec<IpNet> {
        list.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_client_is_in_allow_if_there_is_one_and_never_in_deny() {
        let open = Access::default();
        assert!(passes(&open, "192.0.2.1"));
        let access = Access {
            allow: Some(networks(&["10.0.0.0/8", "2001:db8::/32"])),
            deny: networks(&["10.6.6.0/24"]),
        };
        for (client, is_in) in [
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("10.6.6.6", false),
            ("192.0.2.1", false),
            ("2001:db8::7", true),
            ("2001:db9::7", false),
        ] {
            assert_eq!(passes(&access, client), is_in, "{client}");
        }
    }

    #[test]
    fn a_client_without_an_address_is_kept_out_only_by_allow() {
        let deny = Access {
            allow: None,
            deny: networks(&["0.0.0.0/0"]),
        };
        assert!(deny.check(ClientAddress::Unix).is_ok());
        let allow = Access {
            allow: Some(networks(&["0.0.0.0/0"])),
            deny: Vec::new(),
        };
        assert!(allow.check(ClientAddress::Unix).is_err());
    }
}
