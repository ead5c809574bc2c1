//! Both sides of an upgrade and the link between them, as a model so small that every order of
//! events can be tried: messages under way, either side killed, hanging, out of descriptors or told
//! to stop, sessions that end or do not come.
//!
//! In every state: no session is read by both processes, a session that was taken over is never
//! taken back, and one that was taken back is never gone on with from where it was before. And when
//! nothing more can happen: each session that has not ended is carried by a living process, unless
//! it died with the process that carried it.
//!
//! The link behaves as in Linux (unix(7)): what was sent before a `shutdown` can still be read, and
//! what is sent after it fails at the sender. A process that dies has closed its end.

mod search;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::new::{self, New};
use super::old::{self, Old, Verdict};

type Session = u8;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum ToNew {
    Go,
    Accept,
    Parcel(u64),
    End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum ToOld {
    Ready,
    Serving,
    Adopted(u64),
    Refused(u64),
    Stopping,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Life {
    Runs,
    /// Stopped or swapped out: the process may continue later.
    Hangs,
    Dead,
}

/// The whole state of the model.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    old: Old<Session>,
    new: New,
    old_life: Life,
    new_life: Life,
    to_new: VecDeque<ToNew>,
    to_old: VecDeque<ToOld>,
    /// The old process has shut the link, or the new one has closed its end.
    is_shut: bool,
    /// Sessions whose handshakes are under way in the old process.
    late: BTreeSet<Session>,
    /// Sessions that the old process reads.
    here: BTreeSet<Session>,
    /// Sessions that have stopped and that the old process holds.
    in_hand: BTreeMap<u64, Session>,
    /// Sessions that have stopped and that the new process holds.
    held: BTreeMap<u64, Session>,
    /// Sessions that the new process reads.
    theirs: BTreeSet<Session>,
    /// Sessions of which the new process has said that it adopts them.
    adopted: BTreeSet<Session>,
    asked: BTreeSet<Session>,
    ended: BTreeSet<Session>,
    /// Sessions that died with their process.
    fallen: BTreeSet<Session>,
    /// Sessions that the old process has taken back and not sent again.
    taken_back: BTreeSet<Session>,
    /// The old process has severed the link. Its flag says so even when it is dead.
    has_severed: bool,
    /// It was to kill the new one, which the flag says too.
    is_condemned: bool,
    /// Whether the old process can kill the new one. It cannot if that is in another container.
    can_kill: bool,
    /// The session of each parcel. Both sides have its sockets.
    parcels: BTreeMap<u64, Session>,
    verdict: Option<Verdict>,
    may_go: bool,
    new_serves: bool,
    gave_up: bool,
    /// It serves no more: it has found that the old one does again, or was told to stop.
    ends: bool,
    /// How many faults may still happen.
    faults_left: u8,
}

/// One thing that can happen next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    NewProves,
    OldReads,
    NewReads,
    /// The new process cannot take the next parcel.
    NewHasNoDescriptors,
    MayGo,
    /// A handshake that was under way is complete.
    Begins(Session),
    Rests(Session),
    Stays(Session),
    Ends(Session),
    /// Nothing is left in the old process.
    Empty,
    TimeUp,
    CalledOff,
    NewIsToldToStop,
    Kill(Side),
    Hang(Side),
    GoOn(Side),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Old,
    New,
}

impl World {
    /// The last session is the one whose handshake is under way.
    fn new(sessions: u8, window: usize, faults: u8, can_kill: bool) -> Self {
        Self {
            old: Old::new(window),
            new: New::default(),
            old_life: Life::Runs,
            new_life: Life::Runs,
            to_new: VecDeque::new(),
            to_old: VecDeque::new(),
            is_shut: false,
            late: BTreeSet::from([sessions - 1]),
            here: (0..sessions - 1).collect(),
            in_hand: BTreeMap::new(),
            held: BTreeMap::new(),
            theirs: BTreeSet::new(),
            adopted: BTreeSet::new(),
            asked: BTreeSet::new(),
            ended: BTreeSet::new(),
            fallen: BTreeSet::new(),
            taken_back: BTreeSet::new(),
            has_severed: false,
            is_condemned: false,
            can_kill,
            parcels: BTreeMap::new(),
            verdict: None,
            may_go: false,
            new_serves: false,
            gave_up: false,
            ends: false,
            faults_left: faults,
        }
    }

    fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        let (old_runs, new_runs) = (self.old_life == Life::Runs, self.new_life == Life::Runs);
        if old_runs && self.verdict.is_none() {
            if !self.to_old.is_empty() || self.has_ended(Side::Old) {
                steps.push(Step::OldReads);
            }
            if self.may_go {
                steps.push(Step::MayGo);
            }
        }
        if old_runs {
            for session in &self.here {
                if self.asked.contains(session) {
                    steps.extend([Step::Rests(*session), Step::Stays(*session)]);
                }
                steps.push(Step::Ends(*session));
            }
            steps.extend(self.late.iter().copied().map(Step::Begins));
            let is_empty = self.here.is_empty() && self.in_hand.is_empty() && self.late.is_empty();
            if is_empty && self.verdict.is_none() && self.new_serves {
                steps.push(Step::Empty);
            }
        }
        if new_runs && !self.gave_up {
            if self.new == New::default() {
                steps.push(Step::NewProves);
            } else if !self.to_new.is_empty() || self.has_ended(Side::New) {
                steps.push(Step::NewReads);
            }
        }
        if self.faults_left > 0 {
            steps.extend(self.faults(old_runs, new_runs));
        }
        for (side, life) in [(Side::Old, self.old_life), (Side::New, self.new_life)] {
            if life == Life::Hangs {
                steps.push(Step::GoOn(side));
            }
        }
        steps
    }

    fn faults(&self, old_runs: bool, new_runs: bool) -> Vec<Step> {
        let mut steps = Vec::new();
        if old_runs && self.verdict.is_none() {
            steps.push(Step::CalledOff);
            if self.old.awaits().is_some() {
                steps.push(Step::TimeUp);
            }
        }
        if new_runs && self.new != New::default() && !self.gave_up {
            steps.push(Step::NewIsToldToStop);
            if matches!(self.to_new.front(), Some(ToNew::Parcel(_))) {
                steps.push(Step::NewHasNoDescriptors);
            }
        }
        for (side, life) in [(Side::Old, self.old_life), (Side::New, self.new_life)] {
            if life != Life::Dead {
                steps.push(Step::Kill(side));
            }
            if life == Life::Runs {
                steps.push(Step::Hang(side));
            }
        }
        steps
    }

    /// Whether this side would see the end of the link after reading everything.
    fn has_ended(&self, side: Side) -> bool {
        let other = match side {
            Side::Old => self.new_life,
            Side::New => self.old_life,
        };
        self.is_shut || other == Life::Dead
    }

    fn after(&self, step: Step) -> Self {
        let mut world = self.clone();
        let is_fault = matches!(
            step,
            Step::CalledOff
                | Step::TimeUp
                | Step::NewIsToldToStop
                | Step::NewHasNoDescriptors
                | Step::Kill(_)
                | Step::Hang(_)
        );
        world.faults_left -= u8::from(is_fault);
        match step {
            Step::NewProves => world.new_hears(new::Event::Proved),
            Step::OldReads => world.old_reads(),
            Step::NewReads => world.new_reads(false),
            Step::NewHasNoDescriptors => world.new_reads(true),
            Step::MayGo => {
                world.may_go = false;
                world.old_hears(old::Event::MayGo);
            }
            Step::Begins(session) => {
                world.late.remove(&session);
                world.here.insert(session);
                world.old_hears(old::Event::Found(session));
            }
            Step::Rests(session) => world.rests(session),
            Step::Stays(session) => {
                world.asked.remove(&session);
                world.old_hears(old::Event::Stays(session));
            }
            Step::Ends(session) => {
                world.here.remove(&session);
                world.ended.insert(session);
                if world.asked.remove(&session) {
                    world.old_hears(old::Event::Stays(session));
                }
            }
            Step::Empty => world.old_hears(old::Event::Empty),
            Step::TimeUp => world.old_hears(old::Event::TimeUp),
            Step::CalledOff => world.old_hears(old::Event::CalledOff),
            Step::NewIsToldToStop => {
                world.ends = true;
                world.new_hears(new::Event::Stop);
            }
            Step::Kill(side) => world.kill(side),
            Step::Hang(Side::Old) => world.old_life = Life::Hangs,
            Step::Hang(Side::New) => world.new_life = Life::Hangs,
            Step::GoOn(Side::Old) => world.old_life = Life::Runs,
            Step::GoOn(Side::New) => world.new_life = Life::Runs,
        }
        world
    }

    fn kill(&mut self, side: Side) {
        match side {
            Side::Old => {
                self.old_life = Life::Dead;
                let in_hand: Vec<Session> = self.in_hand.values().copied().collect();
                let underway: BTreeSet<Session> = self.unread_parcels().collect();
                let kept = |session: &Session| {
                    underway.contains(session)
                        || self.held.values().any(|held| held == session)
                        || self.theirs.contains(session)
                };
                let fall: Vec<Session> = in_hand.into_iter().filter(|s| !kept(s)).collect();
                self.fallen.extend(fall);
                self.fallen.append(&mut self.here);
                self.fallen.append(&mut self.late);
                self.in_hand.clear();
            }
            Side::New => {
                self.new_life = Life::Dead;
                self.fallen.append(&mut self.theirs);
                // Sessions that it had adopted and not begun to read die too, and those that no
                // other process has.
                let is_last = self.old_life == Life::Dead;
                let held = self.held.values().copied().chain(self.unread_parcels());
                let fall = held.filter(|session| is_last || self.adopted.contains(session));
                let fall: Vec<Session> = fall.collect();
                self.fallen.extend(fall);
                self.held.clear();
                self.to_new.clear();
            }
        }
    }

    fn unread_parcels(&self) -> impl Iterator<Item = Session> {
        self.to_new.iter().filter_map(|message| match message {
            ToNew::Parcel(number) => self.parcels.get(number).copied(),
            _ => None,
        })
    }

    fn rests(&mut self, session: Session) {
        let number = self.parcels.len() as u64 + 1;
        self.asked.remove(&session);
        self.here.remove(&session);
        self.in_hand.insert(number, session);
        self.parcels.insert(number, session);
        self.old_hears(old::Event::AtRest(Some(session), number));
    }

    fn old_reads(&mut self) {
        let event = match self.to_old.pop_front() {
            None => old::Event::Closed,
            Some(ToOld::Ready) => old::Event::Ready,
            Some(ToOld::Serving) => old::Event::Serving,
            Some(ToOld::Adopted(number)) => old::Event::Adopted(number),
            Some(ToOld::Refused(number)) => old::Event::Refused(number),
            Some(ToOld::Stopping) => old::Event::Stopping,
        };
        self.old_hears(event);
    }

    fn new_reads(&mut self, is_unfit: bool) {
        let event = match self.to_new.pop_front() {
            None => new::Event::Closed {
                is_condemned: self.is_condemned,
            },
            Some(ToNew::Go) => new::Event::Go(true),
            Some(ToNew::Accept) => new::Event::Accept,
            Some(ToNew::Parcel(number)) if is_unfit => new::Event::Unfit(number),
            Some(ToNew::Parcel(number)) => {
                self.held.insert(number, self.parcels[&number]);
                new::Event::Parcel(number)
            }
            Some(ToNew::End) => new::Event::End,
        };
        self.new_hears(event);
    }

    fn old_hears(&mut self, event: old::Event<Session>) {
        for action in self.old.on(event) {
            match action {
                old::Action::Yield => self.may_go = true,
                old::Action::SayGo => {
                    self.tell_new(ToNew::Go);
                    self.tell_new(ToNew::Accept);
                }
                old::Action::Find => {
                    for session in self.here.clone() {
                        self.old_hears(old::Event::Found(session));
                    }
                    self.old_hears(old::Event::Listed);
                }
                old::Action::Ask(session) if self.here.contains(&session) => {
                    self.asked.insert(session);
                }
                // The session has ended in the meantime.
                old::Action::Ask(session) => self.old_hears(old::Event::Stays(session)),
                old::Action::Unask(session) => {
                    self.asked.remove(&session);
                }
                old::Action::Send(number) => {
                    self.taken_back.remove(&self.parcels[&number]);
                    self.tell_new(ToNew::Parcel(number));
                }
                old::Action::LetGo(number) => {
                    self.in_hand.remove(&number);
                }
                old::Action::TakeBack(number) => {
                    if let Some(session) = self.in_hand.remove(&number) {
                        assert!(
                            !self.adopted.contains(&session),
                            "taken back from the new one"
                        );
                        self.here.insert(session);
                        self.taken_back.insert(session);
                    }
                }
                old::Action::Report => {}
                old::Action::SayEnd => self.tell_new(ToNew::End),
                old::Action::Sever => {
                    self.is_shut = true;
                    self.has_severed = true;
                }
                old::Action::Kill => {
                    self.is_condemned = true;
                    if self.can_kill && self.new_life != Life::Dead {
                        self.kill(Side::New);
                    }
                }
                // The new process ends sooner or later, and does not serve until then.
                old::Action::Dismiss => {}
                old::Action::Finish(verdict) => self.verdict = Some(verdict),
            }
        }
    }

    fn tell_new(&mut self, message: ToNew) {
        if !self.is_shut && self.new_life != Life::Dead {
            self.to_new.push_back(message);
        }
    }

    /// Whether the kernel has the message now.
    fn tell_old(&mut self, message: ToOld) -> bool {
        let is_open = !self.is_shut && self.old_life != Life::Dead;
        if is_open {
            self.to_old.push_back(message);
        }
        is_open
    }

    fn new_hears(&mut self, event: new::Event) {
        for action in self.new.on(event) {
            match action {
                new::Action::SayReady => {
                    self.tell_old(ToOld::Ready);
                }
                new::Action::Accept => self.new_serves = true,
                new::Action::SayServing => {
                    self.tell_old(ToOld::Serving);
                }
                new::Action::SayStopping => {
                    self.tell_old(ToOld::Stopping);
                }
                new::Action::SayAdopted(number) => {
                    let event = match self.tell_old(ToOld::Adopted(number)) {
                        true => {
                            self.adopted.insert(self.parcels[&number]);
                            new::Event::Said(number)
                        }
                        false => new::Event::Unsaid(number),
                    };
                    self.new_hears(event);
                }
                new::Action::SayRefused(number) => {
                    if !self.tell_old(ToOld::Refused(number)) && self.old_life == Life::Dead {
                        self.fallen.insert(self.parcels[&number]);
                    }
                }
                new::Action::Carry(number) => {
                    if let Some(session) = self.held.remove(&number) {
                        assert!(
                            !self.taken_back.contains(&session),
                            "read from where it was before the old one went on with it"
                        );
                        self.adopted.insert(session);
                        self.theirs.insert(session);
                    }
                }
                new::Action::Drop(number) => {
                    let session = self.held.remove(&number);
                    if self.old_life == Life::Dead {
                        self.fallen.extend(session);
                    }
                }
                new::Action::AskWhetherDead => {
                    let event = match self.old_life {
                        Life::Dead => new::Event::OldIsDead {
                            has_severed: self.has_severed,
                        },
                        Life::Runs | Life::Hangs => new::Event::OldLives,
                    };
                    self.new_hears(event);
                }
                new::Action::Finish => self.is_shut = true,
                new::Action::GiveUp => self.gave_up = true,
                new::Action::StepDown => self.ends = true,
            }
        }
    }
}
