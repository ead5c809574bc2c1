//! The framing of a chunked body (RFC 9112 section 7.1), exactly as its grammar demands.
//!
//! Pingora reads chunks too, and writes its own to the server. But it accepts a bare line feed in
//! an extension or a trailer, which a proxy in front may read in another way, and then the two
//! disagree about where the request ends.

/// An extension is ignored, so none needs to be long (RFC 9112 section 7.1.1).
const SIZE_LINE_MAX: usize = 1024;

/// Trailers are dropped.
const TRAILERS_MAX: usize = 8 * 1024;

/// Sixteen digits could overflow when the end of the chunk is added.
const SIZE_DIGITS: u8 = 15;

/// Follows the framing through the bytes that pass, in pieces of any size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkScanner {
    at: At,
    /// While the size is read: its value. After that: how many bytes of the chunk are to come.
    size: u64,
    /// The length so far of the size line, or of all trailers.
    length: usize,
    /// How many bytes of content the chunks have had so far.
    content: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Size(u8),
    /// After the size: spaces, which only an extension may follow.
    Space,
    Extension,
    SizeEnd,
    Data,
    DataEnd,
    DataLineFeed,
    /// At the beginning of a trailer line or of the final blank line.
    Line,
    Name,
    Value,
    LineFeed,
    LastLineFeed,
    End,
}

/// A scanner's state, as it moves to another process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScannerState {
    /// The number of the [`At`], in the order of that type.
    pub position: u8,
    /// How many digits of the size were read.
    pub digits: u8,
    pub size: u64,
    pub length: u64,
    pub content: u64,
}

/// The framing of the body is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Broken;

impl Default for ChunkScanner {
    fn default() -> Self {
        Self {
            at: At::Size(0),
            size: 0,
            length: 0,
            content: 0,
        }
    }
}

impl ChunkScanner {
    pub fn is_done(&self) -> bool {
        self.at == At::End
    }

    /// How many bytes of content have passed.
    pub fn content(&self) -> u64 {
        self.content
    }

