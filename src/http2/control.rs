//! Counts the frames of a client that cost the client little and us something: PING and SETTINGS,
//! which need an answer, PRIORITY, RST_STREAM, WINDOW_UPDATE, DATA and fields without content, and
//! unknown frames (CVE-2019-9511, -9512, -9514, -9515, -9517, -9518, CVE-2023-44487).
//!
//! Works on the bytes of the connection, because h2 hides most of these frames.

use std::time::Duration;

use tokio::time::Instant;

/// How many may come at once: a browser that leaves a page resets all its requests.
const BURST: u32 = 1000;

/// One more is allowed in each period of this length, at no cost.
const EACH: Duration = Duration::from_millis(50);

/// The same for WINDOW_UPDATE, which clients with small messages send more often. The frames that
/// the client sends for received bytes are not counted here.
const EACH_WINDOW: Duration = Duration::from_millis(1);

/// How many bytes allow a client one WINDOW_UPDATE. A careful client sends one for half a window. A
/// simple one sends two (for the stream and for the connection) after each kilobyte.
const BYTES_PER_WINDOW: u64 = 512;

/// The most bytes that are remembered, so that a client cannot save them for a flood.
const BYTES_MAX: u64 = 16 * 1024 * 1024;

/// The length of the connection preface (RFC 9113 section 3.4).
pub(super) const PREFACE: usize = 24;

/// The length of a frame header (section 4.1).
pub(super) const HEADER: usize = 9;

/// The header and the length field of the padding (section 6.1).
const PADDED_HEADER: usize = HEADER + 1;

const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

/// Flags.
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const PADDED: u8 = 8;

/// Must be fed all bytes of the client.
#[derive(Debug)]
pub struct ControlFrames {
    /// How many bytes come before the next header.
    skip: usize,
    header: [u8; PADDED_HEADER],
    /// How many bytes of the header have come.
    seen: usize,
    cheap: Allowance,
    windows: Allowance,
    /// Bytes that the client has received without sending a WINDOW_UPDATE.
    got: u64,
    /// Requests that may still end with an empty DATA frame.
    requests: u64,
    has_acknowledged: bool,
}

/// The client has sent too many of these frames.
#[derive(Debug, PartialEq, Eq)]
pub struct Flood;

impl ControlFrames {
    pub fn new(now: Instant) -> Self {
        Self {
            skip: PREFACE,
            header: [0; PADDED_HEADER],
            seen: 0,
            cheap: Allowance::new(EACH, now),
            windows: Allowance::new(EACH_WINDOW, now),
            got: 0,
            requests: 0,
            has_acknowledged: false,
        }
    }

    /// Whether the client has acknowledged our settings.
    pub fn has_acknowledged(&self) -> bool {
        self.has_acknowledged
    }

    /// This many bytes were sent to the client.
    pub fn sent(&mut self, bytes: usize) {
        self.got = BYTES_MAX.min(self.got + bytes as u64);
    }

    pub fn feed(&mut self, mut bytes: &[u8], now: impl Fn() -> Instant) -> Result<(), Flood> {
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            let part = (self.header_size() - self.seen).min(bytes.len());
            self.header[self.seen..self.seen + part].copy_from_slice(&bytes[..part]);
            self.seen += part;
            bytes = &bytes[part..];
            if self.seen < self.header_size() {
                if bytes.is_empty() {
                    return Ok(());
                }
                // The frame has a length field for its padding, which is known only now.
                continue;
            }
            self.skip = self.length() - (self.seen - HEADER);
            self.has_acknowledged |= self.header[3] == SETTINGS && self.header[4] & ACK != 0;
            match self.header[3] {
                HEADERS if self.has_content() => self.requests += 1,
                DATA | CONTINUATION if self.has_content() => {}
                // Many clients end a body in this way if they have not announced its length.
                DATA if self.header[4] & END_STREAM != 0 && self.requests > 0 => self.requests -= 1,
                WINDOW_UPDATE => self.take_window(now())?,
                _ => self.cheap.take(now())?,
            }
            self.seen = 0;
        }
    }

    /// The length of the header of the present frame.
    fn header_size(&self) -> usize {
        let is_padded = self.header[3] == DATA && self.header[4] & PADDED != 0;
        if self.seen >= HEADER && is_padded && self.length() > 0 {
            PADDED_HEADER
        } else {
            HEADER
        }
    }

    /// The length of the frame's payload.
    fn length(&self) -> usize {
        let [a, b, c, ..] = self.header;
        u32::from_be_bytes([0, a, b, c]) as usize
    }

    /// Whether the frame contains a byte that is not padding.
    fn has_content(&self) -> bool {
        match self.seen {
            PADDED_HEADER => self.length() > 1 + usize::from(self.header[HEADER]),
            _ => self.length() > 0,
        }
    }

    fn take_window(&mut self, now: Instant) -> Result<(), Flood> {
        match self.got.checked_sub(BYTES_PER_WINDOW) {
            Some(remaining) => self.got = remaining,
            None => self.windows.take(now)?,
        }
        Ok(())
    }
}

