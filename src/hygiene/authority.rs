//! The host that a request is for: `Host`, or the authority of an absolute target.

/// A name or an address, and perhaps a port (RFC 9110 section 7.2).
///
/// Narrower than RFC 3986: of a registered name's `sub-delims` and escapes none is in a name that
/// resolves, and each is read in another way by somebody (`,` as a list, `@` and `%40` as userinfo).
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
                [b':', port @ ..] => return is_port(port),
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
    is_name && port.is_none_or(is_port)
}

fn is_port(port: &[u8]) -> bool {
    let number = str::from_utf8(port).ok().filter(|port| {
        port.len() <= 5 && !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit())
    });
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
        ] {
            assert!(is_sound(host.as_bytes()), "{host}");
        }
    }

    #[test]
    fn everything_else_is_not() {
        for host in [
            "",
            ":80",
            "a:",
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
            "[::1]:",
            "::1",
            "[v1.x]",
            "[::1%25eth0]",
            "http://a",
        ] {
            assert!(!is_sound(host.as_bytes()), "{host:?}");
        }
    }
}
