//! A selection of ours, carried by a Pingora `LoadBalancer`.
//!
//! Pingora hands a selection one key made of bytes, and clones and hashes each backend that the
//! selection offers. So what a selection has to know of a pick is packed into that key
//! ([`SelectionKey`]): it passes over whom nobody could take, and offers few. And what it offers
//! carries no extension, which would be a map on the heap: the member is found by the address.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::FutureExt;
use http::Extensions;
use pingora::protocols::l4::socket::SocketAddr as PeerAddress;
use pingora_load_balancing::selection::{BackendIter, BackendSelection};
use pingora_load_balancing::{Backend, Backends, LoadBalancer, discovery};

use super::Wanted;
use crate::upstream::server::{Ejected, Lease, Load, Member};

/// What a selection is told of a pick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SelectionKey {
    pub load: Load,
    pub ejected: Ejected,
    /// Of the request's key; 0 where there is none.
    pub hash: u32,
}

impl SelectionKey {
    const LENGTH: usize = 14;

    pub fn of(wanted: &Wanted<'_>, hash: u32) -> Self {
        Self {
            load: wanted.load,
            ejected: wanted.ejected,
            hash,
        }
    }

    /// Whether this member can be offered. Whether it is taken is for the pick to say.
    pub fn admits(self, member: &Member) -> bool {
        member.is_usable(self.ejected) && member.has_room(self.load)
    }

    pub fn to_bytes(self) -> [u8; Self::LENGTH] {
        let (avoids, now) = match self.ejected {
            Ejected::Avoid { now } => (true, now),
            Ejected::Accept => (false, 0),
        };
        let mut bytes = [0; Self::LENGTH];
        bytes[0] = u8::from(self.load == Load::Session);
        bytes[1] = u8::from(avoids);
        bytes[2..6].copy_from_slice(&self.hash.to_le_bytes());
        bytes[6..].copy_from_slice(&now.to_le_bytes());
        bytes
    }

    /// Of what [`SelectionKey::to_bytes`] made. There is no other caller: anything else is a
    /// request without a key.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let bytes: [u8; Self::LENGTH] = bytes.try_into().unwrap_or_default();
        let [load, avoids, a, b, c, d, now @ ..] = bytes;
        Self {
            load: match load {
                0 => Load::Request,
                _ => Load::Session,
            },
            ejected: match avoids {
                0 => Ejected::Accept,
                _ => Ejected::Avoid {
                    now: u64::from_le_bytes(now),
                },
            },
            hash: u32::from_le_bytes([a, b, c, d]),
        }
    }
}

/// The members of a selection in the order of their addresses, and what it offers for each.
pub struct Roster {
    pub members: Box<[Arc<Member>]>,
    offers: Box<[Backend]>,
}

impl Roster {
    /// Of backends that have their members as extensions.
    pub fn new(backends: &BTreeSet<Backend>) -> Self {
        let members: Box<[Arc<Member>]> = backends
            .iter()
            .filter_map(|backend| backend.ext.get::<Arc<Member>>().cloned())
            .collect();
        let offers = members
            .iter()
            .map(|member| backend(member, Extensions::new()))
            .collect();
        Self { members, offers }
    }

    pub fn offer(&self, member: usize) -> &Backend {
        &self.offers[member]
    }
}

/// A balancer over some members.
pub struct Carried<S: BackendSelection> {
    balancer: LoadBalancer<S>,
    /// In the order of their addresses.
    members: Box<[Arc<Member>]>,
}

impl<S> Carried<S>
where
    S: BackendSelection + 'static,
    S::Iter: BackendIter,
{
    pub fn new(members: &[Arc<Member>]) -> Box<Self> {
        let mut members: Box<[Arc<Member>]> = members.into();
        members.sort_by_key(|member| member.server.address);
        let discovery = discovery::Static::new(backends(&members));
        let balancer = LoadBalancer::from_backends(Backends::new(discovery));
        balancer
            .update()
            .now_or_never()
            .and_then(Result::ok)
            .expect("a static set of backends is there at once and cannot fail");
        Box::new(Self { balancer, members })
    }

    /// A lease of the first member, in the order of the selection, that `lease` grants one of.
    pub fn select(
        &self,
        key: SelectionKey,
        lease: impl Fn(&Arc<Member>) -> Option<Lease>,
    ) -> Option<Lease> {
        let granted = Cell::new(None);
        // A selection offers each member once: so many steps are enough.
        let steps = self.members.len();
        self.balancer
            .select_with(&key.to_bytes(), steps, |backend, _| {
                let member = backend.addr.as_inet().and_then(|addr| self.member(*addr));
                let found = member.and_then(&lease);
                let is_granted = found.is_some();
                granted.set(found);
                is_granted
            });
        granted.take()
    }

    pub fn member(&self, address: SocketAddr) -> Option<&Arc<Member>> {
        let found = self
            .members
            .binary_search_by_key(&address, |member| member.server.address);
        found.ok().map(|at| &self.members[at])
    }

    pub fn members(&self) -> &[Arc<Member>] {
        &self.members
    }
}

/// Each has its member as an extension, for the [`Roster`].
pub fn backends(members: &[Arc<Member>]) -> BTreeSet<Backend> {
    let carrying = members.iter().map(|member| {
        let mut ext = Extensions::new();
        ext.insert(member.clone());
        backend(member, ext)
    });
    carrying.collect()
}

fn backend(member: &Member, ext: Extensions) -> Backend {
    Backend {
        addr: PeerAddress::Inet(member.server.address),
        weight: member.weight as usize,
        ext,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selection_is_told_what_the_pick_knows() {
        for load in [Load::Request, Load::Session] {
            for ejected in [Ejected::Avoid { now: 7 << 40 }, Ejected::Accept] {
                for hash in [0, 1, 0xDEAD_BEEF, u32::MAX] {
                    let key = SelectionKey {
                        load,
                        ejected,
                        hash,
                    };
                    assert_eq!(SelectionKey::from_bytes(&key.to_bytes()), key);
                }
            }
        }
    }
}
