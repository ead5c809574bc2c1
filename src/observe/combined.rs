//! The `combined` format of nginx and Apache, for tools that read it.
//!
//! A session has one line, at its end. Its status is 101, or 200 if it is an event stream, and its
//! bytes are those to the client.

use std::io::{self, Write};

use jiff::Timestamp;

use super::entry::{Entry, Kind};

/// Writes nothing when a session opens.
pub fn write(out: &mut Vec<u8>, entry: &Entry<'_>, now: Timestamp) -> io::Result<()> {
    if entry.kind == Kind::SessionOpen {
        return Ok(());
    }
    let time = now.strftime("%d/%b/%Y:%H:%M:%S +0000");
    write!(out, "{} - ", entry.client)?;
    escape_word(out, entry.user.unwrap_or("-"));
    write!(out, " [{time}] \"")?;
    escape(out, entry.method);
    out.push(b' ');
    escape(out, entry.path);
    write!(
        out,
        " {:?}\" {} {} \"",
        entry.version, entry.status, entry.bytes_out
    )?;
    escape(out, entry.referer.unwrap_or("-"));
    out.extend_from_slice(b"\" \"");
    escape(out, entry.user_agent.unwrap_or("-"));
    out.extend_from_slice(b"\"\n");
    Ok(())
}

/// As nginx does, so that no value can end the field or the line.
fn escape(out: &mut Vec<u8>, text: &str) {
    escape_bytes(
        out,
        text,
        |byte| matches!(byte, b'"' | b'\\' | 0..0x20 | 0x7f..),
    );
}

/// The same for a field without quotes, which a space would end.
fn escape_word(out: &mut Vec<u8>, text: &str) {
    escape_bytes(
        out,
        text,
        |byte| matches!(byte, b'"' | b'\\' | 0..=0x20 | 0x7f..),
    );
}

fn escape_bytes(out: &mut Vec<u8>, text: &str, is_escaped: impl Fn(u8) -> bool) {
    for byte in text.bytes() {
        match is_escaped(byte) {
            true => {
                // Writing to a vector cannot fail.
                let _ = write!(out, "\\x{byte:02X}");
            }
            false => out.push(byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn escaped(text: &str) -> String {
        let mut out = Vec::new();
        escape(&mut out, text);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn nothing_ends_a_field_or_a_line_that_a_client_has_sent() {
        assert_eq!(escaped("curl/8 (x; y)"), "curl/8 (x; y)");
        let mut word = Vec::new();
        escape_word(&mut word, "CN=a b");
        assert_eq!(word, b"CN=a\\x20b");
        assert_eq!(
            escaped("a\"b\\c\nd\u{7f}\u{e9}"),
            "a\\x22b\\x5Cc\\x0Ad\\x7F\\xC3\\xA9"
        );
    }
}
