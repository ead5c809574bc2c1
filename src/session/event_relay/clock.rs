//! What a relay of events does when a time is reached.

use std::task::Context;
use std::time::SystemTime;

use tokio::time::Instant;

use super::{EventRelay, SCRATCH, State, framed};
use crate::event_stream::PING;
use crate::http1::body::SIZE_LINE_MAX;
use crate::session::relay::LOOK;
use crate::session::traffic::ClosedBy;

impl EventRelay {
    /// When the next thing is due if nothing happens before that.
    pub(super) fn due(&self) -> Option<Instant> {
        match self.state {
            State::Ending { due } => Some(due),
            State::Said { due } => [Some(due), self.look_due()].into_iter().flatten().min(),
            State::Passing => {
                let idle = self.limits.idle.map(|idle| self.last_activity + idle);
                let dues = [
                    idle,
                    self.limits.end,
                    self.alarm.as_ref().map(|alarm| alarm.due()),
                    self.ping_due(),
                    self.stall_due(),
                    self.look_due(),
                ];
                dues.into_iter().flatten().min()
            }
        }
    }

    /// Nothing can be put into a stream whose events cannot be seen.
    fn ping_due(&self) -> Option<Instant> {
        self.server.scanner.events.as_ref()?;
        let last = self
            .pinged
            .map_or(self.last_activity, |pinged| pinged.max(self.last_activity));
        Some(last + self.limits.ping?)
    }

    /// When a client is given up that takes nothing. TCP measures this itself.
    fn stall_due(&self) -> Option<Instant> {
        Some(self.client.stalled_since? + self.limits.client_stall?)
    }

    /// A client that had ended its side before the stream began is not read, so its going away must
    /// be looked for. So must be whether one that stalls takes something after all.
    fn look_due(&self) -> Option<Instant> {
        let must_look = self.client.ended || self.client.stalled_since.is_some();
        must_look.then(|| self.last_look + LOOK)
    }

    /// Does what is due at `now`. Returns true if the stream is over.
    pub(super) fn do_due(&mut self, now: Instant, cx: &mut Context<'_>) -> bool {
        let is_due = |due: Option<Instant>| due.is_some_and(|due| due <= now);
        if is_due(self.look_due()) {
            self.last_look = now;
            if self.client.stalled_since.is_some() {
                self.client.send_unasked(now);
            }
            if self.client.ended && self.client.transport.has_broken(cx) {
                self.traffic.close(ClosedBy::Client, None);
                return true;
            }
            return false;
        }
        if self.state == State::Passing
            && let Some(alarm) = &mut self.alarm
            && alarm.due() <= now
        {
            if alarm.rings(now, SystemTime::now()) {
                self.begin_ending(ClosedBy::Expiry);
            }
            return false;
        }
        match self.state {
            State::Passing if is_due(self.stall_due()) => {
                let why = "the client took nothing for as long as its stall";
                self.fail(ClosedBy::Error, why);
                return true;
            }
            State::Passing if is_due(self.limits.end) => {
                self.begin_ending(ClosedBy::MaxSession);
            }
            State::Passing if is_due(self.ping_due()) => {
                self.pinged = Some(now);
                if self.server.scanner.is_between_events() && self.client.has_sent_all() {
                    self.put_in_a_ping();
                }
            }
            State::Passing => self.begin_ending(ClosedBy::Idle),
            State::Ending { .. } => {
                self.failure = Some("the server did not end its event in time");
                return true;
            }
            State::Said { .. } => {
                self.failure = Some("the client did not take the end of its stream in time");
                return true;
            }
        }
        false
    }

    fn put_in_a_ping(&mut self) {
        SCRATCH.with_borrow_mut(|scratch| {
            scratch[SIZE_LINE_MAX..][..PING.len()].copy_from_slice(PING);
            let ping = framed(scratch, PING.len(), self.framing, false);
            self.client.waiting.extend_from_slice(ping);
        });
    }
}
