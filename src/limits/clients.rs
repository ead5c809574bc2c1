//! Counts per client.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher, RandomState};

use parking_lot::{Mutex, MutexGuard};

use super::ClientKey;

/// Each shard has its own lock, so that clients on many threads do not wait for each other.
const SHARDS: usize = 16;

type Shard = Mutex<HashMap<ClientKey, usize>>;

#[derive(Debug, Default)]
pub struct Clients {
    /// Uses a random key, so that nobody can choose addresses that share a shard.
    hasher: RandomState,
    shards: [Shard; SHARDS],
}

impl Clients {
    /// Counts one more, unless the client has `most`.
    pub fn add(&self, client: ClientKey, most: usize) -> bool {
        let mut shard = self.shard(client);
        let count = shard.get(&client).copied().unwrap_or(0);
        if count < most {
            shard.insert(client, count + 1);
        }
        count < most
    }

    pub fn remove(&self, client: ClientKey) {
        if let Entry::Occupied(mut entry) = self.shard(client).entry(client) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }

    pub fn counts(&self) -> Vec<(ClientKey, usize)> {
        let mut counts = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock();
            counts.extend(shard.iter().map(|(client, count)| (*client, *count)));
        }
        counts
    }

    fn shard(&self, client: ClientKey) -> MutexGuard<'_, HashMap<ClientKey, usize>> {
        let number = self.hasher.hash_one(client) as usize % SHARDS;
        self.shards[number].lock()
    }
}
