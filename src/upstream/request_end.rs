//! Whether the whole of a request has been written to its server.
//!
//! Pingora writes the body while it reads the answer, and does not tell how far it has come.

use crate::http1::chunked::ChunkScanner;

/// What follows the head of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestBody {
    None,
    Length(u64),
    Chunked,
}

/// Follows what is written.
#[derive(Debug)]
pub(super) enum RequestEnd {
    /// The head, which Pingora flushes when it is written.
    Head(RequestBody),
    Length(u64),
    Chunked(ChunkScanner),
    Written,
}

impl RequestEnd {
    pub fn new(body: RequestBody) -> Self {
        match body {
            RequestBody::None | RequestBody::Length(0) => Self::Written,
            body => Self::Head(body),
        }
    }

    pub fn flushed(&mut self) {
        *self = match self {
            Self::Head(RequestBody::Length(left)) => Self::Length(*left),
            Self::Head(RequestBody::Chunked) => Self::Chunked(ChunkScanner::default()),
            _ => return,
        };
    }

    pub fn wrote(&mut self, bytes: &[u8]) {
        match self {
            Self::Length(left) => {
                *left = left.saturating_sub(bytes.len() as u64);
                if *left == 0 {
                    *self = Self::Written;
                }
            }
            Self::Chunked(chunks) => {
                // The chunks are Pingora's own.
                let _ = chunks.feed(bytes);
                if chunks.is_done() {
                    *self = Self::Written;
                }
            }
            Self::Head(_) | Self::Written => {}
        }
    }

    pub fn is_written(&self) -> bool {
        matches!(self, Self::Written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_written_with_the_last_byte_of_its_body() {
        assert!(RequestEnd::new(RequestBody::None).is_written());
        for (body, bytes) in [
            (RequestBody::Length(5), &b"hello"[..]),
            (RequestBody::Chunked, b"5\r\nhello\r\n0\r\n\r\n"),
        ] {
            let mut end = RequestEnd::new(body);
            end.wrote(b"POST / HTTP/1.1\r\n");
            end.wrote(b"Host: a\r\n\r\n");
            end.flushed();
            for byte in bytes {
                assert!(!end.is_written());
                end.wrote(&[*byte]);
                end.flushed();
            }
            assert!(end.is_written(), "{body:?}");
        }
    }
}
