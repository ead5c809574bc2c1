//! All sessions that are alive, so that they can be listed, counted and told to go. Also the totals
//! of the sessions that have ended, for the metrics.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use parking_lot::{Mutex, MutexGuard};
use uuid::Uuid;

use super::live::{LiveSession, SessionKind};
use super::stats::EndedSessions;
use super::traffic::{ClosedBy, Order, REPLACED, Totals};
use crate::limits::{Permit, UserBound};

/// Each shard has its own lock, so that handshakes on many threads do not wait for each other.
const SHARDS: usize = 32;

#[derive(Debug, Default)]
struct Shard {
    live: HashMap<Uuid, Arc<LiveSession>>,
    /// What sessions that are gone have carried. It has the same lock as the live sessions, so that
    /// each session is counted exactly once and the sum of both never decreases.
    departed: Totals,
}

#[derive(Debug)]
pub struct Registry {
    shards: [Mutex<Shard>; SHARDS],
    len: AtomicUsize,
    pub ended: EndedSessions,
}

impl Default for Registry {
    fn default() -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            len: AtomicUsize::new(0),
            ended: EndedSessions::default(),
        }
    }
}

/// One live session. Dropping this value removes the session from the registry.
#[derive(Debug)]
pub struct Registered {
    registry: Arc<Registry>,
    live: Arc<LiveSession>,
}

impl Registry {
    pub fn register(self: &Arc<Self>, live: LiveSession) -> Registered {
        if live.kind == SessionKind::WebSocket {
            live.server.count_handshake();
        }
        self.admit(live, Totals::default())
    }

    fn admit(self: &Arc<Self>, mut live: LiveSession, counted_elsewhere: Totals) -> Registered {
        let live = loop {
            let id = live.identity.id;
            let shard = &mut *self.shard(id);
            match shard.live.entry(id) {
                Entry::Vacant(vacancy) => {
                    shard.departed.take_off(counted_elsewhere);
                    live.server.take_off_messages(counted_elsewhere.messages());
                    break vacancy.insert(Arc::new(live)).clone();
                }
                Entry::Occupied(_) => {
                    // A trusted proxy has given two sessions the same id, so this one gets a new
                    // id.
                    live.identity
                        .request_id
                        .get_or_insert(id.to_string().into());
                    live.identity.id = Uuid::now_v7();
                }
            }
        };
        self.len.fetch_add(1, Relaxed);
        Registered {
            registry: self.clone(),
            live,
        }
    }

    /// Like [`Registry::register`], for a session that another process has counted until now.
    pub fn adopt(self: &Arc<Self>, live: LiveSession) -> Registered {
        let before = live.traffic.carried();
        self.admit(live, before)
    }

    /// The session is in the registry, so newer ones find it. Those of its user that are too many
    /// now are told that it has taken their places.
    pub fn take_place(&self, live: &LiveSession, permit: &mut Permit, bound: Option<UserBound>) {
        for id in permit.begin(live.identity.id, live.since(), bound) {
            if let Some(replaced) = self.find(id) {
                replaced.traffic.ask(Order::End {
                    by: ClosedBy::Limit,
                    code: REPLACED,
                });
            }
        }
    }

