//! Where the body of a request ends among the bytes that a client sends.

use crate::http1::chunked::{Broken, ChunkScanner};
use crate::http1::framing::Framing;

/// What is still to come of the body of the request whose head Pingora has.
#[derive(Debug)]
pub(super) enum Body {
    Remaining(u64),
    Chunked(ChunkScanner),
}

impl Default for Body {
    fn default() -> Self {
        Self::Remaining(0)
    }
}

impl Body {
    pub fn new(framing: Framing) -> Self {
        match framing {
            Framing::None => Self::Remaining(0),
            Framing::Length(length) => Self::Remaining(length),
            Framing::Chunked => Self::Chunked(ChunkScanner::default()),
        }
    }

    /// The bytes of a chunked body so far. The length of other bodies was checked before.
    pub fn content(&self) -> u64 {
        match self {
            Self::Remaining(_) => 0,
            Self::Chunked(chunks) => chunks.content(),
        }
    }

    pub fn is_done(&self) -> bool {
        match self {
            Self::Remaining(remaining) => *remaining == 0,
            Self::Chunked(chunks) => chunks.is_done(),
        }
    }

    /// How many of `bytes` belong to the body.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<usize, Broken> {
        match self {
            Self::Remaining(remaining) => {
                let part = bytes
                    .len()
                    .min(usize::try_from(*remaining).unwrap_or(usize::MAX));
                *remaining -= part as u64;
                Ok(part)
            }
            Self::Chunked(chunks) => chunks.feed(bytes),
        }
    }
}
