//! The points of a Ketama ring: where on it each server has its points, and how many. Pure.
//!
//! The points are those of Pingora's `Consistent` and of nginx's `hash … consistent`, so that a
//! key has the same server behind each of them. Only the number of a server's points may differ:
//! weights are divided by their common divisor, and a ring has about [`MAX_POINTS`] at most.

use std::io::Write;
use std::net::SocketAddr;

use crc32fast::Hasher;

/// How many points a weight of 1 has.
const POINTS: u64 = 160;

/// The most points of one ring: 12 MiB of memory, and some tens of milliseconds to make it.
///
/// A total weight of up to 6,553 stays below. Above it each server has its share of this number,
/// and at least one point. The points of a server are always the first ones of one endless
/// sequence. So when a server comes or goes and the shares of the others change, each of them gains
/// or loses a few points, and about twice as many keys move as necessary.
const MAX_POINTS: u64 = 1 << 20;

/// A position on the ring, and the number of its member. Not `Copy`, because Pingora's type is not:
/// the standard library sorts `Copy` types in another way, which would swap points of one hash.
#[derive(Debug, PartialEq, Eq)]
pub struct Point {
    pub member: u32,
    pub hash: u32,
}

/// All points, sorted by their hashes. A member's number is its index in `servers`, each of which
/// is an address and a weight.
pub fn points(servers: &[(SocketAddr, u32)]) -> Box<[Point]> {
    let weights: Vec<u32> = servers.iter().map(|(_, weight)| *weight).collect();
    let counts = counts(&weights);
    let mut points = Vec::with_capacity(counts.iter().sum());
    for (member, ((address, _), count)) in (0..).zip(servers.iter().zip(counts)) {
        let hashes = hashes(*address).take(count);
        points.extend(hashes.map(|hash| Point { member, hash }));
    }
    // Two members may have the same hash (with 1,000 servers of weight 1 about three times). Which
    // one keeps it depends on the sort. Pingora uses this sort too, so the result is the same.
    points.sort_unstable_by_key(|point| point.hash);
    points.dedup_by_key(|point| point.hash);
    points.into_boxed_slice()
}

/// How many points each server has.
fn counts(weights: &[u32]) -> Vec<usize> {
    let divisor = u64::from(weights.iter().copied().fold(0, common_divisor).max(1));
    let wanted = |weight: &u32| u64::from(*weight) / divisor * POINTS;
    let total: u64 = weights.iter().map(wanted).sum();
    let granted = |wanted: u64| match total <= MAX_POINTS {
        true => wanted,
        false => (wanted * MAX_POINTS / total).max(1),
    };
    weights
        .iter()
        .map(|weight| granted(wanted(weight)) as usize)
        .collect()
}

fn common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { common_divisor(b, a % b) }
}

/// The positions of one server, without an end. Each is the checksum of the server's name and of
/// the position before, as nginx computes it.
pub fn hashes(address: SocketAddr) -> impl Iterator<Item = u32> {
    let mut name = Vec::with_capacity(48);
    // Writing to memory cannot fail.
    let _ = write!(name, "{}\0{}", address.ip(), address.port());
    let mut of_name = Hasher::new();
    of_name.update(&name);
    let mut last = 0u32;
    std::iter::repeat_with(move || {
        let mut hasher = of_name.clone();
        hasher.update(&last.to_le_bytes());
        last = hasher.finalize();
        last
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn weights_are_taken_in_their_lowest_terms() {
        assert_eq!(counts(&[1, 1, 1]), [160, 160, 160]);
        assert_eq!(counts(&[1000, 1000]), [160, 160]);
        assert_eq!(counts(&[65_535; 4]), [160; 4]);
        assert_eq!(counts(&[4, 6, 10]), [320, 480, 800]);
        assert_eq!(counts(&[7]), [160]);
        assert!(counts(&[]).is_empty());
    }

    #[test]
    fn a_ring_that_would_be_too_large_keeps_the_shares() {
        let counts = counts(&[65_535, 1]);
        assert_eq!(counts, [65_535 * 16, 16]);
        // A share too small for a point has one all the same.
        let mut weights = vec![65_535; 100];
        weights[0] = 1;
        let points = points_of(&weights);
        assert_eq!(points[0], 1);
        assert!(points[1..].iter().all(|count| *count == points[1]));
        assert!(points.iter().sum::<usize>() <= MAX_POINTS as usize + weights.len());
    }

    fn points_of(weights: &[u32]) -> Vec<usize> {
        counts(weights)
    }

    proptest! {
        #[test]
        fn no_ring_is_larger_than_it_may_be(weights in prop::collection::vec(1u32..=65_535, 1..200)) {
            let counts = counts(&weights);
            prop_assert!(counts.iter().all(|count| *count >= 1));
            prop_assert!(counts.iter().sum::<usize>() <= MAX_POINTS as usize + weights.len());
        }
    }
}
