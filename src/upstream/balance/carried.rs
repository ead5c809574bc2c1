//! A selection of our own, carried by a Pingora `LoadBalancer`.
//!
//! Pingora gives a selection one key made of bytes, and clones and hashes each backend that the
//! selection offers. So all that a selection must know of a pick is packed into that key
//! ([`SelectionKey`]): then it skips servers that cannot be taken, and offers few. An offered
//! backend carries no extension, which would be a map on the heap: the member is found by its
//! address.

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

/// What a selection must know of a pick.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelectionKey {
    pub load: Load,
    pub ejected: Ejected,
    pub paced: bool,
    /// The hash of the request's key, or 0 without a key.
    pub hash: u32,
    /// The numbers of the members that the request has tried: few, nearly always none.
    pub tried: Vec<u32>,
}

impl SelectionKey {
    /// The length without `tried`.
    const HEAD: usize = 15;

    /// Encodes the key for Pingora. [`SelectionKey::from_bytes`] decodes it.
    pub fn with_bytes<T>(&self, then: impl FnOnce(&[u8]) -> T) -> T {
        let (avoids, now) = match self.ejected {
            Ejected::Avoid { now } => (true, now),
            Ejected::Accept => (false, 0),
        };
        let mut head = [0; Self::HEAD];
        head[0] = u8::from(self.load == Load::Session);
        head[1] = u8::from(avoids);
        head[2] = u8::from(self.paced);
        head[3..7].copy_from_slice(&self.hash.to_le_bytes());
        head[7..].copy_from_slice(&now.to_le_bytes());
        if self.tried.is_empty() {
            return then(&head);
        }
        let tried = self.tried.iter().flat_map(|number| number.to_le_bytes());
        let bytes: Vec<u8> = head.into_iter().chain(tried).collect();
        then(&bytes)
    }

    /// Only `with_bytes` makes such bytes. Any others count as a request without a key.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let (head, tried) = bytes.split_at_checked(Self::HEAD).unwrap_or_default();
        let head: [u8; Self::HEAD] = head.try_into().unwrap_or_default();
        let [load, avoids, paced, a, b, c, d, now @ ..] = head;
        let tried = tried
            .chunks_exact(4)
            .filter_map(|number| number.try_into().ok());
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
            paced: paced == 1,
            hash: u32::from_le_bytes([a, b, c, d]),
            tried: tried.map(u32::from_le_bytes).collect(),
        }
    }
}

/// The members of a selection in the order of their addresses, and the backend of each.
pub struct Roster {
    pub members: Box<[Arc<Member>]>,
    offers: Box<[Backend]>,
}

impl Roster {
    /// `backends` have their members as extensions.
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

    /// The members that this pick could take, with their numbers. The pick itself decides whether
    /// it takes one.
    pub fn candidates(&self, key: &SelectionKey) -> impl Iterator<Item = (usize, &Arc<Member>)> {
        let members = self.members.iter().enumerate();
        members.filter(|(number, _)| self.admits(key, *number))
    }

    pub fn admits(&self, key: &SelectionKey, member: usize) -> bool {
        let is_tried = key.tried.iter().any(|tried| *tried as usize == member);
        let member = &self.members[member];
        let is_paced_out = key.paced && member.server.pace.is_full();
        !is_tried && !is_paced_out && member.is_usable(key.ejected) && member.has_room(key.load)
    }
}

/// A balancer over a set of members.
pub struct MemberBalancer<S: BackendSelection> {
    balancer: LoadBalancer<S>,
    /// In the order of their addresses.
    members: Box<[Arc<Member>]>,
}

impl<S> MemberBalancer<S>
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

    /// The lease of the first member, in the selection's order, for which `lease` returns one.
    /// `hash`: the hash of the request's key.
    pub fn select(
        &self,
        wanted: &Wanted<'_>,
        hash: u32,
        lease: impl Fn(&Arc<Member>) -> Option<Lease>,
    ) -> Option<Lease> {
        let tried = wanted.tried.iter().filter_map(|tried| self.number(*tried));
        let key = SelectionKey {
            load: wanted.load,
            ejected: wanted.ejected,
            paced: wanted.paced,
            hash,
            tried: tried.map(|number| number as u32).collect(),
        };
        let granted = Cell::new(None);
        // A selection offers each member once, so more steps are never needed.
        let steps = self.members.len();
        let accept = |backend: &Backend, _| {
            let member = backend.addr.as_inet().and_then(|addr| self.member(*addr));
            let found = member.and_then(&lease);
            let is_granted = found.is_some();
            granted.set(found);
            is_granted
        };
        key.with_bytes(|bytes| self.balancer.select_with(bytes, steps, accept));
        granted.take()
    }

    pub fn member(&self, address: SocketAddr) -> Option<&Arc<Member>> {
        self.number(address).map(|number| &self.members[number])
    }

    /// Members have the same numbers here and in the roster.
    fn number(&self, address: SocketAddr) -> Option<usize> {
        let found = self
            .members
            .binary_search_by_key(&address, |member| member.server.address);
        found.ok()
    }

    pub fn members(&self) -> &[Arc<Member>] {
        &self.members
    }
}

/// Each backend has its member as an extension, for the [`Roster`].
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
                for (hash, tried) in [(0, vec![]), (0xDEAD_BEEF, vec![7]), (1, vec![499, 0, 2])] {
                    let key = SelectionKey {
                        load,
                        ejected,
                        paced: hash == 1,
                        hash,
                        tried,
                    };
                    assert_eq!(key.with_bytes(SelectionKey::from_bytes), key);
                }
            }
        }
    }
}
