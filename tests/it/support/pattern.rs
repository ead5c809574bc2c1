//! Bodies too large to keep: each byte is known from its offset, so that a check needs no copy
//! and finds every loss, repetition and exchange. Stronger than a hash, and it says where.

use std::sync::LazyLock;

/// A prime, so that no power of two of lost bytes goes unseen.
const PERIOD: usize = 1_048_573;

static BLOCK: LazyLock<Vec<u8>> = LazyLock::new(|| {
    // Xorshift: no run of it repeats within the period.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    (0..PERIOD)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
});

/// A body of a given length, in pieces.
#[derive(Debug, Clone, Copy)]
pub struct Pattern {
    length: u64,
    at: u64,
}

impl Pattern {
    pub fn new(length: u64) -> Self {
        Self { length, at: 0 }
    }

    /// At most so many of the next bytes; empty at the end.
    pub fn next(&mut self, most: usize) -> &'static [u8] {
        let left = usize::try_from(self.length - self.at).unwrap_or(usize::MAX);
        let part = piece(self.at, most.min(left));
        self.at += part.len() as u64;
        part
    }
}

/// Compares what arrives with what must.
#[derive(Debug, Default)]
pub struct PatternCheck {
    at: u64,
}

impl PatternCheck {
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let expected = piece(self.at, bytes.len());
            let (found, rest) = bytes.split_at(expected.len());
            assert!(
                found == expected,
                "the body differs in the {} bytes from offset {}",
                found.len(),
                self.at
            );
            self.at += found.len() as u64;
            bytes = rest;
        }
    }

    /// How many bytes were right; a wrong one panics.
    pub fn length(&self) -> u64 {
        self.at
    }
}

fn piece(at: u64, most: usize) -> &'static [u8] {
    let start = (at % PERIOD as u64) as usize;
    &BLOCK[start..(start + most).min(PERIOD)]
}
