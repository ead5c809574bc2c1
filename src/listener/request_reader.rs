//! Splits what a client sends into the pieces that Pingora may have: a head that was found sound,
//! then the body to its last byte, then nothing until the next head is awaited.

use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use http::StatusCode;
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

use super::body_rate::BodyRate;
use super::connection::{Connection, Reading};
use super::rejected::{RejectedRequest, Unsound};
use super::request_body::Body;
use crate::http1::Rejection;
use crate::http1::framing::Framing;
use crate::http1::head::{self, HeadCheck, ValidHead};
use crate::http1::target;
use crate::limits::Cut;
use crate::net::pages;
use crate::upstream::MOST_OF_REQUEST_IN_CHUNKS;

/// How much a client may send ahead while reading is held.
const HELD_MAX: usize = 64 * 1024;

/// The head that Pingora gets instead of a refused one. The proxy answers it with the rejection.
const SUBSTITUTE: &[u8] = b"GET / HTTP/1.1\r\nHost: refused\r\n\r\n";

pub(super) const CUT_HEAD: Rejection = Rejection::new(StatusCode::SERVICE_UNAVAILABLE, Cut::WORDS);

pub(super) const SLOW_HEAD: Rejection = Rejection::new(
    StatusCode::REQUEST_TIMEOUT,
    "the head did not arrive in the time that this listener gives it",
);

pub const LARGE_BODY: Rejection = Rejection::new(
    StatusCode::PAYLOAD_TOO_LARGE,
    "the body is larger than is taken here",
);

const SLOW_BODY: Rejection = Rejection::new(
    StatusCode::REQUEST_TIMEOUT,
    "the body comes more slowly than this listener waits for it",
);

const BROKEN_BODY: Rejection = Rejection::bad("the body is not framed in chunks as it must be");

/// How much of a refused request line goes into the log.
const LOGGED_MAX: usize = 1024;

/// What has come from one client, and how much of it Pingora may have.
#[derive(Debug, Default)]
pub(super) struct RequestReader {
    /// Bytes that were read from the socket and not yet given to Pingora.
    ahead: BytesMut,
    /// Whether the client has ended its data.
    ended: bool,
    head: HeadCheck,
    /// How many bytes of `ahead` are the rest of a sound head.
    ready: usize,
    body: Body,
    body_rate: BodyRate,
}

impl RequestReader {
    /// `early`: bytes that were already read.
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

    /// Called when the head is whole.
    fn begin(&mut self, sound: &ValidHead) {
        self.body_rate = BodyRate::new(sound.expects);
        self.begin_body(sound.framing);
    }

    fn begin_body(&mut self, framing: Framing) {
        self.head = HeadCheck::default();
        self.body = Body::new(framing);
    }

    /// Like [`RequestReader::begin`], for a head that is in `ahead`.
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
            // The new head may be shorter, because a port was left out.
            self.ready = self.ready - odd.len() + encoded.len();
            let parts = [&self.ahead[..odd.start], &encoded, &self.ahead[odd.end..]];
            self.ahead = BytesMut::from(&parts.concat()[..]);
        }
    }

    /// Moves the bytes of `buf` from `end` on back to `ahead`.
    fn put_back(&mut self, buf: &mut ReadBuf<'_>, end: usize) {
        if buf.filled().len() > end {
            let mut behind = BytesMut::from(&buf.filled()[end..]);
            behind.unsplit(self.ahead.split());
            self.ahead = behind;
            buf.set_filled(end);
        }
    }
}

impl RequestReader {
    /// Whether no bytes wait here for Pingora.
    pub fn is_empty(&self) -> bool {
        self.ahead.is_empty()
    }

    /// Whether the client has ended its data.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Bytes that Pingora has not got, for the next reader of the socket.
    pub fn take_early(&mut self) -> BytesMut {
        self.ahead.split()
    }

    /// Whether Pingora has the whole request, so that the next bytes belong to a head.
    pub fn is_between_requests(&self) -> bool {
        self.body.is_done() && self.ready == 0
    }

    /// The time for a head is up. A client that has begun a request is told so; for others the
    /// connection just ends.
    pub fn end_wait_for_head(
        &mut self,
        rejection: Rejection,
        connection: &Connection,
        buf: &mut ReadBuf<'_>,
    ) {
        connection.clear_deadline();
        if !self.ahead.is_empty() {
            self.refuse(rejection, connection, buf);
        }
    }

    /// Gives out what is due of a request. With `None` for a socket that has departed, nothing more
    /// comes.
    pub fn poll<S: AsyncRead + Unpin>(
        &mut self,
        socket: &mut Option<S>,
        connection: &Connection,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // A body that nobody wanted is read to its end before the next head.
        if connection.reading() == Reading::Body || !self.body.is_done() {
            return self.poll_body(socket, connection, cx, buf);
        }
        if self.ready > 0 {
            self.deliver_head(buf);
            return Poll::Ready(Ok(()));
        }
        self.poll_head(socket, connection, cx, buf)
    }

