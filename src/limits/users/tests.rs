use std::time::Duration;

use proptest::prelude::*;

use super::super::{Bounds, Permit};
use super::*;

fn bound(most: usize, newest_wins: bool) -> Option<UserBound> {
    Some(UserBound { most, newest_wins })
}

fn bounds(per_user: Option<UserBound>) -> Bounds {
    Bounds {
        per_user,
        ..Bounds::default()
    }
}

#[test]
fn a_user_has_as_many_as_the_bound_allows_and_nobody_is_not_counted() {
    let limiter = Arc::new(Limiter::default());
    let bounds = bounds(bound(2, false));
    let enter = |user: Option<&str>| limiter.enter_as(None, user, &bounds);
    let first = enter(Some("alice")).unwrap();
    let _second = enter(Some("alice")).unwrap();
    assert_eq!(enter(Some("alice")).unwrap_err(), Full::User);
    let _others = [Some("bob"), None, None, None].map(|user| enter(user).unwrap());
    assert_eq!(limiter.taken(), 6);
    assert_eq!(first.user().map(|user| &**user), Some("alice"));
    let mut counts = limiter.user_counts();
    counts.sort();
    assert_eq!(counts, [("alice".into(), 2), ("bob".into(), 1)]);
    drop(first);
    assert!(enter(Some("alice")).is_ok());
}

#[test]
fn a_refused_user_leaves_no_trace() {
    let limiter = Arc::new(Limiter::default());
    let none = bounds(bound(0, false));
    let refused = limiter.enter_as(None, Some("alice"), &none);
    assert_eq!(refused.unwrap_err(), Full::User);
    assert_eq!((limiter.taken(), limiter.user_counts().len()), (0, 0));
}

#[test]
fn the_oldest_makes_room_when_the_newest_has_begun_and_not_before() {
    let limiter = Arc::new(Limiter::default());
    let wins = bound(2, true);
    let begun = Instant::now();
    let open = |seconds: u64| {
        let permit = limiter.enter_as(None, Some("alice"), &bounds(wins));
        let mut permit = permit.unwrap();
        let id = Uuid::from_u128(seconds.into());
        let told = permit.begin(id, begun + Duration::from_secs(seconds), wins);
        (permit, told)
    };
    let (_first, told) = open(1);
    assert!(told.is_empty());
    let (second, told) = open(2);
    assert!(told.is_empty());
    // One that fails at its server.
    drop(limiter.enter_as(None, Some("alice"), &bounds(wins)));
    let (_third, told) = open(3);
    assert_eq!(told, [Uuid::from_u128(1)]);
    // The first is told, and still there. It takes nobody's place.
    drop(second);
    let (_fourth, told) = open(4);
    assert!(told.is_empty());
    assert_eq!(limiter.user_counts(), [("alice".into(), 3)]);
}

#[test]
fn after_a_move_the_oldest_is_the_one_that_began_first() {
    let limiter = Arc::new(Limiter::default());
    let wins = bound(2, true);
    let now = Instant::now();
    let mut permits = Vec::new();
    let mut told = Vec::new();
    for number in [5, 2, 9, 7] {
        let mut permit = limiter.adopt_user("alice");
        let since = now + Duration::from_secs(number);
        told.extend(permit.begin(Uuid::from_u128(number.into()), since, wins));
        permits.push(permit);
    }
    assert_eq!(told, [2, 5].map(Uuid::from_u128));
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Enter(u8),
    /// Of the permits that are there, the one at this position.
    Begin(usize),
    Drop(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0_u8..3).prop_map(Step::Enter),
        (0_usize..8).prop_map(Step::Begin),
        (0_usize..8).prop_map(Step::Drop),
    ]
}

proptest! {
    /// In any order of handshakes, beginnings and ends: the sessions of a user that were not told
    /// are never more than the bound, none is told without need, and it is always the oldest.
    #[test]
    fn the_bound_holds_and_nobody_is_told_without_need(steps in prop::collection::vec(step(), 0..60)) {
        const MOST: usize = 2;
        let limiter = Arc::new(Limiter::default());
        let (wins, start) = (bound(MOST, true), Instant::now());
        // User, permit, and the number of its session once that has begun.
        let mut there: Vec<(u8, Permit, Option<u64>)> = Vec::new();
        // User and number.
        let mut alive: Vec<(u8, u64)> = Vec::new();
        let mut last = 0;
        for step in steps {
            match step {
                Step::Enter(user) => {
                    let permit = limiter.enter_as(None, Some(&user.to_string()), &bounds(wins));
                    there.push((user, permit.unwrap(), None));
                }
                Step::Begin(position) => {
                    let Some((user, permit, number @ None)) = there.get_mut(position) else {
                        continue;
                    };
                    last += 1;
                    *number = Some(last);
                    let since = start + Duration::from_millis(last);
                    let told = permit.begin(Uuid::from_u128(last.into()), since, wins);
                    alive.push((*user, last));
                    let of_user = |alive: &[(u8, u64)]| {
                        alive.iter().filter(|one| one.0 == *user).count()
                    };
                    prop_assert_eq!(told.len(), of_user(&alive).saturating_sub(MOST));
                    for id in told {
                        let oldest = alive.iter().position(|one| one.0 == *user).unwrap();
                        let (_, number) = alive.remove(oldest);
                        prop_assert_eq!(id, Uuid::from_u128(number.into()));
                    }
                    prop_assert!(of_user(&alive) <= MOST);
                }
                Step::Drop(position) if position < there.len() => {
                    let (user, _, number) = there.remove(position);
                    alive.retain(|one| Some(one.1) != number || one.0 != user);
                }
                Step::Drop(_) => {}
            }
        }
        drop(there);
        prop_assert_eq!(limiter.taken(), 0);
        prop_assert_eq!(limiter.user_counts().len(), 0);
        let users = limiter.users();
        prop_assert!(users.shards.iter().all(|shard| shard.lock().begun.is_empty()));
    }
}
