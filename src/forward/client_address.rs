//! Finds the client's address.
//!
//! The trust rules, in order:
//!
//! 1. The client is the TCP peer, unless the peer is trusted to speak for others.
//! 2. A peer within `trusted_proxies`, or on a unix socket, is trusted.
//! 3. A trusted peer's `X-Forwarded-For` (all fields, in order) lists whom it speaks for. If there
//!    is none, the `for=` of its `Forwarded` fields (RFC 7239) does. The file may say that only one
//!    of the two counts (`client_address`): if a proxy writes one and passes on what clients wrote
//!    into the other, clients could otherwise choose.
//! 4. The list is read from its end, where the nearest proxy wrote. The first address that is not
//!    trusted is the client, because the client may have invented what stands before it.
//! 5. When all are trusted, the leftmost is the client.
//! 6. An entry that is no address (`unknown`, `_hidden`, garbage) ends the search: the address
//!    after it is the client. An empty entry is ignored (RFC 9110 section 5.6.1.2).
//!
//! What a client has written stands to the left of what proxies have appended, and must not change
//! how that is read. So lists are read from the right:
//!
//! - `X-Forwarded-For` has no quoted strings. Each comma separates, as in nginx; a quote that a
//!   client has sent belongs to an entry that is no address.
//! - `Forwarded` has quoted strings, and a client may have chosen what a proxy quotes (its
//!   `host=`), including commas. A quote at the end of a value closes a string, whose beginning
//!   is searched to the left. A quote that a client has left open is never reached.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, header};
use ipnet::IpNet;

/// The peers that are trusted to name other clients.
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

const X_FORWARDED_FOR: &str = "x-forwarded-for";

