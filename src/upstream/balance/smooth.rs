//! Smooth weighted round robin, as nginx orders it: weights 2 and 1 give a b a, not a a b.
//!
//! At each pick every usable server's credit grows by its weight; the one with the most is
//! picked and pays the sum of all weights. Servers that are down take no part, so that those
//! which are left keep an even rhythm.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use pingora_load_balancing::Backend;
use pingora_load_balancing::selection::{BackendIter, BackendSelection};

use super::{Ejected, member_of};

pub struct SmoothRoundRobin {
    backends: Box<[Backend]>,
    credit: Mutex<Box<[i64]>>,
}

impl BackendSelection for SmoothRoundRobin {
    type Iter = SmoothIter;
    type Config = ();

    fn build(backends: &BTreeSet<Backend>) -> Self {
        let backends: Box<[Backend]> = backends.iter().cloned().collect();
        let credit = Mutex::new(vec![0; backends.len()].into_boxed_slice());
        Self { backends, credit }
    }

    fn iter(self: &Arc<Self>, _key: &[u8]) -> SmoothIter {
        SmoothIter {
            selection: self.clone(),
            offered: Vec::new(),
        }
    }
}

impl SmoothRoundRobin {
    fn next_of(&self, offered: &[usize]) -> Option<usize> {
        // Ejected servers come last: only a caller who found nobody else takes one.
        [Ejected::Avoid, Ejected::Accept]
            .into_iter()
            .find_map(|ejected| self.next_with(offered, ejected))
    }

    fn next_with(&self, offered: &[usize], ejected: Ejected) -> Option<usize> {
        let mut credit = self.credit.lock().unwrap_or_else(PoisonError::into_inner);
        let mut total = 0;
        let mut best: Option<usize> = None;
        for (index, backend) in self.backends.iter().enumerate() {
            let weight = match member_of(backend) {
                Some(member) if !member.is_usable(ejected) => continue,
                Some(member) => member.weight_now() as i64,
                None => backend.weight as i64,
            };
            if offered.contains(&index) {
                continue;
            }
            credit[index] += weight;
            total += weight;
            if best.is_none_or(|best| credit[index] > credit[best]) {
                best = Some(index);
            }
        }
        let best = best?;
        credit[best] -= total;
        Some(best)
    }
}

/// Offers each usable server once, the one whose turn it is first.
pub struct SmoothIter {
    selection: Arc<SmoothRoundRobin>,
    offered: Vec<usize>,
}

impl BackendIter for SmoothIter {
    fn next(&mut self) -> Option<&Backend> {
        let next = self.selection.next_of(&self.offered)?;
        self.offered.push(next);
        Some(&self.selection.backends[next])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(weights: &[usize], picks: usize) -> String {
        let backends = weights.iter().enumerate().map(|(index, weight)| {
            Backend::new_with_weight(&format!("127.0.0.1:{}", 9000 + index), *weight).unwrap()
        });
        let selection = Arc::new(SmoothRoundRobin::build(&backends.collect()));
        (0..picks)
            .map(|_| {
                let mut iter = selection.iter(b"");
                let port = iter.next().unwrap().addr.as_inet().unwrap().port();
                char::from(b'a' + (port - 9000) as u8)
            })
            .collect()
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
        let backends = (0..3).map(|n| Backend::new(&format!("127.0.0.1:900{n}")).unwrap());
        let selection = Arc::new(SmoothRoundRobin::build(&backends.collect()));
        let mut iter = selection.iter(b"");
        let mut seen = BTreeSet::new();
        while let Some(backend) = iter.next() {
            assert!(seen.insert(backend.clone()));
        }
        assert_eq!(seen.len(), 3);
    }
}
