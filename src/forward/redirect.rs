//! The `Location` of a redirection, from the operator's template and values that a client sent.

use percent_encoding::percent_encode_byte;

/// Makes a URI reference (RFC 3986 section 4.1) from the rendered template `written`, which leads
/// where the operator meant.
///
/// A reference that begins with two slashes names another host. If the operator has not written the
/// two slashes, a client has (`//evil.example/`), and only one is kept. Browsers read `\` as a
/// slash, and drop control bytes. Bytes that are not allowed in a URI are encoded.
pub fn location(rendered: &[u8], written: &str) -> Vec<u8> {
    let is_slash = |byte: &u8| matches!(byte, b'/' | b'\\');
    let is_ours = written.starts_with("//");
    let slashes = rendered.iter().take_while(|byte| is_slash(byte)).count();
    let rest = match slashes {
        2.. if !is_ours => &rendered[slashes - 1..],
        _ => rendered,
    };
    let mut location = Vec::with_capacity(rest.len() + 16);
    for (at, &byte) in rest.iter().enumerate() {
        match byte {
            b'\\' if at == 0 => location.push(b'/'),
            b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}' | ..=b' ' | 0x7f.. => {
                location.extend(percent_encode_byte(byte).bytes());
            }
            byte => location.push(byte),
        }
    }
    location
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(rendered: &str, written: &str) -> String {
        String::from_utf8(location(rendered.as_bytes(), written)).unwrap()
    }

    #[test]
    fn a_client_cannot_make_another_host_of_a_path() {
        for (rendered, location) in [
            ("//evil.example/", "/evil.example/"),
            ("/\\evil.example", "/evil.example"),
            ("\\\\evil.example", "/evil.example"),
            ("///evil", "/evil"),
            ("/a//b", "/a//b"),
            ("https://a//b", "https://a//b"),
        ] {
            assert_eq!(of(rendered, "$request_uri"), location);
        }
        assert_eq!(
            of("//cdn.example/x", "//cdn.example$uri"),
            "//cdn.example/x"
        );
    }

    #[test]
    fn what_no_uri_holds_is_encoded() {
        assert_eq!(
            of("/a b\r\n\"<\u{e9}>\\%20?x=\t", "$uri"),
            "/a%20b%0D%0A%22%3C%C3%A9%3E%5C%20?x=%09"
        );
    }
}
