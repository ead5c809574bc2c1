//! The forwarding headers: who asked, by which scheme, for which host.
//!
//! What a peer sends under these names passes only when it is trusted; then the lists
//! (`X-Forwarded-For`, `Forwarded`) are carried on with the peer's own address behind them, and
//! the single facts (`-Proto`, `-Host`, `-Port`) stay what the first proxy saw.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderName, HeaderValue, header};

use super::template::RequestVariables;
use super::{Fields, Trust};
use crate::config::Forwarded;

const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

static X_FORWARDED: [HeaderName; 5] = [FOR, PROTO, HOST, PORT, REAL_IP];

pub fn apply(out: &mut impl Fields, arrived: &RequestVariables<'_>, mode: Forwarded, trust: Trust) {
    if trust == Trust::Untrusted {
        for name in X_FORWARDED.iter().chain([&header::FORWARDED]) {
            if out.map().contains_key(name) {
                out.remove(name);
            }
        }
    }
    if matches!(mode, Forwarded::XForwarded | Forwarded::Both) {
        set_x_forwarded(out, arrived, trust);
    }
    if matches!(mode, Forwarded::Rfc7239 | Forwarded::Both) {
        append_forwarded(out, arrived);
    }
}

fn set_x_forwarded(out: &mut impl Fields, arrived: &RequestVariables<'_>, trust: Trust) {
    let mut list = Vec::new();
    match (trust, arrived.peer) {
        (Trust::Trusted, None) => {
            // Nothing is known of a peer on a unix socket but what it says itself.
            if let Some(said) = out.map().get(&FOR) {
                list.extend_from_slice(said.as_bytes());
            }
        }
        (Trust::Trusted, Some(_)) => arrived.append_forwarded_for(&mut list),
        (Trust::Untrusted, peer) => list.extend(peer.map(ip_text).unwrap_or_default().bytes()),
    }
    set(out, &FOR, "X-Forwarded-For", &list);
    set(
        out,
        &REAL_IP,
        "X-Real-IP",
        arrived.client.to_string().as_bytes(),
    );
    set_if_absent(out, &PROTO, "X-Forwarded-Proto", arrived.scheme.as_bytes());
    set_if_absent(out, &HOST, "X-Forwarded-Host", arrived.http_host());
    if let Some(local) = arrived.local {
        set_if_absent(
            out,
            &PORT,
            "X-Forwarded-Port",
            local.port().to_string().as_bytes(),
        );
    }
}

/// One element for this hop (RFC 7239 section 4), behind those of trusted proxies before it.
fn append_forwarded(out: &mut impl Fields, arrived: &RequestVariables<'_>) {
    let mut element = format!("for={};proto={}", node(arrived.peer), arrived.scheme);
    let host = arrived.http_host();
    if let Ok(host) = str::from_utf8(host)
        && !host.is_empty()
        && !host.contains(['"', '\\'])
    {
        element.push_str(&format!(";host={}", quoted(host)));
    }
    if let Ok(value) = HeaderValue::from_str(&element) {
        out.append(&header::FORWARDED, "Forwarded", value);
    }
}

/// The node identifier (RFC 7239 section 6): IPv6 in brackets and quotes.
fn node(peer: Option<SocketAddr>) -> String {
    match peer.map(|peer| peer.ip().to_canonical()) {
        Some(IpAddr::V4(address)) => address.to_string(),
        Some(IpAddr::V6(address)) => format!("\"[{address}]\""),
        None => "unknown".to_owned(),
    }
}

/// A value that is no token goes in quotes (RFC 9110 section 5.6.4).
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

fn ip_text(peer: SocketAddr) -> String {
    peer.ip().to_canonical().to_string()
}

fn set_if_absent(out: &mut impl Fields, name: &HeaderName, display: &str, value: &[u8]) {
    if !out.map().contains_key(name) {
        set(out, name, display, value);
    }
}

fn set(out: &mut impl Fields, name: &HeaderName, display: &str, value: &[u8]) {
    match HeaderValue::from_bytes(value) {
        Ok(value) if !value.is_empty() => out.set(name, display, value),
        _ => out.remove(name),
    }
}
