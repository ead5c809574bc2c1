//! Carries an upgraded session between its two sockets, once they have left Pingora.
//!
//! ```text
//!            ┌────────────── Relay ──────────────┐
//!   client ──┤ Leg ── scanner ──► waiting ── Leg ├── server
//!          ◄─┤      ◄── waiting ◄── scanner      ├─►
//!            └───────────────────────────────────┘
//! ```
//!
//! The two directions know nothing of each other: one that stalls does not stop the other, and
//! each ends by itself (half-close), as it does when its receiver breaks. What is read goes
//! straight out again, from a buffer that all sessions of a thread share. Only what the other side
//! does not take waits in the leg; no more is read until it is sent. An idle session holds no
//! buffer.
//!
//! No byte of a frame header is passed on before the header is whole and sound. So the position
//! in the frames of each side is always known, a frame of ours can be inserted at every boundary,
//! and broken framing ends the session before it reaches the other side.

mod clock;
mod inspect;
mod stall;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::io;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::direction::Direction;
use super::goodbye::{self, Goodbye, Limit, Next, Occasion};
use super::lazy_timer::LazyTimer;
use super::leg::{Leg, SendState};
use super::message_rate::MessageRate;
use super::traffic::{ClosedBy, Order, Traffic};
use crate::net::TCP_KEEPALIVE;
use crate::websocket::frames::{CloseCode, PING_TO_CLIENT, close_to_client, close_to_server};

/// The most that one read takes, and so the most that can wait in one direction.
pub(super) const CHUNK: usize = 64 * 1024;

/// How often one direction is read before the other direction has its turn.
pub(super) const TURNS: usize = 8;

/// How long a session goes on without a byte of the server after its client has ended its side.
/// Also if its server is gone but the client has not taken all that the server said before.
pub(super) const HALF_CLOSED: Duration = Duration::from_secs(60);

/// The same without a byte of the client after the server has ended: servers end by closing, and
/// rarely wait for an answer then.
const SERVER_GONE: Duration = Duration::from_secs(5);

/// How long a session goes on after its client takes nothing more. The server may finish, and the
/// last words of the client go to it.
const CLIENT_GONE: Duration = Duration::from_secs(5);

/// How often a side is checked that is neither read nor written to: it may be gone.
pub const LOOK: Duration = Duration::from_secs(2);

/// After this time the server's socket gets keep-alive and stall options. A session that ends
/// sooner saves five system calls. Nothing is noticed later because of this: the kernel would not
/// begin to probe sooner, and counts from when the peer was last heard. (A client's socket gets
/// these options from its listener.)
const SETTLED: Duration = TCP_KEEPALIVE.idle;

/// The close code "going away", for sessions that prusik itself ends (RFC 6455 section 7.4.1).
const GOING_AWAY: u16 = 1001;
const PROTOCOL_ERROR: u16 = 1002;
/// The close code "policy violation".
pub const POLICY: u16 = 1008;
/// The close code "message too big".
pub const TOO_BIG: u16 = 1009;

thread_local! {
    /// Every read of the sessions of a thread uses this buffer. It holds nothing between two polls.
    pub(super) static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; CHUNK].into_boxed_slice());
}

/// The time limits of the session. `None`: no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    pub idle: Option<Duration>,
    /// When the session has reached its greatest age.
    pub end: Option<Instant>,
    pub ping: Option<Duration>,
    /// How long the client may take nothing of the bytes that wait for it.
    pub client_stall: Option<Duration>,
    /// The same for the server.
    pub server_stall: Option<Duration>,
    /// How many messages the client may send, and how many in one burst.
    pub messages_per_second: Option<NonZeroU32>,
}

/// How long ago each of these things happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clocks {
    /// The last byte from either side.
    pub quiet: Duration,
    /// The last byte from the client.
    pub unheard: Duration,
    /// The ping that the client has not answered yet.
    pub pinged: Option<Duration>,
}

#[derive(Debug)]
pub struct Relay {
    pub client: Leg,
    pub server: Leg,
    pub traffic: Arc<Traffic>,
    pub limits: Limits,
    /// What the client has spent of its messages. `None`: it may send as many as it likes.
    pub message_rate: Option<Box<MessageRate>>,
    /// What went wrong, if it did and no Close frame says so.
    pub failure: Option<&'static str>,
    /// When the last byte came from either side.
    last_activity: Instant,
    /// When the sides that are not read were last checked.
    last_look: Instant,
    /// When the last byte came from the client. Used only with `ping`.
    last_heard: Instant,
    pinged: Option<Instant>,
    ending: Option<Ending>,
    /// When the server's socket gets its keep-alive and stall options. `None`: it has them.
    settles: Option<Instant>,
    timer: LazyTimer,
}

/// How a relay ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The session is over.
    Ended,
    /// The relay was asked to move: it has stopped, and holds all of the session.
    Move,
    /// The relay was asked to move and cannot. It must be polled again.
    Stays,
}

/// The goodbye, once we end the session.
#[derive(Debug)]
struct Ending {
    goodbye: Goodbye,
    /// Whether our close code goes into the log once the client has it.
    is_cause: bool,
    /// When the time of the goodbye is up.
    due: Instant,
}

