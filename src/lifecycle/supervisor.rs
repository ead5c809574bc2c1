//! Decides what the process does next, as a value: signals, commands and results come in, actions
//! come out. [`super::run`] is the shell around it.
//!
//! Every change of the process goes through here, one at a time: a reload, an upgrade, a stop. A
//! request that comes during a change waits, is refused with a reason, or is passed on to the
//! process that has taken over. Everybody who asks gets an answer.
//!
//! ```text
//!  Serving ── upgrade: a new process starts; reloads wait; commands are done here
//!     │           │ it could serve
//!     │           ▼
//!     │       HandingOver ── commands and signals go to the new process
//!     │           │ settled                              │ failed
//!     │           ▼                                      ▼
//!     │       WindingDown ── as before                Serving
//!     │           │ nothing is left       │ it has died ▲
//!     ▼           ▼                       └─────────────┘
//!  Stopping ──► exit
//! ```
//!
//! A stop that is part of a restart goes from Serving to HandingOver too: the sessions are given to
//! systemd, and then the process ends. If systemd does not take them, it stops as at any stop.

use std::collections::VecDeque;

use crate::app::Stop;
use crate::phase::{Phase, Stopping};

/// The number of a caller that waits for the answer to a command.
pub type Caller = u64;

/// Who wants a change. Nobody waits for the result of a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Asker {
    Caller(Caller),
    Signal,
}

/// The signals that prusik reacts to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Signal {
    Hangup,
    User2,
    Terminate,
    Quit,
    Interrupt,
}

impl Signal {
    pub fn name(self) -> &'static str {
        match self {
            Self::Hangup => "HUP",
            Self::User2 => "USR2",
            Self::Terminate => "TERM",
            Self::Quit => "QUIT",
            Self::Interrupt => "INT",
        }
    }
}

/// A change of the process as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Change {
    Reload,
    Upgrade,
}

/// How a hand-over has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HandedOver {
    /// The new process never served, or everything is back in this one.
    Failed,
    /// Nothing is left in this process.
    Finished,
    /// The new process is gone.
    Died,
    /// The new process serves, and what is left in this process stays here.
    Alone,
    /// The new process was told to stop.
    Stopped,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    Signal(Signal),
    /// By this signal systemd stops the process, to start another one at once.
    Restart(Signal),
    Asked(Change, Caller),
    /// A command that takes only a moment, such as a drain.
    Command(Caller),
    Reloaded,
    /// The new process could serve.
    SuccessorReady,
    /// No operator is accepted here any more.
    Yielded,
    Settled,
    /// The new process was told to stop, and takes nothing more.
    SuccessorStops,
    HandedOver(HandedOver),
    /// The process before this one has ended, or sends nothing more.
    PredecessorGone,
    /// The wait for the process before this one took too long.
    PredecessorStays,
    /// The time of `server.drain.delay` is over.
    Announced,
    Drained,
    /// The result of [`Action::Keep`].
    Kept(bool),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    Enter(Phase),
    Reload(Asker),
    AbortReload,
    Start(Asker),
    /// Give up the upgrade that is under way.
    CallOff,
    /// Leave operators to the new process. [`Event::Yielded`] follows.
    Yield,
    /// Tell the new process to serve.
    SayGo,
    /// Serve again in this process.
    ServeAgain,
    /// The upgrade is done: send its report.
    Report(Asker),
    /// Do a command in this process.
    Do(Caller),
    /// Pass a command on to the new process.
    PassOn(Caller),
    PassSignalOn(Signal),
    Refuse(Change, Asker, Reason),
    /// Wait a limited time. [`Event::PredecessorGone`] or [`Event::PredecessorStays`] follows.
    AwaitPredecessor,
    /// Show balancers that this process stops. After `server.drain.delay`, [`Event::Announced`]
    /// follows.
    Announce(Signal),
    /// Send nothing more to the new process.
    StopMoving,
    /// Stop. [`Event::Drained`] follows.
    Stop(Stop),
    /// Give the sessions to systemd, for the next process. [`Event::Kept`] follows.
    Keep,
    /// Say why a restart is a stop as any other.
    SayNotKept(Reason),
    /// Give up what [`Action::Keep`] has begun. [`Event::Kept`] still follows.
    CallKeepOff,
    Exit,
}

