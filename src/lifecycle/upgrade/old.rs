//! The old process's side of an upgrade, as a value: events come in, actions come out.
//! [`super::hand_over`] is the shell around it, and `super::model` tests it in every order.
//!
//! ```text
//!            Ready          may go            Serving         all that can has moved
//!  Starting ───────► Asking ──────► Going ─────────────► Moving ───────────────► Settled
//!     │                 │             │                    │                        │ nothing is
//!     └─────────────────┴─────────────┴─── failed: kill ───┘      silent, or gone   │ left here
//!                               ▼                                      │            ▼
//!                            Severed: what the new one has said   ◄────┘          Ending
//!                               │     is still read                                 │
//!                               ▼ nothing more comes                                ▼ closed
//!                             Over: what was not adopted is carried here again    Over
//! ```
//!
//! A session is in one of these states. Only in the first is it read:
//!
//! ```text
//!  here ──► asked to rest ──► in hand, at rest ──► underway ──► theirs
//!   ▲            │ stays                              │ refused, or never adopted
//!   └────────────┴────────────────────────────────────┘
//! ```
//!
//! The link is shut in both directions before anything is taken back. After that the new process
//! cannot send that it adopts a session, and all that it sent before is read first. A flag that
//! outlives this process says that it has shut the link. So both processes always agree, even if
//! this one dies later.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::Hash;

/// How many sessions are asked to stop or are under way at a time. Nobody reads them meanwhile.
pub const WINDOW: usize = 64;

/// The name of a session.
pub trait Key: Copy + Ord + Hash {}
impl<T: Copy + Ord + Hash> Key for T {}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Old<K> {
    stage: Stage,
    window: usize,
    /// Every session that existed when the new process began to serve was found.
    is_listed: bool,
    /// The sessions in the three fields below.
    known: BTreeSet<K>,
    /// Sessions that could move and were not asked yet.
    candidates: VecDeque<K>,
    /// Sessions that were asked to stop.
    asked: BTreeSet<K>,
    /// Parcels that were sent and not answered. `None`: a connection between two requests.
    underway: BTreeMap<u64, Option<K>>,
    moved: u64,
    /// The new process was told to stop.
    successor_stops: bool,
    is_empty: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Stage {
    /// The new process has not said yet that it could serve.
    Starting,
    /// It could serve, and this process prepares for that.
    Asking,
    /// It was told to serve.
    Going,
    /// It serves, and sessions move.
    Moving,
    /// Everything that could move at once has moved.
    Settled,
    /// Nothing is left here, and the new process was told so.
    Ending,
    /// The link was shut.
    Severed(Verdict),
    Over,
}

/// The result of the upgrade.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// This process continues as before.
    Failed,
    /// The new process serves, and nothing is left here.
    Finished,
    /// The new process served, and is gone.
    Died,
    /// The new process serves but no longer answers. What is left here stays here.
    Silent,
    /// The new process was told to stop, and this one with it.
    Stopped,
}

/// What the shell reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event<K> {
    Ready,
    /// This process accepts nothing more.
    MayGo,
    Serving,
    /// A session that could move lives here.
    Found(K),
    /// Every session was reported by [`Event::Found`].
    Listed,
    /// A session (or an idle connection) has stopped, and is in hand under this number.
    AtRest(Option<K>, u64),
    /// A session that was asked does not move.
    Stays(K),
    Adopted(u64),
    Refused(u64),
    /// The new process was told to stop.
    Stopping,
    /// The new process gives up.
    GaveUp,
    /// No connection is left in this process.
    Empty,
    /// What [`Old::awaits`] returned has not come in time.
    TimeUp,
    /// This process is told to stop.
    CalledOff,
    /// Everything that the new process has sent was read, and nothing more comes.
    Closed,
    /// What the new process sends cannot be read any more, so nobody knows what it has adopted.
    Unreadable,
}

