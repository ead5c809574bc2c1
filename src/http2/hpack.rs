//! Header compression (RFC 7541), only as far as needed to find requests with a `#` in their
//! `:path`.
//!
//! h2 returns a `:path` from which `http` has cut the `#` and everything after it, so code behind
//! h2 cannot refuse it. Therefore the bytes are read a second time here. A field may be an index
//! into a table that both sides keep, so each field of each block must be followed; of its text
//! only the length and two facts are kept. A mistake here cannot refuse a client that never sends a
//! `#`, and can let pass only what h2 would let pass anyway.

use std::collections::VecDeque;
use std::sync::LazyLock;

/// The size of the table if SETTINGS do not change it (RFC 9113 section 6.5.2). Ours do not.
const TABLE_SIZE: usize = 4096;

/// The size of an entry in addition to its text (RFC 7541 section 4.1).
const ENTRY: usize = 32;

/// The block cannot be read. h2 ends the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unreadable;

/// What is known of a name or a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Text {
    length: usize,
    /// It is `:path`.
    is_path: bool,
    /// There is a `#` in it.
    has_hash: bool,
}

#[derive(Debug, Clone, Copy)]
struct Field {
    name: Text,
    value: Text,
}

impl Field {
    fn is_cut(self) -> bool {
        self.name.is_path && self.value.has_hash
    }

    fn size(self) -> usize {
        self.name.length + self.value.length + ENTRY
    }
}

/// The state from the client's blocks so far. Must be fed all of them.
#[derive(Debug)]
pub struct Decoder {
    /// The newest first.
    table: VecDeque<Field>,
    size: usize,
    most: usize,
    /// The upper limit of `most`.
    bound: usize,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new(TABLE_SIZE)
    }
}

impl Decoder {
    fn new(bound: usize) -> Self {
        Self {
            table: VecDeque::new(),
            size: 0,
            most: bound,
            bound,
        }
    }

    /// Reads one complete block. Returns whether its `:path` contains a `#`.
    pub fn read(&mut self, block: &[u8]) -> Result<bool, Unreadable> {
        let (mut rest, mut is_cut) = (block, false);
        while let Some(first) = rest.first() {
            // RFC 7541 section 6.
            let field = match first.leading_zeros() {
                0 => {
                    let index = integer(&mut rest, 7)?;
                    self.at(index)?
                }
                1 => {
                    let field = self.literal(&mut rest, 6)?;
                    self.insert(field);
                    field
                }
                2 => {
                    self.resize(integer(&mut rest, 5)?)?;
                    continue;
                }
                _ => self.literal(&mut rest, 4)?,
            };
            is_cut |= field.is_cut();
        }
        Ok(is_cut)
    }

    fn literal(&self, rest: &mut &[u8], prefix: u32) -> Result<Field, Unreadable> {
        let name = match integer(rest, prefix)? {
            0 => text(rest)?,
            index => self.at(index)?.name,
        };
        let value = text(rest)?;
        Ok(Field { name, value })
    }

    /// Values of the static table contain no `#`, and their lengths do not count.
    fn at(&self, index: usize) -> Result<Field, Unreadable> {
        let position = index.checked_sub(1).ok_or(Unreadable)?;
        match STATIC.get(position) {
            Some(name) => Ok(Field {
                name: Text::of(name.bytes()),
                value: Text::default(),
            }),
            None => self
                .table
                .get(position - STATIC.len())
                .copied()
                .ok_or(Unreadable),
        }
    }

    /// Section 4.4: an entry larger than the table empties it.
    fn insert(&mut self, field: Field) {
        self.table.push_front(field);
        self.size += field.size();
        self.evict();
    }

    fn resize(&mut self, most: usize) -> Result<(), Unreadable> {
        if most > self.bound {
            return Err(Unreadable);
        }
        self.most = most;
        self.evict();
        Ok(())
    }

    fn evict(&mut self) {
        while self.size > self.most
            && let Some(oldest) = self.table.pop_back()
        {
            self.size -= oldest.size();
        }
    }
}

impl Text {
    fn of(bytes: impl Iterator<Item = u8>) -> Self {
        const PATH: &[u8] = b":path";
        let mut text = Self {
            is_path: true,
            ..Self::default()
        };
        for byte in bytes {
            text.is_path &= PATH.get(text.length) == Some(&byte);
            text.has_hash |= byte == b'#';
            text.length += 1;
        }
        text.is_path &= text.length == PATH.len();
        text
    }
}

/// Reads an integer (section 5.1). The prefix is in the low bits of the first byte.
fn integer(rest: &mut &[u8], prefix: u32) -> Result<usize, Unreadable> {
    let full = (1 << prefix) - 1;
    let mut value = usize::from(take(rest)?) & full;
    if value < full {
        return Ok(value);
    }
    // No value here needs more than four further bytes.
    for shift in [0, 7, 14, 21] {
        let byte = take(rest)?;
        value += usize::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Unreadable)
}

fn take(rest: &mut &[u8]) -> Result<u8, Unreadable> {
    let (first, behind) = rest.split_first().ok_or(Unreadable)?;
    *rest = behind;
    Ok(*first)
}

/// Reads a string (section 5.2).
fn text(rest: &mut &[u8]) -> Result<Text, Unreadable> {
    let is_encoded = rest.first().is_some_and(|first| first & 0x80 != 0);
    let length = integer(rest, 7)?;
    let (bytes, behind) = rest.split_at_checked(length).ok_or(Unreadable)?;
    *rest = behind;
    Ok(match is_encoded {
        true => Text::of(Letters::of(bytes)),
        false => Text::of(bytes.iter().copied()),
    })
}

/// Decodes bytes in the code of appendix B. It ends at anything that is no code, such as padding.
struct Letters<'b> {
    bytes: &'b [u8],
    /// The next bit of the first byte.
    bit: u32,
}

