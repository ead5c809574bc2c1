//! How many handshakes a server gets at once, learned from how long it takes for them.
//!
//! A server that many clients come to at the same moment slows down first, or fails at once: its
//! latency says nothing until it is too late. So the number begins low, grows only after answers to
//! handshakes that were sent under it, and beyond what nearly every server bears it grows slowly.
//!
//! ```text
//!                 a round of answers: the number was reached, and the mean latency is
//!
//!    below base × STEADY        up to base × SLOW         above it         or: a tenth fails
//!            │                         │                     │                  │
//!            ▼                         ▼                     ▼                  ▼
//!   below `safe`: half more      stays as it is       back in proportion     half of it
//!   above `safe`: one at most                         `safe` = what is left, in both cases
//!
//!   base: the latency without us. It falls with each round that was faster, and rises only with
//!   rounds in which the number was not reached, could not be lower, or was lowered in vain.
//! ```
//!
//! If a lower number does not make the server faster, the cause is another one (this machine has
//! other work to do, or the server has): the number is what it was before.
//!
//! Some handshakes take long for a reason of their own, and must not keep the others out. So one
//! that is [`STUCK`] is no longer counted once a later one was answered: in a server that is only
//! slow nobody is overtaken like that. And when nothing moves for so long, one more is let in,
//! which either overtakes the others or shows that the server hangs.
//!
//! The number is forgotten when a smaller one was enough for [`MEMORY`]: a server that has been
//! restarted since must be approached like a stranger.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The number at the beginning. Fewer would hold up an ordinary burst.
pub const START: f64 = 20.0;

/// The number never falls below this: a server must be able to show that it is well again.
pub const LEAST: f64 = 8.0;

/// Up to here the number grows fast.
const SAFE: f64 = 100.0;

/// As long as the latency is below this multiple of the base, more handshakes do no harm.
const STEADY: f64 = 1.3;

/// Above this multiple the server has more than it can work on.
const SLOW: f64 = 2.0;

/// A lower number has helped if the latency is below this part of what it was.
const HELPED: f64 = 0.8;

/// A single latency counts as this multiple at most, so that one slow client of a slow database
/// does not decide for all.
const OUTLIER: f64 = 4.0;

/// A handshake that takes longer waits for something else than its turn, if others do not. So does
/// one that takes [`OUTLIER`] times the base.
const STUCK: Duration = Duration::from_secs(2);

/// So many failures in a round may be chance.
const CHANCE: f64 = 2.0;

const MEMORY: Duration = Duration::from_secs(30);

/// How a handshake that was admitted has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The server has taken it.
    Done,
    /// The server has failed, or has said that it has too much to do.
    Failed,
    /// It says nothing about the server: the client has left, or was not wanted.
    Neutral,
}

/// One server's handshakes.
#[derive(Debug, Clone)]
pub struct Concurrency {
    /// How many handshakes the server gets at once.
    most: f64,
    /// When those began that are under way and counted, in order.
    under_way: VecDeque<Instant>,
    /// When one was admitted or answered last.
    moved: Option<Instant>,
    /// Up to here the number grows fast.
    safe: f64,
    /// The latency when the server has nothing else to do, in seconds.
    base: Option<f64>,
    /// The number and the latency before the number was lowered because of it.
    lowered: Option<(f64, f64)>,
    round: Round,
    /// When the number was last needed.
    needed: Option<Instant>,
}

/// The answers since the number has changed.
#[derive(Debug, Clone, Copy)]
struct Round {
    /// Only handshakes that began later count. `None`: all.
    began: Option<Instant>,
    /// The latencies of those that were done.
    sum: f64,
    done: f64,
    failed: f64,
    was_reached: bool,
}

impl Round {
    fn new(began: Option<Instant>) -> Self {
        Self {
            began,
            sum: 0.0,
            done: 0.0,
            failed: 0.0,
            was_reached: false,
        }
    }

    /// Whether more have failed than may be chance.
    fn is_bad(&self) -> bool {
        self.failed > CHANCE && self.failed * 10.0 > self.done
    }
}

impl Default for Concurrency {
    fn default() -> Self {
        Self {
            most: START,
            under_way: VecDeque::new(),
            moved: None,
            safe: SAFE,
            base: None,
            lowered: None,
            round: Round::new(None),
            needed: None,
        }
    }
}

impl Concurrency {
    /// How many handshakes the server gets at once.
    pub fn most(&self) -> usize {
        self.most as usize
    }

    pub fn under_way(&self) -> usize {
        self.under_way.len()
    }

    fn has_room(&self) -> bool {
        self.under_way.len() < self.most()
    }

