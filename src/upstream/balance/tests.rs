use std::collections::HashMap;
use std::time::Duration;

use super::*;
use crate::forward::template::Template;
use crate::upstream::server::Server;

fn members(weights: &[u32]) -> Vec<Arc<Member>> {
    let member = |(index, weight): (usize, &u32)| {
        Arc::new(Member {
            server: Arc::new(Server::new(([10, 0, 0, index as u8 + 1], 9080).into())),
            weight: *weight,
            max_sessions: None,
            backup: false,
            slow_start: Duration::ZERO,
            checked: true,
            ejectable: true,
        })
    };
    weights.iter().enumerate().map(member).collect()
}

fn consistent_hash(load_bound: Option<f64>) -> config::Balance {
    let key = Template::parse("$arg_userId").expect("a known variable");
    config::Balance::ConsistentHash { key, load_bound }
}

fn wanted(key: &str) -> Wanted<'_> {
    Wanted {
        load: Load::Session,
        key: key.as_bytes(),
        tried: &[],
        ejected: Ejected::Avoid,
    }
}

/// Which server each of many keys goes to. Nothing is kept: the load stays zero.
fn placement(members: &[Arc<Member>]) -> HashMap<String, SocketAddr> {
    let balancer = Balancer::new(&consistent_hash(None), members.to_vec());
    (0..20_000)
        .map(|n| {
            let key = format!("user-{n}");
            let server = balancer
                .pick(&wanted(&key))
                .expect("a server is there")
                .server()
                .address;
            (key, server)
        })
        .collect()
}

#[test]
fn removing_a_server_moves_only_its_own_keys() {
    for weights in [[1, 1, 1, 1, 1], [1, 2, 3, 1, 2]] {
        let all = members(&weights);
        let before = placement(&all);
        let gone = all[2].server.address;
        let left: Vec<_> = all
            .into_iter()
            .filter(|m| m.server.address != gone)
            .collect();
        let after = placement(&left);
        for (key, server) in &before {
            assert!(
                *server == gone || after[key] == *server,
                "{key} moved, weights {weights:?}"
            );
        }
    }
}

#[test]
fn adding_a_server_moves_at_most_its_share_of_the_keys_and_a_third() {
    for n in [1, 2, 4, 9] {
        let all = members(&vec![1; n + 1]);
        let before = placement(&all[..n]);
        let after = placement(&all);
        let moved = before
            .iter()
            .filter(|(key, server)| after[*key] != **server)
            .count();
        let share = moved as f64 / before.len() as f64;
        assert!(
            share <= 1.3 / (n + 1) as f64,
            "{share} of the keys moved to server {}",
            n + 1
        );
        assert!(moved > 0);
    }
}

#[test]
fn a_key_of_a_server_that_is_down_comes_back_with_it() {
    let check = config::HealthCheck {
        kind: config::HealthCheckKind::Tcp,
        interval: Duration::from_secs(1),
        timeout: Duration::from_secs(1),
        rise: 1,
        fall: 1,
    };
    let all = members(&[1, 1, 1]);
    let balancer = Balancer::new(&consistent_hash(None), all.clone());
    let home = |key: &str| {
        balancer
            .pick(&wanted(key))
            .map(|lease| lease.server().clone())
    };
    let first = home("alice").expect("a server is there");
    first.observe_check(false, &check);
    let second = home("alice").expect("two servers are left");
    assert_ne!(first.address, second.address);
    first.observe_check(true, &check);
    assert_eq!(home("alice").expect("all are back").address, first.address);
}

#[test]
fn keys_move_to_a_server_that_starts_slowly_one_by_one() {
    let mut all = members(&[1, 1]);
    let settled = placement(&all);
    let late = Arc::get_mut(&mut all[1]).expect("nobody else has it yet");
    late.slow_start = Duration::from_secs(3600);
    let address = late.server.address;
    late.server.start_slowly();
    let starting = placement(&all);
    let moved_in = starting
        .values()
        .filter(|server| **server == address)
        .count();
    let at_last = settled
        .values()
        .filter(|server| **server == address)
        .count();
    let part = moved_in as f64 / at_last as f64;
    assert!(
        (0.08..0.12).contains(&part),
        "{part} of its keys in the first moment"
    );
    assert!(
        starting
            .iter()
            .all(|(key, server)| *server != address || settled[key] == address)
    );
}

