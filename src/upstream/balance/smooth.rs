//! Smooth weighted round robin, in nginx's order: weights 2 and 1 give a b a, not a a b.
//!
//! At each pick the credit of every server that could be taken grows by its weight. The server with
//! the most credit is picked, and pays the sum of all weights. Servers that are down or full, or
//! that the request has tried, take no part, so that the others keep an even rhythm.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use pingora_load_balancing::Backend;
use pingora_load_balancing::selection::{BackendIter, BackendSelection};

use super::carried::{Roster, SelectionKey};

pub struct SmoothRoundRobin {
    roster: Roster,
    /// In the order of the members. The sum is always zero.
    credit: Mutex<Box<[i64]>>,
}

impl BackendSelection for SmoothRoundRobin {
    type Iter = SmoothIter;
    type Config = ();

    fn build(backends: &BTreeSet<Backend>) -> Self {
        let roster = Roster::new(backends);
        let credit = Mutex::new(vec![0; roster.members.len()].into_boxed_slice());
        Self { roster, credit }
    }

    fn iter(self: &Arc<Self>, key: &[u8]) -> SmoothIter {
        SmoothIter {
            selection: self.clone(),
            key: SelectionKey::from_bytes(key),
            turn: None,
            others: None,
        }
    }
}

impl SmoothRoundRobin {
    /// The server whose turn it is. It has paid for it.
    fn next_turn(&self, key: &SelectionKey) -> Option<Turn> {
        let mut credit = self.credit();
        let (mut price, mut best) = (0, None);
        for (index, member) in self.roster.candidates(key) {
            let weight = member.weight_now() as i64;
            credit[index] += weight;
            price += weight;
            if best.is_none_or(|best| credit[index] > credit[best]) {
                best = Some(index);
            }
        }
        let first = best?;
        credit[first] -= price;
        Some(Turn {
            first,
            holder: first,
            price,
        })
    }

    /// The other servers that could be taken, the one with the most credit on top.
    fn others(&self, key: &SelectionKey, first: usize) -> BinaryHeap<(i64, Reverse<usize>)> {
        let credit = self.credit();
        let candidates = self.roster.candidates(key);
        candidates
            .filter(|(index, _)| *index != first)
            .map(|(index, _)| (credit[index], Reverse(index)))
            .collect()
    }

    /// Gives the turn to another server, which pays for it.
    fn pass_on(&self, turn: &mut Turn, to: usize) {
        let mut credit = self.credit();
        credit[turn.holder] += turn.price;
        credit[to] -= turn.price;
        turn.holder = to;
    }

    fn credit(&self) -> MutexGuard<'_, Box<[i64]>> {
        self.credit.lock()
    }
}

/// One pick's turn.
struct Turn {
    /// The server that had the turn at first.
    first: usize,
    /// The server that has paid for the turn.
    holder: usize,
    price: i64,
}

/// Offers each server that could be taken, once; the one whose turn it is comes first. A server
/// that is not taken gets back what it paid.
pub struct SmoothIter {
    selection: Arc<SmoothRoundRobin>,
    key: SelectionKey,
    turn: Option<Turn>,
    /// Made when the first offer was not taken, which is rare.
    others: Option<BinaryHeap<(i64, Reverse<usize>)>>,
}

