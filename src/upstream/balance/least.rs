//! Balancing by live load: the least loaded server, or the less loaded of two random ones.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use rand::Rng;

use super::Wanted;
use crate::upstream::server::{Lease, Member};

/// Where the next scan begins, so that equally loaded servers take turns.
#[derive(Debug, Default)]
pub struct Turn(AtomicUsize);

/// The acceptable member with the least load for its weight.
pub fn least_loaded(members: &[Arc<Member>], turn: &Turn, wanted: &Wanted<'_>) -> Option<Lease> {
    if members.is_empty() {
        return None;
    }
    let start = turn.0.fetch_add(1, Relaxed) % members.len();
    loop {
        let (before, after) = members.split_at(start);
        let candidates = after
            .iter()
            .chain(before)
            .filter(|member| wanted.accepts(member));
        let (member, load) = candidates
            .map(|member| (member, member.server.load()))
            .reduce(|best, next| {
                if is_less_loaded(next, best) {
                    next
                } else {
                    best
                }
            })?;
        // If the load has changed since, the search is repeated. It ends because then another pick
        // has made progress.
        if let Some(lease) = member.lease_if_load_is(load, wanted.load) {
            return Some(lease);
        }
    }
}

/// "The power of two choices": of two members drawn by weight, the less loaded one serves.
pub fn better_of_two(members: &[Arc<Member>], wanted: &Wanted<'_>) -> Option<Lease> {
    let mut rng = rand::rng();
    loop {
        let first = draw(members, wanted, None, &mut rng)?;
        let second = draw(members, wanted, Some(first), &mut rng).unwrap_or(first);
        let (first, second) = ((first, first.server.load()), (second, second.server.load()));
        let (member, load) = if is_less_loaded(second, first) {
            second
        } else {
            first
        };
        if let Some(lease) = member.lease_if_load_is(load, wanted.load) {
            return Some(lease);
        }
    }
}

/// One acceptable member other than `except`, drawn with a probability proportional to its weight.
fn draw<'m>(
    members: &'m [Arc<Member>],
    wanted: &Wanted<'_>,
    except: Option<&Arc<Member>>,
    rng: &mut impl Rng,
) -> Option<&'m Arc<Member>> {
    let is_candidate = |member: &&Arc<Member>| {
        !except.is_some_and(|except| Arc::ptr_eq(except, member)) && wanted.accepts(member)
    };
    // Two passes over all members cost less than a list of candidates, or than a random number for
    // each.
    let candidates = || members.iter().filter(is_candidate);
    let total: u64 = candidates().map(|member| member.weight_now()).sum();
    if total == 0 {
        return None;
    }
    let mut remaining = rng.random_range(0..total);
    let mut drawn = None;
    for member in candidates() {
        drawn = Some(member);
        match remaining.checked_sub(member.weight_now()) {
            Some(rest) => remaining = rest,
            None => break,
        }
    }
    // If servers became full between the two passes, the last one that is not full is taken.
    drawn
}

/// Compares `load / weight` without dividing.
fn is_less_loaded(a: (&Arc<Member>, usize), b: (&Arc<Member>, usize)) -> bool {
    a.1 as u64 * b.0.weight_now() < b.1 as u64 * a.0.weight_now()
}