#[test]
fn an_empty_key_falls_back_to_round_robin() {
    let balancer = Balancer::new(&consistent_hash(None), members(&[1, 1]));
    let picked: Vec<_> = (0..4)
        .filter_map(|_| balancer.pick(&wanted("")))
        .map(|l| l.server().address)
        .collect();
    assert_eq!(picked[0], picked[2]);
    assert_ne!(picked[0], picked[1]);
}

#[test]
fn a_load_bound_sends_the_overflow_of_a_hot_key_elsewhere() {
    let all = members(&[1, 1, 1, 1]);
    let balancer = Balancer::new(&consistent_hash(Some(1.25)), all.clone());
    let leases: Vec<_> = (0..100)
        .filter_map(|_| balancer.pick(&wanted("hot")))
        .collect();
    assert_eq!(leases.len(), 100);
    let most = all.iter().map(|member| member.server.load()).max();
    assert!(
        most <= Some(32),
        "{most:?} sessions of 100 on one of four servers, bound 1.25"
    );
}

#[test]
fn least_sessions_fills_servers_by_their_weight() {
    let all = members(&[1, 3]);
    let balancer = Balancer::new(&config::Balance::LeastSessions, all.clone());
    let leases: Vec<_> = (0..40).filter_map(|_| balancer.pick(&wanted(""))).collect();
    assert_eq!(leases.len(), 40);
    assert_eq!((all[0].server.load(), all[1].server.load()), (10, 30));
}

#[test]
fn least_sessions_counts_right_when_many_threads_pick_at_once() {
    let all = members(&[1; 8]);
    let balancer = Balancer::new(&config::Balance::LeastSessions, all.clone());
    let leases: Vec<_> = std::thread::scope(|scope| {
        let pick = || {
            (0..100)
                .filter_map(|_| balancer.pick(&wanted("")))
                .collect::<Vec<_>>()
        };
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(pick)).collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().expect("no panic"))
            .collect()
    });
    assert_eq!(leases.len(), 800);
    for member in &all {
        assert_eq!(member.server.load(), 100, "{}", member.server.address);
    }
}

#[test]
fn two_choices_spreads_evenly_enough() {
    let all = members(&[1; 10]);
    let balancer = Balancer::new(&config::Balance::TwoChoices, all.clone());
    let leases: Vec<_> = (0..1000)
        .filter_map(|_| balancer.pick(&wanted("")))
        .collect();
    assert_eq!(leases.len(), 1000);
    for member in &all {
        let load = member.server.load();
        assert!(
            (90..=110).contains(&load),
            "{load} of 1000 sessions on one of ten servers"
        );
    }
}

#[test]
fn no_balancer_returns_a_server_that_was_tried() {
    let kinds = [
        config::Balance::RoundRobin,
        config::Balance::LeastSessions,
        config::Balance::TwoChoices,
        consistent_hash(Some(1.25)),
    ];
    for kind in kinds {
        let all = members(&[1, 5]);
        let balancer = Balancer::new(&kind, all.clone());
        let tried = [all[1].server.address];
        for n in 0..50 {
            let key = format!("user-{n}");
            let lease = balancer.pick(&Wanted {
                tried: &tried,
                ..wanted(&key)
            });
            assert_eq!(
                lease.expect("one is left").server().address,
                all[0].server.address
            );
        }
        let both = [tried[0], all[0].server.address];
        assert!(
            balancer
                .pick(&Wanted {
                    tried: &both,
                    ..wanted("x")
                })
                .is_none(),
            "{kind:?}"
        );
    }
}
