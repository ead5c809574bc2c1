//! The states of a server that last for a time.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::{Server, now_ms};

/// States of a server that last for a time, for the next process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ServerState {
    /// How long the server stays ejected.
    pub ejected_for: Option<Duration>,
    /// How long ago the server's slow start began.
    pub starting_since: Option<Duration>,
    /// How long the server, though drained, keeps the requests of clients that belong to it.
    pub keeps_own_for: Option<Duration>,
}

impl Server {
    /// The states that last for a time.
    pub fn state(&self) -> ServerState {
        let (now, started) = (now_ms(), self.started_ms.load(Relaxed));
        let ejected_for = self.ejection.remaining(now);
        ServerState {
            ejected_for: ejected_for.map(Duration::from_millis),
            // `started` is in the future while the server is ejected.
            starting_since: (started > 0 && started <= now)
                .then(|| Duration::from_millis(now - started)),
            keeps_own_for: self
                .keeps_own_until
                .load(Relaxed)
                .checked_sub(now)
                .filter(|left| *left > 0)
                .map(Duration::from_millis),
        }
    }

    /// Continues the states that another process has handed over.
    pub fn resume(&self, state: ServerState) {
        let now = now_ms();
        if let Some(since) = state.starting_since {
            let since = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
            self.started_ms
                .store(now.saturating_sub(since).max(1), Relaxed);
        }
        if let Some(remaining) = state.ejected_for {
            let until = now + remaining.as_millis() as u64;
            self.ejection.set_until(until);
            self.started_ms.store(until, Relaxed);
        }
        if let Some(time) = state.keeps_own_for {
            self.keep_own_for(time);
        }
    }

    /// For this time the requests of clients that belong to the server go to it although it is
    /// drained.
    pub fn keep_own_for(&self, time: Duration) {
        let time = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.keeps_own_until
            .store(now_ms().saturating_add(time), Relaxed);
    }

    pub(super) fn keeps_own(&self) -> bool {
        now_ms() < self.keeps_own_until.load(Relaxed)
    }
}