/// What the shell must do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action<K> {
    /// Stop accepting. [`Event::MayGo`] follows.
    Yield,
    SayGo,
    /// Report every session that could move, then [`Event::Listed`], and from then on each new one.
    Find,
    Ask(K),
    /// Take the question to this session back.
    Unask(K),
    Send(u64),
    /// The parcel belongs to the new process.
    LetGo(u64),
    /// Serve the parcel here again.
    TakeBack(u64),
    /// The report of the upgrade can be made.
    Report,
    SayEnd,
    /// Set the flag and shut the link in both directions, and read on until [`Event::Closed`].
    Sever,
    /// The new process was not told to serve, and must end.
    Dismiss,
    /// Kill the new process: it must not serve at the same time as this one.
    Kill,
    Finish(Verdict),
}

/// What is awaited. Each has its own time limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Awaited {
    Ready,
    Serving,
    /// The answer to any parcel. The time begins anew with each answer.
    Answer,
    Close,
}

impl<K: Key> Old<K> {
    pub fn new(window: usize) -> Self {
        Self {
            stage: Stage::Starting,
            window,
            is_listed: false,
            known: BTreeSet::new(),
            candidates: VecDeque::new(),
            asked: BTreeSet::new(),
            underway: BTreeMap::new(),
            moved: 0,
            successor_stops: false,
            is_empty: false,
        }
    }

    /// How many sessions the new process has adopted.
    pub fn moved(&self) -> u64 {
        self.moved
    }

    /// Whether the new process was told to stop.
    pub fn successor_stops(&self) -> bool {
        self.successor_stops
    }

    /// Whether the new process takes commands, because it serves or is about to.
    pub fn has_handed_over(&self) -> bool {
        matches!(
            self.stage,
            Stage::Going | Stage::Moving | Stage::Settled | Stage::Ending
        )
    }

    /// Whether everything that could move at once has moved.
    pub fn has_settled(&self) -> bool {
        matches!(self.stage, Stage::Settled | Stage::Ending)
    }

    pub fn awaits(&self) -> Option<Awaited> {
        match self.stage {
            Stage::Starting => Some(Awaited::Ready),
            Stage::Going => Some(Awaited::Serving),
            Stage::Moving | Stage::Settled if !self.underway.is_empty() => Some(Awaited::Answer),
            Stage::Ending => Some(Awaited::Close),
            _ => None,
        }
    }

    pub fn on(&mut self, event: Event<K>) -> Vec<Action<K>> {
        let mut actions = match (self.stage, event) {
            (Stage::Starting, Event::Ready) => {
                self.stage = Stage::Asking;
                vec![Action::Yield]
            }
            (Stage::Asking, Event::MayGo) => {
                self.stage = Stage::Going;
                vec![Action::SayGo]
            }
            (Stage::Going, Event::Serving) => {
                self.stage = Stage::Moving;
                vec![Action::Find]
            }
            (_, Event::Stopping) => {
                self.successor_stops = true;
                for key in std::mem::take(&mut self.candidates) {
                    self.known.remove(&key);
                }
                Vec::new()
            }
            (_, Event::Adopted(number)) => self.adopted(number),
            (_, Event::Refused(number)) => self.refused(number),
            (_, Event::AtRest(key, number)) => self.at_rest(key, number),
            (Stage::Moving | Stage::Settled, Event::Found(key)) => {
                // A session may be found in two ways at the same time.
                if !self.successor_stops && self.known.insert(key) {
                    self.candidates.push_back(key);
                }
                Vec::new()
            }
            (_, Event::Stays(key)) => {
                if self.asked.remove(&key) {
                    self.known.remove(&key);
                }
                Vec::new()
            }
            (_, Event::Listed) => {
                self.is_listed = true;
                Vec::new()
            }
            (_, Event::Empty) => {
                self.is_empty = true;
                Vec::new()
            }
            (_, Event::Closed) => return self.closed(Action::TakeBack),
            // Two processes that read one session would do more harm than its end.
            (_, Event::Unreadable) => return self.closed(Action::LetGo),
            (_, Event::GaveUp | Event::TimeUp | Event::CalledOff) => return self.give_up(event),
            _ => Vec::new(),
        };
        self.fill(&mut actions);
        self.settle(&mut actions);
        actions
    }