/// The kernel gave up on the receiver of this direction, which answers or takes nothing any more.
struct Vanished(Direction);

impl Relay {
    /// The second value of each pair holds bytes that were read already; they are handled first.
    pub fn new(
        client: (Leg, &[u8]),
        server: (Leg, &[u8]),
        traffic: Arc<Traffic>,
        limits: Limits,
    ) -> Self {
        let now = Instant::now();
        let settled = limits
            .server_stall
            .map_or(SETTLED, |stall| stall.min(SETTLED));
        let mut relay = Self {
            client: client.0,
            server: server.0,
            traffic,
            limits,
            message_rate: limits
                .messages_per_second
                .map(|rate| Box::new(MessageRate::new(rate, now))),
            failure: None,
            last_activity: now,
            last_look: now,
            last_heard: now,
            pinged: None,
            ending: None,
            settles: Some(now + settled),
            timer: LazyTimer::default(),
        };
        for (direction, early) in [
            (Direction::ToServer, client.1),
            (Direction::ToClient, server.1),
        ] {
            if let Some((held, sound)) = relay.inspect(direction, early) {
                let to = relay.receiver(direction);
                to.waiting.extend_from_slice(&held);
                to.waiting.extend_from_slice(&early[..sound]);
            }
        }
        relay
    }

    /// For a session that another process has begun.
    pub fn continued(
        client: Leg,
        server: Leg,
        traffic: Arc<Traffic>,
        limits: Limits,
        clocks: Clocks,
    ) -> Self {
        let now = Instant::now();
        let ago = |time: Duration| now.checked_sub(time).unwrap_or(now);
        Self {
            last_activity: ago(clocks.quiet),
            last_heard: ago(clocks.unheard),
            pinged: clocks.pinged.map(ago),
            ..Self::new((client, &[]), (server, &[]), traffic, limits)
        }
    }

    /// The times with which [`Relay::continued`] continues in another process.
    pub fn clocks(&self) -> Clocks {
        Clocks {
            quiet: self.last_activity.elapsed(),
            unheard: self.last_heard.elapsed(),
            pinged: self.pinged.map(|pinged| pinged.elapsed()),
        }
    }

    /// Prepares the relay for another task: drops the timer of the last one.
    pub fn suspend(&mut self) {
        self.timer = LazyTimer::default();
    }

    fn sender(&mut self, direction: Direction) -> &mut Leg {
        match direction {
            Direction::ToServer => &mut self.client,
            Direction::ToClient => &mut self.server,
        }
    }

    fn receiver(&mut self, direction: Direction) -> &mut Leg {
        match direction {
            Direction::ToServer => &mut self.server,
            Direction::ToClient => &mut self.client,
        }
    }

