//! The target of a request: its forms (RFC 9112 section 3.2) and the bytes in it.

use percent_encoding::percent_encode_byte;
use std::ops::Range;

use crate::http1::Rejection;
use crate::http1::authority;

/// The range of the authority in a target in absolute form. `None`: origin or asterisk form.
pub fn authority_of(method: &[u8], target: &[u8]) -> Result<Option<Range<usize>>, Rejection> {
    let (authority, path_and_query) = match target {
        [b'/', ..] => (None, target),
        b"*" if method == b"OPTIONS" => return Ok(None),
        _ => {
            let Some(start) = scheme_length(target) else {
                return Err(Rejection::bad(
                    "the target is neither a path nor a URI of http, https, ws or wss",
                ));
            };
            let end = target[start..]
                .iter()
                .position(|byte| matches!(byte, b'/' | b'?'))
                .map_or(target.len(), |length| start + length);
            if !authority::is_sound(&target[start..end]) {
                return Err(Rejection::bad("the target names no host that can be"));
            }
            (Some(start..end), &target[end..])
        }
    };
    let query = path_and_query
        .iter()
        .position(|byte| *byte == b'?')
        .unwrap_or(path_and_query.len());
    check_path(&path_and_query[..query])?;
    if !path_and_query[query..]
        .iter()
        .all(|byte| is_in_query(*byte))
    {
        return Err(Rejection::bad("the query holds a byte that no URI has"));
    }
    Ok(authority)
}

fn scheme_length(target: &[u8]) -> Option<usize> {
    [&b"http://"[..], b"https://", b"ws://", b"wss://"]
        .into_iter()
        .map(|scheme| (scheme, scheme.len()))
        .find(|(scheme, length)| {
            target
                .get(..*length)
                .is_some_and(|start| start.eq_ignore_ascii_case(scheme))
        })
        .map(|(_, length)| length)
}

/// The default port of the scheme of a target in absolute form.
pub fn default_port(target: &[u8]) -> u16 {
    let is_secure = [&b"https:"[..], b"wss:"].into_iter().any(|scheme| {
        target
            .get(..scheme.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(scheme))
    });
    if is_secure { 443 } else { 80 }
}

/// Whether Pingora's parser would refuse this target, with an answer that is not logged.
pub fn is_odd(target: &[u8]) -> bool {
    str::from_utf8(target).is_err()
        || memchr::memchr(b'?', target)
            .is_some_and(|query| target[query..].iter().any(|byte| is_never_raw(*byte)))
}

/// Bytes that Pingora's URI type does not accept in a query.
fn is_never_raw(byte: u8) -> bool {
    matches!(byte, b'"' | b'<' | b'>')
}

/// Encodes an odd target so that Pingora can read it: some clients send these bytes raw.
pub fn encode_odd(target: &[u8]) -> Vec<u8> {
    let mut encoded = Vec::with_capacity(target.len() + 64);
    for &byte in target {
        match byte {
            b'"' | b'<' | b'>' | 0x80.. => encoded.extend(percent_encode_byte(byte).bytes()),
            byte => encoded.push(byte),
        }
    }
    encoded
}

/// More than RFC 3986 allows: browsers send some of these bytes raw, and everybody reads them in
/// the same way. Bytes that Pingora's URI type refuses are sent [encoded](encode_odd).
fn is_in_query(byte: u8) -> bool {
    byte > b' ' && !matches!(byte, b'#' | 0x7F)
}

/// Like [`is_in_query`], but without `\`, which some servers read as a slash, and without `<` and
/// `>`, which no browser sends in a path.
fn is_in_path(byte: u8) -> bool {
    is_in_query(byte) && !matches!(byte, b'\\' | b'`' | b'<' | b'>')
}

