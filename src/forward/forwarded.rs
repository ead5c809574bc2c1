//! The forwarding headers: who has asked, with which scheme, for which host.
//!
//! What a peer sends in these fields passes only if the peer is trusted. Then the lists
//! (`X-Forwarded-For`, `Forwarded`) are extended by the peer's own address, and the single values
//! (`-Proto`, `-Host`, `-Port`) stay as the first proxy saw them. A list that the peer did not send
//! begins with the client, so that the client is not lost if the peer uses the other list. A peer
//! on a unix socket has no address, and adds nothing to an existing list.

use std::fmt::Display;
use std::io::{Cursor, Write};
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::client_address::{ClientAddress, ClientField};
use super::template::RequestVariables;
use super::{Fields, Forwarded, ForwardingOptions, Trust};

const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const FAMILY: &str = "x-forwarded-";

/// With one of [`PARTS`] behind it: what was asked for before a rewrite, by which many auth servers
/// judge. Others of these names are an application's own (`X-Original-Filename`).
const ORIGINAL: &str = "x-original-";
const PARTS: [&str; 10] = [
    "args",
    "host",
    "method",
    "path",
    "port",
    "proto",
    "query-string",
    "scheme",
    "uri",
    "url",
];

/// Other names for the URL before a rewrite.
const TARGETS: [&str; 2] = ["x-envoy-original-path", "x-rewrite-url"];

/// Other names for the client's address and its scheme. An application that trusts one of these
/// trusts whoever has sent it.
const ALIASES: [&str; 14] = [
    "cf-connecting-ip",
    "client-ip",
    "fastly-client-ip",
    "forwarded",
    "forwarded-for",
    "true-client-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-envoy-external-address",
    "x-original-forwarded-for",
    "x-originating-ip",
    "x-real-ip",
    "x-remote-addr",
    "x-url-scheme",
];

/// A fast check: most fields begin with another letter.
const fn may_begin_one(first: u8) -> bool {
    matches!(first, b'c' | b'f' | b't' | b'x')
}

const _: () = {
    let mut number = 0;
    while number < ALIASES.len() {
        assert!(may_begin_one(ALIASES[number].as_bytes()[0]));
        number += 1;
    }
    // As those of ORIGINAL and TARGETS.
    assert!(may_begin_one(FAMILY.as_bytes()[0]));
};

/// Whether this is `X-Forwarded-` anything, `X-Real-IP`, `Forwarded`, or another name for these.
/// Also with other bytes in place of the dashes: many servers give `X_Real_IP` and
/// `X-Real-IP` to the application as the same variable.
pub fn is_forwarding(name: &HeaderName) -> bool {
    let name = name.as_str();
    name.bytes().next().is_some_and(may_begin_one)
        && (is_any(&ALIASES, name) || behind(FAMILY, name).is_some() || is_target(name))
}

/// Whether the field names what was asked for, before some rewrite.
pub fn names_a_target(name: &HeaderName) -> bool {
    is_target(name.as_str())
}

fn is_target(name: &str) -> bool {
    let part = behind(ORIGINAL, name);
    part.is_some_and(|part| is_any(&PARTS, part)) || is_any(&TARGETS, name)
}

/// What follows in a name that begins so.
fn behind<'n>(begin: &str, name: &'n str) -> Option<&'n str> {
    let (start, rest) = name.split_at_checked(begin.len())?;
    is(begin, start).then_some(rest)
}

fn is_any(wanted: &[&str], found: &str) -> bool {
    wanted.iter().any(|wanted| is(wanted, found))
}

/// `wanted`: in lower case, with dashes.
fn is(wanted: &str, found: &str) -> bool {
    let dashed = |byte: u8| match byte.is_ascii_alphanumeric() {
        true => byte,
        false => b'-',
    };
    found.len() == wanted.len() && found.bytes().map(dashed).eq(wanted.bytes())
}

/// Whether the first proxy says that its client uses TLS. Only to be asked of trusted peers.
pub fn is_by_tls(headers: &HeaderMap) -> bool {
    let scheme = headers.get(PROTO).map(HeaderValue::as_bytes);
    let first = scheme.and_then(|list| list.split(|byte| *byte == b',').next());
    first.is_some_and(|scheme| scheme.trim_ascii().eq_ignore_ascii_case(b"https"))
}

pub fn apply(
    out: &mut impl Fields,
    arrived: &RequestVariables<'_>,
    options: ForwardingOptions<'_>,
) {
    let ForwardingOptions {
        forwarded: mode,
        trust,
        field,
        ..
    } = options;
    if trust == Trust::Untrusted {
        let names: Vec<_> = out
            .map()
            .keys()
            .filter(|name| is_forwarding(name))
            .cloned()
            .collect();
        for name in &names {
            out.remove(name);
        }
    }
    // The field that does not count may have been written by a client, not by the proxy.
    match field {
        ClientField::Either => {}
        ClientField::XForwardedFor => out.remove(&header::FORWARDED),
        ClientField::Forwarded => out.remove(&FOR),
    }
    if matches!(mode, Forwarded::XForwarded | Forwarded::Both) {
        set_x_forwarded(out, arrived, trust);
    }
    if matches!(mode, Forwarded::Rfc7239 | Forwarded::Both) {
        append_forwarded(out, arrived);
    }
}

