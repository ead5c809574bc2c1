//! What operators had done, and how it went: counted, and the last of it remembered.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::exposition::Family;

/// So many are remembered.
const HISTORY: usize = 20;

/// Of each, so much is: a file may have very many errors.
const OUTCOME_MAX: usize = 2000;

#[derive(Debug, Default)]
pub struct Operations {
    reloads: Outcomes,
    upgrades: Outcomes,
    /// The last one last.
    history: Mutex<VecDeque<Done>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    Reload,
    Upgrade,
}

/// One that was done or refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// RFC 3339.
    pub time: String,
    pub operation: Operation,
    pub succeeded: bool,
    /// What came of it, or why nothing did.
    pub outcome: String,
}

#[derive(Debug, Default)]
struct Outcomes {
    succeeded: AtomicU64,
    failed: AtomicU64,
}

/// [`Operations`] as they go to the next process: an upgrade that began at zero again could never
/// be seen to rise.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tally {
    /// That succeeded, and that failed.
    pub reloads: [u64; 2],
    pub upgrades: [u64; 2],
    /// The last one last.
    pub history: Vec<Done>,
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

    fn go_on_from(&self, [succeeded, failed]: [u64; 2]) {
        self.succeeded.fetch_add(succeeded, Relaxed);
        self.failed.fetch_add(failed, Relaxed);
    }
}

impl Operations {
    /// What came of it, or why it was refused.
    pub fn record(&self, operation: Operation, outcome: Result<String, String>) {
        let succeeded = outcome.is_ok();
        match operation {
            Operation::Reload => self.reloads.count(succeeded),
            Operation::Upgrade => self.upgrades.count(succeeded),
        }
        let outcome = outcome.unwrap_or_else(|refusal| refusal);
        let mut history = self.history();
        if history.len() == HISTORY {
            history.pop_front();
        }
        history.push_back(Done {
            time: format!("{:.3}", Timestamp::now()),
            operation,
            succeeded,
            outcome: outcome.chars().take(OUTCOME_MAX).collect(),
        });
    }

    /// The last one first.
    pub fn recent(&self) -> Vec<Done> {
        self.history().iter().rev().cloned().collect()
    }

    pub fn tally(&self) -> Tally {
        Tally {
            reloads: self.reloads.tally(),
            upgrades: self.upgrades.tally(),
            history: self.history().iter().cloned().collect(),
        }
    }

    fn history(&self) -> MutexGuard<'_, VecDeque<Done>> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over what the process before has counted and remembered.
    pub fn go_on_from(&self, before: Tally) {
        self.reloads.go_on_from(before.reloads);
        self.upgrades.go_on_from(before.upgrades);
        let mut history = self.history();
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

    #[test]
    fn the_next_process_goes_on_with_what_the_one_before_has_counted() {
        let old = Operations::default();
        old.record(Operation::Reload, Err("line 1: no".to_owned()));
        old.record(Operation::Upgrade, Ok("pid 7".to_owned()));
        let new = Operations::default();
        new.go_on_from(old.tally());
        assert_eq!(new.tally(), old.tally());
        assert_eq!(new.tally().reloads, [0, 1]);
    }

    #[test]
    fn the_last_of_it_is_remembered_the_newest_first() {
        let operations = Operations::default();
        for number in 0..HISTORY + 5 {
            operations.record(Operation::Reload, Ok(number.to_string()));
        }
        operations.record(Operation::Upgrade, Err("x".repeat(2 * OUTCOME_MAX)));
        let recent = operations.recent();
        assert_eq!(recent.len(), HISTORY);
        assert_eq!(recent[0].outcome.len(), OUTCOME_MAX);
        assert_eq!(recent[1].outcome, (HISTORY + 4).to_string());
        assert_eq!(operations.tally().reloads, [HISTORY as u64 + 5, 0]);
    }
}
