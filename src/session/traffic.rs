//! What a session has carried, who has ended it, and what it is asked to do.

use std::sync::OnceLock;
use std::sync::atomic::{
    AtomicBool, AtomicU8, AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use std::task::Waker;
use std::time::Instant;

use futures_util::task::AtomicWaker;

use crate::transport::Mobility;
use crate::websocket::frames::CloseCode;

/// Why a session ended: `closed_by` in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ClosedBy {
    Client = 1,
    Server = 2,
    /// No message for longer than the route's `idle`, or no answer to a ping.
    Idle = 3,
    MaxSession = 4,
    /// The process stops, or the server or the route is gone.
    Drain = 5,
    /// An operator has used `prusik close`.
    Operator = 6,
    Error = 7,
    /// A message was larger than `max_message`, or a newer session of the user has its place.
    Limit = 8,
    /// The credential that has let it in is not valid any more.
    Expiry = 9,
}

/// The close code of a session whose place a newer one of the same user has taken.
pub const REPLACED: u16 = 4409;

impl ClosedBy {
    const ALL: [Self; 9] = [
        Self::Client,
        Self::Server,
        Self::Idle,
        Self::MaxSession,
        Self::Drain,
        Self::Operator,
        Self::Error,
        Self::Limit,
        Self::Expiry,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
            Self::Idle => "idle",
            Self::MaxSession => "max_session",
            Self::Drain => "drain",
            Self::Operator => "operator",
            Self::Error => "error",
            Self::Limit => "limit",
            Self::Expiry => "expiry",
        }
    }

    /// The reason in our Close frames, for people. Empty: the code says it all.
    pub fn reason(self, code: u16) -> &'static str {
        match (self, code) {
            (Self::Expiry, _) => "credential expired",
            (Self::Limit, REPLACED) => "replaced by a newer session of the same user",
            _ => "",
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|cause| *cause as u8 == code)
    }
}

/// What a session is asked to do by something other than its two sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Say goodbye with this close code.
    End { by: ClosedBy, code: u16 },
    /// End at once.
    Cut { by: ClosedBy },
}

impl Order {
    const END: u32 = 1 << 24;
    const CUT: u32 = 2 << 24;

    fn encode(self) -> u32 {
        match self {
            Self::End { by, code } => Self::END | (by as u32) << 16 | u32::from(code),
            Self::Cut { by } => Self::CUT | (by as u32) << 16,
        }
    }

    fn decode(word: u32) -> Option<Self> {
        let by = || ClosedBy::from_code((word >> 16) as u8);
        match word & 0xff00_0000 {
            Self::END => Some(Self::End {
                by: by()?,
                code: word as u16,
            }),
            Self::CUT => Some(Self::Cut { by: by()? }),
            _ => None,
        }
    }
}

/// Written by the one task that carries the session, and read by others. "In" is from the client,
/// "out" is to the client.
#[derive(Debug, Default)]
pub struct Traffic {
    pub bytes_in: AtomicU64,
    pub bytes_out: AtomicU64,
    pub messages_in: AtomicU64,
    pub messages_out: AtomicU64,
    /// 0 while the session is open.
    closed_by: AtomicU8,
    handshake_timed_out: AtomicBool,
    /// Used in Pingora's tunnel: the next bytes of the client are read only when the server has
    /// taken the last ones.
    awaits_server: AtomicBool,
    /// 0: no Close frame yet. 1005: a Close frame without a code.
    close_code: AtomicU32,
    established: OnceLock<Instant>,
    /// An encoded [`Order`], or 0 for none.
    order: AtomicU32,
    /// The session is asked to stop and move to the new process.
    is_to_move: AtomicBool,
    /// A [`Mobility`]. Only a relay's session can move.
    mobility: AtomicU8,
    /// The new process did not take the session.
    was_refused: AtomicBool,
    session: AtomicWaker,
}

