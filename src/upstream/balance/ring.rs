//! Consistent hashing on a Ketama ring: a key belongs to the first server at or after its hash.
//!
//! Servers are offered in the order in which they follow the key on the ring, each once. Nearly
//! always one of the next few points belongs to a server that can be taken. If none does (most
//! servers are down, or one server has nearly the whole ring), the walk stops. Then each server is
//! asked for its own next point, and the nearest one is next. So a pick costs the same whatever the
//! weights are, and the order is still that of the ring.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::sync::Arc;

use pingora_load_balancing::Backend;
use pingora_load_balancing::selection::{BackendIter, BackendSelection};

use super::carried::{Roster, SelectionKey};
use super::points::{Point, points};

/// How many points are walked before servers are asked for their own points.
const WALK: usize = 32;

pub struct Ring {
    roster: Roster,
    points: Box<[Point]>,
    /// The points of each member separately, sorted.
    own: Box<[Box<[u32]>]>,
}

impl BackendSelection for Ring {
    type Iter = RingIter;
    type Config = ();

    fn build(backends: &BTreeSet<Backend>) -> Self {
        let roster = Roster::new(backends);
        let servers: Vec<_> = roster
            .members
            .iter()
            .map(|member| (member.server.address, member.weight))
            .collect();
        let points = points(&servers);
        let own = own_points(&points, servers.len());
        Self {
            roster,
            points,
            own,
        }
    }

    fn iter(self: &Arc<Self>, key: &[u8]) -> RingIter {
        let key = SelectionKey::from_bytes(key);
        RingIter {
            next: self.points.partition_point(|point| point.hash < key.hash),
            ring: self.clone(),
            key,
            walked: 0,
            visited: Visited::default(),
            others: None,
        }
    }
}

fn own_points(points: &[Point], members: usize) -> Box<[Box<[u32]>]> {
    let mut counts = vec![0; members];
    for point in points {
        counts[point.member as usize] += 1;
    }
    let mut own: Vec<_> = counts.into_iter().map(Vec::with_capacity).collect();
    for point in points {
        own[point.member as usize].push(point.hash);
    }
    own.into_iter().map(Vec::into_boxed_slice).collect()
}

impl Ring {
    /// The distance from `hash` to the next point of this member. A member that lost all its points
    /// to others is last.
    fn distance(&self, member: usize, hash: u32) -> u64 {
        let own = &self.own[member];
        let next = own.partition_point(|point| *point < hash);
        let next = own.get(next).or_else(|| own.first());
        next.map_or(u64::MAX, |next| u64::from(next.wrapping_sub(hash)))
    }
}

/// Offers each server that could be taken, once, in the order of the ring.
pub struct RingIter {
    ring: Arc<Ring>,
    key: SelectionKey,
    /// The index of the next point.
    next: usize,
    walked: usize,
    /// The members that the walk has visited, offered or not.
    visited: Visited,
    /// The other members that could be taken, the nearest on top. Made when the walk is over.
    others: Option<BinaryHeap<Reverse<(u64, usize)>>>,
}

impl RingIter {
    fn walk(&mut self) -> Option<usize> {
        let ring = &self.ring;
        while self.walked < WALK && self.visited.len < ring.roster.members.len() {
            // After the last point the first one follows.
            let point = ring.points.get(self.next).or(ring.points.first())?;
            self.next = (self.next + 1) % ring.points.len().max(1);
            self.walked += 1;
            let member = point.member as usize;
            if self.visited.insert(point.member) && ring.roster.admits(&self.key, member) {
                return Some(member);
            }
        }
        None
    }

    fn nearest_other(&mut self) -> Option<usize> {
        let (ring, key, visited) = (&self.ring, &self.key, &self.visited);
        let others = self.others.get_or_insert_with(|| {
            let others = ring.roster.candidates(key).map(|(number, _)| number);
            others
                .filter(|number| !visited.has(*number as u32))
                .map(|number| Reverse((ring.distance(number, key.hash), number)))
                .collect()
        });
        let Reverse((_, member)) = others.pop()?;
        Some(member)
    }
}

impl BackendIter for RingIter {
    fn next(&mut self) -> Option<&Backend> {
        let member = self.walk().or_else(|| self.nearest_other())?;
        Some(self.ring.roster.offer(member))
    }
}

/// The members that a walk has visited: so few that a linear search is fast.
#[derive(Default)]
struct Visited {
    members: [u32; WALK],
    len: usize,
}

impl Visited {
    fn has(&self, member: u32) -> bool {
        self.members[..self.len].contains(&member)
    }

