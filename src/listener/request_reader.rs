//! What a client sends, in the pieces that Pingora may have: a head that was found sound, then its
//! body to the last byte, then nothing until the next head is awaited.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use http::StatusCode;
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

use super::body_rate::BodyRate;
use super::client_stream::{ClientStream, Reading};
use crate::http1::Rejection;
use crate::http1::chunked::{Broken, ChunkScanner};
use crate::http1::framing::Framing;
use crate::http1::head::{self, HeadCheck, ValidHead};
use crate::http1::target;
use crate::limits::Cut;
use crate::net::pages;
use crate::upstream::MOST_IN_CHUNKS;

/// What a client may send ahead while it is held.
const HELD_MAX: usize = 64 * 1024;

/// What Pingora gets instead of a head that is refused: the proxy answers it with the rejection.
const SUBSTITUTE: &[u8] = b"GET / HTTP/1.1\r\nHost: refused\r\n\r\n";

pub(super) const CUT_HEAD: Rejection = Rejection::new(StatusCode::SERVICE_UNAVAILABLE, Cut::WORDS);

pub(super) const SLOW_HEAD: Rejection = Rejection::new(
    StatusCode::REQUEST_TIMEOUT,
    "the head did not arrive in the time that this listener gives it",
);

const LARGE_BODY: Rejection = Rejection::new(
    StatusCode::PAYLOAD_TOO_LARGE,
    "the body is larger than this listener takes",
);

const SLOW_BODY: Rejection = Rejection::new(
    StatusCode::REQUEST_TIMEOUT,
    "the body comes more slowly than this listener waits for it",
);

const BROKEN_BODY: Rejection = Rejection::bad("the body is not framed in chunks as it must be");

/// How much of a refused request line the log gets.
const LOGGED_MAX: usize = 1024;

/// A request that goes no further.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RejectedRequest {
    pub rejection: Rejection,
    /// What the log gets of a head that is not sound, so that Pingora has a head of ours instead.
    /// `None`: the head was sound and Pingora has it, so that the request may have a route.
    pub unsound: Option<Unsound>,
}

/// What a head that is not sound was, as far as that can be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsound {
    pub method: String,
    pub target: String,
}

/// What has come of one client, and how far Pingora may have it.
#[derive(Debug, Default)]
pub(super) struct RequestBuffer {
    /// Read from the socket, not yet given to Pingora.
    pub ahead: BytesMut,
    pub ended: bool,
    head: HeadCheck,
    /// So much of `ahead` is the rest of a sound head.
    ready: usize,
    body: Body,
    body_rate: BodyRate,
}

/// What is to come of the body of the request whose head Pingora has.
#[derive(Debug)]
enum Body {
    Left(u64),
    Chunked(ChunkScanner),
}

impl Default for Body {
    fn default() -> Self {
        Self::Left(0)
    }
}

impl Body {
    /// The bytes of a chunked one so far; the length of others was looked at before.
    fn content(&self) -> u64 {
        match self {
            Self::Left(_) => 0,
            Self::Chunked(chunks) => chunks.content(),
        }
    }

    fn is_done(&self) -> bool {
        match self {
            Self::Left(left) => *left == 0,
            Self::Chunked(chunks) => chunks.is_done(),
        }
    }

    /// How many of `bytes` belong to it.
    fn feed(&mut self, bytes: &[u8]) -> Result<usize, Broken> {
        match self {
            Self::Left(left) => {
                let part = bytes
                    .len()
                    .min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= part as u64;
                Ok(part)
            }
            Self::Chunked(chunks) => chunks.feed(bytes),
        }
    }
}

impl RequestBuffer {
    /// `early` has been read already.
    pub fn new(early: BytesMut) -> Self {
        Self {
            ahead: early,
            ..Self::default()
        }
    }

    fn deliver(&mut self, most: usize, buf: &mut ReadBuf<'_>) -> usize {
        let part = self.ahead.len().min(most).min(buf.remaining());
        buf.put_slice(&self.ahead[..part]);
        self.ahead.advance(part);
        if self.ahead.is_empty() {
            self.ahead = BytesMut::new();
        }
        part
    }

