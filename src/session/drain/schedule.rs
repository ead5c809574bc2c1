//! Which session is told when. No clock and no task: the caller passes in the time and gets what is
//! due.

use std::sync::{Arc, Weak};
use std::time::Duration;

use rand::Rng;
use rand::seq::SliceRandom;
use tokio::time::Instant;

use super::{DrainPlan, DrainReason, Member};
use crate::session::live::LiveSession;

/// How much time a session may need between the order and its end.
const GOODBYE: Duration = Duration::from_secs(3);

#[derive(Debug, Default)]
pub struct Schedule {
    drains: Vec<Drain>,
    /// The number of the next drain.
    next: u64,
}

#[derive(Debug)]
struct Drain {
    number: u64,
    reason: DrainReason,
    plan: DrainPlan,
    started: Instant,
    /// The sessions that are not told yet. The next one to be told is last.
    members: Vec<(Instant, Member)>,
    /// The sessions whose moment has come, and whether they were told.
    past: Vec<(Member, bool)>,
}

/// What is due for one session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// `index`: the session's position in `past` of the drain.
    Tell {
        drain: u64,
        index: usize,
        code: u16,
    },
    Cut,
}

/// How far a drain has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    pub reason: DrainReason,
    pub plan: DrainPlan,
    pub age: Duration,
    pub total: usize,
    pub told: usize,
    /// Sessions that are still alive, and were told or will be.
    pub remaining: usize,
}

impl Schedule {
    /// The window is cut into as many parts as there are sessions, and each session is told at a
    /// random moment of its own part. This is more even than purely random moments.
    pub fn start(
        &mut self,
        now: Instant,
        reason: DrainReason,
        sessions: &[Arc<LiveSession>],
        plan: DrainPlan,
    ) {
        self.drains.retain(|drain| drain.reason != reason);
        let rng = &mut rand::rng();
        let mut members: Vec<Member> = sessions.iter().map(Arc::downgrade).collect();
        members.shuffle(rng);
        let part = plan.window / u32::try_from(members.len().max(1)).unwrap_or(u32::MAX);
        let mut members: Vec<_> = members
            .into_iter()
            .enumerate()
            .map(|(number, member)| {
                let offset = part.mul_f64(number as f64 + rng.random::<f64>());
                (now + offset, member)
            })
            .collect();
        members.reverse();
        self.add(now, reason, plan, members);
    }

    pub fn admit(
        &mut self,
        now: Instant,
        reason: DrainReason,
        session: &Arc<LiveSession>,
        plan: DrainPlan,
    ) {
        let member = Arc::downgrade(session);
        let mut drains = self.drains.iter_mut();
        let Some(drain) = drains.find(|drain| drain.reason == reason) else {
            let due = now + plan.window.mul_f64(rand::random());
            return self.add(now, reason, plan, vec![(due, member)]);
        };
        let due = now + drain.span_for_late(now).mul_f64(rand::random());
        let at = drain.members.partition_point(|(other, _)| *other > due);
        drain.members.insert(at, (due, member));
    }

    fn add(
        &mut self,
        now: Instant,
        reason: DrainReason,
        plan: DrainPlan,
        members: Vec<(Instant, Member)>,
    ) {
        self.drains.push(Drain {
            number: self.next,
            reason,
            plan,
            started: now,
            members,
            past: Vec::new(),
        });
        self.next += 1;
    }

    /// The next moment at which something is due.
    pub fn next_due(&self) -> Option<Instant> {
        self.drains.iter().map(Drain::next_due).min()
    }

    /// Takes out all that is due now. A drain whose deadline has come is finished and removed.
    pub fn take_due(&mut self, now: Instant) -> Vec<(Member, Step)> {
        let mut due = Vec::new();
        self.drains.retain_mut(|drain| {
            let is_over = drain.ends() <= now;
            while let Some((_, member)) = drain
                .members
                .pop_if(|(moment, _)| *moment <= now || is_over)
            {
                let step = Step::Tell {
                    drain: drain.number,
                    index: drain.past.len(),
                    code: drain.plan.code,
                };
                drain.past.push((member.clone(), false));
                due.push((member, step));
            }
            if is_over {
                let past = drain.past.drain(..);
                due.extend(past.map(|(member, _)| (member, Step::Cut)));
            }
            !is_over
        });
        due
    }

    /// Notes that a session which was due had to go, and was told.
    pub fn note_told(&mut self, number: u64, index: usize) {
        let mut drains = self.drains.iter_mut();
        let drain = drains.find(|drain| drain.number == number);
        if let Some((_, was_told)) = drain.and_then(|drain| drain.past.get_mut(index)) {
            *was_told = true;
        }
    }

    /// The sessions of a drain that were not told yet.
    pub fn members(&self, reason: &DrainReason) -> Vec<Arc<LiveSession>> {
        let mut drains = self.drains.iter();
        let Some(drain) = drains.find(|drain| drain.reason == *reason) else {
            return Vec::new();
        };
        let scheduled = drain.members.iter().map(|(_, member)| member);
        scheduled.filter_map(Weak::upgrade).collect()
    }

    pub fn progress(&self, now: Instant, must_go: impl Fn(&LiveSession) -> bool) -> Vec<Progress> {
        let drains = self.drains.iter();
        let drains = drains.map(|drain| drain.progress(now, &must_go));
        drains.filter(|progress| progress.remaining > 0).collect()
    }
}

impl Progress {
    /// The plan with which another process continues this drain.
    pub fn remaining_plan(&self) -> DrainPlan {
        DrainPlan {
            code: self.plan.code,
            window: self.plan.window.saturating_sub(self.age),
            deadline: self.plan.deadline.saturating_sub(self.age),
        }
    }
}

impl Drain {
    /// The time span within which a late session is told: the rest of the window. If the window is
    /// over, a new window, cut short so that there is time for a goodbye before the deadline.
    fn span_for_late(&self, now: Instant) -> Duration {
        let remaining = (self.started + self.plan.window).saturating_duration_since(now);
        if remaining > Duration::ZERO {
            return remaining;
        }
        let until_cut = self.ends().saturating_duration_since(now);
        self.plan.window.min(until_cut.saturating_sub(GOODBYE))
    }

    fn next_due(&self) -> Instant {
        let next = self.members.last().map(|(moment, _)| *moment);
        next.map_or(self.ends(), |next| next.min(self.ends()))
    }

    fn ends(&self) -> Instant {
        self.started + self.plan.deadline
    }

    fn progress(&self, now: Instant, must_go: &impl Fn(&LiveSession) -> bool) -> Progress {
        let goes = |member: &&Member| member.upgrade().is_some_and(|live| must_go(&live));
        let scheduled = self.members.iter().map(|(_, member)| member);
        let told = || self.past.iter().filter(|(_, was_told)| *was_told);
        let leaving = told().filter(|(member, _)| member.strong_count() > 0);
        Progress {
            reason: self.reason.clone(),
            plan: self.plan,
            age: now.saturating_duration_since(self.started),
            total: self.members.len() + self.past.len(),
            told: told().count(),
            remaining: scheduled.filter(goes).count() + leaving.count(),
        }
    }
}
