//! Turns an HTTP/1.1 response into what goes on a stream: fields, then the bytes of the body.

use std::io;

use bytes::BytesMut;
use http::{HeaderName, HeaderValue, Method, Response, StatusCode, header};

use crate::http1::chunked::ChunkScanner;

/// Larger than any head that Pingora writes.
const HEAD_MAX: usize = 256 * 1024;

/// As many fields as a server may send.
const FIELDS_MAX: usize = 256;

/// The next part of the response.
#[derive(Debug)]
pub enum Part<'b> {
    /// This many bytes were read, and nothing results from them yet.
    Nothing(usize),
    /// An interim answer.
    Interim(usize, Response<()>),
    /// The fields. `true`: no body follows.
    Head(usize, Response<()>, bool),
    /// The next bytes may go on the stream. The caller must say how many [went](Reader::took).
    Data(&'b [u8]),
    /// The body has ended.
    End(usize),
}

/// Reads one response.
#[derive(Debug)]
pub struct Reader {
    /// Whether this is a session, for which a 101 becomes a 200 (RFC 8441 section 5).
    is_session: bool,
    /// Whether this answers a HEAD, and so has no body whatever its fields say.
    is_head: bool,
    has_switched: bool,
    state: State,
}

#[derive(Debug)]
enum State {
    Head(BytesMut),
    Length(u64),
    Chunked(ChunkScanner),
    UntilClose,
    Done,
}

/// Fields for one connection only, or expressed otherwise in HTTP/2 (RFC 9113 section 8.2.2).
const CONNECTION_FIELDS: [HeaderName; 4] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
];

impl Reader {
    pub fn new(method: &Method, is_session: bool) -> Self {
        Self {
            is_session,
            is_head: method == Method::HEAD,
            has_switched: false,
            state: State::Head(BytesMut::new()),
        }
    }

    /// Whether the response is complete.
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Whether the stream has become a session.
    pub fn has_switched(&self) -> bool {
        self.has_switched
    }

    /// Whether no head of a final answer has come yet.
    pub fn awaits_head(&self) -> bool {
        matches!(self.state, State::Head(_))
    }

    /// Whether the body ends with the connection.
    pub fn ends_by_close(&self) -> bool {
        matches!(self.state, State::UntilClose)
    }

    pub fn finish(&mut self) {
        self.state = State::Done;
    }

    /// Notes how many bytes of the data went on the stream.
    pub fn took(&mut self, count: usize) {
        match &mut self.state {
            State::Length(remaining) => {
                *remaining -= count as u64;
                if *remaining == 0 {
                    self.state = State::Done;
                }
            }
            State::Chunked(chunks) => chunks.pass(count),
            _ => {}
        }
    }

