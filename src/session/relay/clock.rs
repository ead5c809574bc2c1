//! What a relay does when nothing happens.

use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Instant;

use super::{GOING_AWAY, HALF_CLOSED, LAST_WAIT, Limits, PING_TO_CLIENT, Relay, SERVER_GONE};
use crate::session::traffic::ClosedBy;

impl Relay {
    /// When the next thing is due if nothing happens before.
    fn due(&self) -> Option<Instant> {
        if let Some(ending) = &self.ending {
            return Some(ending.due);
        }
        let Limits { idle, end, ping } = self.limits;
        let quiet = self.half_closed().into_iter().chain(idle).min();
        let idle = quiet.map(|quiet| self.last_activity + quiet);
        let ping = ping.map(|ping| self.pinged.unwrap_or(self.last_heard) + ping);
        [idle, end, ping, self.settles].into_iter().flatten().min()
    }

    /// None can be put in within a frame of the server's, nor behind its Close frame.
    fn client_takes_a_frame(&self) -> bool {
        let server = &self.server;
        server.scanner.between_frames() && !server.has_closed() && !self.client.shut
    }

    /// How long it may be quiet once one direction is over.
    fn half_closed(&self) -> Option<Duration> {
        let (client, server) = (&self.client, &self.server);
        match () {
            () if server.ended || client.shut => Some(SERVER_GONE),
            () if client.ended || server.shut => Some(HALF_CLOSED),
            () => None,
        }
    }

    /// What is due is done. True: the session is cut.
    pub(super) fn strike(&mut self, now: Instant) -> bool {
        if let Some(ending) = &mut self.ending {
            if ending.tell_server && !ending.hears_server {
                return true;
            }
            ending.tell_server = true;
            ending.hears_server = false;
            ending.due = now + LAST_WAIT;
            return false;
        }
        if self.settles.is_some_and(|settles| settles <= now) {
            self.settles = None;
            self.server.transport.watch_peer();
            return false;
        }
        if self.limits.end.is_some_and(|end| end <= now) {
            self.begin_ending(ClosedBy::MaxSession, GOING_AWAY);
            return false;
        }
        if let Some(ping) = self.limits.ping
            && self.pinged.unwrap_or(self.last_heard) + ping <= now
        {
            if self.pinged.is_some() {
                self.begin_ending(ClosedBy::Idle, GOING_AWAY);
            } else if self.client_takes_a_frame() {
                self.client.waiting.extend_from_slice(&PING_TO_CLIENT);
                self.pinged = Some(now);
            } else {
                // Another time.
                self.last_heard = now;
            }
            return false;
        }
        if self.half_closed().is_some() {
            // Unless the log knows already: the side that broke.
            self.traffic.close(
                match self.client.shut {
                    true => ClosedBy::Client,
                    false => ClosedBy::Server,
                },
                None,
            );
            return true;
        }
        self.begin_ending(ClosedBy::Idle, GOING_AWAY);
        false
    }

    /// Ready when something is due. The timer is moved when it fires, not with each message.
    pub(super) fn poll_due(&mut self, cx: &mut Context<'_>) -> Poll<Instant> {
        loop {
            let Some(due) = self.due() else {
                return Poll::Pending;
            };
            match &mut self.timer {
                Some(timer) if timer.deadline() <= due && !timer.is_elapsed() => {
                    return Poll::Pending;
                }
                Some(timer) => timer.as_mut().reset(due),
                None => self.timer = Some(Box::pin(tokio::time::sleep_until(due))),
            }
            if let Some(timer) = &mut self.timer {
                ready!(timer.as_mut().poll(cx));
            }
            let now = Instant::now();
            if self.due().is_some_and(|due| due <= now) {
                return Poll::Ready(now);
            }
        }
    }
}
