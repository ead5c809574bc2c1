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
mod tests;