    /// Returns false if the member was visited before.
    fn insert(&mut self, member: u32) -> bool {
        if self.has(member) {
            return false;
        }
        self.members[self.len] = member;
        self.len += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::carried::backends;
    use super::super::tests::{check, members};
    use super::*;
    use crate::upstream::server::{Ejected, Load, Member};
    use pingora_load_balancing::selection::Consistent;
    use proptest::prelude::*;
    use std::net::SocketAddr;

    fn key_of(key: &[u8]) -> SelectionKey {
        SelectionKey {
            load: Load::Session,
            ejected: Ejected::Avoid { now: 0 },
            paced: false,
            hash: crc32fast::hash(key),
            tried: Vec::new(),
        }
    }

    /// Everybody whom the ring offers, in order.
    fn offers(ring: &Arc<Ring>, key: &[u8]) -> Vec<SocketAddr> {
        let mut iter = key_of(key).with_bytes(|bytes| ring.iter(bytes));
        let mut offers = Vec::new();
        while let Some(offer) = iter.next() {
            offers.push(*offer.addr.as_inet().unwrap());
        }
        offers
    }

    /// What Pingora's own ring makes of the same: all members, in the order in which a walk over
    /// all of its points meets them.
    fn walked(members: &[Arc<Member>], keys: &[String]) -> Vec<Vec<SocketAddr>> {
        let ring = Arc::new(Consistent::build(&backends(members)));
        let walk = |key: &String| {
            let (mut iter, mut visited) = (ring.iter(key.as_bytes()), Vec::new());
            while visited.len() < members.len() {
                let address = *iter.next().unwrap().addr.as_inet().unwrap();
                if !visited.contains(&address) {
                    visited.push(address);
                }
            }
            visited
        };
        keys.iter().map(walk).collect()
    }

    fn ring(members: &[Arc<Member>]) -> Arc<Ring> {
        Arc::new(Ring::build(&backends(members)))
    }

    fn keys(count: usize) -> Vec<String> {
        (0..count).map(|n| format!("user-{n}")).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn keys_and_their_next_servers_are_those_of_pingora(
            weights in prop::collection::vec(1u32..=20, 0..20),
            seed in any::<u32>(),
        ) {
            // A weight of 1 among them: they are in their lowest terms.
            let weights: Vec<u32> = std::iter::once(1).chain(weights).collect();
            let members = members(&weights);
            let keys: Vec<_> = (0..20).map(|n| format!("{seed}-{n}")).collect();
            let ring = ring(&members);
            for (key, walked) in keys.iter().zip(walked(&members, &keys)) {
                prop_assert_eq!(offers(&ring, key.as_bytes()), walked);
            }
        }

        #[test]
        fn who_cannot_be_taken_is_left_out_and_nothing_else_changes(
            weights in prop::collection::vec(1u32..=5, 2..40),
            down in prop::collection::vec(any::<bool>(), 40),
        ) {
            let weights: Vec<u32> = std::iter::once(1).chain(weights).collect();
            let members = members(&weights);
            for (member, is_down) in members.iter().zip(down) {
                if is_down {
                    member.server.observe_check(false, &check());
                }
            }
            let keys = keys(20);
            let ring = ring(&members);
            for (key, mut walked) in keys.iter().zip(walked(&members, &keys)) {
                let is_up = |address: &SocketAddr| {
                    members.iter().any(|m| m.server.address == *address && m.is_healthy())
                };
                walked.retain(is_up);
                prop_assert_eq!(offers(&ring, key.as_bytes()), walked);
            }
        }
    }

    #[test]
    fn every_key_of_a_large_ring_is_where_pingora_has_it() {
        let members = members(&[100, 99, 98, 1, 50, 7, 13, 64]);
        let ring = ring(&members);
        let theirs = Arc::new(Consistent::build(&backends(&members)));
        for key in keys(50_000) {
            let ours = offers(&ring, key.as_bytes())[0];
            let mut iter = theirs.iter(key.as_bytes());
            assert_eq!(iter.next().unwrap().addr.as_inet(), Some(&ours), "{key}");
        }
    }

    /// Four bytes whose CRC-32 is this one.
    fn key_with_hash(hash: u32) -> [u8; 4] {
        let backwards = |register: u32, _| match register >> 31 {
            0 => register << 1,
            _ => ((register ^ 0xEDB8_8320) << 1) | 1,
        };
        let register = (0..32).fold(!hash, backwards);
        (!register).to_le_bytes()
    }

    #[test]
    fn a_place_that_two_servers_would_have_belongs_to_the_one_that_pingora_gives_it() {
        let members = members(&[1500, 1499, 1498]);
        let ring = ring(&members);
        let theirs = Arc::new(Consistent::build(&backends(&members)));
        // Places that are wanted twice: as many points as are missing from the ring.
        let mut wanted: Vec<u32> = members
            .iter()
            .flat_map(|member| {
                let count = member.weight as usize * 160;
                super::super::points::hashes(member.server.address).take(count)
            })
            .collect();
        wanted.sort_unstable();
        let twice: Vec<u32> = wanted
            .windows(2)
            .filter(|pair| pair[0] == pair[1])
            .map(|pair| pair[0])
            .collect();
        assert!(twice.len() > 10, "{} of {}", twice.len(), wanted.len());
        assert_eq!(ring.points.len() + twice.len(), wanted.len());
        for hash in twice {
            let key = key_with_hash(hash);
            assert_eq!(crc32fast::hash(&key), hash);
            let mut iter = theirs.iter(&key);
            let theirs = iter.next().unwrap().addr.as_inet().copied();
            assert_eq!(offers(&ring, &key).first().copied(), theirs);
        }
    }

    #[test]
    fn weights_that_share_a_divisor_have_the_ring_of_their_lowest_terms() {
        let (large, small) = (ring(&members(&[200, 100, 300])), ring(&members(&[2, 1, 3])));
        assert_eq!(large.points, small.points);
    }

    #[test]
    fn a_server_alone_and_no_server_at_all() {
        assert_eq!(offers(&ring(&members(&[7])), b"alice").len(), 1);
        assert!(offers(&ring(&[]), b"alice").is_empty());
    }

    #[test]
    fn a_small_server_is_found_behind_large_ones_that_are_down() {
        let members = members(&[65_535, 65_535, 65_535, 1]);
        let ring = ring(&members);
        assert!(ring.points.len() < (1 << 20) + 4);
        assert_eq!(offers(&ring, b"alice").len(), 4);
        for member in &members[..3] {
            member.server.observe_check(false, &check());
        }
        for key in keys(1000) {
            assert_eq!(offers(&ring, key.as_bytes()), [members[3].server.address]);
        }
    }
}
