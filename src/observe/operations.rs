//! The operations of operators, with who asked and how it went: counted, logged, and the last ones
//! kept.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use jiff::Timestamp;
use log::{info, warn};
use parking_lot::Mutex;

use super::access_log::AccessLog;
use super::entry::{Done, Operation};
use super::exposition::Family;
use super::terminal;

/// How many operations are kept.
const HISTORY: usize = 20;

/// How much of each outcome is kept: a file may have very many errors.
const OUTCOME_MAX: usize = 2000;

#[derive(Debug, Default)]
pub struct Operations {
    reloads: Outcomes,
    upgrades: Outcomes,
    /// The newest is last.
    history: Mutex<VecDeque<Done>>,
    /// Who has asked for the upgrade that is under way.
    upgrade_by: Mutex<String>,
}

#[derive(Debug, Default)]
struct Outcomes {
    succeeded: AtomicU64,
    failed: AtomicU64,
}

/// [`Operations`] for the next process. If the count of upgrades began at zero again, it would
/// never rise.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tally {
    /// Successful ones, and failed ones.
    pub reloads: [u64; 2],
    pub upgrades: [u64; 2],
    /// The newest is last.
    pub history: Vec<Done>,
    /// Who has asked for the upgrade that is under way.
    pub upgrade_by: String,
}

/// What was asked for, and by whom.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    pub operation: Operation,
    pub by: &'a str,
    pub of: Option<&'a str>,
}

impl Outcomes {
    fn count(&self, succeeded: bool) {
        let count = match succeeded {
            true => &self.succeeded,
            false => &self.failed,
        };
        count.fetch_add(1, Relaxed);
    }

    fn tally(&self) -> [u64; 2] {
        [self.succeeded.load(Relaxed), self.failed.load(Relaxed)]
    }

    fn restore(&self, [succeeded, failed]: [u64; 2]) {
        self.succeeded.fetch_add(succeeded, Relaxed);
        self.failed.fetch_add(failed, Relaxed);
    }
}

impl Operations {
    /// Records the result, or why it was refused: on stderr, in the access log, and for later
    /// questions.
    pub fn record(&self, log: &AccessLog, asked: Asked<'_>, outcome: Result<String, String>) {
        let done = self.remember(asked, outcome);
        // A stop is logged on stderr, and shows by the end of the log.
        if done.operation != Operation::Stop {
            log.write_operation(&done);
        }
        let (name, first_line) = (done.operation.name(), done.outcome.lines().next());
        let of = done.of.as_ref().map(|of| format!(" of {of}"));
        let of = of.unwrap_or_default();
        let (by, outcome) = (&done.by, first_line.unwrap_or_default());
        let (of, outcome) = (terminal::escaped(&of), terminal::escaped(outcome));
        match done.succeeded {
            true => info!("operation: {name}{of} by {by}: {outcome}"),
            false => warn!("operation: {name}{of} by {by} refused: {outcome}"),
        }
    }

    fn remember(&self, asked: Asked<'_>, outcome: Result<String, String>) -> Done {
        let succeeded = outcome.is_ok();
        match asked.operation {
            Operation::Reload => self.reloads.count(succeeded),
            Operation::Upgrade => self.upgrades.count(succeeded),
            Operation::Drain | Operation::Enable | Operation::Close | Operation::Stop => {}
        }
        let outcome = outcome.unwrap_or_else(|refusal| refusal);
        let done = Done {
            time: format!("{:.3}", Timestamp::now()),
            operation: asked.operation,
            by: asked.by.to_owned(),
            of: asked.of.map(str::to_owned),
            succeeded,
            outcome: outcome.chars().take(OUTCOME_MAX).collect(),
        };
        if asked.operation.is_remembered() {
            let mut history = self.history.lock();
            if history.len() == HISTORY {
                history.pop_front();
            }
            history.push_back(done.clone());
        }
        done
    }

    /// For the new process, which records the result.
    pub fn set_upgrade_by(&self, by: &str) {
        by.clone_into(&mut self.upgrade_by.lock());
    }

    /// The newest first.
    pub fn recent(&self) -> Vec<Done> {
        self.history.lock().iter().rev().cloned().collect()
    }

    pub fn tally(&self) -> Tally {
        Tally {
            reloads: self.reloads.tally(),
            upgrades: self.upgrades.tally(),
            history: self.history.lock().iter().cloned().collect(),
            upgrade_by: self.upgrade_by.lock().clone(),
        }
    }

    /// Takes over the counts and the operations of the process before.
    pub fn restore(&self, before: Tally) {
        self.reloads.restore(before.reloads);
        self.upgrades.restore(before.upgrades);
        let mut history = self.history.lock();
        let late = std::mem::replace(&mut *history, before.history.into());
        history.extend(late);
    }

    pub fn families(&self) -> [Family; 2] {
        let mut reloads = Family::counter(
            "prusik_config_reloads_total",
            "Times the file was read again, since the first of the processes that handed over.",
        );
        let mut upgrades = Family::counter(
            "prusik_upgrades_total",
            "Upgrades, since the first of the processes that handed over.",
        );
        for (family, counts) in [
            (&mut reloads, self.reloads.tally()),
            (&mut upgrades, self.upgrades.tally()),
        ] {
            for (result, count) in ["success", "failure"].into_iter().zip(counts) {
                family.add(&[("result", result)], count as f64);
            }
        }
        [reloads, upgrades]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Operations {
        fn note(&self, operation: Operation, outcome: Result<String, String>) {
            let (by, of) = ("signal HUP", None);
            self.remember(Asked { operation, by, of }, outcome);
        }
    }

    #[test]
    fn sessions_that_are_closed_push_nothing_out() {
        let operations = Operations::default();
        operations.note(Operation::Drain, Ok("begun".to_owned()));
        for _ in 0..2 * HISTORY {
            operations.note(Operation::Close, Ok("closed".to_owned()));
        }
        assert_eq!(operations.recent().len(), 1);
    }

    #[test]
    fn the_next_process_goes_on_with_what_the_one_before_has_counted() {
        let old = Operations::default();
        old.note(Operation::Reload, Err("line 1: no".to_owned()));
        old.note(Operation::Upgrade, Ok("pid 7".to_owned()));
        let new = Operations::default();
        new.restore(old.tally());
        assert_eq!(new.tally(), old.tally());
        assert_eq!(new.tally().reloads, [0, 1]);
    }

    #[test]
    fn the_last_of_it_is_remembered_the_newest_first() {
        let operations = Operations::default();
        for number in 0..HISTORY + 5 {
            operations.note(Operation::Reload, Ok(number.to_string()));
        }
        operations.note(Operation::Upgrade, Err("x".repeat(2 * OUTCOME_MAX)));
        let recent = operations.recent();
        assert_eq!(recent.len(), HISTORY);
        assert_eq!(recent[0].outcome.len(), OUTCOME_MAX);
        assert_eq!(recent[1].outcome, (HISTORY + 4).to_string());
        assert_eq!(operations.tally().reloads, [HISTORY as u64 + 5, 0]);
    }
}
