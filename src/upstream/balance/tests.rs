use std::collections::HashMap;
use std::time::Duration;

use super::*;
use crate::forward::template::Template;
use crate::upstream::server::Server;

fn address(index: usize) -> SocketAddr {
    let [.., high, low] = (index + 1).to_be_bytes();
    ([10, 0, high, low], 9080).into()
}

pub fn members(weights: &[u32]) -> Vec<Arc<Member>> {
    let member = |(index, weight): (usize, &u32)| {
        Arc::new(Member {
            server: Arc::new(Server::new(address(index))),
            weight: *weight,
            max_sessions: None,
            backup: false,
            slow_start: Duration::ZERO,
            checked: true,
            start: config::Start::Up,
            ejectable: true,
        })
    };
    weights.iter().enumerate().map(member).collect()
}

fn new(balance: &config::Balance, members: &[Arc<Member>]) -> Balancer {
    Balancer::new(balance, members.to_vec(), &Arc::default())
}

pub fn consistent_hash(load_bound: Option<f64>) -> config::Balance {
    let key = Template::parse("$arg_userId").expect("a known variable");
    config::Balance::ConsistentHash { key, load_bound }
}

pub fn check() -> config::HealthCheck {
    config::HealthCheck {
        kind: config::HealthCheckKind::Tcp,
        port: None,
        start: config::Start::Up,
        interval: Duration::from_secs(1),
        timeout: Duration::from_secs(1),
        rise: 1,
        fall: 1,
    }
}

pub fn wanted(key: &str) -> Wanted<'_> {
    Wanted {
        load: Load::Session,
        key: key.as_bytes(),
        tried: &[],
        ejected: Ejected::Avoid { now: 0 },
        paced: false,
    }
}

/// Which server each of many keys goes to. Nothing is kept: the load stays zero.
fn placement(members: &[Arc<Member>]) -> HashMap<String, SocketAddr> {
    let balancer = new(&consistent_hash(None), members);
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
    let all = members(&[1, 1, 1]);
    let balancer = new(&consistent_hash(None), &all);
    let home = |key: &str| {
        balancer
            .pick(&wanted(key))
            .map(|lease| lease.server().clone())
    };
    let first = home("alice").expect("a server is there");
    first.observe_check(false, &check());
    let second = home("alice").expect("two servers are left");
    assert_ne!(first.address, second.address);
    first.observe_check(true, &check());
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
    let balancer = new(&consistent_hash(None), &members(&[1, 1]));
    let picked: Vec<_> = (0..4)
        .filter_map(|_| balancer.pick(&wanted("")))
        .map(|l| l.server().address)
        .collect();
    assert_eq!(picked[0], picked[2]);
    assert_ne!(picked[0], picked[1]);
}

/// Keys that belong to the first of these servers.
fn keys_of_the_first(members: &[Arc<Member>]) -> impl Iterator<Item = String> {
    let first = members[0].server.address;
    let balancer = new(&consistent_hash(None), members);
    let keys = (0..).map(|n| format!("user-{n}"));
    keys.filter(move |key| {
        let lease = balancer.pick(&wanted(key)).expect("a server is there");
        lease.server().address == first
    })
}

/// How many of 100 sessions each of four servers has, whose keys all belong to the first one.
fn bounded_loads(prepare: fn(&mut Vec<Arc<Member>>)) -> Vec<usize> {
    let mut all = members(&[1, 1, 1, 1]);
    prepare(&mut all);
    let balancer = new(&consistent_hash(Some(1.25)), &all);
    let leases: Vec<_> = keys_of_the_first(&members(&[1, 1, 1, 1]))
        .take(100)
        .filter_map(|key| balancer.pick(&wanted(&key)))
        .collect();
    assert_eq!(leases.len(), 100);
    all.iter().map(|member| member.server.load()).collect()
}

#[test]
fn a_load_bound_sends_what_is_too_much_for_a_server_elsewhere() {
    let loads = bounded_loads(|_| {});
    assert_eq!(loads[0], 32, "{loads:?}, of 100 at most 1.25 * 25");
    assert!(loads.iter().all(|load| *load <= 32), "{loads:?}");
}

#[test]
fn a_load_bound_counts_only_servers_that_can_be_used() {
    let down = bounded_loads(|all| {
        for member in &all[2..] {
            member.server.observe_check(false, &check());
        }
    });
    assert_eq!(down, [63, 37, 0, 0], "two share 100 within 1.25 * 50");
    let drained = bounded_loads(|all| all[2..].iter().for_each(|m| m.server.set_drained(true)));
    assert_eq!(drained, [63, 37, 0, 0]);
    // Full ones take none of the rest.
    let full = bounded_loads(|all| {
        for member in &mut all[2..] {
            Arc::get_mut(member)
                .expect("nobody else has it")
                .max_sessions = Some(1);
        }
    });
    assert_eq!(full[2..], [1, 1]);
    assert!((60..=63).contains(&full[0]), "{full:?}");
    // Sessions that a server which is down still has are no load to measure others by.
    let crowd_is_down = bounded_loads(|all| {
        let crowd: Vec<_> = (0..1000).map(|_| all[3].lease(Load::Session)).collect();
        std::mem::forget(crowd);
        all[3].server.observe_check(false, &check());
    });
    assert_eq!(
        crowd_is_down[0], 42,
        "{crowd_is_down:?}, of 100 at most 1.25 * 33.3"
    );
}

