//! Ends a session of which one side takes nothing of the bytes that wait for it, and tells the
//! other.
//!
//! Who measures the time depends on what carries the bytes. For TCP, with TLS or without, the
//! kernel does (`TCP_USER_TIMEOUT`). The kernel also sees what has left the relay and was not
//! taken: a last message, a Close frame, an end. A unix socket and a stream of HTTP/2 have no such
//! clock, but what has left the relay was taken by their peers. For these the relay notes since
//! when it has to wait ([`Leg::stalled_since`]), and sets the relay's one timer.
//!
//! [`Leg::stalled_since`]: crate::session::leg::Leg::stalled_since

use std::time::Duration;

use tokio::time::Instant;

use super::{GOING_AWAY, Relay};
use crate::session::direction::Direction;
use crate::session::goodbye::Occasion;
use crate::session::traffic::ClosedBy;

impl Relay {
    /// When the first side that takes nothing is given up. Called with each message, and then
    /// usually nobody stalls.
    pub(super) fn stall_due(&self) -> Option<Instant> {
        if self.client.stalled_since.is_none() && self.server.stalled_since.is_none() {
            return None;
        }
        let dues = Direction::BOTH.map(|direction| self.stall_due_of(direction));
        dues.into_iter().flatten().min()
    }

    /// The direction whose receiver has stalled for too long.
    pub(super) fn stalled(&self, now: Instant) -> Option<Direction> {
        let is_due = |direction| self.stall_due_of(direction).is_some_and(|due| due <= now);
        Direction::BOTH
            .into_iter()
            .find(|&direction| is_due(direction))
    }

    fn stall_due_of(&self, direction: Direction) -> Option<Instant> {
        let (to, stall): (_, Option<Duration>) = match direction {
            Direction::ToServer => (&self.server, self.limits.server_stall),
            Direction::ToClient => (&self.client, self.limits.client_stall),
        };
        Some(to.stalled_since? + stall?)
    }

    /// Finds out which stalled sides take something after all.
    pub(super) fn look_at_stalls(&mut self, now: Instant) {
        for direction in Direction::BOTH {
            let to = self.receiver(direction);
            if to.stalled_since.is_some() {
                to.send_unasked(now);
            }
        }
    }

    /// Returns true if the session is cut.
    pub(super) fn give_up_stalled(&mut self, direction: Direction) -> bool {
        self.give_up(
            direction,
            match direction {
                Direction::ToServer => "the server took nothing for as long as its stall",
                Direction::ToClient => "the client took nothing for as long as its stall",
            },
        )
    }

    /// The same for a side that the kernel has given up, without saying why.
    pub(super) fn give_up_vanished(&mut self, direction: Direction) -> bool {
        self.give_up(
            direction,
            match direction {
                Direction::ToServer => {
                    "the server answered nothing any more, or took nothing for as long as its stall"
                }
                Direction::ToClient => {
                    "the client answered nothing any more, or took nothing for as long as its stall"
                }
            },
        )
    }

    /// Nothing more goes to the receiver of this direction. The other side is told, unless the two
    /// sides (or we) are already saying goodbye.
    fn give_up(&mut self, direction: Direction, why: &'static str) -> bool {
        let now = Instant::now();
        let says_goodbye = self.client.scanner.close_code().is_some()
            || self.server.scanner.close_code().is_some();
        let is_ending = self.ending.is_some();
        if !is_ending {
            self.failure = Some(why);
        }
        self.receiver(direction).break_off(now);
        if is_ending || says_goodbye {
            self.traffic.close(ClosedBy::Error, None);
            return true;
        }
        self.begin_ending(ClosedBy::Error, GOING_AWAY, Occasion::GivenUp(direction));
        false
    }
}
