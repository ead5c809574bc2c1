//! Reads WebSocket frame headers (RFC 6455 section 5.2) out of a passing byte stream.
//!
//! Nothing is copied, unmasked or held back: payloads are skipped by their length. A scanner
//! knows the messages that began, the code of the first Close frame, and whether the stream
//! stands at a frame boundary, where a frame of our own may be put in.

/// Follows one direction of a session. Feed it every byte, in order, in pieces of any size.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct FrameScanner {
    /// The header bytes seen so far: at most 2 + 8 + 4.
    header: [u8; 14],
    header_len: u8,
    payload_left: u64,
    /// The Close frame's first two payload bytes, as they pass (they may come apart).
    close: ClosePayload,
    mask_at: u8,
    messages: u64,
    close_code: Option<CloseCode>,
    /// Framing was broken: nothing more can be known of this stream.
    broken: bool,
}

/// The status that a Close frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseCode {
    /// A Close frame without a payload (RFC 6455 calls it 1005).
    Absent,
    Code(u16),
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum ClosePayload {
    #[default]
    None,
    /// Inside a Close frame; holds the first byte once it is there.
    Reading { mask: [u8; 4], first: Option<u8> },
}

const CONTINUATION: u8 = 0x0;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;

impl FrameScanner {
    /// Takes in the next bytes of the stream.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.broken {
            if self.payload_left > 0 {
                bytes = self.skip_payload(bytes);
            } else {
                bytes = self.read_header(bytes);
            }
        }
    }

    /// Whether a whole frame of our own may be put in here without breaking another.
    pub fn at_boundary(&self) -> bool {
        self.payload_left == 0 && self.header_len == 0 && !self.broken
    }

    /// How many of these bytes, which come next, belong to the frame that is passing.
    pub fn left_of_frame(&self, bytes: &[u8]) -> usize {
        let mut ahead = self.clone();
        let mut rest = bytes;
        while !ahead.at_boundary() && !ahead.broken && !rest.is_empty() {
            rest = if ahead.payload_left > 0 {
                ahead.skip_payload(rest)
            } else {
                ahead.read_header(rest)
            };
        }
        bytes.len() - rest.len()
    }

    /// Messages that have begun (data frames that are no continuations).
    pub fn messages(&self) -> u64 {
        self.messages
    }

    /// The first Close frame, once it is known.
    pub fn close_code(&self) -> Option<CloseCode> {
        self.close_code
    }

    fn skip_payload<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        let skipped = (bytes.len() as u64).min(self.payload_left) as usize;
        if let ClosePayload::Reading { mask, first } = &mut self.close {
            for byte in &bytes[..skipped] {
                let byte = byte ^ mask[usize::from(self.mask_at % 4)];
                self.mask_at += 1;
                match first {
                    None => *first = Some(byte),
                    Some(high) => {
                        let code = u16::from_be_bytes([*high, byte]);
                        self.close_code.get_or_insert(CloseCode::Code(code));
                        self.close = ClosePayload::None;
                        break;
                    }
                }
            }
        }
        self.payload_left -= skipped as u64;
        &bytes[skipped..]
    }

    fn read_header<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        let mut rest = bytes;
        while let [byte, tail @ ..] = rest {
            self.header[usize::from(self.header_len)] = *byte;
            self.header_len += 1;
            rest = tail;
            if usize::from(self.header_len) == self.header_needed() {
                self.begin_frame();
                self.header_len = 0;
                break;
            }
        }
        rest
    }

    /// How long this header is, by the bytes of it that are there.
    fn header_needed(&self) -> usize {
        if self.header_len < 2 {
            return 2;
        }
        let extended = match self.header[1] & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        2 + extended + if self.header[1] & 0x80 != 0 { 4 } else { 0 }
    }

    fn begin_frame(&mut self) {
        let header = &self.header[..usize::from(self.header_len)];
        let opcode = header[0] & 0x0f;
        let (length, mask) = match header[1] & 0x7f {
            126 => (
                u64::from(u16::from_be_bytes([header[2], header[3]])),
                &header[4..],
            ),
            127 => {
                let mut length = [0; 8];
                length.copy_from_slice(&header[2..10]);
                (u64::from_be_bytes(length), &header[10..])
            }
            short => (u64::from(short), &header[2..]),
        };
        let is_control = opcode & 0x8 != 0;
        let is_known = matches!(opcode, CONTINUATION | TEXT | BINARY | CLOSE..=0xA);
        if !is_known || length >> 63 != 0 || (is_control && (length > 125 || header[0] & 0x80 == 0))
        {
            self.broken = true;
            return;
        }
        if matches!(opcode, TEXT | BINARY) {
            self.messages += 1;
        }
        if opcode == CLOSE {
            if length < 2 {
                self.close_code.get_or_insert(CloseCode::Absent);
            } else {
                let mut key = [0; 4];
                key[..mask.len()].copy_from_slice(mask);
                self.mask_at = 0;
                self.close = ClosePayload::Reading {
                    mask: key,
                    first: None,
                };
            }
        }
        self.payload_left = length;
    }
}