/// Why a change is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    Stopping,
    UpgradeUnderWay,
    /// Another process has taken over.
    Replaced,
    PredecessorStays,
    /// An upgrade has failed. The shell knows the cause.
    Failed,
    /// The new process was told to stop.
    SuccessorStops,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Supervisor {
    phase: Phase,
    /// The change that is under way.
    change: Option<(Change, Asker)>,
    waiting: VecDeque<(Change, Asker)>,
    has_predecessor: bool,
    awaits_predecessor: bool,
    /// A stop was passed on to the process that has taken over. It holds for this process too.
    successor_stops: bool,
    /// This stop is part of a restart: in the phase Serving the process before is awaited, in
    /// HandingOver the sessions are given to systemd. The signal says how to stop otherwise.
    restart: Option<Signal>,
}

impl Supervisor {
    pub fn new(has_predecessor: bool) -> Self {
        Self {
            phase: Phase::Serving,
            change: None,
            waiting: VecDeque::new(),
            has_predecessor,
            awaits_predecessor: false,
            successor_stops: false,
            restart: None,
        }
    }

    /// Whether a new process is starting or has taken over.
    pub fn is_upgrading(&self) -> bool {
        self.phase.moves() || matches!(self.change, Some((Change::Upgrade, _)))
    }

    pub fn on(&mut self, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Signal(signal) => self.signal(signal, &mut actions),
            Event::Asked(change, caller) => {
                self.ask(change, Asker::Caller(caller), &mut actions);
            }
            Event::Restart(signal) => self.restart(signal, &mut actions),
            Event::Kept(is_kept) => self.kept(is_kept, &mut actions),
            Event::Command(caller) => actions.push(match self.has_successor() {
                true => Action::PassOn(caller),
                false => Action::Do(caller),
            }),
            Event::Reloaded => self.change = None,
            Event::SuccessorReady => {
                if self.phase == Phase::Serving && self.is_upgrading() {
                    self.enter(Phase::HandingOver, &mut actions);
                    actions.push(Action::Yield);
                }
            }
            Event::Yielded if self.phase == Phase::HandingOver => actions.push(Action::SayGo),
            Event::Yielded => {}
            Event::Settled => self.settled(&mut actions),
            Event::SuccessorStops if self.phase == Phase::HandingOver => {
                self.stop_with_successor(Reason::SuccessorStops, &mut actions);
            }
            Event::SuccessorStops => {}
            Event::HandedOver(how) => self.handed_over(how, &mut actions),
            Event::PredecessorGone => {
                self.has_predecessor = false;
                if self.restart.is_some() {
                    self.keep(&mut actions);
                }
            }
            Event::PredecessorStays => self.predecessor_stays(&mut actions),
            Event::Announced => {
                if self.phase == Phase::Stopping(Stopping::Announced) {
                    self.drain(Stop::Gracefully, &mut actions);
                }
            }
            Event::Drained => actions.push(Action::Exit),
        }
        self.go_on(&mut actions);
        actions
    }

    /// Whether operators mean another process.
    fn has_successor(&self) -> bool {
        self.phase.moves() && self.restart.is_none()
    }

    fn enter(&mut self, phase: Phase, actions: &mut Vec<Action>) {
        self.phase = phase;
        actions.push(Action::Enter(phase));
    }

    fn signal(&mut self, signal: Signal, actions: &mut Vec<Action>) {
        let change = match signal {
            Signal::Hangup => Change::Reload,
            Signal::User2 => Change::Upgrade,
            Signal::Terminate | Signal::Quit => return self.stop(signal, actions),
            Signal::Interrupt => return self.stop_now(actions),
        };
        match self.has_successor() {
            // The sender of the signal means the process that serves.
            true => actions.push(Action::PassSignalOn(signal)),
            false => self.ask(change, Asker::Signal, actions),
        }
    }

    fn ask(&mut self, change: Change, asker: Asker, actions: &mut Vec<Action>) {
        let upgrades = matches!(self.change, Some((Change::Upgrade, _)));
        let refused = match (self.phase, change) {
            (Phase::Stopping(_), _) => Some(Reason::Stopping),
            _ if self.restart.is_some() => Some(Reason::Stopping),
            (Phase::WindingDown, Change::Upgrade) => Some(Reason::Replaced),
            (_, Change::Upgrade) if upgrades => Some(Reason::UpgradeUnderWay),
            _ => None,
        };
        match (refused, asker) {
            (Some(reason), _) => actions.push(Action::Refuse(change, asker, reason)),
            (None, Asker::Caller(caller)) if self.phase.moves() => {
                actions.push(Action::PassOn(caller));
            }
            (None, _) => {
                let must_wait = change == Change::Upgrade && self.has_predecessor;
                if must_wait && !std::mem::replace(&mut self.awaits_predecessor, true) {
                    actions.push(Action::AwaitPredecessor);
                }
                self.waiting.push_back((change, asker));
            }
        }
    }

    /// Begins the next change, if one can begin.
    fn go_on(&mut self, actions: &mut Vec<Action>) {
        if self.phase != Phase::Serving || self.change.is_some() {
            return;
        }
        let may_begin =
            |(change, _): &(Change, Asker)| *change == Change::Reload || !self.has_predecessor;
        let Some(next) = self.waiting.iter().position(may_begin) else {
            return;
        };
        self.change = self.waiting.remove(next);
        match self.change {
            Some((Change::Reload, asker)) => actions.push(Action::Reload(asker)),
            Some((Change::Upgrade, asker)) => {
                actions.push(Action::Start(asker));
                // One upgrade is enough.
                self.refuse_waiting(Change::Upgrade, Reason::UpgradeUnderWay, actions);
            }
            None => {}
        }
    }

    fn refuse_waiting(&mut self, change: Change, reason: Reason, actions: &mut Vec<Action>) {
        self.waiting.retain(|&(waiting, asker)| {
            if waiting == change {
                actions.push(Action::Refuse(change, asker, reason));
            }
            waiting != change
        });
    }

    fn predecessor_stays(&mut self, actions: &mut Vec<Action>) {
        self.awaits_predecessor = false;
        if self.has_predecessor {
            self.refuse_waiting(Change::Upgrade, Reason::PredecessorStays, actions);
            if let Some(signal) = self.restart.take() {
                actions.push(Action::SayNotKept(Reason::PredecessorStays));
                self.stop(signal, actions);
            }
        }
    }

    fn settled(&mut self, actions: &mut Vec<Action>) {
        if self.phase != Phase::HandingOver {
            return;
        }
        self.enter(Phase::WindingDown, actions);
        if let Some((Change::Upgrade, asker)) = self.change.take() {
            actions.push(Action::Report(asker));
        }
        // These reloads concern the process that serves, which may have read an older file.
        for (change, asker) in std::mem::take(&mut self.waiting) {
            actions.push(match (change, asker) {
                (Change::Reload, Asker::Caller(caller)) => Action::PassOn(caller),
                (Change::Reload, Asker::Signal) => Action::PassSignalOn(Signal::Hangup),
                (Change::Upgrade, asker) => Action::Refuse(change, asker, Reason::Replaced),
            });
        }
    }

    /// A stop is for both. What has not moved is told now, like what has.
    fn stop_with_successor(&mut self, reason: Reason, actions: &mut Vec<Action>) {
        self.end_upgrade(reason, actions);
        self.refuse_all(Reason::Stopping, actions);
        self.drain(Stop::Gracefully, actions);
    }

    fn handed_over(&mut self, how: HandedOver, actions: &mut Vec<Action>) {
        if self.phase.is_stopping() {
            return;
        }
        match how {
            HandedOver::Failed | HandedOver::Died if self.successor_stops => {
                self.stop_with_successor(Reason::Failed, actions);
            }
            HandedOver::Failed | HandedOver::Died => {
                self.end_upgrade(Reason::Failed, actions);
                if self.phase.moves() {
                    self.enter(Phase::Serving, actions);
                    actions.push(Action::ServeAgain);
                }
            }
            HandedOver::Finished => actions.push(Action::Exit),
            HandedOver::Alone => self.drain(Stop::Gracefully, actions),
            HandedOver::Stopped => self.stop_with_successor(Reason::SuccessorStops, actions),
        }
    }

    /// Tells the caller of the upgrade that it failed.
    fn end_upgrade(&mut self, reason: Reason, actions: &mut Vec<Action>) {
        if let Some((Change::Upgrade, asker)) = self.change {
            self.change = None;
            actions.push(Action::Refuse(Change::Upgrade, asker, reason));
        }
    }

    /// A process before this one that still ends its sessions would keep systemd from starting the
    /// next one, and the sessions would wait that long. So its end is awaited first.
    fn restart(&mut self, signal: Signal, actions: &mut Vec<Action>) {
        let reason = match self.change {
            _ if self.phase.is_stopping() => Some(Reason::Stopping),
            _ if self.phase != Phase::Serving => Some(Reason::Replaced),
            Some((Change::Upgrade, _)) => Some(Reason::UpgradeUnderWay),
            _ => None,
        };
        if let Some(reason) = reason {
            actions.push(Action::SayNotKept(reason));
            return self.stop(signal, actions);
        }
        self.abandon_changes(actions);
        self.restart = Some(signal);
        if !self.has_predecessor {
            self.keep(actions);
        } else if !std::mem::replace(&mut self.awaits_predecessor, true) {
            actions.push(Action::AwaitPredecessor);
        }
    }

    fn keep(&mut self, actions: &mut Vec<Action>) {
        self.enter(Phase::HandingOver, actions);
        actions.push(Action::Keep);
    }

    fn kept(&mut self, is_kept: bool, actions: &mut Vec<Action>) {
        let Some(signal) = self.restart.take() else {
            return;
        };
        if is_kept {
            return actions.push(Action::Exit);
        }
        self.enter(Phase::Serving, actions);
        match signal {
            Signal::Interrupt => self.stop_now(actions),
            signal => self.stop(signal, actions),
        }
    }

    fn stop(&mut self, signal: Signal, actions: &mut Vec<Action>) {
        match self.phase {
            Phase::Stopping(_) => {}
            _ if self.restart.is_some() => {}
            // The new process serves, and the sessions that are left here are already told to go.
            Phase::WindingDown => {
                self.successor_stops = true;
                actions.push(Action::PassSignalOn(signal));
            }
            Phase::HandingOver => {
                actions.push(Action::PassSignalOn(signal));
                self.abandon_changes(actions);
                actions.push(Action::Announce(signal));
                self.drain(Stop::Gracefully, actions);
            }
            Phase::Starting | Phase::Serving => {
                self.abandon_changes(actions);
                self.enter(Phase::Stopping(Stopping::Announced), actions);
                actions.push(Action::Announce(signal));
            }
        }
    }

    fn stop_now(&mut self, actions: &mut Vec<Action>) {
        match self.phase {
            Phase::Stopping(_) => {}
            Phase::HandingOver if self.restart.is_some() => {
                self.restart = Some(Signal::Interrupt);
                return actions.push(Action::CallKeepOff);
            }
            Phase::HandingOver | Phase::WindingDown => {
                actions.push(Action::PassSignalOn(Signal::Interrupt));
                self.abandon_changes(actions);
            }
            Phase::Starting | Phase::Serving => self.abandon_changes(actions),
        }
        self.restart = None;
        self.drain(Stop::Now, actions);
    }

    fn drain(&mut self, stop: Stop, actions: &mut Vec<Action>) {
        let is_draining = self.phase.is_draining();
        if self.phase.moves() {
            actions.push(Action::StopMoving);
        }
        if !is_draining {
            self.enter(Phase::Stopping(Stopping::Draining), actions);
        }
        actions.push(Action::Stop(stop));
    }

    fn abandon_changes(&mut self, actions: &mut Vec<Action>) {
        if let Some((change, asker)) = self.change.take() {
            match (change, self.phase) {
                (Change::Reload, _) => actions.push(Action::AbortReload),
                (Change::Upgrade, Phase::HandingOver) => {}
                (Change::Upgrade, _) => actions.push(Action::CallOff),
            }
            actions.push(Action::Refuse(change, asker, Reason::Stopping));
        }
        self.refuse_all(Reason::Stopping, actions);
    }

    fn refuse_all(&mut self, reason: Reason, actions: &mut Vec<Action>) {
        for (change, asker) in std::mem::take(&mut self.waiting) {
            actions.push(Action::Refuse(change, asker, reason));
        }
    }
}

#[cfg(test)]
mod tests;
