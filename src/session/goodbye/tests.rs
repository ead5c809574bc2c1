//! Single courses by name, and all states that can be reached.

mod courses;

use std::collections::HashSet;

use super::*;

const CODE: u16 = 1001;

const PASS: Next = Next::Pass(Limit::All);
const FRAME: Next = Next::Pass(Limit::Frame);
const SAY: Next = Next::Say(CODE);

/// It is there, and still talks.
const OPEN: Side = Side {
    says: Says::Frames,
    has_ended: false,
    takes: Takes::More,
    has_got_all: true,
};

const CLOSED: Side = Side {
    says: Says::Closed,
    ..OPEN
};

const ENDED: Side = Side {
    has_ended: true,
    ..OPEN
};

/// How long a credential is good yet.
const GOOD_FOR: Duration = Duration::from_millis(400);

const OCCASIONS: [Occasion; 7] = [
    Occasion::Asked,
    Occasion::Expired(GOOD_FOR),
    Occasion::Expired(Duration::ZERO),
    Occasion::FramingBroke(Direction::ToServer),
    Occasion::FramingBroke(Direction::ToClient),
    Occasion::GivenUp(Direction::ToServer),
    Occasion::GivenUp(Direction::ToClient),
];

fn begun(occasion: Occasion) -> Goodbye {
    Goodbye::begin(CODE, occasion, OPEN, OPEN).0
}

#[test]
fn a_client_is_told_at_the_next_boundary_and_its_answer_tells_the_server() {
    let (mut goodbye, wait) = Goodbye::begin(CODE, Occasion::Asked, OPEN, OPEN);
    assert_eq!(wait, CLOSE_WAIT);
    assert_eq!(goodbye.next(Direction::ToClient, Position::InFrame), FRAME);
    assert_eq!(goodbye.next(Direction::ToClient, Position::Boundary), SAY);
    let after = goodbye.next(Direction::ToClient, Position::Boundary);
    assert_eq!(after, Next::Discard);
    for position in [Position::Boundary, Position::InFrame] {
        assert_eq!(goodbye.next(Direction::ToServer, position), PASS);
    }
    assert!(!goodbye.is_over(OPEN, OPEN));
    assert!(!goodbye.is_over(CLOSED, OPEN));
    assert!(goodbye.is_over(CLOSED, CLOSED));
}

#[test]
fn a_server_is_told_by_us_when_its_client_does_not_answer_in_time() {
    let mut goodbye = begun(Occasion::Asked);
    assert_eq!(goodbye.next(Direction::ToClient, Position::Boundary), SAY);
    assert_eq!(goodbye.time_is_up(), TimeUp::Again(LAST_WAIT));
    assert_eq!(goodbye.next(Direction::ToServer, Position::InFrame), FRAME);
    assert_eq!(goodbye.next(Direction::ToServer, Position::Boundary), SAY);
    assert_eq!(goodbye.time_is_up(), TimeUp::Cut);
}

#[test]
fn a_client_that_has_ended_is_not_waited_for() {
    for begins_so in [true, false] {
        let client = if begins_so { ENDED } else { OPEN };
        let (mut goodbye, _) = Goodbye::begin(CODE, Occasion::Asked, client, OPEN);
        if !begins_so {
            goodbye.ended(Direction::ToServer);
        }
        assert_eq!(goodbye.next(Direction::ToServer, Position::Boundary), SAY);
        assert_eq!(goodbye.time_is_up(), TimeUp::Cut);
    }
}

#[test]
fn nothing_of_a_client_passes_when_its_credential_has_ended() {
    let (mut goodbye, wait) = Goodbye::begin(CODE, Occasion::Expired(GOOD_FOR), OPEN, OPEN);
    assert_eq!(wait, GOOD_FOR);
    assert_eq!(goodbye.next(Direction::ToClient, Position::Boundary), SAY);
    // Its answer may still come.
    for position in [Position::Boundary, Position::InFrame] {
        assert_eq!(goodbye.next(Direction::ToServer, position), PASS);
    }
    assert_eq!(goodbye.time_is_up(), TimeUp::Again(LAST_WAIT));
    let (late, wait) = Goodbye::begin(CODE, Occasion::Expired(Duration::ZERO), OPEN, OPEN);
    assert_eq!(wait, LAST_WAIT);
    for mut goodbye in [goodbye, late] {
        let within = goodbye.next(Direction::ToServer, Position::InFrame);
        assert_eq!(within, Next::Discard);
        assert_eq!(goodbye.next(Direction::ToServer, Position::Boundary), SAY);
        assert_eq!(goodbye.time_is_up(), TimeUp::Cut);
    }
    // Nor is a goodbye of the two finished.
    let (mut goodbye, wait) = Goodbye::begin(CODE, Occasion::Expired(GOOD_FOR), OPEN, CLOSED);
    assert_eq!(wait, GOOD_FOR);
    assert_eq!(goodbye.time_is_up(), TimeUp::Cut);
}

