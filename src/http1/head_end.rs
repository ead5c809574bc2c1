//! Finds the blank line that ends the head of a message (RFC 9112 section 2.1) in any pieces.

/// Is fed the bytes of a head, and tells where the head ends.
#[derive(Debug, Default, Clone, Copy)]
pub struct HeadEnd {
    /// How many line feeds came in a row. A carriage return before one is skipped.
    line_feeds: u8,
}

impl HeadEnd {
    /// Returns the index after the blank line if that is in `bytes`, and then starts again.
    pub fn feed(&mut self, bytes: &[u8]) -> Option<usize> {
        for (index, byte) in bytes.iter().enumerate() {
            match byte {
                b'\n' => self.line_feeds += 1,
                b'\r' => {}
                _ => self.line_feeds = 0,
            }
            if self.line_feeds == 2 {
                self.line_feeds = 0;
                return Some(index + 1);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_blank_line_is_found_wherever_the_bytes_are_cut() {
        let head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let mut bytes = head.to_vec();
        bytes.extend(b"\x81\x00");
        for cut in 0..bytes.len() {
            let mut end = HeadEnd::default();
            let found = end
                .feed(&bytes[..cut])
                .or_else(|| end.feed(&bytes[cut..]).map(|index| index + cut));
            assert_eq!(found, Some(head.len()), "cut at {cut}");
        }
    }

    #[test]
    fn bare_line_feeds_end_a_head_too_as_pingora_parses_them() {
        assert_eq!(
            HeadEnd::default().feed(b"GET / HTTP/1.1\nHost: a\n\nrest"),
            Some(24)
        );
    }
}
