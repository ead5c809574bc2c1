//! The path with which routes are compared and which servers get, in one spelling only.
//!
//! `/a/../forbidden`, `//forbidden` and `/%66orbidden` all mean `/forbidden` (RFC 3986 section
//! 6.2.2, and nginx's merging of slashes). `%2F` is kept: it is a slash that separates nothing.
//! Bytes that are not allowed in a path (RFC 3986 section 3.3), but that some clients send raw, are
//! encoded.
//!
//! Some servers decode a path more than the RFC does: [`lenient`] returns what such a server sees.

use percent_encoding::percent_encode_byte;
use std::borrow::Cow;

/// Borrowed, and fast, for paths that need no change, which are nearly all.
pub fn normalise(path: &(impl AsRef<[u8]> + ?Sized)) -> Cow<'_, str> {
    let bytes = path.as_ref();
    if let Ok(path) = str::from_utf8(bytes) {
        let suspicious = path.contains('%')
            || path.contains("//")
            || path.contains("/.")
            || !bytes.iter().all(u8::is_ascii_graphic);
        if !suspicious {
            return Cow::Borrowed(path);
        }
    }
    Cow::Owned(join(&spell_out(bytes), Slashes::Merged))
}

/// What happens with several slashes in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Slashes {
    /// They become one, as in nginx.
    Merged,
    /// They are kept: for some applications an empty segment has a meaning.
    Kept,
}

pub fn normalise_with(path: &str, slashes: Slashes) -> Cow<'_, str> {
    match slashes {
        Slashes::Kept if path.contains("//") => {
            Cow::Owned(join(&spell_out(path.as_bytes()), Slashes::Kept))
        }
        Slashes::Kept | Slashes::Merged => normalise(path),
    }
}

/// The path of a request in both normal forms.
#[derive(Debug)]
pub struct NormalPaths<'a> {
    merged: Cow<'a, str>,
    /// `None`: the same as the merged form.
    kept: Option<String>,
}

impl<'a> NormalPaths<'a> {
    pub fn of(path: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        let bytes = path.as_ref();
        let has_several = memchr::memmem::find(bytes, b"//").is_some();
        Self {
            merged: normalise(path),
            kept: has_several.then(|| join(&spell_out(bytes), Slashes::Kept)),
        }
    }

    /// Calls `find` for each existing form, and returns the smaller result.
    pub fn first<T: Ord>(&self, find: impl Fn(&str, Option<Slashes>) -> Option<T>) -> Option<T> {
        let Some(kept) = &self.kept else {
            return find(&self.merged, None);
        };
        let found = [
            find(&self.merged, Some(Slashes::Merged)),
            find(kept, Some(Slashes::Kept)),
        ];
        found.into_iter().flatten().min()
    }

    /// Whether a server that merges slashes later finds another path: one that leads upwards over
    /// an empty segment (`/a//../b`).
    pub fn is_ambiguous(&self) -> bool {
        let kept = self.kept.as_ref();
        kept.is_some_and(|kept| normalise(kept) != self.merged)
    }

    /// The path in one of the forms.
    pub fn take(self, slashes: Slashes) -> Cow<'a, str> {
        match (slashes, self.kept) {
            (Slashes::Kept, Some(kept)) => Cow::Owned(kept),
            _ => self.merged,
        }
    }
}

/// Joins the segments of a path and resolves dots (RFC 3986 section 5.2.4).
fn join(decoded: &str, slashes: Slashes) -> String {
    let mut segments: Vec<&str> = Vec::new();
    let mut ends_in_slash = false;
    let mut all = decoded
        .strip_prefix('/')
        .unwrap_or(decoded)
        .split('/')
        .peekable();
    while let Some(segment) = all.next() {
        let is_last = all.peek().is_none();
        ends_in_slash = matches!(segment, "" | "." | "..");
        match segment {
            "." => {}
            "" if is_last || slashes == Slashes::Merged => {}
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
    normal
}

/// Decodes `%66` to `f`. Everything else that is or must be encoded is encoded, with upper-case
/// digits.
fn spell_out(bytes: &[u8]) -> String {
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
                decoded.push_str(percent_encode_byte(value));
                at += 3;
            }
            None => {
                match bytes[at] {
                    byte if byte.is_ascii_graphic() => decoded.push(char::from(byte)),
                    byte => decoded.push_str(percent_encode_byte(byte)),
                }
                at += 1;
            }
        }
    }
    decoded
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

/// A path that leads upwards if its encoded slashes are read as slashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traversal;