fn set_x_forwarded(out: &mut impl Fields, arrived: &RequestVariables<'_>, trust: Trust) {
    let client = address(arrived.client);
    let mut hops = hops(arrived.client, arrived.peer);
    let list = match (trust, arrived.peer, hops.next(), hops.next()) {
        (Trust::Trusted, Some(_), ..) if out.map().contains_key(&FOR) => {
            let mut list = Vec::new();
            arrived.append_forwarded_for(&mut list);
            HeaderValue::try_from(list).ok()
        }
        (Trust::Trusted, None, ..) if out.map().contains_key(&FOR) => None,
        (_, _, None, _) => None,
        (_, _, Some(only), None) if arrived.client == ClientAddress::Ip(only) => client.clone(),
        (_, _, Some(only), None) => address(only),
        (_, _, Some(client), Some(peer)) => HeaderValue::try_from(format!("{client}, {peer}")).ok(),
    };
    if let Some(list) = list {
        set(out, &FOR, "X-Forwarded-For", Some(list));
    }
    set(out, &REAL_IP, "X-Real-IP", client);
    set_if_absent(out, &PROTO, "X-Forwarded-Proto", || {
        Some(HeaderValue::from_static(arrived.scheme))
    });
    set_if_absent(out, &HOST, "X-Forwarded-Host", || arrived.host_value());
    if let Some(local) = arrived.local {
        set_if_absent(out, &PORT, "X-Forwarded-Port", || Some(local.port().into()));
    }
}

/// Adds one element for this hop (RFC 7239 section 4) after those of trusted proxies.
fn append_forwarded(out: &mut impl Fields, arrived: &RequestVariables<'_>) {
    let is_carried_on = out.map().contains_key(header::FORWARDED);
    let mut elements = Vec::new();
    match arrived.peer {
        None if is_carried_on => return,
        Some(peer) if is_carried_on => elements.push(node(peer.ip().to_canonical())),
        peer => elements.extend(hops(arrived.client, peer).map(node)),
    }
    let own = elements.pop().unwrap_or_else(|| "for=unknown".to_owned());
    let mut own = format!("{own};proto={}", arrived.scheme);
    // A host that is not valid could look like an element of its own.
    if let Ok(host) = str::from_utf8(arrived.http_host())
        && !host.is_empty()
        && host
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-._~%:[]".contains(&byte))
    {
        own.push_str(&format!(";host={}", quoted(host)));
    }
    elements.push(own);
    if let Ok(value) = HeaderValue::from_str(&elements.join(", ")) {
        out.append(&header::FORWARDED, Bytes::from_static(b"Forwarded"), value);
    }
}

/// The client, and then the peer if it is another address.
fn hops(client: ClientAddress, peer: Option<SocketAddr>) -> impl Iterator<Item = IpAddr> {
    let client = match client {
        ClientAddress::Ip(address) => Some(address),
        ClientAddress::Unix => None,
    };
    let peer = peer
        .map(|peer| peer.ip().to_canonical())
        .filter(|peer| client != Some(*peer));
    client.into_iter().chain(peer)
}

/// The node identifier (RFC 7239 section 6). IPv6 needs brackets and quotes.
fn node(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => format!("for={address}"),
        IpAddr::V6(address) => format!("for=\"[{address}]\""),
    }
}

/// Quotes a value that is not a token (RFC 9110 section 5.6.4).
fn quoted(value: &str) -> String {
    let is_token = value
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte));
    if is_token {
        value.to_owned()
    } else {
        format!("\"{value}\"")
    }
}

fn set_if_absent(
    out: &mut impl Fields,
    name: &HeaderName,
    display: &'static str,
    value: impl FnOnce() -> Option<HeaderValue>,
) {
    if !out.map().contains_key(name) {
        set(out, name, display, value());
    }
}

fn set(
    out: &mut impl Fields,
    name: &HeaderName,
    display: &'static str,
    value: Option<HeaderValue>,
) {
    match value {
        Some(value) if !value.is_empty() => {
            out.set(name, Bytes::from_static(display.as_bytes()), value);
        }
        _ => out.remove(name),
    }
}

/// Written on the stack, because this is done for every request.
fn address(address: impl Display) -> Option<HeaderValue> {
    let mut text = Cursor::new([0; LONGEST_ADDRESS]);
    write!(text, "{address}").ok()?;
    let end = text.position() as usize;
    HeaderValue::from_bytes(&text.get_ref()[..end]).ok()
}

/// An IPv6 address with an IPv4 one in it is 45 bytes long.
const LONGEST_ADDRESS: usize = 45;
