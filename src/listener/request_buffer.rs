//! What has come of a client and Pingora has not got yet: bytes, and how far they may go.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use http::StatusCode;
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

use super::body_rate::BodyRate;
use super::client_stream::ClientStream;
use super::connection::Reading;
use crate::http1::Rejection;
use crate::http1::chunked::{Broken, ChunkScanner};
use crate::http1::framing::Framing;
use crate::http1::head::{self, HeadCheck, ValidHead};
use crate::http1::target;
use crate::limits::Cut;
use crate::net::pages;
use crate::upstream::MOST_IN_CHUNKS;

pub(super) const CUT_HEAD: Rejection = Rejection::new(StatusCode::SERVICE_UNAVAILABLE, Cut::WORDS);

pub(super) const SLOW_HEAD: Rejection = Rejection::new(
    StatusCode::REQUEST_TIMEOUT,
    "the head did not arrive in the time that this listener gives it",
);

/// What has come of one client, and how far Pingora may have it.
#[derive(Debug, Default)]
pub(super) struct RequestBuffer {
    /// Read from the socket, not yet given to Pingora.
    pub ahead: BytesMut,
    pub ended: bool,
    pub head: HeadCheck,
    /// So much of `ahead` is the rest of a sound head.
    pub ready: usize,
    pub body: Body,
    pub body_rate: BodyRate,
}

/// What is to come of the body of the request whose head Pingora has.
#[derive(Debug)]
pub(super) enum Body {
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
    pub fn content(&self) -> u64 {
        match self {
            Self::Left(_) => 0,
            Self::Chunked(chunks) => chunks.content(),
        }
    }

    pub fn is_done(&self) -> bool {
        match self {
            Self::Left(left) => *left == 0,
            Self::Chunked(chunks) => chunks.is_done(),
        }
    }

    /// How many of `bytes` belong to it.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<usize, Broken> {
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

    pub fn deliver(&mut self, most: usize, buf: &mut ReadBuf<'_>) -> usize {
        let part = self.ahead.len().min(most).min(buf.remaining());
        buf.put_slice(&self.ahead[..part]);
        self.ahead.advance(part);
        if self.ahead.is_empty() {
            self.ahead = BytesMut::new();
        }
        part
    }

    pub fn deliver_head(&mut self, buf: &mut ReadBuf<'_>) {
        self.ready -= self.deliver(self.ready, buf);
    }

    /// The head is whole.
    pub fn begin(&mut self, sound: &ValidHead) {
        self.body_rate = BodyRate::new(sound.expects);
        self.begin_body(sound.framing);
    }

    pub fn begin_body(&mut self, framing: Framing) {
        self.head = HeadCheck::default();
        self.body = match framing {
            Framing::None => Body::Left(0),
            Framing::Length(length) => Body::Left(length),
            Framing::Chunked => Body::Chunked(ChunkScanner::default()),
        };
    }

    /// As [`RequestBuffer::begin`], of a head that stands in `ahead`.
    pub fn begin_waiting(&mut self, sound: &ValidHead) {
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
    pub fn put_back(&mut self, buf: &mut ReadBuf<'_>, end: usize) {
        if buf.filled().len() > end {
            let mut behind = BytesMut::from(&buf.filled()[end..]);
            behind.unsplit(self.ahead.split());
            self.ahead = behind;
            buf.set_filled(end);
        }
    }
}
