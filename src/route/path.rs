//! The path that routes are compared with: one spelling for each place.
//!
//! `/a/../forbidden`, `//forbidden` and `/%66orbidden` all lead to `/forbidden` (RFC 3986 section
//! 6.2.2, and nginx's merging of slashes). `%2F` stays what it is: a slash that separates nothing.
//! What cannot stand in a path (RFC 3986 section 3.3) but is sent raw by some clients is encoded.

use std::borrow::Cow;

/// Borrowed, and cheap, for paths that need nothing: nearly all.
pub fn normalise(path: &str) -> Cow<'_, str> {
    let suspicious = path.contains('%')
        || path.contains("//")
        || path.contains("/.")
        || !path.bytes().all(|byte| byte.is_ascii_graphic());
    if !suspicious {
        return Cow::Borrowed(path);
    }
    let decoded = spell_out(path);
    let mut segments: Vec<&str> = Vec::new();
    let mut ends_in_slash = false;
    for segment in decoded.split('/') {
        ends_in_slash = matches!(segment, "" | "." | "..");
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            segment => segments.push(segment),
        }
    }
    let mut normal = String::with_capacity(decoded.len());
    for segment in &segments {
        normal.push('/');
        normal.push_str(segment);
    }
    if ends_in_slash || normal.is_empty() {
        normal.push('/');
    }
    Cow::Owned(normal)
}

/// `%66` is `f`; everything else that is or must be encoded is, with upper-case digits.
fn spell_out(path: &str) -> String {
    let bytes = path.as_bytes();
    let mut decoded = String::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let value = match bytes[at..] {
            [b'%', high, low, ..] => hex(high).zip(hex(low)).map(|(high, low)| high * 16 + low),
            _ => None,
        };
        match value {
            Some(value) if value.is_ascii_alphanumeric() || b"-._~".contains(&value) => {
                decoded.push(char::from(value));
                at += 3;
            }
            Some(value) => {
                encode(value, &mut decoded);
                at += 3;
            }
            None => {
                match bytes[at] {
                    byte if byte.is_ascii_graphic() => decoded.push(char::from(byte)),
                    byte => encode(byte, &mut decoded),
                }
                at += 1;
            }
        }
    }
    decoded
}

fn encode(byte: u8, out: &mut String) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let digit = |value: u8| char::from(DIGITS[usize::from(value)]);
    out.extend(['%', digit(byte >> 4), digit(byte & 15)]);
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_a_place_becomes_the_same_path() {
        for (path, normal) in [
            ("/forbidden", "/forbidden"),
            ("/x/../forbidden", "/forbidden"),
            ("//forbidden", "/forbidden"),
            ("/%66orbidden", "/forbidden"),
            ("/./forbidden/", "/forbidden/"),
            ("/x/%2e%2e/forbidden", "/forbidden"),
            ("/../../forbidden", "/forbidden"),
            ("/a/b/..", "/a/"),
            ("/a%2fb", "/a%2Fb"),
            ("/", "/"),
            ("//", "/"),
            ("/a%", "/a%"),
            ("/a%zz", "/a%zz"),
            ("/caf%c3%A9", "/caf%C3%A9"),
            ("/café", "/caf%C3%A9"),
            ("/a b", "/a%20b"),
        ] {
            assert_eq!(normalise(path), normal, "{path}");
        }
    }

    #[test]
    fn an_ordinary_path_is_not_copied() {
        assert!(matches!(normalise("/IMS_SVR/websocket"), Cow::Borrowed(_)));
    }
}
