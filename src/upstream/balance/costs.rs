//! What a pick costs in the states in which it could cost most. To see the figures:
//! `cargo test --release --lib pick_costs -- --nocapture`.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::tests::{check, consistent_hash, members, wanted};
use super::{Balancer, Wanted};
use crate::config::{self, Balance};
use crate::upstream::server::{Ejected, Lease, Load, Member};

/// No pick among four servers may take longer than this, whatever their states.
const BOUND: Duration = Duration::from_micros(10);

const EJECT: config::Eject = config::Eject {
    failures: 1,
    within: Duration::from_secs(3600),
    duration: Duration::from_secs(3600),
};

/// Brings the servers into a state.
type Prepare = fn(&mut [Arc<Member>]);

const STATES: [(&str, Prepare); 7] = [
    ("all can be used", |_| {}),
    ("all are down", down),
    ("all but one are down", |all| down(all_but_one(all))),
    ("all are full", full),
    ("all but one are full", |all| full(all_but_one(all))),
    ("all are ejected", eject),
    ("all but one are ejected", |all| eject(all_but_one(all))),
];

fn all_but_one(all: &mut [Arc<Member>]) -> &mut [Arc<Member>] {
    let but_one = all.len() - 1;
    &mut all[..but_one]
}

fn down(all: &mut [Arc<Member>]) {
    for member in all {
        member.server.observe_check(false, &check());
    }
}

fn full(all: &mut [Arc<Member>]) {
    for member in all {
        let member = Arc::get_mut(member).expect("nobody else has it yet");
        member.max_sessions = Some(0);
    }
}

fn eject(all: &mut [Arc<Member>]) {
    for member in all {
        member.server.record_failure(&EJECT);
    }
}

/// Picks as a group does.
fn pick(balancer: &Balancer, key: &str) -> Option<Lease> {
    let by = |ejected| {
        balancer.pick(&Wanted {
            load: Load::Session,
            ejected,
            ..wanted(key)
        })
    };
    [Ejected::avoid(), Ejected::Accept].into_iter().find_map(by)
}

/// The shortest of several rounds, because other programs use this machine too.
fn cost(balancer: &Balancer, keys: &[String]) -> Duration {
    let round = |_| {
        let began = Instant::now();
        for key in keys {
            drop(black_box(pick(balancer, key)));
        }
        began.elapsed() / keys.len() as u32
    };
    (0..5).map(round).min().unwrap_or_default()
}

#[test]
fn pick_costs_no_more_than_ten_microseconds_whatever_the_state() {
    let kinds = [
        ("round_robin", Balance::RoundRobin),
        ("least_sessions", Balance::LeastSessions),
        ("two_choices", Balance::TwoChoices),
        ("consistent_hash", consistent_hash(None)),
        ("consistent_hash, load_bound", consistent_hash(Some(1.25))),
    ];
    // Debug code takes a second to make the largest ring.
    let large = if cfg!(debug_assertions) { 1000 } else { 65_535 };
    let sizes = [
        ("4 servers, weight 1000 each", vec![1000; 4]),
        (
            "4 servers, large weights and 1",
            vec![large, large - 1, large - 2, 1],
        ),
        ("500 servers", vec![1; 500]),
    ];
    let keys: Vec<_> = (0..200).map(|n| format!("user-{n}")).collect();
    for (size, weights) in sizes {
        for (name, kind) in &kinds {
            for (state, prepare) in STATES {
                let mut all = members(&weights);
                prepare(&mut all);
                let began = Instant::now();
                let balancer = Balancer::new(kind, all, &Arc::default());
                let built = began.elapsed();
                let cost = cost(&balancer, &keys);
                println!("{size}, {name}, {state}: a pick {cost:.1?}, made in {built:.1?}");
                // Debug code is about twenty times slower. Many servers get a little more time.
                let slower = if cfg!(debug_assertions) { 20 } else { 1 };
                let bound = BOUND * slower * (1 + weights.len() as u32 / 100);
                assert!(cost < bound, "{size}, {name}, {state}: {cost:?}");
            }
        }
    }
}

#[test]
fn the_largest_ring_is_made_soon_and_is_small() {
    let weights: Vec<_> = (0..500).map(|n| 65_535 - n).collect();
    let all = members(&weights);
    let began = Instant::now();
    let balancer = Balancer::new(&consistent_hash(None), all, &Arc::default());
    println!(
        "a ring of 500 servers with weights of 65,000: {:.1?}",
        began.elapsed()
    );
    assert!(pick(&balancer, "alice").is_some());
    let bound = Duration::from_secs(if cfg!(debug_assertions) { 20 } else { 1 });
    assert!(began.elapsed() < bound);
}
