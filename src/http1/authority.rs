//! The host of a request: `Host`, or the authority of an absolute target.

/// A name or an address, and perhaps a port (RFC 9110 section 7.2).
///
/// Narrower than RFC 3986: names that resolve contain no `sub-delims` and no escapes, and some
/// programs read these in another way (`,` as a list, `@` and `%40` as user information).
pub fn is_sound(authority: &[u8]) -> bool {
    let (host, port) = match authority {
        [b'[', rest @ ..] => {
            let Some(end) = rest.iter().position(|byte| *byte == b']') else {
                return false;
            };
            let address = str::from_utf8(&rest[..end]).unwrap_or_default();
            if address.parse::<std::net::Ipv6Addr>().is_err() {
                return false;
            }
            match &rest[end + 1..] {
                [] => return true,
                [b':', port @ ..] => return is_port_or_none(port),
                _ => return false,
            }
        }
        _ => match authority.iter().position(|byte| *byte == b':') {
            Some(colon) => (&authority[..colon], Some(&authority[colon + 1..])),
            None => (authority, None),
        },
    };
    let is_name = !host.is_empty()
        && !host.starts_with(b".")
        && !host.windows(2).any(|pair| pair == b"..")
        && host
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(byte));
    is_name && port.is_none_or(is_port_or_none)
}

/// Whether two sound authorities have the same host and port (RFC 9110 section 4.2.3). Case is
/// ignored, and a missing or empty port means the scheme's default.
pub fn is_same(one: &[u8], other: &[u8], default_port: u16) -> bool {
    let ((host, port), (other_host, other_port)) = (parts(one), parts(other));
    let number = |port: &[u8]| {
        let digits = str::from_utf8(port).unwrap_or_default();
        digits.parse::<u16>().unwrap_or(default_port)
    };
    host.eq_ignore_ascii_case(other_host) && number(port) == number(other_port)
}

/// The host, and the port without its colon.
fn parts(authority: &[u8]) -> (&[u8], &[u8]) {
    match memchr::memrchr(b':', authority) {
        // A colon inside brackets belongs to the address.
        Some(colon) if !authority.ends_with(b"]") => (&authority[..colon], &authority[colon + 1..]),
        _ => (authority, b""),
    }
}

/// RFC 3986 section 3.2.3 allows a colon without a port.
fn is_port_or_none(port: &[u8]) -> bool {
    port.is_empty() || is_port(port)
}

fn is_port(port: &[u8]) -> bool {
    let number = str::from_utf8(port)
        .ok()
        .filter(|port| port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit()));
    number
        .and_then(|port| port.parse::<u16>().ok())
        .is_some_and(|port| port > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_with_and_without_ports_are_sound() {
        for host in [
            "a",
            "chat.example.com",
            "chat.example.com.",
            "under_score:8080",
            "127.0.0.1:1",
            "[::1]",
            "[2001:db8::1]:65535",
            "xn--caf-dma.example",
            "a:",
            "[::1]:",
        ] {
            assert!(is_sound(host.as_bytes()), "{host}");
        }
    }

    #[test]
    fn spellings_of_one_authority_are_the_same() {
        for (one, other, is_same) in [
            ("a", "A", true),
            ("a:80", "a", true),
            ("a:", "a:080", true),
            ("a", "a:443", false),
            ("a:81", "a", false),
            ("a", "b", false),
            ("[::1]:80", "[::1]", true),
            ("[::1]", "[::1]:81", false),
            ("[::1]", "[::2]", false),
        ] {
            let found = crate::http1::authority::is_same(one.as_bytes(), other.as_bytes(), 80);
            assert_eq!(found, is_same, "{one} and {other}");
        }
    }

    #[test]
    fn everything_else_is_not() {
        for host in [
            "",
            ":80",
            ":",
            "a::",
            "a:0",
            "a:65536",
            "a:080080",
            "a:+1",
            "a:80:80",
            "a b",
            "a,b",
            "u@a",
            "a/b",
            "a?b",
            "a#b",
            "a\\b",
            "a%40b",
            "a\tb",
            "café",
            ".a",
            "a..b",
            "[::1",
            "[::1]a",
            "[::1]::",
            "::1",
            "[v1.x]",
            "[::1%25eth0]",
            "http://a",
        ] {
            assert!(!is_sound(host.as_bytes()), "{host:?}");
        }
    }
}
