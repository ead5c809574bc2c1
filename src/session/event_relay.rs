//! Carries an event stream from its server to its client, once both sockets have left Pingora.
//!
//! ```text
//!   server ──► out of its framing ──► scanner ──► into chunks ──► waiting ──► client
//!                                                                        ◄── its end
//! ```
//!
//! As in the relay of frames, what is read goes straight out, from a buffer that all sessions of a
//! thread share, and only what the client does not take waits. Each read becomes one chunk, so
//! every event passes at once, and what waits is always whole chunks.
//!
//! ```text
//!   Passing ──┬─ an order, or a limit ──► Ending ─ between two events ─┬─► Said ─ sent ─► over
//!             └─ the server has ended its answer ──────────────────────┘
//! ```
//!
//! `Ending` and `Said` have a time limit, after which the stream is cut: then no last chunk tells
//! the client that it had everything. So it is when the server breaks off.

mod clock;
#[cfg(test)]
mod tests;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::expiry::Alarm;
use super::goodbye::CLOSE_WAIT;
use super::lazy_timer::LazyTimer;
use super::leg::{Leg, SendState};
use super::relay::{Clocks, HALF_CLOSED, Limits, Outcome, SCRATCH, TURNS};
use super::traffic::{ClosedBy, Order, Traffic};
use crate::event_stream::EventScanner;
use crate::http1::body::{Body, CHUNK_END, LAST_CHUNK, SIZE_LINE_MAX, size_line};

/// A client has nothing to say on its connection any more. One that goes on for longer than this is
/// cut.
const UNASKED_MAX: usize = 64 * 1024;

/// How the client finds the end of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientFraming {
    Chunked,
    /// For HTTP/1.0: by the end of the connection.
    UntilClose,
}

/// What the server sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerStream {
    pub body: Body,
    /// `None`: the stream is encoded (`Content-Encoding`), and events cannot be seen.
    pub events: Option<EventScanner>,
}

#[derive(Debug)]
pub struct EventRelay {
    pub client: Leg<()>,
    pub server: Leg<ServerStream>,
    pub framing: ClientFraming,
    pub traffic: Arc<Traffic>,
    pub limits: Limits,
    /// When its credential ends. Boxed, because most streams have none that does.
    pub alarm: Option<Box<Alarm>>,
    /// What went wrong, if anything did.
    pub failure: Option<&'static str>,
    state: State,
    /// When the last byte came from the server.
    last_activity: Instant,
    last_look: Instant,
    pinged: Option<Instant>,
    /// How many bytes the client has sent since the stream began.
    unasked: usize,
    /// Bytes of the server that were read before the first poll.
    early: BytesMut,
    timer: LazyTimer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Passing,
    /// The stream ends between the next two events, or is cut at this time.
    Ending {
        due: Instant,
    },
    /// The end of the stream waits for the client, or is sent.
    Said {
        due: Instant,
    },
}

/// The stream is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Over;

impl ServerStream {
    /// Whether the stream may end here, and a comment may be put in if events can be seen.
    fn is_between_events(&self) -> bool {
        match &self.events {
            Some(events) => events.is_between_events(),
            None => self.body.left_of_chunk() == 0,
        }
    }

    /// Takes the content of these bytes, and moves it to their beginning. Returns how much of it
    /// passes: up to the end of the present event if the stream is to end there. `None`: the
    /// framing is broken.
    fn read(&mut self, bytes: &mut [u8], is_to_end: bool) -> Option<usize> {
        let length = self.body.unframe(bytes).ok()?;
        Some(match &mut self.events {
            Some(events) if is_to_end => events.feed_to_boundary(&bytes[..length]),
            Some(events) => {
                events.feed(&bytes[..length]);
                length
            }
            None => length,
        })
    }
}

impl EventRelay {
    /// The second value of `server` holds bytes that were read already. They pass first.
    pub fn new(
        client: Leg<()>,
        server: (Leg<ServerStream>, BytesMut),
        framing: ClientFraming,
        traffic: Arc<Traffic>,
        limits: Limits,
    ) -> Self {
        let now = Instant::now();
        Self {
            client,
            server: server.0,
            framing,
            traffic,
            limits,
            alarm: None,
            failure: None,
            state: State::Passing,
            last_activity: now,
            last_look: now,
            pinged: None,
            unasked: 0,
            early: server.1,
            timer: LazyTimer::default(),
        }
    }

    /// For a stream that another process has begun.
    pub fn continued(
        client: Leg<()>,
        server: Leg<ServerStream>,
        framing: ClientFraming,
        traffic: Arc<Traffic>,
        limits: Limits,
        clocks: Clocks,
    ) -> Self {
        let now = Instant::now();
        let ago = |time: Duration| now.checked_sub(time).unwrap_or(now);
        Self {
            last_activity: ago(clocks.quiet),
            pinged: clocks.pinged.map(ago),
            ..Self::new(client, (server, BytesMut::new()), framing, traffic, limits)
        }
    }