    pub fn len(&self) -> usize {
        self.len.load(Relaxed)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn find(&self, id: Uuid) -> Option<Arc<LiveSession>> {
        self.shard(id).live.get(&id).cloned()
    }

    /// Whether any session meets the condition.
    pub fn any(&self, is_it: &dyn Fn(&LiveSession) -> bool) -> bool {
        let mut shards = self.shards.iter();
        shards.any(|shard| lock(shard).live.values().any(|live| is_it(live)))
    }

    /// All sessions that meet the condition, in no particular order.
    pub fn select(&self, is_wanted: impl Fn(&LiveSession) -> bool) -> Vec<Arc<LiveSession>> {
        let mut selected = Vec::new();
        self.for_each(|live| {
            if is_wanted(live) {
                selected.push(live.clone());
            }
        });
        selected
    }

    /// Calls `see` for every session. Only one shard is locked at a time.
    pub fn for_each(&self, mut see: impl FnMut(&Arc<LiveSession>)) {
        for shard in &self.shards {
            lock(shard).live.values().for_each(&mut see);
        }
    }

    /// Like [`Registry::for_each`]. Returns what all sessions have carried in this process,
    /// including those that are gone.
    pub fn carried(&self, mut see: impl FnMut(&Arc<LiveSession>)) -> Totals {
        let mut sum = Totals::default();
        for shard in &self.shards {
            let shard = lock(shard);
            sum.add(shard.departed);
            // With 100,000 sessions the loop waits mostly for memory. Over a list of pointers the
            // processor can load many sessions at the same time.
            let all: Vec<&Arc<LiveSession>> = shard.live.values().collect();
            for some in all.chunks(64) {
                some.iter().for_each(|live| see(live));
                some.iter().for_each(|live| sum.add(live.traffic.carried()));
            }
        }
        sum
    }

    fn shard(&self, id: Uuid) -> MutexGuard<'_, Shard> {
        // The last bytes of a UUIDv7 are random, so they choose the shard.
        lock(&self.shards[usize::from(id.as_bytes()[15]) % SHARDS])
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock()
}

impl Registered {
    /// Called if the session has ended, and not if it has moved to another process.
    pub fn count_end(&self) {
        self.registry.ended.count(&self.live);
    }
}

impl Deref for Registered {
    type Target = Arc<LiveSession>;

    fn deref(&self) -> &Arc<LiveSession> {
        &self.live
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let id = self.live.identity.id;
        let mut shard = self.registry.shard(id);
        if let Some(live) = shard.live.remove(&id) {
            let carried = live.traffic.carried();
            shard.departed.add(carried);
            live.server.add_messages(carried.messages());
            self.registry.len.fetch_sub(1, Relaxed);
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::super::live::Identity;
    use super::*;
    use crate::upstream::Server;

    pub fn live() -> LiveSession {
        LiveSession {
            kind: SessionKind::WebSocket,
            identity: Identity {
                id: Uuid::now_v7(),
                request_id: None,
                trace: None,
                listener: "public".into(),
                route: "chat".into(),
                upstream: "ims_svr".into(),
                server: ([127, 0, 0, 1], 9080).into(),
                client: "192.0.2.1".into(),
                method: "GET".into(),
                host: "chat.example".into(),
                path: "/chat?userId=7".into(),
                user_agent: None,
                user: None,
                handshake: Default::default(),
                attempts: 1,
            },
            traffic: Arc::default(),
            server: Arc::new(Server::new(([127, 0, 0, 1], 9080).into())),
        }
    }

    #[test]
    fn what_sessions_carry_counts_while_they_live_and_stays_when_they_have_left() {
        let registry = Arc::new(Registry::default());
        let first = registry.register(live());
        first.traffic.bytes_in.store(7, Relaxed);
        first.traffic.messages_out.store(2, Relaxed);
        let carried = |bytes_in| Totals {
            bytes_in,
            messages_out: 2,
            ..Totals::default()
        };
        assert_eq!(registry.carried(|_| {}), carried(7));
        drop(first);
        assert_eq!(registry.carried(|_| {}), carried(7));
        let moved = live();
        moved.traffic.bytes_in.store(1000, Relaxed);
        let moved = registry.adopt(moved);
        moved.traffic.bytes_in.store(1001, Relaxed);
        assert_eq!(registry.carried(|_| {}), carried(8));
        drop(moved);
        assert_eq!(registry.carried(|_| {}), carried(8));
    }

    #[test]
    fn two_sessions_of_one_name_have_two_ids() {
        let registry = Arc::new(Registry::default());
        let first = registry.register(live());
        let mut second = live();
        second.identity.id = first.identity.id;
        let second = registry.register(second);
        assert_ne!(second.identity.id, first.identity.id);
        let name = first.identity.id.to_string();
        assert_eq!(second.identity.request_id.as_deref(), Some(&*name));
        drop(first);
        assert_eq!(registry.select(|_| true).len(), 1);
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