/// The counters at one moment, as they move with a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub messages_in: u64,
    pub messages_out: u64,
    /// Encoded as in [`Traffic`]; a cause that only another version knows counts as none. A session
    /// may move between the first and the second Close frame.
    pub closed_by: u8,
    pub close_code: u32,
}

/// Bytes and messages, of one session or of many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub messages_in: u64,
    pub messages_out: u64,
}

impl Totals {
    /// Messages in both directions.
    pub fn messages(&self) -> u64 {
        self.messages_in.wrapping_add(self.messages_out)
    }

    pub fn add(&mut self, other: Self) {
        self.combine(other, u64::wrapping_add);
    }

    /// The result may be below zero until the same amount is added elsewhere. It wraps around, and
    /// so does [`Totals::add`].
    pub fn take_off(&mut self, other: Self) {
        self.combine(other, u64::wrapping_sub);
    }

    fn combine(&mut self, other: Self, of: fn(u64, u64) -> u64) {
        self.bytes_in = of(self.bytes_in, other.bytes_in);
        self.bytes_out = of(self.bytes_out, other.bytes_out);
        self.messages_in = of(self.messages_in, other.messages_in);
        self.messages_out = of(self.messages_out, other.messages_out);
    }
}

impl Traffic {
    /// For a session that came from another process.
    pub fn continued(since: Instant, counts: Counts) -> Self {
        Self {
            bytes_in: counts.bytes_in.into(),
            bytes_out: counts.bytes_out.into(),
            messages_in: counts.messages_in.into(),
            messages_out: counts.messages_out.into(),
            closed_by: counts.closed_by.into(),
            close_code: counts.close_code.into(),
            established: since.into(),
            ..Self::default()
        }
    }

    pub fn counts(&self) -> Counts {
        Counts {
            bytes_in: self.bytes_in.load(Relaxed),
            bytes_out: self.bytes_out.load(Relaxed),
            messages_in: self.messages_in.load(Relaxed),
            messages_out: self.messages_out.load(Relaxed),
            closed_by: self.closed_by.load(Relaxed),
            close_code: self.close_code.load(Relaxed),
        }
    }

    pub fn carried(&self) -> Totals {
        Totals {
            bytes_in: self.bytes_in.load(Relaxed),
            bytes_out: self.bytes_out.load(Relaxed),
            messages_in: self.messages_in.load(Relaxed),
            messages_out: self.messages_out.load(Relaxed),
        }
    }

    /// Called when the server's 101 has been read.
    pub fn establish(&self) {
        self.established.get_or_init(Instant::now);
    }

    pub fn established(&self) -> Option<Instant> {
        self.established.get().copied()
    }

    pub fn time_out_handshake(&self) {
        self.handshake_timed_out.store(true, Relaxed);
    }

    pub fn handshake_timed_out(&self) -> bool {
        self.handshake_timed_out.load(Relaxed)
    }

    /// Another server is asked.
    pub fn forget_timeout(&self) {
        self.handshake_timed_out.store(false, Relaxed);
    }

    /// From now on, the asking task is woken when the server takes more.
    pub fn await_server(&self) {
        self.awaits_server.store(true, Relaxed);
    }

    /// Returns whether a task was waiting for this.
    pub fn server_took(&self) -> bool {
        self.awaits_server.load(Relaxed) && self.awaits_server.swap(false, Relaxed)
    }

    /// Called from another task. A cut replaces an order to end, and not the other way round.
    pub fn ask(&self, order: Order) {
        self.order.fetch_max(order.encode(), Release);
        self.session.wake();
    }

    pub fn order(&self) -> Option<Order> {
        Order::decode(self.order.load(Acquire))
    }

    /// Called from another task. The task that carries the session answers: it gives the session
    /// away, or says that the session stays.
    pub fn ask_to_move(&self) {
        self.is_to_move.store(true, Release);
        self.session.wake();
    }

    pub fn is_asked_to_move(&self) -> bool {
        self.is_to_move.load(Acquire)
    }

