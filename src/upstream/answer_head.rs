//! Finds the head of an event stream in what a server answers.
//!
//! It only looks at the bytes, which go on to Pingora: Pingora checks them.

use crate::event_stream::is_event_stream;
use crate::http1::head_end::HeadEnd;

/// A longer head is not followed to its end.
const HEAD_MAX: usize = 64 * 1024;

/// Where in `HTTP/1.1 200` the status stands.
const STATUS: std::ops::Range<usize> = 9..12;

/// Reads the heads of an answer.
#[derive(Debug, Default)]
pub(super) struct AnswerHead {
    /// The head so far, if it came in several pieces.
    seen: Vec<u8>,
    end: HeadEnd,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// The final head is not complete.
    NotYet,
    /// Another answer, or none.
    Other,
    /// An event stream, whose head ends after so many of these bytes.
    Stream(usize),
}

impl AnswerHead {
    /// Reads the next bytes. To be called until it has found something.
    pub fn read(&mut self, bytes: &[u8]) -> Found {
        if self.seen.is_empty() && is_other(bytes) {
            return Found::Other;
        }
        let mut index = 0;
        while index < bytes.len() {
            let Some(end) = self.end.feed(&bytes[index..]) else {
                if self.seen.len() + bytes.len() > HEAD_MAX {
                    return Found::Other;
                }
                self.seen.extend_from_slice(&bytes[index..]);
                return Found::NotYet;
            };
            self.seen.extend_from_slice(&bytes[index..index + end]);
            index += end;
            let head = std::mem::take(&mut self.seen);
            match head.get(STATUS) {
                Some(b"200") if content_type(&head).is_some_and(is_event_stream) => {
                    return Found::Stream(index);
                }
                Some(b"101") => return Found::Other,
                Some([b'1', ..]) => {}
                _ => return Found::Other,
            }
        }
        Found::NotYet
    }
}

/// Whether these first bytes show that it is no event stream. This is all that most answers need.
fn is_other(bytes: &[u8]) -> bool {
    match bytes.get(STATUS) {
        Some(b"200") => content_type(bytes).is_some_and(|value| !is_event_stream(value)),
        Some([b'1', ..]) | None => false,
        Some(_) => true,
    }
}

/// The value of the first `Content-Type`, if its whole line is there.
fn content_type(head: &[u8]) -> Option<&[u8]> {
    const NAME: &[u8] = b"content-type:";
    let mut rest = head;
    while let Some(end) = memchr::memchr(b'\n', rest) {
        let (line, behind) = rest.split_at(end);
        rest = &behind[1..];
        if matches!(line, b"" | b"\r") {
            return None;
        }
        if let Some((name, value)) = line.split_at_checked(NAME.len())
            && name.eq_ignore_ascii_case(NAME)
        {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8], size: usize) -> Option<usize> {
        let (mut head, mut before) = (AnswerHead::default(), 0);
        for piece in bytes.chunks(size) {
            match head.read(piece) {
                Found::NotYet => before += piece.len(),
                Found::Other => return None,
                Found::Stream(end) => return Some(before + end),
            }
        }
        None
    }

    #[test]
    fn the_head_of_a_stream_ends_at_its_blank_line_however_it_is_cut() {
        for head in [
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n",
            "HTTP/1.0 200 OK\r\nServer: x\r\ncontent-type:text/event-stream;charset=utf-8\r\nA: b\r\n\r\n",
            "HTTP/1.1 103 Early Hints\r\nContent-Type: text/html\r\n\r\n\
             HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n",
        ] {
            let bytes = [head, "data: x\n\nHTTP/1.1 200 OK\r\n\r\n"].concat();
            for size in 1..=bytes.len() {
                let found = read(bytes.as_bytes(), size);
                assert_eq!(found, Some(head.len()), "{head:?} in pieces of {size}");
            }
        }
    }

    #[test]
    fn other_answers_are_none() {
        for head in [
            "HTTP/1.1 204 No Content\r\nContent-Type: text/event-stream\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\nContent-Type: text/event-stream\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\nContent-Type: text/event-stream\r\n\r\n",
            "HTTP/1.1 101 Switching Protocols\r\nContent-Type: text/event-stream\r\n\r\n",
            "\r\n\r\n",
        ] {
            for size in 1..=head.len() {
                assert_eq!(
                    read(head.as_bytes(), size),
                    None,
                    "{head:?} in pieces of {size}"
                );
            }
        }
    }
}
