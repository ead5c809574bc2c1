//! Finds the requests with a `#` in their `:path` in the bytes of a client.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

use super::control::{HEADER, HEADERS, PREFACE};
use super::hpack::Decoder;

/// RFC 9113 sections 6.2 and 6.10.
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// How many streams are remembered that h2 has not passed on yet.
const FOUND_MAX: usize = 1000;

/// The streams with a `#` in their `:path`, in the order in which they came.
#[derive(Debug, Clone, Default)]
pub struct Found(Arc<Mutex<VecDeque<u32>>>);

impl Found {
    /// Whether this stream is one of them. h2 passes streams on in the order of their numbers, so
    /// earlier ones that are still here are dropped.
    pub fn take(&self, stream: u32) -> bool {
        let mut found = self.0.lock();
        while found.front().is_some_and(|first| *first < stream) {
            found.pop_front();
        }
        let is_found = found.front() == Some(&stream);
        if is_found {
            found.pop_front();
        }
        is_found
    }

    fn note(&self, stream: u32) {
        let mut found = self.0.lock();
        if found.len() == FOUND_MAX {
            found.pop_front();
        }
        found.push_back(stream);
    }
}

/// Must be fed all bytes of the client.
#[derive(Debug)]
pub struct Fragments {
    /// How many bytes come before the next header, without those of a block.
    skip: usize,
    header: [u8; HEADER],
    /// How many bytes of the header have come.
    seen: usize,
    /// How many bytes remain of a frame that belongs to a block.
    remaining: usize,
    /// The block so far, with the parts of HEADERS before and after it.
    block: Vec<u8>,
    stream: u32,
    /// Where the fields of the block begin, and how long the padding of HEADERS is.
    fields: Padding,
    /// Whether this frame is the last one of its block.
    ends: bool,
    /// A larger block is not read, nor anything after it, because h2 refuses it.
    most: usize,
    /// `None`: it could not follow any more.
    decoder: Option<Decoder>,
    found: Found,
}

/// RFC 9113 section 6.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Padding {
    /// HEADERS is complete, and only the block is left.
    Gone,
    /// HEADERS is arriving, with these flags.
    Coming(u8),
}

impl Fragments {
    /// `most`: the largest size of a block in bytes.
    pub fn new(most: usize, found: Found) -> Self {
        Self {
            skip: PREFACE,
            header: [0; HEADER],
            seen: 0,
            remaining: 0,
            block: Vec::new(),
            stream: 0,
            fields: Padding::Gone,
            ends: false,
            most,
            decoder: Some(Decoder::default()),
            found,
        }
    }

    pub fn feed(&mut self, mut bytes: &[u8]) {
        while self.decoder.is_some() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            let taken = self.remaining.min(bytes.len());
            self.block.extend_from_slice(&bytes[..taken]);
            self.remaining -= taken;
            bytes = &bytes[taken..];
            if bytes.is_empty() && (self.skip > 0 || self.remaining > 0) {
                return;
            }
            if self.seen == HEADER {
                self.end_frame();
            }
            let part = (HEADER - self.seen).min(bytes.len());
            self.header[self.seen..self.seen + part].copy_from_slice(&bytes[..part]);
            self.seen += part;
            bytes = &bytes[part..];
            if self.seen < HEADER {
                return;
            }
            self.begin_frame();
        }
    }

    fn begin_frame(&mut self) {
        let [a, b, c, kind, flags, d, e, f, g] = self.header;
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        let is_block = match kind {
            HEADERS => {
                self.block.clear();
                self.stream = u32::from_be_bytes([d & 0x7F, e, f, g]);
                self.fields = Padding::Coming(flags);
                true
            }
            CONTINUATION => true,
            _ => false,
        };
        if !is_block {
            self.skip = length;
            return;
        }
        if self.block.len() + length > self.most {
            self.give_up();
            return;
        }
        self.remaining = length;
        self.ends = flags & END_HEADERS != 0;
    }

    /// All bytes of the frame are there.
    fn end_frame(&mut self) {
        self.seen = 0;
        if !matches!(self.header[3], HEADERS | CONTINUATION) {
            return;
        }
        if let Padding::Coming(flags) = self.fields {
            self.fields = Padding::Gone;
            let Some(fields) = fields_of(&self.block, flags) else {
                return self.give_up();
            };
            self.block = fields.to_vec();
        }
        if !self.ends {
            return;
        }
        let block = std::mem::take(&mut self.block);
        match self.decoder.as_mut().map(|decoder| decoder.read(&block)) {
            Some(Ok(true)) => self.found.note(self.stream),
            Some(Ok(false)) => {}
            Some(Err(_)) | None => self.give_up(),
        }
    }

    /// Either h2 ends the connection, or the client cannot use the rest of it.
    fn give_up(&mut self) {
        self.decoder = None;
        self.block = Vec::new();
    }
}