impl<'b> Letters<'b> {
    fn of(bytes: &'b [u8]) -> Self {
        Self { bytes, bit: 0 }
    }
}

impl Iterator for Letters<'_> {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        let (mut code, mut length) = (0, 0);
        while length < LONGEST {
            let byte = self.bytes.first()?;
            code = code << 1 | u32::from(byte >> (7 - self.bit) & 1);
            length += 1;
            self.bit = (self.bit + 1) % 8;
            if self.bit == 0 {
                self.bytes = &self.bytes[1..];
            }
            let (first, symbols) = &CODES[length];
            let symbol = symbols.get(code.wrapping_sub(*first) as usize);
            if symbol.is_some() {
                return symbol.copied();
            }
        }
        None
    }
}

const LONGEST: usize = 30;

/// For each length: the first code, and the symbols in the order of their codes. The code is
/// canonical, so the lengths define it.
static CODES: LazyLock<[(u32, Vec<u8>); LONGEST + 1]> = LazyLock::new(|| {
    let mut next = 0;
    std::array::from_fn(|length| {
        next <<= 1;
        let symbols: Vec<u8> = (0..=u8::MAX)
            .filter(|symbol| usize::from(LENGTHS[usize::from(*symbol)]) == length)
            .collect();
        let first = next;
        next += symbols.len() as u32;
        (first, symbols)
    })
});

/// Appendix B: the number of bits of each byte's code.
#[rustfmt::skip]
const LENGTHS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7,
    7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21,
    23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24,
    21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
];

/// Appendix A: the names.
#[rustfmt::skip]
const STATIC: [&str; 61] = [
    ":authority", ":method", ":method", ":path", ":path", ":scheme", ":scheme", ":status",
    ":status", ":status", ":status", ":status", ":status", ":status", "accept-charset",
    "accept-encoding", "accept-language", "accept-ranges", "accept", "access-control-allow-origin",
    "age", "allow", "authorization", "cache-control", "content-disposition", "content-encoding",
    "content-language", "content-length", "content-location", "content-range", "content-type",
    "cookie", "date", "etag", "expect", "expires", "from", "host", "if-match", "if-modified-since",
    "if-none-match", "if-range", "if-unmodified-since", "last-modified", "link", "location",
    "max-forwards", "proxy-authenticate", "proxy-authorization", "range", "referer", "refresh",
    "retry-after", "server", "set-cookie", "strict-transport-security", "transfer-encoding",
    "user-agent", "vary", "via", "www-authenticate",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let digits = hex.as_bytes().chunks(2);
        let pairs = digits.map(|pair| std::str::from_utf8(pair).unwrap());
        pairs
            .map(|pair| u8::from_str_radix(pair, 16).unwrap())
            .collect()
    }

    /// Appendices C.3, C.4 and C.6, with the sizes of the table that they name.
    #[test]
    fn the_table_is_that_of_the_rfcs_examples() {
        let plain = [
            ("828684410f7777772e6578616d706c652e636f6d", 57),
            ("828684be58086e6f2d6361636865", 110),
            (
                "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
                164,
            ),
        ];
        let encoded = [
            ("828684418cf1e3c2e5f23a6ba0ab90f4ff", 57),
            ("828684be5886a8eb10649cbf", 110),
            ("828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf", 164),
        ];
        let evicting = [
            (
                "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad17\
                 1863c78f0b97c8e9ae82ae43d3",
                222,
            ),
            ("4883640effc1c0bf", 222),
            (
                "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6\
                 c7b335dfdfcd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
                215,
            ),
        ];
        for (bound, examples) in [(4096, plain), (4096, encoded), (256, evicting)] {
            let mut decoder = Decoder::new(bound);
            for (block, size) in examples {
                assert_eq!(decoder.read(&bytes(block)), Ok(false), "{block}");
                assert_eq!(decoder.size, size, "{block}");
            }
        }
    }

    #[test]
    fn a_hash_is_found_however_the_path_is_written() {
        let mut decoder = Decoder::default();
        // The name by its index and in full, the value as it is.
        assert_eq!(decoder.read(b"\x04\x04/a#b"), Ok(true));
        assert_eq!(decoder.read(b"\x00\x05:path\x04/a#b"), Ok(true));
        // Encoded: `/` is 011000, `#` is 111111111010, and then the padding.
        assert_eq!(decoder.read(&[0x04, 0x83, 0x63, 0xFE, 0xBF]), Ok(true));
        // Kept in the table, and asked for again, behind another entry too.
        assert_eq!(decoder.read(b"\x44\x04/a#b"), Ok(true));
        assert_eq!(decoder.read(b"\xBE"), Ok(true));
        assert_eq!(decoder.read(b"\x40\x01a\x01#"), Ok(false));
        assert_eq!(decoder.read(b"\xBE"), Ok(false));
        assert_eq!(decoder.read(b"\xBF"), Ok(true));
        // A table that is made smaller forgets.
        assert_eq!(decoder.read(b"\x20\x84"), Ok(false));
        assert_eq!(decoder.read(b"\xBE"), Err(Unreadable));
        // Elsewhere it is no fragment.
        assert_eq!(decoder.read(b"\x00\x01p\x04/a#b"), Ok(false));
        assert_eq!(decoder.read(b"\x04\x04/a%b"), Ok(false));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_to_an_end(blocks: Vec<Vec<u8>>) {
            let mut decoder = Decoder::default();
            for block in blocks {
                let _ = decoder.read(&block);
                proptest::prop_assert!(decoder.size <= TABLE_SIZE);
                let sum: usize = decoder.table.iter().map(|field| field.size()).sum();
                proptest::prop_assert_eq!(sum, decoder.size);
            }
        }
    }
}