    /// How many of `bytes` belong to the body: all of them, unless the body ends among them.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<usize, Broken> {
        let mut index = 0;
        while index < bytes.len() && self.at != At::End {
            match self.data_left() {
                0 => index += self.feed_framing(&bytes[index..])?,
                remaining => {
                    let part = remaining.min(bytes.len() - index);
                    self.pass(part);
                    index += part;
                }
            }
        }
        Ok(index)
    }

    /// How many of the next bytes are content. 0: framing follows, or nothing.
    pub fn data_left(&self) -> usize {
        match self.at {
            At::Data => usize::try_from(self.size).unwrap_or(usize::MAX),
            _ => 0,
        }
    }

    /// Notes that so many bytes of content have passed, at most those that were [left].
    ///
    /// [left]: ChunkScanner::data_left
    pub fn pass(&mut self, bytes: usize) {
        self.size -= bytes as u64;
        self.content += bytes as u64;
        if self.size == 0 {
            self.at = At::DataEnd;
        }
    }

    /// How many of `bytes` are framing: up to the next content, or to the end of the body.
    pub fn feed_framing(&mut self, bytes: &[u8]) -> Result<usize, Broken> {
        let mut index = 0;
        while index < bytes.len() && !matches!(self.at, At::Data | At::End) {
            self.at = self.step(bytes[index])?;
            index += 1;
        }
        Ok(index)
    }

    /// The state, as it moves to another process.
    pub fn state(&self) -> ScannerState {
        let (position, digits) = match self.at {
            At::Size(digits) => (0, digits),
            At::Space => (1, 0),
            At::Extension => (2, 0),
            At::SizeEnd => (3, 0),
            At::Data => (4, 0),
            At::DataEnd => (5, 0),
            At::DataLineFeed => (6, 0),
            At::Line => (7, 0),
            At::Name => (8, 0),
            At::Value => (9, 0),
            At::LineFeed => (10, 0),
            At::LastLineFeed => (11, 0),
            At::End => (12, 0),
        };
        ScannerState {
            position,
            digits,
            size: self.size,
            length: self.length as u64,
            content: self.content,
        }
    }

    /// `None`: no scanner has this state.
    pub fn from_state(state: ScannerState) -> Option<Self> {
        let at = match state.position {
            0 if state.digits <= SIZE_DIGITS => At::Size(state.digits),
            1 => At::Space,
            2 => At::Extension,
            3 => At::SizeEnd,
            4 if state.size > 0 => At::Data,
            5 => At::DataEnd,
            6 => At::DataLineFeed,
            7 => At::Line,
            8 => At::Name,
            9 => At::Value,
            10 => At::LineFeed,
            11 => At::LastLineFeed,
            12 => At::End,
            _ => return None,
        };
        // As large as fifteen digits can make it.
        let is_possible = state.size < 1 << (4 * u32::from(SIZE_DIGITS));
        is_possible.then_some(Self {
            at,
            size: state.size,
            length: usize::try_from(state.length).unwrap_or(usize::MAX / 2),
            content: state.content,
        })
    }

    fn step(&mut self, byte: u8) -> Result<At, Broken> {
        self.length += 1;
        let limit = match self.at {
            At::Size(_) | At::Space | At::Extension => SIZE_LINE_MAX,
            _ => TRAILERS_MAX,
        };
        if self.length > limit {
            return Err(Broken);
        }
        Ok(match (self.at, byte) {
            (At::Size(digits @ 0..SIZE_DIGITS), b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                self.size = self.size * 16 + u64::from(super::target::digit(byte));
                At::Size(digits + 1)
            }
            (At::Size(1..) | At::Space, b';') => At::Extension,
            (At::Size(1..) | At::Space, b' ' | b'\t') => At::Space,
            (At::Size(1..) | At::Extension, b'\r') => At::SizeEnd,
            (At::Extension, byte) if !super::is_control(byte) => At::Extension,
            (At::SizeEnd, b'\n') => {
                self.length = 0;
                match self.size {
                    0 => At::Line,
                    _ => At::Data,
                }
            }
            (At::DataEnd, b'\r') => At::DataLineFeed,
            (At::DataLineFeed, b'\n') => {
                self.length = 0;
                At::Size(0)
            }
            (At::Line, b'\r') => At::LastLineFeed,
            (At::Line | At::Name, byte) if super::is_token_byte(byte) => At::Name,
            (At::Name, b':') => At::Value,
            (At::Value, b'\r') => At::LineFeed,
            (At::Value, byte) if !super::is_control(byte) => At::Value,
            (At::LineFeed, b'\n') => At::Line,
            (At::LastLineFeed, b'\n') => At::End,
            _ => return Err(Broken),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOUND: &[&str] = &[
        "0\r\n\r\n",
        "5\r\nhello\r\n0\r\n\r\n",
        "000a;name=\"value\";b\r\n0123456789\r\n0 ; x\r\n\r\n",
        "2\r\n\r\n\r\n0\r\nX-Sum: 1\r\nEmpty:\r\n\r\n",
    ];

    #[test]
    fn a_sound_body_is_followed_to_its_end_however_it_is_cut() {
        for body in SOUND {
            let whole = format!("{body}GET /");
            for cut in 0..whole.len() {
                let mut scanner = ChunkScanner::default();
                let (first, rest) = whole.as_bytes().split_at(cut);
                let taken = scanner.feed(first).unwrap();
                let taken = taken + scanner.feed(rest).unwrap();
                assert!(scanner.is_done(), "{body:?} cut at {cut}");
                assert_eq!(taken, body.len(), "{body:?} cut at {cut}");
            }
        }
    }

    #[test]
    fn a_scanner_goes_on_elsewhere_from_every_byte_of_a_body() {
        for body in SOUND {
            for cut in 0..=body.len() {
                let (first, rest) = body.as_bytes().split_at(cut);
                let mut scanner = ChunkScanner::default();
                scanner.feed(first).unwrap();
                let moved = ChunkScanner::from_state(scanner.state());
                assert_eq!(moved, Some(scanner), "{body:?} cut at {cut}");
                moved.unwrap().feed(rest).unwrap();
            }
        }
        let state = ChunkScanner::default().state();
        for wrong in [
            ScannerState {
                position: 13,
                ..state
            },
            ScannerState {
                position: 4,
                ..state
            },
            ScannerState {
                digits: 16,
                ..state
            },
            ScannerState {
                size: u64::MAX,
                ..state
            },
        ] {
            assert_eq!(ChunkScanner::from_state(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_body_that_could_be_read_in_two_ways_is_broken() {
        for body in [
            "\r\n",
            " 5\r\nhello\r\n",
            "+5\r\nhello\r\n",
            "-1\r\n",
            "0x5\r\nhello\r\n",
            "5_0\r\n",
            "5 \r\nhello\r\n",
            "g\r\n",
            "5\nhello\r\n",
            "5\r\nhello\n0\r\n\r\n",
            "5\r\nhello0\r\n\r\n",
            "5\r\nhelloX\r\n0\r\n\r\n",
            "5;a\nb\r\nhello\r\n",
            "5;a\rb\r\nhello\r\n",
            "5;a\0b\r\n",
            "0\r\n\n",
            "0\n\r\n",
            "0\r\nX: 1\n\r\n",
            "0\r\nX : 1\r\n\r\n",
            "0\r\n folded\r\n\r\n",
            "0\r\n: 1\r\n\r\n",
            "0\r\nno colon\r\n\r\n",
            "0\r\n\rX",
            "10000000000000005\r\n",
            "ffffffffffffffff\r\n",
        ] {
            let mut scanner = ChunkScanner::default();
            assert_eq!(scanner.feed(body.as_bytes()), Err(Broken), "{body:?}");
        }
        let long = format!("1;{}\r\n", "a".repeat(SIZE_LINE_MAX));
        assert_eq!(ChunkScanner::default().feed(long.as_bytes()), Err(Broken));
        let many = format!("0\r\n{}", "a: b\r\n".repeat(TRAILERS_MAX));
        assert_eq!(ChunkScanner::default().feed(many.as_bytes()), Err(Broken));
    }
}
