//! How many requests may come for each key.
//!
//! A key's bucket is one number, the moment at which it is full again, so a table is a map from
//! hashes of keys to numbers. Each take may have another rate, so that a table outlasts reloads.
//! Its size is bounded, whatever keys clients think of: what is full again is forgotten, and when
//! that is not enough, the half of the keys that has spent the least.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::time::Duration;

use parking_lot::Mutex;

use super::bucket::{self, SECOND, take_token};

/// Requests of different keys seldom wait for each other.
const SHARDS: usize = 16;

/// How many keys a shard remembers.
const KEYS_MAX: usize = 4096;

/// Tokens that come with time, and how many a bucket holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// How many nanoseconds one token takes to come.
    token: u64,
    /// How many nanoseconds it takes to fill an empty bucket.
    full: u64,
}

impl Rate {
    /// `per_second`: at least a thousandth. `burst`: at least 1.
    pub fn new(per_second: f64, burst: u32) -> Self {
        let token = ((SECOND as f64 / per_second) as u64).max(1);
        Self {
            token,
            full: token * u64::from(burst),
        }
    }
}

/// The buckets of one route.
#[derive(Debug, Default)]
pub struct RateTable {
    hasher: RandomState,
    shards: [Mutex<Shard>; SHARDS],
}

/// When each key's bucket is full again.
#[derive(Debug, Default)]
struct Shard(HashMap<u64, u64>);

impl RateTable {
    /// Takes a token of this key. `Err`: how long it takes until there is one.
    pub fn take(&self, key: &[u8], rate: Rate) -> Result<(), Duration> {
        self.take_at(bucket::now(), key, rate)
    }

    fn take_at(&self, now: u64, key: &[u8], rate: Rate) -> Result<(), Duration> {
        // With a secret of this process, so that nobody finds keys with the same hash.
        let hash = self.hasher.hash_one(key);
        let mut shard = self.shards[hash as usize % SHARDS].lock();
        let taken = shard.take(now, hash, rate);
        taken.map_err(Duration::from_nanos)
    }
}

impl Shard {
    fn take(&mut self, now: u64, key: u64, rate: Rate) -> Result<(), u64> {
        let full_at = match self.0.get_mut(&key) {
            None => 0,
            Some(full_at) => {
                // At another rate than before, a bucket may be empty, but it owes nothing.
                *full_at = (*full_at).min(now + rate.full);
                *full_at
            }
        };
        let then = take_token(full_at, now, rate.token, rate.full)?;
        if self.0.len() >= KEYS_MAX && !self.0.contains_key(&key) {
            self.make_room(now);
        }
        self.0.insert(key, then);
        Ok(())
    }

    fn make_room(&mut self, now: u64) {
        self.0.retain(|_, full_at| *full_at > now);
        if self.0.len() > KEYS_MAX / 2 {
            let mut times: Vec<u64> = self.0.values().copied().collect();
            let middle = times.len() / 2;
            let (_, &mut middle, _) = times.select_nth_unstable(middle);
            self.0.retain(|_, full_at| *full_at > middle);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(table: &RateTable, now: u64, key: &str, rate: Rate) -> usize {
        let tries = 0..100;
        tries
            .filter(|_| table.take_at(now, key.as_bytes(), rate).is_ok())
            .count()
    }

    #[test]
    fn each_key_has_its_own_burst_and_rate() {
        let table = RateTable::default();
        let rate = Rate::new(10.0, 20);
        assert_eq!(taken(&table, SECOND, "a", rate), 20);
        assert_eq!(taken(&table, SECOND, "b", rate), 20);
        assert_eq!(taken(&table, 2 * SECOND, "a", rate), 10);
        assert_eq!(taken(&table, 60 * SECOND, "a", rate), 20);
    }

    #[test]
    fn at_a_higher_rate_nobody_pays_for_what_was_spent_at_the_lower_one() {
        let table = RateTable::default();
        assert_eq!(taken(&table, SECOND, "a", Rate::new(0.1, 50)), 50);
        let higher = Rate::new(10.0, 20);
        assert_eq!(taken(&table, 3 * SECOND, "a", higher), 0);
        assert_eq!(taken(&table, 4 * SECOND, "a", higher), 10);
    }

    #[test]
    fn who_is_refused_is_told_when_to_come_back() {
        let table = RateTable::default();
        let rate = Rate::new(0.1, 2);
        assert_eq!(taken(&table, SECOND, "a", rate), 2);
        let wait = table.take_at(SECOND, b"a", rate);
        assert_eq!(wait, Err(Duration::from_secs(10)));
        // A refusal takes nothing.
        assert_eq!(taken(&table, 11 * SECOND, "a", rate), 1);
    }

    #[test]
    fn a_table_goes_on_under_another_rate() {
        let table = RateTable::default();
        assert_eq!(taken(&table, SECOND, "a", Rate::new(1.0, 5)), 5);
        // The five seconds until the bucket is full are fifty tokens now.
        assert_eq!(taken(&table, SECOND, "a", Rate::new(10.0, 60)), 10);
    }

    #[test]
    fn keys_without_end_do_not_free_one_that_has_spent_all() {
        let table = RateTable::default();
        let rate = Rate::new(1.0, 10);
        assert_eq!(taken(&table, SECOND, "flood", rate), 10);
        for key in 0..200_000_u32 {
            table.take_at(SECOND, &key.to_le_bytes(), rate).unwrap();
        }
        assert_eq!(taken(&table, SECOND, "flood", rate), 0);
        let counts = table.shards.iter().map(|shard| shard.lock().0.len());
        let counts: Vec<usize> = counts.collect();
        assert!(counts.iter().all(|keys| *keys <= KEYS_MAX), "{counts:?}");
    }

    #[test]
    fn what_is_full_again_makes_room_first() {
        let mut shard = Shard::default();
        let rate = Rate::new(1.0, 1);
        for key in 0..KEYS_MAX as u64 {
            let now = if key < 3000 { 0 } else { 10 * SECOND };
            shard.take(now, key, rate).unwrap();
        }
        shard.take(10 * SECOND, u64::MAX, rate).unwrap();
        assert_eq!(shard.0.len(), KEYS_MAX - 3000 + 1);
    }
}
