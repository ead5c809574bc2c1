//! Text from clients that a terminal may show: in logs, tables and JSON. Characters that move a
//! cursor, set a title or change the direction of writing are made visible.

use std::io;

use serde::Serialize;
use serde_json::Serializer;
use serde_json::ser::Formatter;

/// Control characters, including those of C1 (U+009B begins commands to a terminal, like ESC `[`),
/// and characters that change lines or the direction of writing.
pub fn is_unsafe(char: char) -> bool {
    let turns = matches!(
        char,
        '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    );
    turns || char.is_control()
}

/// As in a Rust literal: `\u{9b}`.
pub fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for char in text.chars() {
        match is_unsafe(char) {
            true => safe.extend(char.escape_unicode()),
            false => safe.push(char),
        }
    }
    safe
}

/// Writes JSON with such characters escaped. Readers of the JSON get the same value.
pub fn write_json(out: impl io::Write, value: &impl Serialize) -> serde_json::Result<()> {
    value.serialize(&mut Serializer::with_formatter(out, Safe))
}

struct Safe;

impl Formatter for Safe {
    fn write_string_fragment<W>(&mut self, out: &mut W, fragment: &str) -> io::Result<()>
    where
        W: ?Sized + io::Write,
    {
        let mut rest = fragment;
        while let Some(at) = rest.find(is_unsafe) {
            let (before, from) = rest.split_at(at);
            out.write_all(before.as_bytes())?;
            let mut chars = from.chars();
            if let Some(char) = chars.next() {
                let mut units = [0; 2];
                for unit in char.encode_utf16(&mut units) {
                    write!(out, "\\u{unit:04x}")?;
                }
            }
            rest = chars.as_str();
        }
        out.write_all(rest.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_says_the_same_and_orders_a_terminal_nothing() {
        for text in [
            "A\u{9b}31mB\u{1b}[2J\u{9d}0;title\u{9c}",
            "\u{202e}txt.exe",
            "\u{7f}\u{85}\"\\\n",
            "grüße 漢字 😀",
        ] {
            let mut json = Vec::new();
            write_json(&mut json, &[text]).unwrap();
            let json = String::from_utf8(json).unwrap();
            assert!(!json.contains(is_unsafe), "{json:?}");
            let read: Vec<String> = serde_json::from_str(&json).unwrap();
            assert_eq!(read, [text]);
        }
    }

    #[test]
    fn what_is_plain_stays_as_it_is() {
        assert_eq!(escaped("grüße 漢字"), "grüße 漢字");
        assert_eq!(escaped("a\u{9b}b\r"), "a\\u{9b}b\\u{d}");
    }
}