    fn adopted(&mut self, number: u64) -> Vec<Action<K>> {
        match self.underway.remove(&number) {
            Some(session) => {
                if let Some(key) = session {
                    self.moved += 1;
                    self.known.remove(&key);
                }
                vec![Action::LetGo(number)]
            }
            None => Vec::new(),
        }
    }

    fn refused(&mut self, number: u64) -> Vec<Action<K>> {
        match self.underway.remove(&number) {
            Some(session) => {
                session.iter().for_each(|key| {
                    self.known.remove(key);
                });
                vec![Action::TakeBack(number)]
            }
            None => Vec::new(),
        }
    }

    fn at_rest(&mut self, key: Option<K>, number: u64) -> Vec<Action<K>> {
        if let Some(key) = key {
            self.asked.remove(&key);
        }
        let moves = matches!(self.stage, Stage::Moving | Stage::Settled);
        if !moves || self.successor_stops {
            key.iter().for_each(|key| {
                self.known.remove(key);
            });
            return vec![Action::TakeBack(number)];
        }
        self.underway.insert(number, key);
        vec![Action::Send(number)]
    }

    /// Asks the next sessions, as long as the window has room.
    fn fill(&mut self, actions: &mut Vec<Action<K>>) {
        while self.asked.len() + self.underway.len() < self.window
            && let Some(key) = self.candidates.pop_front()
        {
            self.asked.insert(key);
            actions.push(Action::Ask(key));
        }
    }

    fn settle(&mut self, actions: &mut Vec<Action<K>>) {
        let is_quiet =
            self.candidates.is_empty() && self.asked.is_empty() && self.underway.is_empty();
        if self.stage == Stage::Moving && self.is_listed && is_quiet {
            self.stage = Stage::Settled;
            actions.push(Action::Report);
        }
        if self.stage == Stage::Settled && self.is_empty && is_quiet {
            self.stage = Stage::Ending;
            actions.push(Action::SayEnd);
        }
    }

    /// The new process cannot be used, or is no longer ours.
    fn give_up(&mut self, event: Event<K>) -> Vec<Action<K>> {
        match self.stage {
            Stage::Starting | Stage::Asking | Stage::Going | Stage::Moving => {
                let mut actions = vec![self.end_it()];
                actions.extend(self.sever(Verdict::Failed));
                actions
            }
            // The new process serves: even if it is slow, the sessions that it has adopted live
            // there.
            Stage::Settled => self.sever(Verdict::Silent),
            Stage::Ending if event == Event::TimeUp => self.sever(Verdict::Finished),
            Stage::Ending | Stage::Severed(_) | Stage::Over => Vec::new(),
        }
    }

    fn end_it(&self) -> Action<K> {
        match self.stage {
            Stage::Starting | Stage::Asking => Action::Dismiss,
            _ => Action::Kill,
        }
    }

    fn sever(&mut self, verdict: Verdict) -> Vec<Action<K>> {
        self.stage = Stage::Severed(verdict);
        self.candidates.clear();
        let asked = std::mem::take(&mut self.asked);
        let unasked = asked.into_iter().map(Action::Unask);
        unasked.chain([Action::Sever]).collect()
    }

    /// Nothing more comes. `underway`: what becomes of each parcel that is under way.
    fn closed(&mut self, underway: fn(u64) -> Action<K>) -> Vec<Action<K>> {
        let verdict = match self.stage {
            Stage::Severed(verdict) => verdict,
            Stage::Starting | Stage::Asking | Stage::Going => Verdict::Failed,
            Stage::Moving | Stage::Settled if self.successor_stops => Verdict::Stopped,
            Stage::Moving => Verdict::Failed,
            Stage::Settled => Verdict::Died,
            Stage::Ending => Verdict::Finished,
            Stage::Over => return Vec::new(),
        };
        let mut actions = Vec::new();
        if !matches!(self.stage, Stage::Severed(_)) {
            if verdict == Verdict::Failed {
                actions.push(self.end_it());
            }
            actions.extend(self.sever(verdict));
        }
        self.stage = Stage::Over;
        let parcels = std::mem::take(&mut self.underway);
        actions.extend(parcels.into_keys().map(underway));
        actions.push(Action::Finish(verdict));
        actions
    }
}

#[cfg(test)]
mod tests;
