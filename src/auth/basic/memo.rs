//! Which passwords were compared within the last minute, and with what result.
//!
//! A comparison costs what the scheme of the hash is meant to cost, and a browser sends the same
//! password with each request. Kept are keyed hashes of what was compared, never a password.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// A keyed hash of user, password and the hash that they were compared with.
pub type Tag = [u8; 32];

/// How long a result is kept.
const KEPT: Duration = Duration::from_secs(60);

/// How many results of each kind are kept for the same minute.
const MOST: usize = 10_000;

/// Failures have a table of their own, so that guesses push no result out that a user needs.
#[derive(Debug)]
pub struct Memo {
    right: Table,
    wrong: Table,
}

/// Two halves: what is older than a minute goes as a whole, without a search.
#[derive(Debug)]
struct Table {
    new: HashMap<Tag, Instant>,
    old: HashMap<Tag, Instant>,
    since: Instant,
}

impl Memo {
    pub fn new(now: Instant) -> Self {
        Self {
            right: Table::new(now),
            wrong: Table::new(now),
        }
    }

    /// Whether the password was the right one. `None`: that is not known any more.
    pub fn get(&self, tag: &Tag, now: Instant) -> Option<bool> {
        match (self.right.has(tag, now), self.wrong.has(tag, now)) {
            (true, _) => Some(true),
            (_, true) => Some(false),
            _ => None,
        }
    }

    pub fn put(&mut self, tag: Tag, is_right: bool, now: Instant) {
        match is_right {
            true => self.right.put(tag, now),
            false => self.wrong.put(tag, now),
        }
    }
}

impl Table {
    fn new(now: Instant) -> Self {
        Self {
            new: HashMap::new(),
            old: HashMap::new(),
            since: now,
        }
    }

    fn has(&self, tag: &Tag, now: Instant) -> bool {
        let at = self.new.get(tag).or_else(|| self.old.get(tag));
        at.is_some_and(|at| now.saturating_duration_since(*at) < KEPT)
    }

    fn put(&mut self, tag: Tag, now: Instant) {
        if now.saturating_duration_since(self.since) >= KEPT {
            self.old = std::mem::take(&mut self.new);
            self.since = now;
        }
        if self.new.len() < MOST {
            self.new.insert(tag, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(number: usize) -> Tag {
        let mut tag = [0; 32];
        tag[..8].copy_from_slice(&number.to_be_bytes());
        tag
    }

    #[test]
    fn a_result_is_known_for_a_minute() {
        let start = Instant::now();
        let second = |number| start + Duration::from_secs(number);
        let mut memo = Memo::new(start);
        assert_eq!(memo.get(&tag(1), start), None);
        memo.put(tag(1), true, second(30));
        memo.put(tag(2), false, second(30));
        assert_eq!(memo.get(&tag(1), second(89)), Some(true));
        assert_eq!(memo.get(&tag(2), second(89)), Some(false));
        // The halves change places.
        memo.put(tag(3), true, second(70));
        assert_eq!(memo.get(&tag(1), second(89)), Some(true));
        assert_eq!(memo.get(&tag(1), second(90)), None);
        assert_eq!(memo.get(&tag(3), second(129)), Some(true));
        memo.put(tag(4), true, second(130));
        memo.put(tag(5), true, second(190));
        assert_eq!(memo.right.old.len() + memo.right.new.len(), 2);
    }

    #[test]
    fn guesses_push_nothing_out_and_take_a_bounded_place() {
        let start = Instant::now();
        let mut memo = Memo::new(start);
        memo.put(tag(0), true, start);
        for number in 1..3 * MOST {
            memo.put(tag(number), false, start);
        }
        assert_eq!(memo.get(&tag(0), start), Some(true));
        assert_eq!(memo.get(&tag(1), start), Some(false));
        assert_eq!(memo.get(&tag(2 * MOST), start), None);
        assert_eq!(memo.wrong.new.len(), MOST);
    }
}