    fn deliver_head(&mut self, buf: &mut ReadBuf<'_>) {
        self.ready -= self.deliver(self.ready, buf);
    }

    /// The head is whole.
    fn begin(&mut self, sound: &ValidHead) {
        self.body_rate = BodyRate::new(sound.expects);
        self.begin_body(sound.framing);
    }

    fn begin_body(&mut self, framing: Framing) {
        self.head = HeadCheck::default();
        self.body = match framing {
            Framing::None => Body::Left(0),
            Framing::Length(length) => Body::Left(length),
            Framing::Chunked => Body::Chunked(ChunkScanner::default()),
        };
    }

    /// As [`RequestBuffer::begin`], of a head that stands in `ahead`.
    fn begin_waiting(&mut self, sound: &ValidHead) {
        self.begin(sound);
        self.ready = sound.end;
        if let Some(odd) = &sound.odd {
            let sent = match &sound.respelt {
                Some((authority, host)) => [
                    &self.ahead[odd.start..authority.start],
                    &self.ahead[host.clone()],
                    &self.ahead[authority.end..odd.end],
                ]
                .concat(),
                None => self.ahead[odd.clone()].to_vec(),
            };
            let encoded = target::encode_odd(&sent);
            // It may be shorter: a port that was left out.
            self.ready = self.ready - odd.len() + encoded.len();
            let parts = [&self.ahead[..odd.start], &encoded, &self.ahead[odd.end..]];
            self.ahead = BytesMut::from(&parts.concat()[..]);
        }
    }

    /// Gives back to `ahead` what stands in `buf` from `end` on.
    fn put_back(&mut self, buf: &mut ReadBuf<'_>, end: usize) {
        if buf.filled().len() > end {
            let mut behind = BytesMut::from(&buf.filled()[end..]);
            behind.unsplit(self.ahead.split());
            self.ahead = behind;
            buf.set_filled(end);
        }
    }
}

impl ClientStream {
    /// Whether what comes next is a head, or the rest of one.
    pub(super) fn awaits_head(&self) -> bool {
        let buffer = &self.buffer;
        self.connection.reading() == Reading::Head
            && buffer.body.is_done()
            && buffer.ready == 0
            && self.io.is_some()
    }

    /// The time for it is up: a client that has begun to ask is told, to others the connection just
    /// ends.
    pub(super) fn end_wait_for_head(&mut self, rejection: Rejection, buf: &mut ReadBuf<'_>) {
        self.connection.clear_deadline();
        if !self.buffer.ahead.is_empty() {
            self.refuse(rejection, buf);
        }
    }

    pub(super) fn poll_reading(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.connection.reading() {
            Reading::Held => self.poll_held(cx),
            Reading::Answered => self.poll_answered(cx),
            Reading::Open => self.poll_tunnel(cx, buf),
            Reading::Leave => self.poll_leave(cx),
            Reading::Body => self.poll_body(cx, buf),
            // A body that nobody wanted is read to its end before the next head.
            Reading::Head if !self.buffer.body.is_done() => self.poll_body(cx, buf),
            Reading::Head if self.buffer.ready > 0 => {
                self.buffer.deliver_head(buf);
                Poll::Ready(Ok(()))
            }
            Reading::Head if self.ends_here() || self.is_barred() => Poll::Ready(Ok(())),
            Reading::Head if self.leaves_here() => self.poll_leave(cx),
            Reading::Head => self.poll_head(cx, buf),
        }
    }

    /// Fills `ahead` while nothing may be given out; ready only when the client is gone.
    fn poll_held(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.buffer.ahead.len() < HELD_MAX && !self.buffer.ended {
            ready!(self.poll_more(cx))?;
        }
        // Bytes that wait are to be read before the end is told.
        if self.buffer.ended && self.buffer.ahead.is_empty() {
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    }

    /// As [`Self::poll_held`], but the end of what the client sends is not that of the client: it
    /// may have ended its own direction only. Whether it has left altogether shows when it is
    /// written to.
    fn poll_answered(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_held(cx))?;
        Poll::Pending
    }

