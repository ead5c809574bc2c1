//! The new process's side of an upgrade, as a value: events come in, actions come out.
//! [`super::take_over`] is the shell around it, and `super::model` tests it in every order.
//!
//! ```text
//!            proved           Go               Accept, or a first protocol
//!  Proving ─────────► Ready ──────► Filling ──────────────────────────────► Serving ──► Done
//!                       │              │     (the first protocol goes on        ▲
//!                       └──────┬───────┘      to Serving at once)               │
//!                              ▼ the link has ended                             │
//!                    is the old process dead? ── yes: nobody else serves ───────┘
//!                              └─────────────── no: give up
//! ```
//!
//! Where the old process could not wait for this one, it kills it and serves again. It cannot kill
//! a process of another container; so its flag says it too. Whoever finds that and could serve
//! stops: two processes would serve for good.
//!
//! A session is held without being read until the kernel has the message "adopted"; only then it is
//! read. If the message cannot be sent any more, there are two cases. The old process has shut the
//! link, and takes the session back: then it is dropped here, even if the old process has died
//! since. Or it has died without that: then the session is carried here.

use std::collections::BTreeSet;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct New {
    stage: Stage,
    /// Parcels that are held while it is not known which process has them.
    doubtful: BTreeSet<u64>,
    /// This process was told to stop.
    stops: bool,
    /// The old process was to kill this one.
    is_condemned: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Stage {
    Proving,
    /// The old process decides what follows.
    Ready,
    /// The old process sends what counts in it.
    Filling,
    Serving,
    Done,
}

/// What the shell reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    Proved,
    /// `true`: [`Event::Accept`] will follow.
    Go(bool),
    Accept,
    /// A session or connection has come and can be served, so it is held.
    Parcel(u64),
    /// A session or connection has come that cannot be served: it is not understood, or descriptors
    /// are lacking.
    Unfit(u64),
    /// The kernel has the message that the parcel is adopted.
    Said(u64),
    /// That message could not be sent, because the link has ended.
    Unsaid(u64),
    /// This process is told to stop.
    Stop,
    End,
    /// Nothing more comes from the link. `is_condemned`: the old process was to kill this one.
    Closed {
        is_condemned: bool,
    },
    /// The result of [`Action::AskWhetherDead`]. If it has severed the link before it died, it has
    /// taken back what was under way, and may have read it.
    OldIsDead {
        has_severed: bool,
    },
    OldLives,
}

/// What the shell must do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    SayReady,
    /// Serve clients from now on.
    Accept,
    SayServing,
    SayAdopted(u64),
    SayRefused(u64),
    SayStopping,
    Carry(u64),
    Drop(u64),
    AskWhetherDead,
    /// Nothing more comes from the old process.
    Finish,
    /// Give up: this process has never served.
    GiveUp,
    /// The old process serves again: accept nothing more, and tell the sessions here to go.
    StepDown,
}

impl Default for New {
    fn default() -> Self {
        Self {
            stage: Stage::Proving,
            doubtful: BTreeSet::new(),
            stops: false,
            is_condemned: false,
        }
    }
}

impl New {
    pub fn on(&mut self, event: Event) -> Vec<Action> {
        match (self.stage, event) {
            (Stage::Proving, Event::Proved) => {
                self.stage = Stage::Ready;
                vec![Action::SayReady]
            }
            (Stage::Ready, Event::Go(true)) => {
                self.stage = Stage::Filling;
                Vec::new()
            }
            (Stage::Ready, Event::Go(false)) | (Stage::Filling, Event::Accept) => {
                self.stage = Stage::Serving;
                vec![Action::Accept, Action::SayServing]
            }
            (Stage::Serving, Event::Parcel(number)) if !self.stops => {
                vec![Action::SayAdopted(number)]
            }
            (_, Event::Parcel(number)) => vec![Action::Drop(number), Action::SayRefused(number)],
            (_, Event::Unfit(number)) => vec![Action::SayRefused(number)],
            (_, Event::Said(number)) => vec![Action::Carry(number)],
            (_, Event::Unsaid(number)) => {
                self.doubtful.insert(number);
                Vec::new()
            }
            (_, Event::Stop) => {
                self.stops = true;
                vec![Action::SayStopping]
            }
            (Stage::Serving, Event::End) => self.finish(),
            (
                Stage::Serving,
                Event::Closed {
                    is_condemned: false,
                },
            ) if self.doubtful.is_empty() => self.finish(),
            (Stage::Ready | Stage::Filling | Stage::Serving, Event::Closed { is_condemned }) => {
                self.is_condemned = is_condemned;
                vec![Action::AskWhetherDead]
            }
            (_, Event::OldIsDead { has_severed }) => self.old_is_dead(has_severed),
            (_, Event::OldLives) => self.old_lives(),
            _ => Vec::new(),
        }
    }

