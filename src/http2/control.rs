//! Counts the frames of a client that cost it little and us something: PING and SETTINGS, which want
//! an answer, PRIORITY, RST_STREAM, DATA without a byte, and what is unknown (CVE-2019-9512, -9514,
//! -9515, CVE-2023-44487).

use std::time::Duration;

use tokio::time::Instant;

/// So many may come at once: a page that is left resets all that it has asked for.
const BURST: u32 = 1000;

/// And one more in each such time: who sends no more costs nothing.
const EACH: Duration = Duration::from_millis(50);

/// What a connection begins with (RFC 9113 section 3.4).
pub(super) const PREFACE: usize = 24;

/// A frame's header (section 4.1).
pub(super) const HEADER: usize = 9;

const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

/// Feed it all that comes.
#[derive(Debug)]
pub struct ControlFrames {
    /// Bytes until the next header.
    skip: usize,
    header: [u8; HEADER],
    /// So much of the header is there.
    seen: usize,
    left: u32,
    since: Instant,
}

/// More of them than one connection may send.
#[derive(Debug, PartialEq, Eq)]
pub struct Flood;

impl ControlFrames {
    pub fn new(now: Instant) -> Self {
        Self {
            skip: PREFACE,
            header: [0; HEADER],
            seen: 0,
            left: BURST,
            since: now,
        }
    }

    pub fn feed(&mut self, mut bytes: &[u8], now: impl Fn() -> Instant) -> Result<(), Flood> {
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            let part = (HEADER - self.seen).min(bytes.len());
            self.header[self.seen..self.seen + part].copy_from_slice(&bytes[..part]);
            self.seen += part;
            bytes = &bytes[part..];
            if self.seen < HEADER {
                return Ok(());
            }
            self.seen = 0;
            let [a, b, c, kind, ..] = self.header;
            self.skip = u32::from_be_bytes([0, a, b, c]) as usize;
            let is_useful = match kind {
                DATA => self.skip > 0,
                HEADERS | CONTINUATION | WINDOW_UPDATE => true,
                _ => false,
            };
            if !is_useful {
                self.take(now())?;
            }
        }
    }

    fn take(&mut self, now: Instant) -> Result<(), Flood> {
        let passed = now.saturating_duration_since(self.since);
        let more = u32::try_from(passed.as_millis() / EACH.as_millis()).unwrap_or(BURST);
        self.left = self.left.saturating_add(more).min(BURST);
        self.since += EACH * more;
        self.left = self.left.checked_sub(1).ok_or(Flood)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, length: u8) -> Vec<u8> {
        let mut frame = vec![0, 0, length, kind, 0, 0, 0, 0, 1];
        frame.extend(vec![7; usize::from(length)]);
        frame
    }

    #[test]
    fn only_what_costs_its_sender_little_is_counted_however_it_is_cut() {
        let now = Instant::now();
        let useful = [frame(DATA, 5), frame(HEADERS, 9), frame(WINDOW_UPDATE, 4)].concat();
        let cheap = [frame(6, 8), frame(4, 0), frame(2, 5), frame(DATA, 0)].concat();
        let mut bytes = vec![b'x'; PREFACE];
        bytes.extend(useful.repeat(1000));
        bytes.extend([&useful[..], &cheap].concat().repeat(BURST as usize / 4));
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
        let mut now = Instant::now();
        let mut frames = ControlFrames::new(now);
        assert_eq!(frames.feed(&[b'x'; PREFACE], || now), Ok(()));
        for _ in 0..10_000 {
            now += EACH;
            assert_eq!(frames.feed(&frame(6, 8), || now), Ok(()));
        }
    }
}