    /// Reads into `ahead`.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut chunk = [MaybeUninit::uninit(); 4096];
        let mut buf = ReadBuf::uninit(&mut chunk);
        ready!(self.poll_socket(cx, &mut buf))?;
        self.buffer.ended = buf.filled().is_empty();
        self.buffer.ahead.extend_from_slice(buf.filled());
        Poll::Ready(Ok(()))
    }

    /// At most `most` bytes.
    pub(super) fn poll_ahead_or_socket(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
        most: usize,
    ) -> Poll<io::Result<()>> {
        if !self.buffer.ahead.is_empty() {
            self.buffer.deliver(most, buf);
            return Poll::Ready(Ok(()));
        }
        if self.buffer.ended {
            return Poll::Ready(Ok(()));
        }
        match &mut self.io {
            Some(io) => Pin::new(&mut io.take(most as u64)).poll_read(cx, buf),
            None => Poll::Ready(Ok(())),
        }
    }

    /// Nothing more comes from a socket that has left.
    fn poll_socket(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Some(io) => Pin::new(io).poll_read(cx, buf),
            None => Poll::Ready(Ok(())),
        }
    }

    /// Gives out a head when it is whole and sound, and its substitute when it is refused.
    fn poll_head(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.buffer.head.is_new() {
            self.buffer.head = HeadCheck::new(self.connection.state.limits().head);
        }
        if self.buffer.ahead.is_empty() && !self.buffer.ended {
            // Nearly every head comes whole and is given out from where it was read to.
            let before = buf.filled().len();
            ready!(self.poll_socket(cx, buf))?;
            let buffer = &mut self.buffer;
            buffer.ended = buf.filled().len() == before;
            let checked = buffer.head.feed(&buf.filled()[before..]);
            match checked {
                Ok(Some(sound)) if self.is_too_long(&sound) => {
                    self.buffer.put_back(buf, before);
                    self.refuse_length(&sound, buf);
                    return Poll::Ready(Ok(()));
                }
                Ok(Some(sound)) if sound.odd.is_none() => {
                    let buffer = &mut self.buffer;
                    buffer.begin(&sound);
                    buffer.put_back(buf, before + sound.end);
                    return Poll::Ready(Ok(()));
                }
                Ok(Some(sound)) => {
                    let buffer = &mut self.buffer;
                    buffer.put_back(buf, before);
                    buffer.begin_waiting(&sound);
                    buffer.deliver_head(buf);
                    return Poll::Ready(Ok(()));
                }
                Ok(None) => self.buffer.put_back(buf, before),
                Err(rejection) => {
                    self.buffer.put_back(buf, before);
                    self.refuse(rejection, buf);
                    return Poll::Ready(Ok(()));
                }
            }
        }
        loop {
            let buffer = &mut self.buffer;
            let checked = buffer.head.feed(&buffer.ahead);
            match checked {
                Ok(Some(sound)) if self.is_too_long(&sound) => {
                    self.refuse_length(&sound, buf);
                    return Poll::Ready(Ok(()));
                }
                Ok(Some(sound)) => {
                    self.buffer.begin_waiting(&sound);
                    self.buffer.deliver_head(buf);
                    return Poll::Ready(Ok(()));
                }
                Ok(None) if !self.buffer.ended => {
                    if !self.buffer.ahead.is_empty() {
                        self.connection.begin_head();
                    }
                    ready!(self.poll_more(cx))?;
                }
                Ok(None) if self.buffer.ahead.is_empty() => return Poll::Ready(Ok(())),
                Ok(None) => {
                    self.refuse(Rejection::bad("the connection ended within the head"), buf);
                    return Poll::Ready(Ok(()));
                }
                Err(rejection) => {
                    self.refuse(rejection, buf);
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }

    /// A body that is said to be too large need not be sent.
    fn is_too_long(&self, sound: &ValidHead) -> bool {
        let most = self.connection.state.limits().body_size;
        most.is_some_and(|most| sound.framing.length() > most)
    }

    /// The head stands in `ahead` and is sound, so that Pingora gets it: the rules of its route hold
    /// for the rejection. It gets it without the body, which nobody reads.
    fn refuse_length(&mut self, sound: &ValidHead, buf: &mut ReadBuf<'_>) {
        self.connection.set_refused(RejectedRequest {
            rejection: LARGE_BODY,
            unsound: None,
        });
        let buffer = &mut self.buffer;
        buffer.begin_waiting(sound);
        let head = head::without_body(&buffer.ahead[..buffer.ready]);
        self.give_instead(&head, buf);
    }

    /// Gives out no byte behind the body's last one.
    fn poll_body(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.buffer.body.is_done() {
            return self.poll_answered(cx);
        }
        let before = buf.filled().len();
        let room = match self.connection.reading() {
            Reading::Body => {
                let room = self.connection.flow().request_room();
                match self.buffer.body {
                    Body::Chunked(_) => room.min(MOST_IN_CHUNKS),
                    Body::Left(_) => room,
                }
            }
            // Nobody wants it.
            _ => usize::MAX,
        };
        if room == 0 {
            // The server has not taken what there is; whether the client has gone is not known.
            if self.connection.flow().server_takes_back() {
                pages::give_back(buf);
            }
            return Poll::Pending;
        }
        let rate = self.connection.state.limits().body_rate;
        match (self.poll_ahead_or_socket(cx, buf, room), rate) {
            (Poll::Pending, None) => return Poll::Pending,
            (Poll::Pending, Some(rate)) => match self.buffer.body_rate.left(rate) {
                Some(left) => {
                    // Polled again when it is over.
                    self.connection.set_end(left);
                    return Poll::Pending;
                }
                None => {
                    self.connection.deadlines.clear_end();
                    return Poll::Ready(self.refuse_body(SLOW_BODY));
                }
            },
            (Poll::Ready(read), rate) => {
                read?;
                if rate.is_some() {
                    self.buffer.body_rate.go_on(buf.filled().len() - before);
                    self.connection.deadlines.clear_end();
                }
            }
        }
        let read = buf.filled().len() - before;
        self.connection.flow().read_of_request(read);
        let Ok(part) = self.buffer.body.feed(&buf.filled()[before..]) else {
            buf.set_filled(before);
            return Poll::Ready(self.refuse_body(BROKEN_BODY));
        };
        let most = self.connection.state.limits().body_size;
        if self.buffer.body.content() > most.unwrap_or(u64::MAX) {
            buf.set_filled(before);
            return Poll::Ready(self.refuse_body(LARGE_BODY));
        }
        self.buffer.put_back(buf, before + part);
        Poll::Ready(Ok(()))
    }

    /// It was a request until now: the proxy finds the rejection behind the error.
    fn refuse_body(&self, rejection: Rejection) -> io::Result<()> {
        self.connection.set_refused(RejectedRequest {
            rejection,
            unsound: None,
        });
        Err(io::Error::new(io::ErrorKind::InvalidData, rejection.reason))
    }

    /// The proxy has to answer, so that the client is told and the log has a line: it gets a head
    /// of ours, and the rejection beside it.
    fn refuse(&mut self, rejection: Rejection, buf: &mut ReadBuf<'_>) {
        let (method, target) = head::asked(&self.buffer.ahead);
        let text = |bytes: &[u8]| {
            String::from_utf8_lossy(&bytes[..bytes.len().min(LOGGED_MAX)]).into_owned()
        };
        self.connection.set_refused(RejectedRequest {
            rejection,
            unsound: Some(Unsound {
                method: text(method),
                target: text(target),
            }),
        });
        self.give_instead(SUBSTITUTE, buf);
    }

    /// Nothing of what has come is looked at any more.
    fn give_instead(&mut self, head: &[u8], buf: &mut ReadBuf<'_>) {
        self.buffer.begin_body(Framing::None);
        self.buffer.ahead = BytesMut::from(head);
        self.buffer.ready = head.len();
        self.buffer.deliver_head(buf);
    }
}
