//! Who is next: the four ways to balance.
//!
//! Round robin and consistent hashing are Pingora `LoadBalancer`s (the first over a smooth
//! selection of our own, [`smooth`]); `least_sessions` and `two_choices` read the live counts.
//! All of them hand out a [`Lease`], counted before anything is dialled: two picks in the same
//! instant must not both see the same minimum.

mod least;
pub mod smooth;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::FutureExt;
use http::Extensions;
use pingora::protocols::l4::socket::SocketAddr as PeerAddress;
use pingora_load_balancing::selection::{BackendIter, BackendSelection, Consistent};
use pingora_load_balancing::{Backend, Backends, LoadBalancer, discovery};

use super::server::{Lease, Load, Member};
use crate::config;
use smooth::SmoothRoundRobin;

/// What a pick must respect.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    pub load: Load,
    /// The rendered hash key; empty: no preference.
    pub key: &'a [u8],
    /// Servers that this request has tried already.
    pub tried: &'a [SocketAddr],
    pub ejected: Ejected,
}

/// Whether ejected servers are acceptable: only when nobody else is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ejected {
    Avoid,
    Accept,
}

impl Wanted<'_> {
    fn accepts(&self, member: &Member) -> bool {
        member.is_usable(self.ejected)
            && !self.tried.contains(&member.server.address)
            && member.has_room(self.load)
    }
}

/// One balancer over one set of members (an upstream has one for its servers, one for backups).
pub enum Balancer {
    RoundRobin(Box<LoadBalancer<SmoothRoundRobin>>),
    LeastSessions(Vec<Arc<Member>>, least::Turn),
    TwoChoices(Vec<Arc<Member>>),
    ConsistentHash {
        ring: Box<LoadBalancer<Consistent>>,
        /// For empty keys, and for members that have no point on the ring.
        fallback: Box<LoadBalancer<SmoothRoundRobin>>,
        members: Vec<Arc<Member>>,
        load_bound: Option<f64>,
    },
}

impl Balancer {
    pub fn new(balance: &config::Balance, members: Vec<Arc<Member>>) -> Self {
        match balance {
            config::Balance::RoundRobin => Self::RoundRobin(load_balancer(&members)),
            config::Balance::LeastSessions => Self::LeastSessions(members, least::Turn::default()),
            config::Balance::TwoChoices => Self::TwoChoices(members),
            config::Balance::ConsistentHash { load_bound, .. } => Self::ConsistentHash {
                ring: load_balancer(&members),
                fallback: load_balancer(&members),
                members,
                load_bound: *load_bound,
            },
        }
    }

    pub fn pick(&self, wanted: &Wanted<'_>) -> Option<Lease> {
        match self {
            Self::RoundRobin(balancer) => select(balancer, b"", usize::MAX, wanted, |_| true),
            Self::LeastSessions(members, turn) => least::least_loaded(members, turn, wanted),
            Self::TwoChoices(members) => least::better_of_two(members, wanted),
            Self::ConsistentHash {
                ring,
                fallback,
                members,
                load_bound,
            } => {
                if wanted.key.is_empty() {
                    return select(fallback, b"", usize::MAX, wanted, |_| true);
                }
                let bound = load_bound.map(|bound| LoadBound::now(bound, members));
                let steps = RING_POINTS * members.iter().map(|m| m.weight as usize).sum::<usize>();
                select(ring, wanted.key, steps, wanted, |member| {
                    bound.as_ref().is_none_or(|bound| bound.allows(member))
                        && has_moved_in(wanted.key, member)
                })
                // Above the bound everywhere, or off the ring: any server beats none.
                .or_else(|| select(ring, wanted.key, steps, wanted, |_| true))
                .or_else(|| select(fallback, b"", usize::MAX, wanted, |_| true))
            }
        }
    }
}

/// While a server starts slowly its keys move to it one by one, each once: a key's hash says at
/// which part of the slow start it does.
fn has_moved_in(key: &[u8], member: &Member) -> bool {
    let warmth = member.warmth();
    warmth >= 1.0 || {
        let mut hasher = DefaultHasher::new();
        (key, member.server.address).hash(&mut hasher);
        hasher.finish() as f64 / u64::MAX as f64 <= warmth
    }
}

/// Points on the Ketama ring for a weight of 1.
const RING_POINTS: usize = 160;

/// "Consistent hashing with bounded loads" (Mirrokni, Thorup, Zadimoghaddam, 2016): no server
/// gets more than `bound` times its share of the load.
struct LoadBound {
    /// Load allowed for each unit of weight.
    per_weight: f64,
}

impl LoadBound {
    fn now(bound: f64, members: &[Arc<Member>]) -> Self {
        let healthy = members.iter().filter(|member| member.is_healthy());
        let (load, weight) = healthy.fold((0, 0), |(load, weight), member| {
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

/// A Pingora balancer over the members, each of which rides along in its backend's extensions.
fn load_balancer<S>(members: &[Arc<Member>]) -> Box<LoadBalancer<S>>
where
    S: BackendSelection + 'static,
    S::Iter: BackendIter,
{
    let backends = members.iter().map(|member| {
        let mut ext = Extensions::new();
        ext.insert(member.clone());
        Backend {
            addr: PeerAddress::Inet(member.server.address),
            weight: member.weight as usize,
            ext,
        }
    });
    let discovery = discovery::Static::new(backends.collect::<BTreeSet<_>>());
    let balancer = Box::new(LoadBalancer::from_backends(Backends::new(discovery)));
    balancer
        .update()
        .now_or_never()
        .and_then(Result::ok)
        .expect("a static set of backends is there at once and cannot fail");
    balancer
}

fn select<S>(
    balancer: &LoadBalancer<S>,
    key: &[u8],
    steps: usize,
    wanted: &Wanted<'_>,
    also: impl Fn(&Member) -> bool,
) -> Option<Lease>
where
    S: BackendSelection + 'static,
    S::Iter: BackendIter,
{
    let leased = Cell::new(None);
    balancer.select_with(key, steps, |backend, _| {
        let Some(member) = member_of(backend) else {
            return false;
        };
        if !wanted.accepts(member) || !also(member) {
            return false;
        }
        match member.lease(wanted.load) {
            Some(lease) => {
                leased.set(Some(lease));
                true
            }
            None => false,
        }
    });
    leased.take()
}

fn member_of(backend: &Backend) -> Option<&Arc<Member>> {
    backend.ext.get::<Arc<Member>>()
}

#[cfg(test)]
mod tests;
