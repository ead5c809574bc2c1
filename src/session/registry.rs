//! The sessions that live now, so that they can be seen, counted and told to go.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

use super::live::Live;

/// Each with a lock of its own, so that handshakes of many threads don't meet.
const SHARDS: usize = 32;

type Shard = Mutex<HashMap<Uuid, Arc<Live>>>;

#[derive(Debug)]
pub struct Registry {
    shards: [Shard; SHARDS],
    len: AtomicUsize,
}

impl Default for Registry {
    fn default() -> Self {
        Self {
            shards: std::array::from_fn(|_| Shard::default()),
            len: AtomicUsize::new(0),
        }
    }
}

/// One live session; it leaves the registry when this is dropped.
#[derive(Debug)]
pub struct Registered {
    registry: Arc<Registry>,
    live: Arc<Live>,
}

impl Registry {
    pub fn register(self: &Arc<Self>, live: Live) -> Registered {
        let live = Arc::new(live);
        let id = live.identity.id;
        self.shard(id).insert(id, live.clone());
        self.len.fetch_add(1, Relaxed);
        Registered {
            registry: self.clone(),
            live,
        }
    }

    pub fn len(&self) -> usize {
        self.len.load(Relaxed)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn find(&self, id: Uuid) -> Option<Arc<Live>> {
        self.shard(id).get(&id).cloned()
    }

    /// Those that are wanted, in no order.
    pub fn select(&self, is_wanted: impl Fn(&Live) -> bool) -> Vec<Arc<Live>> {
        let mut selected = Vec::new();
        self.for_each(|live| {
            if is_wanted(live) {
                selected.push(live.clone());
            }
        });
        selected
    }

    /// Sees every session; one part of them after the other is locked meanwhile.
    pub fn for_each(&self, mut see: impl FnMut(&Arc<Live>)) {
        for shard in &self.shards {
            lock(shard).values().for_each(&mut see);
        }
    }

    fn shard(&self, id: Uuid) -> MutexGuard<'_, HashMap<Uuid, Arc<Live>>> {
        // The last bytes of a UUIDv7 are random.
        lock(&self.shards[usize::from(id.as_bytes()[15]) % SHARDS])
    }
}

fn lock(shard: &Shard) -> MutexGuard<'_, HashMap<Uuid, Arc<Live>>> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Deref for Registered {
    type Target = Arc<Live>;

    fn deref(&self) -> &Arc<Live> {
        &self.live
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let id = self.live.identity.id;
        if self.registry.shard(id).remove(&id).is_some() {
            self.registry.len.fetch_sub(1, Relaxed);
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::super::live::Identity;
    use super::*;

    pub fn live() -> Live {
        Live {
            identity: Identity {
                id: Uuid::now_v7(),
                listener: "public".into(),
                route: "chat".into(),
                upstream: "ims_svr".into(),
                server: ([127, 0, 0, 1], 9080).into(),
                client: "192.0.2.1".into(),
                method: "GET".into(),
                host: "chat.example".into(),
                path: "/chat?userId=7".into(),
                user_agent: None,
                handshake: Default::default(),
                attempts: 1,
            },
            traffic: Arc::default(),
        }
    }

    #[test]
    fn a_session_is_there_until_its_guard_goes() {
        let registry = Arc::new(Registry::default());
        let first = registry.register(live());
        let second = registry.register(live());
        assert_eq!(registry.len(), 2);
        assert_eq!(registry.select(|_| true).len(), 2);
        let id = first.identity.id;
        assert!(registry.find(id).is_some());
        drop(first);
        assert!(registry.find(id).is_none());
        assert_eq!(registry.len(), 1);
        drop(second);
        assert!(registry.is_empty());
    }
}
