//! Reads WebSocket frame headers (RFC 6455 section 5.2) in a stream of bytes that passes.
//!
//! Nothing is copied or unmasked: payloads are skipped by their length. A scanner knows how many
//! messages have begun, the code of the Close frame, whether the stream is at a frame boundary,
//! where a frame of our own may be inserted, and whether the framing is broken. The stream ends
//! with its Close frame: what follows is not read (RFC 6455 section 5.5.1).

use std::num::NonZeroU64;

/// Who sends the frames of a stream: clients mask theirs, servers do not (RFC 6455 section 5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    Client,
    Server,
}

/// Follows one direction of a session. Must be fed every byte, in order, in pieces of any size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrameScanner {
    sender: Sender,
    /// With an extension, the reserved bits and opcodes may have a meaning.
    extended: bool,
    /// The header bytes so far, at most 2 + 8 + 4. A Close frame's code is treated as a part of its
    /// header, so that a forbidden code never passes.
    header: [u8; HEADER_MAX],
    header_len: u8,
    payload_left: u64,
    /// Whether a message has begun whose last fragment has not come yet.
    fragmented: bool,
    messages: u64,
    pongs: u64,
    /// Frames other than pongs.
    others: u64,
    close_code: Option<CloseCode>,
    /// The framing was broken, so nothing more is known of this stream.
    broken: bool,
    /// The framing counts as broken because a message is larger than `max_message`.
    is_over: bool,
    /// `None`: any size.
    max_message: Option<NonZeroU64>,
    /// The size of the present message, including the frame whose header was read last.
    message_size: u64,
    /// The framing counts as broken because a message is one too many.
    is_one_too_many: bool,
}

/// The whole state of a scanner, for another process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScannerState {
    pub sender: Sender,
    pub extended: bool,
    /// The first `header_len` bytes belong to a header that is not complete yet.
    pub header: [u8; HEADER_MAX],
    pub header_len: u8,
    pub payload_left: u64,
    pub fragmented: bool,
    pub messages: u64,
    pub pongs: u64,
    pub others: u64,
    pub close_code: Option<CloseCode>,
    pub broken: bool,
    pub is_over: bool,
    pub max_message: Option<u64>,
    pub message_size: u64,
}

/// The status in a Close frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseCode {
    /// A Close frame without a payload (RFC 6455 calls it 1005).
    Absent,
    Code(u16),
}

/// The result of feeding bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fed {
    /// How many of the bytes belong to frames whose headers are whole and sound. The others are the
    /// beginning of a header, which is held back (see [`FrameScanner::held`]), or broken, or after
    /// the Close frame.
    pub sound: usize,
}

pub const HEADER_MAX: usize = 14;

const CONTINUATION: u8 = 0x0;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xA;

/// What a Close frame has room for beside its code (RFC 6455 section 5.5).
pub const REASON_MAX: usize = 123;

const OPCODE: u8 = 0x0f;
const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
const MASKED: u8 = 0x80;

impl FrameScanner {
    /// `extended`: whether the handshake agreed on an extension.
    pub fn new(sender: Sender, extended: bool) -> Self {
        Self {
            sender,
            extended,
            header: [0; HEADER_MAX],
            header_len: 0,
            payload_left: 0,
            fragmented: false,
            messages: 0,
            pongs: 0,
            others: 0,
            close_code: None,
            broken: false,
            is_over: false,
            max_message: None,
            message_size: 0,
            is_one_too_many: false,
        }
    }

    pub fn state(&self) -> ScannerState {
        ScannerState {
            sender: self.sender,
            extended: self.extended,
            header: self.header,
            header_len: self.header_len,
            payload_left: self.payload_left,
            fragmented: self.fragmented,
            messages: self.messages,
            pongs: self.pongs,
            others: self.others,
            close_code: self.close_code,
            broken: self.broken,
            is_over: self.is_over,
            max_message: self.max_message.map(NonZeroU64::get),
            message_size: self.message_size,
        }
    }

    /// `None`: no sequence of bytes leads to this state.
    pub fn from_state(state: ScannerState) -> Option<Self> {
        let scanner = Self {
            sender: state.sender,
            extended: state.extended,
            header: state.header,
            header_len: state.header_len,
            payload_left: state.payload_left,
            fragmented: state.fragmented,
            messages: state.messages,
            pongs: state.pongs,
            others: state.others,
            close_code: state.close_code,
            broken: state.broken,
            is_over: state.is_over,
            max_message: state.max_message.and_then(NonZeroU64::new),
            message_size: state.message_size,
            is_one_too_many: false,
        };
        scanner.is_consistent().then_some(scanner)
    }

