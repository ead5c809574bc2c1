//! Tries every order of events in the model, and checks each state.

use std::collections::HashSet;

use super::super::old::Verdict;
use super::{Life, Step, World};

impl World {
    /// The conditions of every state.
    fn check(&self) {
        assert!(
            self.here.is_disjoint(&self.theirs),
            "read from by both: {self:#?}"
        );
    }

    /// The conditions of a state in which nothing more can happen without a fault.
    fn check_end(&self, sessions: u8) {
        for session in 0..sessions {
            let is_carried = self.old_life != Life::Dead && self.here.contains(&session)
                || self.new_life != Life::Dead && self.theirs.contains(&session);
            let is_over = self.ended.contains(&session) || self.fallen.contains(&session);
            assert!(is_carried || is_over, "nobody carries {session}: {self:#?}");
        }
        if self.old_life == Life::Runs && self.verdict == Some(Verdict::Failed) {
            let serves = self.new_life != Life::Dead && self.new_serves && !self.ends;
            assert!(!serves, "it must not serve beside us: {self:#?}");
        }
        if self.old_life == Life::Dead && self.new_life == Life::Runs && !self.gave_up {
            assert!(self.new_serves || self.ends, "nobody serves: {self:#?}");
        }
    }
}

/// Visits every reachable state. Sessions end by themselves only if `ends`.
fn explore(sessions: u8, window: usize, faults: u8, ends: bool, can_kill: bool) -> usize {
    let first = World::new(sessions, window, faults, can_kill);
    let mut seen = HashSet::from([first.clone()]);
    let mut rest = vec![first];
    while let Some(world) = rest.pop() {
        let mut is_end = true;
        for step in world.steps() {
            if matches!(step, Step::Ends(_)) && !ends {
                continue;
            }
            let next = world.after(step);
            next.check();
            // Whoever has read everything finds the link closed again and again.
            if next == world {
                continue;
            }
            is_end &= next.faults_left < world.faults_left || matches!(step, Step::Ends(_));
            if !seen.contains(&next) {
                seen.insert(next.clone());
                rest.push(next);
            }
        }
        if is_end {
            world.check_end(sessions);
        }
    }
    seen.len()
}

/// Sessions, window, faults, whether sessions end by themselves, and whether the old process can
/// kill the new one.
const WORLDS: [(u8, usize, u8, bool, bool); 7] = [
    (2, 1, 3, true, true),
    (2, 2, 3, true, true),
    (2, 2, 3, true, false),
    (3, 2, 2, false, true),
    (3, 2, 2, true, false),
    (3, 2, 3, true, true),
    (4, 2, 2, true, true),
];

#[test]
fn in_every_order_of_things_each_session_is_carried_by_exactly_one() {
    let mut states = 0;
    for (sessions, window, faults, ends, can_kill) in WORLDS {
        states += explore(sessions, window, faults, ends, can_kill);
    }
    println!("{states} states");
    assert!(states > 300_000, "{states}");
}