/// Refuses a byte or an escape by which two servers could read different paths.
fn check_path(path: &[u8]) -> Result<(), Rejection> {
    let mut at = 0;
    let mut before = 0;
    while at < path.len() {
        let byte = match path[at..] {
            [b'%', high, low, ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                at += 3;
                match digit(high) * 16 + digit(low) {
                    b'\0' | b'\r' | b'\n' => {
                        return Err(Rejection::bad("the path holds an encoded NUL or line end"));
                    }
                    byte => byte,
                }
            }
            [b'%', ..] => return Err(Rejection::bad("the path holds a % that encodes nothing")),
            [byte, ..] if is_in_path(byte) => {
                at += 1;
                byte
            }
            _ => return Err(Rejection::bad("the path holds a byte that no URI has")),
        };
        // A longer encoding of a character (RFC 3629 section 10), such as `%c0%af` for a slash.
        let is_overlong = match before {
            0xC0 | 0xC1 => matches!(byte, 0x80..=0xBF),
            0xE0 => matches!(byte, 0x80..=0x9F),
            0xF0 => matches!(byte, 0x80..=0x8F),
            _ => false,
        };
        if is_overlong {
            return Err(Rejection::bad("the path holds an overlong UTF-8 form"));
        }
        before = byte;
    }
    Ok(())
}

/// The value of a hexadecimal digit.
pub(super) fn digit(byte: u8) -> u8 {
    match byte {
        b'0'..=b'9' => byte - b'0',
        _ => (byte | 0x20) - b'a' + 10,
    }
}

#[cfg(test)]
mod tests {
    use http::uri::PathAndQuery;

    use super::*;

    fn is_sound(target: &str) -> bool {
        authority_of(b"GET", target.as_bytes()).is_ok()
    }

    #[test]
    fn what_clients_send_is_sound() {
        for target in [
            "/",
            "/IMS_SVR/websocket?userId=42",
            "/a|b/{c}/[d]/^e/caf%C3%A9/\"f\"",
            "/café?q=ü&r=%zz%&s=\\x|\"{}`",
            "/a%2Fb/%5C/;v=1/@x:y",
            "/?",
            "/?a>b&c=<d>",
            "ws://a/x",
            "WSS://a:443",
            "/a?b?c=/../%00",
            "http://a",
            "http://a:80/x?y",
            "HTTPS://a?x",
        ] {
            assert!(is_sound(target), "{target}");
        }
        assert_eq!(authority_of(b"GET", b"http://a:80/x"), Ok(Some(7..11)));
        assert_eq!(authority_of(b"OPTIONS", b"*"), Ok(None));
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_not() {
        for target in [
            "",
            "*",
            "a",
            "a/b",
            "?x",
            "@a/",
            "//u@\\",
            "ftp://a/",
            "http:/a",
            "http://",
            "http:///x",
            "http://u@a/",
            "http://a:b/",
            "wsx://a/",
            "/a\\b",
            "/a#b",
            "/?a#b",
            "/a\tb",
            "/a\u{1}",
            "/a\u{7f}",
            "/a%",
            "/a%2",
            "/a%zz",
            "/a%u002f",
            "/a%00",
            "/%0d%0aX:y",
            "/%0A",
            "/%c0%af",
            "/%C1%9C",
            "/%e0%80%af",
            "/%f0%80%80%af",
            "/a<b",
            "/a`b",
        ] {
            assert!(!is_sound(target), "{target:?}");
        }
        assert!(authority_of(b"GET", b"/\xC0\xAF").is_err());
    }

    /// Pingora would refuse the rest with an answer that no log knows of.
    #[test]
    fn the_uri_type_holds_every_byte_that_is_let_through() {
        for byte in (b'!'..=b'~').map(char::from) {
            for target in [format!("/{byte}"), format!("/?{byte}")] {
                if byte != '%' && is_sound(&target) {
                    let is_held = PathAndQuery::try_from(&target).is_ok();
                    assert_ne!(is_held, is_odd(target.as_bytes()), "{target}");
                    let encoded = encode_odd(target.as_bytes());
                    assert!(PathAndQuery::try_from(&encoded[..]).is_ok(), "{target}");
                }
            }
        }
        assert!(is_odd(b"/caf\xE9"));
        assert_eq!(encode_odd(b"/caf\xE9?\"<>"), b"/caf%E9?%22%3C%3E");
    }
}
