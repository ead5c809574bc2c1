//! Limits of WebSocket sessions, and the origins that may open them.

use std::num::NonZeroU32;
use std::time::Duration;

use super::Errors;
use crate::config::WebSocket;
use crate::config::at::At;
use crate::config::raw;
use crate::config::units::{OffOr, OptionalPeriod, OptionalSize};
use crate::limits::Bounds;

/// More than a machine can take.
const RATE_MAX: u32 = 1_000_000;

const IDLE: Duration = Duration::from_secs(60 * 60);

/// The inner `None`: upgrades are refused.
pub fn websocket(
    raw: Option<OffOr<raw::WebSocket>>,
    at: At<'_>,
    errors: &mut Errors,
) -> Option<Option<WebSocket>> {
    let raw = match raw {
        Some(OffOr::Off) => return Some(None),
        Some(OffOr::On(raw)) => raw,
        None => raw::WebSocket::default(),
    };
    let origins = match raw.origins {
        Some(list) => origins(list, at.key("origins"), errors),
        None => Some(Vec::new()),
    };
    if raw.handshakes_per_second > Some(RATE_MAX) {
        errors.push(
            at.key("handshakes_per_second")
                .error(format!("\"handshakes_per_second\" is more than {RATE_MAX}"))
                .hint("0 sets no limit"),
        );
    }
    Some(Some(WebSocket {
        idle: raw.idle.map_or(Some(IDLE), |OptionalPeriod(idle)| idle),
        max_session: raw.max_session.and_then(|OptionalPeriod(max)| max),
        origins: origins?,
        ping: raw.ping.and_then(|OptionalPeriod(ping)| ping),
        bounds: Bounds {
            all: raw.max_sessions.filter(|most| *most > 0),
            per_client: raw.max_sessions_per_client.filter(|most| *most > 0),
            per_second: raw.handshakes_per_second.and_then(NonZeroU32::new),
        },
        max_message: raw.max_message.and_then(|OptionalSize(size)| size),
    }))
}

fn origins(list: Vec<String>, at: At<'_>, errors: &mut Errors) -> Option<Vec<String>> {
    if list.is_empty() && !at.damaged() {
        errors.push(
            at.error("\"origins\" is empty: no browser could open a session")
                .hint("list some, or leave the key out for any origin"),
        );
    }
    let mut origins = Vec::new();
    for (i, text) in list.iter().enumerate() {
        let origin = origin(text);
        if origin.is_none() {
            let hint = match text.as_str() {
                "*" => "leave the key out for any origin",
                _ => "write scheme://host or scheme://host:port, such as https://app.example.com",
            };
            errors.push(
                at.index(i)
                    .error(format!("\"{text}\" is not an origin"))
                    .hint(hint),
            );
        }
        origins.push(origin);
    }
    origins.into_iter().collect()
}

/// As browsers send it (RFC 6454, section 6.2): in lower case, without the scheme's own port.
fn origin(text: &str) -> Option<String> {
    let origin = text.to_ascii_lowercase();
    let (scheme, authority) = origin.split_once("://")?;
    let scheme_is_valid = scheme.starts_with(|c: char| c.is_ascii_lowercase())
        && scheme
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    let authority: http::uri::Authority = authority.parse().ok()?;
    let host = authority.host();
    // Patterns are not supported: a `*` would match nothing.
    let host_is_valid = !host.is_empty()
        && host
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-._[]:".contains(&byte));
    // What follows the host of an authority is a port; nothing else may, and no user before it.
    let port = authority.as_str().strip_prefix(host)?;
    let port_is_valid = match port.strip_prefix(':') {
        Some(port) => port.parse::<u16>().is_ok_and(|port| port > 0),
        None => port.is_empty(),
    };
    if !scheme_is_valid || !host_is_valid || !port_is_valid {
        return None;
    }
    match (scheme, port) {
        ("http", ":80") | ("https", ":443") => Some(format!("{scheme}://{host}")),
        _ => Some(origin),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_written_as_browsers_send_them() {
        for (written, sent) in [
            ("https://app.example.com", "https://app.example.com"),
            (
                "HTTPS://App.Example.com:8443",
                "https://app.example.com:8443",
            ),
            ("https://app.example.com:443", "https://app.example.com"),
            ("http://[::1]:8080", "http://[::1]:8080"),
            ("capacitor://localhost", "capacitor://localhost"),
        ] {
            assert_eq!(origin(written).as_deref(), Some(sent));
        }
    }

    #[test]
    fn a_url_is_not_an_origin() {
        for text in [
            "",
            "*",
            "null",
            "app.example.com",
            "https://",
            "https://a/",
            "https://a/path",
            "https://u@a",
            "https://a:",
            "https://a:0",
            "https://a b",
            "://a",
            "https://*.a.com",
        ] {
            assert_eq!(origin(text), None, "{text}");
        }
    }
}