    /// A larger message breaks the stream.
    pub fn set_max_message(&mut self, most: Option<u64>) {
        self.max_message = most.and_then(NonZeroU64::new);
    }

    /// Whether a message was larger than allowed.
    pub fn is_over(&self) -> bool {
        self.is_over
    }

    /// Whether more messages came than were allowed.
    pub fn is_one_too_many(&self) -> bool {
        self.is_one_too_many
    }

    /// Like [`FrameScanner::feed`], but one message more than this breaks the stream.
    pub fn feed_at_most(&mut self, bytes: &[u8], messages: u64) -> Fed {
        self.feed_up_to(bytes, self.messages.saturating_add(messages))
    }

    /// Reads the next bytes of the stream, up to where it is broken or closed.
    pub fn feed(&mut self, bytes: &[u8]) -> Fed {
        self.feed_up_to(bytes, u64::MAX)
    }

    /// `most`: how many messages may have begun then.
    fn feed_up_to(&mut self, bytes: &[u8], most: u64) -> Fed {
        let mut rest = bytes;
        let mut sound = 0;
        while !rest.is_empty() && !self.broken && !self.is_closed() {
            rest = if self.payload_left > 0 {
                self.skip_payload(rest)
            } else {
                self.read_header(rest, most)
            };
            if self.header_len == 0 && !self.broken {
                sound = bytes.len() - rest.len();
            }
        }
        Fed { sound }
    }

    /// The first bytes of a header that is not complete yet.
    pub fn held(&self) -> &[u8] {
        &self.header[..usize::from(self.header_len)]
    }

    /// Whether only whole frames were fed, so that a frame of our own may be inserted here.
    pub fn at_boundary(&self) -> bool {
        self.payload_left == 0 && self.header_len == 0 && !self.broken
    }

    /// Whether the last sound frame has passed completely. If headers pass only when they are whole
    /// and sound, a frame may be inserted here.
    pub fn between_frames(&self) -> bool {
        self.payload_left == 0
    }

    /// How many bytes remain of the frame that is passing.
    pub fn payload_left(&self) -> u64 {
        self.payload_left
    }

    /// How many of these next bytes belong to the frame that is passing.
    pub fn left_of_frame(&self, bytes: &[u8]) -> usize {
        let mut ahead = self.clone();
        let mut rest = bytes;
        while !ahead.at_boundary() && !ahead.broken && !rest.is_empty() {
            rest = if ahead.payload_left > 0 {
                ahead.skip_payload(rest)
            } else {
                ahead.read_header(rest, u64::MAX)
            };
        }
        bytes.len() - rest.len()
    }

    /// How many messages have begun (data frames that are not continuations).
    pub fn messages(&self) -> u64 {
        self.messages
    }

    pub fn pongs(&self) -> u64 {
        self.pongs
    }

    /// How many frames other than pongs have come.
    pub fn others(&self) -> u64 {
        self.others
    }

    /// The code of the Close frame, once it is known.
    pub fn close_code(&self) -> Option<CloseCode> {
        self.close_code
    }

    /// Whether the Close frame has passed completely.
    pub fn is_closed(&self) -> bool {
        self.close_code.is_some() && self.payload_left == 0
    }

    /// Whether the stream broke the protocol, so that nothing is known after that.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// Whether some sequence of bytes leads to this state. A state from another process may be
    /// wrong.
    pub fn is_consistent(&self) -> bool {
        let len = usize::from(self.header_len);
        len <= HEADER_MAX
            && (self.broken || len < self.header_needed())
            && (self.payload_left == 0 || len == 0)
    }

