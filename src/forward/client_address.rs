//! Who the client is.
//!
//! The trust rules, in order:
//!
//! 1. The client is the TCP peer, unless the peer is trusted to speak for others.
//! 2. A peer within `trusted_proxies`, or on a unix socket, is trusted.
//! 3. A trusted peer's `X-Forwarded-For` (all fields, in order) lists whom it speaks for; without
//!    one, the `for=` of its `Forwarded` fields (RFC 7239) do.
//! 4. The list is read from its end, where the nearest proxy wrote. The first address that is not
//!    trusted is the client: what stands before it, it may have made up.
//! 5. When all are trusted, the leftmost is the client.
//! 6. An entry that is no address (`unknown`, `_hidden`, rubbish) ends the walk: the address
//!    behind it is the client.
//!
//! A comma within a quoted string separates nothing: a client may have chosen what a proxy quotes,
//! its `host=` for one, and must not be able to write an element of its own there.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, header};
use ipnet::IpNet;

/// Whose word about others is believed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedProxies(pub Vec<IpNet>);

impl TrustedProxies {
    /// IPv4 addresses mapped into IPv6 count as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|net| net.contains(&address))
    }

    /// Rule 2. `None` is a peer on a unix socket.
    pub fn trusts_peer(&self, peer: Option<SocketAddr>) -> bool {
        peer.is_none_or(|peer| self.contains(peer.ip()))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAddress {
    Ip(IpAddr),
    /// On a unix socket, and nobody said more.
    Unix,
}

impl fmt::Display for ClientAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix => f.write_str("unix:"),
        }
    }
}

impl ClientAddress {
    pub fn find(peer: Option<SocketAddr>, headers: &HeaderMap, trusted: &TrustedProxies) -> Self {
        let peer_address = peer.map(|peer| peer.ip().to_canonical());
        if !trusted.trusts_peer(peer) {
            return peer_address.map_or(Self::Unix, Self::Ip);
        }
        let mut client = peer_address;
        let mut step = |entry: Option<IpAddr>| match entry {
            None => Walk::Over,
            Some(address) => {
                client = Some(address);
                if trusted.contains(address) {
                    Walk::On
                } else {
                    Walk::Over
                }
            }
        };
        if headers.contains_key("x-forwarded-for") {
            walk_back(headers, "x-forwarded-for", |entry| {
                step(parse_address(entry))
            });
        } else {
            walk_back(headers, header::FORWARDED.as_str(), |entry| {
                step(parse_element(entry))
            });
        }
        client.map_or(Self::Unix, Self::Ip)
    }
}

#[derive(PartialEq)]
enum Walk {
    On,
    Over,
}

/// The comma-separated entries of all fields of the name, last first.
fn walk_back(headers: &HeaderMap, name: &str, mut step: impl FnMut(&str) -> Walk) {
    for field in headers.get_all(name).iter().rev() {
        // Bytes that are no text are no address: they end the walk like other rubbish.
        let Some(entries) = str::from_utf8(field.as_bytes())
            .ok()
            .and_then(|text| split_unquoted(text, b','))
        else {
            return;
        };
        for entry in entries.into_iter().rev() {
            if step(entry) == Walk::Over {
                return;
            }
        }
    }
}

