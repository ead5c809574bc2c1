//! The goodbye of a session in Pingora's tunnel: what [`Goodbye`] decides is done here between Pingora's
//! reads and writes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::Instant;

use super::{Phase, TunnelStream};
use crate::session::direction::Direction;
use crate::session::goodbye::{
    CLOSE_WAIT, Goodbye, Limit, Next, Position, Says, Side, Takes, TimeUp,
};
use crate::session::traffic::ClosedBy;
use crate::websocket::frames::{CloseCode, FrameScanner, close_to_client, close_to_server};

impl TunnelStream {
    /// The client is told at once when the stream to it stands at a frame boundary; else when the frame
    /// that is passing has passed, for which it gets as long as a goodbye.
    pub(super) fn begin_close(&mut self, by: ClosedBy, code: u16) {
        let is_cause = self.traffic.close(by, None);
        let [client, server] = self.sides();
        let (goodbye, wait) = Goodbye::begin_with_one_moment(code, client, server);
        self.timer.as_mut().reset(Instant::now() + wait);
        self.phase = Phase::Ending { goodbye, is_cause };
        self.next_to_client();
    }

    /// Client and server, as the goodbye has to know them. What the server says when the client has
    /// answered is not waited for: an end is all that Pingora can be told, and it ends both.
    fn sides(&self) -> [Side; 2] {
        let side = |scanner, takes| Side {
            says: Says::of(scanner),
            has_ended: false,
            takes,
            has_got_all: true,
        };
        [
            side(&self.to_server, Takes::More),
            side(&self.to_client, Takes::Nothing),
        ]
    }

    fn is_over(&self) -> bool {
        let [client, server] = self.sides();
        match &self.phase {
            Phase::Ending { goodbye, .. } => goodbye.is_over(client, server),
            Phase::Ended => true,
            Phase::Fresh | Phase::Head | Phase::Response | Phase::Open { .. } => false,
        }
    }

    /// What is done next towards the client. If it is time for our Close frame, that is put in, and
    /// the server is told in the same moment. There is no later one: we are called for the server only
    /// when Pingora writes what the client has said, and a client that does not answer says nothing.
    fn next_to_client(&mut self) -> Next {
        let Phase::Ending { goodbye, is_cause } = &mut self.phase else {
            return Next::Discard;
        };
        let next = goodbye.next(Direction::ToClient, position(&self.to_client));
        let Next::Say(code) = next else {
            return next;
        };
        if *is_cause {
            self.traffic.set_close_code(CloseCode::Code(code));
        }
        self.heads.behind.extend_from_slice(&close_to_client(code));
        if let Some(code) = goodbye.tell_server_now(position(&self.to_server)) {
            let frame = close_to_server(code, rand::random());
            // It is 8 bytes. Should only a part of them go, nothing may follow that either.
            if self.io.send_at_once(&frame) == 0 {
                goodbye.server_took_nothing();
            }
        }
        // The client has all of the time for its answer, however long its last frame has taken.
        self.timer.as_mut().reset(Instant::now() + CLOSE_WAIT);
        next
    }

    pub(super) fn poll_ending(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Phase::Ended = self.phase {
            return Poll::Ready(Ok(()));
        }
        let mut next = self.next_to_client();
        if matches!(next, Next::Say(_)) {
            next = self.next_to_client();
        }
        if self.heads.deliver_behind(buf) {
            return Poll::Ready(Ok(()));
        }
        if let Next::Pass(limit) = next
            && let Poll::Ready(has_passed) = self.poll_pass(cx, buf, limit)
        {
            if !has_passed {
                // The server is gone: in the middle of a frame no Close frame can be put in.
                self.phase = Phase::Ended;
            }
            return Poll::Ready(Ok(()));
        }
        if !self.is_over() {
            ready!(self.poll_time_up(cx));
        }
        self.phase = Phase::Ended;
        Poll::Ready(Ok(()))
    }

    /// Passes what the server sends, and not a byte more than the goodbye allows. False: it has ended.
    fn poll_pass(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
        limit: Limit,
    ) -> Poll<bool> {
        let before = buf.filled().len();
        let read = ready!(Pin::new(&mut self.io).poll_read(cx, buf));
        if read.is_err() || buf.filled().len() == before {
            return Poll::Ready(false);
        }
        if limit == Limit::Frame {
            let rest = self.to_client.left_of_frame(&buf.filled()[before..]);
            buf.set_filled(before + rest);
        }
        self.observe_to_client(&buf.filled()[before..]);
        self.next_to_client();
        Poll::Ready(true)
    }

    /// Ready when nobody is waited for any longer.
    pub(super) fn poll_time_up(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.timer.as_mut().poll(cx));
            let Phase::Ending { goodbye, .. } = &mut self.phase else {
                return Poll::Ready(());
            };
            match goodbye.time_is_up() {
                TimeUp::Again(wait) => self.timer.as_mut().reset(Instant::now() + wait),
                TimeUp::Cut => return Poll::Ready(()),
            }
        }
    }
}

/// A header passes here before it is whole: within it is no boundary, and behind a broken one is none
/// any more.
pub(super) fn position(scanner: &FrameScanner) -> Position {
    if scanner.at_boundary() {
        Position::Boundary
    } else {
        Position::InFrame
    }
}
