//! The four ways to choose the next server.
//!
//! Round robin and consistent hashing are selections of our own ([`smooth`], [`ring`]), each
//! carried by a Pingora `LoadBalancer` ([`carried`]); `least_sessions` and `two_choices` read the
//! live counts. All of them hand out a [`Lease`], counted before anything is dialled: two picks in
//! the same instant must not both see the same minimum.

mod carried;
#[cfg(test)]
mod costs;
mod hashing;
mod least;
mod points;
mod ring;
mod smooth;

use std::net::SocketAddr;
use std::sync::Arc;

use super::keys_in_use::KeysInUse;
use super::server::{Ejected, Lease, Load, Member};
use crate::config;
use carried::MemberBalancer;
use hashing::ConsistentHash;
use smooth::SmoothRoundRobin;

/// What a pick must respect.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    pub load: Load,
    /// The rendered hash key. Empty: no preference.
    pub key: &'a [u8],
    /// Servers that this request has tried.
    pub tried: &'a [SocketAddr],
    pub ejected: Ejected,
    /// Avoids servers that have as many handshakes as they get at once.
    pub paced: bool,
}

impl Wanted<'_> {
    fn accepts(&self, member: &Member) -> bool {
        member.is_usable(self.ejected)
            && member.has_room(self.load)
            && !(self.paced && member.server.pace.is_full())
            && !self.tried.contains(&member.server.address)
    }

    /// A lease of this member, if the pick may take it.
    fn lease(&self, member: &Member) -> Option<Lease> {
        if self.accepts(member) {
            member.lease(self.load)
        } else {
            None
        }
    }
}

/// One balancer over one set of members (an upstream has one for its servers, one for backups).
pub enum Balancer {
    RoundRobin(Box<MemberBalancer<SmoothRoundRobin>>),
    LeastSessions(Vec<Arc<Member>>, least::Turn),
    TwoChoices(Vec<Arc<Member>>),
    ConsistentHash(ConsistentHash),
}

impl Balancer {
    pub fn new(
        balance: &config::Balance,
        members: Vec<Arc<Member>>,
        keys: &Arc<KeysInUse>,
    ) -> Self {
        match balance {
            config::Balance::RoundRobin => Self::RoundRobin(MemberBalancer::new(&members)),
            config::Balance::LeastSessions => Self::LeastSessions(members, least::Turn::default()),
            config::Balance::TwoChoices => Self::TwoChoices(members),
            config::Balance::ConsistentHash { load_bound, .. } => {
                Self::ConsistentHash(ConsistentHash::new(&members, *load_bound, keys))
            }
        }
    }

    /// Whether a pick could take one of these servers.
    pub fn has(&self, wanted: &Wanted<'_>) -> bool {
        let members = match self {
            Self::RoundRobin(balancer) => balancer.members(),
            Self::LeastSessions(members, _) | Self::TwoChoices(members) => members,
            Self::ConsistentHash(balancer) => balancer.members(),
        };
        members.iter().any(|member| wanted.accepts(member))
    }

    pub fn pick(&self, wanted: &Wanted<'_>) -> Option<Lease> {
        match self {
            Self::RoundRobin(balancer) => balancer.in_turn(wanted),
            Self::LeastSessions(members, turn) => least::least_loaded(members, turn, wanted),
            Self::TwoChoices(members) => least::better_of_two(members, wanted),
            Self::ConsistentHash(balancer) => balancer.pick(wanted),
        }
    }
}

impl MemberBalancer<SmoothRoundRobin> {
    fn in_turn(&self, wanted: &Wanted<'_>) -> Option<Lease> {
        self.select(wanted, 0, |member| wanted.lease(member))
    }
}

#[cfg(test)]
mod tests;