    /// Reads the next bytes, which must not be empty.
    pub fn read<'b>(&mut self, bytes: &'b [u8]) -> io::Result<Part<'b>> {
        match &mut self.state {
            State::Head(head) => {
                let before = head.len();
                head.extend_from_slice(bytes);
                let from = before.saturating_sub(3);
                let Some(found) = memchr::memmem::find(&head[from..], b"\r\n\r\n") else {
                    if head.len() > HEAD_MAX {
                        return Err(invalid("a response's head without end"));
                    }
                    return Ok(Part::Nothing(bytes.len()));
                };
                let end = from + found + 4;
                let head = head.split_to(end);
                self.state = State::Head(BytesMut::new());
                self.head(&head, end - before)
            }
            State::Length(remaining) => {
                let most = usize::try_from(*remaining).unwrap_or(usize::MAX);
                Ok(Part::Data(&bytes[..bytes.len().min(most)]))
            }
            State::Chunked(chunks) => match chunks.data_left() {
                0 => {
                    let broken = |_| invalid("a response's chunks are not framed as they must be");
                    let taken = chunks.feed_framing(bytes).map_err(broken)?;
                    if !chunks.is_done() {
                        return Ok(Part::Nothing(taken));
                    }
                    self.state = State::Done;
                    Ok(Part::End(taken))
                }
                remaining => Ok(Part::Data(&bytes[..bytes.len().min(remaining)])),
            },
            State::UntilClose => Ok(Part::Data(bytes)),
            State::Done => Ok(Part::Nothing(bytes.len())),
        }
    }

    fn head<'b>(&mut self, head: &[u8], taken: usize) -> io::Result<Part<'b>> {
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut parsed = httparse::Response::new(&mut fields);
        if !parsed.parse(head).is_ok_and(|parsed| parsed.is_complete()) {
            return Err(invalid("a response's head cannot be read"));
        }
        let status = StatusCode::from_u16(parsed.code.unwrap_or_default())
            .map_err(|_| invalid("a response has no status"))?;
        let is_switch = status == StatusCode::SWITCHING_PROTOCOLS;
        let (mut length, mut chunked) = (None, false);
        let mut response = Response::new(());
        *response.status_mut() = match is_switch {
            true => StatusCode::OK,
            false => status,
        };
        for field in parsed.headers.iter() {
            let name = HeaderName::from_bytes(field.name.as_bytes())
                .map_err(|_| invalid("a response has a field without a name"))?;
            let value = HeaderValue::from_bytes(field.value)
                .map_err(|_| invalid("a response has a field with a value that is none"))?;
            if name == header::CONTENT_LENGTH {
                length = value.to_str().ok().and_then(|text| text.parse().ok());
            }
            chunked |= name == header::TRANSFER_ENCODING;
            let is_left_out = CONNECTION_FIELDS.contains(&name)
                || is_switch && name == header::SEC_WEBSOCKET_ACCEPT;
            if !is_left_out {
                response.headers_mut().append(name, value);
            }
        }
        if is_switch && self.is_session {
            self.has_switched = true;
            self.state = State::UntilClose;
            return Ok(Part::Head(taken, response, false));
        }
        if status.is_informational() {
            return Ok(Part::Interim(taken, response));
        }
        let is_bodiless = self.is_head
            || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
            || length == Some(0) && !chunked;
        self.state = match length {
            _ if is_bodiless => State::Done,
            _ if chunked => State::Chunked(ChunkScanner::default()),
            Some(length) => State::Length(length),
            None => State::UntilClose,
        };
        Ok(Part::Head(taken, response, is_bodiless))
    }
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The head's status, the body, and whether it is whole, from bytes in pieces of this size.
    fn read(mut reader: Reader, bytes: &[u8], size: usize) -> (u16, Vec<u8>, bool) {
        let (mut status, mut body, mut interim) = (0, Vec::new(), 0);
        for mut piece in bytes.chunks(size) {
            while !piece.is_empty() {
                let taken = match reader.read(piece).unwrap() {
                    Part::Nothing(taken) | Part::End(taken) => taken,
                    Part::Interim(taken, _) => {
                        interim += 1;
                        taken
                    }
                    Part::Head(taken, head, _) => {
                        status = head.status().as_u16();
                        assert!(!head.headers().contains_key("connection"));
                        assert!(!head.headers().contains_key("transfer-encoding"));
                        taken
                    }
                    Part::Data(data) => {
                        body.extend_from_slice(data);
                        let taken = data.len();
                        reader.took(taken);
                        taken
                    }
                };
                piece = &piece[taken..];
            }
        }
        assert!(interim <= 1);
        (status, body, reader.is_done())
    }

    #[test]
    fn every_framing_is_read_however_it_is_cut() {
        let reader = || Reader::new(&Method::GET, false);
        for (bytes, status, body, whole) in [
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
                200,
                "hello",
                true,
            ),
            (
                "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\n\
                 Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nA\r\n\
                 0123456789\r\n0\r\nX-Sum: 1\r\n\r\n",
                200,
                "hello0123456789",
                true,
            ),
            ("HTTP/1.1 204 No Content\r\n\r\n", 204, "", true),
            (
                "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
                304,
                "",
                true,
            ),
            (
                "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n",
                502,
                "",
                true,
            ),
            (
                "HTTP/1.1 200 OK\r\n\r\nall there is",
                200,
                "all there is",
                false,
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ncut",
                200,
                "cut",
                false,
            ),
        ] {
            for size in 1..=bytes.len() {
                assert_eq!(
                    read(reader(), bytes.as_bytes(), size),
                    (status, body.into(), whole),
                    "{bytes:?} in pieces of {size}"
                );
            }
        }
        let head = Reader::new(&Method::HEAD, false);
        let bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
        assert_eq!(read(head, bytes, 7), (200, vec![], true));
    }

    #[test]
    fn a_switch_of_protocols_is_a_200_with_everything_behind_it() {
        let session = Reader::new(&Method::CONNECT, true);
        let bytes = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
            Sec-WebSocket-Accept: x\r\n\r\n\x81\x02hi";
        assert_eq!(
            read(session, bytes, 3),
            (200, b"\x81\x02hi".to_vec(), false)
        );
    }
}