#[test]
fn a_client_that_broke_the_framing_hears_its_server_out() {
    let broken = Occasion::FramingBroke(Direction::ToServer);
    let mut goodbye = begun(broken);
    assert_eq!(goodbye.next(Direction::ToServer, Position::Broken), SAY);
    assert_eq!(goodbye.next(Direction::ToClient, Position::Boundary), PASS);
    let client = Side {
        says: Says::Broken,
        ..OPEN
    };
    assert!(!goodbye.is_over(client, OPEN));
    assert!(goodbye.is_over(client, CLOSED));
    let steps: [fn(&mut Goodbye); 3] = [
        |goodbye| goodbye.ended(Direction::ToClient),
        |goodbye| goodbye.framing_broke(Direction::ToClient),
        |goodbye| assert_eq!(goodbye.time_is_up(), TimeUp::Again(LAST_WAIT)),
    ];
    for step in steps {
        let mut goodbye = begun(broken);
        step(&mut goodbye);
        assert_eq!(goodbye.next(Direction::ToClient, Position::Boundary), SAY);
    }
}

#[test]
fn two_that_say_goodbye_already_hear_no_word_of_ours() {
    for occasion in OCCASIONS {
        for (client, server) in [(CLOSED, OPEN), (OPEN, CLOSED)] {
            let (mut goodbye, _) = Goodbye::begin(CODE, occasion, client, server);
            while goodbye.time_is_up() != TimeUp::Cut {
                for direction in Direction::BOTH {
                    assert_eq!(goodbye.next(direction, Position::Boundary), PASS);
                }
            }
            assert!(!goodbye.is_over(client, server));
            assert!(goodbye.is_over(CLOSED, CLOSED));
        }
    }
}

#[test]
fn nothing_is_over_while_something_waits_for_a_side() {
    let waits = Side {
        has_got_all: false,
        ..CLOSED
    };
    let mut goodbye = begun(Occasion::Asked);
    assert_eq!(goodbye.next(Direction::ToClient, Position::Boundary), SAY);
    assert!(!goodbye.is_over(waits, CLOSED) && !have_parted(waits, CLOSED));
    assert!(!goodbye.is_over(CLOSED, waits) && !have_parted(CLOSED, waits));
}

#[test]
fn with_one_moment_the_server_is_told_in_it_or_by_its_client() {
    let begun = || Goodbye::begin_with_one_moment(CODE, OPEN, OPEN);
    let mut goodbye = begun();
    // Not before the client.
    assert_eq!(goodbye.tell_server_now(Position::Boundary), None);
    assert_eq!(goodbye.next(Direction::ToClient, Position::Boundary), SAY);
    assert_eq!(goodbye.tell_server_now(Position::InFrame), None);
    assert_eq!(goodbye.next(Direction::ToServer, Position::InFrame), PASS);
    assert_eq!(goodbye.tell_server_now(Position::Boundary), Some(CODE));
    let after = goodbye.next(Direction::ToServer, Position::Boundary);
    assert_eq!(after, Next::Discard);
    goodbye.server_took_nothing();
    assert_eq!(goodbye.next(Direction::ToServer, Position::Boundary), PASS);
    assert_eq!(goodbye.time_is_up(), TimeUp::Cut);
}

/// All that can be done to a goodbye, one after the other.
fn steps(from: Goodbye) -> Vec<Goodbye> {
    let positions = [Position::Boundary, Position::InFrame, Position::Broken];
    let mut steps = Vec::new();
    let mut step = |change: &dyn Fn(&mut Goodbye)| {
        let mut goodbye = from;
        change(&mut goodbye);
        steps.push(goodbye);
    };
    for direction in Direction::BOTH {
        step(&|goodbye| goodbye.ended(direction));
        step(&|goodbye| goodbye.framing_broke(direction));
        for position in positions {
            step(&|goodbye| {
                goodbye.next(direction, position);
            });
        }
    }
    step(&|goodbye| {
        goodbye.tell_server_now(Position::Boundary);
    });
    step(&|goodbye| {
        goodbye.time_is_up();
    });
    steps
}

#[test]
fn every_state_that_can_be_reached_has_its_exits() {
    let sides = [OPEN, CLOSED, ENDED];
    let mut unseen = Vec::new();
    for (client, server) in sides.iter().flat_map(|a| sides.map(|b| (*a, b))) {
        let begun = OCCASIONS.map(|occasion| Goodbye::begin(CODE, occasion, client, server).0);
        unseen.extend(begun);
        unseen.push(Goodbye::begin_with_one_moment(CODE, client, server));
    }
    let mut seen = HashSet::new();
    while let Some(goodbye) = unseen.pop() {
        if !seen.insert(goodbye) {
            continue;
        }
        unseen.extend(steps(goodbye));
        assert!(goodbye.is_over(ENDED, ENDED), "{goodbye:?}");
        assert!(goodbye.is_over(CLOSED, CLOSED), "{goodbye:?}");
        let mut later = goodbye;
        let waits = std::iter::from_fn(|| match later.time_is_up() {
            TimeUp::Again(wait) => Some(wait),
            TimeUp::Cut => None,
        });
        assert!(waits.take(3).sum::<Duration>() <= LAST_WAIT, "{goodbye:?}");
        for direction in Direction::BOTH {
            // Whoever was not told yet is told, once the time is up, at a boundary.
            let mut after = goodbye;
            if after.time_is_up() == TimeUp::Again(LAST_WAIT) && goodbye.words != Words::Theirs {
                let next = after.next(direction, Position::Boundary);
                assert!(matches!(next, Next::Say(_) | Next::Discard), "{after:?}");
            }
        }
    }
    assert!(seen.len() > 10, "{}", seen.len());
}