    /// The question is answered or taken back. Returns whether it had been asked.
    pub fn end_question(&self) -> bool {
        self.is_to_move.swap(false, Relaxed)
    }

    pub fn set_mobility(&self, mobility: Mobility) {
        self.mobility.store(mobility as u8, Relaxed);
    }

    /// Set when the new process did not take the session, and reset when the hand-over is over.
    pub fn set_refused(&self, was_refused: bool) {
        self.was_refused.store(was_refused, Relaxed);
    }

    /// How the session can move to the new process, as far as is known.
    pub fn mobility(&self) -> Mobility {
        if self.was_refused.load(Relaxed) {
            return Mobility::Never;
        }
        let can = [Mobility::WithKeys, Mobility::Free];
        let known = self.mobility.load(Relaxed);
        let found = can.into_iter().find(|can| *can as u8 == known);
        found.unwrap_or(Mobility::Never)
    }

    /// Registers the task to wake when something is asked. Must be called in each poll, because a
    /// wake-up uses the registration up and a question may be taken back unseen. Read the order and
    /// the question only after this call.
    pub fn wake_on_order(&self, waker: &Waker) {
        self.session.register(waker);
    }

    /// Notes who has ended the session. Only the first call counts, as later ends are consequences
    /// of it. Returns whether this was the first.
    pub fn close(&self, by: ClosedBy, code: Option<CloseCode>) -> bool {
        let is_first = self
            .closed_by
            .compare_exchange(0, by as u8, Relaxed, Relaxed)
            .is_ok();
        // A side that has only shut its end leaves the code to the other one's Close frame.
        let has_code = self.close_code.load(Relaxed) != 0;
        if let Some(code) = code.filter(|_| is_first || !has_code) {
            self.set_close_code(code);
        }
        is_first
    }

    /// Notes the close code of the side that ended the session.
    pub fn set_close_code(&self, code: CloseCode) {
        let code = match code {
            CloseCode::Code(code) => code,
            CloseCode::Absent => 1005,
        };
        self.close_code.store(code.into(), Relaxed);
    }

    pub fn closed_by(&self) -> Option<ClosedBy> {
        ClosedBy::from_code(self.closed_by.load(Relaxed))
    }

    /// Called when the session is over. If no side and no order has said why, the client has broken
    /// off.
    pub fn ended_by(&self) -> ClosedBy {
        self.closed_by().unwrap_or(ClosedBy::Client)
    }

    pub fn close_code(&self) -> Option<u32> {
        Some(self.close_code.load(Relaxed)).filter(|&code| code != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_outlasts_an_order_to_end_and_neither_ends_a_question() {
        let traffic = Traffic::default();
        assert_eq!(traffic.order(), None);
        traffic.ask_to_move();
        let end = Order::End {
            by: ClosedBy::Drain,
            code: 4999,
        };
        traffic.ask(end);
        assert_eq!(traffic.order(), Some(end));
        let cut = Order::Cut {
            by: ClosedBy::Operator,
        };
        traffic.ask(cut);
        traffic.ask(end);
        assert_eq!(traffic.order(), Some(cut));
        assert!(traffic.is_asked_to_move() && traffic.end_question());
        assert!(!traffic.end_question());
    }

    #[test]
    fn who_has_closed_a_session_is_still_known_when_it_has_moved() {
        let traffic = Traffic::default();
        traffic.bytes_in.store(8, Relaxed);
        traffic.close(ClosedBy::Client, Some(CloseCode::Code(4001)));
        let moved = Traffic::continued(Instant::now(), traffic.counts());
        assert!(!moved.close(ClosedBy::Server, Some(CloseCode::Code(1000))));
        assert_eq!(moved.closed_by(), Some(ClosedBy::Client));
        assert_eq!(moved.close_code(), Some(4001));
        assert_eq!(moved.counts(), traffic.counts());
    }
}