/// What a server may see in a normal path if it decodes all of it, reads `%2F` and `%5C` as a
/// slash, and removes `;` and what follows from a segment. `None`: the same path.
pub fn lenient(normal: &str) -> Result<Option<String>, Traversal> {
    if !normal.contains(['%', ';']) {
        return Ok(None);
    }
    let read = decode_visible(&decode_again(normal));
    if read == normal && !read.contains(';') {
        return Ok(None);
    }
    let segments = read.split('/').map(|segment| {
        let end = segment.find(';').unwrap_or(segment.len());
        &segment[..end]
    });
    let segments: Vec<_> = segments.collect();
    if segments
        .iter()
        .any(|segment| matches!(*segment, "." | ".."))
    {
        return Err(Traversal);
    }
    Ok(Some(segments.join("/")))
}

/// Whether a segment of the path is `.` or `..` when it is spelled out.
pub(super) fn leads_upwards(path: &str) -> bool {
    has_dots(&spell_out(path.as_bytes()))
}

fn has_dots(plain: &str) -> bool {
    plain
        .split('/')
        .any(|segment| matches!(segment, "." | ".."))
}

/// The normal form of a path that was put together from parts of others. Such a path must not lead
/// upwards, as no part did.
pub(super) fn normalise_assembled(path: &str, slashes: Slashes) -> Result<String, Traversal> {
    let plain = spell_out(path.as_bytes());
    if has_dots(&plain) {
        return Err(Traversal);
    }
    let normal = join(&plain, slashes);
    lenient(&normal)?;
    Ok(normal)
}

/// Decodes what is visible: `%40` to `@`, and `%5C` to `/`. Not what ends a path, nor `%25`.
fn decode_visible(path: &str) -> String {
    let mut decoded = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        decoded.push_str(&rest[..at]);
        let digits = rest.as_bytes().get(at + 1..at + 3);
        let value = digits.and_then(|digits| Some(16 * hex(digits[0])? + hex(digits[1])?));
        let (shown, length) = match value {
            Some(b'\\') => ('/', 3),
            Some(value) if value.is_ascii_graphic() && !b"%?#".contains(&value) => {
                (char::from(value), 3)
            }
            _ => ('%', 1),
        };
        decoded.push(shown);
        rest = &rest[at + length..];
    }
    decoded.push_str(rest);
    decoded
}

/// Decodes `%252F` to `%2F`, however often the `%` was encoded.
fn decode_again(path: &str) -> String {
    let mut decoded = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        decoded.push_str(&rest[..=at]);
        rest = &rest[at + 1..];
        while let Some(behind) = rest.strip_prefix("25") {
            rest = behind;
        }
    }
    decoded.push_str(rest);
    decoded
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
            ("/a|\"{}", "/a|\"{}"),
        ] {
            assert_eq!(normalise(path), normal, "{path}");
        }
    }

    #[test]
    fn slashes_are_kept_where_they_mean_something() {
        for (path, kept) in [
            ("//", "//"),
            ("//a", "//a"),
            ("/a//b/", "/a//b/"),
            ("/a//", "/a//"),
            ("/a//../b", "/a/b"),
            ("/a/.//b", "/a//b"),
            ("/a//.", "/a//"),
            ("/x/..//%66", "//f"),
            ("/a/./b", "/a/b"),
        ] {
            let found = normalise_with(path, Slashes::Kept);
            assert_eq!(found, kept, "{path}");
            assert_eq!(normalise_with(kept, Slashes::Kept), kept, "{path}");
        }
    }

    #[test]
    fn a_path_that_is_no_utf_8_keeps_its_bytes() {
        assert_eq!(normalise(&b"/caf\xE9"[..]), "/caf%E9");
    }

    #[test]
    fn a_lenient_server_reads_other_slashes_and_no_parameters() {
        for (path, read) in [
            ("/a/b", None),
            ("/caf%C3%A9", None),
            ("/a%2Fb", Some("/a/b")),
            ("/a%5Cb", Some("/a/b")),
            ("/a%252fb%25252Fc", Some("/a/b/c")),
            ("/a;x=1/b;y", Some("/a/b")),
            ("/a%3Bx/b", Some("/a/b")),
            ("/%2566orbidden", Some("/forbidden")),
            ("/%40admin%2Cx%3D1", Some("/@admin,x=1")),
            ("/a%7Cb%3F%23%20", Some("/a|b%3F%23%20")),
            ("/%2540", Some("/@")),
            ("/a%2", None),
            ("/100%25", Some("/100%")),
        ] {
            assert_eq!(lenient(path), Ok(read.map(str::to_owned)), "{path}");
        }
        for path in [
            "/a/..%2Fb",
            "/a/..;/b",
            "/a%5C..%5Cb",
            "/%252e%252e/b",
            "/a/.;x",
        ] {
            assert_eq!(lenient(path), Err(Traversal), "{path}");
        }
    }

    #[test]
    fn an_ordinary_path_is_not_copied() {
        assert!(matches!(normalise("/IMS_SVR/websocket"), Cow::Borrowed(_)));
    }
}
