//! The same key gets the same server: by the ring, within `load_bound`.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use super::Wanted;
use super::carried::MemberBalancer;
use super::ring::Ring;
use super::smooth::SmoothRoundRobin;
use crate::upstream::keys_in_use::{KeyId, KeyUse, KeysInUse};
use crate::upstream::server::{Lease, Member, now_ms};

pub struct ConsistentHash {
    ring: Box<MemberBalancer<Ring>>,
    /// Used for empty keys.
    in_turn: Box<MemberBalancer<SmoothRoundRobin>>,
    bounded: Option<Bounded>,
}

/// What `load_bound` needs to know.
struct Bounded {
    bound: f64,
    keys: Arc<KeysInUse>,
    /// Whether the members are backups.
    is_backup: bool,
}

impl ConsistentHash {
    pub fn new(members: &[Arc<Member>], load_bound: Option<f64>, keys: &Arc<KeysInUse>) -> Self {
        Self {
            ring: MemberBalancer::new(members),
            in_turn: MemberBalancer::new(members),
            bounded: load_bound.map(|bound| Bounded {
                bound,
                keys: keys.clone(),
                is_backup: members.iter().any(|member| member.backup),
            }),
        }
    }

    pub fn members(&self) -> &[Arc<Member>] {
        self.ring.members()
    }

    pub fn pick(&self, wanted: &Wanted<'_>) -> Option<Lease> {
        if wanted.key.is_empty() {
            return self.in_turn.in_turn(wanted);
        }
        // Without an acceptable server no order is needed. Nearly always the first one is
        // acceptable.
        if !self
            .ring
            .members()
            .iter()
            .any(|member| wanted.accepts(member))
        {
            return None;
        }
        match &self.bounded {
            Some(bounded) => self.pick_bounded(bounded, wanted),
            None => self.pick_by_ring(wanted, None),
        }
    }

    /// The first acceptable server after the key on the ring.
    fn pick_by_ring(&self, wanted: &Wanted<'_>, bound: Option<LoadBound>) -> Option<Lease> {
        let hash = crc32fast::hash(wanted.key);
        let first = |may_have: &dyn Fn(&Member) -> bool| {
            self.ring.select(wanted, hash, |member| {
                if may_have(member) {
                    wanted.lease(member)
                } else {
                    None
                }
            })
        };
        let is_within = |member: &Member| bound.as_ref().is_none_or(|bound| bound.allows(member));
        first(&|member| is_within(member) && has_moved_in(wanted.key, member))
            // All acceptable servers are above the bound or start slowly: any server is better than
            // none.
            .or_else(|| first(&|_| true))
    }

    /// The server that the key is on while the key is in use, else the first one below its share of
    /// the load.
    fn pick_bounded(&self, bounded: &Bounded, wanted: &Wanted<'_>) -> Option<Lease> {
        let key = bounded.keys.id(bounded.is_backup, wanted.key);
        let known = bounded.keys.find(key, now_ms());
        if let Some(lease) = known
            .as_ref()
            .and_then(|known| self.lease_on(known, wanted))
        {
            return Some(lease);
        }
        let bound = LoadBound::now(bounded.bound, self.ring.members(), wanted);
        let lease = self.pick_by_ring(wanted, Some(bound))?;
        if known
            .as_ref()
            .is_some_and(|known| self.can_use(known, wanted))
        {
            // The key stays: its server was full for this session only, or this request has tried
            // it.
            return Some(lease);
        }
        Some(self.settle(bounded, key, known.as_ref(), lease, wanted))
    }

    fn lease_on(&self, used: &Arc<KeyUse>, wanted: &Wanted<'_>) -> Option<Lease> {
        let lease = wanted.lease(self.ring.member(used.server())?)?;
        Some(lease.with_key(used.clone()))
    }

    fn can_use(&self, used: &KeyUse, wanted: &Wanted<'_>) -> bool {
        let member = self.ring.member(used.server());
        member.is_some_and(|member| member.is_usable(wanted.ejected))
    }

    /// From now on the key is on this lease's server, unless another pick has just put it on
    /// another one.
    fn settle(
        &self,
        bounded: &Bounded,
        key: KeyId,
        before: Option<&Arc<KeyUse>>,
        lease: Lease,
        wanted: &Wanted<'_>,
    ) -> Lease {
        let address = lease.server().address;
        let used = bounded.keys.put(key, address, before, now_ms());
        if used.server() == address {
            return lease.with_key(used);
        }
        self.lease_on(&used, wanted).unwrap_or(lease)
    }
}

/// While a server starts slowly, its keys move to it one by one, and each moves once: the key's
/// hash says at which part of the slow start.
fn has_moved_in(key: &[u8], member: &Member) -> bool {
    let warmth = member.warmth();
    warmth >= 1.0 || {
        let mut hasher = DefaultHasher::new();
        (key, member.server.address).hash(&mut hasher);
        hasher.finish() as f64 / u64::MAX as f64 <= warmth
    }
}

/// "Consistent hashing with bounded loads" (Mirrokni, Thorup, Zadimoghaddam, 2016): no server
/// gets more than `bound` times its share of the load.
struct LoadBound {
    /// The load that is allowed for each unit of weight.
    per_weight: f64,
}

impl LoadBound {
    /// The mean of the servers that this pick could take. The load of a server that is down,
    /// drained or full says nothing of what the others can bear, and such a server takes no part of
    /// the rest.
    fn now(bound: f64, members: &[Arc<Member>], wanted: &Wanted<'_>) -> Self {
        let fit = members.iter().filter(|member| wanted.accepts(member));
        let (load, weight) = fit.fold((0, 0), |(load, weight), member| {
            (load + member.server.load(), weight + member.weight as usize)
        });
        Self {
            per_weight: bound * (load + 1) as f64 / weight.max(1) as f64,
        }
    }

    fn allows(&self, member: &Member) -> bool {
        let allowed = (self.per_weight * f64::from(member.weight)).ceil();
        (member.server.load() + 1) as f64 <= allowed
    }
}
