//! Which server the keys in use are on, for `load_bound`.
//!
//! A bound on the load moves keys to another server. A key in use must not move: the sessions of
//! one chat room would be separated, and a polling socket.io client has its session on the server
//! that answered first. So a key keeps its server while it has a request or session there, and for
//! [`QUIET`] after the last of them has ended.
//!
//! A lease holds the [`KeyUse`] of its key. The number of holders shows whether the key is in use,
//! so nothing needs to be counted. Keys that are not in use are forgotten in two generations: a
//! table that is a minute old, or full, becomes the older one, and the keys of the previous older
//! one are forgotten, except those in use. Times are milliseconds of any steady clock, passed in by
//! the caller.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};

/// How long a key keeps its server without a request. A socket.io client polls again within 25 s,
/// and its server waits another 20 s for that.
pub const QUIET: Duration = Duration::from_secs(60);

const QUIET_MS: u64 = QUIET.as_millis() as u64;

/// The number of locks, so that picks on many threads seldom wait for each other.
const SHARDS: usize = 16;

/// The most keys of one shard in one generation. Keys that are not in use take at most about 12 MB
/// in all shards together, whatever clients send.
const MAX_KEYS: usize = 4096;

/// A key and the server it is on. Each request and session of the key there holds one.
#[derive(Debug)]
pub struct KeyUse {
    server: SocketAddr,
    /// When the last request or session began or ended.
    last_ms: AtomicU64,
}

impl KeyUse {
    fn new(server: SocketAddr, now: u64) -> Arc<Self> {
        Arc::new(Self {
            server,
            last_ms: AtomicU64::new(now),
        })
    }

    pub fn server(&self) -> SocketAddr {
        self.server
    }

    /// Called when a request or session of the key begins or ends.
    pub fn touch(&self, now: u64) {
        self.last_ms.fetch_max(now, Relaxed);
    }

    /// Whether anything but the table holds the key.
    fn is_held(self: &Arc<Self>) -> bool {
        Arc::strong_count(self) > 1
    }

    fn is_quiet(&self, now: u64) -> bool {
        now.saturating_sub(self.last_ms.load(Relaxed)) >= QUIET_MS
    }
}

/// A key in the form in which the table knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyId(u64);

#[derive(Debug, Default)]
pub struct KeysInUse {
    /// Seeded at random in each process, so that nobody can choose keys that collide.
    hasher: RandomState,
    shards: [Mutex<Shard>; SHARDS],
}

impl KeysInUse {
    /// Keys are kept separately for servers and backups. Else a session that goes to a backup
    /// because all servers are full would take the key's requests along.
    pub fn id(&self, is_backup: bool, key: &[u8]) -> KeyId {
        KeyId(self.hasher.hash_one((is_backup, key)))
    }

    /// The server that a key is on.
    pub fn find(&self, key: KeyId, now: u64) -> Option<Arc<KeyUse>> {
        self.shard(key).find(key, now)
    }

    /// Puts a key on a server, unless another pick has put it on one in the meantime. `before` is
    /// the result of [`KeysInUse::find`].
    pub fn put(
        &self,
        key: KeyId,
        server: SocketAddr,
        before: Option<&Arc<KeyUse>>,
        now: u64,
    ) -> Arc<KeyUse> {
        let mut shard = self.shard(key);
        match shard.find(key, now) {
            Some(found) if !before.is_some_and(|before| Arc::ptr_eq(before, &found)) => found,
            _ => {
                let used = KeyUse::new(server, now);
                shard.insert(key, &used, now);
                used
            }
        }
    }

    fn shard(&self, key: KeyId) -> MutexGuard<'_, Shard> {
        let shard = &self.shards[key.0 as usize % SHARDS];
        shard.lock()
    }
}

#[derive(Debug, Default)]
struct Shard {
    young: HashMap<u64, Arc<KeyUse>>,
    old: HashMap<u64, Arc<KeyUse>>,
    /// How many keys `young` has taken in, without those that were in use when it began.
    taken_in: usize,
    /// When `young` began.
    began: u64,
}

impl Shard {
    fn find(&mut self, key: KeyId, now: u64) -> Option<Arc<KeyUse>> {
        let found = self.young.get(&key.0).or_else(|| self.old.get(&key.0))?;
        if !found.is_held() && found.is_quiet(now) {
            return None;
        }
        let found = found.clone();
        found.touch(now);
        if self.old.remove(&key.0).is_some() {
            self.insert(key, &found, now);
        }
        Some(found)
    }

    fn insert(&mut self, key: KeyId, used: &Arc<KeyUse>, now: u64) {
        if self.taken_in >= MAX_KEYS {
            self.begin_young(now, KeyUse::is_held);
        } else if now.saturating_sub(self.began) >= QUIET_MS {
            self.begin_young(now, |used| used.is_held() || !used.is_quiet(now));
        }
        self.taken_in += 1;
        self.old.remove(&key.0);
        self.young.insert(key.0, used.clone());
    }