/// Which field of a trusted peer names the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClientField {
    /// `X-Forwarded-For`, or `Forwarded` if there is none.
    #[default]
    Either,
    XForwardedFor,
    Forwarded,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAddress {
    Ip(IpAddr),
    /// A client on a unix socket, if no field names another.
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
    /// Rule 1: no field names another client.
    pub fn of_peer(peer: Option<SocketAddr>) -> Self {
        peer.map_or(Self::Unix, |peer| Self::Ip(peer.ip().to_canonical()))
    }

    pub fn find(
        peer: Option<SocketAddr>,
        headers: &HeaderMap,
        trusted: &TrustedProxies,
        field: ClientField,
    ) -> Self {
        if !trusted.trusts_peer(peer) {
            return Self::of_peer(peer);
        }
        let mut client = peer.map(|peer| peer.ip().to_canonical());
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
        let reads_list = match field {
            ClientField::Either => headers.contains_key(X_FORWARDED_FOR),
            ClientField::XForwardedFor => true,
            ClientField::Forwarded => false,
        };
        if reads_list {
            walk_back(headers, X_FORWARDED_FOR, cut_at_comma, |entry| {
                step(parse_address(entry))
            });
        } else {
            let name = header::FORWARDED.as_str();
            walk_back(headers, name, cut_element, |entry| {
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

/// All entries of the fields that are not empty, the last first. `cut_last` splits the last entry
/// off a field's text; it returns `None` if the beginning of the entry is unclear.
fn walk_back(
    headers: &HeaderMap,
    name: &str,
    cut_last: fn(&str) -> Option<(&str, &str)>,
    mut step: impl FnMut(&str) -> Walk,
) {
    for field in headers.get_all(name).iter().rev() {
        // A byte beyond ASCII belongs to no address, but must not hide the entries after it.
        let text = String::from_utf8_lossy(field.as_bytes());
        let mut rest = &*text;
        while !rest.is_empty() {
            let Some((before, entry)) = cut_last(rest) else {
                return;
            };
            let entry = entry.trim();
            if !entry.is_empty() && step(entry) == Walk::Over {
                return;
            }
            rest = before;
        }
    }
}

fn cut_at_comma(list: &str) -> Option<(&str, &str)> {
    Some(list.rsplit_once(',').unwrap_or(("", list)))
}

/// Splits at the last comma outside of quoted strings.
fn cut_element(list: &str) -> Option<(&str, &str)> {
    let mut end = list.len();
    while let Some(at) = list[..end].rfind([',', '"']) {
        if list.as_bytes()[at] == b',' {
            return Some((&list[..at], &list[at + 1..]));
        }
        end = opening_quote(list, at)?;
    }
    Some(("", list))
}

/// The beginning of the quoted string that ends with the quote at `closing` (RFC 9110 section
/// 5.6.4): the next quote to the left without a backslash, after the `=` of its pair.
fn opening_quote(text: &str, closing: usize) -> Option<usize> {
    let behind = text[closing + 1..].trim_start().bytes().next();
    if !matches!(behind, None | Some(b',' | b';')) {
        return None;
    }
    let bytes = text.as_bytes();
    let mut end = closing;
    loop {
        let at = memchr::memrchr(b'"', &bytes[..end])?;
        let escapes = bytes[..at].iter().rev().take_while(|byte| **byte == b'\\');
        if escapes.count() % 2 == 0 {
            return bytes[..at].ends_with(b"=").then_some(at);
        }
        end = at;
    }
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

/// The `for` of one forwarded-element (RFC 7239 section 4), which may occur once.
fn parse_element(element: &str) -> Option<IpAddr> {
    let mut found = None;
    let mut rest = element;
    while !rest.is_empty() {
        let (before, pair) = cut_pair(rest)?;
        rest = before;
        let Some((name, value)) = pair.split_once('=') else {
            // RFC 7239 allows a semicolon with nothing after it.
            match pair.trim().is_empty() {
                true => continue,
                false => return None,
            }
        };
        if name.trim().eq_ignore_ascii_case("for") && found.replace(value.trim()).is_some() {
            return None;
        }
    }
    let node = found?;
    let unquoted = node
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'));
    parse_address(unquoted.unwrap_or(node))
}

/// Splits at the last semicolon outside of quoted strings.
fn cut_pair(element: &str) -> Option<(&str, &str)> {
    let mut end = element.len();
    while let Some(at) = element[..end].rfind([';', '"']) {
        if element.as_bytes()[at] == b';' {
            return Some((&element[..at], &element[at + 1..]));
        }
        end = opening_quote(element, at)?;
    }
    Some(("", element))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(peer: &str, fields: &[(&'static str, &str)]) -> String {
        client_by(ClientField::Either, peer, fields)
    }

    fn client_by(field: ClientField, peer: &str, fields: &[(&'static str, &str)]) -> String {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(
                *name,
                http::HeaderValue::from_bytes(value.as_bytes()).unwrap(),
            );
        }
        let trusted = TrustedProxies(
            ["10.0.0.0/8", "::1/128"]
                .map(|net| net.parse().unwrap())
                .into_iter()
                .collect(),
        );
        let peer = (!peer.is_empty()).then(|| peer.parse().unwrap());
        ClientAddress::find(peer, &headers, &trusted, field).to_string()
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
        assert_eq!(xff(""), "10.0.0.1");
        assert_eq!(xff("[2001:db8::1]x"), "10.0.0.1");
    }

    #[test]
    fn an_empty_entry_is_none() {
        let xff = |value| client("10.0.0.1:5", &[("x-forwarded-for", value)]);
        for value in [
            "203.0.113.9,",
            "203.0.113.9 , \t,",
            ", 203.0.113.9",
            "203.0.113.9,, 10.0.0.2",
        ] {
            assert_eq!(xff(value), "203.0.113.9", "{value:?}");
        }
        let fields = [("x-forwarded-for", "203.0.113.9"), ("x-forwarded-for", "")];
        assert_eq!(client("10.0.0.1:5", &fields), "203.0.113.9");
        let forwarded = client("10.0.0.1:5", &[("forwarded", "for=203.0.113.9;, ,")]);
        assert_eq!(forwarded, "203.0.113.9");
    }

    #[test]
    fn nothing_that_a_client_wrote_hides_the_address_that_its_proxy_appended() {
        for evil in [
            "\"",
            "\"8.8.8.8",
            "a\"b",
            "\\\"",
            "\"\\",
            "\"x, \"y\", \"",
            "host=\"",
            "for=8.8.8.8;host=\"a",
            "\u{e9}\"",
        ] {
            for own in ["203.0.113.9", "203.0.113.9:41"] {
                let value = format!("{evil}, {own}");
                let found = client("10.0.0.1:5", &[("x-forwarded-for", &value)]);
                assert_eq!(found, "203.0.113.9", "{value}");
            }
            for own in [
                "for=203.0.113.9",
                "for=\"203.0.113.9:41\";host=\"a, b\\\"c\"",
            ] {
                let value = format!("{evil}, {own}");
                let found = client("10.0.0.1:5", &[("forwarded", &value)]);
                assert_eq!(found, "203.0.113.9", "{value}");
            }
        }
    }

    #[test]
    fn the_file_says_which_field_counts() {
        let fields = [
            ("x-forwarded-for", "203.0.113.9"),
            ("forwarded", "for=198.51.100.7"),
        ];
        for (field, found) in [
            (ClientField::Either, "203.0.113.9"),
            (ClientField::XForwardedFor, "203.0.113.9"),
            (ClientField::Forwarded, "198.51.100.7"),
        ] {
            assert_eq!(client_by(field, "10.0.0.1:5", &fields), found);
            assert_eq!(client_by(field, "192.0.2.1:5", &fields), "192.0.2.1");
        }
        for (field, other) in [
            (ClientField::XForwardedFor, fields[1]),
            (ClientField::Forwarded, fields[0]),
        ] {
            assert_eq!(client_by(field, "10.0.0.1:5", &[other]), "10.0.0.1");
        }
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
        assert_eq!(forwarded("for=203.0.113.9;for=8.8.8.8"), "10.0.0.1");
        assert_eq!(forwarded("203.0.113.9"), "10.0.0.1");
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
