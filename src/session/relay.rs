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
//! straight out again, from a buffer that all sessions of a thread share; only what the other side
//! does not take waits in the leg, and until it has gone nothing more is read. An idle session
//! holds no buffer.
//!
//! No byte of a frame header is passed on before the header is whole and sound. So each side
//! always stands in a known place of a frame, a frame of our own can be put in at every boundary,
//! and broken framing ends the session before it reaches the other side.

mod clock;
mod inspect;
mod stall;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::direction::Direction;
use super::goodbye::{self, Goodbye, Limit, Next, Occasion};
use super::leg::{Leg, SendState};
use super::traffic::{ClosedBy, Order, Traffic};
use crate::net::TCP_KEEPALIVE;
use crate::websocket::frames::{CloseCode, PING_TO_CLIENT, close_to_client, close_to_server};

/// What one read takes at most, and so what may wait in one direction.
const CHUNK: usize = 64 * 1024;

/// Reads of one direction in a row before the other has its turn.
const TURNS: usize = 8;

/// A session whose client has ended its side gets this long without a byte of the server; so does
/// one whose server is gone, while the client has not taken all that the server said before.
const HALF_CLOSED: Duration = Duration::from_secs(60);

/// And one whose server has ended, without a byte of the client: servers end by closing, and rarely
/// wait for anything then.
const SERVER_GONE: Duration = Duration::from_secs(5);

/// A session whose client takes nothing more is over after this time, whatever the two still say:
/// the server may finish, and the last words of the client go to it.
const CLIENT_GONE: Duration = Duration::from_secs(5);

/// How often a side is looked at that nobody reads and nobody writes to: it may have gone.
pub const LOOK: Duration = Duration::from_secs(2);

/// A session that ends sooner never needed to know whether its server's machine had vanished (or
/// was stalled, which may be known sooner by the file), and is spared five system calls. Nothing is
/// noticed later for it: the kernel would begin to probe no sooner, and counts from when the peer
/// was last heard. (A client's socket has this from its listener.)
const SETTLED: Duration = TCP_KEEPALIVE.idle;

/// Going away: what a session is told that prusik ends by itself (RFC 6455 section 7.4.1).
const GOING_AWAY: u16 = 1001;
const PROTOCOL_ERROR: u16 = 1002;
/// A message is too big to process.
pub const TOO_BIG: u16 = 1009;

thread_local! {
    /// Every read of a thread's sessions goes here first, and is gone when the poll returns.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; CHUNK].into_boxed_slice());
}

/// What ends the session by time. `None`: never.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    pub idle: Option<Duration>,
    /// When the session is too old.
    pub end: Option<Instant>,
    pub ping: Option<Duration>,
    /// How long the client may take nothing of what waits for it.
    pub client_stall: Option<Duration>,
    /// The same for the server.
    pub server_stall: Option<Duration>,
}

/// How long ago it was that something happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clocks {
    /// The last byte of either side.
    pub quiet: Duration,
    /// The client's last byte.
    pub unheard: Duration,
    /// A ping that is not answered yet.
    pub pinged: Option<Duration>,
}

#[derive(Debug)]
pub struct Relay {
    pub client: Leg,
    pub server: Leg,
    pub traffic: Arc<Traffic>,
    pub limits: Limits,
    /// What went wrong, where something did and no frame says it.
    pub failure: Option<&'static str>,
    /// Of both sides.
    last_activity: Instant,
    /// When the sides that nobody reads were looked at.
    last_look: Instant,
    /// Of the client alone; looked at only with `ping`.
    last_heard: Instant,
    pinged: Option<Instant>,
    ending: Option<Ending>,
    /// When the server's socket is told to look whether its peer is there. `None`: it was.
    settles: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

/// How a relay ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The session is over.
    Ended,
    /// It was asked to move: all of it is in the relay, at rest.
    Move,
    /// It was asked to move, and does not. Poll on.
    Stays,
}

/// The goodbye, once we end the session.
#[derive(Debug)]
struct Ending {
    goodbye: Goodbye,
    /// Our code is the one for the log, once the client has it.
    is_cause: bool,
    /// When its time is up.
    due: Instant,
}

/// The kernel gave up on the direction's receiver, which answers nothing any more or takes nothing.
struct Vanished(Direction);

impl Relay {
    /// Both sides' first bytes may have been read already: they go in front.
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
            failure: None,
            last_activity: now,
            last_look: now,
            last_heard: now,
            pinged: None,
            ending: None,
            settles: Some(now + settled),
            timer: None,
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

    /// Of a session that another process has begun.
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

    /// What [`Relay::continued`] goes on with.
    pub fn clocks(&self) -> Clocks {
        Clocks {
            quiet: self.last_activity.elapsed(),
            unheard: self.last_heard.elapsed(),
            pinged: self.pinged.map(|pinged| pinged.elapsed()),
        }
    }

    /// Whether another process can carry it on.
    pub fn can_move(&self) -> bool {
        self.client.transport.can_move() && self.server.transport.can_move()
    }

    /// For another task to carry on: what belongs to the last one is forgotten.
    pub fn suspend(&mut self) {
        self.timer = None;
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

    /// Moves what can be moved. Ready: the direction has ended.
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
                // For the answer to a Close frame of ours.
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

    /// It takes nothing more. What it has said before can still be read, and its end then tells who
    /// ended the session.
    fn receiver_broke(&mut self, direction: Direction, error: &io::Error) -> Result<(), Vanished> {
        if error.kind() == io::ErrorKind::TimedOut {
            return Err(Vanished(direction));
        }
        self.break_off(direction.opposite(), Instant::now());
        Ok(())
    }

    /// Nothing more comes from it, and nothing can go to it.
    fn sender_broke(&mut self, direction: Direction, error: &io::Error) -> Result<(), Vanished> {
        self.receiver_broke(direction.opposite(), error)?;
        self.end_of(direction);
        Ok(())
    }

    /// What the direction does next. A Close frame that is due is put in.
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

    /// It has ended its side before the session began.
    pub fn client_has_ended(&mut self) {
        self.end_of(Direction::ToServer);
    }

    /// One side sends nothing more.
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
            // Both sockets are about to be closed.
            return Poll::Ready(Ok(()));
        }
        let is_ending = self.ending.is_some();
        let to = self.receiver(direction);
        // In our own goodbye the receiver may still have to be told.
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
        // This is asked with each message, and then it is the answer.
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
            let moves = relay.ending.is_none() && relay.can_move();
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
                // The direction that had its turn first may have something to do now.
                continue;
            }
            let now = ready!(relay.poll_due(cx));
            if relay.strike(now, cx) {
                return Poll::Ready(Outcome::Ended);
            }
        }
    }
}