    /// Fills `ahead` while nothing may be given out. Ready only when the client is gone.
    pub fn poll_held<S: AsyncRead + Unpin>(
        &mut self,
        socket: &mut Option<S>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while self.ahead.len() < HELD_MAX && !self.ended {
            ready!(self.poll_more(socket, cx))?;
        }
        // Bytes that wait must be read before the end is reported.
        if self.ended && self.ahead.is_empty() {
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    }

    /// Like [`Self::poll_held`], but the end of the client's data does not mean that the client is
    /// gone: it may have ended only its own direction. Whether it is gone shows when something is
    /// written to it.
    pub fn poll_answered<S: AsyncRead + Unpin>(
        &mut self,
        socket: &mut Option<S>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_held(socket, cx))?;
        Poll::Pending
    }

    /// Reads into `ahead`.
    fn poll_more<S: AsyncRead + Unpin>(
        &mut self,
        socket: &mut Option<S>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let mut chunk = [MaybeUninit::uninit(); 4096];
        let mut buf = ReadBuf::uninit(&mut chunk);
        ready!(poll_socket(socket, cx, &mut buf))?;
        self.ended = buf.filled().is_empty();
        self.ahead.extend_from_slice(buf.filled());
        Poll::Ready(Ok(()))
    }

    /// Reads at most `most` bytes, from `ahead` or else from the socket.
    pub fn poll_ahead_or_socket<S: AsyncRead + Unpin>(
        &mut self,
        socket: &mut Option<S>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
        most: usize,
    ) -> Poll<io::Result<()>> {
        if !self.ahead.is_empty() {
            self.deliver(most, buf);
            return Poll::Ready(Ok(()));
        }
        if self.ended {
            return Poll::Ready(Ok(()));
        }
        match socket {
            Some(socket) => pin!(socket.take(most as u64)).poll_read(cx, buf),
            None => Poll::Ready(Ok(())),
        }
    }