/// The content of HEADERS without padding and priority.
fn fields_of(payload: &[u8], flags: u8) -> Option<&[u8]> {
    let (padding, rest) = match flags & PADDED != 0 {
        true => payload
            .split_first()
            .map(|(pad, rest)| (usize::from(*pad), rest))?,
        false => (0, payload),
    };
    let rest = match flags & PRIORITY != 0 {
        true => rest.get(5..)?,
        false => rest,
    };
    rest.get(..rest.len().checked_sub(padding)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0, 0, payload.len() as u8, kind, flags, 0, 0, 0, stream];
        frame.extend(payload);
        frame
    }

    #[test]
    fn streams_are_found_however_their_frames_are_cut() {
        let cut = b"\x04\x04/a#b";
        let sound = b"\x04\x04/a%b";
        let padded = [&[2, 0, 0, 0, 0, 9][..], cut, &[0, 0]].concat();
        let bytes = [
            vec![b'x'; PREFACE],
            frame(4, 0, 0, &[]),
            frame(HEADERS, END_HEADERS, 1, sound),
            frame(HEADERS, END_HEADERS, 3, cut),
            frame(0, 0, 3, b"DATA, of which nothing is read: \x04\x04/a#b"),
            frame(HEADERS, END_HEADERS | PADDED | PRIORITY, 5, &padded),
            frame(HEADERS, 0, 7, &cut[..4]),
            frame(CONTINUATION, 0, 7, &[]),
            frame(CONTINUATION, END_HEADERS, 7, &cut[4..]),
            frame(HEADERS, END_HEADERS, 9, sound),
        ]
        .concat();
        for size in [1, 2, 7, 30, bytes.len()] {
            let found = Found::default();
            let mut fragments = Fragments::new(1000, found.clone());
            bytes.chunks(size).for_each(|part| fragments.feed(part));
            // Stream 5 is not shown.
            let seen = [1, 3, 7, 9].map(|stream| found.take(stream));
            assert_eq!(seen, [false, true, true, false], "{size}");
            assert!(found.0.lock().is_empty());
        }
    }

    #[test]
    fn what_is_too_large_or_no_frame_is_followed_no_further() {
        let large = frame(HEADERS, END_HEADERS, 1, &[0; 200]);
        let lies = frame(HEADERS, END_HEADERS | PADDED, 1, &[7, 0]);
        for bytes in [large, lies] {
            let found = Found::default();
            let mut fragments = Fragments::new(100, found.clone());
            let all = [
                vec![b'x'; PREFACE],
                bytes,
                frame(HEADERS, END_HEADERS, 3, b"\x04\x01#"),
            ];
            fragments.feed(&all.concat());
            assert!(!found.take(3));
            assert!(fragments.block.is_empty());
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_to_an_end(parts: Vec<Vec<u8>>) {
            let mut fragments = Fragments::new(1000, Found::default());
            fragments.feed(&[b'x'; PREFACE]);
            for part in parts {
                fragments.feed(&part);
                proptest::prop_assert!(fragments.block.len() <= 1000);
            }
        }
    }
}