    /// The times with which [`EventRelay::continued`] continues in another process.
    pub fn clocks(&self) -> Clocks {
        Clocks {
            quiet: self.last_activity.elapsed(),
            unheard: self.last_activity.elapsed(),
            pinged: self.pinged.map(|pinged| pinged.elapsed()),
        }
    }

    /// Prepares the relay for another task: drops the timer of the last one.
    pub fn suspend(&mut self) {
        self.timer = LazyTimer::default();
    }

    /// Says the last word of both connections, which are about to be dropped. A stream that was cut
    /// must not look complete.
    pub fn part(&mut self) {
        let is_complete = matches!(self.state, State::Said { .. }) && self.client.has_sent_all();
        match self.framing {
            ClientFraming::UntilClose if !is_complete => {
                self.client.transport.reset_when_dropped();
            }
            _ => self.client.transport.part(),
        }
        self.server.transport.part();
    }

    fn pass_early(&mut self) -> Result<(), Over> {
        let early = std::mem::take(&mut self.early);
        early.chunks(SCRATCH_ROOM).try_for_each(|part| {
            SCRATCH.with_borrow_mut(|scratch| {
                scratch[SIZE_LINE_MAX..][..part.len()].copy_from_slice(part);
                let framed = self.pass(scratch, part.len())?;
                self.client.waiting.extend_from_slice(framed);
                Ok(())
            })
        })
    }

    fn begin_ending(&mut self, by: ClosedBy) {
        self.traffic.close(by, None);
        let due = Instant::now() + CLOSE_WAIT;
        self.state = State::Ending { due };
    }

    /// The stream ends here and in order.
    fn say_end(&mut self) {
        if self.framing == ClientFraming::Chunked {
            self.client.waiting.extend_from_slice(LAST_CHUNK);
        }
        self.set_said();
    }

    fn set_said(&mut self) {
        let patience = self.limits.client_stall.unwrap_or(HALF_CLOSED);
        let due = Instant::now() + patience;
        self.state = State::Said { due };
    }

    fn fail(&mut self, by: ClosedBy, why: &'static str) -> Over {
        if self.traffic.close(by, None) {
            self.failure = Some(why);
        }
        Over
    }

    /// The client takes nothing more.
    fn client_broke(&mut self, error: &io::Error) -> Over {
        if error.kind() == io::ErrorKind::TimedOut {
            let why =
                "the client answered nothing any more, or took nothing for as long as its stall";
            return self.fail(ClosedBy::Error, why);
        }
        self.client.send_state = SendState::Broken {
            since: Instant::now(),
        };
        self.traffic.close(ClosedBy::Client, None);
        Over
    }

    /// Ready when the client is gone. What it says otherwise means nothing.
    fn poll_client(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) -> Poll<Over> {
        while !self.client.ended {
            let mut buf = ReadBuf::new(scratch);
            let read = ready!(Pin::new(&mut self.client.transport).poll_read(cx, &mut buf));
            if let Err(error) = read {
                return Poll::Ready(self.client_broke(&error));
            }
            if buf.filled().is_empty() {
                self.traffic.close(ClosedBy::Client, None);
                return Poll::Ready(Over);
            }
            self.unasked += buf.filled().len();
            if self.unasked > UNASKED_MAX {
                let why = "the client went on sending after its request";
                return Poll::Ready(self.fail(ClosedBy::Error, why));
            }
        }
        Poll::Pending
    }

