//! Reads WebSocket frame headers (RFC 6455 section 5.2) out of a passing byte stream.
//!
//! Nothing is copied or unmasked: payloads are skipped by their length. A scanner knows the
//! messages that began, the code of the first Close frame, whether the stream stands at a frame
//! boundary, where a frame of our own may be put in, and when the framing is broken.

use serde::{Deserialize, Serialize};

/// Who sends the frames of a stream: clients mask theirs, servers don't (RFC 6455 section 5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sender {
    Client,
    Server,
}

/// Follows one direction of a session. Feed it every byte, in order, in pieces of any size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrameScanner {
    sender: Sender,
    /// With an extension, the reserved bits and opcodes may mean something.
    extended: bool,
    /// The header bytes seen so far: at most 2 + 8 + 4.
    header: [u8; HEADER_MAX],
    header_len: u8,
    payload_left: u64,
    /// A message has begun whose last fragment is yet to come.
    fragmented: bool,
    /// The Close frame's first two payload bytes, as they pass (they may come apart).
    close: ClosePayload,
    messages: u64,
    pongs: u64,
    /// Frames that are no pongs.
    others: u64,
    close_code: Option<CloseCode>,
    /// Framing was broken: nothing more can be known of this stream.
    broken: bool,
}

/// The status that a Close frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CloseCode {
    /// A Close frame without a payload (RFC 6455 calls it 1005).
    Absent,
    Code(u16),
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum ClosePayload {
    #[default]
    None,
    /// Inside a Close frame; holds the first byte once it is there.
    Reading { mask: [u8; 2], first: Option<u8> },
}

/// What became of the bytes that were fed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fed {
    /// How many of them belong to frames whose headers are whole and sound. The others are the
    /// beginning of a header, which is held (see [`FrameScanner::held`]), or broken.
    pub sound: usize,
}

const HEADER_MAX: usize = 14;

const CONTINUATION: u8 = 0x0;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xA;

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
const MASKED: u8 = 0x80;

impl FrameScanner {
    /// `extended`: the handshake agreed on an extension.
    pub fn new(sender: Sender, extended: bool) -> Self {
        Self {
            sender,
            extended,
            header: [0; HEADER_MAX],
            header_len: 0,
            payload_left: 0,
            fragmented: false,
            close: ClosePayload::None,
            messages: 0,
            pongs: 0,
            others: 0,
            close_code: None,
            broken: false,
        }
    }

    /// Takes in the next bytes of the stream, up to where it is broken.
    pub fn feed(&mut self, bytes: &[u8]) -> Fed {
        let mut rest = bytes;
        let mut sound = 0;
        while !rest.is_empty() && !self.broken {
            rest = if self.payload_left > 0 {
                self.skip_payload(rest)
            } else {
                self.read_header(rest)
            };
            if self.header_len == 0 && !self.broken {
                sound = bytes.len() - rest.len();
            }
        }
        Fed { sound }
    }

    /// The first bytes of a header whose others are yet to come.
    pub fn held(&self) -> &[u8] {
        &self.header[..usize::from(self.header_len)]
    }

    /// Whether all that was fed were whole frames: one of our own may be put in here.
    pub fn at_boundary(&self) -> bool {
        self.payload_left == 0 && self.header_len == 0 && !self.broken
    }

    /// Whether the last frame that was sound has passed in full. Who passes on no header before
    /// all of it is there, and sound, may put a frame in here.
    pub fn between_frames(&self) -> bool {
        self.payload_left == 0
    }

