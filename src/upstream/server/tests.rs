use super::*;

fn member(max_sessions: Option<usize>) -> Member {
    Member {
        server: Arc::new(Server::new(([127, 0, 0, 1], 9080).into())),
        weight: 1,
        max_sessions,
        backup: false,
        slow_start: Duration::ZERO,
        checked: true,
        start: Start::Up,
        ejectable: true,
    }
}

#[test]
fn a_full_server_leases_no_session_but_still_a_request() {
    let member = member(Some(1));
    let session = member.lease(Load::Session);
    assert!(session.is_some());
    assert!(member.lease(Load::Session).is_none());
    assert!(member.lease(Load::Request).is_some());
    drop(session);
    assert!(member.lease(Load::Session).is_some());
}

#[test]
fn a_lease_counts_until_it_is_dropped() {
    let member = member(None);
    let session = member.lease(Load::Session).unwrap();
    let request = member.lease(Load::Request).unwrap();
    assert_eq!((member.server.load(), member.server.sessions()), (2, 1));
    drop((session, request));
    assert_eq!((member.server.load(), member.server.sessions()), (0, 0));
}

#[test]
fn a_choice_made_on_an_old_load_is_refused_and_leaves_no_trace() {
    let member = member(None);
    let _other = member.lease(Load::Session).unwrap();
    assert!(member.lease_if_load_is(0, Load::Session).is_none());
    assert_eq!((member.server.load(), member.server.sessions()), (1, 1));
    assert!(member.lease_if_load_is(1, Load::Session).is_some());
}

#[test]
fn what_a_server_is_in_the_middle_of_goes_on_elsewhere() {
    let rule = config::Eject {
        failures: 1,
        within: Duration::from_secs(1),
        duration: Duration::from_secs(3600),
    };
    let (old, mut new) = (member(None), member(None));
    new.slow_start = Duration::from_secs(100);
    assert_eq!(old.server.state(), ServerState::default());
    new.server.resume(ServerState {
        starting_since: Some(Duration::from_secs(50)),
        keeps_own_for: None,
        ejected_for: None,
    });
    assert_eq!(new.weight_now(), 50);
    old.server.record_failure(&rule);
    let state = old.server.state();
    assert!(state.ejected_for > Some(Duration::from_secs(3590)));
    assert_eq!(state.starting_since, None);
    new.server.resume(state);
    assert!(new.server.is_ejected());
    // It warms up when it is back, not now.
    assert_eq!(new.weight_now(), 10);
}

#[test]
fn a_server_that_starts_slowly_has_a_tenth_of_its_weight_at_first() {
    let mut member = member(None);
    member.slow_start = Duration::from_secs(3600);
    assert_eq!(member.weight_now(), 100);
    member.server.start_slowly();
    assert_eq!(member.weight_now(), 10);
}
