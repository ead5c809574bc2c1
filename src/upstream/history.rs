//! The recent changes of a server, for an operator who looks when they are over.

use std::collections::VecDeque;

use jiff::Timestamp;
use parking_lot::Mutex;

/// How many changes are kept.
const KEPT: usize = 20;

/// The state of a server as picks see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// No check has had a result yet, or there are no checks.
    Unchecked,
    Up,
    Down,
    /// Gets no traffic for a while, after failures in live traffic.
    Ejected,
    /// Taken out by the operator.
    Drained,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    pub since: Timestamp,
    pub standing: Standing,
}

/// The last changes, the newest last. A standing that ends at a certain time must be given with
/// that time, as its end is not reported.
#[derive(Debug, Default)]
pub struct History(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    changes: VecDeque<Change>,
    /// When the newest standing ends by itself.
    until: Option<Timestamp>,
}

impl History {
    /// `until`: when the standing ends by itself.
    pub fn note(&self, standing: Standing, until: Option<Timestamp>, now: Timestamp) {
        let mut kept = self.0.lock();
        kept.settle(standing, now);
        kept.push(Change {
            since: now,
            standing,
        });
        kept.until = until;
    }

    /// Puts the changes that another process has seen first.
    pub fn restore(&self, before: Vec<Change>) {
        let mut kept = self.0.lock();
        kept.changes = before.into();
        kept.changes.truncate(KEPT);
        kept.until = None;
    }

    /// `standing`: the present one.
    pub fn changes(&self, standing: Standing, now: Timestamp) -> Vec<Change> {
        let mut kept = self.0.lock();
        kept.settle(standing, now);
        kept.changes.iter().copied().collect()
    }
}

impl Kept {
    /// If the newest standing was to end at a time that is past, notes the present one.
    fn settle(&mut self, standing: Standing, now: Timestamp) {
        if let Some(until) = self.until.filter(|until| *until <= now) {
            self.until = None;
            self.push(Change {
                since: until,
                standing,
            });
        }
    }

    fn push(&mut self, change: Change) {
        if self.changes.back().map(|last| last.standing) == Some(change.standing) {
            return;
        }
        if self.changes.len() == KEPT {
            self.changes.pop_front();
        }
        self.changes.push_back(change);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn seen(history: &History, standing: Standing, now: i64) -> Vec<(i64, Standing)> {
        let changes = history.changes(standing, at(now)).into_iter();
        changes
            .map(|change| (change.since.as_second(), change.standing))
            .collect()
    }

    #[test]
    fn only_changes_are_kept_and_only_the_last_of_them() {
        let history = History::default();
        for second in 0..100 {
            let standing = match second / 2 % 2 {
                0 => Standing::Up,
                _ => Standing::Down,
            };
            history.note(standing, None, at(second));
        }
        let kept = seen(&history, Standing::Down, 100);
        assert_eq!(kept.len(), KEPT);
        assert_eq!(kept.last(), Some(&(98, Standing::Down)));
        assert_eq!(kept[0], (60, Standing::Up));
    }

    #[test]
    fn what_ends_by_itself_has_its_end_in_it() {
        let history = History::default();
        history.note(Standing::Up, None, at(1));
        history.note(Standing::Ejected, Some(at(40)), at(10));
        assert_eq!(
            seen(&history, Standing::Ejected, 39),
            [(1, Standing::Up), (10, Standing::Ejected)]
        );
        let whole = [
            (1, Standing::Up),
            (10, Standing::Ejected),
            (40, Standing::Up),
        ];
        assert_eq!(seen(&history, Standing::Up, 60), whole);
        // Also if nobody has looked before the next change.
        let history = History::default();
        history.note(Standing::Up, None, at(1));
        history.note(Standing::Ejected, Some(at(40)), at(10));
        history.note(Standing::Up, None, at(70));
        assert_eq!(seen(&history, Standing::Up, 80), whole);
    }

    #[test]
    fn what_another_process_has_seen_comes_first() {
        let history = History::default();
        history.note(Standing::Unchecked, None, at(50));
        let before = vec![Change {
            since: at(3),
            standing: Standing::Up,
        }];
        history.restore(before);
        history.note(Standing::Up, None, at(51));
        history.note(Standing::Down, None, at(60));
        assert_eq!(
            seen(&history, Standing::Down, 61),
            [(3, Standing::Up), (60, Standing::Down)]
        );
    }
}
