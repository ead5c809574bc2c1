//! Passive ejection: after so many failures within so long, a server gets no traffic for a while.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;

use crate::config;

/// Times are milliseconds of any steady clock, passed in by the caller.
#[derive(Debug, Default)]
pub struct Ejection {
    /// At most `failures` entries, because older ones do not matter.
    recent: Mutex<VecDeque<u64>>,
    until: AtomicU64,
}

impl Ejection {
    /// Returns true if this failure ejects the server.
    pub fn record_failure(&self, rule: &config::Eject, now: u64) -> bool {
        let mut recent = self.recent.lock();
        let oldest = now.saturating_sub(rule.within.as_millis() as u64);
        while recent.front().is_some_and(|&at| at < oldest) {
            recent.pop_front();
        }
        recent.push_back(now);
        if recent.len() < rule.failures as usize || self.is_active(now) {
            recent.truncate(rule.failures as usize);
            return false;
        }
        recent.clear();
        self.until
            .store(now + rule.duration.as_millis() as u64, Relaxed);
        true
    }

    /// Takes over an ejection that another process began.
    pub fn set_until(&self, until: u64) {
        self.until.store(until, Relaxed);
    }

    /// How long the ejection still lasts, in milliseconds.
    pub fn remaining(&self, now: u64) -> Option<u64> {
        let remaining = self.until.load(Relaxed).saturating_sub(now);
        (remaining > 0).then_some(remaining)
    }

    pub fn is_active(&self, now: u64) -> bool {
        now < self.until.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const RULE: config::Eject = config::Eject {
        failures: 3,
        within: Duration::from_secs(10),
        duration: Duration::from_secs(30),
    };

    #[test]
    fn the_third_failure_within_the_window_ejects_for_the_time_set() {
        let ejection = Ejection::default();
        assert!(!ejection.record_failure(&RULE, 1_000));
        assert!(!ejection.record_failure(&RULE, 2_000));
        assert!(ejection.record_failure(&RULE, 3_000));
        assert!(ejection.is_active(32_999));
        assert!(!ejection.is_active(33_000));
    }

    #[test]
    fn failures_farther_apart_than_the_window_do_not_eject() {
        let ejection = Ejection::default();
        for second in [0, 6, 12, 18, 24] {
            assert!(
                !ejection.record_failure(&RULE, second * 1000),
                "at {second} s"
            );
        }
    }

    #[test]
    fn an_ejected_server_needs_all_its_failures_again() {
        let ejection = Ejection::default();
        for _ in 0..3 {
            ejection.record_failure(&RULE, 0);
        }
        assert!(!ejection.record_failure(&RULE, 31_000));
        assert!(!ejection.is_active(31_000));
    }
}