    fn finish(&mut self) -> Vec<Action> {
        self.stage = Stage::Done;
        vec![Action::Finish]
    }

    fn old_is_dead(&mut self, has_severed: bool) -> Vec<Action> {
        let doubtful = std::mem::take(&mut self.doubtful).into_iter();
        let mut actions: Vec<Action> = match has_severed {
            true => doubtful.map(Action::Drop).collect(),
            false => doubtful.map(Action::Carry).collect(),
        };
        if matches!(self.stage, Stage::Ready | Stage::Filling) {
            actions.push(Action::Accept);
        }
        actions.extend(self.finish());
        actions
    }

    fn old_lives(&mut self) -> Vec<Action> {
        let doubtful = std::mem::take(&mut self.doubtful);
        let mut actions: Vec<Action> = doubtful.into_iter().map(Action::Drop).collect();
        match self.stage {
            Stage::Serving => {
                if self.is_condemned && !self.stops {
                    actions.push(Action::StepDown);
                }
                actions.extend(self.finish());
            }
            _ => {
                self.stage = Stage::Done;
                actions.push(Action::GiveUp);
            }
        }
        actions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serving() -> New {
        let mut new = New::default();
        new.on(Event::Proved);
        new.on(Event::Go(true));
        assert_eq!(new.on(Event::Accept), [Action::Accept, Action::SayServing]);
        new
    }

    #[test]
    fn a_session_is_carried_once_its_adoption_is_said() {
        let mut new = serving();
        assert_eq!(new.on(Event::Parcel(1)), [Action::SayAdopted(1)]);
        assert_eq!(new.on(Event::Said(1)), [Action::Carry(1)]);
    }

    #[test]
    fn one_whose_adoption_cannot_be_said_is_carried_only_if_nobody_else_can() {
        let died = |has_severed| Event::OldIsDead { has_severed };
        for (event, action) in [
            (died(false), Action::Carry(1)),
            (died(true), Action::Drop(1)),
            (Event::OldLives, Action::Drop(1)),
        ] {
            let mut new = serving();
            // What had come before the link ended is still read.
            for number in [1, 2] {
                assert_eq!(new.on(Event::Parcel(number)), [Action::SayAdopted(number)]);
                assert_eq!(new.on(Event::Unsaid(number)), []);
            }
            assert_eq!(
                new.on(Event::Closed {
                    is_condemned: false
                }),
                [Action::AskWhetherDead]
            );
            let actions = new.on(event);
            assert_eq!((actions[0], actions.len()), (action, 3));
        }
    }

    #[test]
    fn without_an_old_process_one_that_could_serve_does() {
        let mut new = New::default();
        new.on(Event::Proved);
        assert_eq!(
            new.on(Event::Closed {
                is_condemned: false
            }),
            [Action::AskWhetherDead]
        );
        let died = Event::OldIsDead { has_severed: true };
        assert_eq!(new.on(died), [Action::Accept, Action::Finish]);
        let mut given_up = New::default();
        given_up.on(Event::Proved);
        given_up.on(Event::Closed {
            is_condemned: false,
        });
        assert_eq!(given_up.on(Event::OldLives), [Action::GiveUp]);
    }

    #[test]
    fn who_stops_takes_nothing_more() {
        let mut new = serving();
        assert_eq!(new.on(Event::Stop), [Action::SayStopping]);
        let refused = [Action::Drop(1), Action::SayRefused(1)];
        assert_eq!(new.on(Event::Parcel(1)), refused);
    }
}
