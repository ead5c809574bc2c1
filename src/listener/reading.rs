//! What a client sends, in the pieces that Pingora may have: a head that was found sound, then its
//! body to the last byte, then nothing until the next head is awaited.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, ReadBuf};

use super::stream::{ClientStream, Reading};
use crate::hygiene::Refusal;
use crate::hygiene::chunks::{Broken, ChunkScanner};
use crate::hygiene::framing::Framing;
use crate::hygiene::head::{self, HeadCheck, Sound};
use crate::hygiene::target;

/// What a client may send ahead while it is held.
const HELD_MAX: usize = 64 * 1024;

/// What Pingora gets instead of a head that is refused: the proxy answers it with the refusal.
const SUBSTITUTE: &[u8] = b"GET / HTTP/1.1\r\nHost: refused\r\n\r\n";

/// How much of a refused request line the log gets.
const LOGGED_MAX: usize = 1024;

/// A request that goes no further, and what it was as far as that can be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    pub refusal: Refusal,
    pub method: String,
    pub target: String,
}

/// What has come of one client, and how far Pingora may have it.
#[derive(Debug, Default)]
pub(super) struct Intake {
    /// Read from the socket, not yet given to Pingora.
    pub ahead: BytesMut,
    pub ended: bool,
    head: HeadCheck,
    /// So much of `ahead` is the rest of a sound head.
    ready: usize,
    body: Body,
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

impl Intake {
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

    /// The head is whole; `framing` is what its body has.
    fn begin(&mut self, framing: Framing) {
        self.head = HeadCheck::default();
        self.body = match framing {
            Framing::None => Body::Left(0),
            Framing::Length(length) => Body::Left(length),
            Framing::Chunked => Body::Chunked(ChunkScanner::default()),
        };
    }

    /// As [`Intake::begin`], of a head that stands in `ahead`.
    fn begin_waiting(&mut self, sound: &Sound) {
        self.begin(sound.framing);
        self.ready = sound.end;
        if let Some(odd) = &sound.odd {
            let encoded = target::encode_odd(&self.ahead[odd.clone()]);
            self.ready += encoded.len() - odd.len();
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
    pub(super) fn poll_reading(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.connection.reading() {
            Reading::Held => self.poll_held(cx),
            Reading::Open => self.poll_ahead_or_socket(cx, buf),
            Reading::Leave => self.poll_leave(cx),
            Reading::Body => self.poll_body(cx, buf),
            // A body that nobody wanted is read to its end before the next head.
            Reading::Head if !self.intake.body.is_done() => self.poll_body(cx, buf),
            Reading::Head if self.intake.ready > 0 => {
                self.intake.deliver_head(buf);
                Poll::Ready(Ok(()))
            }
            Reading::Head if self.ends_here() => Poll::Ready(Ok(())),
            Reading::Head if self.leaves_here() => self.poll_leave(cx),
            Reading::Head => self.poll_head(cx, buf),
        }
    }

    /// Fills `ahead` while nothing may be given out; ready only when the client is gone.
    fn poll_held(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.intake.ahead.len() < HELD_MAX && !self.intake.ended {
            ready!(self.poll_more(cx))?;
        }
        // Bytes that wait are to be read before the end is told.
        if self.intake.ended && self.intake.ahead.is_empty() {
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    }

    /// Reads into `ahead`.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut chunk = [MaybeUninit::uninit(); 4096];
        let mut buf = ReadBuf::uninit(&mut chunk);
        ready!(self.poll_socket(cx, &mut buf))?;
        self.intake.ended = buf.filled().is_empty();
        self.intake.ahead.extend_from_slice(buf.filled());
        Poll::Ready(Ok(()))
    }

    fn poll_ahead_or_socket(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.intake.ahead.is_empty() {
            self.intake.deliver(usize::MAX, buf);
            return Poll::Ready(Ok(()));
        }
        if self.intake.ended {
            return Poll::Ready(Ok(()));
        }
        self.poll_socket(cx, buf)
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
        if self.intake.ahead.is_empty() && !self.intake.ended {
            // Nearly every head comes whole and is given out from where it was read to.
            let before = buf.filled().len();
            ready!(self.poll_socket(cx, buf))?;
            let intake = &mut self.intake;
            intake.ended = buf.filled().len() == before;
            match intake.head.feed(&buf.filled()[before..]) {
                Ok(Some(sound)) if sound.odd.is_none() => {
                    intake.begin(sound.framing);
                    intake.put_back(buf, before + sound.end);
                    return Poll::Ready(Ok(()));
                }
                Ok(Some(sound)) => {
                    intake.put_back(buf, before);
                    intake.begin_waiting(&sound);
                    intake.deliver_head(buf);
                    return Poll::Ready(Ok(()));
                }
                Ok(None) => intake.put_back(buf, before),
                Err(refusal) => {
                    intake.put_back(buf, before);
                    self.refuse(refusal, buf);
                    return Poll::Ready(Ok(()));
                }
            }
        }
        loop {
            let intake = &mut self.intake;
            match intake.head.feed(&intake.ahead) {
                Ok(Some(sound)) => {
                    intake.begin_waiting(&sound);
                    intake.deliver_head(buf);
                    return Poll::Ready(Ok(()));
                }
                Ok(None) if !intake.ended => ready!(self.poll_more(cx))?,
                Ok(None) if intake.ahead.is_empty() => return Poll::Ready(Ok(())),
                Ok(None) => {
                    self.refuse(Refusal::bad("the connection ended within the head"), buf);
                    return Poll::Ready(Ok(()));
                }
                Err(refusal) => {
                    self.refuse(refusal, buf);
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }

    /// Gives out no byte behind the body's last one.
    fn poll_body(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.intake.body.is_done() {
            return self.poll_held(cx);
        }
        let before = buf.filled().len();
        ready!(self.poll_ahead_or_socket(cx, buf))?;
        match self.intake.body.feed(&buf.filled()[before..]) {
            Ok(part) => {
                self.intake.put_back(buf, before + part);
                Poll::Ready(Ok(()))
            }
            Err(Broken) => {
                buf.set_filled(before);
                let reason = "the body is not framed in chunks as it must be";
                self.connection.set_refused(Refused {
                    refusal: Refusal::bad(reason),
                    method: String::new(),
                    target: String::new(),
                });
                Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, reason)))
            }
        }
    }

    /// The proxy has to answer, so that the client is told and the log has a line: it gets a head
    /// of ours, and the refusal beside it.
    fn refuse(&mut self, refusal: Refusal, buf: &mut ReadBuf<'_>) {
        let (method, target) = head::asked(&self.intake.ahead);
        let text = |bytes: &[u8]| {
            String::from_utf8_lossy(&bytes[..bytes.len().min(LOGGED_MAX)]).into_owned()
        };
        self.connection.set_refused(Refused {
            refusal,
            method: text(method),
            target: text(target),
        });
        self.intake.begin(Framing::None);
        self.intake.ahead = BytesMut::from(SUBSTITUTE);
        self.intake.ready = SUBSTITUTE.len();
        self.intake.deliver_head(buf);
    }
}