    /// When one more may come, if nothing else happens. `None`: at once.
    pub fn full_until(&self) -> Option<Instant> {
        let full = self.moved.filter(|_| !self.has_room());
        full.map(|moved| moved + self.stuck())
    }

    /// How long a handshake may take before it counts as stuck.
    fn stuck(&self) -> Duration {
        let outlier = self.base.unwrap_or_default() * OUTLIER;
        STUCK.max(Duration::try_from_secs_f64(outlier).unwrap_or(STUCK))
    }

    /// Counts one more handshake, and returns when it began. `None`: the server has as many as it
    /// gets.
    pub fn admit(&mut self, now: Instant) -> Option<Instant> {
        let is_old = |needed: Instant| now.saturating_duration_since(needed) > MEMORY;
        if self.needed.is_some_and(is_old) {
            self.begin_anew(now);
        }
        let may = self.full_until().is_none_or(|until| now >= until);
        // The clock was read before the lock was taken.
        let began = self.under_way.back().map_or(now, |last| now.max(*last));
        if may {
            self.under_way.push_back(began);
            self.moved = Some(now);
        }
        if !self.has_room() {
            self.round.was_reached = true;
        }
        if !self.has_room() || self.under_way.len() as f64 >= START {
            self.needed = Some(now);
        }
        may.then_some(began)
    }

    /// A handshake that was admitted at `began` has ended.
    pub fn end(&mut self, ended: Ended, began: Instant, now: Instant) {
        // One that was stuck is not there any more.
        let Ok(number) = self.under_way.binary_search(&began) else {
            return;
        };
        self.under_way.remove(number);
        self.moved = Some(now);
        if ended == Ended::Done {
            self.forget_stuck(began, now);
        }
        if self.round.began.is_some_and(|round| began < round) {
            return;
        }
        match ended {
            Ended::Done => self.note(now.saturating_duration_since(began).as_secs_f64()),
            Ended::Failed => self.round.failed += 1.0,
            Ended::Neutral => {}
        }
        if self.round.is_bad() {
            self.lower_to(self.most / 2.0, now);
        } else if self.round.done + self.round.failed >= self.most.floor() {
            self.judge(now);
        }
    }

    /// The server is new, or back: what was found out of it no longer holds.
    pub fn begin_anew(&mut self, now: Instant) {
        self.most = START;
        self.safe = SAFE;
        self.lowered = None;
        self.needed = None;
        self.round = Round::new(Some(now));
    }

    /// One that began at `overtaker` was answered.
    fn forget_stuck(&mut self, overtaker: Instant, now: Instant) {
        let stuck = self.stuck();
        let is_stuck =
            |began: &Instant| *began < overtaker && now.saturating_duration_since(*began) > stuck;
        while self.under_way.front().is_some_and(is_stuck) {
            self.under_way.pop_front();
        }
    }

    fn note(&mut self, latency: f64) {
        let most = self.base.map_or(f64::INFINITY, |base| base * OUTLIER);
        self.round.sum += latency.min(most);
        self.round.done += 1.0;
    }

    /// A round is over.
    fn judge(&mut self, now: Instant) {
        let round = std::mem::replace(&mut self.round, Round::new(Some(now)));
        if round.done == 0.0 {
            return;
        }
        let mean = round.sum / round.done;
        let base = self.base.map_or(mean, |base| base.min(mean));
        self.base = Some(base);
        if !round.was_reached {
            // This is how long it takes without a crowd. One slow round may be chance.
            self.base = Some(base + (mean - base) / 4.0);
        } else if mean <= base * STEADY {
            self.lowered = None;
            self.grow();
        } else if mean > base * SLOW {
            self.slow_down(mean, base, now);
        }
    }

    fn slow_down(&mut self, mean: f64, base: f64, now: Instant) {
        match self.lowered.take() {
            Some((most, before)) if mean > before * HELPED => {
                self.base = Some(mean);
                self.most = self.most.max(most);
                self.safe = self.most;
            }
            _ if self.most > LEAST => {
                self.lowered = Some((self.most, mean));
                self.lower_to(self.most * base * STEADY / mean, now);
            }
            _ => {
                // So few cannot be the cause. It takes that long now.
                self.base = Some(mean);
                self.safe = SAFE;
            }
        }
    }

    fn grow(&mut self) {
        self.most = if self.most < self.safe {
            (self.most * 1.5).min(self.safe)
        } else {
            self.most + (SAFE / self.most).powi(2).min(1.0)
        };
    }

    fn lower_to(&mut self, most: f64, now: Instant) {
        self.most = most.max(self.most / 2.0).max(LEAST);
        self.safe = self.most;
        self.round = Round::new(Some(now));
    }
}

#[cfg(test)]
mod tests;