    /// Moves the bytes that can be moved.
    fn poll_stream(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) -> Poll<Over> {
        for _ in 0..TURNS {
            if let Err(error) = ready!(self.client.poll_send_waiting(cx)) {
                return Poll::Ready(self.client_broke(&error));
            }
            match self.state {
                State::Said { .. } => {
                    // Whether the client hears of it does not matter: it has everything.
                    let _ = ready!(Pin::new(&mut self.client.transport).poll_shutdown(cx));
                    return Poll::Ready(Over);
                }
                State::Ending { .. } if self.server.scanner.is_between_events() => {
                    self.say_end();
                    continue;
                }
                State::Ending { .. } | State::Passing => {}
            }
            if !self.server.waiting.is_empty() {
                // A server that does not take the rest of the request shows it when it is read.
                let _ = self.server.poll_send_waiting(cx);
            }
            let mut buf = ReadBuf::new(&mut scratch[SIZE_LINE_MAX..][..self.room()]);
            let read = ready!(Pin::new(&mut self.server.transport).poll_read(cx, &mut buf));
            let length = buf.filled().len();
            match read {
                Ok(()) if length > 0 => {}
                Ok(()) if self.server.scanner.body == Body::UntilClose => {
                    self.traffic.close(ClosedBy::Server, None);
                    self.say_end();
                    continue;
                }
                Ok(()) => return Poll::Ready(self.fail(ClosedBy::Server, BROKE_OFF)),
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    let why = "the server answered nothing any more";
                    return Poll::Ready(self.fail(ClosedBy::Error, why));
                }
                Err(_) => return Poll::Ready(self.fail(ClosedBy::Server, BROKE_OFF)),
            }
            self.last_activity = Instant::now();
            match self.pass(scratch, length) {
                Ok(framed) => {
                    if let Err(error) = self.client.send(cx, framed) {
                        return Poll::Ready(self.client_broke(&error));
                    }
                }
                Err(over) => return Poll::Ready(over),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// How much may be read of the server: where chunks are all that can be seen, the stream ends
    /// with the present one.
    fn room(&self) -> usize {
        let stream = &self.server.scanner;
        match self.state {
            State::Ending { .. } if stream.events.is_none() => {
                stream.body.left_of_chunk().clamp(1, SCRATCH_ROOM)
            }
            _ => SCRATCH_ROOM,
        }
    }

    /// Takes what was read, which stands behind the room for a size line. Returns what goes to the
    /// client.
    fn pass<'s>(&mut self, scratch: &'s mut [u8], length: usize) -> Result<&'s [u8], Over> {
        let is_ending = matches!(self.state, State::Ending { .. });
        let stream = &mut self.server.scanner;
        let content = &mut scratch[SIZE_LINE_MAX..][..length];
        let Some(length) = stream.read(content, is_ending) else {
            let why = "the server's chunks are not framed as they must be";
            return Err(self.fail(ClosedBy::Error, why));
        };
        let traffic = &self.traffic;
        traffic.bytes_out.fetch_add(length as u64, Relaxed);
        if let Some(events) = &stream.events {
            traffic.messages_out.store(events.events(), Relaxed);
        }
        let is_last = stream.body.is_done();
        let ends = is_last || is_ending && stream.is_between_events();
        if is_last {
            self.traffic.close(ClosedBy::Server, None);
        }
        if ends && !matches!(self.state, State::Said { .. }) {
            self.set_said();
        }
        Ok(framed(scratch, length, self.framing, ends))
    }

    /// Follows orders. Ready with what ends the poll.
    fn obey(&mut self) -> Option<Outcome> {
        match self.traffic.order() {
            Some(Order::Cut { by }) => {
                self.traffic.close(by, None);
                return Some(Outcome::Ended);
            }
            Some(Order::End { by, .. }) if self.state == State::Passing => self.begin_ending(by),
            Some(Order::End { .. }) | None => {}
        }
        let is_asked = self.traffic.is_asked_to_move();
        is_asked.then(|| match self.state == State::Passing {
            true => Outcome::Move,
            false => Outcome::Stays,
        })
    }
}

/// Why a stream was cut whose server has not ended it.
const BROKE_OFF: &str = "the server broke off in the middle of its stream";

/// How much one read takes: around it there is room for the framing.
const SCRATCH_ROOM: usize =
    super::relay::CHUNK - SIZE_LINE_MAX - CHUNK_END.len() - LAST_CHUNK.len();

/// Puts the framing around the content. An empty chunk would be the last one.
fn framed(scratch: &mut [u8], length: usize, framing: ClientFraming, ends: bool) -> &[u8] {
    let (mut begin, mut end) = (SIZE_LINE_MAX, SIZE_LINE_MAX + length);
    if framing == ClientFraming::UntilClose {
        return &scratch[begin..end];
    }
    let mut add = |part: &[u8]| {
        scratch[end..][..part.len()].copy_from_slice(part);
        end += part.len();
    };
    if length > 0 {
        add(CHUNK_END);
    }
    if ends {
        add(LAST_CHUNK);
    }
    if length > 0
        && let Some(room) = scratch.first_chunk_mut()
    {
        begin = size_line(room, length);
    }
    &scratch[begin..end]
}

impl Future for EventRelay {
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        let relay = self.get_mut();
        if relay.pass_early().is_err() {
            return Poll::Ready(Outcome::Ended);
        }
        relay.traffic.wake_on_order(cx.waker());
        if let Some(outcome) = relay.obey() {
            return Poll::Ready(outcome);
        }
        loop {
            let is_over = SCRATCH.with_borrow_mut(|scratch| {
                relay.poll_client(cx, scratch).is_ready()
                    || relay.poll_stream(cx, scratch).is_ready()
            });
            if is_over {
                return Poll::Ready(Outcome::Ended);
            }
            let now = ready!(relay.timer.poll(relay.due(), cx));
            if relay.do_due(now, cx) {
                return Poll::Ready(Outcome::Ended);
            }
        }
    }
}