    fn skip_payload<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        let skipped = (bytes.len() as u64).min(self.payload_left) as usize;
        self.payload_left -= skipped as u64;
        &bytes[skipped..]
    }

    fn read_header<'b>(&mut self, bytes: &'b [u8], most: u64) -> &'b [u8] {
        let mut rest = bytes;
        while let [byte, tail @ ..] = rest {
            self.header[usize::from(self.header_len)] = *byte;
            self.header_len += 1;
            rest = tail;
            if usize::from(self.header_len) == self.header_needed() {
                self.begin_frame(most);
                if !self.broken {
                    self.header_len = 0;
                }
                break;
            }
        }
        rest
    }

    /// How long this header is, according to the bytes that have come.
    fn header_needed(&self) -> usize {
        if self.header_len < 2 {
            return 2;
        }
        let extended = match self.header[1] & !MASKED {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask = if self.header[1] & MASKED != 0 { 4 } else { 0 };
        let is_close = self.header[0] & OPCODE == CLOSE;
        let code = match self.header[1] & !MASKED {
            2..126 if is_close => 2,
            _ => 0,
        };
        2 + extended + mask + code
    }

    fn begin_frame(&mut self, most: u64) {
        let header = &self.header[..usize::from(self.header_len)];
        let opcode = header[0] & OPCODE;
        let length = match header[1] & !MASKED {
            126 => u64::from(u16::from_be_bytes([header[2], header[3]])),
            127 => {
                let mut length = [0; 8];
                length.copy_from_slice(&header[2..10]);
                u64::from_be_bytes(length)
            }
            short => u64::from(short),
        };
        let is_final = header[0] & FIN != 0;
        if !self.is_sound(opcode, length) {
            self.broken = true;
            return;
        }
        if opcode < CLOSE && !self.has_room(opcode, length) {
            self.broken = true;
            self.is_over = true;
            return;
        }
        let is_message = matches!(opcode, TEXT | BINARY);
        if is_message && self.messages >= most {
            self.broken = true;
            self.is_one_too_many = true;
            return;
        }
        match opcode {
            PONG => self.pongs += 1,
            _ => self.others += 1,
        }
        if is_message {
            self.messages += 1;
        }
        if opcode < CLOSE {
            self.fragmented = !is_final;
        }
        self.payload_left = length;
        if opcode == CLOSE {
            let code = self.header_close_code();
            self.close_code = Some(code.map_or(CloseCode::Absent, CloseCode::Code));
            self.payload_left -= if code.is_some() { 2 } else { 0 };
        }
    }

    /// Whether a frame of this length fits into its message.
    fn has_room(&mut self, opcode: u8, length: u64) -> bool {
        let before = match opcode {
            CONTINUATION => self.message_size,
            _ => 0,
        };
        self.message_size = before.saturating_add(length);
        let most = self.max_message.map_or(u64::MAX, NonZeroU64::get);
        self.message_size <= most
    }

    /// The code in a complete header of a Close frame, if it has one.
    fn header_close_code(&self) -> Option<u16> {
        let header = &self.header[..usize::from(self.header_len)];
        match *header {
            [_, length, a, b, _, _, high, low] if length & MASKED != 0 => {
                Some(u16::from_be_bytes([high ^ a, low ^ b]))
            }
            [_, length, high, low] if length & MASKED == 0 => Some(u16::from_be_bytes([high, low])),
            _ => None,
        }
    }

    /// Whether the header obeys section 5 of RFC 6455.
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
            CLOSE => is_final && length <= 125 && length != 1 && self.has_sendable_code(),
            PING | PONG => is_final && length <= 125,
            3..=7 => self.extended,
            _ => self.extended && is_final && length <= 125,
        };
        is_known
            && is_minimal
            && is_masked == (self.sender == Sender::Client)
            && (self.extended || header[0] & RESERVED == 0)
    }

    /// Whether the Close frame has no code, or one that an endpoint may send. Codes that are not
    /// defined yet pass, because both sides may know more than prusik (RFC 6455 section 7.4).
    fn has_sendable_code(&self) -> bool {
        let code = self.header_close_code();
        code.is_none_or(|code| code >= 1000 && !matches!(code, 1005 | 1006 | 1015))
    }
}

/// Whether prusik may send this close code (RFC 6455 section 7.4, and IANA's registry).
pub fn may_be_sent(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// A Close frame to a client: never masked (RFC 6455 section 5.1). `reason`: at most
/// [`REASON_MAX`].
pub fn close_to_client(code: u16, reason: &str) -> Vec<u8> {
    let [high, low] = code.to_be_bytes();
    let mut frame = vec![FIN | CLOSE, close_length(reason), high, low];
    frame.extend_from_slice(reason.as_bytes());
    frame
}

/// A Close frame to a server: always masked (RFC 6455 section 5.3). `reason`: at most
/// [`REASON_MAX`].
pub fn close_to_server(code: u16, reason: &str, mask: [u8; 4]) -> Vec<u8> {
    let mut frame = vec![FIN | CLOSE, MASKED | close_length(reason)];
    frame.extend_from_slice(&mask);
    let payload = code.to_be_bytes().into_iter().chain(reason.bytes());
    frame.extend(
        payload
            .zip(mask.into_iter().cycle())
            .map(|(byte, mask)| byte ^ mask),
    );
    frame
}

/// Of a code and a reason, which are as long as a control frame allows (RFC 6455 section 5.5).
fn close_length(reason: &str) -> u8 {
    debug_assert!(
        reason.len() <= REASON_MAX,
        "{reason:?} has no room in a Close frame"
    );
    reason.len() as u8 + 2
}

/// A Ping frame to a client.
pub const PING_TO_CLIENT: [u8; 2] = [FIN | PING, 0];

#[cfg(test)]
mod tests;
