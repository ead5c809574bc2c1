//! Pairs of addresses on which the kernel does not let two sockets listen.

use std::net::SocketAddr;

use super::ListenAddress;

/// Whether one address includes the other: they have the same port and family, and are equal or one
/// means all addresses of the machine. Port 0 is a different port each time.
///
/// A listener on `[::]` accepts only IPv6 (`IPV6_V6ONLY`), so it can exist beside `0.0.0.0`.
pub fn overlap(one: &ListenAddress, other: &ListenAddress) -> bool {
    match (one, other) {
        (ListenAddress::Tcp(one), ListenAddress::Tcp(other)) => tcp_overlap(*one, *other),
        (ListenAddress::Unix(one), ListenAddress::Unix(other)) => one == other,
        _ => false,
    }
}

pub(super) fn tcp_overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let includes = one.ip() == other.ip()
        || one.is_ipv4() == other.is_ipv4()
            && (one.ip().is_unspecified() || other.ip().is_unspecified());
    one.port() == other.port() && one.port() != 0 && includes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both(one: &str, other: &str) -> bool {
        let address = |text: &str| ListenAddress::Tcp(text.parse().unwrap());
        let (one, other) = (address(one), address(other));
        let found = overlap(&one, &other);
        assert_eq!(found, overlap(&other, &one));
        found
    }

    #[test]
    fn a_wildcard_includes_every_address_of_its_family() {
        assert!(both("0.0.0.0:80", "127.0.0.1:80"));
        assert!(both("[::]:80", "[::1]:80"));
        assert!(both("127.0.0.1:80", "127.0.0.1:80"));
        assert!(!both("0.0.0.0:80", "127.0.0.1:81"));
        assert!(!both("0.0.0.0:80", "[::1]:80"));
        assert!(!both("0.0.0.0:80", "[::]:80"));
        assert!(!both("127.0.0.2:80", "127.0.0.1:80"));
        assert!(!both("127.0.0.1:0", "127.0.0.1:0"));
    }
}
