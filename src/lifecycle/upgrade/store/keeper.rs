//! What the old process of a restart does when, as a value: events come in, actions come out.
//! [`super::keep`] is the shell around it.
//!
//! ```text
//!         only sessions that         every session rests,
//!         can move are left          or the time is up
//!  Ending ─────────────────► Resting ─────────────────► Storing ──► Over: kept
//!    │                          │                          │ systemd has not taken it
//!    └──────── called off ──────┴──────────────────────────┴──────► Over: given back
//! ```
//!
//! While requests and sessions that cannot move come to their end, all others are served as before.
//! Only from Resting on nobody reads them, which takes as long as the start of a process.
//!
//! What has come to rest is stored as a whole or not at all. So a session is always in one place:
//! in the store, or carried here again.

use std::collections::BTreeSet;

use crate::lifecycle::upgrade::old::Key;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keeper<K> {
    stage: Stage,
    /// Every session that could move was asked.
    is_listed: bool,
    /// Sessions that were asked to stop, and have not answered.
    asked: BTreeSet<K>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Ending,
    Resting,
    Storing,
    Over,
}

/// What the shell reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<K> {
    /// Only sessions that can move are left, and connections that wait for a request.
    OthersEnded,
    /// A session that could move lives here.
    Found(K),
    /// Every session was reported by [`Event::Found`].
    Listed,
    /// A session has stopped, and is in hand under this number.
    AtRest(K, u64),
    /// A session that was asked does not move.
    Stays(K),
    /// The sessions had time enough.
    TimeUp,
    /// Whether systemd has everything.
    Stored(bool),
    /// Everything must stay here.
    CalledOff,
}

/// What the shell must do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action<K> {
    /// Report every session that could move, then [`Event::Listed`].
    Find,
    Ask(K),
    /// Take the question to this session back.
    Unask(K),
    /// It has stopped too late: serve it here again.
    TakeBack(u64),
    /// Give everything that is in hand to systemd. [`Event::Stored`] follows.
    Store,
    /// Serve everything here again.
    GiveBack,
    /// The end. `true`: everything that was in hand is kept.
    Finish(bool),
}

impl<K: Key> Default for Keeper<K> {
    fn default() -> Self {
        Self {
            stage: Stage::Ending,
            is_listed: false,
            asked: BTreeSet::new(),
        }
    }
}

impl<K: Key> Keeper<K> {
    /// Whether sessions stand still that were asked to. The time for that is limited.
    pub fn rests(&self) -> bool {
        self.stage == Stage::Resting
    }

    pub fn on(&mut self, event: Event<K>) -> Vec<Action<K>> {
        match (self.stage, event) {
            (Stage::Ending, Event::OthersEnded) => {
                self.stage = Stage::Resting;
                vec![Action::Find]
            }
            (Stage::Resting, Event::Found(key)) => match self.asked.insert(key) {
                true => vec![Action::Ask(key)],
                false => Vec::new(),
            },
            (Stage::Resting, Event::Listed) => {
                self.is_listed = true;
                self.store_if_all_rest()
            }
            (Stage::Resting, Event::AtRest(key, _) | Event::Stays(key)) => {
                self.asked.remove(&key);
                self.store_if_all_rest()
            }
            (_, Event::AtRest(_, number)) => vec![Action::TakeBack(number)],
            (Stage::Resting, Event::TimeUp) => {
                let mut actions = self.unask();
                actions.extend(self.store());
                actions
            }
            (Stage::Storing, Event::Stored(true)) => {
                self.stage = Stage::Over;
                vec![Action::Finish(true)]
            }
            (Stage::Storing, Event::Stored(false))
            | (Stage::Ending | Stage::Resting, Event::CalledOff) => {
                let mut actions = self.unask();
                self.stage = Stage::Over;
                actions.extend([Action::GiveBack, Action::Finish(false)]);
                actions
            }
            _ => Vec::new(),
        }
    }

    fn store_if_all_rest(&mut self) -> Vec<Action<K>> {
        match self.is_listed && self.asked.is_empty() {
            true => self.store(),
            false => Vec::new(),
        }
    }

    fn store(&mut self) -> Vec<Action<K>> {
        self.stage = Stage::Storing;
        vec![Action::Store]
    }

    fn unask(&mut self) -> Vec<Action<K>> {
        let asked = std::mem::take(&mut self.asked);
        asked.into_iter().map(Action::Unask).collect()
    }
}

#[cfg(test)]
mod tests;