/// Allows [`BURST`] at once, and one more in each `each`.
#[derive(Debug)]
struct Allowance {
    each: Duration,
    remaining: u32,
    since: Instant,
}

impl Allowance {
    fn new(each: Duration, now: Instant) -> Self {
        Self {
            each,
            remaining: BURST,
            since: now,
        }
    }

    fn take(&mut self, now: Instant) -> Result<(), Flood> {
        let passed = now.saturating_duration_since(self.since);
        let more = u32::try_from(passed.as_millis() / self.each.as_millis()).unwrap_or(u32::MAX);
        self.remaining = self.remaining.saturating_add(more).min(BURST);
        self.since += self.each * more;
        self.remaining = self.remaining.checked_sub(1).ok_or(Flood)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame_of(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0, 0, payload.len() as u8, kind, flags, 0, 0, 0, 1];
        frame.extend(payload);
        frame
    }

    fn frame(kind: u8, length: u8) -> Vec<u8> {
        frame_of(kind, 0, &vec![7; usize::from(length)])
    }

    #[test]
    fn only_what_costs_its_sender_little_is_counted_however_it_is_cut() {
        let now = Instant::now();
        let padded = frame_of(DATA, PADDED, &[2, 7, 0, 0]);
        let only_padding = frame_of(DATA, PADDED, &[3, 0, 0, 0]);
        let useful = [frame(DATA, 5), frame(HEADERS, 9), padded].concat();
        let cheap = [
            [frame(6, 8), frame(4, 0), frame(2, 5), frame(DATA, 0)].concat(),
            [frame(HEADERS, 0), frame(CONTINUATION, 0), frame(200, 9)].concat(),
            [
                frame_of(DATA, PADDED, &[]),
                frame_of(DATA, PADDED, &[0]),
                only_padding,
            ]
            .concat(),
        ]
        .concat();
        let mut bytes = vec![b'x'; PREFACE];
        bytes.extend(useful.repeat(1000));
        bytes.extend([&useful[..], &cheap].concat().repeat(BURST as usize / 10));
        for size in [1, 7, 1000, bytes.len()] {
            let mut frames = ControlFrames::new(now);
            for part in bytes.chunks(size) {
                assert_eq!(frames.feed(part, || now), Ok(()));
            }
            assert_eq!(frames.feed(&useful, || now), Ok(()));
            assert_eq!(frames.feed(&frame(6, 8), || now), Err(Flood));
        }
    }

    #[test]
    fn who_sends_few_a_second_may_go_on() {
        for (kind, length, each) in [(6, 8, EACH), (WINDOW_UPDATE, 4, EACH_WINDOW)] {
            let mut now = Instant::now();
            let mut frames = ControlFrames::new(now);
            assert_eq!(frames.feed(&[b'x'; PREFACE], || now), Ok(()));
            for _ in 0..10_000 {
                now += each;
                assert_eq!(frames.feed(&frame(kind, length), || now), Ok(()));
            }
        }
    }

    #[test]
    fn each_request_may_end_without_a_byte_and_only_once() {
        let now = Instant::now();
        let mut frames = ControlFrames::new(now);
        assert_eq!(frames.feed(&[b'x'; PREFACE], || now), Ok(()));
        let end = frame_of(DATA, END_STREAM, &[]);
        let request = [frame(HEADERS, 9), frame(DATA, 5), end.clone()].concat();
        assert_eq!(frames.feed(&request.repeat(10_000), || now), Ok(()));
        assert_eq!(frames.feed(&end.repeat(BURST as usize), || now), Ok(()));
        assert_eq!(frames.feed(&end, || now), Err(Flood));
    }

    #[test]
    fn windows_are_opened_for_what_has_come_and_not_without_end() {
        let now = Instant::now();
        let mut frames = ControlFrames::new(now);
        assert_eq!(frames.feed(&[b'x'; PREFACE], || now), Ok(()));
        let update = frame(WINDOW_UPDATE, 4);
        for _ in 0..10_000 {
            frames.sent(1024);
            assert_eq!(frames.feed(&update.repeat(2), || now), Ok(()));
        }
        assert_eq!(frames.feed(&update.repeat(BURST as usize), || now), Ok(()));
        assert_eq!(frames.feed(&update, || now), Err(Flood));

        let mut frames = ControlFrames::new(now);
        assert_eq!(frames.feed(&[b'x'; PREFACE], || now), Ok(()));
        frames.sent(1 << 40);
        let most = (BYTES_MAX / BYTES_PER_WINDOW) as usize + BURST as usize;
        assert_eq!(frames.feed(&update.repeat(most), || now), Ok(()));
        assert_eq!(frames.feed(&update, || now), Err(Flood));
    }
}
