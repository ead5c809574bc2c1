//! Whose turn it is to shake hands with a server, and the wait until then.

use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus::Histogram;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::group::{Choice, Group, Pick};
use super::members::Servers;
use super::pacing::{Ended, Line, Waiter};
use super::server::{Lease, Server};
use crate::config::Balance;

/// How often the first in a line looks for room without being called: a server may have come back,
/// or all may be gone.
const LOOK: Duration = Duration::from_millis(500);

/// The least time after which a client that found the queue full should come again.
const LEAST_PAUSE: Duration = Duration::from_secs(2);

/// What a handshake does next.
#[derive(Debug)]
pub enum Turn {
    /// It goes to this server. `None`: handshakes are not paced.
    Go(Lease, Option<Slot>),
    /// Servers could take it, but have as many as they get at once.
    Wait(Line),
    /// No server can take it.
    Nobody,
}

/// One of the handshakes that a server has at once, counted until this is dropped.
#[derive(Debug)]
pub struct Slot {
    servers: Arc<Servers>,
    server: Arc<Server>,
    began: Instant,
    ended: Ended,
}

impl Slot {
    /// `None`: the server has as many as it gets.
    fn take(servers: &Arc<Servers>, server: &Arc<Server>) -> Option<Self> {
        let began = server.pace.admit(Instant::now())?;
        Some(Self {
            servers: servers.clone(),
            server: server.clone(),
            began,
            ended: Ended::Neutral,
        })
    }

    /// How it has ended, from which the server's next number is learned.
    pub fn end(mut self, ended: Ended) {
        self.ended = ended;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.server.pace.end(self.ended, self.began, Instant::now());
        self.servers.pacing.freed(self.server.address);
    }
}

/// As many handshakes wait as may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueFull {
    /// When the client should come again: the queue takes that long now.
    pub retry_after: Duration,
}

/// A handshake that waits, as long as this value lives.
#[derive(Debug)]
pub struct Waiting {
    servers: Arc<Servers>,
    waiter: Waiter,
    call: Arc<Notify>,
}

impl Waiting {
    pub fn line(&self) -> Line {
        self.waiter.line
    }

    /// Whether it is its turn to try.
    pub fn is_first(&self) -> bool {
        self.servers.pacing.is_first(self.waiter)
    }

    /// Returns when it should look whether it is its turn, for the first time at once. May be
    /// dropped at any time.
    pub async fn called(&self) {
        let called = self.call.notified();
        match self.is_first() {
            // Being called early is the same as looking.
            true => drop(timeout(LOOK, called).await),
            false => called.await,
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.servers.pacing.leave(self.waiter);
    }
}

impl Group {
    /// Finds a server that has room for a handshake. `first_in`: the line in which it is the first.
    /// Where others wait, nobody else is admitted.
    pub fn take_turn(&self, pick: Pick<'_>, first_in: Option<Line>) -> Turn {
        if self.config().pacing.is_none() {
            return self
                .pick(pick)
                .map_or(Turn::Nobody, |lease| Turn::Go(lease, None));
        }
        let is_kept_out = |line| first_in != Some(line) && self.servers.pacing.has(line);
        let is_bound = self.is_bound(pick);
        if !is_bound && is_kept_out(Line::Any) {
            return Turn::Wait(Line::Any);
        }
        loop {
            let lease = match self.choose(pick, !is_bound) {
                Choice::Server(lease) => lease,
                Choice::Busy => return Turn::Wait(Line::Any),
                Choice::Nobody => return Turn::Nobody,
            };
            let own = Line::Of(lease.server().address);
            if is_bound && is_kept_out(own) {
                return Turn::Wait(own);
            }
            match Slot::take(&self.servers, lease.server()) {
                Some(slot) => return Turn::Go(lease, Some(slot)),
                None if is_bound => return Turn::Wait(own),
                // Another one was faster. The server counts as full now.
                None => {}
            }
        }
    }

    /// Whether only one server is right for it, so that others must not take it because that one
    /// has no room.
    fn is_bound(&self, pick: Pick<'_>) -> bool {
        let by_key = matches!(self.config().balance, Balance::ConsistentHash { .. });
        by_key && !pick.key.is_empty() || self.has_own(pick)
    }

    /// Waits in this line. `comes_again`: it has waited before, and goes first. `most`: how many
    /// may wait.
    pub fn wait_in(
        &self,
        line: Line,
        comes_again: bool,
        most: usize,
    ) -> Result<Waiting, QueueFull> {
        let (pacing, call) = (&self.servers.pacing, Arc::<Notify>::default());
        // Room that was freed before it has entered calls nobody.
        call.notify_one();
        let entered = pacing.enter(line, comes_again, (most, Instant::now()), call.clone());
        let waiter = entered.ok_or_else(|| QueueFull {
            retry_after: pacing.longest().unwrap_or_default().max(LEAST_PAUSE),
        })?;
        Ok(Waiting {
            servers: self.servers.clone(),
            waiter,
            call,
        })
    }

    /// One was admitted after it has waited so long.
    pub fn note_wait(&self, wait: Duration) {
        self.servers.pacing.note_wait(wait);
    }

    /// How long those have waited that were admitted. `None`: nobody ever had to.
    pub fn waits(&self) -> Option<&Histogram> {
        self.servers.pacing.waits()
    }

    /// The handshakes that wait for a server, and how long the first one has.
    pub fn waiting(&self) -> (usize, Duration) {
        let pacing = &self.servers.pacing;
        (pacing.waiting(), pacing.longest().unwrap_or_default())
    }
}
