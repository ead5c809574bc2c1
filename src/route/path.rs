//! The path that routes are compared with: one spelling for each place.
//!
//! `/a/../forbidden`, `//forbidden` and `/%66orbidden` all lead to `/forbidden` (RFC 3986 section
//! 6.2.2, and nginx's merging of slashes). `%2F` stays what it is: a slash that separates nothing.

use std::borrow::Cow;

/// Borrowed, and cheap, for paths that need nothing: nearly all.
pub fn normalise(path: &str) -> Cow<'_, str> {
    let suspicious = path.contains('%') || path.contains("//") || path.contains("/.");
    if !suspicious {
        return Cow::Borrowed(path);
    }
    let decoded = decode_unreserved(path);
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

/// `%66` is `f`; everything else that is encoded stays so, with upper-case digits.
fn decode_unreserved(path: &str) -> String {
    let bytes = path.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let value = match bytes[at..] {
            [b'%', high, low, ..] => hex(high).zip(hex(low)).map(|(high, low)| high * 16 + low),
            _ => None,
        };
        match value {
            Some(value) if value.is_ascii_alphanumeric() || b"-._~".contains(&value) => {
                decoded.push(value);
                at += 3;
            }
            Some(_) => {
                decoded.extend(bytes[at..at + 3].iter().map(u8::to_ascii_uppercase));
                at += 3;
            }
            None => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    // Only ASCII was put in and only whole escapes taken out.
    String::from_utf8_lossy(&decoded).into_owned()
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
            ("/caf%C3%A9", "/caf%C3%A9"),
        ] {
            assert_eq!(normalise(path), normal, "{path}");
        }
    }

    #[test]
    fn an_ordinary_path_is_not_copied() {
        assert!(matches!(normalise("/IMS_SVR/websocket"), Cow::Borrowed(_)));
    }
}
