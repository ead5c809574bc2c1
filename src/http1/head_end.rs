//! Finds the blank line that ends a message head (RFC 9112 section 2.1), however it is cut.

/// Feed it a head's bytes; it says where the head ends.
#[derive(Debug, Default, Clone, Copy)]
pub struct HeadEnd {
    /// Line feeds in a row; a carriage return before one is skipped.
    line_feeds: u8,
}

impl HeadEnd {
    /// The index behind the blank line, if it ends in `bytes`. Then it starts anew.
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