    /// Moves the bytes that can be moved. Ready when the direction has ended.
    fn poll_direction(
        &mut self,
        direction: Direction,
        cx: &mut Context<'_>,
        scratch: &mut [u8],
    ) -> Poll<Result<(), Vanished>> {
        for _ in 0..TURNS {
            if let Err(error) = ready!(self.receiver(direction).poll_send_waiting(cx)) {
                self.receiver_broke(direction, &error)?;
            }
            let (limit, discards) = match self.next(direction) {
                // It waits to be sent.
                Next::Say(_) => continue,
                Next::Discard => (CHUNK, true),
                Next::Pass(Limit::All) => (CHUNK, false),
                Next::Pass(Limit::Frame) => {
                    (self.sender(direction).left_of_frame().min(CHUNK), false)
                }
            };
            if self.sender(direction).ended {
                return self.poll_shut(direction, cx);
            }
            let mut buf = ReadBuf::new(&mut scratch[..limit]);
            let from = self.sender(direction);
            if let Err(error) = ready!(Pin::new(&mut from.transport).poll_read(cx, &mut buf)) {
                self.sender_broke(direction, &error)?;
                continue;
            }
            let bytes = buf.filled();
            if bytes.is_empty() {
                self.end_of(direction);
                continue;
            }
            if discards {
                // This reads the answer to a Close frame of ours.
                self.sender(direction).scanner.feed(bytes);
                continue;
            }
            let Some((held, sound)) = self.inspect(direction, bytes) else {
                continue;
            };
            let to = self.receiver(direction);
            if !held.is_empty() {
                to.waiting.extend_from_slice(&held);
            }
            if let Err(error) = to.send(cx, &bytes[..sound]) {
                self.receiver_broke(direction, &error)?;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// The receiver takes nothing more. What it has said before can still be read, and shows who
    /// has ended the session.
    fn receiver_broke(&mut self, direction: Direction, error: &io::Error) -> Result<(), Vanished> {
        if error.kind() == io::ErrorKind::TimedOut {
            return Err(Vanished(direction));
        }
        self.break_off(direction.opposite(), Instant::now());
        Ok(())
    }

    /// The sender of this direction is gone: nothing comes from it, and nothing can go to it.
    fn sender_broke(&mut self, direction: Direction, error: &io::Error) -> Result<(), Vanished> {
        self.receiver_broke(direction.opposite(), error)?;
        self.end_of(direction);
        Ok(())
    }

    /// What the direction does next. Inserts a Close frame of ours when it is due.
    fn next(&mut self, direction: Direction) -> Next {
        // Nothing may follow a Close frame (RFC 6455 section 5.5.1).
        if self.receiver(direction).is_shut() || self.sender(direction).has_closed() {
            return Next::Discard;
        }
        if self.ending.is_none() {
            return Next::Pass(Limit::All);
        }
        let position = self.sender(direction).position();
        let Some(ending) = &mut self.ending else {
            return Next::Pass(Limit::All);
        };
        let next = ending.goodbye.next(direction, position);
        let Next::Say(code) = next else {
            return next;
        };
        match direction {
            Direction::ToClient => {
                if ending.is_cause {
                    self.traffic.set_close_code(CloseCode::Code(code));
                }
                self.client
                    .waiting
                    .extend_from_slice(&close_to_client(code));
            }
            Direction::ToServer => {
                let frame = close_to_server(code, rand::random());
                self.server.waiting.extend_from_slice(&frame);
            }
        }
        next
    }

    /// The client has ended its side before the session began.
    pub fn client_has_ended(&mut self) {
        self.end_of(Direction::ToServer);
    }

    /// The sender of this direction has ended.
    fn end_of(&mut self, direction: Direction) {
        let from = self.sender(direction);
        from.ended = true;
        let held = BytesMut::from(from.scanner.held());
        let is_broken = from.scanner.is_broken();
        let takes_more = !self.receiver(direction).is_shut();
        self.traffic.close(direction.sender(), None);
        self.last_activity = Instant::now();
        match &mut self.ending {
            Some(ending) => ending.goodbye.ended(direction),
            None if !is_broken && takes_more => {
                inspect::add(self.byte_count(direction), held.len() as u64);
                self.receiver(direction).waiting.unsplit(held);
            }
            None => {}
        }
    }

    fn poll_shut(
        &mut self,
        direction: Direction,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Vanished>> {
        if self.client.has_closed() && self.server.has_closed() {
            // Both sockets are about to be closed, so nothing needs to be shut down.
            return Poll::Ready(Ok(()));
        }
        let is_ending = self.ending.is_some();
        let to = self.receiver(direction);
        // During our own goodbye a Close frame may still have to go to the receiver.
        if !to.is_shut() && !is_ending {
            match ready!(Pin::new(&mut to.transport).poll_shutdown(cx)) {
                Ok(()) => to.send_state = SendState::Shut,
                Err(error) => self.receiver_broke(direction, &error)?,
            }
        }
        Poll::Ready(Ok(()))
    }

    fn begin_ending(&mut self, by: ClosedBy, code: u16, occasion: Occasion) {
        let is_cause = self.traffic.close(by, None);
        let (client, server) = (self.client.side(), self.server.side());
        let (goodbye, wait) = Goodbye::begin(code, occasion, client, server);
        self.ending = Some(Ending {
            goodbye,
            is_cause,
            due: Instant::now() + wait,
        });
    }

    fn is_over(&self) -> bool {
        // This is called with each message, and nearly always returns here.
        if self.ending.is_none() && !self.client.ended && !self.client.has_closed() {
            return false;
        }
        let (client, server) = (self.client.side(), self.server.side());
        match &self.ending {
            Some(ending) => ending.goodbye.is_over(client, server),
            None => goodbye::have_parted(client, server),
        }
    }

    fn poll_both(&mut self, cx: &mut Context<'_>) -> Result<(), Vanished> {
        SCRATCH.with_borrow_mut(|scratch| {
            for direction in Direction::BOTH {
                if let Poll::Ready(Err(vanished)) = self.poll_direction(direction, cx, scratch) {
                    return Err(vanished);
                }
            }
            Ok(())
        })
    }
}

impl Future for Relay {
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        let relay = self.get_mut();
        relay.traffic.wake_on_order(cx.waker());
        match relay.traffic.order() {
            Some(Order::Cut { by }) => {
                relay.traffic.close(by, None);
                return Poll::Ready(Outcome::Ended);
            }
            Some(Order::End { by, code }) if relay.ending.is_none() => {
                relay.begin_ending(by, code, Occasion::Asked);
            }
            Some(Order::End { .. }) | None => {}
        }
        if relay.traffic.is_asked_to_move() {
            let moves = relay.ending.is_none();
            return Poll::Ready(if moves { Outcome::Move } else { Outcome::Stays });
        }
        loop {
            let was_ending = relay.ending.is_some();
            if let Err(Vanished(direction)) = relay.poll_both(cx) {
                if relay.give_up_vanished(direction) {
                    return Poll::Ready(Outcome::Ended);
                }
                continue;
            }
            if relay.is_over() {
                return Poll::Ready(Outcome::Ended);
            }
            if relay.ending.is_some() != was_ending {
                // The direction that was polled first may now have something to do.
                continue;
            }
            let now = ready!(relay.timer.poll(relay.due(), cx));
            if relay.do_due(now, cx) {
                return Poll::Ready(Outcome::Ended);
            }
        }
    }
}
