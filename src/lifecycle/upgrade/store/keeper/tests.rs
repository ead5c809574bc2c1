//! Some stories, and every order of events for a few sessions.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

fn resting(sessions: &[u8]) -> Keeper<u8> {
    let mut keeper = Keeper::default();
    assert_eq!(keeper.on(Event::OthersEnded), [Action::Find]);
    for &key in sessions {
        assert_eq!(keeper.on(Event::Found(key)), [Action::Ask(key)]);
    }
    keeper
}

#[test]
fn it_stores_when_every_session_has_answered() {
    let mut keeper = resting(&[1, 2]);
    assert_eq!(keeper.on(Event::AtRest(1, 10)), []);
    assert_eq!(keeper.on(Event::Listed), []);
    assert_eq!(keeper.on(Event::Stays(2)), [Action::Store]);
    assert_eq!(keeper.on(Event::Stored(true)), [Action::Finish(true)]);
}

#[test]
fn without_sessions_there_are_still_listeners_to_store() {
    let mut keeper = resting(&[]);
    assert_eq!(keeper.on(Event::Listed), [Action::Store]);
}

#[test]
fn one_that_does_not_answer_is_left_behind() {
    let mut keeper = resting(&[1]);
    keeper.on(Event::Listed);
    assert_eq!(keeper.on(Event::TimeUp), [Action::Unask(1), Action::Store]);
    assert_eq!(keeper.on(Event::AtRest(1, 10)), [Action::TakeBack(10)]);
}

#[test]
fn what_systemd_does_not_take_stays_here() {
    let mut keeper = resting(&[]);
    keeper.on(Event::Listed);
    let back = [Action::GiveBack, Action::Finish(false)];
    assert_eq!(keeper.on(Event::Stored(false)), back);
    assert_eq!(Keeper::<u8>::default().on(Event::CalledOff), back);
}

/// The world around a keeper: where each session is.
#[derive(Debug, Default)]
struct World {
    here: BTreeSet<u8>,
    asked: BTreeSet<u8>,
    in_hand: BTreeMap<u64, u8>,
    kept: Option<bool>,
    must_list: bool,
    is_storing: bool,
}

impl World {
    fn act(&mut self, actions: Vec<Action<u8>>) {
        for action in actions {
            assert_eq!(self.kept, None, "{action:?} after the end");
            match action {
                Action::Find => self.must_list = true,
                Action::Ask(key) => assert!(self.asked.insert(key)),
                Action::Unask(key) => assert!(self.asked.remove(&key)),
                Action::TakeBack(number) => {
                    let key = self.in_hand.remove(&number).expect("it is in hand");
                    self.here.insert(key);
                }
                Action::Store => self.is_storing = true,
                Action::GiveBack => {
                    let given = std::mem::take(&mut self.in_hand);
                    self.here.extend(given.into_values());
                }
                Action::Finish(kept) => self.kept = Some(kept),
            }
        }
    }
}

proptest! {
    /// Whatever comes when: it ends, it stores at most once, and no session is lost.
    #[test]
    fn every_order_ends_with_each_session_in_one_place(
        choices in proptest::collection::vec((0u8..9, 0u8..3), 1..60),
        is_taken: bool,
    ) {
        let mut keeper = Keeper::default();
        let mut world = World { here: (0..3).collect(), ..World::default() };
        let mut stores = 0;
        let mut last = 0;
        for (choice, key) in choices {
            if world.kept.is_some() {
                break;
            }
            let actions = match choice {
                0 => keeper.on(Event::OthersEnded),
                1 if world.must_list => {
                    let mut actions: Vec<_> = (0..3).flat_map(|key| keeper.on(Event::Found(key))).collect();
                    world.must_list = false;
                    world.act(std::mem::take(&mut actions));
                    keeper.on(Event::Listed)
                }
                // The answer to a question may still be on its way when it is taken back.
                2..=4 if world.here.contains(&key) && (world.asked.remove(&key) || world.is_storing) => {
                    world.here.remove(&key);
                    last += 1;
                    world.in_hand.insert(last, key);
                    keeper.on(Event::AtRest(key, last))
                }
                5 if world.asked.remove(&key) => keeper.on(Event::Stays(key)),
                6 => keeper.on(Event::TimeUp),
                7 => keeper.on(Event::CalledOff),
                8 if world.is_storing => {
                    stores += 1;
                    keeper.on(Event::Stored(is_taken))
                }
                _ => Vec::new(),
            };
            world.act(actions);
            prop_assert_eq!(world.here.len() + world.in_hand.len(), 3);
        }
        prop_assert!(stores <= 1);
        if world.kept == Some(false) {
            prop_assert_eq!(world.here.len(), 3);
            prop_assert!(world.asked.is_empty());
        }
    }
}
