//! The body of an answer: its content out of the server's framing, and in a framing for the client.

use super::chunked::{Broken, ChunkScanner};

/// What ends a chunked body.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// What ends each chunk.
pub const CHUNK_END: &[u8] = b"\r\n";

/// How many bytes the size line of a chunk has at most.
pub const SIZE_LINE_MAX: usize = 18;

/// How the end of a body is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    Chunked(ChunkScanner),
    /// The body ends with the connection.
    UntilClose,
}

impl Body {
    /// Moves the content to the beginning of the bytes, and returns its length. What follows the
    /// end of the body is dropped.
    pub fn unframe(&mut self, bytes: &mut [u8]) -> Result<usize, Broken> {
        let Self::Chunked(chunks) = self else {
            return Ok(bytes.len());
        };
        let (mut index, mut length) = (0, 0);
        while index < bytes.len() && !chunks.is_done() {
            match chunks.data_left().min(bytes.len() - index) {
                0 => index += chunks.feed_framing(&bytes[index..])?,
                part => {
                    chunks.pass(part);
                    bytes.copy_within(index..index + part, length);
                    index += part;
                    length += part;
                }
            }
        }
        Ok(length)
    }

    /// Whether the body has ended by its own framing.
    pub fn is_done(&self) -> bool {
        match self {
            Self::Chunked(chunks) => chunks.is_done(),
            Self::UntilClose => false,
        }
    }

    /// How many bytes of the present chunk are to come. 0: the next byte of content begins another
    /// one, or there are no chunks.
    pub fn left_of_chunk(&self) -> usize {
        match self {
            Self::Chunked(chunks) => chunks.data_left(),
            Self::UntilClose => 0,
        }
    }
}

/// Writes the size line of a chunk so that it ends where the room ends. Returns where it begins.
pub fn size_line(room: &mut [u8; SIZE_LINE_MAX], length: usize) -> usize {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut begin = SIZE_LINE_MAX - CHUNK_END.len();
    room[begin..].copy_from_slice(CHUNK_END);
    let mut rest = length;
    loop {
        begin -= 1;
        room[begin] = DIGITS[rest % 16];
        rest /= 16;
        if rest == 0 {
            return begin;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn framed(contents: &[Vec<u8>]) -> Vec<u8> {
        let mut body = Vec::new();
        for content in contents {
            let mut room = [0; SIZE_LINE_MAX];
            let begin = size_line(&mut room, content.len());
            body.extend([&room[begin..], content, CHUNK_END].concat());
        }
        [&body[..], LAST_CHUNK].concat()
    }

    proptest! {
        #[test]
        fn the_content_comes_out_whatever_the_pieces_are(
            contents in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..6),
            size in 1_usize..30,
        ) {
            let body = [&framed(&contents)[..], b"HTTP/1.1"].concat();
            let (mut framing, mut found) = (Body::Chunked(ChunkScanner::default()), Vec::new());
            for piece in body.chunks(size) {
                let mut piece = piece.to_vec();
                let length = framing.unframe(&mut piece).unwrap();
                found.extend_from_slice(&piece[..length]);
            }
            prop_assert!(framing.is_done());
            prop_assert_eq!(found, contents.concat());
        }

        #[test]
        fn a_size_line_has_the_size(length in any::<usize>()) {
            let mut room = [0; SIZE_LINE_MAX];
            let begin = size_line(&mut room, length);
            let expected = format!("{length:x}\r\n");
            prop_assert_eq!(&room[begin..], expected.as_bytes());
        }
    }

    #[test]
    fn a_body_that_ends_with_its_connection_is_content() {
        let mut bytes = *b"0\r\n\r\n";
        assert_eq!(Body::UntilClose.unframe(&mut bytes), Ok(5));
        assert!(!Body::UntilClose.is_done());
    }
}
