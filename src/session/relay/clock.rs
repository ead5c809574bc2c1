//! What a relay does when a time is reached.

use std::task::Context;
use std::time::SystemTime;

use tokio::time::Instant;

use super::{
    CLIENT_GONE, GOING_AWAY, HALF_CLOSED, LOOK, Limits, PING_TO_CLIENT, Relay, SERVER_GONE,
};
use crate::net::TCP_KEEPALIVE;
use crate::session::direction::Direction;
use crate::session::goodbye::{Occasion, TimeUp};
use crate::session::traffic::ClosedBy;

fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, None) => one,
        (None, other) => other,
    }
}

impl Relay {
    /// When the next thing is due if nothing happens before that.
    pub(super) fn due(&self) -> Option<Instant> {
        if let Some(ending) = &self.ending {
            return Some(ending.due);
        }
        let Limits { idle, end, .. } = self.limits;
        let idle = idle.map(|idle| self.last_activity + idle);
        let stall = self.stall_due();
        let expiry = self.alarm.as_ref().map(|alarm| alarm.due());
        let by_file = earlier(earlier(earlier(idle, end), expiry), self.ping_due());
        let amiss = earlier(earlier(self.gone_due(), stall), self.look_due(stall));
        earlier(earlier(by_file, amiss), self.settles)
    }

    /// When the session ends because one of its sides is gone. `None`: both sides are there.
    ///
    /// ```text
    ///   the client takes nothing more    CLIENT_GONE   from then on
    ///   the server has ended             SERVER_GONE   after the last byte that has moved
    ///   the server takes nothing more    HALF_CLOSED   after the last byte that has moved
    ///   the client has ended             HALF_CLOSED   after the last byte that has moved
    /// ```
    ///
    /// A server counts as ended only after its client has taken everything: its end is read after
    /// its last byte.
    fn gone_due(&self) -> Option<Instant> {
        let (client, server) = (&self.client, &self.server);
        if let Some(since) = client.broken_since() {
            return Some(since + CLIENT_GONE);
        }
        let quiet = match () {
            () if server.ended => SERVER_GONE,
            () if client.ended || server.is_shut() => HALF_CLOSED,
            () => return None,
        };
        Some(self.last_activity + quiet)
    }

    /// Whether the sender of this direction may go away unnoticed. That is so if nothing is written
    /// to it and it is not read: either not any more, or not while the receiver has not taken the
    /// bytes that were read before.
    fn is_unseen(&self, direction: Direction) -> bool {
        let (from, to) = match direction {
            Direction::ToServer => (&self.client, &self.server),
            Direction::ToClient => (&self.server, &self.client),
        };
        !from.is_shut() && (from.ended || !to.has_sent_all())
    }

    /// `stall`: the value of [`Relay::stall_due`].
    fn look_due(&self, stall: Option<Instant>) -> Option<Instant> {
        let is_unseen = || Direction::BOTH.iter().any(|&way| self.is_unseen(way));
        (stall.is_some() || is_unseen()).then(|| self.last_look + LOOK)
    }

    /// Finds out which sides are gone by now.
    fn look(&mut self, now: Instant, cx: &mut Context<'_>) {
        for direction in Direction::BOTH {
            if self.is_unseen(direction) && self.sender(direction).transport.has_broken(cx) {
                self.break_off(direction, now);
            }
        }
        self.look_at_stalls(now);
        self.last_look = now;
    }

    /// The sender of this direction takes nothing more. A sender that was not watched was still
    /// there at the last check; the time is counted from then, so that the session does not end too
    /// late.
    pub(super) fn break_off(&mut self, direction: Direction, now: Instant) {
        let since = match self.is_unseen(direction) {
            true => self.last_look.max(now.checked_sub(LOOK).unwrap_or(now)),
            false => now,
        };
        self.sender(direction).break_off(since);
        self.last_activity = self.last_activity.max(since);
    }

    /// No ping for a client that has ended its side: it could not answer.
    fn ping_due(&self) -> Option<Instant> {
        let ping = self.limits.ping.filter(|_| !self.client.ended)?;
        Some(self.pinged.unwrap_or(self.last_heard) + ping)
    }

    /// No frame can be inserted within a frame of the server, or after its Close frame.
    fn client_takes_a_frame(&self) -> bool {
        let server = &self.server;
        server.scanner.between_frames() && !server.has_closed() && !self.client.is_shut()
    }

    /// Does what is due at `now`. Returns true if the session is cut.
    pub(super) fn do_due(&mut self, now: Instant, cx: &mut Context<'_>) -> bool {
        let is_due = |due: Option<Instant>| due.is_some_and(|due| due <= now);
        if let Some(ending) = &mut self.ending {
            match ending.goodbye.time_is_up() {
                TimeUp::Cut => return true,
                TimeUp::Again(wait) => ending.due = now + wait,
            }
            return false;
        }
        if is_due(self.settles) {
            self.settles = None;
            let stall = self.limits.server_stall;
            let stall = stall.unwrap_or(TCP_KEEPALIVE.user_timeout);
            self.server.transport.watch_peer(stall);
            return false;
        }
        if is_due(self.look_due(self.stall_due())) {
            self.look(now, cx);
            return false;
        }
        if let Some(direction) = self.stalled(now) {
            return self.give_up_stalled(direction);
        }
        if let Some(alarm) = &mut self.alarm
            && alarm.due() <= now
        {
            let wall = SystemTime::now();
            if alarm.rings(now, wall) {
                let occasion = Occasion::Expired(alarm.expiry.is_good_for(wall));
                let code = alarm.expiry.code();
                self.begin_ending(ClosedBy::Expiry, code, occasion);
            }
            return false;
        }
        if is_due(self.limits.end) {
            self.begin_ending(ClosedBy::MaxSession, GOING_AWAY, Occasion::Asked);
            return false;
        }
        if is_due(self.ping_due()) {
            if self.pinged.is_some() {
                self.begin_ending(ClosedBy::Idle, GOING_AWAY, Occasion::Asked);
            } else if self.client_takes_a_frame() {
                self.client.waiting.extend_from_slice(&PING_TO_CLIENT);
                self.pinged = Some(now);
            } else {
                // A ping cannot go out now. Try again after another `ping` interval.
                self.last_heard = now;
            }
            return false;
        }
        if self.gone_due().is_some() {
            // Without effect if the log already knows the side that broke.
            self.traffic.close(
                match self.client.broken_since() {
                    Some(_) => ClosedBy::Client,
                    None => ClosedBy::Server,
                },
                None,
            );
            return true;
        }
        self.begin_ending(ClosedBy::Idle, GOING_AWAY, Occasion::Asked);
        false
    }
}