    /// Gives out a head when it is whole and sound, or a substitute when it is refused.
    fn poll_head<S: AsyncRead + Unpin>(
        &mut self,
        socket: &mut Option<S>,
        connection: &Connection,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.head.is_new() {
            self.head = HeadCheck::new(connection.state().limits().head);
        }
        if self.ahead.is_empty()
            && !self.ended
            && ready!(self.poll_fresh_head(socket, connection, cx, buf))?
        {
            return Poll::Ready(Ok(()));
        }
        loop {
            let checked = self.head.feed(&self.ahead);
            match checked {
                Ok(Some(sound)) if is_too_long(&sound, connection) => {
                    self.refuse_length(&sound, connection, buf);
                    return Poll::Ready(Ok(()));
                }
                Ok(Some(sound)) => {
                    self.begin_waiting(&sound);
                    self.deliver_head(buf);
                    return Poll::Ready(Ok(()));
                }
                Ok(None) if !self.ended => {
                    if !self.ahead.is_empty() {
                        connection.begin_head();
                    }
                    ready!(self.poll_more(socket, cx))?;
                }
                Ok(None) if self.ahead.is_empty() => return Poll::Ready(Ok(())),
                Ok(None) => {
                    let rejection = Rejection::bad("the connection ended within the head");
                    self.refuse(rejection, connection, buf);
                    return Poll::Ready(Ok(()));
                }
                Err(rejection) => {
                    self.refuse(rejection, connection, buf);
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }

    /// The fast path: nearly every head comes whole, and is given out where it was read to. Returns
    /// true then.
    fn poll_fresh_head<S: AsyncRead + Unpin>(
        &mut self,
        socket: &mut Option<S>,
        connection: &Connection,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<bool>> {
        let before = buf.filled().len();
        ready!(poll_socket(socket, cx, buf))?;
        self.ended = buf.filled().len() == before;
        let checked = self.head.feed(&buf.filled()[before..]);
        match checked {
            Ok(Some(sound)) if is_too_long(&sound, connection) => {
                self.put_back(buf, before);
                self.refuse_length(&sound, connection, buf);
                Poll::Ready(Ok(true))
            }
            Ok(Some(sound)) if sound.odd.is_none() => {
                self.begin(&sound);
                self.put_back(buf, before + sound.end);
                Poll::Ready(Ok(true))
            }
            Ok(Some(sound)) => {
                self.put_back(buf, before);
                self.begin_waiting(&sound);
                self.deliver_head(buf);
                Poll::Ready(Ok(true))
            }
            Ok(None) => {
                self.put_back(buf, before);
                Poll::Ready(Ok(false))
            }
            Err(rejection) => {
                self.put_back(buf, before);
                self.refuse(rejection, connection, buf);
                Poll::Ready(Ok(true))
            }
        }
    }

    /// The head is in `ahead` and is sound. Pingora gets it, so that the rules of its route hold
    /// for the rejection, but without the body, which nobody reads.
    fn refuse_length(&mut self, sound: &ValidHead, connection: &Connection, buf: &mut ReadBuf<'_>) {
        connection.set_refused(RejectedRequest {
            rejection: LARGE_BODY,
            unsound: None,
        });
        self.begin_waiting(sound);
        let head = head::without_body(&self.ahead[..self.ready]);
        self.give_instead(&head, buf);
    }

    /// Gives out no byte after the last byte of the body.
    fn poll_body<S: AsyncRead + Unpin>(
        &mut self,
        socket: &mut Option<S>,
        connection: &Connection,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.body.is_done() {
            return self.poll_answered(socket, cx);
        }
        let before = buf.filled().len();
        let room = match connection.reading() {
            Reading::Body => {
                let room = connection.flow().request_room();
                match self.body {
                    Body::Chunked(_) => room.min(MOST_OF_REQUEST_IN_CHUNKS),
                    Body::Remaining(_) => room,
                }
            }
            // Nobody wants the body.
            _ => usize::MAX,
        };
        if room == 0 {
            // The server has not taken the bytes so far, and it is not known whether the client is
            // gone.
            if connection.flow().server_takes_back() {
                pages::give_back(buf);
            }
            return Poll::Pending;
        }
        let rate = connection.state().limits().body_rate;
        match (self.poll_ahead_or_socket(socket, cx, buf, room), rate) {
            (Poll::Pending, None) => return Poll::Pending,
            (Poll::Pending, Some(rate)) => match self.body_rate.remaining(rate) {
                Some(remaining) => {
                    // The stream is polled again when this time is over.
                    connection.set_end(remaining);
                    return Poll::Pending;
                }
                None => {
                    connection.deadlines().clear_end();
                    return Poll::Ready(refuse_body(connection, SLOW_BODY));
                }
            },
            (Poll::Ready(read), rate) => {
                read?;
                if rate.is_some() {
                    self.body_rate.go_on(buf.filled().len() - before);
                    connection.deadlines().clear_end();
                }
            }
        }
        let read = buf.filled().len() - before;
        connection.flow().read_of_request(read);
        let Ok(part) = self.body.feed(&buf.filled()[before..]) else {
            buf.set_filled(before);
            return Poll::Ready(refuse_body(connection, BROKEN_BODY));
        };
        if self.body.content() > connection.most_of_body() {
            buf.set_filled(before);
            return Poll::Ready(refuse_body(connection, LARGE_BODY));
        }
        self.put_back(buf, before + part);
        Poll::Ready(Ok(()))
    }

    /// Refuses a head. The proxy has to answer so that the client is told and the log has a line,
    /// so Pingora gets a head of ours, and the proxy gets the rejection.
    fn refuse(&mut self, rejection: Rejection, connection: &Connection, buf: &mut ReadBuf<'_>) {
        let (method, target) = head::asked(&self.ahead);
        let text = |bytes: &[u8]| {
            String::from_utf8_lossy(&bytes[..bytes.len().min(LOGGED_MAX)]).into_owned()
        };
        connection.set_refused(RejectedRequest {
            rejection,
            unsound: Some(Unsound {
                method: text(method),
                target: text(target),
            }),
        });
        self.give_instead(SUBSTITUTE, buf);
    }

    /// Gives out `head`, and ignores all that has come.
    fn give_instead(&mut self, head: &[u8], buf: &mut ReadBuf<'_>) {
        self.begin_body(Framing::None);
        self.ahead = BytesMut::from(head);
        self.ready = head.len();
        self.deliver_head(buf);
    }
}

/// Reads from the socket. Nothing more comes from one that has departed.
fn poll_socket<S: AsyncRead + Unpin>(
    socket: &mut Option<S>,
    cx: &mut Context<'_>,
    buf: &mut ReadBuf<'_>,
) -> Poll<io::Result<()>> {
    match socket {
        Some(socket) => Pin::new(socket).poll_read(cx, buf),
        None => Poll::Ready(Ok(())),
    }
}

/// Whether the body is too large by its own header for every route of the listener, so that it need
/// not be sent. The proxy looks at the limit of the route.
fn is_too_long(sound: &ValidHead, connection: &Connection) -> bool {
    let most = connection.state().limits().body_size;
    most.is_some_and(|most| sound.framing.length() > most)
}

/// The request was accepted before its body broke: the proxy finds the rejection when it handles
/// the error.
fn refuse_body(connection: &Connection, rejection: Rejection) -> io::Result<()> {
    connection.set_refused(RejectedRequest {
        rejection,
        unsound: None,
    });
    Err(io::Error::new(io::ErrorKind::InvalidData, rejection.reason))
}

#[cfg(test)]
mod tests;