#[test]
fn a_key_in_use_stays_on_its_server_whatever_the_bound_says() {
    let all = members(&[1, 1, 1, 1]);
    let balancer = new(&consistent_hash(Some(1.25)), &all);
    let pick = |key: &str| balancer.pick(&wanted(key)).expect("a server is there");
    let room: Vec<_> = (0..100).map(|_| pick("room")).collect();
    let home = room[0].server().address;
    assert!(room.iter().all(|lease| lease.server().address == home));
    // Other keys do not come to where it is.
    for n in 0..50 {
        assert_ne!(pick(&format!("user-{n}")).server().address, home);
    }
    // Between two polls nothing of the key lives. Then a crowd comes to its server.
    let polled = pick("poller").server().address;
    let at = all.iter().find(|member| member.server.address == polled);
    let at = at.expect("one of the four");
    let _crowd: Vec<_> = (0..1000).filter_map(|_| at.lease(Load::Session)).collect();
    for _ in 0..10 {
        assert_eq!(pick("poller").server().address, polled);
    }
}

#[test]
fn where_a_key_went_because_of_the_bound_it_stays_too() {
    let all = members(&[1, 1, 1, 1]);
    let balancer = new(&consistent_hash(Some(1.25)), &all);
    let key = keys_of_the_first(&all)
        .next()
        .expect("there is no end of them");
    let pick = || balancer.pick(&wanted(&key)).expect("a server is there");
    let crowd: Vec<_> = (0..1000)
        .filter_map(|_| all[0].lease(Load::Session))
        .collect();
    let refuge = pick().server().address;
    assert_ne!(refuge, all[0].server.address);
    drop(crowd);
    assert_eq!(pick().server().address, refuge);
}

#[test]
fn a_key_in_use_leaves_only_a_server_that_cannot_be_used() {
    let mut all = members(&[1, 1, 1]);
    for member in &mut all {
        Arc::get_mut(member)
            .expect("nobody else has it")
            .max_sessions = Some(2);
    }
    let balancer = new(&consistent_hash(Some(1.25)), &all);
    let session = || balancer.pick(&wanted("room")).expect("a server has room");
    let request = |tried: &[SocketAddr]| {
        let wanted = Wanted {
            load: Load::Request,
            tried,
            ..wanted("room")
        };
        let lease = balancer.pick(&wanted).expect("requests are not limited");
        lease.server().clone()
    };
    let sessions = [session(), session()];
    let home = sessions[0].server().clone();
    assert_eq!(sessions[1].server().address, home.address);
    // Full, or tried in vain: this session and this request go elsewhere, the key does not.
    assert_ne!(session().server().address, home.address);
    assert_ne!(request(&[home.address]).address, home.address);
    assert_eq!(request(&[]).address, home.address);
    home.observe_check(false, &check());
    let refuge = request(&[]);
    assert_ne!(refuge.address, home.address);
    home.observe_check(true, &check());
    assert_eq!(request(&[]).address, refuge.address, "it is used there now");
}

#[test]
fn of_many_threads_that_open_a_room_none_goes_elsewhere() {
    let all = members(&[1; 8]);
    let balancer = new(&consistent_hash(Some(1.25)), &all);
    for room in 0..50 {
        let room = format!("room-{room}");
        let start = std::sync::Barrier::new(4);
        let leases: Vec<_> = std::thread::scope(|scope| {
            let enter = || {
                start.wait();
                let enter = |_| balancer.pick(&wanted(&room)).expect("a server is there");
                (0..5).map(enter).collect::<Vec<_>>()
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(enter)).collect();
            let leases = threads
                .into_iter()
                .map(|thread| thread.join().expect("no panic"));
            leases.flatten().collect()
        });
        let home = leases[0].server().address;
        assert!(
            leases.iter().all(|lease| lease.server().address == home),
            "{room}"
        );
    }
}

#[test]
fn least_sessions_fills_servers_by_their_weight() {
    let all = members(&[1, 3]);
    let balancer = new(&config::Balance::LeastSessions, &all);
    let leases: Vec<_> = (0..40).filter_map(|_| balancer.pick(&wanted(""))).collect();
    assert_eq!(leases.len(), 40);
    assert_eq!((all[0].server.load(), all[1].server.load()), (10, 30));
}

#[test]
fn least_sessions_counts_right_when_many_threads_pick_at_once() {
    let all = members(&[1; 8]);
    let balancer = new(&config::Balance::LeastSessions, &all);
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
    let balancer = new(&config::Balance::TwoChoices, &all);
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
        let balancer = new(&kind, &all);
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