impl BackendIter for SmoothIter {
    fn next(&mut self) -> Option<&Backend> {
        let selection = &self.selection;
        let Some(turn) = &mut self.turn else {
            let turn = self.turn.insert(selection.next_turn(&self.key)?);
            return Some(selection.roster.offer(turn.holder));
        };
        let others = self
            .others
            .get_or_insert_with(|| selection.others(&self.key, turn.first));
        match others.pop() {
            Some((_, Reverse(next))) => {
                selection.pass_on(turn, next);
                Some(selection.roster.offer(next))
            }
            None => {
                // No server was taken. The turn counts for the first one. If the payment were given
                // back, all credits would grow with each such pick, and later the servers with the
                // largest weights would have all turns for a while.
                selection.pass_on(turn, turn.first);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::carried::backends;
    use super::super::tests::members;
    use super::*;
    use crate::upstream::server::{Ejected, Load, Member};
    use proptest::prelude::*;

    const KEY: SelectionKey = SelectionKey {
        load: Load::Session,
        ejected: Ejected::Avoid { now: 0 },
        paced: false,
        hash: 0,
        tried: Vec::new(),
    };

    fn selection(members: &[Arc<Member>]) -> Arc<SmoothRoundRobin> {
        Arc::new(SmoothRoundRobin::build(&backends(members)))
    }

    /// The letter of the one that is offered.
    fn letter(offer: &Backend) -> char {
        let address = offer.addr.as_inet().unwrap();
        let last = address
            .ip()
            .to_string()
            .split('.')
            .next_back()
            .unwrap()
            .parse::<u8>();
        char::from(b'a' + last.unwrap() - 1)
    }

    fn order(weights: &[u32], picks: usize) -> String {
        let selection = selection(&members(weights));
        let first = |_| letter(selection.iter(&[]).next().unwrap());
        (0..picks).map(first).collect()
    }

    #[test]
    fn equal_weights_alternate() {
        assert_eq!(order(&[1, 1, 1], 6), "abcabc");
    }

    #[test]
    fn weights_are_spread_smoothly_and_not_in_blocks() {
        assert_eq!(order(&[2, 1], 6), "abaaba");
        assert_eq!(order(&[5, 1, 1], 7), "aabacaa");
    }

    #[test]
    fn the_iterator_offers_each_server_once() {
        let selection = selection(&members(&[1, 3, 2]));
        let mut iter = selection.iter(&[]);
        let mut seen = String::new();
        while let Some(offer) = iter.next() {
            seen.push(letter(offer));
        }
        assert_eq!(seen, "bca");
        assert!(iter.next().is_none());
    }

    /// Who has the next turns.
    fn turns(selection: &SmoothRoundRobin, key: &SelectionKey, number: usize) -> String {
        let turn = |_| {
            let turn = selection.next_turn(key).unwrap();
            letter(selection.roster.offer(turn.first))
        };
        (0..number).map(turn).collect()
    }

    #[test]
    fn a_full_server_has_no_turn_with_sessions_and_the_others_alternate() {
        let mut all = members(&[1, 1, 1]);
        Arc::get_mut(&mut all[1]).unwrap().max_sessions = Some(0);
        let selection = selection(&all);
        assert_eq!(turns(&selection, &KEY, 6), "acacac");
        let request = SelectionKey {
            load: Load::Request,
            ..KEY
        };
        assert_eq!(turns(&selection, &request, 3).matches('b').count(), 1);
    }

    #[test]
    fn a_server_that_always_fails_has_no_more_than_its_share_of_first_tries() {
        let selection = selection(&members(&[1, 1, 1]));
        let mut first_tries = String::new();
        for _ in 0..30 {
            let first = turns(&selection, &KEY, 1);
            if first == "a" {
                let again = SelectionKey {
                    tried: vec![0],
                    ..KEY
                };
                assert_ne!(turns(&selection, &again, 1), "a");
            }
            first_tries.push_str(&first);
        }
        assert_eq!(first_tries.matches('a').count(), 10, "{first_tries}");
    }

    #[test]
    fn who_is_not_taken_keeps_its_credit() {
        // The first one is passed over each time, as one that has become full in that moment.
        let selection = selection(&members(&[1, 1, 1]));
        let mut taken = String::new();
        for _ in 0..6 {
            let mut iter = selection.iter(&[]);
            let mut offer = iter.next();
            if offer.is_some_and(|offer| letter(offer) == 'a') {
                offer = iter.next();
            }
            taken.push(letter(offer.unwrap()));
        }
        assert_eq!(taken, "bcbcbc");
        assert_eq!(selection.credit().iter().sum::<i64>(), 0);
    }

    proptest! {
        #[test]
        fn in_each_cycle_everybody_is_first_as_often_as_its_weight_says(
            weights in prop::collection::vec(1u32..=9, 1..8),
        ) {
            let all = members(&weights);
            let selection = selection(&all);
            for _ in 0..3 {
                let mut turns = vec![0; weights.len()];
                for _ in 0..weights.iter().sum() {
                    turns[selection.next_turn(&KEY).unwrap().first] += 1;
                }
                prop_assert_eq!(&turns, &weights);
            }
        }

        #[test]
        fn whoever_is_passed_over_each_is_offered_once_and_no_credit_is_made_or_lost(
            weights in prop::collection::vec(1u32..=9, 1..8),
            passed_over in prop::collection::vec(0usize..10, 1..50),
        ) {
            let selection = selection(&members(&weights));
            for refusals in passed_over {
                let mut iter = selection.iter(&[]);
                let mut seen = BTreeSet::new();
                while let Some(offer) = iter.next() {
                    prop_assert!(seen.insert(letter(offer)));
                    if seen.len() > refusals {
                        break;
                    }
                }
                prop_assert_eq!(seen.len(), weights.len().min(refusals + 1));
                prop_assert_eq!(selection.credit().iter().sum::<i64>(), 0);
            }
        }
    }

    #[test]
    fn picks_that_find_nobody_leave_the_rhythm_as_it_was() {
        let selection = selection(&members(&[2, 1]));
        for _ in 0..1000 {
            let mut iter = selection.iter(&[]);
            while iter.next().is_some() {}
        }
        let picks = (0..6).map(|_| letter(selection.iter(&[]).next().unwrap()));
        let picks: String = picks.collect();
        assert_eq!(picks.matches('a').count(), 4, "{picks}");
        assert_eq!(selection.credit().iter().sum::<i64>(), 0);
    }
}