/// The trimmed pieces between separators that stand outside of quoted strings (RFC 9110 section
/// 5.6.4). `None` when a quoted string doesn't end: then nobody can say what is in it.
fn split_unquoted(text: &str, separator: u8) -> Option<Vec<&str>> {
    let mut pieces = Vec::new();
    let (mut start, mut quoted, mut escaped) = (0, false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ if byte == separator && !quoted => {
                pieces.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    pieces.push(text[start..].trim());
    (!quoted).then_some(pieces)
}

/// An address with or without a port: `1.2.3.4`, `1.2.3.4:5`, `::1`, `[::1]`, `[::1]:5`.
fn parse_address(text: &str) -> Option<IpAddr> {
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(text);
    bare.parse::<IpAddr>()
        .ok()
        .or_else(|| text.parse::<SocketAddr>().ok().map(|socket| socket.ip()))
        .map(|address| address.to_canonical())
}

/// The `for` of one forwarded-element (RFC 7239 section 4).
fn parse_element(element: &str) -> Option<IpAddr> {
    let node = split_unquoted(element, b';')?
        .into_iter()
        .find_map(|pair| {
            let (name, value) = pair.split_once('=')?;
            name.trim()
                .eq_ignore_ascii_case("for")
                .then_some(value.trim())
        })?;
    let unquoted = node
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'));
    parse_address(unquoted.unwrap_or(node))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(peer: &str, fields: &[(&'static str, &str)]) -> String {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().unwrap());
        }
        let trusted = TrustedProxies(
            ["10.0.0.0/8", "::1/128"]
                .map(|net| net.parse().unwrap())
                .into_iter()
                .collect(),
        );
        let peer = (!peer.is_empty()).then(|| peer.parse().unwrap());
        ClientAddress::find(peer, &headers, &trusted).to_string()
    }

    #[test]
    fn an_untrusted_peer_is_the_client_whatever_it_says() {
        assert_eq!(
            client("192.0.2.1:5", &[("x-forwarded-for", "203.0.113.9")]),
            "192.0.2.1"
        );
    }

    #[test]
    fn behind_trusted_proxies_the_rightmost_untrusted_address_is_the_client() {
        let xff = |value| client("10.0.0.1:5", &[("x-forwarded-for", value)]);
        assert_eq!(xff("198.51.100.1, 203.0.113.9, 10.0.0.2"), "203.0.113.9");
        assert_eq!(xff("10.0.0.3, 10.0.0.2"), "10.0.0.3");
        assert_eq!(xff("203.0.113.9:4711"), "203.0.113.9");
        assert_eq!(xff("[2001:db8::1]:4711"), "2001:db8::1");
        assert_eq!(xff("::ffff:203.0.113.9"), "203.0.113.9");
    }

    #[test]
    fn several_fields_are_one_list() {
        let fields = [
            ("x-forwarded-for", "203.0.113.9"),
            ("x-forwarded-for", "10.0.0.2"),
        ];
        assert_eq!(client("10.0.0.1:5", &fields), "203.0.113.9");
    }

    #[test]
    fn rubbish_ends_the_walk() {
        let xff = |value| client("10.0.0.1:5", &[("x-forwarded-for", value)]);
        assert_eq!(xff("203.0.113.9, unknown, 10.0.0.2"), "10.0.0.2");
        assert_eq!(xff("203.0.113.9, "), "10.0.0.1");
        assert_eq!(xff(""), "10.0.0.1");
        assert_eq!(xff("[2001:db8::1]x"), "10.0.0.1");
    }

    #[test]
    fn without_x_forwarded_for_rfc_7239_is_read() {
        let forwarded = |value| client("10.0.0.1:5", &[("forwarded", value)]);
        assert_eq!(
            forwarded("for=203.0.113.9;proto=https, for=10.0.0.2"),
            "203.0.113.9"
        );
        assert_eq!(forwarded("For=\"[2001:db8::17]:4711\""), "2001:db8::17");
        assert_eq!(forwarded("for=203.0.113.9, for=_hidden"), "10.0.0.1");
    }

    #[test]
    fn what_stands_in_quotes_is_no_element() {
        let forwarded = |value: &str| client("10.0.0.1:5", &[("forwarded", value)]);
        for chosen in ["x, for=8.8.8.8", "x;for=8.8.8.8", r#"x\", for=8.8.8.8"#] {
            let value = format!("for=203.0.113.9;host=\"{chosen}\"");
            assert_eq!(forwarded(&value), "203.0.113.9", "{value}");
            let value = format!("host=\"{chosen}\";for=203.0.113.9");
            assert_eq!(forwarded(&value), "203.0.113.9", "{value}");
        }
        assert_eq!(forwarded("for=203.0.113.9, host=\"open"), "10.0.0.1");
    }

    #[test]
    fn a_unix_socket_is_trusted() {
        assert_eq!(
            client("", &[("x-forwarded-for", "203.0.113.9")]),
            "203.0.113.9"
        );
        assert_eq!(client("", &[]), "unix:");
    }

    #[test]
    fn an_ipv4_peer_on_an_ipv6_socket_is_seen_as_ipv4() {
        let fields = [("x-forwarded-for", "203.0.113.9")];
        assert_eq!(client("[::ffff:10.0.0.1]:5", &fields), "203.0.113.9");
    }
}