    /// Forgets the older generation, except the keys for which `stays` returns true.
    fn begin_young(&mut self, now: u64, stays: impl Fn(&Arc<KeyUse>) -> bool) {
        let young = std::mem::take(&mut self.young);
        let old = std::mem::replace(&mut self.old, young);
        self.young = old.into_iter().filter(|(_, used)| stays(used)).collect();
        self.taken_in = 0;
        self.began = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    const A: ([u8; 4], u16) = ([10, 0, 0, 1], 80);
    const B: ([u8; 4], u16) = ([10, 0, 0, 2], 80);

    fn keys_known(keys: &KeysInUse) -> usize {
        let shards = keys.shards.iter().map(|shard| shard.lock());
        shards
            .map(|shard| shard.young.len() + shard.old.len())
            .sum()
    }

    #[test]
    fn a_key_stays_while_it_is_held_and_a_minute_longer() {
        let keys = KeysInUse::default();
        let room = keys.id(false, b"room");
        assert!(keys.find(room, 0).is_none());
        let session = keys.put(room, A.into(), None, 0);
        // However long it lives.
        let hours = 3_600_000 * 5;
        assert_eq!(keys.find(room, hours).unwrap().server(), A.into());
        session.touch(hours + 10_000);
        drop(session);
        let last = hours + 10_000 + QUIET_MS;
        assert!(keys.find(room, last).is_none());
        assert_eq!(keys.find(room, last - 1).unwrap().server(), A.into());
        // That was a use as well.
        assert!(keys.find(room, last + QUIET_MS - 2).is_some());
    }

    #[test]
    fn of_two_that_put_a_key_at_once_the_first_one_decides() {
        let keys = KeysInUse::default();
        let room = keys.id(false, b"room");
        let first = keys.put(room, A.into(), None, 0);
        assert_eq!(keys.put(room, B.into(), None, 0).server(), A.into());
        // Who knows where it was may move it.
        let moved = keys.put(room, B.into(), Some(&first), 0);
        assert_eq!(moved.server(), B.into());
        assert_eq!(keys.put(room, A.into(), Some(&first), 0).server(), B.into());
        assert_eq!(keys.find(room, 0).unwrap().server(), B.into());
    }

    #[test]
    fn backups_have_keys_of_their_own() {
        let keys = KeysInUse::default();
        let _proper = keys.put(keys.id(false, b"room"), A.into(), None, 0);
        assert!(keys.find(keys.id(true, b"room"), 0).is_none());
    }

    #[derive(Debug, Clone)]
    enum Step {
        /// A key is put on a server and held.
        Put(u8, u16),
        /// The oldest of what is held ends.
        End,
        Find(u8),
        Pass(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (any::<u8>(), 1..5u16).prop_map(|(key, server)| Step::Put(key, server)),
            Just(Step::End),
            any::<u8>().prop_map(Step::Find),
            (0..50_000u64).prop_map(Step::Pass),
        ]
    }

    /// What is known of a key by counting.
    struct Counted {
        port: u16,
        held: usize,
        last: u64,
    }

    impl Counted {
        fn is_in_use(&self, now: u64) -> bool {
            self.held > 0 || now - self.last < QUIET_MS
        }
    }

    proptest! {
        #[test]
        fn a_key_is_known_exactly_as_long_as_it_is_in_use(
            steps in prop::collection::vec(step(), 1..300),
        ) {
            let keys = KeysInUse::default();
            let (mut now, mut held) = (0, VecDeque::new());
            let mut counted: HashMap<u8, Counted> = HashMap::new();
            for step in steps {
                counted.retain(|_, known| known.is_in_use(now));
                match step {
                    Step::Put(key, port) => {
                        let id = keys.id(false, &[key]);
                        let used = keys.find(id, now).unwrap_or_else(|| {
                            keys.put(id, ([10, 0, 0, 1], port).into(), None, now)
                        });
                        let new = Counted { port, held: 0, last: now };
                        let known = counted.entry(key).or_insert(new);
                        (known.held, known.last) = (known.held + 1, now);
                        prop_assert_eq!(used.server().port(), known.port);
                        held.push_back((key, used));
                    }
                    Step::End => {
                        if let Some((key, used)) = held.pop_front() {
                            used.touch(now);
                            let known = counted.get_mut(&key).unwrap();
                            (known.held, known.last) = (known.held - 1, now);
                        }
                    }
                    Step::Find(key) => {
                        let found = keys.find(keys.id(false, &[key]), now);
                        let known = counted.get_mut(&key);
                        prop_assert_eq!(
                            found.map(|used| used.server().port()),
                            known.as_ref().map(|known| known.port)
                        );
                        if let Some(known) = known {
                            known.last = now;
                        }
                    }
                    Step::Pass(time) => now += time,
                }
            }
        }
    }

    #[test]
    fn keys_in_use_outlast_any_number_of_others_and_memory_has_a_bound() {
        let keys = KeysInUse::default();
        let name = |n: u32| keys.id(false, &n.to_le_bytes());
        let used: Vec<_> = (0..10_000)
            .map(|n| keys.put(name(n), A.into(), None, 0))
            .collect();
        for n in 10_000..300_000 {
            keys.put(name(n), B.into(), None, 1);
        }
        assert!(keys_known(&keys) <= 10_000 + 2 * SHARDS * MAX_KEYS);
        for n in 0..10_000 {
            assert_eq!(keys.find(name(n), 2).unwrap().server(), A.into());
        }
        drop(used);
        // Time alone makes them forgotten too, when new ones come.
        for round in 1..=3u64 {
            for n in 0..1000 {
                let now = round * 2 * QUIET_MS;
                keys.put(name(1_000_000 * round as u32 + n), B.into(), None, now);
            }
        }
        assert!(keys_known(&keys) <= 3000, "{}", keys_known(&keys));
    }
}