    /// How many bytes the frame that is passing has left.
    pub fn payload_left(&self) -> u64 {
        self.payload_left
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

    pub fn pongs(&self) -> u64 {
        self.pongs
    }

    /// Frames that are no pongs.
    pub fn others(&self) -> u64 {
        self.others
    }

    /// The first Close frame, once it is known.
    pub fn close_code(&self) -> Option<CloseCode> {
        self.close_code
    }

    /// Whether it broke the protocol: from there on nothing is known.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// Whether this is a state that feeding can lead to: one that came from elsewhere may not be.
    pub fn is_consistent(&self) -> bool {
        let len = usize::from(self.header_len);
        len <= HEADER_MAX
            && (self.broken || len < self.header_needed())
            && (self.payload_left == 0 || len == 0)
    }

    fn skip_payload<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        let skipped = (bytes.len() as u64).min(self.payload_left) as usize;
        if let ClosePayload::Reading { mask, first } = &mut self.close {
            for byte in &bytes[..skipped] {
                match first {
                    None => *first = Some(byte ^ mask[0]),
                    Some(high) => {
                        let code = u16::from_be_bytes([*high, byte ^ mask[1]]);
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
                if !self.broken {
                    self.header_len = 0;
                }
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
        let extended = match self.header[1] & !MASKED {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        2 + extended + if self.header[1] & MASKED != 0 { 4 } else { 0 }
    }

    fn begin_frame(&mut self) {
        let header = &self.header[..usize::from(self.header_len)];
        let opcode = header[0] & 0x0f;
        let (length, mask) = match header[1] & !MASKED {
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
        if !self.is_sound(opcode, length) {
            self.broken = true;
            return;
        }
        match opcode {
            PONG => self.pongs += 1,
            _ => self.others += 1,
        }
        if matches!(opcode, TEXT | BINARY) {
            self.messages += 1;
        }
        if opcode < CLOSE {
            self.fragmented = header[0] & FIN == 0;
        }
        if opcode == CLOSE {
            if length < 2 {
                self.close_code.get_or_insert(CloseCode::Absent);
            } else {
                let mask = match mask {
                    [first, second, ..] => [*first, *second],
                    _ => [0, 0],
                };
                self.close = ClosePayload::Reading { mask, first: None };
            }
        }
        self.payload_left = length;
    }

    /// What section 5 of RFC 6455 demands of a header.
    fn is_sound(&self, opcode: u8, length: u64) -> bool {
        let header = &self.header;
        let is_final = header[0] & FIN != 0;
        let is_masked = header[1] & MASKED != 0;
        let is_minimal = match header[1] & !MASKED {
            126 => length > 125,
            127 => length > 0xffff && length >> 63 == 0,
            _ => true,
        };
        let is_known = match opcode {
            CONTINUATION => self.fragmented,
            TEXT | BINARY => !self.fragmented,
            CLOSE | PING | PONG => is_final && length <= 125,
            3..=7 => self.extended,
            _ => self.extended && is_final && length <= 125,
        };
        is_known
            && is_minimal
            && is_masked == (self.sender == Sender::Client)
            && (self.extended || header[0] & RESERVED == 0)
    }
}

/// Whether an endpoint may send this close code (RFC 6455 section 7.4, and IANA's registry).
pub fn may_be_sent(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// A Close frame to a client: never masked (RFC 6455 section 5.1).
pub fn close_to_client(code: u16) -> [u8; 4] {
    let [high, low] = code.to_be_bytes();
    [FIN | CLOSE, 2, high, low]
}

/// A Close frame to a server: always masked (RFC 6455 section 5.3).
pub fn close_to_server(code: u16, mask: [u8; 4]) -> [u8; 8] {
    let [high, low] = code.to_be_bytes();
    [
        FIN | CLOSE,
        MASKED | 2,
        mask[0],
        mask[1],
        mask[2],
        mask[3],
        high ^ mask[0],
        low ^ mask[1],
    ]
}

/// A Ping frame to a client.
pub const PING_TO_CLIENT: [u8; 2] = [FIN | PING, 0];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FIRST_FRAME: usize = 2 + 4 + 5;

    /// A text of 5 bytes, a binary of 300 in two frames with a ping between, a long one, a Close.
    fn stream() -> Vec<u8> {
        let mut bytes = vec![0x81, 0x80 | 5, 9, 8, 7, 6];
        bytes.extend(b"hello");
        bytes.extend([0x02, 0x80 | 126, 0, 200, 1, 2, 3, 4]);
        bytes.extend([7; 200]);
        bytes.extend([0x89, 0x80, 1, 2, 3, 4]);
        bytes.extend([0x80, 0x80 | 100, 9, 9, 9, 9]);
        bytes.extend([8; 100]);
        bytes.extend([0x82, 0x80 | 127, 0, 0, 0, 0, 0, 1, 0x11, 0x70, 1, 1, 1, 1]);
        bytes.extend(vec![5; 70_000]);
        bytes.extend(close_to_server(4003, [0xaa, 0x55, 1, 2]));
        bytes
    }

    fn scanner() -> FrameScanner {
        FrameScanner::new(Sender::Client, false)
    }

    #[test]
    fn messages_and_close_code_are_the_same_wherever_the_stream_is_cut() {
        let bytes = stream();
        let mut whole = scanner();
        whole.feed(&bytes);
        assert_eq!(whole.messages(), 3);
        assert_eq!(whole.close_code(), Some(CloseCode::Code(4003)));
        assert!(whole.at_boundary());
        for cut in (0..400).chain(bytes.len() - 20..bytes.len()) {
            let mut scanner = scanner();
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
        let mut bytewise = scanner();
        for byte in bytes.chunks(1) {
            bytewise.feed(byte);
        }
        assert_eq!(bytewise.messages(), 3);
        assert_eq!(bytewise.close_code(), Some(CloseCode::Code(4003)));
    }

    #[test]
    fn what_is_sound_and_what_is_held_add_up_to_the_stream_however_it_is_cut() {
        let bytes = stream();
        for size in [1, 2, 3, 7, 13, 1000] {
            let mut scanner = scanner();
            let mut passed = Vec::new();
            for piece in bytes.chunks(size) {
                let held = scanner.held().to_vec();
                let Fed { sound } = scanner.feed(piece);
                if sound > 0 {
                    passed.extend(held);
                    passed.extend(&piece[..sound]);
                }
            }
            assert_eq!(passed, bytes, "pieces of {size}");
            assert!(scanner.held().is_empty());
        }
    }

    /// A frame as a client might send it: its first byte, a length, and room for the form of it.
    fn frame() -> impl Strategy<Value = Vec<u8>> {
        let length = prop_oneof![
            0..3_usize,
            0..126_usize,
            126..300_usize,
            65_530..65_600_usize
        ];
        (0..4_u8, length, any::<[u8; 4]>()).prop_map(|(kind, length, mask)| {
            let (opcode, length) = match kind {
                0 => (TEXT, length),
                1 => (BINARY, length),
                2 => (PING, length.min(125)),
                _ => (PONG, length.min(125)),
            };
            let mut bytes = vec![FIN | opcode];
            match length {
                0..126 => bytes.push(MASKED | length as u8),
                126..65_536 => {
                    bytes.push(MASKED | 126);
                    bytes.extend((length as u16).to_be_bytes());
                }
                _ => {
                    bytes.push(MASKED | 127);
                    bytes.extend((length as u64).to_be_bytes());
                }
            }
            bytes.extend(mask);
            bytes.resize(bytes.len() + length, 0x5a);
            bytes
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn any_split_of_any_stream_passes_unchanged_and_counts_right(
            frames in prop::collection::vec(frame(), 0..12),
            sizes in prop::collection::vec(1..5000_usize, 1..20),
        ) {
            let bytes = frames.concat();
            let mut scanner = scanner();
            let (mut passed, mut rest) = (Vec::new(), &bytes[..]);
            for size in sizes.iter().cycle() {
                let (piece, behind) = rest.split_at((*size).min(rest.len()));
                let held = scanner.held().to_vec();
                let Fed { sound } = scanner.feed(piece);
                if sound > 0 {
                    passed.extend(held);
                    passed.extend(&piece[..sound]);
                }
                rest = behind;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert!(passed == bytes);
            let is_message = |frame: &&Vec<u8>| frame[0] & 0x0f < CLOSE;
            prop_assert_eq!(scanner.messages() as usize, frames.iter().filter(is_message).count());
            prop_assert!(scanner.at_boundary());
            prop_assert!(scanner.is_consistent());
        }

        #[test]
        fn no_bytes_make_the_scanner_panic_or_pass_what_it_has_not_read(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
            cut in 0..300_usize,
        ) {
            for sender in [Sender::Client, Sender::Server] {
                let mut scanner = FrameScanner::new(sender, bytes.len() % 2 == 0);
                let (first, second) = bytes.split_at(cut.min(bytes.len()));
                for piece in [first, second] {
                    prop_assert!(scanner.feed(piece).sound <= piece.len());
                    prop_assert!(scanner.is_consistent());
                }
            }
        }
    }

    #[test]
    fn inside_a_frame_is_no_boundary() {
        let mut scanner = FrameScanner::new(Sender::Server, false);
        scanner.feed(&[0x81]);
        assert!(!scanner.at_boundary());
        assert!(scanner.between_frames());
        scanner.feed(&[3, b'a', b'b']);
        assert!(!scanner.at_boundary());
        assert!(!scanner.between_frames());
        scanner.feed(b"c");
        assert!(scanner.at_boundary());
    }

    #[test]
    fn what_is_left_of_a_frame_ends_at_its_boundary() {
        let bytes = stream();
        for cut in 1..FIRST_FRAME {
            let mut scanner = scanner();
            scanner.feed(&bytes[..cut]);
            assert_eq!(
                scanner.left_of_frame(&bytes[cut..]),
                FIRST_FRAME - cut,
                "{cut}"
            );
        }
        assert_eq!(scanner().left_of_frame(&bytes), 0);
    }

    #[test]
    fn a_close_without_code_is_told_from_none() {
        let mut scanner = FrameScanner::new(Sender::Server, false);
        assert_eq!(scanner.close_code(), None);
        scanner.feed(&[0x88, 0]);
        assert_eq!(scanner.close_code(), Some(CloseCode::Absent));
    }

    #[test]
    fn broken_framing_stops_the_scanner_and_is_no_boundary() {
        for broken in [
            &[0x83, 0][..],                           // an opcode that is reserved
            &[0x88, 126, 0, 200],                     // a control frame that is too long
            &[0x09, 0],                               // and one in fragments
            &[0x82, 127, 255, 0, 0, 0, 0, 0, 0, 0],   // a length with its highest bit set
            &[0x82, 126, 0, 125],                     // one that would fit into less
            &[0x82, 127, 0, 0, 0, 0, 0, 0, 255, 255], // and another
            &[0xc1, 0],                               // a reserved bit
            &[0x80, 0],                               // a continuation of nothing
            &[0x81, 0x80, 0, 0, 0, 0],                // masked, by a server
        ] {
            let mut scanner = FrameScanner::new(Sender::Server, false);
            assert_eq!(scanner.feed(&[0x82, 1, 7]).sound, 3);
            assert_eq!(scanner.feed(broken).sound, 0, "{broken:?}");
            scanner.feed(&[0x81, 0, 0x81, 0]);
            assert!(scanner.is_broken(), "{broken:?}");
            assert!(!scanner.at_boundary(), "{broken:?}");
            assert_eq!(scanner.messages(), 1, "{broken:?}");
        }
        let mut client = scanner();
        client.feed(&[0x81, 0]);
        assert!(client.is_broken(), "a client must mask");
        let mut fragments = FrameScanner::new(Sender::Server, false);
        fragments.feed(&[0x01, 0, 0x81, 0]);
        assert!(fragments.is_broken(), "a message within another");
    }

    #[test]
    fn with_an_extension_reserved_bits_and_opcodes_pass() {
        let mut scanner = FrameScanner::new(Sender::Server, true);
        assert_eq!(scanner.feed(&[0xc1, 0, 0x83, 0]).sound, 4);
        assert!(!scanner.is_broken());
    }
}
