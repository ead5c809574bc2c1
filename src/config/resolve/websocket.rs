//! Limits of WebSocket sessions, and the origins that may open them.

use std::num::NonZeroU32;
use std::time::Duration;

use super::Errors;
use crate::config::file::cursor::Cursor;
use crate::config::schema::raw;
use crate::config::schema::units::{OffOr, OptionalPeriod, OptionalSize};
use crate::config::{OriginPattern, WebSocket};
use crate::limits::Bounds;

/// More than a machine can handle.
const RATE_MAX: u32 = 1_000_000;

const IDLE: Duration = Duration::from_secs(60 * 60);

/// The inner `None`: upgrades are refused.
pub fn websocket(
    raw: Option<OffOr<raw::WebSocket>>,
    at: Cursor<'_>,
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
    for (key, rate) in [
        ("handshakes_per_second", raw.handshakes_per_second),
        ("messages_per_second", raw.messages_per_second),
    ] {
        if rate > Some(RATE_MAX) {
            let error = at
                .key(key)
                .error(format!("\"{key}\" is more than {RATE_MAX}"));
            errors.push(error.hint("0 sets no limit"));
        }
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
        messages_per_second: raw.messages_per_second.and_then(NonZeroU32::new),
    }))
}

fn origins(list: Vec<String>, at: Cursor<'_>, errors: &mut Errors) -> Option<Vec<OriginPattern>> {
    if list.is_empty() && !at.damaged() {
        errors.push(
            at.error("\"origins\" is empty: no browser could open a session")
                .hint("list some, or leave the key out for any origin"),
        );
    }
    let mut origins = Vec::new();
    for (i, text) in list.iter().enumerate() {
        let origin = pattern(text);
        if origin.is_none() {
            let hint = match text.as_str() {
                "*" => "leave the key out for any origin",
                "" => "write none for who sends no Origin, null for who sends that word",
                text if text.contains('*') => {
                    "a * stands for the first labels of a name, as in https://*.example.com"
                }
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

fn pattern(text: &str) -> Option<OriginPattern> {
    match text.to_ascii_lowercase().as_str() {
        "none" => return Some(OriginPattern::Absent),
        // The origin that browsers send for documents without one, and that Electron sends for
        // files.
        word @ ("null" | "file://") => return Some(OriginPattern::Exact(word.to_owned())),
        _ => {}
    }
    let Some((scheme, below)) = text.split_once("://*.") else {
        return origin(text).map(OriginPattern::Exact);
    };
    let parent = origin(&format!("{scheme}://{below}"))?;
    let (scheme, suffix) = parent.split_once("://")?;
    // An address has no subdomains.
    (!suffix.starts_with('[')).then(|| OriginPattern::Below {
        scheme: format!("{scheme}://"),
        suffix: format!(".{suffix}"),
    })
}

/// In the form that browsers send (RFC 6454, section 6.2): lower case, without the default port.
fn origin(text: &str) -> Option<String> {
    let origin = text.to_ascii_lowercase();
    let (scheme, authority) = origin.split_once("://")?;
    let scheme_is_valid = scheme.starts_with(|c: char| c.is_ascii_lowercase())
        && scheme
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    let authority: http::uri::Authority = authority.parse().ok()?;
    let host = authority.host();
    let host_is_valid = !host.is_empty()
        && host
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-._[]:".contains(&byte));
    // Only a port may follow the host of an authority, and no user may stand before it.
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
    fn words_and_names_below_another_are_patterns() {
        let exact = |text: &str| Some(OriginPattern::Exact(text.to_owned()));
        assert_eq!(pattern("null"), exact("null"));
        assert_eq!(pattern("File://"), exact("file://"));
        assert_eq!(pattern("none"), Some(OriginPattern::Absent));
        let below = pattern("https://*.Example.com:443").unwrap();
        for (origin, matches) in [
            ("https://a.example.com", true),
            ("https://a.b.example.com", true),
            ("https://example.com", false),
            ("https://.example.com", false),
            ("https://a..example.com", false),
            ("https://evil/.example.com", false),
            ("https://a.example.com:8443", false),
            ("http://a.example.com", false),
            ("https://a.example.com.evil", false),
        ] {
            assert_eq!(below.matches(origin), matches, "{origin}");
        }
        for text in [
            "*",
            "https://*",
            "https://*.",
            "https://a.*.b",
            "https://*.*.b",
            "*://a",
        ] {
            assert_eq!(pattern(text), None, "{text}");
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