/// Whether an endpoint may send this close code (RFC 6455 section 7.4, and IANA's registry).
pub fn may_be_sent(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// A Close frame to a client: never masked (RFC 6455 section 5.1).
pub fn close_to_client(code: u16) -> [u8; 4] {
    let [high, low] = code.to_be_bytes();
    [0x80 | CLOSE, 2, high, low]
}

/// A Close frame to a server: always masked (RFC 6455 section 5.3).
pub fn close_to_server(code: u16, mask: [u8; 4]) -> [u8; 8] {
    let [high, low] = code.to_be_bytes();
    [
        0x80 | CLOSE,
        0x80 | 2,
        mask[0],
        mask[1],
        mask[2],
        mask[3],
        high ^ mask[0],
        low ^ mask[1],
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A text of 5 bytes, a masked binary of 300 in two frames with a ping between, a long one.
    fn stream() -> Vec<u8> {
        let mut bytes = vec![0x81, 5];
        bytes.extend(b"hello");
        bytes.extend([0x02, 0x80 | 126, 0, 200, 1, 2, 3, 4]);
        bytes.extend([7; 200]);
        bytes.extend([0x89, 4, 1, 2, 3, 4]);
        bytes.extend([0x80, 0x80 | 100, 9, 9, 9, 9]);
        bytes.extend([8; 100]);
        bytes.extend([0x82, 127, 0, 0, 0, 0, 0, 1, 0x11, 0x70]);
        bytes.extend(vec![5; 70_000]);
        bytes.extend(close_to_server(4003, [0xaa, 0x55, 1, 2]));
        bytes
    }

    #[test]
    fn messages_and_close_code_are_the_same_wherever_the_stream_is_cut() {
        let bytes = stream();
        let mut whole = FrameScanner::default();
        whole.feed(&bytes);
        assert_eq!(whole.messages(), 3);
        assert_eq!(whole.close_code(), Some(CloseCode::Code(4003)));
        assert!(whole.at_boundary());
        for cut in (0..400).chain(bytes.len() - 20..bytes.len()) {
            let mut scanner = FrameScanner::default();
            scanner.feed(&bytes[..cut]);
            scanner.feed(&bytes[cut..]);
            assert_eq!(scanner.messages(), 3, "cut at {cut}");
            assert_eq!(
                scanner.close_code(),
                Some(CloseCode::Code(4003)),
                "cut at {cut}"
            );
            assert!(scanner.at_boundary(), "cut at {cut}");
        }
        let mut bytewise = FrameScanner::default();
        bytes.chunks(1).for_each(|byte| bytewise.feed(byte));
        assert_eq!(bytewise.messages(), 3);
        assert_eq!(bytewise.close_code(), Some(CloseCode::Code(4003)));
    }

    #[test]
    fn inside_a_frame_is_no_boundary() {
        let mut scanner = FrameScanner::default();
        scanner.feed(&[0x81]);
        assert!(!scanner.at_boundary());
        scanner.feed(&[3, b'a', b'b']);
        assert!(!scanner.at_boundary());
        scanner.feed(b"c");
        assert!(scanner.at_boundary());
    }

    #[test]
    fn what_is_left_of_a_frame_ends_at_its_boundary() {
        let bytes = stream();
        let first_frame = 7;
        for cut in 1..first_frame {
            let mut scanner = FrameScanner::default();
            scanner.feed(&bytes[..cut]);
            assert_eq!(
                scanner.left_of_frame(&bytes[cut..]),
                first_frame - cut,
                "{cut}"
            );
        }
        assert_eq!(FrameScanner::default().left_of_frame(&bytes), 0);
    }

    #[test]
    fn a_close_without_code_is_told_from_none() {
        let mut scanner = FrameScanner::default();
        assert_eq!(scanner.close_code(), None);
        scanner.feed(&[0x88, 0]);
        assert_eq!(scanner.close_code(), Some(CloseCode::Absent));
    }

    #[test]
    fn broken_framing_stops_the_scanner_and_is_no_boundary() {
        for broken in [
            &[0x83, 0][..],
            &[0x88, 126, 0, 200],
            &[0x09, 0],
            &[0x82, 127, 255, 0, 0, 0, 0, 0, 0, 0],
        ] {
            let mut scanner = FrameScanner::default();
            scanner.feed(broken);
            scanner.feed(&[0x81, 0, 0x81, 0]);
            assert!(!scanner.at_boundary(), "{broken:?}");
            assert_eq!(scanner.messages(), 0, "{broken:?}");
        }
    }
}
